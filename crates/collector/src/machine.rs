//! What is known of a device's machine, and the operator's file of accepted states.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jurat_attest::Base64;
use jurat_attest::eventlog::{Facts, LogError};
use jurat_attest::machine::{
    BootLog, Machine, MachinePolicy, MachinePolicyError, POLICY_BYTES_MAX, boot_log_in,
};
use jurat_disk::{Disk, Host, read};
use jurat_proof::{Digest, sha256};
use serde::{Deserialize, Serialize};

use crate::AttestationReport;

/// A boot log that a device's log carries: part of the archive's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnownLog {
    /// Its leaf.
    pub(crate) seq: u64,
    sha256: Digest,
    bytes: u64,
    /// What it comes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    read: Option<BootLog>,
    /// Why it comes to nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// That is no fault of the machine's: firmware of before 2016 writes nothing better.
    #[serde(default)]
    old: bool,
    /// No quote that counts came after it yet.
    #[serde(default)]
    fresh: bool,
    /// The PCRs of the last quote to which it does not lead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    misses: Vec<u8>,
}

impl KnownLog {
    /// The log in the payload of this leaf.
    pub(crate) fn read(seq: u64, payload: &[u8]) -> Self {
        let log = boot_log_in(payload);
        let bytes = log.as_deref().unwrap_or(payload);
        let judged = match &log {
            Some(log) => BootLog::read(log),
            None => Err(LogError::NotALog),
        };
        let (read, error) = match judged {
            Ok(read) => (Some(read), None),
            Err(error) => (None, Some(error)),
        };
        Self {
            seq,
            sha256: sha256(&[bytes]),
            bytes: bytes.len() as u64,
            read,
            old: error == Some(LogError::OldFormat),
            problem: error.map(|error| error.to_string()),
            fresh: true,
            misses: Vec::new(),
        }
    }

    /// Holds it against the next quote that counts. `false`: it is of an earlier start of the machine.
    pub(crate) fn meets(&mut self, pcrs: &BTreeMap<u8, String>, rebooted: bool) -> bool {
        if rebooted && !self.fresh {
            return false;
        }
        self.fresh = false;
        let read = self.read.as_ref();
        self.misses = read.map_or_else(Vec::new, |read| read.misses(pcrs));
        true
    }

    /// Whether it says something else than the last quote.
    pub(crate) fn is_wrong(&self) -> bool {
        !self.misses.is_empty() || (self.problem.is_some() && !self.old)
    }

    /// What it shows, when it leads to the last quote.
    pub(crate) fn facts(&self) -> Option<&Facts> {
        let read = self.read.as_ref()?;
        (!self.fresh && self.misses.is_empty()).then_some(&read.facts)
    }

    pub(crate) fn report(&self) -> BootLogReport {
        BootLogReport {
            leaf: self.seq,
            sha256: self.sha256,
            bytes: self.bytes,
            leads: !self.fresh && self.read.is_some() && self.misses.is_empty(),
            misses: self.misses.clone(),
            problem: self.problem.clone(),
        }
    }
}

/// The boot log that a device's log carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootLogReport {
    /// Its leaf.
    pub leaf: u64,
    /// SHA-256 of the log.
    pub sha256: Digest,
    /// Its length.
    pub bytes: u64,
    /// Whether it leads to the values of the last quote that counts.
    pub leads: bool,
    /// The PCRs to which it does not.
    pub misses: Vec<u8>,
    /// Why it cannot be read.
    pub problem: Option<String>,
}

/// A machine, as far as its quotes and its boot log show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineReport {
    /// The device's id.
    pub device: String,
    /// Its host name, as it said.
    pub hostname: Option<String>,
    /// The log: the device's newest one.
    pub origin: String,
    /// What the newest quote makes of it.
    pub attestation: AttestationReport,
    /// The leaf of the newest quote that counts: everything below is of it.
    pub quote: Option<u64>,
    /// When it came, in seconds since 1970.
    pub quoted_at: u64,
    /// The quoted values of the bank `sha256`, by PCR.
    pub pcrs: BTreeMap<u8, String>,
    /// The boot log of this start of the machine.
    pub boot_log: Option<BootLogReport>,
    /// What it shows; only where it leads to the quote.
    pub facts: Option<Facts>,
    /// Which states the collector accepts; absent where it accepts any, and where it does not run.
    pub policy: Option<PolicyReport>,
}

