//! A bundle from the endpoint's own ledger.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use jurat_disk::Disk;
use jurat_ledger::{LedgerError, Reader};
use jurat_proof::{
    Checkpoint, Enrolled, Exported, Note, Record, Selection, Withhold, parse_leaves,
};

use crate::kind;

/// Why no bundle could be made.
pub type ExportError = jurat_proof::ExportError<LedgerError>;

/// Writes what is wanted of the log in this folder into a bundle that ends in a cosigned checkpoint, or in
/// the newest signed one when none was cosigned.
///
/// # Errors
/// [`ExportError`]: `Begins` when the first leaves were removed from this machine after they were archived;
/// the collector holds all of them.
pub fn export(
    disk: Arc<dyn Disk>,
    dir: &Path,
    wanted: &Selection,
    withhold: &Withhold,
    enrolled: Enrolled,
    out: impl Write,
) -> Result<Exported, ExportError> {
    let heads = Heads::find(&disk, dir)?;
    jurat_proof::export(
        &mut |give| heads.records(&disk, dir, give),
        wanted,
        withhold,
        &mut |_| None,
        enrolled,
        out,
    )
}

/// Where the signed and the cosigned checkpoints stand, by their size: behind later leaves, perhaps.
struct Heads {
    at: BTreeMap<u64, Vec<u64>>,
    limit: u64,
}

impl Heads {
    fn find(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Self, LedgerError> {
        let mut at: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        let mut reader = Reader::open(disk.clone(), dir, 0)?;
        let limit = reader.limit();
        while let Some(item) = reader.next_record()? {
            if !matches!(item.kind, kind::CHECKPOINT | kind::COSIGNED) {
                continue;
            }
            let note = Note::parse(item.body).ok();
            if let Some(head) = note.and_then(|note| Checkpoint::parse(&note.text).ok()) {
                at.entry(head.size).or_default().push(item.position);
            }
        }
        Ok(Self { at, limit })
    }

    /// Gives all evidence in order, with each head at its place.
    fn records(
        &self,
        disk: &Arc<dyn Disk>,
        dir: &Path,
        give: &mut dyn FnMut(Record<'_>) -> ControlFlow<()>,
    ) -> Result<(), LedgerError> {
        let mut reader = Reader::new(disk.clone(), dir, 0, self.limit)?;
        let mut next: Option<u64> = None;
        let head = |size: u64, give: &mut dyn FnMut(Record<'_>) -> ControlFlow<()>| {
            for position in self.at.get(&size).into_iter().flatten() {
                let mut reader = Reader::new(disk.clone(), dir, *position, self.limit)?;
                if let Some(note) = reader.next_record()?
                    && give(Record::Checkpoint(note.body)).is_break()
                {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok::<_, LedgerError>(ControlFlow::Continue(()))
        };
        while let Some(item) = reader.next_record()? {
            let (record, leaves) = match item.kind {
                kind::ENTRY => (Record::Entry(item.body), 1),
                kind::PAYLOAD if !item.erased => match item.body.split_first_chunk::<32>() {
                    Some((salt, bytes)) => (Record::Payload { salt, bytes }, 0),
                    None => continue,
                },
                kind::LEAVES => match parse_leaves(item.body) {
                    Some(record @ Record::Leaves { hashes, .. }) => (record, hashes.len() as u64),
                    _ => continue,
                },
                _ => continue,
            };
            if leaves > 0
                && let Some(size) = next
                && head(size, give)?.is_break()
            {
                return Ok(());
            }
            if give(record).is_break() {
                return Ok(());
            }
            next = Some(next.unwrap_or(0) + leaves);
        }
        if let Some(size) = next {
            let _ = head(size, give)?;
        }
        Ok(())
    }
}
