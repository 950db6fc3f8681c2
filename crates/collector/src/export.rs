//! A bundle from the archive.

use std::collections::{BTreeSet, HashMap};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jurat_attest::Base64;
use jurat_attest::machine::boot_log_in;
use jurat_disk::Disk;
use jurat_event::Kind;
use jurat_ledger::Reader;
use jurat_proof::{
    Checkpoint, Enrolled, EntryView, Exported, Note, Passing, Receipt, Record, RecordReader,
    Selection, Withhold, inclusion_ranges, leaf_hash,
};

use crate::archive::{Archive, ArchiveError, instead_of, kind, split_upload};
use crate::ingest::decompress;
use crate::machine::{ArchivedBootLog, BootLogOrder};
use crate::tiles::says_accepted;

/// Why no bundle could be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The archive failed.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// No log, or several, bear this name.
    #[error("{0}")]
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
/// by its origin or by a part of it; of the logs of one device it is the newest. Gives the origin, too.
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
) -> Result<(String, Exported), ExportError> {
    let dir = dir.join("archive");
    let end = Reader::open(disk.clone(), &dir, 0).map_err(ArchiveError::from)?;
    end.check().map_err(ArchiveError::from)?;
    let archived = Archived {
        disk,
        dir,
        end: end.limit(),
    };
    let origins = archived.origins()?;
    let origin = the_one(&origins, name).map_err(ExportError::Unknown)?;
    let exported = archived.write(origin, wanted, withhold, out)?;
    Ok((origin.to_owned(), exported))
}

/// The log that is meant by a name, or what to say: the origin, or a part of it that only the logs of one device
/// have, of which it is the newest. No name is the only device's.
pub(crate) fn the_one<'a>(origins: &'a BTreeSet<String>, name: &str) -> Result<&'a str, String> {
    if let Some(origin) = origins.get(name) {
        return Ok(origin);
    }
    let parts = |origin: &'a String| {
        let (device, epoch) = origin.rsplit_once('/').unwrap_or((origin, ""));
        (device, epoch.parse::<u64>().unwrap_or(0), origin.as_str())
    };
    let fitting: BTreeSet<_> = origins
        .iter()
        .filter(|origin| origin.contains(name))
        .map(parts)
        .collect();
    // In order of devices, and of the epochs of each.
    let (first, last) = (fitting.first(), fitting.last());
    if let (Some((device, ..)), Some((other, _, newest))) = (first, last)
        && device == other
    {
        return Ok(newest);
    }
    let known: Vec<_> = origins.iter().take(20).map(String::as_str).collect();
    let known = known.join(", ");
    Err(match (origins.is_empty(), fitting.is_empty()) {
        (true, _) => "nothing is archived here".into(),
        (false, true) => format!("no log {name} is archived here; there is: {known}"),
        (false, false) => {
            format!("logs of several devices are meant; name one with --device ORIGIN: {known}")
        }
    })
}

/// The boot log that this leaf carries, as far as it is here.
pub(crate) fn archived_boot_log(
    archive: &Archive,
    BootLogOrder { origin, leaf }: &BootLogOrder,
) -> Result<ArchivedBootLog, ArchiveError> {
    let payload = Archived::of(archive).payload(origin, *leaf)?;
    let boot_log = payload.and_then(|payload| boot_log_in(&payload));
    Ok(ArchivedBootLog {
        boot_log: boot_log.map(Base64),
    })
}

#[cfg(test)]
pub(crate) fn receipt(archive: &Archive, origin: &str, size: u64) -> Option<Vec<u8>> {
    Archived::of(archive)
        .receipt(origin, size)
        .unwrap_or_default()
}

/// The records of the upload at this place, or, where its payloads are erased meanwhile, of what came in its
/// place: entries and heads are the same.
pub(crate) fn upload_at(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    position: u64,
) -> Result<Vec<u8>, ArchiveError> {
    let open = |from| Ok(Reader::open(disk.clone(), dir, from)?);
    let mut reader = Reader::new(disk.clone(), dir, position, position + 1)?;
    if let Some(item) = reader.next_record()?
        && !item.erased
    {
        return Ok(split_upload(item.body)?.1.to_vec());
    }
    instead_of(&open, position)
}

