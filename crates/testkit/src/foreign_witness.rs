//! The witness of transparency-dev, in Go (`interop/go/witness`): a peer that nobody here wrote.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use crate::need;

/// Builds it; `None`, and the test is skipped, where Go or its modules are not to be had.
///
/// # Panics
/// When the modules are there and the program does not build.
pub fn program(test: &str) -> Option<&'static Path> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let go = need::go(test)?;
    match BUILT.get_or_init(|| build(&go)) {
        Ok(path) => Some(path),
        Err(why) => {
            let why = format!("needs the Go modules of interop/go/witness: {why}");
            need::skip(test, &why);
            None
        }
    }
}

fn build(go: &Path) -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let source = root.join("interop/go/witness");
    // One for each test program: they may run beside each other.
    let dir = root.join(format!("target/go-witness/{}", std::process::id()));
    fs::create_dir_all(&dir).expect("the target folder can be written");
    let copy = |name: &str, to: &str| {
        fs::copy(source.join(name), dir.join(to)).expect("the target folder can be written");
    };
    for name in ["main.go", "go.mod", "go.sum"] {
        copy(name, name);
    }
    let run = |args: &[&str]| {
        let out = Command::new(go).args(args).current_dir(&dir).output();
        let out = out.expect("Go can be started");
        if out.status.success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&out.stderr).into_owned())
    };
    run(&["mod", "vendor"])?;
    copy(
        "subtree.go.txt",
        "vendor/github.com/transparency-dev/merkle/proof/subtree.go",
    );
    let program = dir.with_extension("judge");
    let output = program.to_str().expect("a plain path");
    // From here on it is our program that does not build.
    run(&["build", "-o", output, "."]).expect("interop/go/witness builds");
    let _ = fs::remove_dir_all(&dir);
    Ok(program)
}

/// A foreign witness that serves; ends when it is dropped.
pub struct ForeignWitness {
    child: Child,
    /// Its submission prefix.
    pub url: String,
    /// Its verifier key.
    pub key: String,
}

impl ForeignWitness {
    /// Starts one with a new key that cosigns this log.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(program: &Path, log: &str) -> Self {
        let mut child = Command::new(program)
            .args(["serve", log])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the foreign witness starts");
        let mut first = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        let read = BufReader::new(stdout).read_line(&mut first);
        read.expect("the foreign witness says where it is");
        let (url, key) = first.trim().split_once(' ').expect("an address and a key");
        Self {
            url: url.into(),
            key: key.into(),
            child,
        }
    }
}

impl Drop for ForeignWitness {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks the foreign program something; gives what it prints.
///
/// # Panics
/// When it fails.
pub fn ask(program: &Path, args: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the foreign program starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    let written = stdin.write_all(input.as_bytes());
    written.expect("the foreign program reads");
    drop(stdin);
    let out = child.wait_with_output().expect("the foreign program ends");
    assert!(out.status.success(), "{args:?}");
    String::from_utf8(out.stdout).expect("it prints text")
}
