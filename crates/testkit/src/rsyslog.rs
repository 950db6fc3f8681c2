//! rsyslog as a receiver: what it takes over UDP, TCP, TLS and RELP stands in one file, message for line, as it came.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::need;

/// Where packages put its modules.
const MODULES: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/rsyslog",
    "/usr/lib/aarch64-linux-gnu/rsyslog",
    "/usr/lib64/rsyslog",
];

/// Certificates of a receiver that wants some of its senders: files in PEM.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Who may certify senders.
    pub ca: PathBuf,
    /// Its own.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// A receiver; ended when dropped.
pub struct Rsyslog {
    dir: PathBuf,
    ports: Ports,
    tls: Option<Tls>,
    child: Option<Child>,
}

/// Where it listens, on loopback. With [`Tls`] the first is TLS.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// Over TCP; UDP has the same number.
    pub tcp: u16,
    /// RELP.
    pub relp: u16,
}

fn free_port() -> u16 {
    let bound = TcpListener::bind("127.0.0.1:0").expect("a free port");
    bound.local_addr().expect("a bound port").port()
}

impl Rsyslog {
    /// A receiver with its files in this folder; skipped where it, or a module, is not installed.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(test: &str, dir: &Path, tls: Option<Tls>) -> Option<Self> {
        need::program(test, "rsyslogd", "rsyslog")?;
        let modules = ["imrelp.so", "lmnsd_ossl.so"].map(|name| {
            let mut found = MODULES.iter().map(|dir| Path::new(dir).join(name));
            found.any(|path| path.is_file())
        });
        if modules != [true, true] {
            need::skip(
                test,
                "needs modules of rsyslog: install rsyslog-relp rsyslog-openssl",
            );
            return None;
        }
        let mut rsyslog = Self {
            dir: dir.to_owned(),
            ports: Ports {
                tcp: free_port(),
                relp: free_port(),
            },
            tls,
            child: None,
        };
        rsyslog.power_on();
        Some(rsyslog)
    }

    /// Where it listens.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// Starts it, on the same ports as before.
    ///
    /// # Panics
    /// When it does not start.
    pub fn power_on(&mut self) {
        let dir = self.dir.display();
        let Ports { tcp, relp } = self.ports;
        let (mut global, mut driver) = (String::new(), String::new());
        if let Some(Tls {
            ca,
            certificate,
            key,
        }) = &self.tls
        {
            let [ca, certificate, key] = [ca, certificate, key].map(|path| path.display());
            global = format!(
                "DefaultNetstreamDriver=\"ossl\" DefaultNetstreamDriverCAFile=\"{ca}\" \
                 DefaultNetstreamDriverCertFile=\"{certificate}\" DefaultNetstreamDriverKeyFile=\"{key}\""
            );
            driver = "StreamDriver.Name=\"ossl\" StreamDriver.Mode=\"1\" StreamDriver.AuthMode=\"x509/certvalid\"".into();
        }
        let udp = match &self.tls {
            None => format!(
                "module(load=\"imudp\")\ninput(type=\"imudp\" port=\"{tcp}\" address=\"127.0.0.1\" ruleset=\"all\")\n"
            ),
            Some(_) => String::new(),
        };
        let config = format!(
            "global(workDirectory=\"{dir}\" parser.escapeControlCharacterTab=\"off\" {global})\n\
             module(load=\"imtcp\" {driver})\nmodule(load=\"imrelp\")\n\
             template(name=\"raw\" type=\"string\" string=\"%rawmsg%\\n\")\n\
             ruleset(name=\"all\") {{ action(type=\"omfile\" file=\"{dir}/received\" template=\"raw\") }}\n\
             input(type=\"imtcp\" port=\"{tcp}\" address=\"127.0.0.1\" ruleset=\"all\")\n\
             input(type=\"imrelp\" port=\"{relp}\" address=\"127.0.0.1\" ruleset=\"all\")\n{udp}"
        );
        let path = self.dir.join("rsyslog.conf");
        fs::write(&path, config).expect("a settings file");
        let child = Command::new("rsyslogd")
            .arg("-n")
            .arg("-f")
            .arg(&path)
            .arg("-i")
            .arg(self.dir.join("pid"))
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("rsyslogd starts");
        self.child = Some(child);
        for port in [tcp, relp] {
            let start = Instant::now();
            while TcpStream::connect(("127.0.0.1", port)).is_err() {
                assert!(
                    start.elapsed() < Duration::from_secs(30),
                    "rsyslog does not listen"
                );
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let asked = Command::new("kill").arg(child.id().to_string()).status();
            if !asked.is_ok_and(|status| status.success()) {
                let _ = child.kill();
            }
            let _ = child.wait();
        }
    }

    /// What it has received.
    pub fn received(&self) -> Vec<Vec<u8>> {
        let bytes = fs::read(self.dir.join("received")).unwrap_or_default();
        let lines = bytes.split(|byte| *byte == b'\n');
        let mut lines: Vec<Vec<u8>> = lines.map(<[u8]>::to_vec).collect();
        lines.pop();
        lines
    }

    /// Waits until this holds of what it has received; `false` when it does not in time.
    pub fn wait(&self, enough: impl Fn(&[Vec<u8>]) -> bool) -> bool {
        let start = Instant::now();
        loop {
            if enough(&self.received()) {
                return true;
            }
            if start.elapsed() > Duration::from_secs(60) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        self.kill();
    }
}
