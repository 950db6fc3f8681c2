//! What an operator asks of a collector: who its devices are, to revoke or allow one, to erase payloads.
//!
//! A collector that runs is asked over HTTPS (`/v1/admin/...`, with the token in `admin.token`); the
//! folder of one that does not is opened here.

use std::path::{Path, PathBuf};

use jurat_attest::{Finding, Status};
use jurat_disk::{Host, read, replace};
use jurat_event::EraseRequest;
use jurat_ledger::LedgerError;
use serde::{Deserialize, Serialize};

use crate::archive::{Archive, Ask, Done as Written};
use crate::attested::Attested;
use crate::export::archived_boot_log;
use crate::machine::{ArchivedBootLog, BootLogOrder, MachineReport};
use crate::{ArchiveError, Refused};

/// What an operator orders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Order {
    /// A key of this device counts no more.
    Revoke {
        /// The device.
        device: String,
        /// Why: it stands in the collector's log.
        reason: String,
        /// The epoch whose key it is; the newest when none is named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        epoch: Option<u64>,
        /// The key, whole or its id: one that signs or signed. The one that signs now when none is named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
    },
    /// This device may begin its next epoch without its old key's consent.
    AllowReenrolment {
        /// The device.
        device: String,
    },
}

/// Payloads of one log that an operator erases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EraseOrder {
    /// The device's id, or the origin where it has several logs.
    pub device: String,
    /// Which, who, and why.
    pub request: EraseRequest,
}

/// What became of an order; durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The leaf of the collector's log that says so.
    pub leaf: u64,
}

/// How a log stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Standing {
    /// It is heard of.
    Active,
    /// It was not heard of for too long.
    Silent {
        /// When it was heard of last, in seconds since 1970.
        since: u64,
    },
    /// Its key counts no more.
    Revoked {
        /// From this leaf of the collector's log on.
        leaf: u64,
        /// Why.
        reason: String,
    },
    /// A key that signed before, and was rotated away, counts no more.
    RevokedBefore {
        /// The key.
        key: String,
        /// From this leaf of the collector's log on.
        leaf: u64,
        /// Why.
        reason: String,
    },
    /// A signed head contradicts what was witnessed.
    Forked,
    /// A signed head came with entries that do not give it: another history, or wrong entries.
    Disputed {
        /// The leaf of the collector's log that holds it.
        leaf: u64,
    },
    /// Two boots take turns: one log on two machines.
    Cloned {
        /// The pairs that were seen.
        boots: Vec<[String; 2]>,
    },
    /// Another epoch goes on in its place.
    Closed {
        /// Which.
        by: u64,
    },
}

/// One log of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochReport {
    /// Which, from 0.
    pub epoch: u64,
    /// Its origin.
    pub origin: String,
    /// The key that signs it now.
    pub key: String,
    /// The keys that signed it before, the first one first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys_before: Vec<String>,
    /// When it was enrolled, in seconds since 1970.
    pub enrolled_at: u64,
    /// When it was heard of last, in seconds since 1970.
    pub heard_at: u64,
    /// Leaves archived.
    pub size: u64,
    /// What its machine said of itself, where a TPM holds its keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<AttestationReport>,
    /// How it stands; only `active` when nothing else is true.
    pub standing: Vec<Standing>,
}

/// What the newest quote of a machine makes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttestationReport {
    /// In one word.
    pub status: Status,
    /// What was found of it.
    pub findings: Vec<Finding>,
    /// Its leaf.
    pub seq: u64,
    /// When it came, in seconds since 1970.
    pub at: u64,
    /// How long before that it was made at the earliest, in seconds; absent when nothing says.
    pub age_s: Option<u64>,
    /// Quotes that counted.
    pub good: u64,
    /// Quotes that did not.
    pub bad: u64,
    /// The state of the operator's policy that the machine is in; absent without a policy, and when it is in none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<String>,
}

impl From<&Attested> for AttestationReport {
    fn from(attested: &Attested) -> Self {
        Self {
            status: attested.status,
            findings: attested.findings.clone(),
            seq: attested.seq,
            at: attested.at,
            age_s: attested.age_s,
            good: attested.good,
            bad: attested.bad,
            accepted: attested.accepted.clone(),
        }
    }
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceReport {
    /// Its id.
    pub device: String,
    /// Its host name, as it said.
    pub hostname: Option<String>,
    /// What holds its key, as it said.
    pub key_kind: String,
    /// Its logs, the newest first.
    pub epochs: Vec<EpochReport>,
}

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// The collector runs: ask it.
    #[error("the collector in {path} runs")]
    Runs {
        /// Its folder.
        path: PathBuf,
    },
    /// No collector was ever started there.
    #[error("{path}: no collector was ever started with this folder")]
    Missing {
        /// The file that would be there.
        path: PathBuf,
        /// What the disk said.
        #[source]
        source: std::io::Error,
    },
    /// There is no such device.
    #[error("no device {0} is enrolled here")]
    Unknown(String),
    /// Nothing is known of its machine.
    #[error(
        "the machine of {0} says nothing of itself: its keys are in no TPM, or no quote came yet"
    )]
    Mute(String),
    /// The collector refuses.
    #[error("{0}")]
    Refused(String),
    /// The archive failed.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

