//! The signer of `samples/`, and programs that misbehave around it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jurat_key::external::{External, ExternalConfig};
use jurat_key::{HeldKey as _, KeyError};
use jurat_proof::SignerError;
use jurat_testkit::need;
use tempfile::TempDir;

use crate::{signs, signs_a_note};

/// Longer than any program here takes that answers at all.
const LONG: Duration = Duration::from_secs(60);
/// Long enough to start a shell, which is all that a program does here before it is silent.
const SHORT: Duration = Duration::from_secs(5);

/// A folder with two keys, `one` and `two`.
struct Bench(TempDir);

impl Bench {
    fn new(test: &str) -> Option<Self> {
        need::program(test, "openssl", "openssl")?;
        let bench = Self(tempfile::tempdir().unwrap());
        ["one", "two"].iter().for_each(|name| bench.make_key(name));
        Some(bench)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn make_key(&self, name: &str) {
        let words = [
            "ecparam",
            "-name",
            "prime256v1",
            "-genkey",
            "-noout",
            "-out",
        ];
        let made = Command::new("openssl")
            .args(words)
            .arg(self.path(name))
            .status();
        assert!(made.unwrap().success());
    }

    fn sample(&self, key: &str) -> Vec<String> {
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/signers/openssl.sh");
        let words = ["sh".into(), sample, self.path(key)];
        words
            .map(|word| word.into_os_string().into_string().unwrap())
            .into()
    }

    /// A program that greets with key `one`, says so in the file `starts`, and does this with the digests that it
    /// is asked to sign (`$line`); `answer KEY` answers as the sample does.
    fn program(&self, when_asked: &str) -> Vec<String> {
        let [_, sample, _] = self.sample("one").try_into().unwrap();
        let dir = self.0.path().display();
        let script = format!(
            "cd '{dir}'; echo started >> starts\n\
             answer() {{ printf '%s\\n' \"$line\" | sh '{sample}' $1; }}\n\
             while read -r line; do case $line in sign*) {when_asked};; *) answer one;; esac; done"
        );
        vec!["sh".into(), "-c".into(), script]
    }

    fn starts(&self) -> usize {
        fs::read_to_string(self.path("starts"))
            .unwrap()
            .lines()
            .count()
    }
}

fn start(command: Vec<String>, timeout: Duration) -> Result<External, KeyError> {
    External::start(ExternalConfig { command, timeout })
}

fn refuses(key: &External) -> String {
    let error: SignerError = key.sign_digest(&[7; 32]).unwrap_err();
    assert_eq!(error.key, "the program sh");
    error.reason
}

#[test]
fn a_note_signed_by_openssl_verifies_and_no_shell_reads_the_arguments() {
    let Some(bench) = Bench::new("external::a_note_signed_by_openssl") else {
        return;
    };
    let name = "key; touch spoilt $(touch spoilt)";
    bench.make_key(name);
    let before = fs::read_dir(bench.0.path()).unwrap().count();
    let key = Arc::new(start(bench.sample(name), LONG).unwrap());
    signs_a_note(key.clone());
    signs(&*key);
    assert_eq!(fs::read_dir(bench.0.path()).unwrap().count(), before);
}

#[test]
fn what_does_not_greet_with_a_key_is_not_taken() {
    let shell = |script: &str| vec!["sh".into(), "-c".into(), script.into()];
    let off_curve = format!("echo jurat-signer/v1 BA{}=", "A".repeat(85));
    for (command, said) in [
        (vec![], "no program is named"),
        (vec!["/no/such/program".into()], "does not start"),
        (shell("exit 0"), "it ended"),
        (shell("read -r line; printf jurat-signer/v1"), "it ended"),
        (shell("read -r line; echo hello"), "its answer is none"),
        (
            shell("read -r line; echo jurat-signer/v2 AAAA"),
            "its answer is none",
        ),
        (
            shell(&format!("read -r line; {off_curve}")),
            "its answer is none",
        ),
        (shell("read -r line; echo ok AAAA"), "it signs where"),
        (shell("cat /dev/zero | tr '\\0' a"), "too long"),
        (
            shell("read -r line; echo error the cloud is down"),
            "it says: the cloud is down",
        ),
    ] {
        let refused = start(command, LONG).err().unwrap().to_string();
        assert!(refused.contains(said), "{refused}");
    }
    let refused = start(shell("read -r line; sleep 1000"), SHORT)
        .err()
        .unwrap();
    assert!(
        refused.to_string().contains("no answer for 5s"),
        "{refused}"
    );
}

#[test]
fn whatever_is_not_a_signature_by_its_key_is_an_error_and_never_used() {
    let Some(bench) = Bench::new("external::whatever_is_not_a_signature") else {
        return;
    };
    for (when_asked, said) in [
        ("answer two", "does not verify"),
        (
            "line=sign\\ $(printf %064d 0); answer one",
            "does not verify",
        ),
        ("echo ok MAA=", "does not verify"),
        ("answer one | sed 's/....$//'", "does not verify"),
        ("echo garbage", "its answer is none"),
        ("echo", "its answer is none"),
        ("answer one | sed 's/^ok /ok/'", "its answer is none"),
        ("line=jurat-signer/v1; answer one", "it greets where"),
        ("head -c 5000 /dev/zero | tr '\\0' a", "too long"),
        ("answer one | tr -d '\\n'; exit 0", "it ended"),
        ("exit 0", "it ended"),
    ] {
        let key = start(bench.program(when_asked), LONG).unwrap();
        for _ in 0..2 {
            let reason = refuses(&key);
            assert!(reason.contains(said), "{when_asked}: {reason}");
        }
        let starts = bench.starts();
        assert!((2..=3).contains(&starts), "{when_asked}: {starts} starts");
        fs::remove_file(bench.path("starts")).unwrap();
    }
}

#[test]
fn an_error_is_told_without_controls_and_the_program_is_asked_again() {
    let Some(bench) = Bench::new("external::an_error_is_told") else {
        return;
    };
    let words = "x".repeat(500);
    let once = format!(
        "if [ -e said ]; then answer one; else touch said; printf 'error \\033[2Jno\\tcredit\\342\\200\\256 {words}\\n'; fi"
    );
    let key = start(bench.program(&once), LONG).unwrap();
    let reason = refuses(&key);
    assert!(reason.starts_with("it says: [2Jnocredit x"), "{reason}");
    assert!(reason.len() < 250, "{reason}");
    signs(&key);
    assert_eq!(bench.starts(), 1);
}

#[test]
fn a_program_that_dies_between_two_requests_is_started_anew_and_the_second_is_signed() {
    let Some(bench) = Bench::new("external::a_program_that_dies") else {
        return;
    };
    let key = start(bench.program("answer one; exit 0"), LONG).unwrap();
    (0..3).for_each(|_| signs(&key));
    assert_eq!(bench.starts(), 3);
}

#[test]
fn a_silent_program_is_ended_with_all_it_started_and_the_next_request_starts_it_anew() {
    let Some(bench) = Bench::new("external::a_silent_program") else {
        return;
    };
    let once = "if [ -e said ]; then answer one; else touch said; printf 'ok MEQ'; sh -c 'echo $$ > pid; exec sleep 1000'; fi";
    let key = start(bench.program(once), SHORT).unwrap();
    assert_eq!(refuses(&key), "no answer for 5s");
    let stat = format!(
        "/proc/{}/stat",
        fs::read_to_string(bench.path("pid")).unwrap().trim()
    );
    let is_asleep = || fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z"));
    let start = Instant::now();
    while is_asleep() {
        assert!(start.elapsed() < LONG, "{stat}: it lives on");
        std::thread::sleep(Duration::from_millis(5));
    }
    signs(&key);
    assert_eq!(bench.starts(), 2);
}

#[test]
fn a_program_that_comes_back_with_another_key_signs_nothing_until_it_has_the_first_again() {
    let Some(bench) = Bench::new("external::a_program_that_comes_back") else {
        return;
    };
    let key = start(
        bench.program("if [ -e die ]; then exit 0; fi; answer one"),
        LONG,
    )
    .unwrap();
    fs::write(bench.path("die"), "").unwrap();
    assert_eq!(refuses(&key), "it ended");
    let swap = |from: &str, to: &str| fs::rename(bench.path(from), bench.path(to)).unwrap();
    swap("one", "first");
    swap("two", "one");
    fs::remove_file(bench.path("die")).unwrap();
    for _ in 0..2 {
        assert_eq!(refuses(&key), "it has another key than at its first start");
    }
    swap("first", "one");
    signs(&key);
}
