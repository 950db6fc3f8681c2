//! One file: what was read of it, whether that is still there, and reading on.

use std::cell::Cell;
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::SystemTime;

use crate::os;
use crate::position::{BEFORE_BYTES, PREFIX_BYTES, short_digest};
use crate::tail::spend;
use crate::{Item, LINE_BYTES_MAX, Lost, Position};

/// What a line costs of the budget besides its bytes: short lines become entries that are longer.
pub(crate) const LINE_COST: u64 = 1024;
/// How much of one file is read at a time, and how long a piece of a line is.
const CHUNK_BYTES: usize = 1024 * 1024;
/// What opening a file costs of a comparison's budget.
const CHECK_COST: u64 = 64 * 1024;
/// After how many scans a file that began to change is compared.
const CHECK_SCANS: u32 = 2;
/// For each of so many bytes a file rests one scan after a comparison: however often it changes,
/// comparing a long file costs no more than this for each scan.
const CHECK_BYTES_A_SCAN: u64 = 64 * 1024 * 1024;
/// A file's time of change says nothing about changes that come so soon after it: the coarsest file
/// systems count in 2 s.
const SETTLE_NS: u64 = 3_000_000_000;

pub(crate) struct Followed {
    pub(crate) position: Position,
    /// The last bytes before the position.
    before: Vec<u8>,
    /// The first bytes, up to 4 KiB; empty once the prefix is complete.
    prefix: Vec<u8>,
    /// Whether the file was looked at since the start.
    pub(crate) verified: bool,
    pub(crate) len: u64,
    /// When the file was changed last, as of the last look.
    seen: u64,
    /// The comparison of all that was read, while it is under way.
    check: Option<Check>,
    /// How many scans must pass before what was read is compared because the file grew.
    wait: u32,
    /// How many scans must pass before it is compared again for any reason.
    rest: u32,
}

/// How far a comparison has come.
struct Check {
    at: u64,
    crc: u32,
    /// As it was when the comparison began; the file may be read on meanwhile.
    until: u64,
    expected: u32,
    /// When the file was changed last before that; 0 when that was too short a time ago to tell
    /// from a change that comes next.
    changed: u64,
}

/// What a slice of a comparison found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checked {
    /// So far everything is there, and there is more to compare.
    More,
    Same,
    Different,
    /// It is another file or a shorter one: a look will say what happened.
    LookAgain,
}

/// Where what is read goes, and how much of it may go there now.
pub(crate) struct Out<'a> {
    pub(crate) source: &'a str,
    pub(crate) path: &'a Path,
    pub(crate) left: &'a Cell<u64>,
    pub(crate) give: &'a mut dyn FnMut(Item<'_>),
}

impl Followed {
    pub(crate) fn new(source: &str, identity: (u64, u64, u64)) -> Self {
        let position = Position {
            source: source.to_owned(),
            identity,
            ..Position::default()
        };
        Self {
            verified: true,
            ..Self::resumed(position)
        }
    }

    pub(crate) fn resumed(position: Position) -> Self {
        Self {
            position,
            before: Vec::new(),
            prefix: Vec::new(),
            verified: false,
            len: 0,
            seen: 0,
            check: None,
            wait: 0,
            rest: 0,
        }
    }

    pub(crate) fn position(&self) -> Position {
        let mut position = self.position.clone();
        if !self.before.is_empty() {
            position.before = short_digest(&self.before);
        }
        position
    }

