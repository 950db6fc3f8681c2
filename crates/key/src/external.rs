//! A P-256 key behind another program: whatever can sign a digest, without its library in ours.
//!
//! The program is asked a line and answers a line (`docs/formats/signer.md`). It is believed nothing: every
//! signature is verified before it is used, and the key is the one it named at its first start.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jurat_proof::SignerError;

use crate::held::{is_point, is_signed};
use crate::{HeldKey, KeyError, os};

/// The greeting, and the version of the protocol.
const HELLO: &str = "jurat-signer/v1";
/// The most bytes of a line, without its end.
const LINE_BYTES_MAX: usize = 1024;
/// The most characters of what a program says is wrong.
const WORDS_MAX: usize = 200;
/// How long an answer may take where nothing else is said: a cloud under load, with its own retries.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// How the program is started and waited for.
#[derive(Clone, Debug)]
pub struct ExternalConfig {
    /// The program and its arguments, as they are: no shell reads them.
    pub command: Vec<String>,
    /// How long one answer may take, the start of the program included.
    pub timeout: Duration,
}

/// One line of a program's answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// It speaks this version, for this key: an uncompressed point on the curve.
    Hello([u8; 65]),
    /// What it says is a signature, in DER.
    Signature(Vec<u8>),
    /// It cannot, in its own words: short, without control characters.
    Refused(String),
}

impl Answer {
    /// Reads a line, without its end. `None` when it is no answer.
    pub fn parse(line: &[u8]) -> Option<Self> {
        if line.len() > LINE_BYTES_MAX {
            return None;
        }
        let text = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line));
        let (what, rest) = text.split_once(' ')?;
        match what {
            HELLO => {
                let point = BASE64.decode(rest).ok()?.try_into().ok()?;
                is_point(&point).then_some(Self::Hello(point))
            }
            "ok" => BASE64.decode(rest).ok().map(Self::Signature),
            "error" => Some(Self::Refused(printable(rest))),
            _ => None,
        }
    }
}

