//! A collector and a device, each a real process with files of its own.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jurat_disk::Host;
use jurat_key::tls::DeviceCertificate;
use jurat_key::{P256Key, Secret, tls};
use serde_json::Value;

pub(crate) const JURAT: &str = env!("CARGO_BIN_EXE_jurat");

/// How the device in this folder opens connections, when its key is a file.
pub(crate) fn shown(state: &Path, ca: &[u8]) -> rustls::ClientConfig {
    let keys = state.join("keys");
    let certificate = fs::read(keys.join("tls.pem")).unwrap();
    let certificate = DeviceCertificate::parse(&certificate).unwrap();
    let key = Secret::load(&Host::real(), &keys.join("tls.key")).unwrap();
    let key = Arc::new(P256Key::new(&key).unwrap());
    tls::device(Some(ca), &[], Some((certificate, key))).unwrap()
}

pub(crate) struct Fleet {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) port: u16,
    /// Words before the command of a collector, for example `--debug`.
    pub(crate) serve_flags: Vec<&'static str>,
    serve: Option<Child>,
    run: Option<Child>,
}

impl Fleet {
    /// A collector that runs, and a device that is enrolled and follows `agent/`.
    pub(crate) fn start(config: &str) -> Self {
        Self::start_with(config, &[])
    }

    /// Likewise; enrolled with these flags.
    pub(crate) fn start_with(config: &str, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // A port that is free now; the collector must come back on the same one after a crash.
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut fleet = Self {
            dir,
            port,
            serve_flags: Vec::new(),
            serve: None,
            run: None,
        };
        fs::create_dir_all(fleet.path("agent/projects/p")).unwrap();
        let source = format!(
            "[[source]]\nname = \"claude-code\"\ndir = {:?}\n{config}\n",
            fleet.path("agent")
        );
        fs::write(fleet.path("jurat.toml"), source).unwrap();
        fleet.start_serve();
        let (token, ca) = (
            fleet.path("collector/enroll.token"),
            fleet.path("collector/ca.pem"),
        );
        let url = format!("https://localhost:{port}");
        let enroll = [
            "enroll",
            &url,
            "--token-file",
            token.to_str().unwrap(),
            "--ca",
            ca.to_str().unwrap(),
        ];
        let enrolled = fleet.jurat(&[&enroll, flags].concat());
        assert!(
            enrolled.status.success(),
            "{}",
            String::from_utf8_lossy(&enrolled.stderr)
        );
        fleet
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self, name: &str) -> fs::File {
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        options.open(self.path(name)).unwrap()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(JURAT);
        command
            .env_remove("JURAT_LOG")
            .args(["--config", self.path("jurat.toml").to_str().unwrap()])
            .args(["--state-dir", self.path("device").to_str().unwrap()]);
        command
    }

    pub(crate) fn jurat(&self, args: &[&str]) -> Output {
        self.command().args(args).output().unwrap()
    }

    pub(crate) fn start_serve(&mut self) {
        let child = Command::new(JURAT)
            .env_remove("JURAT_LOG")
            .args(&self.serve_flags)
            .args(["serve", "--dev", self.path("collector").to_str().unwrap()])
            .args(["--listen", &format!("127.0.0.1:{}", self.port)])
            .stderr(self.log("serve.log"))
            .spawn()
            .unwrap();
        self.serve = Some(child);
        wait_for("the collector listens", || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
    }

    pub(crate) fn start_run(&mut self) {
        let log = self.log("run.log");
        self.run = Some(
            self.command()
                .arg("run")
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .unwrap(),
        );
    }

    pub(crate) fn kill_serve(&mut self) {
        kill(self.serve.take());
    }

    pub(crate) fn kill_run(&mut self) {
        kill(self.run.take());
    }

    /// Reads everything there is, and delivers it.
    pub(crate) fn run_once(&self) {
        let done = self.jurat(&["run", "--once"]);
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
    }

    pub(crate) fn status(&self) -> Value {
        let out = self.jurat(&["status", "--json"]);
        serde_json::from_slice(&out.stdout).unwrap_or_default()
    }

    pub(crate) fn append(&self, name: &str, text: &str) {
        let path = self.path("agent/projects").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }

    /// Exports the device's log, verifies it with the trust of the enrolment, gives the verdict.
    pub(crate) fn verify(&self, name: &str) -> Value {
        self.verify_from(name, &[])
    }

    /// Likewise, with more said about where to export from.
    pub(crate) fn verify_from(&self, name: &str, from: &[&str]) -> Value {
        let bundle = self.path(name);
        let bundle = bundle.to_str().unwrap();
        let exported = self.jurat(&[&["export", "-o", bundle], from].concat());
        assert!(
            exported.status.success(),
            "{}",
            String::from_utf8_lossy(&exported.stderr)
        );
        let siem = self.path("collector/siem.jsonl");
        let trust = self.path("device/trust.txt");
        let out = self.jurat(&[
            "verify",
            bundle,
            "--trust",
            trust.to_str().unwrap(),
            "--siem",
            siem.to_str().unwrap(),
            "--json",
        ]);
        serde_json::from_slice(&out.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&out.stderr)))
    }

    /// The lines of the SIEM file, parsed.
    pub(crate) fn siem(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path("collector/siem.jsonl")).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Waits until the SIEM file holds everything the device has sealed.
    pub(crate) fn wait_for_siem(&self, leaves: u64) {
        wait_for("the SIEM file is complete", || {
            self.siem().len() as u64 >= leaves
        });
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        kill(self.run.take());
        kill(self.serve.take());
    }
}

fn kill(child: Option<Child>) {
    if let Some(mut child) = child {
        let _ = child.kill();
        let _ = child.wait();
    }
}

pub(crate) fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "waited for a minute: {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Copies a folder.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            // Read and written, not copied: the foreign data may be read-only.
            fs::write(target, fs::read(&path).unwrap()).unwrap();
        }
    }
}

/// The lines of every transcript below a folder, without empty ones.
pub(crate) fn lines(dir: &Path) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let mut paths: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            out.extend(lines(&path));
        } else if path
            .extension()
            .is_some_and(|extension| extension == "jsonl")
        {
            let bytes = fs::read(&path).unwrap();
            out.extend(
                bytes
                    .split(|byte| *byte == b'\n')
                    .filter(|line| !line.is_empty())
                    .map(<[u8]>::to_vec),
            );
        }
    }
    out
}
