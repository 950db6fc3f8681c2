//! Enrolment: who this device is, and whom it sends to.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jurat_disk::{Host, read, replace};
use jurat_key::tls::Pin;
use jurat_key::tpm::ChipError;
use jurat_key::{KeyError, Secret, tls};
use jurat_sink::{Collector, CollectorError, SetUp};
use serde::{Deserialize, Serialize};

use crate::keys::{KeyPlace, Made, store_certificate};
use crate::uplink::Uplink;

/// What is known after enrolment; kept in `enrolment.json`. Secrets are in `keys/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// This device's random id.
    pub device: String,
    /// The origin of its log.
    pub origin: String,
    /// The collector.
    pub url: String,
    /// The certificates that the collector is believed by; the system's when absent.
    pub ca: Option<String>,
    /// The server's keys that count, beside what its certificate says; any when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pins: Vec<Pin>,
    /// The collector's witness key.
    pub witness: String,
    /// The collector's archive key.
    pub archive: String,
    /// The key of the collector's own log.
    pub log: String,
    /// Where the device's keys are.
    #[serde(default)]
    pub key: KeyPlace,
    /// What holds them, as the collector sees it: `software`, `tpm-verified`, `tpm-pinned`, `tpm-untrusted`.
    #[serde(default)]
    pub key_kind: String,
}

/// What enrolment is asked for.
#[derive(Clone, Debug)]
pub struct EnrolOptions {
    /// The collector's address.
    pub url: String,
    /// The enrolment token.
    pub token: String,
    /// Certificates to believe instead of the system's, PEM.
    pub ca: Option<String>,
    /// Believe only a server with one of these keys; with `enroll_again`, those of before when empty.
    pub pins: Vec<Pin>,
    /// Where the device's keys are to be.
    pub key: KeyPlace,
}

/// Why enrolment did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolError {
    /// A key failed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The collector refused, or could not be reached.
    #[error(transparent)]
    Collector(#[from] CollectorError),
    /// A file could not be read or written.
    #[error("{path}: {doing}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the disk said.
        #[source]
        source: std::io::Error,
    },
    /// This device is enrolled already.
    #[error(
        "this device is enrolled with {url} as {origin}; --again begins its next epoch, another --state-dir is another device"
    )]
    Already {
        /// The collector.
        url: String,
        /// The origin.
        origin: String,
    },
    /// This device is not enrolled.
    #[error("{path}: this device is not enrolled; run `jurat enroll URL --token-file FILE`")]
    Missing {
        /// The file that would say so.
        path: PathBuf,
    },
    /// The next epoch would have the key of this one.
    #[error(
        "{place} has the key of the log that ends, and the next one takes a new key: name another object with --key, or have \
         the program use another key"
    )]
    SameKey {
        /// Where it is.
        place: String,
    },
    /// The endpoint runs and holds its ledger.
    #[error("the endpoint runs; stop it, and enrol again then")]
    Running,
    /// The ledger of the epoch before cannot be read.
    #[error(transparent)]
    Seal(#[from] jurat_seal::SealError),
    /// The TPM failed.
    #[error(transparent)]
    Tpm(#[from] ChipError),
    /// The answer cannot be used.
    #[error("the collector's answer cannot be used: {0}")]
    Answer(String),
}

impl Enrolment {
    /// Which of the device's logs this is, from 0: the last part of the origin.
    pub fn epoch(&self) -> u64 {
        let last = self.origin.rsplit('/').next().unwrap_or_default();
        last.parse().unwrap_or(0)
    }

    /// The origin of the log of this epoch of the device; `None` when there was none yet.
    pub fn origin_of(&self, epoch: u64) -> Option<String> {
        let (device, _) = self.origin.rsplit_once('/')?;
        (epoch <= self.epoch()).then(|| format!("{device}/{epoch}"))
    }

    /// The folder of this epoch. Each has its own, so that one file, `enrolment.json`, says which counts.
    pub fn home(&self, state_dir: &Path) -> PathBuf {
        home_of(state_dir, self.epoch())
    }

    /// Reads what is known.
    ///
    /// # Errors
    /// [`EnrolError::Missing`] when this device is not enrolled.
    pub fn load(host: &Host, state_dir: &Path) -> Result<Self, EnrolError> {
        let path = state_dir.join("enrolment.json");
        let doing = "reading the enrolment";
        match read(&*host.disk, &path, 1024 * 1024) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| EnrolError::Io {
                path,
                doing,
                source: std::io::Error::other(error),
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(EnrolError::Missing { path })
            }
            Err(source) => Err(EnrolError::Io {
                path,
                doing,
                source,
            }),
        }
    }
}

/// The folder of the epoch that this device writes now: ledger, keys, cursors, dead letters. The state folder
/// itself for the first, and before an enrolment.
pub fn home(host: &Host, state_dir: &Path) -> PathBuf {
    Enrolment::load(host, state_dir)
        .map_or_else(|_| state_dir.to_path_buf(), |known| known.home(state_dir))
}

/// The folder of this epoch.
pub fn home_of(state_dir: &Path, epoch: u64) -> PathBuf {
    match epoch {
        0 => state_dir.to_path_buf(),
        epoch => state_dir.join(format!("epochs/{epoch}")),
    }
}