/// Foreign words, fit for a terminal: without controls, and without what turns the direction of writing.
fn printable(words: &str) -> String {
    let shown = |c: &char| {
        !c.is_control()
            && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    words.chars().filter(shown).take(WORDS_MAX).collect()
}

/// A key that a program uses for us. Labelled `external`: where the key is, only the program knows.
pub struct External {
    config: ExternalConfig,
    point: [u8; 65],
    running: Mutex<Option<Running>>,
}

impl External {
    /// Starts the program and asks for its key.
    ///
    /// # Errors
    /// [`KeyError::Held`] when it does not start, or does not say which key it has.
    pub fn start(config: ExternalConfig) -> Result<Self, KeyError> {
        let (running, point) = Running::start(&config).map_err(|fault| KeyError::Held {
            place: place(&config),
            what: fault.to_string(),
        })?;
        Ok(Self {
            config,
            point,
            running: Mutex::new(Some(running)),
        })
    }

    /// The key of this point, of which the program will have to show that it is its own; it is started when it is needed.
    pub fn known(config: ExternalConfig, point: [u8; 65]) -> Self {
        Self {
            config,
            point,
            running: Mutex::new(None),
        }
    }

    fn ask(&self, slot: &mut Option<Running>, digest: &[u8; 32]) -> Result<Vec<u8>, Fault> {
        let running = if let Some(running) = slot {
            running
        } else {
            let (running, point) = Running::start(&self.config)?;
            if point != self.point {
                return Err(Fault::Wrong("it has another key than at its first start"));
            }
            slot.insert(running)
        };
        let mut request = String::from("sign ");
        for byte in digest {
            request.push_str(&format!("{byte:02x}"));
        }
        match running.ask(&request, self.config.timeout)? {
            Answer::Signature(signature) if is_signed(&self.point, digest, &signature) => {
                Ok(signature)
            }
            Answer::Signature(_) => Err(Fault::Wrong("its signature does not verify")),
            Answer::Refused(words) => Err(Fault::Refused(words)),
            Answer::Hello(_) => Err(Fault::Wrong("it greets where it should sign")),
        }
    }
}

impl HeldKey for External {
    fn point(&self) -> &[u8; 65] {
        &self.point
    }

    fn place(&self) -> String {
        place(&self.config)
    }

    /// Waits for other callers first, and then for at most three answers: of a program that died in the
    /// meantime, and of the one that takes its place.
    fn sign_digest(&self, digest: &[u8; 32]) -> Result<Vec<u8>, SignerError> {
        // What a panic may have left is a program in an unknown state, and that is found out.
        let mut slot = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut was_running = slot.is_some();
        loop {
            let fault = match self.ask(&mut slot, digest) {
                Ok(signature) => return Ok(signature),
                Err(fault) => fault,
            };
            if !matches!(fault, Fault::Refused(_)) {
                // Whatever it says next might answer this.
                *slot = None;
            }
            if matches!(fault, Fault::Ended) && was_running {
                was_running = false;
                continue;
            }
            return Err(SignerError {
                key: self.place(),
                reason: fault.to_string(),
            });
        }
    }
}

/// The program alone: its arguments may be nobody's business.
fn place(config: &ExternalConfig) -> String {
    let program = config.command.first().map_or("(none)", String::as_str);
    format!("the program {}", printable(program))
}

/// Why there is no signature.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("no program is named")]
    Unnamed,
    #[error("it does not start: {0}")]
    Start(io::Error),
    #[error("it ended")]
    Ended,
    #[error("no answer for {0:?}")]
    Silent(Duration),
    #[error("{0}")]
    Wrong(&'static str),
    #[error("it says: {0}")]
    Refused(String),
}

/// A program that was started, and what it has said. Ended when dropped, with all that it started.
struct Running {
    child: Child,
    input: ChildStdin,
    lines: Receiver<Result<Vec<u8>, Fault>>,
}

impl Running {
    /// Starts the program and greets it. Its standard error is ours, its environment too: both are where
    /// people look for the troubles and keep the settings of a cloud's tools.
    fn start(config: &ExternalConfig) -> Result<(Self, [u8; 65]), Fault> {
        let [program, arguments @ ..] = config.command.as_slice() else {
            return Err(Fault::Unnamed);
        };
        let mut command = Command::new(program);
        command.args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        os::own_group(&mut command);
        let mut child = command.spawn().map_err(Fault::Start)?;
        let input = child.stdin.take().expect("a pipe was asked for");
        let output = child.stdout.take().expect("a pipe was asked for");
        // One line waits; who says more without being asked is not read on.
        let (sender, lines) = sync_channel(1);
        let mut running = Self {
            child,
            input,
            lines,
        };
        thread::Builder::new()
            .name("signer".into())
            .spawn(move || listen(output, &sender))
            .map_err(Fault::Start)?;
        match running.ask(HELLO, config.timeout)? {
            Answer::Hello(point) => Ok((running, point)),
            Answer::Refused(words) => Err(Fault::Refused(words)),
            Answer::Signature(_) => Err(Fault::Wrong("it signs where it should greet")),
        }
    }

    fn ask(&mut self, request: &str, timeout: Duration) -> Result<Answer, Fault> {
        match self.lines.try_recv() {
            Ok(Ok(_)) => return Err(Fault::Wrong("it speaks without being asked")),
            Ok(Err(fault)) => return Err(fault),
            Err(_) => {}
        }
        // Never waits: a pipe has room for more than the one request that is under way.
        let line = format!("{request}\n");
        let written = self.input.write_all(line.as_bytes());
        written.map_err(|_| Fault::Ended)?;
        match self.lines.recv_timeout(timeout) {
            Ok(line) => Answer::parse(&line?).ok_or(Fault::Wrong("its answer is none")),
            Err(RecvTimeoutError::Timeout) => Err(Fault::Silent(timeout)),
            Err(RecvTimeoutError::Disconnected) => Err(Fault::Ended),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        os::end_group(&mut self.child);
        let _ = self.child.wait();
    }
}

/// Passes on a program's lines until it ends or breaks the rules.
fn listen(output: ChildStdout, lines: &SyncSender<Result<Vec<u8>, Fault>>) {
    let mut output = BufReader::new(output);
    loop {
        let line = read_line(&mut output);
        let is_last = line.is_err();
        if lines.send(line).is_err() || is_last {
            return;
        }
    }
}

fn read_line(output: &mut BufReader<ChildStdout>) -> Result<Vec<u8>, Fault> {
    let mut line = Vec::new();
    let limit = LINE_BYTES_MAX as u64 + 1;
    match output.take(limit).read_until(b'\n', &mut line) {
        Ok(_) if line.last() == Some(&b'\n') => {
            line.pop();
            Ok(line)
        }
        Ok(_) if line.len() > LINE_BYTES_MAX => Err(Fault::Wrong("its line is too long")),
        // The end, or a line without one: what was cut off is not an answer.
        _ => Err(Fault::Ended),
    }
}
