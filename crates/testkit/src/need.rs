//! What a test needs and may not find: then it is skipped, by name, and counted.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

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

/// Python 3 with the packages of `interop/requirements.txt`, as a command that finds
/// them in `python` below the folder `JURAT_TOOLS`; otherwise the test is skipped.
pub fn python(test: &str) -> Option<Command> {
    let python = program(test, "python3", "the Debian package python3")?;
    let packages = std::env::var_os("JURAT_TOOLS").map(|tools| Path::new(&tools).join("python"));
    let Some(packages) = packages.filter(|dir| {
        ["scitt_cose", "jc"]
            .iter()
            .all(|name| dir.join(name).is_dir())
    }) else {
        skip(
            test,
            "needs Python packages: python3 -m pip install --target $JURAT_TOOLS/python -r interop/requirements.txt",
        );
        return None;
    };
    let mut command = Command::new(python);
    command.env("PYTHONPATH", packages);
    Some(command)
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
