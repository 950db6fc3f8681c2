//! The server as clients meet it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use jurat_disk::Host;
use jurat_key::tls;
use jurat_proof::{Cosignature, Digest, ForkProof, Note, Signature, Signer as _};
use jurat_witness::{
    Answer, Builder, Listening, Logs, Request, Running, Seen, ServeError, Transport, Witness,
    origin_hash, router, serve,
};

use crate::{Log, NAME, ORIGIN, honest, rewritten};

pub(crate) fn builder(dir: &Path, logs: Logs) -> Builder {
    Builder {
        host: Host::real(),
        dir: dir.to_path_buf(),
        name: Some(NAME.into()),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        transport: Transport::PlainOnLoopback,
        logs,
        logs_file: None,
    }
}

pub(crate) fn http() -> reqwest::Client {
    let made = tls::generate(&["localhost".into()]).unwrap();
    let tls = tls::client(Some(made.ca.as_bytes())).unwrap();
    let client = reqwest::Client::builder().tls_backend_preconfigured(tls);
    client.build().unwrap()
}

struct Said {
    status: u16,
    content_type: String,
    text: String,
}

async fn said(answer: reqwest::Response) -> Said {
    Said {
        status: answer.status().as_u16(),
        content_type: answer
            .headers()
            .get("content-type")
            .map_or_else(String::new, |found| found.to_str().unwrap().to_owned()),
        text: answer.text().await.unwrap(),
    }
}

async fn post(running: &Running, body: impl Into<reqwest::Body>) -> Said {
    let url = format!("http://{}/add-checkpoint", running.address);
    said(http().post(url).body(body).send().await.unwrap()).await
}

async fn read(running: &Running, path: &str) -> Said {
    let url = format!("http://{}{path}", running.address);
    said(http().get(url).send().await.unwrap()).await
}

#[tokio::test]
async fn many_lines_of_a_known_key_cost_no_verification_and_those_of_strangers_are_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let log = honest();
    let running = builder(dir.path(), log.logs()).start().await.unwrap();
    let mut note = log.note(12);
    // As large as those of ML-DSA-44, by keys that are not known here.
    note.signatures.extend((1..15).map(|number| Signature {
        name: format!("cosigner-{number}.example/with-a-name-of-its-own"),
        key_id: [number; 4],
        bytes: vec![number; 2420 + 8],
    }));
    let strange = note.signatures[14].clone();
    note.signatures.push(strange);
    let body = |note: &Note| Request::encode(0, &[], note);
    let mut twice = note.clone();
    let mut again = twice.signatures[0].clone();
    // Of the log's key, and it would not verify.
    again.bytes[5] ^= 1;
    twice.signatures.push(again);
    let refused = post(&running, body(&twice)).await;
    assert_eq!(refused.status, 400, "{}", refused.text);
    assert!(refused.text.contains("two signature lines of one key"));
    let taken = post(&running, body(&note)).await;
    assert_eq!(taken.status, 200, "{}", taken.text);
    running.stop().await.unwrap();
}

struct Busy;

impl Witness for Busy {
    async fn add_checkpoint(self: Arc<Self>, _: axum::body::Bytes) -> Answer {
        Answer::Unavailable
    }

    fn seen(&self, _: &Digest) -> Option<Arc<Seen>> {
        None
    }
}

