//! Finds and runs a real Claude Code unattended, against a [`MessagesApi`](crate::MessagesApi).

use std::env;
use std::ffi::OsString;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// Names the program itself.
const BIN_VARIABLE: &str = "JURAT_CLAUDE_BIN";
/// Names a folder into which the npm package was installed.
const TOOLS_VARIABLE: &str = "JURAT_TOOLS";
/// How long a run may take.
const RUN_MAX: Duration = Duration::from_mins(2);
/// How long output may still come after the end of the program, from what it left behind.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// How often is looked whether the program has ended.
const POLL: Duration = Duration::from_millis(20);
/// The tools that run without a question. As root, permissions cannot be skipped altogether.
const ALLOWED_TOOLS: &str = "Bash,Read,Write,Edit,Agent";
/// A key in the published shape that opens nothing.
const DUMMY_KEY: &str = "sk-ant-api03-test-only";

/// Finds Claude Code: `JURAT_CLAUDE_BIN`, else `claude` on the `PATH`, else
/// `node_modules/.bin/claude` below the folder `JURAT_TOOLS`.
///
/// A variable that is set and does not lead to a file is passed over.
pub fn find() -> Option<PathBuf> {
    let named = env::var_os(BIN_VARIABLE).map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    let program = format!("claude{}", env::consts::EXE_SUFFIX);
    let on_path = env::split_paths(&path).map(|folder| folder.join(&program));
    let installed = env::var_os(TOOLS_VARIABLE).map(|folder| {
        PathBuf::from(folder)
            .join("node_modules/.bin")
            .join(&program)
    });
    named
        .into_iter()
        .chain(on_path)
        .chain(installed)
        .find(|candidate| candidate.is_file())
}

/// Runs one prompt to its end and returns what the program wrote.
///
/// The program sees no variable of the caller but `PATH` (and, on Windows, `SYSTEMROOT`). `cwd`
/// must exist; `home` and `config_dir` are created on demand. `extra` comes last on the command
/// line, for example `["--resume", id]`. Temporary files go below `home`.
///
/// # Errors
///
/// Besides the errors of starting a program, `TimedOut` when it was killed after two minutes.
pub fn run(
    bin: &Path,
    home: &Path,
    config_dir: &Path,
    cwd: &Path,
    base_url: &str,
    prompt: &str,
    extra: &[&str],
) -> io::Result<Output> {
    let temporary = home.join("tmp");
    std::fs::create_dir_all(&temporary)?;
    std::fs::create_dir_all(config_dir)?;
    let mut command = Command::new(bin);
    command
        .args(["-p", prompt, "--allowedTools", ALLOWED_TOOLS])
        .args(extra)
        .current_dir(cwd)
        .env_clear()
        .envs(inherited())
        .env("HOME", home)
        .env("CLAUDE_CONFIG_DIR", config_dir)
        .env("TMPDIR", &temporary)
        .env("CLAUDE_CODE_TMPDIR", &temporary)
        .env("ANTHROPIC_BASE_URL", base_url)
        .env("ANTHROPIC_API_KEY", DUMMY_KEY)
        .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
        .env("DISABLE_AUTOUPDATER", "1")
        .env("LANG", "C.UTF-8")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let stdout = child.stdout.take().map(drain);
    let stderr = child.stderr.take().map(drain);
    let status = wait(&mut child, RUN_MAX)?;
    let collected = |receiver: Option<Receiver<Vec<u8>>>| {
        receiver
            .and_then(|receiver| receiver.recv_timeout(DRAIN_MAX).ok())
            .unwrap_or_default()
    };
    Ok(Output {
        status,
        stdout: collected(stdout),
        stderr: collected(stderr),
    })
}

fn inherited() -> impl Iterator<Item = (&'static str, OsString)> {
    ["PATH", "SYSTEMROOT"]
        .into_iter()
        .filter_map(|name| Some((name, env::var_os(name)?)))
}

/// Reads a pipe to its end on a thread of its own, so that the program never waits for a reader.
fn drain(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is worth more than the error.
        let _ = pipe.read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    receiver
}

/// Waits for the end of `child`, and kills it when `limit` is over.
fn wait(child: &mut Child, limit: Duration) -> io::Result<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if start.elapsed() >= limit {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::new(
                ErrorKind::TimedOut,
                "claude did not come to an end",
            ));
        }
        thread::sleep(POLL);
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn kills_what_does_not_end() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let error = wait(&mut child, Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(child.try_wait().unwrap().is_some());
    }

    #[test]
    fn returns_what_was_written() {
        let mut child = Command::new("sh")
            .args(["-c", "echo out"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().map(drain).unwrap();
        assert!(wait(&mut child, Duration::from_secs(10)).unwrap().success());
        assert_eq!(
            stdout.recv_timeout(Duration::from_secs(10)).unwrap(),
            b"out\n"
        );
    }
}
