//! A bundle from the endpoint's own ledger.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use jurat_disk::Disk;
use jurat_ledger::{LedgerError, Reader};
use jurat_proof::{BundleWriter, Checkpoint, Manifest, Note, Record, parse_leaves};

use crate::kind;

/// Why no bundle could be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Nothing is signed yet.
    #[error("the ledger holds no signed checkpoint yet")]
    Unsigned,
    /// The first leaves were removed from this machine after they were archived.
    #[error(
        "the ledger begins at leaf {first}; `jurat export --collector DIR` exports from the collector, which holds all of them"
    )]
    Incomplete {
        /// The first leaf that is still here.
        first: u64,
    },
    /// The bundle could not be written.
    #[error("writing the bundle")]
    Write(#[from] std::io::Error),
}

/// Writes the log in this folder into a bundle that ends in the newest cosigned checkpoint, or in
/// the newest signed one when none was cosigned. Returns the number of leaves.
///
/// # Errors
/// [`ExportError`].
pub fn export(disk: Arc<dyn Disk>, dir: &Path, out: impl Write) -> Result<u64, ExportError> {
    let mut cosigned: BTreeMap<u64, (String, Vec<u8>)> = BTreeMap::new();
    let mut signed: Option<(u64, String, Vec<u8>)> = None;
    let mut reader = Reader::open(disk.clone(), dir, 0)?;
    let limit = reader.limit();
    while let Some(item) = reader.next_record()? {
        if !matches!(item.kind, kind::CHECKPOINT | kind::COSIGNED) {
            continue;
        }
        let Some(checkpoint) = Note::parse(item.body)
            .ok()
            .and_then(|note| Checkpoint::parse(&note.text).ok())
        else {
            continue;
        };
        if item.kind == kind::COSIGNED {
            cosigned.insert(checkpoint.size, (checkpoint.origin, item.body.to_vec()));
        } else {
            signed = Some((checkpoint.size, checkpoint.origin, item.body.to_vec()));
        }
    }
    let last = cosigned
        .pop_last()
        .map(|(size, (origin, note))| (size, origin, note));
    let (size, origin, note) = last.or(signed).ok_or(ExportError::Unsigned)?;
    let mut bundle = BundleWriter::new(out, &Manifest::new(&origin, size), &note)?;
    let mut reader = Reader::new(disk, dir, 0, limit)?;
    let mut next = 0;
    let mut inside = false;
    while let Some(item) = reader.next_record()? {
        match item.kind {
            kind::ENTRY => {
                if next == 0 {
                    let seq = jurat_proof::EntryView::parse(item.body).map_or(0, |view| view.seq);
                    if seq != 0 {
                        return Err(ExportError::Incomplete { first: seq });
                    }
                }
                if let Some((_, note)) = cosigned.remove(&next) {
                    bundle.record(&Record::Checkpoint(&note))?;
                }
                inside = next < size;
                if !inside {
                    break;
                }
                bundle.record(&Record::Entry(item.body))?;
                next += 1;
            }
            kind::PAYLOAD if inside && !item.erased => {
                if let Some((salt, bytes)) = item.body.split_first_chunk::<32>() {
                    bundle.record(&Record::Payload { salt, bytes })?;
                }
            }
            kind::LEAVES => {
                let Some(record @ Record::Leaves { from, hashes }) = parse_leaves(item.body) else {
                    continue;
                };
                if from != next {
                    return Err(ExportError::Incomplete { first: from });
                }
                if let Some((_, note)) = cosigned.remove(&next) {
                    bundle.record(&Record::Checkpoint(&note))?;
                }
                inside = next < size;
                if !inside {
                    break;
                }
                bundle.record(&record)?;
                next += hashes.len() as u64;
            }
            _ => {}
        }
    }
    bundle.finish()?.flush()?;
    Ok(size)
}
