//! What a test needs and may not find: then it is skipped, by name, and counted.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// The program on the PATH; otherwise the test is skipped and `package` is named.
pub fn program(test: &str, name: &str, package: &str) -> Option<PathBuf> {
    let found = on_path(name);
    if found.is_none() {
        skip(
            test,
            &format!("needs the program {name}: install {package}"),
        );
    }
    found
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = [PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")];
    std::env::split_paths(&path)
        .chain(extra)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

/// The folder with data of others (`JURAT_SHARED`); otherwise the test is skipped.
pub fn shared(test: &str) -> Option<PathBuf> {
    let found = std::env::var_os("JURAT_SHARED")
        .map(PathBuf::from)
        .filter(|path| path.is_dir());
    if found.is_none() {
        skip(
            test,
            "needs foreign data: set JURAT_SHARED to the folder that holds corpus/ and vectors/",
        );
    }
    found
}

/// The Go toolchain, with which readers of others are built. Where it is absent the test is
/// skipped and noted, in CI too: not every system's packages have one that is new enough.
pub fn go(test: &str) -> Option<PathBuf> {
    let found = on_path("go");
    if found.is_none() {
        note_skip(
            test,
            "needs the program go: install Go 1.21 or newer from go.dev",
        );
    }
    found
}

/// Notes that a test is skipped. Under `CI=true` that is a failure.
///
/// # Panics
/// Under `CI=true`.
pub fn skip(test: &str, why: &str) {
    note_skip(test, why);
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "{test} must not be skipped in CI: it {why}"
    );
}

fn note_skip(test: &str, why: &str) {
    if let Some(path) = std::env::var_os("JURAT_SKIPS") {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(Path::new(&path));
        // One write: other tests skip at the same time.
        let line = format!("{test}: {why}\n");
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        written.expect("the file named by JURAT_SKIPS can be written");
    }
}