#[tokio::test]
async fn who_comes_when_too_much_is_under_way_is_told_when_to_come_back() {
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/add-checkpoint", socket.local_addr().unwrap());
    let listening = Listening { socket, tls: None };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let stopped = async { stopped.await.map_err(|_| ()) };
    let serving = tokio::spawn(serve(listening, router(Arc::new(Busy)), stopped));
    let answer = http().post(url).body("x").send().await.unwrap();
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    stop.send(()).unwrap();
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn every_answer_is_the_one_that_the_specification_names() {
    let dir = tempfile::tempdir().unwrap();
    let log = honest();
    let running = builder(dir.path(), log.logs()).start().await.unwrap();
    let path = format!("/{}/checkpoint", origin_hash(ORIGIN));
    assert_eq!(read(&running, &path).await.status, 404);
    let cosigned = post(&running, log.request(0, 12)).await;
    assert_eq!(cosigned.status, 200);
    let whole = format!("{}\n{}", log.note(12).text, cosigned.text);
    let whole = Note::parse(whole.as_bytes()).unwrap();
    assert!(
        Cosignature::find(&whole, running.verifier_key())
            .unwrap()
            .is_some()
    );
    // Monitors read what was cosigned, with both signatures.
    let monitored = read(&running, &path).await;
    assert_eq!(monitored.status, 200);
    let note = Note::parse(monitored.text.as_bytes()).unwrap();
    assert_eq!(note.is_signed_by(log.key().verifier_key()), Ok(true));
    assert!(
        Cosignature::find(&note, running.verifier_key())
            .unwrap()
            .is_some()
    );

    let conflict = post(&running, log.request(5, 20)).await;
    assert_eq!(
        (
            conflict.status,
            conflict.content_type.as_str(),
            conflict.text.as_str()
        ),
        (409, "text/x.tlog.size", "12\n")
    );
    let stranger = Log::new("example.org/unknown", 8, 100);
    let unsigned = Request::encode(12, &[], &{
        let mut note = log.note(12);
        note.signatures = stranger.note(8).signatures;
        note
    });
    let good = log.request(12, 20);
    for (body, status) in [
        (stranger.request(0, 8), 404),
        (unsigned, 403),
        (log.request(20, 20).replace("old 20", "old 21"), 400),
        (good.replace("old 12", "old 012"), 400),
        (good.replace("old 12", "old -1"), 400),
        (good.replace("old 12", "old 12 "), 400),
        (good.replace("old 12", "new 12"), 400),
        (good.replace("old 12", "old 99999999999999999999"), 400),
        (good.replace('\n', "\r\n"), 400),
        (good.replacen("=\n", "\n", 1), 400),
        (good.trim_end().to_owned(), 400),
        (good.replacen("\n\n", "\n", 1), 400),
        (
            format!(
                "old 12\n{}\n{}",
                "A".repeat(43) + "=\n",
                log.note(20).encode()
            ),
            422,
        ),
        (
            format!(
                "old 12\n{}\n{}",
                format!("{}=\n", "A".repeat(43)).repeat(63),
                log.note(20).encode()
            ),
            422,
        ),
        (
            format!(
                "old 12\n{}\n{}",
                format!("{}=\n", "A".repeat(43)).repeat(64),
                log.note(20).encode()
            ),
            400,
        ),
        (String::new(), 400),
        ("x".repeat(70_000), 413),
    ] {
        let said = post(&running, body.clone()).await;
        assert_eq!(said.status, status, "{}\n{body:.300}", said.text);
    }
    assert_eq!(read(&running, "/add-checkpoint").await.status, 405);
    // A fork: 409 without a size, and the proof for everybody.
    let fork = post(&running, rewritten().request(12, 12)).await;
    assert_eq!(fork.status, 409);
    assert_ne!(fork.content_type, "text/x.tlog.size");
    assert_eq!(post(&running, log.request(12, 20)).await.status, 409);
    assert_eq!(running.forked(), [ORIGIN]);
    let proof = read(&running, &format!("/{}/fork-proof", origin_hash(ORIGIN))).await;
    assert_eq!(proof.status, 200);
    let proof = ForkProof::parse(proof.text.as_bytes()).unwrap();
    assert!(proof.check(&[log.key().verifier_key().clone()]).is_ok());
    // What was cosigned before stays to be read.
    assert_eq!(read(&running, &path).await.text, monitored.text);
    for path in ["/x/checkpoint", "/x/fork-proof", "/ABC/checkpoint"] {
        assert_eq!(read(&running, path).await.status, 404);
    }
    running.stop().await.unwrap();
}

#[tokio::test]
async fn extension_lines_of_foreign_logs_are_cosigned_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let log = honest();
    let running = builder(dir.path(), log.logs()).start().await.unwrap();
    let mut note = log.note(5);
    note.text.push_str("timestamp 17\nmore\n");
    note.signatures[0] = log.key().sign_note(&note.text).unwrap();
    let cosigned = post(&running, Request::encode(0, &[], &note)).await;
    assert_eq!(cosigned.status, 200, "{}", cosigned.text);
    let whole = format!("{}\n{}", note.text, cosigned.text);
    let whole = Note::parse(whole.as_bytes()).unwrap();
    assert!(
        Cosignature::find(&whole, running.verifier_key())
            .unwrap()
            .is_some()
    );
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_changed_file_of_logs_is_taken_over_and_a_broken_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("logs");
    let (log, second) = (honest(), Log::new("example.org/second", 8, 100));
    let line = |log: &Log| format!("log {}\n", log.key().verifier_key());
    std::fs::write(&file, format!("# ours\n\n{}", line(&log))).unwrap();
    let start = || {
        let mut builder = builder(&dir.path().join("w"), Logs::default());
        builder.logs_file = Some(file.clone());
        builder.start()
    };
    let running = start().await.unwrap();
    assert_eq!(post(&running, log.request(0, 5)).await.status, 200);
    assert_eq!(post(&running, second.request(0, 5)).await.status, 404);
    std::fs::write(&file, "log nonsense\n").unwrap();
    std::fs::write(&file, line(&log) + &line(&second)).unwrap();
    while running.logs() < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(post(&running, second.request(0, 5)).await.status, 200);
    running.stop().await.unwrap();
    std::fs::write(&file, "log nonsense\n").unwrap();
    let refused = start().await.err();
    assert!(
        matches!(refused, Some(ServeError::Logs { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn plain_http_to_the_world_must_be_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let everywhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let start = |transport| {
        let mut builder = builder(dir.path(), Logs::default());
        builder.listen = everywhere;
        builder.transport = transport;
        builder.start()
    };
    let refused = start(Transport::PlainOnLoopback).await.err();
    assert!(matches!(refused, Some(ServeError::Plain(_))), "{refused:?}");
    let running = start(Transport::PlainBehindProxy).await.unwrap();
    running.stop().await.unwrap();
}
