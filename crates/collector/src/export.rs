//! A bundle from the archive.

use std::collections::{BTreeSet, HashMap};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jurat_disk::Disk;
use jurat_ledger::Reader;
use jurat_proof::{Exported, Record, RecordReader, Selection, Withhold};

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
    /// What is wanted is not there, or the bundle could not be written.
    #[error(transparent)]
    Bundle(#[from] jurat_proof::ExportError<ArchiveError>),
}

/// Writes what is wanted of an archived log into a bundle.
///
/// # Errors
/// [`ExportError`].
pub fn export(
    archive: &Archive,
    origin: &str,
    wanted: &Selection,
    withhold: &Withhold,
    out: impl Write,
) -> Result<Exported, ExportError> {
    Archived::of(archive).write(origin, wanted, withhold, out)
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
    wanted: &Selection,
    withhold: &Withhold,
    out: impl Write,
) -> Result<Exported, ExportError> {
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
        (Some(origin), None) => archived.write(origin, wanted, withhold, out),
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

    /// Where the uploads stand that came late, by their first leaf; `None` when nothing of the log is here.
    fn late(&self, origin: &str) -> Result<Option<HashMap<u64, u64>>, ArchiveError> {
        let mut late = None;
        let mut reader = self.reader(0)?;
        while let Some(item) = reader.next_record()? {
            if item.kind != kind::UPLOAD {
                continue;
            }
            let (header, _) = split_upload(item.body)?;
            if header.origin == origin {
                let late: &mut HashMap<u64, u64> = late.get_or_insert_default();
                if header.late {
                    late.insert(header.from, item.position);
                }
            }
        }
        Ok(late)
    }

    fn write(
        &self,
        origin: &str,
        wanted: &Selection,
        withhold: &Withhold,
        out: impl Write,
    ) -> Result<Exported, ExportError> {
        let late = self
            .late(origin)?
            .ok_or_else(|| ExportError::Unknown(origin.to_owned()))?;
        Ok(jurat_proof::export(
            &mut |give| self.records(origin, &late, give),
            wanted,
            withhold,
            &mut |_| None,
            out,
        )?)
    }

    /// Gives what is archived of a log in order, with each cosigned head at its place.
    fn records(
        &self,
        origin: &str,
        late: &HashMap<u64, u64>,
        give: &mut dyn FnMut(Record<'_>) -> ControlFlow<()>,
    ) -> Result<(), ArchiveError> {
        let damaged = |what: String| ArchiveError::Damaged(what);
        let unpack = |body: &[u8], raw: &mut Vec<u8>| {
            decompress(split_upload(body)?.1, raw)
                .map_err(|refused| damaged(refused.refusal.message))
        };
        let mut raw = Vec::new();
        let mut mine = false;
        let mut reader = self.reader(0)?;
        while let Some(item) = reader.next_record()? {
            match item.kind {
                kind::UPLOAD => {
                    let (header, _) = split_upload(item.body)?;
                    mine = header.origin == origin;
                    if !mine || header.late {
                        continue;
                    }
                    match late.get(&header.from) {
                        Some(position) => {
                            let mut reader = self.reader(*position)?;
                            let item = reader.next_record()?;
                            unpack(item.map_or(&[][..], |item| item.body), &mut raw)?;
                        }
                        None => unpack(item.body, &mut raw)?,
                    }
                    for record in RecordReader::new(&raw) {
                        let record = record.map_err(|error| damaged(error.to_string()))?;
                        if give(record).is_break() {
                            return Ok(());
                        }
                    }
                }
                kind::NOTE if mine && give(Record::Checkpoint(item.body)).is_break() => {
                    return Ok(());
                }
                _ => {}
            }
        }
        Ok(())
    }
}
