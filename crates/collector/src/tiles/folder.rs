//! A log as a folder of tiles, from a collector's folder.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::sync::Arc;

use jurat_disk::Disk;
use jurat_ledger::Reader;
use jurat_proof::{Checkpoint, Digest, Note, Record, TileWriteError, TileWriter, Tiled};

use super::{TilesError, records, unpack};
use crate::ArchiveError;
use crate::archive::{kind, split_upload};
use crate::export::{the_one, upload_at};

/// Why no folder could be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TilesExportError {
    /// The archive cannot be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// No log, or several, bear this name.
    #[error("{0}")]
    Unknown(String),
    /// A file could not be written, or the leaves are not those of the head.
    #[error(transparent)]
    Write(#[from] TileWriteError),
}

impl From<jurat_ledger::LedgerError> for TilesExportError {
    fn from(error: jurat_ledger::LedgerError) -> Self {
        Self::Archive(error.into())
    }
}

impl From<TilesError> for TilesExportError {
    fn from(error: TilesError) -> Self {
        match error {
            TilesError::Archive(error) => Self::Archive(error),
            other => Self::Archive(ArchiveError::Damaged(other.to_string())),
        }
    }
}

/// What a first look at the archive finds of a log.
#[derive(Default)]
struct Found {
    /// The newest note.
    note: Vec<u8>,
    /// Where the uploads stand that came late, by their first leaf.
    late: HashMap<u64, u64>,
}

/// Gives every file of a log's folder (tiles, entry bundles, checkpoint) to `write`, from the folder of
/// a collector, whether it runs or not; changes nothing there. The log is named by its origin or by a
/// part of it that no other log has, such as the device's id; the collector's own log is one of them.
///
/// # Errors
/// [`TilesExportError::Unknown`] names the logs that are archived when the name fits none or several.
pub fn export_tiles(
    disk: Arc<dyn Disk>,
    dir: &Path,
    name: &str,
    write: impl FnMut(&str, &[u8]) -> io::Result<()>,
) -> Result<Tiled, TilesExportError> {
    let dir = dir.join("archive");
    let mut reader = Reader::open(disk.clone(), &dir, 0)?;
    let end = reader.limit();
    let mut logs: BTreeMap<String, Found> = BTreeMap::new();
    let mut own = None;
    let mut origin = String::new();
    while let Some(item) = reader.next_record()? {
        match item.kind {
            // Of one whose payloads were erased the header stays; another one came late in its place.
            kind::UPLOAD => {
                let (header, _) = split_upload(item.body)?;
                origin = header.origin;
                let log = logs.entry(origin.clone()).or_default();
                if header.late {
                    log.late.insert(header.from, item.position);
                }
            }
            kind::NOTE => {
                if let Some(log) = logs.get_mut(&origin) {
                    log.note = item.body.to_vec();
                }
            }
            kind::OWN_CHECKPOINT => own = Some(item.body.to_vec()),
            _ => {}
        }
    }
    let mut own_origin = String::new();
    if let Some(note) = own {
        own_origin = head(&note)?.origin;
        let late = HashMap::new();
        logs.insert(own_origin.clone(), Found { note, late });
    }
    // The collector's own is meant only by its name.
    let named = |origin: &&String| **origin != own_origin || !name.is_empty();
    let origins = logs.keys().filter(named).cloned().collect();
    let origin = the_one(&origins, name).map_err(TilesExportError::Unknown)?;
    let found = &logs[origin];
    let size = head(&found.note)?.size;
    let mut writer = TileWriter::new(write);
    let mut raw = Vec::new();
    let mut at = 0;
    let mut own = origin == own_origin && size > 0;
    let mut reader = Reader::new(disk.clone(), &dir, 0, end)?;
    while let Some(item) = reader.next_record()? {
        if item.kind == kind::OWN_ENTRY && own {
            writer.entry(item.body)?;
            at += 1;
            own = at < size;
        }
        if item.kind != kind::UPLOAD {
            continue;
        }
        let (header, body) = split_upload(item.body)?;
        if header.origin != origin || header.late {
            continue;
        }
        let late = found.late.get(&header.from).copied();
        if late.is_none() && !item.erased {
            unpack(body, &mut raw)?;
        } else {
            let place = late.unwrap_or(item.position);
            unpack(&upload_at(&disk, &dir, place)?, &mut raw)?;
        }
        for record in records(&raw) {
            match record? {
                Record::Entry(entry) => writer.entry(entry)?,
                Record::Leaves { hashes, .. } => hashes
                    .iter()
                    .try_for_each(|hash| writer.withheld(Digest(*hash)))?,
                Record::Payload { .. } | Record::Checkpoint(_) => {}
            }
        }
    }
    Ok(writer.finish(&found.note)?)
}

fn head(note: &[u8]) -> Result<Checkpoint, ArchiveError> {
    let damaged = |error: jurat_proof::NoteError| ArchiveError::Damaged(error.to_string());
    let note = Note::parse(note).map_err(damaged)?;
    Checkpoint::parse(&note.text).map_err(damaged)
}