impl MachineReport {
    /// As a machine policy judges it.
    pub fn machine(&self) -> Machine<'_> {
        Machine {
            device: &self.device,
            pcrs: &self.pcrs,
            facts: self.facts.as_ref(),
        }
    }
}

/// The machine policy of a collector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyReport {
    /// Its file.
    pub file: PathBuf,
    /// SHA-256 of what is in force.
    pub sha256: Digest,
    /// Why the file as it is now is not in force.
    pub problem: Option<String>,
}

/// Where a boot log is archived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootLogOrder {
    /// The log.
    pub origin: String,
    /// Its leaf.
    pub leaf: u64,
}

/// An archived boot log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchivedBootLog {
    /// Its bytes; absent when they are not here any more.
    pub boot_log: Option<Base64>,
}

/// Why the machine policy cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyFileError {
    /// It cannot be read.
    #[error("{path}: reading the machine policy")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the disk said.
        #[source]
        source: std::io::Error,
    },
    /// It is none.
    #[error("{path}")]
    Policy {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: MachinePolicyError,
    },
}

/// A policy that is in force.
pub(crate) struct InForce {
    pub(crate) policy: MachinePolicy,
    pub(crate) sha256: Digest,
}

struct Seen {
    /// The file as it was read last, right or wrong.
    bytes: Vec<u8>,
    in_force: Arc<InForce>,
    problem: Option<String>,
}

impl Seen {
    /// The file could not be read the last time.
    fn is_gone(&self) -> bool {
        self.problem.is_some() && sha256(&[&self.bytes]) == self.in_force.sha256
    }
}

/// The operator's file of accepted states. What is wrong with a changed one leaves the one before in force.
pub(crate) struct PolicyFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    seen: Mutex<Seen>,
}

impl PolicyFile {
    pub(crate) fn open(host: &Host, path: &Path) -> Result<Self, PolicyFileError> {
        let bytes = read_policy(&*host.disk, path)?;
        let in_force = Arc::new(parse(path, &bytes)?);
        Ok(Self {
            disk: host.disk.clone(),
            path: path.to_path_buf(),
            seen: Mutex::new(Seen {
                bytes,
                in_force,
                problem: None,
            }),
        })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn in_force(&self) -> Arc<InForce> {
        self.seen().in_force.clone()
    }

    pub(crate) fn report(&self) -> PolicyReport {
        let seen = self.seen();
        PolicyReport {
            file: self.path.clone(),
            sha256: seen.in_force.sha256,
            problem: seen.problem.clone(),
        }
    }

    /// Reads the file again. Whether there is anything to say: another policy is in force, or there is another reason
    /// why the file is not.
    pub(crate) fn look(&self) -> bool {
        // Read without the lock: it is the disk's time.
        let found = read_policy(&*self.disk, &self.path);
        let mut seen = self.seen();
        let parsed = match found {
            Ok(bytes) if bytes == seen.bytes && !seen.is_gone() => return false,
            Ok(bytes) => {
                let parsed = parse(&self.path, &bytes);
                seen.bytes = bytes;
                parsed
            }
            Err(error) => Err(error),
        };
        let (before, was) = (seen.in_force.sha256, seen.problem.take());
        match parsed {
            Ok(in_force) => seen.in_force = Arc::new(in_force),
            Err(error) => seen.problem = Some(words(&error)),
        }
        seen.in_force.sha256 != before || seen.problem != was
    }
}

fn read_policy(disk: &dyn Disk, path: &Path) -> Result<Vec<u8>, PolicyFileError> {
    read(disk, path, POLICY_BYTES_MAX as u64).map_err(|source| PolicyFileError::Read {
        path: path.to_path_buf(),
        source,
    })
}

fn parse(path: &Path, bytes: &[u8]) -> Result<InForce, PolicyFileError> {
    let policy = MachinePolicy::parse(bytes).map_err(|source| PolicyFileError::Policy {
        path: path.to_path_buf(),
        source,
    })?;
    Ok(InForce {
        policy,
        sha256: sha256(&[bytes]),
    })
}

/// An error with its causes, in one line.
fn words(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let words: Vec<String> = causes.map(ToString::to_string).collect();
    let text = words.join(": ").replace(char::is_control, " ");
    text.chars().take(WORDS_MAX).collect()
}

/// The longest reason that a leaf names.
const WORDS_MAX: usize = 1_000;