/// Whether an entry of the own log says that this log's key is enrolled, and that it is not a file.
fn says_enrolled(entry: &[u8], origin: &str) -> bool {
    let Ok(view) = EntryView::parse(entry) else {
        return false;
    };
    let detail = view.detail_map();
    view.is(Kind::DeviceEnrolled)
        && detail.get("origin").is_some_and(|found| found == origin)
        && detail
            .get("key_kind")
            .is_some_and(|kind| kind != "software")
}

/// An archive up to a position, for reading.
struct Archived {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    end: u64,
}

/// A piece of the collector's own log.
enum Own<'a> {
    Entry(&'a [u8]),
    Head(Note),
    Cosigned(Note),
    Partly(Note),
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
            .ok_or_else(|| ExportError::Unknown(format!("nothing of {origin} is archived here")))?;
        Ok(jurat_proof::export(
            &mut |give| self.records(origin, &late, give),
            wanted,
            withhold,
            &mut |size| self.receipt(origin, size).unwrap_or_default(),
            self.enrolled(origin)?,
            out,
        )?)
    }

    /// The proof that the collector's own log holds this head, under the newest head that covers it: rather one
    /// that outside witnesses cosigned, and rather one that their quorum did; `None` when no head covers it yet.
    fn receipt(&self, origin: &str, size: u64) -> Result<Option<Vec<u8>>, ArchiveError> {
        self.receipt_where(&|entry| says_accepted(entry, origin, size))
    }

    /// What is here of the enrolment of a log whose key is not a file.
    fn enrolled(&self, origin: &str) -> Result<Enrolled, ArchiveError> {
        let mut evidence = None;
        let mut reader = self.reader(0)?;
        while let Some(item) = reader.next_record()? {
            if item.kind != kind::EVIDENCE {
                continue;
            }
            let damaged = || ArchiveError::Damaged("evidence of a TPM".into());
            let (len, rest) = item.body.split_first_chunk::<4>().ok_or_else(damaged)?;
            let len = u32::from_le_bytes(*len) as usize;
            let (of, json) = rest.split_at_checked(len).ok_or_else(damaged)?;
            if of == origin.as_bytes() {
                evidence = Some(json.to_vec());
            }
        }
        let receipt = self.receipt_where(&|entry| says_enrolled(entry, origin))?;
        Ok(Enrolled { receipt, evidence })
    }

    fn receipt_where(
        &self,
        wanted: &dyn Fn(&[u8]) -> bool,
    ) -> Result<Option<Vec<u8>>, ArchiveError> {
        let mut found: Option<(u64, Vec<u8>)> = None;
        let (mut newest, mut cosigned, mut partly) = (None, None, None);
        let mut leaves = 0;
        self.own(&mut |own| match own {
            Own::Entry(entry) => {
                if found.is_none() && wanted(entry) {
                    found = Some((leaves, entry.to_vec()));
                }
                leaves += 1;
            }
            Own::Head(note) => newest = Some(note),
            Own::Cosigned(note) => cosigned = Some(note),
            Own::Partly(note) => partly = Some(note),
        })?;
        let Some((index, entry)) = found else {
            return Ok(None);
        };
        let covers = |note: &Option<Note>| {
            let head = Checkpoint::parse(&note.as_ref()?.text).ok()?;
            (head.size > index).then_some(head)
        };
        let Some((note, head)) = [cosigned, partly, newest]
            .into_iter()
            .find_map(|note| covers(&note).and_then(|head| Some((note?, head))))
        else {
            return Ok(None);
        };
        let mut proof = Passing::new(inclusion_ranges(index, head.size));
        self.own(&mut |own| {
            if let Own::Entry(entry) = own {
                proof.push(leaf_hash(entry));
            }
        })?;
        let receipt = Receipt {
            entry,
            index,
            proof: proof.finish(),
            note,
        };
        Ok(Some(receipt.encode().into_bytes()))
    }

    /// Gives what is archived of the collector's own log, in order.
    fn own(&self, give: &mut dyn FnMut(Own<'_>)) -> Result<(), ArchiveError> {
        let mut reader = self.reader(0)?;
        while let Some(item) = reader.next_record()? {
            let note = || Note::parse(item.body).ok();
            match item.kind {
                kind::OWN_ENTRY => give(Own::Entry(item.body)),
                kind::OWN_CHECKPOINT => note().into_iter().for_each(|note| give(Own::Head(note))),
                kind::OWN_COSIGNED => note()
                    .into_iter()
                    .for_each(|note| give(Own::Cosigned(note))),
                kind::OWN_PARTLY => note().into_iter().for_each(|note| give(Own::Partly(note))),
                _ => {}
            }
        }
        Ok(())
    }

    /// The payload of a leaf; `None` when it is not here.
    fn payload(&self, origin: &str, leaf: u64) -> Result<Option<Vec<u8>>, ArchiveError> {
        let mut place = None;
        let mut reader = self.reader(0)?;
        while let Some(item) = reader.next_record()? {
            if item.kind == kind::UPLOAD {
                let (header, _) = split_upload(item.body)?;
                // What came late stands in the place of what was withheld.
                if header.origin == origin && (header.from..header.to).contains(&leaf) {
                    place = Some(item.position);
                }
            }
        }
        let Some(place) = place else {
            return Ok(None);
        };
        let damaged = |what: String| ArchiveError::Damaged(what);
        let mut raw = Vec::new();
        decompress(&upload_at(&self.disk, &self.dir, place)?, &mut raw)
            .map_err(|refused| damaged(refused.refusal.message))?;
        let mut is_it = false;
        for record in RecordReader::new(&raw) {
            match record.map_err(|error| damaged(error.to_string()))? {
                Record::Entry(entry) => {
                    is_it = EntryView::parse(entry).is_ok_and(|view| view.seq == leaf);
                }
                Record::Payload { bytes, .. } if is_it => return Ok(Some(bytes.to_vec())),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Gives what is archived of a log in order, with each cosigned head at its place.
    fn records(
        &self,
        origin: &str,
        late: &HashMap<u64, u64>,
        give: &mut dyn FnMut(Record<'_>) -> ControlFlow<()>,
    ) -> Result<(), ArchiveError> {
        let damaged = |what: String| ArchiveError::Damaged(what);
        let mut raw = Vec::new();
        let mut mine = false;
        let mut reader = self.reader(0)?;
        while let Some(item) = reader.next_record()? {
            match item.kind {
                kind::UPLOAD => {
                    let (header, body) = split_upload(item.body)?;
                    mine = header.origin == origin;
                    if !mine || header.late {
                        continue;
                    }
                    let late = late.get(&header.from).copied();
                    let unpacked = if late.is_none() && !item.erased {
                        decompress(body, &mut raw)
                    } else {
                        let place = late.unwrap_or(item.position);
                        decompress(&upload_at(&self.disk, &self.dir, place)?, &mut raw)
                    };
                    unpacked.map_err(|refused| damaged(refused.refusal.message))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_one_log_the_newest_of_a_device_or_says_what_to_name() {
        let all = [
            "d/jurat/aa/0",
            "d/jurat/aa/2",
            "d/jurat/aa/10",
            "d/jurat/ab/0",
        ];
        let all: BTreeSet<String> = all.map(str::to_owned).into();
        let one: BTreeSet<String> = all.iter().take(2).cloned().collect();
        assert_eq!(the_one(&all, "aa"), Ok("d/jurat/aa/10"));
        assert_eq!(the_one(&all, "d/jurat/aa/0"), Ok("d/jurat/aa/0"));
        assert_eq!(the_one(&all, "ab"), Ok("d/jurat/ab/0"));
        assert_eq!(the_one(&one, ""), Ok(one.last().unwrap().as_str()));
        for several in ["", "a", "jurat", "/0"] {
            let said = the_one(&all, several).unwrap_err();
            assert!(said.contains("--device ORIGIN: d/jurat/aa/0, "), "{said}");
        }
        let said = the_one(&all, "nobody").unwrap_err();
        assert!(said.contains("no log nobody"), "{said}");
        assert_eq!(
            the_one(&BTreeSet::new(), ""),
            Err("nothing is archived here".into())
        );
    }
}
