//! A device, a real collector, and the peer between them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use jurat_agent::{
    AgentError, Config, DeadLetterError, DeadLetters, DeliveryConfig, EnrolOptions, Enrolment,
    Finish, Input, Inputs, SourceConfig, Status, Uplink, enroll, run,
};
use jurat_collector::{Archive, Builder, DeviceCertificates, Running, Settings, export};
use jurat_disk::{Host, Rng as _};
use jurat_key::tls;
use jurat_proof::{
    BundleReader, Record, RecordReader, Report, Selection, Trust, Verdict, Withhold, verify,
};
use jurat_testkit::{Answer, Peer, Repeatable};
use tokio::runtime::Runtime;

pub(crate) struct Site {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) peer: Peer,
    pub(crate) config: Config,
    pub(crate) enrolment: Enrolment,
    pub(crate) lines: Vec<String>,
    pub(crate) running: Running,
    rng: Repeatable,
    runtime: Runtime,
}

/// Pauses that a test outlasts.
pub(crate) fn quick() -> DeliveryConfig {
    DeliveryConfig {
        timeout_s: 1,
        retry_ms: 5,
        retry_max_ms: 20,
        ..DeliveryConfig::default()
    }
}

/// Pauses that no test outlasts: whoever asks twice did not pause.
pub(crate) fn patient() -> DeliveryConfig {
    DeliveryConfig {
        timeout_s: 1,
        retry_ms: 3_600_000,
        retry_max_ms: 3_600_000,
        ..DeliveryConfig::default()
    }
}

impl Site {
    pub(crate) fn start(delivery: DeliveryConfig) -> Self {
        let runtime = Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let host = Host::real();
        let collector = dir.path().join("collector");
        let mut settings =
            Settings::dev(&host, &collector, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        // The peer ends TLS, as a proxy does.
        settings.device_certificates = DeviceCertificates::Off;
        let token = std::fs::read_to_string(&settings.token_file).unwrap();
        let server = tls::server(&settings.certificate, &settings.key, tls::Ask::Nobody)
            .unwrap()
            .config;
        let ca = std::fs::read_to_string(collector.join("ca.pem")).unwrap();
        let client = tls::client(Some(ca.as_bytes())).unwrap();
        let running = runtime.block_on(Builder::new(settings).start()).unwrap();
        let script = Box::new(|_| Answer::Pass);
        let peer = Peer::start(server, client, running.address, script).unwrap();
        let options = EnrolOptions {
            pins: Vec::new(),
            key: jurat_agent::KeyPlace::Software,
            url: format!("https://localhost:{}", peer.port()),
            token: token.trim().to_owned(),
            ca: Some(ca),
        };
        let state = dir.path().join("device");
        let enrolment = runtime.block_on(enroll(&host, &state, &options)).unwrap();
        let agent = dir.path().join("agent");
        std::fs::create_dir_all(agent.join("projects/p")).unwrap();
        let mut config = Config {
            source: vec![SourceConfig {
                name: "claude-code".into(),
                dir: agent,
                patterns: vec!["projects/**/*.jsonl".into()],
            }],
            delivery,
            ..Config::default()
        };
        config.seal.batch_events = 50;
        Self {
            dir,
            peer,
            config,
            enrolment,
            lines: Vec::new(),
            running,
            rng: Repeatable::new(5),
            runtime,
        }
    }

    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("device")
    }

    /// The agent writes so many lines more. They do not compress well: a body is many packets long.
    pub(crate) fn write(&mut self, count: usize) {
        let mut text = String::new();
        for _ in 0..count {
            let mut noise = [0; 500];
            self.rng.fill(&mut noise);
            let noise: String = noise
                .iter()
                .map(|byte| char::from(b'a' + byte % 26))
                .collect();
            let line = format!(
                "{{\"type\":\"summary\",\"summary\":\"{} {noise}\"}}",
                self.lines.len()
            );
            writeln!(text, "{line}").unwrap();
            self.lines.push(line);
        }
        let path = self.dir.path().join("agent/projects/p/a.jsonl");
        let mut known = std::fs::read_to_string(&path).unwrap_or_default();
        known.push_str(&text);
        std::fs::write(path, known).unwrap();
    }

