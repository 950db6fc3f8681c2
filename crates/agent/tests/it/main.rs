//! The endpoint as a library, with a real collector in the same process.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod delivery;
mod erase;
mod keylife;
mod keyplaces;
mod late;
mod measured;
mod past;
mod reveal;
mod room;
mod sinks;
mod site;
mod sources;
mod tpm;

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;

use jurat_agent::{Config, EnrolOptions, Finish, Inputs, Query, SourceConfig, Status};
use jurat_collector::{Builder, Running, Settings};
use jurat_disk::Host;
use serde_json::Value;

/// A collector, and an enrolled device that follows `agent/`.
struct Device {
    dir: tempfile::TempDir,
    host: Host,
    config: Config,
    runtime: tokio::runtime::Runtime,
    collector: Running,
}

impl Device {
    fn enrolled() -> Self {
        Self::enrolled_with(jurat_agent::KeyPlace::Software, |_| {})
    }

    /// Likewise, with its keys elsewhere, at a collector that is set up so.
    fn enrolled_with(key: jurat_agent::KeyPlace, set_up: impl FnOnce(&mut Settings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::real();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let collector = dir.path().join("collector");
        let mut settings = Settings::dev(&host, &collector, ([127, 0, 0, 1], 0).into()).unwrap();

        set_up(&mut settings);
        let token = fs::read_to_string(&settings.token_file).unwrap();
        let running = runtime.block_on(Builder::new(settings).start()).unwrap();
        let options = EnrolOptions {
            pins: Vec::new(),
            key,
            url: format!("https://localhost:{}", running.address.port()),
            token: token.trim().to_owned(),
            ca: Some(fs::read_to_string(collector.join("ca.pem")).unwrap()),
        };
        let state = dir.path().join("device");
        runtime
            .block_on(jurat_agent::enroll(&host, &state, &options))
            .unwrap();
        let sources = dir.path().join("agent");
        fs::create_dir_all(&sources).unwrap();
        let config = Config {
            source: vec![SourceConfig {
                name: "claude-code".into(),
                dir: sources,
                patterns: vec!["**/*.jsonl".into()],
            }],
            ..Config::default()
        };
        Self {
            dir,
            host,
            config,
            runtime,
            collector: running,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("agent").join(name)
    }

    fn append(&self, name: &str, text: &str) {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path(name));
        file.unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Reads and seals everything there is, as one process would.
    fn run(&self) -> Status {
        self.run_until(Finish::WhenSealed)
    }

    fn run_until(&self, finish: Finish) -> Status {
        let state = self.dir.path().join("device");
        let inputs = Inputs::default();
        jurat_agent::run(
            &self.host,
            &self.config,
            &state,
            &inputs,
            finish,
            &mut |_| {},
        )
        .unwrap()
    }

    /// The sealed entries whose kind begins so.
    fn sealed(&self, kind: &str) -> Vec<Value> {
        let mut found = Vec::new();
        let query = Query {
            kind: Some(kind.into()),
            ..Query::default()
        };
        jurat_agent::query(
            self.host.disk.clone(),
            &self.dir.path().join("device"),
            &query,
            &mut |_, entry, _| {
                found.push(entry.clone());
                true
            },
        )
        .unwrap();
        found
    }
}

/// A prompt with this text, as a line.
fn prompt(text: &str) -> String {
    let message = format!("{{\"content\":\"{text}\"}}");
    format!(
        "{{\"type\":\"user\",\"uuid\":\"u-{text}\",\"sessionId\":\"s\",\"message\":{message}}}\n"
    )
}
