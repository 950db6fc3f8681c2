//! The ledger: a crash-safe append-only log of opaque records. Outbox and local evidence of the
//! endpoint, archive of the collector.
//!
//! Promise: once [`Ledger::append`] returns, the whole group of records and its state blob survive
//! a crash of this process or this machine, and both come back together or not at all. Order is
//! append order.
//!
//! Trust: not trusted. Who can write these files can stop delivery or hide the newest records;
//! they cannot alter a sealed record unnoticed (`docs/threat-model.md`).
//!
//! Not here: what the bytes mean, when to deliver. The byte map is `docs/formats/ledger.md`.

mod format;
mod fsck;
mod group;
mod ledger;
mod reader;

pub use fsck::{Fsck, SegmentReport, fsck};
pub use group::Group;
pub use ledger::{Closed, Ledger, Options, Prepared, Replayed};
pub use reader::{Item, Reader};

use std::io;
use std::path::PathBuf;

/// The largest record body in bytes; a snapshot is the only record that comes near it.
pub const RECORD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Why the ledger could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// Bytes in the middle of a segment are not what was written. Nothing was cut off.
    #[error(
        "{path}: damaged at byte {offset}, with good records after it; run `jurat ledger fsck`"
    )]
    Corrupt {
        /// The segment.
        path: PathBuf,
        /// Where the damage begins.
        offset: u64,
    },
    /// The disk has no room; the group was not written and may be tried again.
    #[error("{path}: no space left on the disk")]
    Full {
        /// The segment.
        path: PathBuf,
    },
    /// The disk failed. What was acknowledged is safe; open the ledger anew.
    #[error("{path}: {doing}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the disk said.
        #[source]
        source: io::Error,
    },
    /// Another process has the ledger open.
    #[error("{path}: another process has this ledger open")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// An earlier write failed: the ledger must be opened anew before it can go on.
    #[error("the ledger failed earlier and must be opened anew")]
    Poisoned,
    /// A record is larger than a record may be.
    #[error("a record of {len} bytes, the limit is {RECORD_BYTES_MAX}")]
    TooLong {
        /// Its length.
        len: usize,
    },
}