    pub(crate) fn lost<'a>(
        &self,
        source: &'a str,
        path: &'a Path,
        what: Lost,
        len: u64,
    ) -> Item<'a> {
        Item::Lost {
            source,
            path,
            what,
            read: self.position.offset,
            len,
            lines: self.position.lines,
        }
    }

    /// Compares a file with what was read of it; `None` when reading may go on.
    pub(crate) fn compare(&mut self, file: &mut File, len: u64) -> io::Result<Option<Lost>> {
        let prefix = read_at(
            file,
            0,
            (self.position.prefix_len as usize).min(PREFIX_BYTES),
        )?;
        let front_is_same = prefix.len() as u64 == self.position.prefix_len
            && short_digest(&prefix) == self.position.prefix;
        if len < self.position.offset {
            let shorter = prefix.len() < self.position.prefix_len as usize;
            return Ok(Some(if front_is_same || shorter {
                Lost::Truncated
            } else {
                Lost::Rewritten
            }));
        }
        let expected = self.position().before;
        let count = (self.position.offset as usize).min(BEFORE_BYTES);
        let before = read_at(file, self.position.offset - count as u64, count)?;
        if !front_is_same || short_digest(&before) != expected {
            return Ok(Some(Lost::Rewritten));
        }
        self.before = before;
        if self.position.prefix_len < PREFIX_BYTES as u64 {
            self.prefix = prefix;
        }
        Ok(None)
    }

    /// Whether the bytes before the position are as they were: a quick look, the prefix aside.
    pub(crate) fn ends_as_before(&self, file: &mut File) -> io::Result<bool> {
        let at = self.position.offset - self.before.len() as u64;
        Ok(read_at(file, at, self.before.len())? == self.before)
    }

    /// Takes note of a look at the file, before it is read on. `true` when all that was read must be
    /// compared now, because something was changed and nothing was appended, or because we were not
    /// there to see. A file that grows is compared some scans later, see [`Self::scanned`].
    pub(crate) fn looked(&mut self, metadata: &Metadata) -> bool {
        let changed = os::changed(metadata);
        let grew = self.verified && metadata.len() > self.len;
        let is_news = !self.verified || changed != self.seen;
        let was_clean = self.is_clean();
        self.verified = true;
        self.len = metadata.len();
        self.seen = changed;
        if self.position.offset == 0 {
            // What is read from now on is in the file as long as this time stands.
            self.position.checked = settled(changed);
        }
        if was_clean && !self.is_clean() {
            self.wait = CHECK_SCANS;
        }
        let due = self.position.offset > 0 && !self.is_clean();
        due && is_news && !grew && self.rest == 0
    }

    /// Whether the file is as it was when all that was read was known to be in it.
    fn is_clean(&self) -> bool {
        self.position.checked == self.seen
    }

    /// Takes note of a scan; says whether the file was changed since it was looked at, and whether
    /// what was read should be compared now.
    pub(crate) fn scanned(&mut self, metadata: &Metadata) -> (bool, bool) {
        self.wait = self.wait.saturating_sub(1);
        self.rest = self.rest.saturating_sub(1);
        let changed = !self.verified
            || metadata.len() != self.len
            || os::changed(metadata) != self.seen
            || os::identity(metadata) != self.position.identity;
        let due = self.verified && self.position.offset > 0 && !self.is_clean();
        (changed, due && self.wait == 0 && self.rest == 0)
    }

    /// Compares the next bytes of what was read, `left` at most, with what they were.
    pub(crate) fn check(
        &mut self,
        file: &mut File,
        chunk: &mut Vec<u8>,
        left: &mut u64,
    ) -> io::Result<Checked> {
        let metadata = file.metadata()?;
        let is_same = os::identity(&metadata) == self.position.identity;
        if !is_same || metadata.len() < self.position.offset {
            self.check = None;
            return Ok(Checked::LookAgain);
        }
        let check = self.check.get_or_insert_with(|| Check {
            at: 0,
            crc: 0,
            until: self.position.offset,
            expected: self.position.crc,
            changed: settled(os::changed(&metadata)),
        });
        *left = left.saturating_sub(CHECK_COST);
        while check.at < check.until {
            if *left == 0 {
                return Ok(Checked::More);
            }
            let want = (check.until - check.at).min(*left).min(CHUNK_BYTES as u64);
            fill(file, check.at, want as usize, chunk)?;
            if chunk.is_empty() {
                self.check = None;
                return Ok(Checked::LookAgain);
            }
            check.crc = crc32c::crc32c_append(check.crc, chunk);
            check.at += chunk.len() as u64;
            *left -= chunk.len() as u64;
        }
        let is_same = check.crc == check.expected;
        self.rest = u32::try_from(check.until / CHECK_BYTES_A_SCAN).unwrap_or(u32::MAX);
        if is_same && check.changed != 0 {
            self.position.checked = check.changed;
        } else {
            self.wait = CHECK_SCANS;
        }
        self.check = None;
        Ok(if is_same {
            Checked::Same
        } else {
            Checked::Different
        })
    }

    /// A comparison could not be done: it begins anew some scans later.
    pub(crate) fn check_failed(&mut self) {
        self.check = None;
        self.rest = CHECK_SCANS;
    }

    /// Gives out lines from the position on; `true` when the budget ended first. A line that has not
    /// ended is held back, unless the file is `gone` and will not grow any more.
    pub(crate) fn read(
        &mut self,
        file: &mut File,
        chunk: &mut Vec<u8>,
        out: &mut Out<'_>,
        gone: bool,
    ) -> io::Result<bool> {
        let mut want = CHUNK_BYTES;
        while out.left.get() > 0 {
            fill(file, self.position.offset, want, chunk)?;
            let in_pieces = self.position.pieces > 0;
            let most = if in_pieces {
                CHUNK_BYTES
            } else {
                LINE_BYTES_MAX
            };
            if let Some(last) = memchr::memrchr(b'\n', chunk) {
                self.lines(&chunk[..=last], out);
            } else if chunk.len() < want {
                if gone && in_pieces {
                    self.piece(chunk, false, out);
                } else if gone && !chunk.is_empty() {
                    self.line(chunk, true, out);
                    self.passed(chunk);
                }
                return Ok(false);
            } else if want < most {
                want = (want * 4).min(most);
                continue;
            } else {
                // Too long to be held: it goes out in pieces.
                self.piece(&chunk[..piece_len(chunk)], true, out);
            }
            if chunk.capacity() > CHUNK_BYTES {
                chunk.clear();
                chunk.shrink_to(CHUNK_BYTES);
            }
            want = CHUNK_BYTES;
        }
        Ok(true)
    }

    /// Gives out whole lines as far as the budget goes.
    fn lines(&mut self, lines: &[u8], out: &mut Out<'_>) {
        let mut at = 0;
        while out.left.get() > 0
            && let Some(len) = memchr::memchr(b'\n', &lines[at..])
        {
            let line = &lines[at..at + len];
            if self.position.pieces > 0 {
                self.piece(line, false, out);
                self.passed(b"\n");
            } else {
                if line.is_empty() {
                    spend(out.left, 1);
                } else {
                    self.line(line, false, out);
                }
                self.passed(&lines[at..=at + len]);
            }
            at += len + 1;
        }
    }

    fn line(&mut self, bytes: &[u8], unterminated: bool, out: &mut Out<'_>) {
        (out.give)(Item::Line {
            source: out.source,
            path: out.path,
            offset: self.position.offset,
            bytes,
            unterminated,
        });
        self.position.lines += 1;
        spend(out.left, bytes.len() as u64 + LINE_COST);
    }

    fn piece(&mut self, bytes: &[u8], more: bool, out: &mut Out<'_>) {
        (out.give)(Item::Piece {
            source: out.source,
            path: out.path,
            offset: self.position.offset,
            bytes,
            first: self.position.pieces == 0,
            more,
        });
        self.passed(bytes);
        self.position.pieces = if more {
            self.position.pieces + bytes.len() as u64
        } else {
            0
        };
        if !more {
            self.position.lines += 1;
        }
        spend(out.left, bytes.len() as u64 + LINE_COST);
    }

    /// Takes note of bytes that were given out.
    fn passed(&mut self, bytes: &[u8]) {
        if self.position.prefix_len < PREFIX_BYTES as u64 {
            let room = PREFIX_BYTES - self.prefix.len();
            self.prefix
                .extend_from_slice(bytes.get(..room).unwrap_or(bytes));
            self.position.prefix_len = self.prefix.len() as u64;
            self.position.prefix = short_digest(&self.prefix);
            if self.prefix.len() == PREFIX_BYTES {
                self.prefix = Vec::new();
            }
        }
        let tail = bytes
            .get(bytes.len().saturating_sub(BEFORE_BYTES)..)
            .unwrap_or(bytes);
        let keep = (BEFORE_BYTES - tail.len()).min(self.before.len());
        self.before.drain(..self.before.len() - keep);
        self.before.extend_from_slice(tail);
        self.position.offset += bytes.len() as u64;
        self.position.crc = crc32c::crc32c_append(self.position.crc, bytes);
    }
}

