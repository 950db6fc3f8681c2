//! `jurat witness` as an outsider runs it.

use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};

use jurat_key::{Secret, SoftwareKey};
use jurat_proof::{Checkpoint, Digest, ForkProof, Note, Signer as _, VerifierKey};

use crate::fleet::JURAT;

const ORIGIN: &str = "example.org/jurat/collector/0";

fn log() -> SoftwareKey {
    SoftwareKey::log(&Secret::from_bytes([7; 32]), ORIGIN).unwrap()
}

fn head(root: u8) -> Note {
    let head = Checkpoint {
        origin: ORIGIN.into(),
        size: 3,
        root: Digest([root; 32]),
    };
    head.sign(&log()).unwrap()
}

/// Its outputs stay open as long as it runs.
struct Witness(Child, BufReader<ChildStdout>, BufReader<ChildStderr>);

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(dir: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(JURAT);
    command
        .args(["witness", "--dir", dir.to_str().unwrap()])
        .args(more)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Starts it: its key, and where it listens.
fn start(dir: &Path, more: &[&str]) -> (Witness, VerifierKey, String) {
    let mut child = command(dir, &["--listen", "127.0.0.1:0"])
        .args(more)
        .spawn()
        .unwrap();
    let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let mut witness = Witness(child, BufReader::new(stdout), BufReader::new(stderr));
    let mut lines = [String::new(), String::new()];
    witness.1.read_line(&mut lines[0]).unwrap();
    witness.2.read_line(&mut lines[1]).unwrap();
    let address = lines[1].trim().strip_prefix("witness on http://");
    let address = address.unwrap_or_else(|| panic!("{}", lines[1])).to_owned();
    (witness, VerifierKey::parse(&lines[0]).unwrap(), address)
}

#[test]
fn a_stranger_starts_a_witness_with_one_line_and_its_key_stays() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let vkey = log().verifier_key().to_string();
    let (first, key, address) = start(dir, &["--name", "w.example.org/1", "--log", &vkey]);
    assert_eq!(key.name, "w.example.org/1");
    assert!(TcpStream::connect(address).is_ok());
    let refused = |more: &[&str], why: &str| {
        let out = command(dir, more).output().unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert!(out.status.code() == Some(1) && said.contains(why), "{said}");
    };
    // A second one on the folder, whatever it is called.
    refused(&["--listen", "127.0.0.1:0"], "another process");
    drop(first);
    refused(&["--name", "w.example.org/2"], "w.example.org/1");
    refused(&["--listen", "0.0.0.0:0"], "--plain-http");
    refused(&["--log", "nonsense"], "--log nonsense");
    refused(&["--logs", "/does/not/exist"], "/does/not/exist");
    let (_second, again, _) = start(dir, &[]);
    assert_eq!(again, key);
}

#[test]
fn a_fork_proof_is_checked_with_the_logs_key_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("fork.txt");
    let check = |fork: &ForkProof, vkey: &str| {
        std::fs::write(&file, fork.encode()).unwrap();
        let args = ["witness", "--log", vkey, "--check-fork"];
        let out = Command::new(JURAT).args(args).arg(&file).output().unwrap();
        (out.status.code(), String::from_utf8(out.stdout).unwrap())
    };
    let fork = ForkProof::find(&head(1), &head(2), &[]).unwrap();
    let (code, said) = check(&fork, &log().verifier_key().to_string());
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("FORK of example.org/jurat/collector/0"),
        "{said}"
    );
    let stranger = SoftwareKey::log(&Secret::from_bytes([8; 32]), ORIGIN).unwrap();
    let (code, said) = check(&fork, &stranger.verifier_key().to_string());
    assert_eq!(code, Some(1), "{said}");
    let same = ForkProof {
        second: head(1),
        ..fork
    };
    let (code, said) = check(&same, &log().verifier_key().to_string());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("do not contradict"), "{said}");
}