    /// Runs until everything is delivered, or `enough` says so.
    pub(crate) fn run(
        &self,
        finish: Finish,
        mut enough: impl FnMut(&Status) -> bool,
    ) -> Result<Status, AgentError> {
        let inputs = Inputs::default();
        let stop = inputs.sender();
        // Told ten times a second: whoever waits for an hour's pause is let go, and then fails.
        let mut told = 0;
        run(
            &Host::real(),
            &self.config,
            &self.state(),
            &inputs,
            finish,
            &mut |status| {
                told += 1;
                if enough(status) || told > 1_000 {
                    stop.send(Input::Stop).unwrap();
                }
            },
        )
    }

    /// Sends what was set aside again. Returns how many letters there were.
    pub(crate) fn retry_dead_letters(&self) -> usize {
        let host = Host::real();
        let letters = DeadLetters::new(&self.state());
        let uplink = Uplink::open(&host, &self.state(), Duration::from_secs(10)).unwrap();
        let waiting = letters.list(&host).unwrap();
        for letter in &waiting {
            let sent = letters.retry(&host, &uplink, letter.from);
            self.runtime.block_on(sent).unwrap();
        }
        waiting.len()
    }

    pub(crate) fn refused(&self, code: &str) -> u64 {
        let stats = self.running.with_archive(Archive::stats);
        stats.refused.get(code).copied().unwrap_or(0)
    }

    /// What a verification of the archive's bundle says.
    pub(crate) fn report(&self) -> Report {
        let trust = std::fs::read_to_string(self.state().join("trust.txt")).unwrap();
        let mut bundle = Vec::new();
        self.running
            .with_archive(|archive| {
                export(
                    archive,
                    &self.enrolment.origin,
                    &Selection::All,
                    &Withhold::default(),
                    &mut bundle,
                )
            })
            .unwrap();
        let trust = Trust::parse(&trust).unwrap();
        match verify(bundle.as_slice(), Some(&trust), None, &mut |_| {}) {
            Verdict::Verified(report) => *report,
            verdict => panic!("{verdict:?}"),
        }
    }

    /// Sends a dead letter again.
    pub(crate) fn retry(&self, from: u64) -> Result<(), DeadLetterError> {
        let (host, state) = (Host::real(), self.state());
        let uplink = Uplink::open(&host, &state, Duration::from_secs(5)).unwrap();
        self.runtime
            .block_on(DeadLetters::new(&state).retry(&host, &uplink, from))
    }

    /// Both the archive and the device hold every line exactly once, in a log that verifies whole.
    pub(crate) fn assert_whole(&self, case: &str) {
        let trust = std::fs::read_to_string(self.state().join("trust.txt")).unwrap();
        let trust = Trust::parse(&trust).unwrap();
        let mut archived = Vec::new();
        self.running
            .with_archive(|archive| {
                export(
                    archive,
                    &self.enrolment.origin,
                    &Selection::All,
                    &Withhold::default(),
                    &mut archived,
                )
            })
            .unwrap();
        let mut own = Vec::new();
        let ledger = self.state().join("ledger");
        jurat_seal::export(
            Host::real().disk,
            &ledger,
            &Selection::All,
            &Withhold::default(),
            jurat_seal::Enrolled::default(),
            &mut own,
        )
        .unwrap();
        for (who, bundle) in [("archive", archived), ("device", own)] {
            let verdict = verify(bundle.as_slice(), Some(&trust), None, &mut |_| {});
            let Verdict::Verified(report) = verdict else {
                panic!("{case}, {who}: {verdict:?}");
            };
            assert!(report.axes.complete, "{case}, {who}");
            let mut found: BTreeMap<String, u64> = BTreeMap::new();
            let (mut reader, ..) = BundleReader::open(bundle.as_slice()).unwrap();
            while let Some(part) = reader.next_part().unwrap() {
                for record in RecordReader::new(&part.records) {
                    if let Record::Payload { bytes, .. } = record.unwrap() {
                        let text = String::from_utf8(bytes.to_vec()).unwrap();
                        *found.entry(text).or_default() += 1;
                    }
                }
            }
            for line in &self.lines {
                assert_eq!(found.remove(line), Some(1), "{case}, {who}: {line:.40}");
            }
            assert!(found.is_empty(), "{case}, {who}: made up");
        }
    }
}