impl Order {
    /// The device that it is about.
    pub fn device(&self) -> &str {
        match self {
            Self::Revoke { device, .. } | Self::AllowReenrolment { device } => device,
        }
    }

    pub(crate) fn ask(self) -> Ask {
        match self {
            Self::Revoke {
                device,
                reason,
                epoch,
                key,
            } => Ask::Revoke {
                device,
                reason,
                epoch,
                key,
            },
            Self::AllowReenrolment { device } => Ask::AllowReenrolment { device },
        }
    }
}

impl Done {
    /// `None`: there is no such device.
    pub(crate) fn of(written: Written) -> Result<Option<Self>, Refused> {
        match written {
            Written::Said(leaf) => Ok(Some(Self { leaf })),
            Written::Refused(refused) => Err(refused),
            _ => Ok(None),
        }
    }
}

/// Carries out an order in the folder of a collector that does not run.
///
/// # Errors
/// [`AdminError::Runs`] when it does.
pub fn carry_out(host: &Host, dir: &Path, order: Order) -> Result<Done, AdminError> {
    let (_, mut writer) = open(host, dir)?;
    let device = order.device().to_owned();
    let done = writer.commit(vec![order.ask()])?.pop();
    writer.seal_own_log()?;
    let done = Done::of(done.ok_or(ArchiveError::Failed)?);
    let done = done.map_err(|refused| AdminError::Refused(refused.refusal.message))?;
    done.ok_or(AdminError::Unknown(device))
}

/// The devices of a collector that does not run.
///
/// # Errors
/// As [`carry_out`].
pub fn devices(host: &Host, dir: &Path) -> Result<Vec<DeviceReport>, AdminError> {
    Ok(open(host, dir)?.0.devices())
}

/// What is known of a machine at a collector that does not run.
///
/// # Errors
/// As [`carry_out`].
pub fn machine(host: &Host, dir: &Path, device: &str) -> Result<MachineReport, AdminError> {
    let (archive, _) = open(host, dir)?;
    let report = archive.machine(device);
    report.ok_or_else(|| AdminError::Mute(device.to_owned()))
}

/// A boot log in the folder of a collector that does not run.
///
/// # Errors
/// As [`carry_out`].
pub fn boot_log(
    host: &Host,
    dir: &Path,
    order: &BootLogOrder,
) -> Result<ArchivedBootLog, AdminError> {
    let (archive, _) = open(host, dir)?;
    Ok(archived_boot_log(&archive, order)?)
}

pub(crate) fn open(
    host: &Host,
    dir: &Path,
) -> Result<(std::sync::Arc<Archive>, crate::archive::Writer), AdminError> {
    let address = Address::load(host, dir)?;
    Archive::open(host.clone(), dir, &address.domain, 0, 0).map_err(|error| match error {
        ArchiveError::Ledger(LedgerError::Locked { .. }) => AdminError::Runs {
            path: dir.to_path_buf(),
        },
        error => error.into(),
    })
}

/// Where a collector listens, in its folder's file `address`: a line with the URL, one with the domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// `https://host:port`, where it listened last.
    pub url: String,
    /// The first part of every origin.
    pub domain: String,
}

impl Address {
    /// Reads the file.
    ///
    /// # Errors
    /// [`AdminError::Missing`].
    pub fn load(host: &Host, dir: &Path) -> Result<Self, AdminError> {
        let path = dir.join("address");
        let text = read(&*host.disk, &path, 4096).and_then(|bytes| {
            String::from_utf8(bytes).map_err(|_| std::io::Error::other("not text"))
        });
        let parsed = text.and_then(|text| {
            let mut lines = text.lines();
            match (lines.next(), lines.next()) {
                (Some(url), Some(domain)) => Ok(Self {
                    url: url.to_owned(),
                    domain: domain.to_owned(),
                }),
                _ => Err(std::io::Error::other("not an address and a domain")),
            }
        });
        parsed.map_err(|source| AdminError::Missing { path, source })
    }

    pub(crate) fn store(&self, host: &Host, dir: &Path) -> std::io::Result<()> {
        let text = format!("{}\n{}\n", self.url, self.domain);
        replace(&*host.disk, &dir.join("address"), text.as_bytes())
    }
}
