//! SoftHSM: a PKCS#11 token in files. It finds its tokens by its environment, so each test has a process of its own.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::need;

/// Where packages put the module.
const MODULES: [&str; 4] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
];
/// Names the folder to the process that a test is given.
const FOLDER: &str = "JURAT_SOFTHSM";

/// Tokens in a folder.
pub struct SoftHsm {
    dir: PathBuf,
}

impl SoftHsm {
    /// Runs the body of the test of this name (as the harness knows it) in a process of its own, with no token yet;
    /// skipped where the program is not installed.
    ///
    /// # Panics
    /// When the body does, or when there is no test of this name.
    pub fn run(test: &str, body: impl FnOnce(&Self)) {
        if let Some(dir) = env::var_os(FOLDER) {
            return body(&Self { dir: dir.into() });
        }
        if need::program(test, "softhsm2-util", "softhsm2").is_none() {
            return;
        }
        let dir = tempfile::tempdir().expect("a folder for the tokens");
        let hsm = Self {
            dir: dir.path().to_owned(),
        };
        fs::create_dir(hsm.dir.join("tokens")).expect("a folder for the tokens");
        let tokens = hsm.dir.join("tokens");
        let config = format!(
            "directories.tokendir = {}\nlog.level = ERROR\n",
            tokens.display()
        );
        fs::write(hsm.config(), config).expect("a settings file");
        let ran = Command::new(env::current_exe().expect("a test is a program"))
            .args(["--exact", test, "--nocapture"])
            .env("SOFTHSM2_CONF", hsm.config())
            .env(FOLDER, &hsm.dir)
            .output()
            .expect("a test can be run again");
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(
            ran.status.success() && said.contains("1 passed"),
            "{test}: {said}{}",
            String::from_utf8_lossy(&ran.stderr)
        );
    }

    /// The folder, also for files of the test.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn config(&self) -> PathBuf {
        self.dir.join("softhsm2.conf")
    }

    /// The PKCS#11 module.
    ///
    /// # Panics
    /// When the package put it elsewhere.
    pub fn module(&self) -> PathBuf {
        let found = MODULES.iter().map(Path::new).find(|path| path.is_file());
        found
            .expect("libsofthsm2.so beside softhsm2-util")
            .to_owned()
    }

    /// Makes a token. Only before the module is loaded: it looks for tokens then.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn make_token(&self, label: &str, pin: &str) {
        let made = Command::new("softhsm2-util")
            .args(["--init-token", "--free", "--so-pin", "12345678"])
            .args(["--label", label, "--pin", pin])
            .env("SOFTHSM2_CONF", self.config())
            .output()
            .expect("softhsm2-util starts");
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
    }
}
