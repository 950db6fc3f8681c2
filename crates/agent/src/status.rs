//! What an endpoint says about itself.

use std::path::Path;

use jurat_disk::{Disk, read};
use jurat_key::fips::Library;
use jurat_sink::Guarantee;
use serde::{Deserialize, Serialize};

use crate::receipts::ReceiptStatus;

/// A queue: how much waits, and for how long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// Leaves that wait.
    pub len: u64,
    /// Bytes that wait.
    pub bytes: u64,
    /// Age of the oldest, in seconds.
    pub oldest_s: u64,
}

/// The state of an endpoint, written to `status.json` while it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// When this was written, RFC 3339.
    pub time: String,
    /// The process.
    pub pid: u32,
    /// `running`, `paused: <why>` or `stopped`.
    pub state: String,
    /// The log.
    pub origin: String,
    /// The collector.
    pub collector: String,
    /// The library that does its cryptography.
    #[serde(default)]
    pub crypto: Library,
    /// Files followed.
    pub files: u64,
    /// Bytes in files that were not read yet.
    pub unread_bytes: u64,
    /// Files and folders that cannot be read now.
    pub unreadable: u64,
    /// The first of them, each with what the system said.
    pub unreadable_examples: Vec<String>,
    /// Lines read since the start.
    pub lines_in: u64,
    /// Records sealed since the start.
    pub records_sealed: u64,
    /// Records filtered since the start, by reason.
    pub records_filtered: std::collections::BTreeMap<String, u64>,
    /// Leaves made of records and blocks since the start.
    pub events: u64,
    /// Values redacted since the start.
    pub redactions: u64,
    /// Records whose content was withheld since the start.
    pub withheld: u64,
    /// Payloads and entries removed before they were archived, since the start: the disk was full and the
    /// configuration said `when_full = "prune"`.
    pub shed: u64,
    /// Leaves in the log.
    pub size: u64,
    /// The root over them.
    pub root: String,
    /// Leaves archived by the collector.
    pub delivered: u64,
    /// What waits for the collector.
    pub queue: Queue,
    /// When the last checkpoint came back cosigned, in seconds since 1970.
    pub cosigned_at: Option<u64>,
    /// For how many seconds leaves have been waiting for a cosignature: the exposure now.
    pub exposure_s: u64,
    /// Whether the collector confirmed the head at the start.
    pub frontier_confirmed: bool,
    /// The last problem with delivery, absent when there is none.
    pub problem: Option<String>,
    /// Whether that is the collector's refusal of this device.
    #[serde(default)]
    pub device_refused: bool,
    /// Uploads that the collector refused for good and that wait for `jurat dead-letters retry`.
    #[serde(default)]
    pub dead_letters: u64,
    /// Payloads of this log that were erased on request.
    #[serde(default)]
    pub erased: u64,
    /// Bytes in the ledger.
    pub ledger_bytes: u64,
    /// The newest accepted head that was found in the collector's log.
    #[serde(default)]
    pub receipt: Option<ReceiptStatus>,
    /// Why the machine's boot log cannot be read, while it is so.
    #[serde(default)]
    pub boot_log: Option<String>,
    /// Why an accepted head was not found there, while it is so.
    #[serde(default)]
    pub receipt_missing: Option<String>,
    /// Where events go besides the collector.
    #[serde(default)]
    pub sinks: Vec<SinkStatus>,
}

/// How a sink is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkStatus {
    /// Its name.
    pub name: String,
    /// Where it leads.
    pub to: String,
    /// What it means that something was sent.
    pub guarantee: Guarantee,
    /// Leaves passed.
    pub size: u64,
    /// Messages sent, since the first start.
    pub sent: u64,
    /// Messages that lacked something for their length, since this start.
    pub shed: u64,
    /// Leaves that could not be sent, for they were removed before: since this start.
    pub missed: u64,
    /// What keeps it from sending, while it is so.
    pub problem: Option<String>,
}

/// The status that the running endpoint wrote last, if it ever ran.
///
/// # Errors
/// When the file cannot be read or is not a status.
pub fn read_status(disk: &dyn Disk, state_dir: &Path) -> std::io::Result<Option<Status>> {
    match read(disk, &state_dir.join("status.json"), 1024 * 1024) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(std::io::Error::other),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
