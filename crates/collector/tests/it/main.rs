//! The collector over real TLS: what it accepts, and everything that it refuses without storing.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod erase;
mod keylife;
mod mtls;
mod tiles;
mod withheld;
mod witness;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jurat_collector::{Archive, Builder, Running, Settings, export};
use jurat_disk::Host;
use jurat_event::header;
use jurat_key::tls::DeviceCertificate;
use jurat_key::{HeldKey, P256Key, Secret, SoftwareKey, tls};
use jurat_proof::{
    Chain, Checkpoint, Frontier, Record, Request, Selection, Signer as _, Trust, Verdict, Withhold,
    WitnessAxis, leaf_hash, sha256, verify, write_record,
};
use jurat_sink::{
    Accepted, Collector, CollectorError, Enrolled, Enrolment, Identity, Refusal, SetUp,
};
use serde_json::{Value, json};

const DEVICE: &str = "11111111-2222-4333-8444-555555555555";

/// A device's log in memory.
struct Log {
    origin: String,
    key: SoftwareKey,
    frontier: Frontier,
    chain: Chain,
    in_batch: u64,
}

impl Log {
    fn new(origin: &str) -> Self {
        let key = SoftwareKey::log(&Secret::from_bytes([5; 32]), origin).unwrap();
        Self {
            origin: origin.into(),
            key,
            frontier: Frontier::default(),
            chain: Chain::new(origin),
            in_batch: 0,
        }
    }

    fn entry(&mut self, raw: &mut Vec<u8>, fields: Value) {
        let mut entry =
            json!({"salt":"c2FsdHNhbHRzYWx0c2FsdA","boot":"b","time":"t","kind":"other"});
        entry["seq"] = self.frontier.size().into();
        if self.frontier.size() == 0 {
            entry["kind"] = "log.opened".into();
            entry["detail"] = json!({ "origin": self.origin });
        }
        for (name, value) in fields.as_object().unwrap() {
            entry[name] = value.clone();
        }
        let bytes = format!("{{\"v\":1,{}", &entry.to_string()[1..]).into_bytes();
        write_record(raw, &Record::Entry(&bytes));
        let leaf = leaf_hash(&bytes);
        self.frontier.push(leaf);
        self.chain.push(&leaf);
        self.in_batch += 1;
    }

    /// `count` entries, the end of a batch, a checkpoint.
    fn batch(&mut self, count: usize, text: &str) -> Vec<u8> {
        let mut raw = Vec::new();
        for _ in 0..count {
            self.entry(&mut raw, json!({ "object": text }));
        }
        let detail =
            json!({ "count": self.in_batch, "chain": self.chain.0.to_string(), "filtered": {} });
        self.entry(
            &mut raw,
            json!({ "kind": "batch.sealed", "detail": detail }),
        );
        self.in_batch = 0;
        write_record(
            &mut raw,
            &Record::Checkpoint(self.note(&self.origin, &self.key).as_bytes()),
        );
        raw
    }

    fn note(&self, origin: &str, key: &SoftwareKey) -> String {
        let checkpoint = Checkpoint {
            origin: origin.into(),
            size: self.frontier.size(),
            root: self.frontier.root(),
        };
        checkpoint.sign(key).unwrap().encode()
    }
}

fn compressed(raw: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(raw, 1).unwrap()
}

/// The key that a device opens connections with.
fn tls_key(device: &str) -> Arc<dyn HeldKey> {
    let seed = sha256(&[device.as_bytes()]).0;
    Arc::new(P256Key::new(&Secret::from_bytes(seed)).unwrap())
}

fn csr(device: &str) -> String {
    BASE64.encode(tls::request(&tls_key(device), device).unwrap())
}

fn enrolment(device: &str) -> Enrolment {
    let unnamed = SoftwareKey::log(&Secret::from_bytes([5; 32]), "unnamed").unwrap();
    Enrolment {
        device: device.into(),
        key: BASE64.encode(unnamed.public_key()),
        key_kind: "software".into(),
        csr: csr(device),
        ..Enrolment::default()
    }
}

async fn send(
    collector: &Collector,
    host: &Host,
    device: &str,
    enrolled: &Enrolled,
    body: Vec<u8>,
) -> Result<Accepted, CollectorError> {
    let key = Secret::from_base64(&enrolled.hmac_key).unwrap();
    let who = Identity {
        device,
        token: &enrolled.token,
        key: key.expose(),
    };
    collector.upload(host, &who, body).await
}

