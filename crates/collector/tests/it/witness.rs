//! The collector as a witness of others, and witnessed by others.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use jurat_disk::{FixedClock, Host};
use jurat_event::header;
use jurat_key::{Secret, SoftwareKey};
use jurat_proof::{
    Checkpoint, Cosignature, Digest, ForkProof, Note, Policy, Receipt, Signer as _, VerifierKey,
    root_of,
};
use jurat_sink::{CollectorError, check_accepted};
use jurat_testkit::foreign_witness::{ForeignWitness, program};
use jurat_witness::{Builder as WitnessBuilder, Logs, Request, Running, Transport, origin_hash};

use crate::{Bench, DEVICE, Log};

fn foreign_log() -> SoftwareKey {
    SoftwareKey::log(&Secret::from_bytes([9; 32]), "elsewhere.example/log").unwrap()
}

/// A head over this many leaves of a foreign log.
fn foreign_head(key: &SoftwareKey, leaves: &[Digest]) -> Note {
    let head = Checkpoint {
        origin: key.verifier_key().name.clone(),
        size: leaves.len() as u64,
        root: root_of(leaves),
    };
    head.sign(key).unwrap()
}

impl Bench {
    /// Shows the witness a head: status, content type, body.
    async fn show(&self, old: u64, proof: &[Digest], note: &Note) -> (u16, String, String) {
        let url = format!("{}/add-checkpoint", self.url);
        let body = Request::encode(old, proof, note);
        let answer = self.http.post(url).body(body).send().await.unwrap();
        let kind = answer.headers()["content-type"]
            .to_str()
            .unwrap()
            .to_owned();
        (answer.status().as_u16(), kind, answer.text().await.unwrap())
    }

