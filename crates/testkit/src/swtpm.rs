//! A software TPM as a process, with a vendor's certificates of its own making.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::need;
use crate::os::{UnixListener, UnixStream};

/// A running swtpm. Its state stays in its folder when it is stopped.
pub struct Swtpm {
    dir: PathBuf,
    child: Option<Child>,
}

impl Swtpm {
    /// Makes a TPM with endorsement certificates and starts it; `None`, and the test is skipped, where the
    /// programs are not installed.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn start(test: &str, dir: &Path) -> Option<Self> {
        let setup = need::program(test, "swtpm_setup", "swtpm-tools")?;
        need::program(test, "swtpm", "swtpm")?;
        let localca = need::program(test, "swtpm_localca", "swtpm-tools")?;
        for name in ["state", "ca"] {
            fs::create_dir_all(dir.join(name)).expect("a folder for the TPM");
        }
        let write = |name: &str, text: String| {
            let path = dir.join(name);
            fs::write(&path, text).expect("a settings file");
            path
        };
        let ca = dir.join("ca");
        let ca = ca.display();
        let ca = write(
            "ca.conf",
            format!(
                "statedir = {ca}\nsigningkey = {ca}/signkey.pem\nissuercert = {ca}/issuercert.pem\ncertserial = {ca}/certserial\n"
            ),
        );
        let options = write(
            "options.conf",
            "--platform-manufacturer Test\n--platform-version 1\n--platform-model test\n".into(),
        );
        let config = write(
            "setup.conf",
            format!(
                "create_certs_tool = {}\ncreate_certs_tool_config = {}\ncreate_certs_tool_options = {}\n",
                localca.display(),
                ca.display(),
                options.display()
            ),
        );
        let made = Command::new(setup)
            .args(["--tpm2", "--create-ek-cert", "--pcr-banks", "sha256,sha384"])
            .arg("--tpmstate")
            .arg(dir.join("state"))
            .arg("--config")
            .arg(config)
            .output()
            .expect("swtpm_setup starts");
        assert!(
            made.status.success(),
            "swtpm_setup: {}",
            String::from_utf8_lossy(&made.stdout)
        );
        let mut tpm = Self {
            dir: dir.to_owned(),
            child: None,
        };
        tpm.power_on();
        Some(tpm)
    }

    /// Its address, as a user gives it.
    pub fn address(&self) -> String {
        format!("swtpm:{}", self.socket().display())
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("socket")
    }

    /// The folder of its state.
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The certificate of the vendor's root, in PEM.
    pub fn root(&self) -> PathBuf {
        self.dir.join("ca/swtpm-localca-rootca-cert.pem")
    }

    /// The certificate of the vendor's issuer, in PEM.
    pub fn issuer(&self) -> PathBuf {
        self.dir.join("ca/issuercert.pem")
    }

    /// Starts it: PCRs are as after a reset of the machine.
    ///
    /// # Panics
    /// When it does not start.
    pub fn power_on(&mut self) {
        let server = format!("type=unixio,path={}", self.socket().display());
        self.start_with(&["--server", &server]);
    }

    /// Likewise, listening on this port of loopback, and on the next one for commands to itself: what tools of others
    /// want. The way there, as they are told it.
    ///
    /// # Panics
    /// When it does not start.
    pub fn power_on_at(&mut self, port: u16) -> String {
        let [server, control] = [port, port + 1].map(|port| format!("type=tcp,port={port}"));
        self.start_with(&["--server", &server, "--ctrl", &control]);
        format!("swtpm:host=127.0.0.1,port={port}")
    }

    fn start_with(&mut self, listening: &[&str]) {
        // Written when it listens; the socket's file is there before that.
        let listens = self.dir.join("pid");
        for old in [&self.socket(), &listens] {
            let _ = fs::remove_file(old);
        }
        let child = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .arg("--tpmstate")
            .arg(format!("dir={}", self.state().display()))
            .args(listening)
            .arg("--pid")
            .arg(format!("file={}", listens.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("swtpm starts");
        self.child = Some(child);
        let start = Instant::now();
        while !listens.exists() {
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "swtpm does not listen"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Takes its power away.
    pub fn power_off(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.power_off();
    }
}

/// A way to a TPM that takes as long as it is told to.
pub struct Slow {
    path: PathBuf,
    delay_ms: Arc<AtomicU64>,
}

impl Slow {
    /// A socket in this folder that leads to the TPM; each answer comes this much later.
    ///
    /// # Panics
    /// When the socket cannot be made.
    pub fn before(swtpm: &Swtpm, dir: &Path, delay: Duration) -> Self {
        let path = dir.join("slow");
        let listener = UnixListener::bind(&path).expect("a socket");
        let (upstream, delay_ms) = (swtpm.socket(), Arc::new(AtomicU64::new(0)));
        let slow = Self {
            path,
            delay_ms: delay_ms.clone(),
        };
        slow.set(delay);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = UnixStream::connect(&upstream) else {
                    continue;
                };
                let _ = forward(client, server, &delay_ms);
            }
        });
        slow
    }

    /// Its address, as a user gives it.
    pub fn address(&self) -> String {
        format!("swtpm:{}", self.path.display())
    }

    /// How much later an answer comes from now on, also the one that is under way.
    pub fn set(&self, delay: Duration) {
        self.delay_ms
            .store(delay.as_millis() as u64, Ordering::Relaxed);
    }
}

/// One command and its answer at a time, as the socket of swtpm takes them.
fn forward(
    mut client: UnixStream,
    mut server: UnixStream,
    delay_ms: &AtomicU64,
) -> std::io::Result<()> {
    let one = |from: &mut UnixStream| {
        let mut message = vec![0; 10];
        from.read_exact(&mut message)?;
        let len = u32::from_be_bytes([message[2], message[3], message[4], message[5]]);
        message.resize((len as usize).max(10), 0);
        from.read_exact(&mut message[10..])?;
        Ok::<_, std::io::Error>(message)
    };
    loop {
        let command = one(&mut client)?;
        server.write_all(&command)?;
        let answer = one(&mut server)?;
        let came = Instant::now();
        while came.elapsed() < Duration::from_millis(delay_ms.load(Ordering::Relaxed)) {
            std::thread::sleep(Duration::from_millis(2));
        }
        client.write_all(&answer)?;
    }
}
