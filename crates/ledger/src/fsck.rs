//! Checking a ledger without changing it.

use std::path::{Path, PathBuf};

use jurat_disk::Disk;

use crate::LedgerError;
use crate::format::KIND_OWN;
use crate::ledger::{damage_after, scan};
use crate::reader::{Segment, segments};

/// What was found in one segment.
#[derive(Clone, Debug)]
pub struct SegmentReport {
    /// The file.
    pub path: PathBuf,
    /// Its length in bytes.
    pub len: u64,
    /// Bytes in whole groups.
    pub committed: u64,
    /// Records in whole groups, the ledger's own left out.
    pub records: u64,
    /// Records whose body was erased.
    pub erased: u64,
    /// Where damage begins, with good groups after it or in a closed segment.
    pub damaged_at: Option<u64>,
    /// Bytes of a half-written last group; opening the ledger removes them.
    pub torn: u64,
}

/// What was found in a ledger.
#[derive(Clone, Debug, Default)]
pub struct Fsck {
    /// Segment by segment, oldest first.
    pub segments: Vec<SegmentReport>,
    /// Pairs of segments between which something is missing.
    pub holes: Vec<(u64, u64)>,
}

impl Fsck {
    /// Whether everything is as it was written.
    pub fn is_clean(&self) -> bool {
        self.holes.is_empty()
            && self
                .segments
                .iter()
                .all(|segment| segment.damaged_at.is_none())
    }
}

/// Reads every byte of a ledger and says what it found; changes nothing.
///
/// # Errors
/// [`LedgerError::Io`] when the disk cannot be read. Damage is not an error but the result.
pub fn fsck(disk: &dyn Disk, dir: &Path) -> Result<Fsck, LedgerError> {
    let bases = segments(disk, dir)?;
    let mut found = Fsck::default();
    for (index, base) in bases.iter().enumerate() {
        let last = index + 1 == bases.len();
        let mut segment = match Segment::open(disk, dir, *base) {
            Ok(segment) => segment,
            Err(LedgerError::Corrupt { path, .. }) => {
                let damaged_at = Some(0);
                found.segments.push(SegmentReport {
                    path,
                    len: 0,
                    committed: 0,
                    records: 0,
                    erased: 0,
                    damaged_at,
                    torn: 0,
                });
                continue;
            }
            Err(error) => return Err(error),
        };
        let (committed, stopped) = scan(&mut segment)?;
        let torn = segment.len - committed;
        let damaged_at = if last {
            damage_after(&segment, stopped)?
        } else {
            (torn > 0).then_some(stopped)
        };
        let (mut records, mut erased, mut offset) = (0, 0, crate::format::SEGMENT_HEADER);
        while offset < committed
            && let Some(header) = segment.record(*base + offset)?
        {
            records += u64::from(header.kind < KIND_OWN);
            erased += u64::from(header.is_erased());
            offset += crate::format::RECORD_HEADER + u64::from(header.len);
        }
        if let Some(next) = bases.get(index + 1)
            && *next
                != base
                    + if segment.span > 0 {
                        segment.span
                    } else {
                        committed
                    }
        {
            found.holes.push((*base, *next));
        }
        found.segments.push(SegmentReport {
            path: segment.path,
            len: segment.len,
            committed,
            records,
            erased,
            damaged_at,
            torn: if damaged_at.is_some() { 0 } else { torn },
        });
    }
    Ok(found)
}
