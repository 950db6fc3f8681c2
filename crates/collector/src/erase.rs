//! Erasing in the archive: the operator's, never a device's.
//!
//! An upload is written anew without the payloads; the new record, the leaf that says so and the note of what
//! is to go become durable in one group, and only then the old record is erased in place. Readers take the new
//! one in its place: its header is `late` and names the record that it stands for.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use jurat_disk::Host;
use jurat_event::{EraseRequest, Erased, Ranges};
use jurat_proof::{Choice, EntryView, Record, RecordReader};
use jurat_sink::without_payloads;

use crate::admin::{self, AdminError};
use crate::archive::{Archive, ArchiveError, Ask, Done, UploadHeader, kind, split_upload};
use crate::ingest::decompress;

/// Why nothing was erased in an archive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EraseError {
    /// The archive failed.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The folder cannot be opened now.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// It cannot be done.
    #[error("not erased: {0}")]
    Refused(String),
}

/// An upload that is to stand in the place of an older record of it.
pub(crate) struct Thin {
    /// Where the older one stands, and how much of it stays: its header.
    pub(crate) place: (u64, u32),
    pub(crate) header: UploadHeader,
    pub(crate) body: Vec<u8>,
    pub(crate) gone: Ranges,
}

/// What the writer is asked: uploads of one log, who wants it, and why.
pub(crate) struct Erasure {
    pub(crate) origin: String,
    pub(crate) who: String,
    pub(crate) reason: String,
    pub(crate) uploads: Vec<Thin>,
}

/// About how many bytes of uploads go into one group.
const GROUP_BYTES: usize = 4 * 1024 * 1024;

/// An erasure under way, upload by upload.
pub(crate) struct Plan<'a> {
    archive: &'a Archive,
    origin: &'a str,
    request: &'a EraseRequest,
    choice: Choice<'a>,
    /// The newest record of each upload that is left.
    places: VecDeque<u64>,
    /// Leaves of the request that have a payload, whether it is here or not.
    wanted: u64,
    /// Sessions of the request of which no leaf is here.
    unknown: Vec<String>,
}

impl<'a> Plan<'a> {
    /// Looks at what is archived of a log, and refuses what does not exist.
    pub(crate) fn new(
        archive: &'a Archive,
        origin: &'a str,
        request: &'a EraseRequest,
    ) -> Result<Self, EraseError> {
        let refused = |why: String| Err(EraseError::Refused(why));
        if let Err(why) = request.check() {
            return refused(why);
        }
        let size = archive.frontier(origin)?.size;
        if let Some((_, to)) = request.ranges.pairs().last()
            && *to > size
        {
            return refused(format!("{size} leaves of {origin} are archived here"));
        }
        let mut newest = BTreeMap::new();
        let mut reader = archive.reader(0, archive.end())?;
        while let Some(item) = reader.next_record().map_err(ArchiveError::from)? {
            archive.goes_on()?;
            if item.kind == kind::UPLOAD && !item.erased {
                let (header, _) = split_upload(item.body)?;
                if header.origin == origin {
                    newest.insert(header.from, item.position);
                }
            }
        }
        let mut plan = Self {
            archive,
            origin,
            request,
            choice: Choice::new(request),
            places: newest.into_values().collect(),
            wanted: 0,
            unknown: Vec::new(),
        };
        // Before anything is sealed: is every session there?
        if !request.sessions.is_empty() {
            let alone = |name: &String| EraseRequest {
                sessions: vec![name.clone()],
                ..EraseRequest::default()
            };
            let each: Vec<_> = request.sessions.iter().map(alone).collect();
            let mut unknown: Vec<_> = each.iter().map(|one| (one, Choice::new(one))).collect();
            let mut raw = Vec::new();
            for position in &plan.places {
                plan.read(*position, |_, body, _| {
                    decompress(body, &mut raw)
                        .map_err(|refused| ArchiveError::Damaged(refused.refusal.message))
                })?;
                for record in RecordReader::new(&raw).flatten() {
                    if let Record::Entry(entry) = record
                        && let Ok(view) = EntryView::parse(entry)
                    {
                        unknown.retain_mut(|(_, choice)| !choice.takes(&view));
                    }
                }
            }
            let unknown = unknown
                .into_iter()
                .flat_map(|(one, _)| one.sessions.clone());
            plan.unknown = unknown.collect();
            // One of which nothing came but hashes has no name here yet.
            if let Some(session) = plan.unknown.first()
                && archive.awaited(origin, request)? == 0
            {
                return refused(format!("no leaf of session {session:?} is archived here"));
            }
        }
        Ok(plan)
    }

    fn read<T>(
        &self,
        position: u64,
        take: impl FnOnce(UploadHeader, &[u8], usize) -> Result<T, ArchiveError>,
    ) -> Result<T, ArchiveError> {
        self.archive.goes_on()?;
        let mut reader = self.archive.reader(position, self.archive.end())?;
        let item = reader.next_record()?;
        let whole = item.map_or(&[][..], |item| item.body);
        let (header, body) = split_upload(whole)?;
        take(header, body, whole.len() - body.len())
    }

