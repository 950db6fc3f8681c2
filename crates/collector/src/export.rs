//! A bundle from the archive.

use std::io::Write;

use jurat_proof::{BundleWriter, Checkpoint, Manifest, Note, Record};

use crate::archive::{Archive, ArchiveError, replay_log};

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
    let (frontier, end) = archive.frontier_at(origin)?;
    let note = frontier
        .note
        .ok_or_else(|| ExportError::Unknown(origin.to_owned()))?;
    let mut bundle =
        BundleWriter::new(out, &Manifest::new(origin, frontier.size), note.as_bytes())?;
    let mut failed: Option<std::io::Error> = None;
    replay_log(archive, origin, end, &mut |record, cosigned| {
        // The device's own checkpoints come again, cosigned, where an upload ended.
        let wanted = match (&record, cosigned) {
            (Record::Checkpoint(_), note) => {
                note.is_some_and(|note| is_earlier(note, frontier.size))
            }
            _ => true,
        };
        if wanted && let Err(error) = bundle.record(&record) {
            failed = failed.take().or(Some(error));
        }
        Ok(())
    })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    bundle.finish()?.flush()?;
    Ok(frontier.size)
}

fn is_earlier(note: &Note, size: u64) -> bool {
    Checkpoint::parse(&note.text).is_ok_and(|checkpoint| checkpoint.size < size)
}
