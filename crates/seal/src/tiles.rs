//! A log as a folder of tiles, from the endpoint's own ledger.

use std::io;
use std::path::Path;
use std::sync::Arc;

use jurat_disk::Disk;
use jurat_ledger::Reader;
use jurat_proof::{
    Checkpoint, Digest, EntryView, Note, Record, TileWriteError, TileWriter, Tiled, parse_leaves,
};

use crate::{ExportError, kind};

fn failed(error: TileWriteError) -> ExportError {
    match error {
        TileWriteError::Write(error) => ExportError::Write(error),
        other => ExportError::Write(io::Error::other(other)),
    }
}

/// Gives every file of the folder (tiles, entry bundles, checkpoint) to `write`, up to the newest
/// cosigned checkpoint, or to the newest signed one when none was cosigned.
///
/// # Errors
/// [`ExportError`].
pub fn export_tiles(
    disk: Arc<dyn Disk>,
    dir: &Path,
    write: impl FnMut(&str, &[u8]) -> io::Result<()>,
) -> Result<Tiled, ExportError> {
    let mut reader = Reader::open(disk.clone(), dir, 0)?;
    let limit = reader.limit();
    // A cosigned head counts more than any that is only signed, then the larger one.
    let mut newest: Option<((bool, u64), Vec<u8>)> = None;
    while let Some(item) = reader.next_record()? {
        if !matches!(item.kind, kind::CHECKPOINT | kind::COSIGNED) {
            continue;
        }
        let head = Note::parse(item.body).and_then(|note| Checkpoint::parse(&note.text));
        let Ok(head) = head else { continue };
        let rank = (item.kind == kind::COSIGNED, head.size);
        if newest.as_ref().is_none_or(|(best, _)| rank >= *best) {
            newest = Some((rank, item.body.to_vec()));
        }
    }
    let ((_, size), note) = newest.ok_or(ExportError::Unsigned)?;
    let mut writer = TileWriter::new(write);
    let mut reader = Reader::new(disk, dir, 0, limit)?;
    let mut next = 0;
    while next < size {
        let Some(item) = reader.next_record()? else {
            break;
        };
        match item.kind {
            kind::ENTRY => {
                if next == 0 {
                    begins_at_0(EntryView::parse(item.body).map_or(0, |view| view.seq))?;
                }
                writer.entry(item.body).map_err(failed)?;
                next += 1;
            }
            kind::LEAVES => {
                let Some(Record::Leaves { from, hashes }) = parse_leaves(item.body) else {
                    continue;
                };
                if next == 0 {
                    begins_at_0(from)?;
                }
                for hash in hashes {
                    writer.withheld(Digest(*hash)).map_err(failed)?;
                }
                next += hashes.len() as u64;
            }
            _ => {}
        }
    }
    writer.finish(&note).map_err(failed)
}

fn begins_at_0(first: u64) -> Result<(), ExportError> {
    if first > 0 {
        return Err(ExportError::Begins { first });
    }
    Ok(())
}
