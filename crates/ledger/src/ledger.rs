//! Opening, appending, rolling.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jurat_disk::{Disk, File, Lock, Mode, Rng};

use crate::format::{
    FLAG_ERASED, KIND_COMMIT, KIND_SNAPSHOT, KIND_STATE, RECORD_HEADER, RecordHeader,
    SEGMENT_HEADER, SegmentId, commit_body, commit_start, segment_header, segment_name,
};
use crate::reader::{Segment, segments};
use crate::{Group, LedgerError, Reader};

/// How a ledger is kept.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A segment is closed when it has grown to this many bytes.
    pub segment_bytes: u64,
    /// Bytes set aside on the disk for what must still be written when it is full; see
    /// [`Ledger::use_reserve`]. 0 for none.
    pub reserve_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 32 * 1024 * 1024,
            reserve_bytes: 4 * 1024 * 1024,
        }
    }
}

/// What opening gives back, in the order in which it was appended.
#[derive(Clone, Copy, Debug)]
pub enum Replayed<'a> {
    /// The full state at the beginning of the last segment.
    Snapshot(&'a [u8]),
    /// A state blob that was committed after it.
    State(&'a [u8]),
    /// A record that was committed after it.
    Record {
        /// Where it stands.
        position: u64,
        /// Its kind.
        kind: u8,
        /// Its body.
        body: &'a [u8],
    },
}

/// An open ledger. One process has it open at a time.
pub struct Ledger {
    disk: Arc<dyn Disk>,
    rng: Arc<dyn Rng>,
    dir: PathBuf,
    options: Options,
    active: Active,
    /// The length at which the active segment is closed.
    roll_at: u64,
    poisoned: bool,
    _lock: Box<dyn Lock>,
}

struct Active {
    path: PathBuf,
    file: Box<dyn File>,
    base: u64,
    id: SegmentId,
    /// Offset in the file up to which everything is durable.
    durable: u64,
}

impl Ledger {
    /// Opens a ledger, or begins one with `first` as its state.
    ///
    /// A group that a crash left half-written is removed. Then `replay` is given the snapshot of
    /// the last segment and everything committed after it.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`] when good groups follow bad bytes: that is damage, not a crash, and
    /// nothing is cut off. [`LedgerError::Locked`] when another process has it open.
    pub fn open(
        disk: Arc<dyn Disk>,
        rng: Arc<dyn Rng>,
        dir: &Path,
        options: Options,
        first: &[u8],
        replay: &mut dyn FnMut(Replayed<'_>),
    ) -> Result<Self, LedgerError> {
        let io = |doing| {
            move |source| LedgerError::Io {
                path: dir.to_path_buf(),
                doing,
                source,
            }
        };
        disk.create_dir_all(dir)
            .map_err(io("creating the ledger"))?;
        let lock_path = dir.join("lock");
        let lock = match disk.lock(&lock_path) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(LedgerError::Locked { path: lock_path });
            }
            Err(source) => {
                return Err(LedgerError::Io {
                    path: lock_path,
                    doing: "locking",
                    source,
                });
            }
        };
        let active = match segments(&*disk, dir)?.last().copied() {
            Some(base) => {
                let active = recover(&*disk, dir, base)?;
                replay_segment(&*disk, dir, &active, replay)?;
                active
            }
            None => {
                replay(Replayed::Snapshot(first));
                create(&*disk, &*rng, dir, 0, first)?
            }
        };
        let ledger = Self {
            disk,
            rng,
            dir: dir.to_path_buf(),
            options,
            active,
            roll_at: options.segment_bytes,
            poisoned: false,
            _lock: lock,
        };
        // Without room for it the ledger still works, until there is no room at all.
        let _ = ledger.keep_reserve();
        Ok(ledger)
    }

    /// Makes sure that the reserve is there. `false` when there is no room for it.
    ///
    /// # Errors
    /// [`LedgerError::Io`] when the disk fails in another way.
    pub fn keep_reserve(&self) -> Result<bool, LedgerError> {
        if self.options.reserve_bytes == 0 {
            return Ok(true);
        }
        let path = self.dir.join(RESERVE);
        let io = |source| LedgerError::Io {
            path: path.clone(),
            doing: "setting bytes aside",
            source,
        };
        let file = match self.disk.open(&path, Mode::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.disk.open(&path, Mode::CreateNew)
            }
            opened => opened,
        };
        let file = match file {
            Err(error) if is_full(&error) => return Ok(false),
            file => file.map_err(io)?,
        };
        let mut len = file.len().map_err(io)?;
        if len >= self.options.reserve_bytes {
            return Ok(true);
        }
        // Real bytes: a hole sets nothing aside.
        let block = vec![0; 256 * 1024];
        while len < self.options.reserve_bytes {
            let want = (self.options.reserve_bytes - len).min(block.len() as u64);
            match file.write_at(&block[..want as usize], len) {
                Ok(()) => len += want,
                Err(error) if is_full(&error) => {
                    let _ = file.set_len(0);
                    return Ok(false);
                }
                Err(error) => return Err(io(error)),
            }
        }
        match file.sync() {
            Ok(()) => Ok(true),
            Err(error) if is_full(&error) => {
                let _ = file.set_len(0);
                Ok(false)
            }
            Err(error) => Err(io(error)),
        }
    }

    /// Gives the reserve's room back to the disk, after [`LedgerError::Full`], so that the log can still
    /// say that it is full. `false` when there was none left.
    ///
    /// # Errors
    /// [`LedgerError::Io`].
    pub fn use_reserve(&self) -> Result<bool, LedgerError> {
        let path = self.dir.join(RESERVE);
        let io = |source| LedgerError::Io {
            path: path.clone(),
            doing: "giving up the reserve",
            source,
        };
        let file = match self.disk.open(&path, Mode::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file.map_err(io)?,
        };
        if file.len().map_err(io)? == 0 {
            return Ok(false);
        }
        file.set_len(0).map_err(io)?;
        file.sync().map_err(io)?;
        Ok(true)
    }

    /// Appends a group with its state blob and makes both durable: one write, one fdatasync.
    ///
    /// On return the group is emptied. `snapshot` is asked for the full state, this group
    /// included, when a segment is closed. Returns the position after the group.
    ///
    /// # Errors
    /// [`LedgerError::Full`]: nothing was appended, the group is kept, try again when there is room.
    /// [`LedgerError::Io`]: it is not known whether the group is durable; the ledger is poisoned.
    pub fn append(
        &mut self,
        group: &mut Group,
        state: &[u8],
        snapshot: &mut dyn FnMut() -> Vec<u8>,
    ) -> Result<u64, LedgerError> {
        if self.poisoned {
            return Err(LedgerError::Poisoned);
        }
        let before = group.marks();
        if !state.is_empty() {
            group.push_any(KIND_STATE, &[state])?;
        }
        let count = group.records() as u32;
        group.push_any(
            KIND_COMMIT,
            &[&commit_body(self.active.base + self.active.durable, count)],
        )?;
        match self.active.write(group) {
            Ok(()) => {}
            Err(error) if is_full(&error) => {
                group.truncate(before);
                let path = self.active.path.clone();
                // The half-written group must not stay: later groups go to the same place.
                if self.active.file.set_len(self.active.durable).is_err() {
                    self.poisoned = true;
                }
                return Err(LedgerError::Full { path });
            }
            Err(source) => {
                self.poisoned = true;
                // Cut to what is known to be durable: a reader of the page cache must not take
                // bytes for committed that may never have reached the disk.
                let _ = self.active.file.set_len(self.active.durable);
                let path = self.active.path.clone();
                return Err(LedgerError::Io {
                    path,
                    doing: "appending a group",
                    source,
                });
            }
        }
        group.clear();
        if self.active.durable >= self.roll_at {
            // A full disk here costs nothing as long as the new name does not exist: the group is
            // durable, the segment just grows on.
            match create(&*self.disk, &*self.rng, &self.dir, self.end(), &snapshot()) {
                Ok(active) => {
                    self.active = active;
                    self.roll_at = self.options.segment_bytes;
                }
                // A state too large to be one record: the segment grows on, and opening takes longer.
                // Asked for again when it has grown by as much again, not at every commit.
                Err(LedgerError::TooLong { .. }) => {
                    self.roll_at = self.active.durable + self.options.segment_bytes;
                }
                // Likewise, and sooner: room may come back.
                Err(LedgerError::Full { .. }) => {
                    self.roll_at = self.active.durable + self.options.segment_bytes / 8;
                }
                Err(error) => {
                    self.poisoned = true;
                    return Err(error);
                }
            }
        }
        Ok(self.end())
    }

    /// The position after the last durable record.
    pub fn end(&self) -> u64 {
        self.active.base + self.active.durable
    }

    /// The position of the oldest record still kept.
    ///
    /// # Errors
    /// [`LedgerError::Io`] when the folder cannot be listed.
    pub fn start(&self) -> Result<u64, LedgerError> {
        Ok(segments(&*self.disk, &self.dir)?
            .first()
            .copied()
            .unwrap_or(0))
    }

    /// The position of the front of the segment that holds this one.
    ///
    /// # Errors
    /// [`LedgerError::Io`] when the folder cannot be listed.
    pub fn base_of(&self, position: u64) -> Result<u64, LedgerError> {
        let bases = segments(&*self.disk, &self.dir)?;
        let base = bases.iter().rfind(|base| **base <= position);
        Ok(base.or(bases.first()).copied().unwrap_or(0))
    }

    /// The bytes on disk.
    ///
    /// # Errors
    /// [`LedgerError::Io`] when the folder cannot be listed.
    pub fn len(&self) -> Result<u64, LedgerError> {
        self.len_from(0)
    }

    /// The bytes on disk from this position on.
    ///
    /// # Errors
    /// [`LedgerError::Io`] when the folder cannot be listed.
    pub fn len_from(&self, position: u64) -> Result<u64, LedgerError> {
        let mut len = 0;
        for closed in self.closed()? {
            if closed.end > position {
                let passed = position.saturating_sub(closed.base);
                len += if closed.rewritten {
                    closed.len
                } else {
                    closed.len.saturating_sub(passed)
                };
            }
        }
        Ok(len + self.end() - position.clamp(self.active.base, self.end()))
    }

    /// The segments that are closed, oldest first.
    ///
    /// # Errors
    /// [`LedgerError`] when one cannot be read.
    pub fn closed(&self) -> Result<Vec<Closed>, LedgerError> {
        let bases = segments(&*self.disk, &self.dir)?;
        let mut found = Vec::new();
        for pair in bases.windows(2) {
            let [base, end] = *pair else { break };
            let segment = Segment::open(&*self.disk, &self.dir, base)?;
            found.push(Closed {
                base,
                end,
                len: segment.len,
                rewritten: segment.span > 0,
            });
        }
        Ok(found)
    }

    /// Writes what will replace the records of a closed segment, under a name of its own; nothing is
    /// changed yet. On return the group is emptied.
    ///
    /// # Errors
    /// [`LedgerError::Full`] when there is no room beside the old one; [`LedgerError::Io`].
    ///
    /// # Panics
    /// When the segment is not closed, or the new one would be longer than its positions: a bug.
    pub fn prepare(&self, closed: &Closed, group: &mut Group) -> Result<Prepared, LedgerError> {
        assert!(
            closed.end <= self.active.base,
            "only a closed segment is rewritten"
        );
        let span = closed.end - closed.base;
        group.push_any(
            KIND_COMMIT,
            &[&commit_body(
                closed.base + SEGMENT_HEADER,
                group.records() as u32,
            )],
        )?;
        assert!(
            SEGMENT_HEADER + group.len() as u64 <= span,
            "a rewritten segment is shorter"
        );
        let tmp = self.dir.join("rewrite.tmp");
        write_segment(&*self.disk, &*self.rng, &tmp, closed.base, span, group)?;
        group.clear();
        Ok(Prepared {
            tmp,
            path: self.dir.join(segment_name(closed.base)),
        })
    }

    /// Puts it in the place of the old segment. Positions of other segments do not change; those inside
    /// this one mean nothing any more, and a reader that starts at one begins at the segment's front.
    /// A crash leaves either the old or the new segment.
    ///
    /// # Errors
    /// [`LedgerError::Io`]: either is possible.
    pub fn replace(&mut self, prepared: Prepared) -> Result<(), LedgerError> {
        let Prepared { tmp, path } = prepared;
        let io = |source| LedgerError::Io {
            path: path.clone(),
            doing: "replacing a segment",
            source,
        };
        self.disk.rename(&tmp, &path).map_err(io)?;
        self.disk.sync_dir(&self.dir).map_err(io)
    }

    /// Whether no record was ever appended.
    pub fn is_empty(&self) -> bool {
        self.end() == 0
    }

    /// Where the ledger is kept.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A reader from this position to the end as it is now.
    ///
    /// # Errors
    /// [`LedgerError::Io`] when the folder cannot be listed.
    pub fn read(&self, from: u64) -> Result<Reader, LedgerError> {
        Reader::new(self.disk.clone(), &self.dir, from, self.end())
    }

    /// Removes the segments that lie wholly before this position; never the last one.
    ///
    /// # Errors
    /// [`LedgerError::Io`] when a segment cannot be removed.
    pub fn remove_before(&mut self, position: u64) -> Result<u64, LedgerError> {
        let bases = segments(&*self.disk, &self.dir)?;
        let mut removed = 0;
        for pair in bases.windows(2) {
            let [base, next] = pair else { break };
            if *next > position {
                break;
            }
            let path = self.dir.join(segment_name(*base));
            self.disk.remove(&path).map_err(|source| LedgerError::Io {
                path,
                doing: "removing an old segment",
                source,
            })?;
            removed += next - base;
        }
        if removed > 0 {
            let doing = "removing an old segment";
            self.disk
                .sync_dir(&self.dir)
                .map_err(|source| LedgerError::Io {
                    path: self.dir.clone(),
                    doing,
                    source,
                })?;
        }
        Ok(removed)
    }

    /// Erases bodies in place: of each record that stands at one of these positions, what follows the first
    /// `keep` bytes.
    ///
    /// The framing stays valid and what is erased reads as zeros. The marks come first: a crash after them
    /// leaves records that are already treated as erased, and erasing again finishes the work. Two syncs for
    /// each segment, however many records.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`] when no good record stands there.
    pub fn erase(&mut self, places: &[(u64, u32)]) -> Result<(), LedgerError> {
        let bases = segments(&*self.disk, &self.dir)?;
        let base_of = |position: u64| bases.iter().rfind(|base| **base <= position).copied();
        let mut places = places.to_vec();
        places.sort_unstable();
        for places in places.chunk_by(|(one, _), (other, _)| base_of(*one) == base_of(*other)) {
            let Some((first, _)) = places.first() else {
                continue;
            };
            let base = base_of(*first).unwrap_or(0);
            let mut segment = Segment::open(&*self.disk, &self.dir, base)?;
            let path = segment.path.clone();
            let io = |source| LedgerError::Io {
                path: path.clone(),
                doing: "erasing records",
                source,
            };
            let file = self.disk.open(&path, Mode::Write).map_err(io)?;
            let mut bodies = Vec::with_capacity(places.len());
            for (position, keep) in places {
                let offset = position - base;
                let header = segment
                    .record(*position)?
                    .ok_or_else(|| LedgerError::Corrupt {
                        path: path.clone(),
                        offset,
                    })?;
                let marked = RecordHeader {
                    flags: header.flags | FLAG_ERASED,
                    ..header
                };
                file.write_at(&marked.encode(segment.id.crc(offset)), offset)
                    .map_err(io)?;
                bodies.push((
                    offset + RECORD_HEADER + u64::from(*keep),
                    header.len.saturating_sub(*keep),
                ));
            }
            file.sync().map_err(io)?;
            for (offset, len) in bodies {
                file.write_at(&vec![0; len as usize], offset).map_err(io)?;
            }
            file.sync().map_err(io)?;
        }
        Ok(())
    }
}