/// A time of change, 0 when it is too fresh to be told from a change that comes next.
fn settled(changed: u64) -> u64 {
    let age = os::since_1970(SystemTime::now()).abs_diff(changed);
    if age >= SETTLE_NS { changed } else { 0 }
}

/// How long the first piece of these bytes is: as long as may be without splitting a character.
fn piece_len(bytes: &[u8]) -> usize {
    let len = bytes.len().min(CHUNK_BYTES);
    // The last character's first byte is one of the last four, and says how long it is. Where none of
    // them does, this is not UTF-8 and any place is as good as another.
    for (back, byte) in (1..=4).zip(bytes[..len].iter().rev()) {
        let char_len = match byte {
            0x00..=0x7f => return len,
            0x80..=0xbf => continue,
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xff => 4,
        };
        return if char_len > back { len - back } else { len };
    }
    len
}

fn fill(file: &mut File, offset: u64, want: usize, chunk: &mut Vec<u8>) -> io::Result<()> {
    chunk.clear();
    chunk.reserve(want);
    file.seek(SeekFrom::Start(offset))?;
    file.take(want as u64).read_to_end(chunk)?;
    Ok(())
}

fn read_at(file: &mut File, offset: u64, want: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fill(file, offset, want, &mut bytes)?;
    Ok(bytes)
}