    async fn read(&self, path: &str) -> (u16, String) {
        let url = format!("{}{path}", self.url);
        let answer = self.http.get(url).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    fn note(&self) -> Note {
        let note = self.log.note(&self.log.origin, &self.log.key);
        Note::parse(note.as_bytes()).unwrap()
    }
}

fn is_cosigned_by(text: &str, lines: &str, key: &str) -> bool {
    let note = Note::parse(format!("{text}\n{lines}").as_bytes()).unwrap();
    let key = VerifierKey::parse(key).unwrap();
    Cosignature::find(&note, &key).unwrap().is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_collectors_witness_serves_its_devices_and_named_strangers_and_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("foreign");
    let foreign = foreign_log();
    std::fs::write(&list, format!("log {}\n", foreign.verifier_key())).unwrap();
    let mut bench = Bench::start_with(Host::real(), |settings| {
        settings.foreign_logs = Some(list);
    })
    .await;
    let witness = bench.enrolled.witness.clone();
    let leaves = [Digest([1; 32]), Digest([2; 32]), Digest([3; 32])];
    let head = foreign_head(&foreign, &leaves);
    let (status, _, lines) = bench.show(0, &[], &head).await;
    assert_eq!(status, 200, "{lines}");
    assert!(is_cosigned_by(&head.text, &lines, &witness));
    let stranger = SoftwareKey::log(&Secret::from_bytes([8; 32]), "nobody.example/log").unwrap();
    let unknown = bench.show(0, &[], &foreign_head(&stranger, &leaves)).await;
    assert_eq!(unknown.0, 404);

    // A device's head before its leaves: witnessed now, archived later.
    let first = bench.log.batch(2, "a");
    let second = bench.log.batch(2, "b");
    let ahead = bench.note();
    let (status, _, lines) = bench.show(0, &[], &ahead).await;
    assert_eq!(status, 200, "{lines}");
    assert!(is_cosigned_by(&ahead.text, &lines, &witness));
    let (status, kind, size) = bench.show(0, &[], &ahead).await;
    assert_eq!(
        (status, kind.as_str(), size.as_str()),
        (409, "text/x.tlog.size", "6\n")
    );
    let accepted = bench.upload(&first).await.unwrap();
    assert_eq!((accepted.size, accepted.witnessed), (3, 6));
    let (archive, origin) = (
        bench.enrolled.archive.clone(),
        bench.enrolled.origin.clone(),
    );
    check_accepted(&accepted, &origin, &witness, &archive).unwrap();
    // The archive's cosignature is what lets the outbox go; without it nothing counts.
    let mut unarchived = accepted.clone();
    let mut note = Note::parse(unarchived.note.as_bytes()).unwrap();
    note.signatures
        .retain(|line| !line.name.ends_with("/archive"));
    unarchived.note = note.encode();
    assert!(check_accepted(&unarchived, &origin, &witness, &archive).is_err());
    let accepted = bench.upload(&second).await.unwrap();
    assert_eq!((accepted.size, accepted.witnessed), (6, 0));
    assert!(accepted.note.contains("/witness ") && accepted.note.contains("/archive "));
    let monitored = format!("/{}/checkpoint", origin_hash(&origin));
    assert_eq!(bench.read(&monitored).await, (200, accepted.note.clone()));

    // The device's key tells another story: kept, shown, and never cosigned again.
    let mut other = Log::new(&origin);
    other.batch(5, "z");
    bench.log = other;
    assert_eq!(bench.show(6, &[], &bench.note()).await.0, 409);
    assert_eq!(bench.show(6, &[], &ahead).await.0, 409);
    let (status, proof) = bench
        .read(&format!("/{}/fork-proof", origin_hash(&origin)))
        .await;
    assert_eq!(status, 200);
    let proof = ForkProof::parse(proof.as_bytes()).unwrap();
    assert!(proof.check(&[bench.log.key.verifier_key().clone()]).is_ok());
    assert_eq!(
        bench.running.with_archive(|archive| archive.stats().forks),
        1
    );
    // Others are not touched by it.
    assert_eq!(bench.show(3, &[], &head).await.0, 200);
    bench.running.stop().await.unwrap();
}

async fn witness(dir: &Path, name: &str, log: &str) -> Running {
    let mut logs = Logs::default();
    logs.add(VerifierKey::parse(log).unwrap()).unwrap();
    let builder = WitnessBuilder {
        host: Host::real(),
        dir: dir.join(name),
        name: Some(format!("{name}.example/w")),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        transport: Transport::PlainOnLoopback,
        logs,
        logs_file: None,
    };
    builder.start().await.unwrap()
}

/// Waits until the quorum cosigned a checkpoint of the own log of at least this size.
async fn until_witnessed(bench: &Bench, size: u64) -> Note {
    loop {
        let stats = bench.running.with_archive(jurat_collector::Archive::stats);
        if stats.own_witnessed >= size {
            let note = bench
                .running
                .with_archive(jurat_collector::Archive::own_cosigned);
            return Note::parse(note.unwrap().as_bytes()).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn outside_witnesses_cosign_the_own_log_and_a_dead_one_delays_nothing() {
    let mut bench = Bench::start().await;
    let own = bench.enrolled.log.clone();
    let dir = tempfile::tempdir().unwrap();
    let one = witness(dir.path(), "one", &own).await;
    let two = witness(dir.path(), "two", &own).await;
    let dead = SoftwareKey::cosigner(&Secret::from_bytes([3; 32]), "dead.example/w").unwrap();
    let mut policy = format!("log {own}\n");
    for (name, key, url) in [
        ("one", one.verifier_key(), format!("http://{}", one.address)),
        ("two", two.verifier_key(), format!("http://{}", two.address)),
        ("dead", dead.verifier_key(), "http://127.0.0.1:9".into()),
    ] {
        policy += &format!("witness {name} {key} {url}\n");
    }
    policy += "group two-of-three 2 one two dead\nquorum two-of-three\n";
    let file = dir.path().join("policy");
    std::fs::write(&file, &policy).unwrap();
    let policy = Policy::parse(policy.as_bytes()).unwrap();
    let ca = bench.dir.path().join("ca.pem");
    let with_policy = |settings: &mut jurat_collector::Settings| {
        settings.witness_policy = Some(file.clone());
        settings.witness_ca = Some(ca.clone());
    };
    bench = bench.restart_with(with_policy).await;
    let mut size = 0;
    // The enrolment first.
    until_witnessed(&bench, 1).await;
    for round in 0_u32..3 {
        let batch = bench.log.batch(2, "a");
        bench.upload(&batch).await.unwrap();
        let leaves = bench
            .running
            .with_archive(|archive| archive.stats().own_leaves);
        assert!(leaves > size);
        size = leaves;
        let note = until_witnessed(&bench, size).await;
        let holding = policy.holds(&note).unwrap();
        assert!(holding.signed && holding.quorum, "round {round}");
        assert_eq!(holding.cosigned.len(), 2);
        // Who reads the own log gets the cosignatures with it, and so do receipts.
        let path = format!("/logs/{}/checkpoint", origin_hash(&one_line(&note)));
        let (status, shown) = bench.read(&path).await;
        let shown = Note::parse(shown.as_bytes()).unwrap();
        assert!(status == 200 && shown.text == note.text);
        assert!(policy.holds(&shown).unwrap().quorum);
        let stats = bench.running.with_archive(jurat_collector::Archive::stats);
        let problems: Vec<&String> = stats.witness_problems.keys().collect();
        assert_eq!(problems, ["dead"]);
        if round == 1 {
            // A process that remembers nothing learns the sizes, and proves from there.
            bench = bench.restart_with(with_policy).await;
            let kept = bench
                .running
                .with_archive(jurat_collector::Archive::own_cosigned);
            let kept = Note::parse(kept.unwrap().as_bytes()).unwrap();
            assert!(kept.text == note.text && policy.holds(&kept).unwrap().quorum);
        }
    }
    let receipt = bench.receipt_of(bench.log.frontier.size()).await;
    assert!(policy.holds(&receipt.note).unwrap().quorum);
    let (host, folder) = (bench.host.clone(), bench.dir);
    bench.running.stop().await.unwrap();
    one.stop().await.unwrap();
    two.stop().await.unwrap();
    // A policy that cannot be used stops the start, and names itself.
    std::fs::write(&file, "quorum nobody\n").unwrap();
    let mut settings =
        jurat_collector::Settings::dev(&host, folder.path(), SocketAddr::from(([127, 0, 0, 1], 0)))
            .unwrap();
    with_policy(&mut settings);
    let refused = jurat_collector::Builder::new(settings).start().await;
    let refused = refused.err().unwrap().to_string();
    assert!(
        refused.contains("policy") && refused.contains("line 1"),
        "{refused}"
    );
}

fn one_line(note: &Note) -> String {
    note.text.lines().next().unwrap().to_owned()
}

impl Bench {
    async fn receipt_of(&self, size: u64) -> Receipt {
        let path = format!("/v1/receipt?size={size}");
        let nonce = "0123456789abcdef-receipt";
        let timestamp = self.host.clock.now().unix_s();
        let signature = jurat_proof::Request {
            method: "GET",
            path: &path,
            device: DEVICE,
            encoding: "",
            timestamp,
            nonce,
            body: b"",
        }
        .sign(&self.key());
        let answer = self
            .http
            .get(format!("{}{path}", self.url))
            .bearer_auth(&self.enrolled.token)
            .header(header::DEVICE, DEVICE)
            .header(header::TIMESTAMP, timestamp.to_string())
            .header(header::NONCE, nonce)
            .header(header::SIGNATURE, signature)
            .send()
            .await
            .unwrap();
        Receipt::parse(&answer.bytes().await.unwrap()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_s_first_head_waits_for_outside_witnesses_of_its_enrolment_but_not_for_ever() {
    let clock = std::sync::Arc::new(FixedClock::new(1_790_000_000));
    let host = Host {
        clock: clock.clone(),
        ..Host::real()
    };
    let mut bench = Bench::start_at(host).await;
    let own = bench.enrolled.log.clone();
    let dead = SoftwareKey::cosigner(&Secret::from_bytes([3; 32]), "dead.example/w").unwrap();
    let (dir, dead) = (tempfile::tempdir().unwrap(), dead.verifier_key().clone());
    let file = dir.path().join("policy");
    let policy = format!("log {own}\nwitness dead {dead} http://127.0.0.1:9\nquorum dead\n");
    std::fs::write(&file, policy).unwrap();
    bench = bench
        .restart_with(|settings| settings.witness_policy = Some(file.clone()))
        .await;
    let first = bench.log.batch(2, "a");
    let refused = bench.upload(&first).await;
    assert!(
        matches!(refused, Err(CollectorError::Busy { status: 429, .. })),
        "{refused:?}"
    );
    let stats = bench.running.with_archive(jurat_collector::Archive::stats);
    assert_eq!(stats.refused.get("enrolment_unwitnessed"), Some(&1));
    clock.advance_s(601);
    assert_eq!(bench.upload(&first).await.unwrap().size, 3);
    let second = bench.log.batch(2, "b");
    assert_eq!(bench.upload(&second).await.unwrap().size, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_witness_of_transparency_dev_cosigns_the_collectors_own_log() {
    let test = "the_witness_of_transparency_dev_cosigns_the_collectors_own_log";
    let Some(program) = program(test) else { return };
    let mut bench = Bench::start().await;
    let own = bench.enrolled.log.clone();
    let foreign = ForeignWitness::start(program, &own);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy");
    let text = format!(
        "log {own}\nwitness foreign {} {}\nquorum foreign\n",
        foreign.key, foreign.url
    );
    std::fs::write(&file, &text).unwrap();
    let policy = Policy::parse(text.as_bytes()).unwrap();
    let ca = bench.dir.path().join("ca.pem");
    let with_policy = |settings: &mut jurat_collector::Settings| {
        settings.witness_policy = Some(file.clone());
        settings.witness_ca = Some(ca.clone());
    };
    bench = bench.restart_with(with_policy).await;
    until_witnessed(&bench, 1).await;
    for _ in 0..3 {
        let batch = bench.log.batch(2, "a");
        bench.upload(&batch).await.unwrap();
        let size = bench
            .running
            .with_archive(|archive| archive.stats().own_leaves);
        let note = until_witnessed(&bench, size).await;
        assert!(policy.holds(&note).unwrap().quorum);
        // Two signatures, judged by Go.
        let args = ["open", own.as_str(), foreign.key.as_str()];
        let opened = jurat_testkit::foreign_witness::ask(program, &args, &note.encode());
        assert_eq!(
            opened,
            format!("verified {}\n", note.text.lines().nth(1).unwrap())
        );
    }
    bench.running.stop().await.unwrap();
}
