//! A bundle from the archive.

use std::collections::{BTreeSet, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jurat_disk::Disk;
use jurat_ledger::Reader;
use jurat_proof::{BundleWriter, Checkpoint, Manifest, Note, Record, RecordReader};

use crate::archive::{Archive, ArchiveError, kind, split_upload};
use crate::ingest::decompress;

/// Why no bundle could be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The archive failed.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Nothing of this log is archived.
    #[error("nothing of {0} is archived here")]
    Unknown(String),
    /// The bundle could not be written.
    #[error("writing the bundle")]
    Write(#[from] std::io::Error),
}

/// Writes everything archived of a log into a bundle. Returns the number of leaves.
///
/// # Errors
/// [`ExportError`].
pub fn export(archive: &Archive, origin: &str, out: impl Write) -> Result<u64, ExportError> {
    Archived::of(archive).write(origin, out)
}

/// Likewise from the folder of a collector, whether it runs or not; changes nothing there. The log is named
/// by its origin or by a part of it that no other log has, such as the device's id.
///
/// # Errors
/// [`ExportError::Unknown`] names the logs that are archived when the name fits none or several.
pub fn export_folder(
    disk: Arc<dyn Disk>,
    dir: &Path,
    name: &str,
    out: impl Write,
) -> Result<u64, ExportError> {
    let dir = dir.join("archive");
    let end = Reader::open(disk.clone(), &dir, 0).map_err(ArchiveError::from)?;
    let archived = Archived {
        disk,
        dir,
        end: end.limit(),
    };
    let origins = archived.origins()?;
    let mut fitting = origins.iter().filter(|origin| origin.contains(name));
    match (fitting.next(), fitting.next()) {
        (Some(origin), None) => archived.write(origin, out),
        _ => {
            let known: Vec<_> = origins.into_iter().take(20).collect();
            let known = known.join(", ");
            Err(ExportError::Unknown(format!(
                "{name:?} (there is: {known})"
            )))
        }
    }
}

/// An archive up to a position, for reading.
struct Archived {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    end: u64,
}

/// What a first look at a log finds.
struct Found {
    /// The newest cosigned note.
    note: Vec<u8>,
    size: u64,
    /// Where the uploads stand that came late, by their first leaf.
    late: HashMap<u64, u64>,
}

impl Archived {
    fn of(archive: &Archive) -> Self {
        let (disk, dir, end) = archive.place();
        Self { disk, dir, end }
    }

    fn reader(&self, from: u64) -> Result<Reader, ArchiveError> {
        Ok(Reader::new(self.disk.clone(), &self.dir, from, self.end)?)
    }

    fn origins(&self) -> Result<BTreeSet<String>, ArchiveError> {
        let mut origins = BTreeSet::new();
        let mut reader = self.reader(0)?;
        while let Some(item) = reader.next_record()? {
            if item.kind == kind::UPLOAD {
                origins.insert(split_upload(item.body)?.0.origin);
            }
        }
        Ok(origins)
    }

    fn look(&self, origin: &str) -> Result<Option<Found>, ArchiveError> {
        let (mut note, mut late) = (None, HashMap::new());
        let mut mine = false;
        let mut reader = self.reader(0)?;
        while let Some(item) = reader.next_record()? {
            if item.kind == kind::UPLOAD {
                let (header, _) = split_upload(item.body)?;
                mine = header.origin == origin;
                if mine && header.late {
                    late.insert(header.from, item.position);
                }
            } else if item.kind == kind::NOTE && mine {
                note = Some(item.body.to_vec());
            }
        }
        let Some(note) = note else { return Ok(None) };
        let size = size_of(&note)?;
        Ok(Some(Found { note, size, late }))
    }

    fn write(&self, origin: &str, out: impl Write) -> Result<u64, ExportError> {
        let found = self
            .look(origin)?
            .ok_or_else(|| ExportError::Unknown(origin.to_owned()))?;
        let manifest = Manifest::new(origin, found.size);
        let mut bundle = BundleWriter::new(out, &manifest, &found.note)?;
        let damaged = |what: String| ArchiveError::Damaged(what);
        let unpack = |body: &[u8], raw: &mut Vec<u8>| {
            decompress(split_upload(body)?.1, raw)
                .map_err(|refused| damaged(refused.refusal.message))
        };
        let mut raw = Vec::new();
        let mut mine = false;
        let mut reader = self.reader(0)?;
        while let Some(item) = reader.next_record().map_err(ArchiveError::from)? {
            match item.kind {
                kind::UPLOAD => {
                    let (header, _) = split_upload(item.body)?;
                    mine = header.origin == origin;
                    if !mine || header.late {
                        continue;
                    }
                    match found.late.get(&header.from) {
                        Some(position) => {
                            let mut reader = self.reader(*position)?;
                            let item = reader.next_record().map_err(ArchiveError::from)?;
                            unpack(item.map_or(&[][..], |item| item.body), &mut raw)?;
                        }
                        None => unpack(item.body, &mut raw)?,
                    }
                    for record in RecordReader::new(&raw) {
                        let record = record.map_err(|error| damaged(error.to_string()))?;
                        // The device's own checkpoints come again, cosigned, where an upload ended.
                        if !matches!(record, Record::Checkpoint(_)) {
                            bundle.record(&record)?;
                        }
                    }
                }
                kind::NOTE if mine && size_of(item.body)? < found.size => {
                    bundle.record(&Record::Checkpoint(item.body))?;
                }
                _ => {}
            }
        }
        bundle.finish()?.flush()?;
        Ok(found.size)
    }
}

fn size_of(note: &[u8]) -> Result<u64, ArchiveError> {
    let damaged = |error: jurat_proof::NoteError| ArchiveError::Damaged(error.to_string());
    let note = Note::parse(note).map_err(damaged)?;
    Ok(Checkpoint::parse(&note.text).map_err(damaged)?.size)
}
