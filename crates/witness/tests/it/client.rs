//! Submitting a checkpoint: to witnesses that know more, that know less, that say nothing, that lie.

use std::sync::Arc;
use std::time::Duration;

use jurat_proof::{Policy, Signer as _};
use jurat_witness::{Prover, SubmitError, Submitter, gather};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::http::builder;
use crate::{Log, honest, rewritten};

fn submitters(policy: &str, limit: Duration) -> Vec<Submitter> {
    let policy = Policy::parse(policy.as_bytes()).unwrap();
    let made = policy
        .witnesses
        .iter()
        .map(|witness| Submitter::new(witness, limit, Some(CA.as_bytes())).unwrap());
    made.collect()
}

/// A certificate to believe in: these tests speak plain HTTP.
static CA: std::sync::LazyLock<String> =
    std::sync::LazyLock::new(|| jurat_key::tls::generate(&["localhost".into()]).unwrap().ca);

fn prover(log: &Log) -> Arc<dyn Prover> {
    Arc::new(log.clone())
}

/// A witness that answers everything with these bytes; nothing at all when there are none.
async fn scripted(answer: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut silent = Vec::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            if answer.is_empty() {
                silent.push(socket);
                continue;
            }
            let mut request = vec![0; 8_192];
            let _ = socket.read(&mut request).await;
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    port
}

fn line(number: u8, url: &str) -> String {
    let key = jurat_key::Secret::from_bytes([100 + number; 32]);
    let key = jurat_key::SoftwareKey::cosigner(&key, &format!("w{number}.example")).unwrap();
    format!("witness w{number} {} {url}\n", key.verifier_key())
}

#[tokio::test]
async fn a_client_learns_from_the_witness_what_it_forgot_itself() {
    let dir = tempfile::tempdir().unwrap();
    let log = honest();
    let running = builder(dir.path(), log.logs()).start().await.unwrap();
    let policy = format!(
        "witness w {} http://{}/\nquorum w\n",
        running.verifier_key(),
        running.address
    );
    let limit = Duration::from_secs(10);
    let mut one = submitters(&policy, limit).remove(0);
    one.submit(&log.note(5), &log).await.unwrap();
    one.submit(&log.note(12), &log).await.unwrap();
    // Another client, which remembers nothing, and the first, which remembers too little.
    let mut two = submitters(&policy, limit).remove(0);
    two.submit(&log.note(20), &log).await.unwrap();
    let line = one.submit(&log.note(33), &log).await.unwrap();
    let mut note = log.note(33);
    note.signatures.push(line);
    let holding = Policy::parse(policy.as_bytes()).unwrap().holds(&note);
    assert!(holding.unwrap().quorum);
    let behind = two.submit(&log.note(30), &log).await;
    assert!(matches!(behind, Err(SubmitError::Ahead(33))), "{behind:?}");
    // Who contradicts itself is told so, and not sent round in a circle.
    let forked = two.submit(&rewritten().note(33), &rewritten()).await;
    let status = match forked {
        Err(SubmitError::Refused { status, .. }) => status,
        other => panic!("{other:?}"),
    };
    assert_eq!(status, 409);
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_silent_or_lying_witness_costs_the_others_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = honest();
    let running = builder(dir.path(), log.logs()).start().await.unwrap();
    let mut policy = format!(
        "witness good {} http://{}\n",
        running.verifier_key(),
        running.address
    );
    let answers = [
        "",
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\nnot a line\n\n",
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:9/\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 409 Conflict\r\ncontent-type: text/x.tlog.size\r\ncontent-length: 3\r\n\r\n07\n",
        "HTTP/1.1 409 Conflict\r\ncontent-type: text/x.tlog.size\r\ncontent-length: 2\r\nconnection: close\r\n\r\n3\n",
        "HTTP/1.1 409 Conflict\r\ncontent-type: text/x.tlog.size\r\ncontent-length: 3\r\n\r\n99\n",
        "garbage\r\n\r\n",
    ];
    for (number, answer) in answers.iter().enumerate() {
        let url = format!("http://127.0.0.1:{}", scripted(answer).await);
        policy += &line(number as u8, &url);
    }
    let mut submitters = submitters(&(policy + "quorum good\n"), Duration::from_millis(500));
    for size in [5, 12] {
        let outcomes = gather(&mut submitters, &log.note(size), &prover(&log)).await;
        assert_eq!(outcomes.len(), 1 + answers.len());
        for (name, outcome) in outcomes {
            assert_eq!(outcome.is_ok(), name == "good", "{name}: {outcome:?}");
        }
    }
    let no_url = Policy::parse(line(1, "").as_bytes().trim_ascii_end());
    assert!(no_url.is_err());
    let nowhere = Policy::parse(format!("{}quorum w1\n", line(1, "")).as_bytes()).unwrap();
    let nowhere = Submitter::new(&nowhere.witnesses[0], Duration::from_secs(1), None);
    assert!(matches!(nowhere, Err(SubmitError::Url(_))));
    running.stop().await.unwrap();
}