/// How this device opens connections.
fn shown(ca: &[u8], device: &str, enrolled: &Enrolled) -> rustls::ClientConfig {
    let pem = enrolled.certificate.as_ref().unwrap();
    let certificate = DeviceCertificate::parse(pem.as_bytes()).unwrap();
    tls::device(Some(ca), &[], Some((certificate, tls_key(device)))).unwrap()
}

struct Bench {
    dir: tempfile::TempDir,
    host: Host,
    running: Running,
    collector: Collector,
    http: reqwest::Client,
    url: String,
    enrolled: Enrolled,
    log: Log,
}

/// A request that can be spoilt in every part.
struct Raw<'a> {
    token: &'a str,
    key: [u8; 32],
    timestamp: u64,
    nonce: &'a str,
    body: Vec<u8>,
    encoding: &'a str,
}

impl Bench {
    async fn start() -> Self {
        Self::start_with(Host::real(), |_| {}).await
    }

    async fn start_at(host: Host) -> Self {
        Self::start_with(host, |_| {}).await
    }

    async fn start_with(host: Host, change: impl FnOnce(&mut Settings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut settings =
            Settings::dev(&host, dir.path(), SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        change(&mut settings);
        let token = std::fs::read_to_string(&settings.token_file).unwrap();
        let running = Builder::new(settings)
            .host(host.clone())
            .start()
            .await
            .unwrap();
        let url = format!("https://localhost:{}", running.address.port());
        let ca = std::fs::read(dir.path().join("ca.pem")).unwrap();
        let tls = tls::client(Some(&ca)).unwrap();
        let set_up = SetUp {
            url: url.clone(),
            tls: tls.clone(),
            timeout: Duration::from_secs(10),
        };
        let collector = Collector::new(set_up).unwrap();
        let enrolment = enrolment(DEVICE);
        let wrong = collector
            .enroll("wrong", &enrolment, jurat_sink::no_tpm)
            .await;
        assert!(
            matches!(wrong, Err(CollectorError::Identity(_))),
            "{wrong:?}"
        );
        let enrolled = collector
            .enroll(token.trim(), &enrolment, jurat_sink::no_tpm)
            .await
            .unwrap();
        let log = Log::new(&enrolled.origin);
        let tls = shown(&ca, DEVICE, &enrolled);
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .build()
            .unwrap();
        let mut bench = Self {
            dir,
            host,
            running,
            collector,
            http,
            url,
            enrolled,
            log,
        };
        bench.collector = bench.client();
        bench
    }

    async fn enroll(&self, token: &str, device: &str) -> Result<Enrolled, CollectorError> {
        let enrolment = enrolment(device);
        self.collector
            .enroll(token.trim(), &enrolment, jurat_sink::no_tpm)
            .await
    }

    /// Another client, with a connection of its own.
    fn client(&self) -> Collector {
        self.client_of(DEVICE, &self.enrolled)
    }

    /// One of this device.
    fn client_of(&self, device: &str, enrolled: &Enrolled) -> Collector {
        self.client_with(shown(&self.ca(), device, enrolled))
    }

    fn client_with(&self, tls: rustls::ClientConfig) -> Collector {
        Collector::new(SetUp {
            url: self.url.clone(),
            tls,
            timeout: Duration::from_secs(10),
        })
        .unwrap()
    }

    fn ca(&self) -> Vec<u8> {
        std::fs::read(self.dir.path().join("ca.pem")).unwrap()
    }

    fn key(&self) -> [u8; 32] {
        *Secret::from_base64(&self.enrolled.hmac_key)
            .unwrap()
            .expose()
    }

    async fn upload(&self, raw: &[u8]) -> Result<Accepted, CollectorError> {
        let body = compressed(raw);
        send(&self.collector, &self.host, DEVICE, &self.enrolled, body).await
    }

    fn raw(&self, body: Vec<u8>) -> Raw<'_> {
        Raw {
            token: &self.enrolled.token,
            key: self.key(),
            timestamp: self.host.clock.now().unix_s(),
            nonce: "0123456789abcdef",
            body,
            encoding: "zstd",
        }
    }

    /// Sends a spoilt request; gives status and code.
    async fn send(&self, raw: Raw<'_>) -> (u16, String) {
        let request = Request {
            method: "POST",
            path: "/v1/batches",
            device: DEVICE,
            encoding: raw.encoding,
            timestamp: raw.timestamp,
            nonce: raw.nonce,
            body: &raw.body,
        };
        let signature = request.sign(&raw.key);
        let response = self
            .http
            .post(format!("{}/v1/batches", self.url))
            .bearer_auth(raw.token)
            .header(header::DEVICE, DEVICE)
            .header(header::TIMESTAMP, raw.timestamp.to_string())
            .header(header::NONCE, raw.nonce)
            .header(header::SIGNATURE, signature)
            .header("content-encoding", raw.encoding)
            .body(raw.body)
            .send()
            .await
            .unwrap();
        let status = response.status().as_u16();
        let refusal: Result<Refusal, _> = serde_json::from_str(&response.text().await.unwrap());
        (
            status,
            refusal.map(|refusal| refusal.code).unwrap_or_default(),
        )
    }

    async fn restart(self) -> Self {
        self.restart_with(|_| {}).await
    }

    async fn restart_with(self, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::dev(
            &self.host,
            self.dir.path(),
            SocketAddr::from(([127, 0, 0, 1], 0)),
        )
        .unwrap();
        change(&mut settings);
        self.running.stop().await.unwrap();
        let running = Builder::new(settings)
            .host(self.host.clone())
            .start()
            .await
            .unwrap();
        let url = format!("https://localhost:{}", running.address.port());
        let mut bench = Self {
            running,
            url,
            ..self
        };
        bench.collector = bench.client();
        bench
    }

    fn siem_lines(&self) -> usize {
        let path = self.dir.path().join("siem.jsonl");
        let lines = std::fs::read_to_string(path).unwrap();
        // Not those of the collector's own log.
        let own = "{\"device\":\"dev.invalid/jurat/collector/0\"";
        lines.lines().filter(|line| !line.starts_with(own)).count()
    }

    fn leaves(&self) -> u64 {
        self.running.with_archive(|archive| archive.stats().leaves)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_are_archived_cosigned_exported_and_survive_a_restart() {
    let mut bench = Bench::start().await;
    let first = bench.log.batch(3, "a");
    let accepted = bench.upload(&first).await.unwrap();
    assert_eq!(accepted.size, 4);
    let second = bench.log.batch(2, "b");
    let accepted = bench.upload(&second).await.unwrap();
    assert_eq!(accepted.size, 7);
    // The same again: the stored note, not a new statement.
    assert_eq!(
        bench
            .upload(&second)
            .await
            .err()
            .map(|error| error.to_string()),
        Some("the collector holds 7 leaves of this log".into())
    );

    let mut bundle = Vec::new();
    bench
        .running
        .with_archive(|archive| {
            export(
                archive,
                &bench.enrolled.origin,
                &Selection::All,
                &Withhold::default(),
                &mut bundle,
            )
        })
        .unwrap();
    let trust = format!(
        "log {}\nwitness w {}\narchive a {}\nquorum 1\n",
        bench.log.key.verifier_key(),
        bench.enrolled.witness,
        bench.enrolled.archive
    );
    let trust = Trust::parse(&trust).unwrap();
    let Verdict::Verified(report) = verify(bundle.as_slice(), Some(&trust), None, &mut |_| {})
    else {
        panic!()
    };
    assert!(report.axes.complete);
    assert_eq!(
        report.axes.witness,
        WitnessAxis {
            names: vec!["w".into()],
            same_host: vec![]
        }
    );
    assert_eq!(report.size, 7);

    // A restart: frontier, devices, nonces are as they were.
    let mut bench = bench.restart().await;
    let third = bench.log.batch(1, "c");
    assert_eq!(bench.upload(&third).await.unwrap().size, 9);
    assert_eq!(bench.leaves(), 9);
    // The SIEM's file is behind the archive, and there is a way to wait for it.
    bench.running.siem_caught_up().await.unwrap();
    let siem = std::fs::read_to_string(bench.dir.path().join("siem.jsonl")).unwrap();
    assert_eq!(siem.lines().count(), 9);
    bench.running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_send_at_once_are_all_archived_and_of_one_log_only_one_history() {
    let mut bench = Bench::start().await;
    let token = std::fs::read_to_string(bench.dir.path().join("enroll.token")).unwrap();
    let mut devices = Vec::new();
    for number in 0..12 {
        let device = format!("{number:08}-2222-4333-8444-555555555555");
        let enrolled = bench.enroll(&token, &device).await.unwrap();
        devices.push((device, Log::new(&enrolled.origin), enrolled));
    }
    // The log of the first device is copied: two send the same, one another history.
    let first = bench.log.batch(2, "a");
    let other = Log::new(&bench.enrolled.origin).batch(2, "b");
    let mut racing = tokio::task::JoinSet::new();
    for raw in [&first, &first, &other] {
        let (collector, host) = (bench.client(), bench.host.clone());
        let (enrolled, body) = (bench.enrolled.clone(), compressed(raw));
        racing.spawn(async move { send(&collector, &host, DEVICE, &enrolled, body).await });
    }
    let mut all = tokio::task::JoinSet::new();
    for (device, mut log, enrolled) in devices {
        let (collector, host) = (bench.client_of(&device, &enrolled), bench.host.clone());
        all.spawn(async move {
            for round in 1..=5 {
                let body = compressed(&log.batch(3, "x"));
                let accepted = send(&collector, &host, &device, &enrolled, body).await;
                assert_eq!(accepted.unwrap().size, round * 4);
            }
        });
    }
    let raced = racing.join_all().await;
    let accepted = raced.iter().filter(|done| done.is_ok()).count();
    assert_eq!(accepted, 1, "{raced:?}");
    for refused in raced.iter().filter_map(|done| done.as_ref().err()) {
        let expected = match refused {
            CollectorError::Conflict { size } => *size == 3,
            CollectorError::Refused { refusal, .. } => refusal.code == "fork",
            _ => false,
        };
        assert!(expected, "{raced:?}");
    }
    all.join_all().await;
    let stats = bench.running.with_archive(Archive::stats);
    assert_eq!(
        (stats.leaves, stats.logs, stats.forks),
        (12 * 20 + 3, 13, 1)
    );
    assert_eq!(stats.devices, 13);
    bench.running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enrolment_is_refused_by_its_token_before_its_body_counts() {
    let bench = Bench::start().await;
    let token = std::fs::read_to_string(bench.dir.path().join("enroll.token")).unwrap();
    for (token, status) in [("wrong", 401), (token.trim(), 413)] {
        let request = bench
            .http
            .post(format!("{}/v1/enroll", bench.url))
            .bearer_auth(token)
            .body(vec![b' '; 200_000]);
        assert_eq!(request.send().await.unwrap().status().as_u16(), status);
    }
    let again = bench.enroll(&token, DEVICE).await.unwrap_err();
    let taken =
        matches!(&again, CollectorError::Refused { refusal, .. } if refusal.code == "device_taken");
    assert!(taken, "{again:?}");
    bench.running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_refused_by_name_and_nothing_is_stored() {
    let mut bench = Bench::start().await;
    let good = bench.log.batch(3, "a");
    bench.upload(&good).await.unwrap();
    let before = bench.leaves();
    let next = bench.log.batch(2, "b");
    let body = compressed(&next);
    let now = bench.host.clock.now().unix_s();
    let check = |found: (u16, String), status: u16, code: &str| {
        assert_eq!(found, (status, code.to_owned()))
    };

    check(
        bench
            .send(Raw {
                token: "wrong",
                ..bench.raw(body.clone())
            })
            .await,
        401,
        "wrong_token",
    );
    check(
        bench
            .send(Raw {
                key: [9; 32],
                ..bench.raw(body.clone())
            })
            .await,
        401,
        "bad_hmac",
    );
    check(
        bench
            .send(Raw {
                timestamp: now - 301,
                ..bench.raw(body.clone())
            })
            .await,
        401,
        "stale_timestamp",
    );
    check(
        bench
            .send(Raw {
                timestamp: now + 310,
                ..bench.raw(body.clone())
            })
            .await,
        401,
        "stale_timestamp",
    );
    check(
        bench
            .send(Raw {
                nonce: "short",
                ..bench.raw(body.clone())
            })
            .await,
        401,
        "bad_nonce",
    );
    check(
        bench
            .send(Raw {
                encoding: "gzip",
                nonce: "a123456789abcdef",
                ..bench.raw(body.clone())
            })
            .await,
        415,
        "bad_encoding",
    );
    check(
        bench
            .send(Raw {
                nonce: "b123456789abcdef",
                ..bench.raw(b"not zstd".to_vec())
            })
            .await,
        400,
        "bad_encoding",
    );
    let bomb = compressed(&vec![0; 64 * 1024 * 1024]);
    check(
        bench
            .send(Raw {
                nonce: "c123456789abcdef",
                ..bench.raw(bomb)
            })
            .await,
        413,
        "too_large",
    );
    let oversized = vec![7; 9 * 1024 * 1024];
    assert_eq!(
        bench
            .send(Raw {
                nonce: "d123456789abcdef",
                ..bench.raw(oversized)
            })
            .await
            .0,
        413
    );
    let spoilt = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut raw = next.clone();
        change(&mut raw);
        compressed(&raw)
    };
    let cut = spoilt(&|raw| raw.truncate(raw.len() - 1));
    check(
        bench
            .send(Raw {
                nonce: "e123456789abcdef",
                ..bench.raw(cut)
            })
            .await,
        400,
        "malformed",
    );
    let unknown = spoilt(&|raw| raw[0] = 77);
    check(
        bench
            .send(Raw {
                nonce: "f123456789abcdef",
                ..bench.raw(unknown)
            })
            .await,
        400,
        "malformed",
    );
    let unsigned = spoilt(&|raw| {
        let at = raw
            .windows(14)
            .position(|window| window == b"batch.sealed\",")
            .unwrap_or(0);
        let _ = at;
        raw.clear();
        let mut log = Log::new(&bench.enrolled.origin);
        log.frontier = Frontier::from_parts(4, vec![leaf_hash(b"x")]).unwrap();
        log.entry(raw, json!({}));
    });
    check(
        bench
            .send(Raw {
                nonce: "g123456789abcdef",
                ..bench.raw(unsigned)
            })
            .await,
        422,
        "unsigned",
    );
    let mut other = Log::new("dev.invalid/jurat/another/0");
    other.frontier = bench.log.frontier.clone();
    let mut wrong_origin = next.clone();
    let note_at = find(&wrong_origin, bench.enrolled.origin.as_bytes());
    wrong_origin.truncate(note_at - 5);
    write_record(
        &mut wrong_origin,
        &Record::Checkpoint(other.note(&other.origin, &other.key).as_bytes()),
    );
    check(
        bench
            .send(Raw {
                nonce: "h123456789abcdef",
                ..bench.raw(compressed(&wrong_origin))
            })
            .await,
        422,
        "wrong_origin",
    );
    let thief = SoftwareKey::log(&Secret::from_bytes([6; 32]), &bench.enrolled.origin).unwrap();
    let mut wrong_key = next.clone();
    wrong_key.truncate(note_at - 5);
    write_record(
        &mut wrong_key,
        &Record::Checkpoint(bench.log.note(&bench.enrolled.origin, &thief).as_bytes()),
    );
    check(
        bench
            .send(Raw {
                nonce: "i123456789abcdef",
                ..bench.raw(compressed(&wrong_key))
            })
            .await,
        403,
        "unknown_key",
    );
    assert_eq!(bench.leaves(), before);

    // The same nonce twice.
    assert_eq!(bench.send(bench.raw(body.clone())).await.0, 200);
    check(bench.send(bench.raw(body)).await, 401, "replayed_nonce");
    let refused = bench
        .running
        .with_archive(|archive| archive.stats().refused);
    assert!(refused.len() >= 11, "{refused:?}");
    bench.running.stop().await.unwrap();
}

fn find(bytes: &[u8], wanted: &[u8]) -> usize {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_is_refused_kept_as_a_proof_and_ends_cosigning_but_not_archiving() {
    let mut bench = Bench::start().await;
    let mut forked = Log::new(&bench.enrolled.origin);
    let first = bench.log.batch(3, "a");
    bench.upload(&first).await.unwrap();
    // Another history of the same length, signed with the right key.
    let other = forked.batch(3, "b");
    let refused = bench.upload(&other).await.unwrap_err();
    assert!(
        matches!(&refused, CollectorError::Refused { refusal, .. } if refusal.code == "fork"),
        "{refused:?}"
    );
    // A rollback that goes on from an older state.
    let longer = forked.batch(2, "b");
    let refused = bench.upload(&longer).await.unwrap_err();
    assert!(
        matches!(&refused, CollectorError::Refused { refusal, .. } if refusal.code == "inconsistent"),
        "{refused:?}"
    );
    let stats = bench.running.with_archive(Archive::stats);
    assert_eq!((stats.leaves, stats.forks), (4, 1));
    // The honest history goes on: archived, and not cosigned any more.
    let second = bench.log.batch(1, "a");
    let accepted = bench.upload(&second).await.unwrap();
    assert_eq!(accepted.size, 6);
    assert_eq!(
        accepted
            .note
            .lines()
            .filter(|line| line.starts_with('\u{2014}'))
            .count(),
        1
    );
    bench.running.stop().await.unwrap();
}