/// Enrols this device: makes its key, asks the collector, writes what both agreed on.
///
/// Everything is durable on return; the trust file `trust.txt` names the collector's keys and is a
/// suggestion: whoever verifies decides.
///
/// # Errors
/// [`EnrolError`]; nothing is kept but the device's own key.
pub async fn enroll(
    host: &Host,
    state_dir: &Path,
    options: &EnrolOptions,
) -> Result<Enrolment, EnrolError> {
    if let Ok(known) = Enrolment::load(host, state_dir) {
        return Err(EnrolError::Already {
            url: known.url,
            origin: known.origin,
        });
    }
    let keys = state_dir.join("keys");
    host.disk
        .create_dir_all(&keys)
        .map_err(|source| EnrolError::Io {
            path: keys.clone(),
            doing: "creating the keys' folder",
            source,
        })?;
    Secret::load_or_create(host, &keys.join("reveal.key"))?;
    let device = jurat_disk::random_uuid(&*host.rng);
    let made = Made::new(host, &options.key, &keys, &device)?;
    made.store(host, &keys)?;
    let collector = Collector::new(SetUp {
        url: options.url.clone(),
        tls: tls::device(
            options.ca.as_deref().map(str::as_bytes),
            &options.pins,
            None,
        )?,
        timeout: Duration::from_secs(30),
    })?;
    let asked = jurat_sink::Enrolment {
        device: device.clone(),
        key: BASE64.encode(made.public()?),
        csr: made.csr(&device)?,
        key_kind: made.kind().into(),
        evidence: made.evidence(),
        machine: jurat_disk::machine_id(),
        hostname: Some(jurat_disk::hostname()),
        predecessor: None,
        proof: None,
    };
    let answer = collector
        .enroll(&options.token, &asked, |challenged| made.answer(challenged))
        .await?;
    store_secrets(host, &keys, &made, &answer)?;
    let enrolment = Enrolment {
        device,
        origin: answer.origin,
        url: options.url.trim_end_matches('/').to_owned(),
        ca: options.ca.clone(),
        pins: options.pins.clone(),
        witness: answer.witness,
        archive: answer.archive,
        log: answer.log,
        key: options.key.clone(),
        key_kind: answer.key_kind,
    };
    store_enrolment(host, state_dir, &made, &enrolment)?;
    fetch_receipt(host, state_dir, &made, &enrolment).await;
    Ok(enrolment)
}

/// Fetches the receipt of the enrolment, where there is use for it. One that does not come now comes while the endpoint
/// runs.
pub(crate) async fn fetch_receipt(
    host: &Host,
    state_dir: &Path,
    made: &Made,
    enrolment: &Enrolment,
) {
    let home = enrolment.home(state_dir);
    let (tls, timeout) = (made.tls.clone(), Duration::from_secs(10));
    let Ok(uplink) = Uplink::with(host, &home, enrolment.clone(), tls, timeout) else {
        return;
    };
    for _ in 0..RECEIPT_TRIES {
        if uplink.keep_enrolment_receipt(host).await {
            return;
        }
        tokio::time::sleep(RECEIPT_PAUSE).await;
    }
}

/// How often, and in which intervals, the receipt of an enrolment is asked for: a head of the collector's log comes
/// every second.
const RECEIPT_TRIES: u32 = 50;
const RECEIPT_PAUSE: Duration = Duration::from_millis(100);

/// Writes the secrets of an answer, and the certificate, to their files.
pub(crate) fn store_secrets(
    host: &Host,
    keys: &Path,
    made: &Made,
    answer: &jurat_sink::Enrolled,
) -> Result<(), EnrolError> {
    if let Some(pem) = &answer.certificate {
        store_certificate(host, keys, &*made.tls, pem)?;
    }
    for (text, what, name) in [
        (&answer.hmac_key, "hmac_key", "hmac.key"),
        (
            &answer.fingerprint_key,
            "fingerprint_key",
            "fingerprint.key",
        ),
        (&answer.token, "token", "token.key"),
    ] {
        let secret = Secret::from_base64(text)
            .ok_or_else(|| EnrolError::Answer(format!("{what} is not 32 bytes in base64")))?;
        secret.store(host, &keys.join(name))?;
    }
    Ok(())
}

/// Writes the trust file and, last, the enrolment.
pub(crate) fn store_enrolment(
    host: &Host,
    state_dir: &Path,
    made: &Made,
    enrolment: &Enrolment,
) -> Result<(), EnrolError> {
    let log = made.verifier_text(&enrolment.origin)?;
    let before = read(&*host.disk, &state_dir.join("trust.txt"), 1024 * 1024).unwrap_or_default();
    let before = String::from_utf8_lossy(&before);
    // The logs before this one stay believed.
    let logs = before
        .lines()
        .filter(|line| line.starts_with("log ") && line.strip_prefix("log ") != Some(&log))
        .fold(String::new(), |lines, line| lines + line + "\n");
    let trust = trust_text(&logs, &log, enrolment);
    let json = serde_json::to_vec_pretty(enrolment).unwrap_or_default();
    // The enrolment last: with it there, everything else is.
    for (name, bytes) in [("trust.txt", trust.as_bytes()), ("enrolment.json", &json)] {
        let path = state_dir.join(name);
        replace(&*host.disk, &path, bytes).map_err(|source| EnrolError::Io {
            path,
            doing: "writing the enrolment",
            source,
        })?;
    }
    Ok(())
}

fn trust_text(before: &str, log: &str, enrolment: &Enrolment) -> String {
    let host = enrolment.url.trim_start_matches("https://");
    let loopback = ["localhost", "127.", "[::1]"]
        .iter()
        .any(|name| host.starts_with(name));
    let same_host = if loopback {
        "# The collector runs on this very host: not independent.\nsame-host collector\n"
    } else {
        ""
    };
    format!(
        "# Whom `jurat verify` believes. Written at enrolment as a suggestion; each line is your decision.\n\
         {before}log {log}\nwitness collector {}\narchive collector {}\n{same_host}quorum 1\ncollector {}\n",
        enrolment.witness, enrolment.archive, enrolment.log
    )
}
