//! The machine's boot log: what its firmware says it measured. It is looked at beside each quote, on a thread of its
//! own, and sealed when the log does not carry it yet (`docs/formats/quotes.md`).

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jurat_disk::{Host, read, replace};
use jurat_event::{Event, Kind, Severity, Source};
use jurat_key::tpm::Address;
use jurat_redact::Redactor;
use jurat_seal::{Aside, PAYLOAD_BYTES_MAX};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Input;
use crate::agent::{Agent, AgentError, Inputs};

/// The longest log that is sealed: as base64 it fits into one payload.
const BOOT_LOG_BYTES_MAX: usize = (PAYLOAD_BYTES_MAX - 64) / 4 * 3;
/// How long a quote waits for it. A file that does not answer is not waited for again.
const PATIENCE: Duration = Duration::from_secs(2);
const STUCK: &str = "reading it does not end";

/// Which boot log this device's log carries last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Carried {
    /// How often the machine was started until then, as its TPM says.
    starts: Option<u32>,
    sha256: String,
}

/// Reads the boot log now and then.
pub(crate) struct BootLog {
    path: PathBuf,
    /// The file that says what is carried.
    carried_path: PathBuf,
    carried: Option<Carried>,
    thread: Aside<(), Result<Option<Vec<u8>>, String>>,
    /// Why it cannot be read, as a leaf says.
    pub(crate) problem: Option<String>,
}

/// What became of a look at it.
pub(crate) enum Look {
    /// It is being read.
    Waits,
    /// It is not here, or could not be read in time.
    Nothing,
    /// It was read, or not.
    Read(Result<Option<Vec<u8>>, String>),
}

impl BootLog {
    pub(crate) fn start(
        host: &Host,
        path: PathBuf,
        home: &Path,
        inputs: &Inputs,
    ) -> io::Result<Self> {
        let carried_path = home.join("boot_log.json");
        let known = read(&*host.disk, &carried_path, 4096).ok();
        let carried = known.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let (wake, from) = (inputs.sender(), path.clone());
        let thread = Aside::start(
            "boot-log",
            move || drop(wake.send(Input::Signed)),
            move |()| read_log(&from),
        )?;
        Ok(Self {
            path,
            carried_path,
            carried,
            thread,
            problem: None,
        })
    }

    /// Begins to read it; what [`BootLog::look`] gives is of now.
    pub(crate) fn begin(&mut self) {
        if self.thread.waiting().is_none() {
            self.thread.give(());
        }
    }

    pub(crate) fn look(&mut self) -> Look {
        match self.thread.take(Duration::ZERO) {
            Some((read, _)) => Look::Read(read),
            None if self.thread.waiting().is_some_and(|since| since < PATIENCE) => Look::Waits,
            None if self.thread.waiting().is_some() => Look::Read(Err(STUCK.into())),
            None => Look::Nothing,
        }
    }

    fn source(&self, len: usize) -> Source {
        Source {
            name: "boot-log".into(),
            path: self.path.to_string_lossy().into_owned(),
            offset: 0,
            len: len as u64,
        }
    }
}

/// Where Linux shows the log of the machine whose TPM this is. A software TPM knows nothing of the machine's start.
pub(crate) fn default_path(tpm: &Address) -> Option<PathBuf> {
    let Address::Device(path) = tpm else {
        return None;
    };
    let name = path.file_name()?.to_str()?;
    let number = name.strip_prefix("tpmrm").or(name.strip_prefix("tpm"))?;
    let number: u32 = number.parse().ok()?;
    let path = format!("/sys/kernel/security/tpm{number}/binary_bios_measurements");
    Some(path.into())
}

/// `None`: there is none. Its length stands nowhere: it is read to its end.
fn read_log(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let mut bytes = Vec::new();
    let limit = BOOT_LOG_BYTES_MAX as u64 + 1;
    let read = File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
        Ok(_) if bytes.len() > BOOT_LOG_BYTES_MAX => {
            Err(format!("longer than {BOOT_LOG_BYTES_MAX} bytes"))
        }
        Ok(_) => Ok(Some(bytes).filter(|bytes| !bytes.is_empty())),
    }
}

impl Agent {
    /// Seals a boot log that this log does not carry yet, or why there is none.
    pub(crate) fn take_boot_log(
        &mut self,
        read: Result<Option<Vec<u8>>, String>,
        starts: Option<u32>,
    ) -> Result<(), AgentError> {
        let Some(boot_log) = self
            .quoting
            .as_mut()
            .and_then(|quoting| quoting.boot_log.as_mut())
        else {
            return Ok(());
        };
        let was = boot_log.problem.take();
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(why) => {
                let known = was.as_ref() == Some(&why);
                let mut event = Event::own(Kind::AttestationBootLog)
                    .severity(Severity::Low)
                    .detail("error", why.as_str());
                event.source = Some(boot_log.source(0));
                boot_log.problem = Some(why);
                if !known {
                    // The words are the system's: foreign.
                    let redacted = self.pipeline.redactor.redact(event);
                    self.sealer.push(redacted, None)?;
                }
                return Ok(());
            }
        };
        let Some(bytes) = bytes else {
            return Ok(());
        };
        let sha256 = digest(&SHA256, &bytes);
        let sha256 = sha256.as_ref().iter();
        let sha256 = sha256.fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        let carried = Carried { starts, sha256 };
        if boot_log.carried.as_ref() == Some(&carried) {
            return Ok(());
        }
        let mut event = Event::own(Kind::AttestationBootLog)
            .detail("sha256", carried.sha256.as_str())
            .detail("bytes", bytes.len());
        event.source = Some(boot_log.source(bytes.len()));
        let payload = json!({ "boot_log": BASE64.encode(&bytes) });
        event.context = Some(payload.to_string().into_bytes());
        let path = boot_log.carried_path.clone();
        self.sealer.push(Redactor::verbatim(event), None)?;
        // Durable before the file that says so: after a crash it may stand there twice, never not at all.
        self.commit()?;
        if self.unsaved.is_some() {
            return Ok(());
        }
        let text = serde_json::to_vec(&carried).unwrap_or_default();
        if let Err(error) = replace(&*self.host.disk, &path, &text) {
            tracing::warn!(%error, path = %path.display(), "what was sealed of the boot log cannot be noted");
        }
        if let Some(boot_log) = self
            .quoting
            .as_mut()
            .and_then(|quoting| quoting.boot_log.as_mut())
        {
            boot_log.carried = Some(carried);
        }
        Ok(())
    }
}
