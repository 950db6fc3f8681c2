//! Every log as C2SP tiles: a projection of the archive that can be thrown away and made again.
//!
//! A thread follows the archive and keeps an index of its uploads and the collector's own log. The
//! hashes of a device's log are laid out when somebody asks for them. Nothing here is synced and
//! nothing is believed: tiles are compared with the root that was accepted, entries with the tiles,
//! and what does not fit is made anew from the archive.

mod folder;
mod index;
mod levels;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jurat_disk::{Disk, File, Mode};
use jurat_event::Kind;
use jurat_proof::{
    Checkpoint, Digest, EntryView, Message, Note, Prover, Receipt, Record, RecordReader, Tile,
    TilePath, leaf_hash, push_entry, sha256, sha256_many, verify_inclusion,
};

use self::index::{Index, Upload};
use crate::archive::{Archive, ArchiveError, kind, split_upload};
use crate::ingest::decompress;

pub use folder::{TilesExportError, export_tiles};
pub use levels::Levels;

/// Why a tile cannot be had now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TilesError {
    /// The archive cannot be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A file of the projection cannot be read or written.
    #[error("a file of the tiles")]
    Io(#[from] io::Error),
    /// What is laid out is not what was accepted. It is removed and made again.
    #[error("the tiles are not those of the archive: {0}")]
    Torn(&'static str),
    /// Too much is to be laid out first: ask again.
    #[error("the tiles are being laid out")]
    Behind,
}

impl From<jurat_ledger::LedgerError> for TilesError {
    fn from(error: jurat_ledger::LedgerError) -> Self {
        Self::Archive(error.into())
    }
}

/// The head of a log that is shown.
struct Head {
    note: Vec<u8>,
    size: u64,
    root: Digest,
}

impl Head {
    fn of(note: &[u8]) -> Option<Self> {
        let head = Checkpoint::parse(&Note::parse(note).ok()?.text).ok()?;
        Some(Self {
            note: note.to_vec(),
            size: head.size,
            root: head.root,
        })
    }
}

/// What is read of the archive, or unpacked to be laid out, before who asks is told to ask again.
const STEP_BYTES: u64 = 256 * 1024 * 1024;
/// How often the thread looks although nothing called it, and how long it waits after a failure.
const PAUSE: Duration = Duration::from_secs(1);
/// How often all is made again because it did not fit, before a person must look.
const ANEW_MAX: u32 = 8;

/// The projection.
pub(crate) struct TileStore {
    archive: Arc<Archive>,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// The digest of the own log's origin.
    own: Digest,
    step: u64,
    followed: Mutex<Option<Followed>>,
    /// Held while a device's log is laid out or looked at: one at a time, a few files open.
    laying: Mutex<()>,
    anew: Mutex<u32>,
}

/// What follows the archive.
struct Followed {
    index: Index,
    own: OwnTiles,
    position: u64,
}

/// The collector's own log, laid out.
struct OwnTiles {
    levels: Levels,
    /// Leaves that were read and are not in the files yet.
    leaves: Vec<Digest>,
    head: Option<Head>,
}

impl OwnTiles {
    fn open(disk: &Arc<dyn Disk>, dir: &Path) -> io::Result<Self> {
        Ok(Self {
            levels: Levels::open(disk.clone(), dir)?,
            leaves: Vec::new(),
            head: None,
        })
    }

    fn size(&self) -> u64 {
        self.levels.size() + self.leaves.len() as u64
    }

    fn flush(&mut self) -> io::Result<()> {
        self.levels.extend(&std::mem::take(&mut self.leaves))
    }

    /// Takes a checkpoint of the own log, when the leaves that were laid out are those it covers.
    fn checkpoint(&mut self, note: &[u8]) -> Result<(), TilesError> {
        self.flush()?;
        let head = Head::of(note).ok_or(TilesError::Torn("the own checkpoint"))?;
        if !self.levels.has_root(head.size, &head.root)? {
            return Err(TilesError::Torn("the own log"));
        }
        self.head = Some(head);
        Ok(())
    }
}

impl TileStore {
    /// The projection in this folder. Nothing is read before it is asked.
    pub(crate) fn new(archive: Arc<Archive>, disk: Arc<dyn Disk>, dir: &Path) -> Self {
        let [_, _, log] = archive.verifier_keys();
        Self {
            archive,
            disk,
            dir: dir.to_path_buf(),
            own: sha256(&[log.name.as_bytes()]),
            step: STEP_BYTES,
            followed: Mutex::new(None),
            laying: Mutex::new(()),
            anew: Mutex::new(0),
        }
    }

    /// Whether this is the collector's own log.
    pub(crate) fn is_own(&self, log: &Digest) -> bool {
        *log == self.own
    }

    fn folder(&self, log: &Digest) -> PathBuf {
        self.dir.join(log.to_string())
    }

    fn followed(&self) -> MutexGuard<'_, Option<Followed>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with what follows the archive, up to its end. After a failure everything is
    /// opened anew the next time: what stands in memory may be ahead of the files.
    fn follow<T>(
        &self,
        look: impl FnOnce(&mut Followed) -> Result<T, TilesError>,
    ) -> Result<T, TilesError> {
        let mut open = self.followed();
        let mut followed = match open.take() {
            Some(followed) => followed,
            None => self.open()?,
        };
        let done = match self.catch_up(&mut followed) {
            Ok(()) => look(&mut followed),
            Err(error) => Err(error),
        };
        match &done {
            Err(TilesError::Torn(what)) => self.remove(what)?,
            Ok(_) | Err(TilesError::Behind) => *open = Some(followed),
            Err(_) => {}
        }
        done
    }

    /// Opens what is there, and goes back to where it certainly holds what the archive holds.
    fn open(&self) -> Result<Followed, TilesError> {
        self.disk.create_dir_all(&self.dir)?;
        let mut own = OwnTiles::open(&self.disk, &self.folder(&self.own))?;
        let index = Index::open(&*self.disk, &self.dir.join("index"), own.size())?;
        let (position, size) = index.last().map_or((0, 0), |last| (last.next, last.own));
        own.levels.truncate(size)?;
        if position > self.archive.end() {
            self.remove("the index is ahead")?;
            return Err(TilesError::Behind);
        }
        Ok(Followed {
            index,
            own,
            position,
        })
    }

    /// Removes the index and the own log, so that they are made again.
    fn remove(&self, what: &str) -> Result<(), TilesError> {
        self.count_anew(what)?;
        self.clear(&self.folder(&self.own))?;
        match self.disk.remove(&self.dir.join("index")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn count_anew(&self, what: &str) -> Result<(), TilesError> {
        tracing::warn!(what, "the tiles do not fit the archive and are made again");
        let mut anew = self.anew.lock().unwrap_or_else(PoisonError::into_inner);
        *anew += 1;
        if *anew > ANEW_MAX {
            let what = "the tiles do not fit it, however often they are made".into();
            return Err(ArchiveError::Damaged(what).into());
        }
        Ok(())
    }

    fn clear(&self, folder: &Path) -> io::Result<()> {
        let names = match self.disk.list(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            names => names?,
        };
        names
            .iter()
            .try_for_each(|name| self.disk.remove(&folder.join(name)))
    }

    fn catch_up(&self, followed: &mut Followed) -> Result<(), TilesError> {
        let end = self.archive.end();
        if followed.position >= end {
            return Ok(());
        }
        let begun = followed.position;
        let mut reader = self.archive.reader(begun, end)?;
        while let Some(item) = reader.next_record()? {
            match item.kind {
                kind::UPLOAD => {
                    let (header, _) = split_upload(item.body)?;
                    followed.index.push(Upload {
                        log: sha256(&[header.origin.as_bytes()]),
                        from: header.from,
                        to: header.to,
                        position: item.position,
                        next: item.next,
                        own: followed.own.size(),
                        late: header.late,
                    })?;
                }
                kind::OWN_ENTRY => followed.own.leaves.push(leaf_hash(item.body)),
                kind::OWN_CHECKPOINT => followed.own.checkpoint(item.body)?,
                _ => {}
            }
            followed.position = item.next;
            if item.next - begun > self.step {
                followed.own.flush()?;
                return Err(TilesError::Behind);
            }
        }
        followed.position = end;
        Ok(followed.own.flush()?)
    }

    /// What stands at this path of a log; `None` when there is nothing.
    ///
    /// # Errors
    /// [`TilesError`]: it may be there, and cannot be had now.
    pub(crate) fn get(&self, log: &Digest, path: TilePath) -> Result<Option<Vec<u8>>, TilesError> {
        if self.is_own(log) {
            return self.follow(|followed| self.get_own(followed, path));
        }
        let _laying = self.laying.lock().unwrap_or_else(PoisonError::into_inner);
        match self.get_of_device(log, path) {
            // First what was laid out of this log is made again, then the index.
            Err(TilesError::Torn(what)) => {
                self.count_anew(what)?;
                self.clear(&self.folder(log))?;
            }
            done => return done,
        }
        let done = self.get_of_device(log, path);
        if let Err(TilesError::Torn(what)) = &done {
            *self.followed() = None;
            self.remove(what)?;
        }
        done
    }

    fn get_of_device(&self, log: &Digest, path: TilePath) -> Result<Option<Vec<u8>>, TilesError> {
        let Some(head) = self.head(log)? else {
            return Ok(None);
        };
        let tile = match path {
            TilePath::Checkpoint => return Ok(Some(head.note)),
            TilePath::Hashes(tile) | TilePath::Entries(tile) => tile,
        };
        if !tile.is_in(head.size) {
            return Ok(None);
        }
        let hashes = self.lay_out(log, &head, tile)?;
        match path {
            TilePath::Entries(_) => self.bundle(log, tile, &hashes),
            _ => Ok(Some(flat(&hashes))),
        }
    }

    /// The newest accepted head of a device's log.
    fn head(&self, log: &Digest) -> Result<Option<Head>, TilesError> {
        let Some(upload) = self.follow(|followed| followed.index.newest(log))? else {
            return Ok(None);
        };
        let mut origin = String::new();
        self.upload(&upload, &mut |header_origin, _| {
            origin.push_str(header_origin);
            Ok(())
        })?;
        let note = self.archive.frontier(&origin)?.note;
        Ok(note.and_then(|note| Head::of(note.as_bytes())))
    }

    /// Reads an upload from the archive: its log's origin, its records as they came.
    fn upload(
        &self,
        upload: &Upload,
        look: &mut dyn FnMut(&str, &[u8]) -> Result<(), TilesError>,
    ) -> Result<(), TilesError> {
        let mut reader = self.archive.reader(upload.position, upload.next)?;
        let item = reader.next_record();
        let item = item.map_err(|_| TilesError::Torn("a place"))?;
        let item = item.filter(|item| item.kind == kind::UPLOAD);
        let item = item.ok_or(TilesError::Torn("an upload"))?;
        if item.erased {
            // Its payloads were erased: another record came late in its place.
            let late =
                self.follow(|followed| followed.index.find_late(&upload.log, upload.from))?;
            let late = late.filter(|late| late.position > upload.position);
            return self.upload(&late.ok_or(TilesError::Torn("an upload"))?, look);
        }
        let (header, body) = split_upload(item.body)?;
        let is_it = (header.from, header.to) == (upload.from, upload.to)
            && sha256(&[header.origin.as_bytes()]) == upload.log;
        if !is_it {
            return Err(TilesError::Torn("an upload"));
        }
        look(&header.origin, body)
    }

    /// Lays out a log up to its head, and reads a tile of it.
    fn lay_out(&self, log: &Digest, head: &Head, tile: Tile) -> Result<Vec<Digest>, TilesError> {
        let mut levels = Levels::open(self.disk.clone(), &self.folder(log))?;
        let mut done = 0;
        let mut raw = Vec::new();
        while levels.size() < head.size {
            let at = levels.size();
            let upload = self.follow(|followed| followed.index.find(log, at))?;
            let upload = upload.ok_or(TilesError::Torn("the index"))?;
            if done > self.step {
                return Err(TilesError::Behind);
            }
            self.upload(&upload, &mut |_, body| unpack(body, &mut raw))?;
            done += raw.len() as u64;
            let leaves = leaves(&raw)?;
            if leaves.len() as u64 != upload.to - upload.from {
                return Err(TilesError::Torn("an upload's leaves"));
            }
            let known = (at - upload.from) as usize;
            levels.extend(leaves.get(known..).unwrap_or_default())?;
        }
        if !levels.has_root(head.size, &head.root)? {
            return Err(TilesError::Torn("the root"));
        }
        levels.checked(tile, head.size, &head.root)
    }

    /// The entries of a tile of leaf hashes; `None` when one of them is not here.
    fn bundle(
        &self,
        log: &Digest,
        tile: Tile,
        hashes: &[Digest],
    ) -> Result<Option<Vec<u8>>, TilesError> {
        let mut bundle = Vec::new();
        let mut wanted = hashes.iter();
        let (mut at, end) = (tile.first(), tile.first() + hashes.len() as u64);
        let mut raw = Vec::new();
        while at < end {
            let upload = self.follow(|followed| followed.index.find(log, at))?;
            let upload = upload.ok_or(TilesError::Torn("the index"))?;
            self.upload(&upload, &mut |_, body| unpack(body, &mut raw))?;
            let range = (at - upload.from) as usize..(end.min(upload.to) - upload.from) as usize;
            if !push_entries(&raw, range.clone(), &mut wanted, &mut bundle)? {
                let late = self.follow(|followed| followed.index.find_late(log, upload.from))?;
                let Some(late) = late else { return Ok(None) };
                self.upload(&late, &mut |_, body| unpack(body, &mut raw))?;
                if !push_entries(&raw, range, &mut wanted, &mut bundle)? {
                    return Ok(None);
                }
            }
            at = upload.to;
        }
        Ok(Some(bundle))
    }

    fn get_own(&self, followed: &Followed, path: TilePath) -> Result<Option<Vec<u8>>, TilesError> {
        let own = &followed.own;
        let Some(head) = &own.head else {
            return Ok(None);
        };
        let tile = match path {
            TilePath::Checkpoint => {
                let cosigned = self.cosigned(followed, |size| size == head.size)?;
                return Ok(Some(
                    cosigned.map_or_else(|| head.note.clone(), |it| it.note),
                ));
            }
            TilePath::Hashes(tile) | TilePath::Entries(tile) => tile,
        };
        if !tile.is_in(head.size) {
            return Ok(None);
        }
        let hashes = own.levels.checked(tile, head.size, &head.root)?;
        if let TilePath::Hashes(_) = path {
            return Ok(Some(flat(&hashes)));
        }
        let mut bundle = Vec::new();
        let (from, mut leaf) = followed.index.place_of_own(tile.first())?;
        let mut wanted = hashes.iter();
        self.own_entries(followed, from, &mut |entry| {
            if leaf >= tile.first() {
                let Some(hash) = wanted.next() else {
                    return Ok(false);
                };
                if leaf_hash(entry) != *hash {
                    return Err(TilesError::Torn("an own entry"));
                }
                push_entry(&mut bundle, entry).map_err(|_| TilesError::Torn("an own entry"))?;
            }
            leaf += 1;
            Ok(true)
        })?;
        if wanted.next().is_some() {
            return Err(TilesError::Torn("own entries"));
        }
        Ok(Some(bundle))
    }

    /// The newest head of the own log with cosignatures of others that has a wanted size and is laid out: one
    /// that the quorum cosigned rather than a newer one that did not reach it.
    fn cosigned(
        &self,
        followed: &Followed,
        wanted: impl Fn(u64) -> bool,
    ) -> Result<Option<Head>, TilesError> {
        let own = &followed.own;
        for note in self.archive.own_with_others().into_iter().flatten() {
            if let Some(head) = Head::of(note.as_bytes())
                && wanted(head.size)
                && head.size <= own.levels.size()
                && own.levels.has_root(head.size, &head.root)?
            {
                return Ok(Some(head));
            }
        }
        Ok(None)
    }

    /// Reads entries of the own log from a place in the archive on, while `look` wants more.
    fn own_entries(
        &self,
        followed: &Followed,
        from: u64,
        look: &mut dyn FnMut(&[u8]) -> Result<bool, TilesError>,
    ) -> Result<(), TilesError> {
        let mut reader = self.archive.reader(from, followed.position)?;
        while let Some(item) = reader
            .next_record()
            .map_err(|_| TilesError::Torn("a place"))?
        {
            if item.kind == kind::OWN_ENTRY && !look(item.body)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The proof that the own log holds this head of a device; `None` when it does not, or no
    /// checkpoint covers it yet.
    ///
    /// # Errors
    /// [`TilesError`].
    pub(crate) fn receipt(&self, origin: &str, size: u64) -> Result<Option<Receipt>, TilesError> {
        let log = sha256(&[origin.as_bytes()]);
        let Some(last) = size.checked_sub(1) else {
            return Ok(None);
        };
        self.follow(|followed| {
            let upload = followed.index.find(&log, last)?;
            let Some(upload) = upload.filter(|upload| upload.to == size) else {
                return Ok(None);
            };
            // The leaf that says so is the next one of the own log, or one of the next.
            let (position, leaf) = (upload.position, upload.own);
            self.leaf_receipt(followed, position, leaf, &mut |_, entry| {
                says_accepted(entry, origin, size)
            })
        })
    }

    /// The proof that the own log holds what it says in this leaf; `None` when no checkpoint covers it yet.
    ///
    /// # Errors
    /// [`TilesError`].
    pub(crate) fn receipt_of_leaf(&self, leaf: u64) -> Result<Option<Receipt>, TilesError> {
        self.follow(|followed| {
            let (position, first) = followed.index.place_of_own(leaf)?;
            self.leaf_receipt(followed, position, first, &mut |index, _| index == leaf)
        })
    }

    /// The receipt of the first leaf of the own log from this place on that is wanted.
    fn leaf_receipt(
        &self,
        followed: &Followed,
        position: u64,
        first: u64,
        wanted: &mut dyn FnMut(u64, &[u8]) -> bool,
    ) -> Result<Option<Receipt>, TilesError> {
        let own = &followed.own;
        let (mut index, mut entry) = (first, Vec::new());
        self.own_entries(followed, position, &mut |found| {
            if wanted(index, found) {
                entry = found.to_vec();
                return Ok(false);
            }
            index += 1;
            Ok(true)
        })?;
        if entry.is_empty() {
            return Ok(None);
        }
        // Better a head that others cosigned than a newer one.
        let cosigned = self.cosigned(followed, |size| index < size)?;
        let head = cosigned.as_ref().or(own.head.as_ref());
        let Some(head) = head.filter(|head| index < head.size) else {
            return Ok(None);
        };
        let proof = Prover::new(&own.levels, head.size).inclusion(index);
        let proof = proof.map_err(|_| TilesError::Torn("the own log"))?;
        verify_inclusion(index, head.size, &leaf_hash(&entry), &proof, &head.root)
            .map_err(|_| TilesError::Torn("the own log"))?;
        let note = Note::parse(&head.note).map_err(|_| TilesError::Torn("the own log"))?;
        Ok(Some(Receipt {
            entry,
            index,
            proof,
            note,
        }))
    }

    /// The consistency proof of the own log between these sizes, `0 < old < new`.
    ///
    /// # Errors
    /// [`TilesError`].
    pub(crate) fn own_consistency(&self, old: u64, new: u64) -> Result<Vec<Digest>, TilesError> {
        self.follow(|followed| {
            let proof = Prover::new(&followed.own.levels, new).consistency(old);
            proof.map_err(|_| TilesError::Torn("the own log"))
        })
    }

    /// Follows the archive until nobody rings any more. Never ends because of a failure: tiles can
    /// wait, and who asks for one is told.
    pub(crate) fn run(&self, bell: &Receiver<()>) {
        loop {
            let pause = match self.follow(|_| Ok(())) {
                Ok(()) => PAUSE,
                Err(TilesError::Behind) => Duration::ZERO,
                Err(error) => {
                    tracing::error!(%error, "the tiles cannot be laid out");
                    std::thread::sleep(PAUSE);
                    PAUSE
                }
            };
            if matches!(
                bell.recv_timeout(pause),
                Err(RecvTimeoutError::Disconnected)
            ) {
                return;
            }
        }
    }
}

/// Opens a file for appending, which is made when there is none.
fn open_or_create(disk: &dyn Disk, path: &Path) -> io::Result<Box<dyn File>> {
    match disk.open(path, Mode::Write) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => disk.open(path, Mode::CreateNew),
        opened => opened,
    }
}

/// Whether an entry of the own log says that this head was accepted.
pub(crate) fn says_accepted(entry: &[u8], origin: &str, size: u64) -> bool {
    let Ok(view) = EntryView::parse(entry) else {
        return false;
    };
    let detail = view.detail_map();
    view.is(Kind::FrontierAccepted)
        && detail.get("origin").is_some_and(|found| found == origin)
        && detail.get("size").is_some_and(|found| *found == size)
}

fn flat(hashes: &[Digest]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.0).collect()
}

fn unpack(body: &[u8], raw: &mut Vec<u8>) -> Result<(), TilesError> {
    let damaged = |what: String| TilesError::Archive(ArchiveError::Damaged(what));
    decompress(body, raw).map_err(|refused| damaged(refused.refusal.message))
}

fn records(raw: &[u8]) -> impl Iterator<Item = Result<Record<'_>, TilesError>> {
    RecordReader::new(raw)
        .map(|record| record.map_err(|error| ArchiveError::Damaged(error.to_string()).into()))
}

/// The leaf hashes of an upload.
fn leaves(raw: &[u8]) -> Result<Vec<Digest>, TilesError> {
    let mut leaves = Vec::new();
    let mut entries = Vec::new();
    let hash = |entries: &mut Vec<Message<'_>>, leaves: &mut Vec<Digest>| {
        leaves.extend(sha256_many(entries));
        entries.clear();
    };
    for record in records(raw) {
        match record? {
            Record::Entry(entry) => entries.push(Message::leaf(entry)),
            Record::Leaves { hashes, .. } => {
                hash(&mut entries, &mut leaves);
                leaves.extend(hashes.iter().copied().map(Digest));
            }
            Record::Payload { .. } | Record::Checkpoint(_) => {}
        }
    }
    hash(&mut entries, &mut leaves);
    Ok(leaves)
}

/// Adds the entries of these leaves of an upload; `false` when one is not here.
fn push_entries<'a>(
    raw: &[u8],
    range: std::ops::Range<usize>,
    wanted: &mut (impl Iterator<Item = &'a Digest> + Clone),
    bundle: &mut Vec<u8>,
) -> Result<bool, TilesError> {
    let (was, mut expected) = (bundle.len(), wanted.clone());
    let mut leaf = 0;
    for record in records(raw) {
        match record? {
            Record::Entry(entry) => {
                if range.contains(&leaf) {
                    if expected.next() != Some(&leaf_hash(entry)) {
                        return Err(TilesError::Torn("an entry"));
                    }
                    push_entry(bundle, entry).map_err(|_| TilesError::Torn("an entry"))?;
                }
                leaf += 1;
            }
            Record::Leaves { hashes, .. } => {
                if leaf < range.end && range.start < leaf + hashes.len() {
                    bundle.truncate(was);
                    return Ok(false);
                }
                leaf += hashes.len();
            }
            Record::Payload { .. } | Record::Checkpoint(_) => {}
        }
    }
    *wanted = expected;
    Ok(true)
}

#[cfg(test)]
mod tests;