impl Active {
    fn write(&mut self, group: &mut Group) -> io::Result<()> {
        let bytes = group.place(self.id, self.durable);
        self.file.write_at(bytes, self.durable)?;
        self.file.sync()?;
        self.durable += bytes.len() as u64;
        Ok(())
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// A segment that is not written to any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The position of its front.
    pub base: u64,
    /// The position of the next segment.
    pub end: u64,
    /// Its bytes on disk.
    pub len: u64,
    /// Whether it was rewritten before.
    pub rewritten: bool,
}

/// A segment that was written anew and is not in its place yet.
pub struct Prepared {
    tmp: PathBuf,
    path: PathBuf,
}

/// The file that sets room aside.
const RESERVE: &str = "reserve";

/// Begins a segment: header, snapshot and commit are durable before the name is.
fn create(
    disk: &dyn Disk,
    rng: &dyn Rng,
    dir: &Path,
    base: u64,
    snapshot: &[u8],
) -> Result<Active, LedgerError> {
    let mut group = Group::new();
    group.push_any(KIND_SNAPSHOT, &[snapshot])?;
    group.push_any(KIND_COMMIT, &[&commit_body(base + SEGMENT_HEADER, 1)])?;
    publish(disk, rng, dir, base, &mut group)
}

/// Writes a whole segment and gives it its name when it is durable: a segment that can be seen was
/// written completely.
fn publish(
    disk: &dyn Disk,
    rng: &dyn Rng,
    dir: &Path,
    base: u64,
    group: &mut Group,
) -> Result<Active, LedgerError> {
    let path = dir.join(segment_name(base));
    let tmp = dir.join("next.tmp");
    let (file, id, durable) = write_segment(disk, rng, &tmp, base, 0, group)?;
    let io = |source| LedgerError::Io {
        path: path.clone(),
        doing: "naming a segment",
        source,
    };
    match disk.rename(&tmp, &path) {
        Err(error) if is_full(&error) => return Err(LedgerError::Full { path }),
        renamed => renamed.map_err(io)?,
    }
    disk.sync_dir(dir).map_err(io)?;
    Ok(Active {
        path: path.clone(),
        file,
        base,
        id,
        durable,
    })
}

/// Writes a whole segment under another name; durable on return.
fn write_segment(
    disk: &dyn Disk,
    rng: &dyn Rng,
    tmp: &Path,
    base: u64,
    span: u64,
    group: &mut Group,
) -> Result<(Box<dyn File>, SegmentId, u64), LedgerError> {
    // Before it has its name, a full disk costs nothing.
    let failed = |source| {
        let path = tmp.to_path_buf();
        if is_full(&source) {
            let _ = disk.remove(tmp);
            return LedgerError::Full { path };
        }
        LedgerError::Io {
            path,
            doing: "writing a segment",
            source,
        }
    };
    let mut id = [0; 16];
    rng.fill(&mut id);
    let id = SegmentId::new(id);
    let mut bytes = segment_header(base, id, span).to_vec();
    bytes.extend_from_slice(group.place(id, SEGMENT_HEADER));
    match disk.remove(tmp) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let file = disk.open(tmp, Mode::CreateNew).map_err(failed)?;
    file.write_at(&bytes, 0).map_err(failed)?;
    file.sync().map_err(failed)?;
    Ok((file, id, bytes.len() as u64))
}

/// The most bytes that one group can have: what may be in flight when a sync fails.
const IN_FLIGHT_BYTES: u64 = 8 * 1024 * 1024;

/// Finds the last good group of a segment and removes what a crash left after it.
///
/// The first group was whole when the segment got its name; without it the segment is damaged.
fn recover(disk: &dyn Disk, dir: &Path, base: u64) -> Result<Active, LedgerError> {
    let mut segment = Segment::open(disk, dir, base)?;
    let (committed, stopped) = scan(&mut segment)?;
    if committed == 0 {
        return Err(LedgerError::Corrupt {
            path: segment.path,
            offset: stopped,
        });
    }
    if let Some(offset) = damage_after(&segment, stopped)? {
        return Err(LedgerError::Corrupt {
            path: segment.path,
            offset,
        });
    }
    let path = segment.path.clone();
    let io = |source| LedgerError::Io {
        path: path.clone(),
        doing: "recovering a segment",
        source,
    };
    let file = disk.open(&path, Mode::Write).map_err(io)?;
    if segment.len > committed {
        file.set_len(committed).map_err(io)?;
    }
    // An earlier process may have died after a failed sync: its last pages could be in memory,
    // marked clean, and not on disk. Writing them once more makes the sync mean something.
    let tail = committed.saturating_sub(IN_FLIGHT_BYTES);
    let mut buffer = vec![0; 1024 * 1024];
    let mut at = tail;
    while at < committed {
        let want = (committed - at).min(buffer.len() as u64) as usize;
        let read = segment.read(at, &mut buffer[..want])?;
        if read == 0 {
            break;
        }
        file.write_at(&buffer[..read], at).map_err(io)?;
        at += read as u64;
    }
    file.sync().map_err(io)?;
    // Likewise its name: the sync of the folder may be what failed.
    disk.sync_dir(dir).map_err(io)?;
    Ok(Active {
        path: path.clone(),
        file,
        base,
        id: segment.id,
        durable: committed,
    })
}

/// Reads records from the front: (offset after the last commit, offset where reading stopped).
pub(crate) fn scan(segment: &mut Segment) -> Result<(u64, u64), LedgerError> {
    let mut committed = 0;
    let mut offset = SEGMENT_HEADER;
    while let Some(header) = segment.record(segment.base + offset)? {
        offset += RECORD_HEADER + u64::from(header.len);
        if header.kind == KIND_COMMIT {
            committed = offset;
        }
    }
    Ok((committed, offset))
}

/// Looks for a good group that begins after `stopped`: then the bad bytes are damage and not the
/// torn end of the last group. Returns where the damage is.
pub(crate) fn damage_after(segment: &Segment, stopped: u64) -> Result<Option<u64>, LedgerError> {
    let len = usize::try_from(segment.len.saturating_sub(stopped)).unwrap_or(usize::MAX);
    if len < RECORD_HEADER as usize {
        return Ok(None);
    }
    let mut rest = vec![0; len];
    let read = segment.read(stopped, &mut rest)?;
    rest.truncate(read);
    for at in 0..rest.len() {
        let offset = stopped + at as u64;
        let Some(header) = RecordHeader::parse(&rest[at..], segment.id, offset) else {
            continue;
        };
        if header.kind != KIND_COMMIT {
            continue;
        }
        let body_at = at + RECORD_HEADER as usize;
        let Some(body) = rest.get(body_at..body_at + header.len as usize) else {
            continue;
        };
        let good = segment.id.crc(offset).of(body) == header.body_crc;
        if good && commit_start(body).is_some_and(|start| start > segment.base + stopped) {
            return Ok(Some(stopped));
        }
    }
    Ok(None)
}

fn replay_segment(
    disk: &dyn Disk,
    dir: &Path,
    active: &Active,
    replay: &mut dyn FnMut(Replayed<'_>),
) -> Result<(), LedgerError> {
    let mut segment = Segment::open(disk, dir, active.base)?;
    let mut offset = SEGMENT_HEADER;
    while offset < active.durable {
        let position = active.base + offset;
        let Some(header) = segment.record(position)? else {
            return Err(LedgerError::Corrupt {
                path: segment.path,
                offset,
            });
        };
        let body = segment.body(position, header);
        match header.kind {
            KIND_SNAPSHOT => replay(Replayed::Snapshot(body)),
            KIND_STATE => replay(Replayed::State(body)),
            KIND_COMMIT => {}
            kind => replay(Replayed::Record {
                position,
                kind,
                body,
            }),
        }
        offset += RECORD_HEADER + u64::from(header.len);
    }
    Ok(())
}