    /// The next part of it, for the writer; `None` when nothing is left.
    pub(crate) fn next(&mut self) -> Result<Option<Ask>, ArchiveError> {
        let mut uploads = Vec::new();
        let mut bytes = 0;
        while bytes < GROUP_BYTES
            && let Some(position) = self.places.pop_front()
        {
            let (mut choice, mut wanted) = (self.choice.clone(), self.wanted);
            let thin = self.read(position, |header, body, front| {
                let thinned = without_payloads(body, &mut |entry| {
                    let taken = choice.takes(entry);
                    wanted += u64::from(taken && entry.context.is_some());
                    taken
                });
                let damaged =
                    |error: jurat_sink::BatchError| ArchiveError::Damaged(error.to_string());
                let Some(thinned) = thinned.map_err(damaged)? else {
                    return Ok(None);
                };
                Ok(Some(Thin {
                    place: (position, front as u32),
                    header: UploadHeader {
                        late: true,
                        instead_of: Some(header.instead_of.unwrap_or(position)),
                        ..header
                    },
                    body: thinned.body,
                    gone: thinned.gone,
                }))
            })?;
            (self.choice, self.wanted) = (choice, wanted);
            if let Some(thin) = thin {
                bytes += thin.body.len();
                uploads.push(thin);
            }
        }
        if uploads.is_empty() {
            return Ok(None);
        }
        Ok(Some(Ask::Erase(Box::new(Erasure {
            origin: self.origin.to_owned(),
            who: self.request.who.clone(),
            reason: self.request.reason.clone(),
            uploads,
        }))))
    }

    /// What it came to, given what the writer said of its parts.
    pub(crate) fn finish(&self, parts: Vec<(Ranges, Vec<u64>)>) -> Erased {
        let mut erased = Erased {
            unknown_sessions: self.unknown.clone(),
            ..Erased::default()
        };
        for (ranges, leaves) in parts {
            erased.count += ranges.leaves();
            erased.ranges = erased.ranges.union(&ranges);
            erased.leaves.extend(leaves);
        }
        erased.gone_before = self.wanted.saturating_sub(erased.count);
        erased
    }
}

/// Erases payloads of one log, part by part; each part is durable when `write` returns.
pub(crate) fn carry_out(
    archive: &Archive,
    origin: &str,
    request: &EraseRequest,
    write: &mut dyn FnMut(Ask) -> Result<Done, EraseError>,
) -> Result<Erased, EraseError> {
    let meant = archive.awaited(origin, request)?;
    let (mut awaited, mut not_awaited) = (0, 0);
    let mut plan = Plan::new(archive, origin, request)?;
    if meant > 0 {
        let (origin, request) = (origin.to_owned(), request.clone());
        match write(Ask::Await { origin, request })? {
            Done::Kept => awaited = meant,
            // What is here is erased all the same.
            Done::Refused(_) => not_awaited = meant,
            // Meanwhile all of it came.
            _ => {}
        }
        // What came late before that is archived like everything else.
        plan = Plan::new(archive, plan.origin, plan.request)?;
    }
    let mut parts = Vec::new();
    while let Some(ask) = plan.next()? {
        match write(ask)? {
            Done::Erased { ranges, leaves } => parts.push((ranges, leaves)),
            // There is no other erasure: what is not erased must not be said to be.
            _ => return Err(ArchiveError::Failed.into()),
        }
    }
    Ok(Erased {
        awaited,
        not_awaited,
        ..plan.finish(parts)
    })
}

/// Erases payloads in the folder of a collector that does not run. The log is named by the device's id, or by
/// its origin where the device has several.
///
/// # Errors
/// [`EraseError`]: [`AdminError::Runs`] when it does; send it an [`EraseOrder`](crate::EraseOrder) then. What was
/// erased before an error stays erased, and said; asked again it goes on.
pub fn erase_folder(
    host: &Host,
    dir: &Path,
    device: &str,
    request: &EraseRequest,
) -> Result<Erased, EraseError> {
    let (archive, mut writer) = admin::open(host, dir)?;
    let origin = origin_of(&archive, device)?;
    let write = &mut |ask| {
        let done = writer.commit(vec![ask])?.pop();
        Ok(done.ok_or(ArchiveError::Failed)?)
    };
    let erased = carry_out(&archive, &origin, request, write)?;
    writer.seal_own_log()?;
    Ok(erased)
}

/// The one log of this device, or of this name.
pub(crate) fn origin_of(archive: &Archive, device: &str) -> Result<String, EraseError> {
    let mine = |origin: &Arc<str>| **origin == *device || origin.split('/').nth(2) == Some(device);
    let origins: Vec<_> = archive.origins().into_iter().filter(mine).collect();
    match origins.as_slice() {
        [origin] => Ok(origin.to_string()),
        [] => Err(EraseError::Refused(format!(
            "nothing of {device:?} is archived here"
        ))),
        several => Err(EraseError::Refused(format!(
            "{device:?} has several logs here, name one: {}",
            several.join(", ")
        ))),
    }
}
