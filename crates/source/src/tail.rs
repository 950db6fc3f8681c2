//! Following files.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::failing::{Doing, Failing};
use crate::followed::{Checked, Followed, LINE_COST, Out};
use crate::os::{self, identity};
use crate::{Position, Root};

/// The longest line that is given out whole; a longer one comes in pieces.
pub const LINE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How much of what was read is compared between two looks at other files.
const CHECK_BYTES: u64 = 4 * 1024 * 1024;
/// How many files are kept open between reads, so that what is written to a file just before it is
/// removed can still be read.
const OPEN_MAX: usize = 256;

/// What reading gives out.
#[derive(Debug)]
pub enum Item<'a> {
    /// A line, without its line end.
    Line {
        /// The source.
        source: &'a str,
        /// The file.
        path: &'a Path,
        /// Where it begins.
        offset: u64,
        /// Its bytes.
        bytes: &'a [u8],
        /// The file was gone before the line ended.
        unterminated: bool,
    },
    /// A piece of a line longer than [`LINE_BYTES_MAX`].
    Piece {
        /// The source.
        source: &'a str,
        /// The file.
        path: &'a Path,
        /// Where the piece begins.
        offset: u64,
        /// Its bytes.
        bytes: &'a [u8],
        /// Whether the line begins with it.
        first: bool,
        /// Whether the line goes on.
        more: bool,
    },
    /// Something already read is no longer there.
    Lost {
        /// The source.
        source: &'a str,
        /// The file.
        path: &'a Path,
        /// What happened.
        what: Lost,
        /// Bytes that had been read.
        read: u64,
        /// Bytes the file has now.
        len: u64,
        /// Lines that had been read.
        lines: u64,
    },
    /// A file or folder cannot be read. Told once for each reason until it works again.
    Failed {
        /// The source.
        source: &'a str,
        /// The file or folder.
        path: &'a Path,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        error: &'a str,
        /// Bytes that had been read.
        offset: u64,
    },
    /// What failed works again.
    Recovered {
        /// The source.
        source: &'a str,
        /// The file or folder.
        path: &'a Path,
        /// What had failed.
        doing: &'static str,
        /// Bytes that were read by now.
        offset: u64,
    },
}

/// How bytes already read were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The file became shorter.
    Truncated,
    /// The file holds something else.
    Rewritten,
    /// The file is gone.
    Deleted,
}

/// Takes this much from a budget.
pub(crate) fn spend(left: &Cell<u64>, cost: u64) {
    left.set(left.get().saturating_sub(cost));
}

/// Follows the files of its roots.
pub struct Tail {
    roots: Vec<Root>,
    files: BTreeMap<PathBuf, Followed>,
    /// Files with something to do.
    dirty: BTreeSet<PathBuf>,
    /// Files of which everything that was read is compared, a slice with each read.
    checks: BTreeSet<PathBuf>,
    /// Changed since [`Tail::changes`] was asked.
    changed: BTreeSet<PathBuf>,
    removed: BTreeSet<PathBuf>,
    failing: Failing,
    open: HashMap<PathBuf, (File, u64)>,
    tick: u64,
    chunk: Vec<u8>,
}

impl Tail {
    /// Follows these roots, from these positions where the files are still the same.
    pub fn new(roots: Vec<Root>, positions: BTreeMap<PathBuf, Position>) -> Self {
        let files = positions
            .into_iter()
            .map(|(path, position)| (path, Followed::resumed(position)))
            .collect();
        Self {
            roots,
            files,
            dirty: BTreeSet::new(),
            checks: BTreeSet::new(),
            changed: BTreeSet::new(),
            removed: BTreeSet::new(),
            failing: Failing::default(),
            open: HashMap::new(),
            tick: 0,
            chunk: Vec::new(),
        }
    }

    /// The roots.
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// How many files are followed.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether no file is followed.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Looks at these paths at the next read.
    pub fn touch(&mut self, paths: impl IntoIterator<Item = PathBuf>) {
        for path in paths {
            if self.files.contains_key(&path) || self.roots.iter().any(|root| root.matches(&path)) {
                self.dirty.insert(path);
            }
        }
    }

    /// How many files and folders cannot be read now, and at most `max` of them in words.
    pub fn failing(&self, max: usize) -> (usize, Vec<String>) {
        self.failing.summary(max)
    }

    /// Looks at every file of every root: new ones, grown ones, gone ones, unreadable ones.
    pub fn scan(&mut self) {
        let mut seen = BTreeSet::new();
        let mut unlisted = BTreeSet::new();
        for root in &self.roots {
            let listing = root.files();
            for (path, error) in listing.failed {
                self.failing
                    .fails(&path, Doing::Listing, &root.name, 0, &error);
                unlisted.insert(path);
            }
            for path in listing.files {
                let (changed, check) = match (self.files.get_mut(&path), fs::metadata(&path)) {
                    (Some(known), Ok(metadata)) => known.scanned(&metadata),
                    _ => (true, false),
                };
                if changed {
                    self.dirty.insert(path.clone());
                }
                if check {
                    self.checks.insert(path.clone());
                }
                seen.insert(path);
            }
        }
        let listed: Vec<_> = self
            .failing
            .places(Doing::Listing)
            .filter(|path| !unlisted.contains(*path))
            .cloned()
            .collect();
        for path in listed {
            if path.symlink_metadata().is_ok() {
                self.failing.works(&path, Doing::Listing, 0);
            } else {
                self.failing.gone(&path, true);
            }
        }
        let unread = self.failing.places(Doing::Reading);
        for path in self.files.keys().chain(unread) {
            if !seen.contains(path) {
                self.dirty.insert(path.clone());
            }
        }
    }

    /// Whether anything waits to be read.
    pub fn is_idle(&self) -> bool {
        self.dirty.is_empty() && self.checks.is_empty() && !self.failing.has_notices()
    }

    /// Reads until about `budget` bytes were given out or nothing is left; `true` when more waits.
    /// A line counts 1 KiB more than it has, so a budget of 1 MiB gives at most 1,024 lines.
    ///
    /// An error of one file does not stop the others: it is given out as [`Item::Failed`], and the
    /// file is looked at again with the next scan.
    pub fn read(&mut self, budget: usize, give: &mut dyn FnMut(Item<'_>)) -> bool {
        self.read_within(&Cell::new(budget as u64), give)
    }

    /// Likewise, with a budget that `give` can take away: then this item is the last one.
    pub fn read_within(&mut self, left: &Cell<u64>, give: &mut dyn FnMut(Item<'_>)) -> bool {
        self.check(give);
        while left.get() > 0 {
            if let Some(notice) = self.failing.next_notice() {
                give(notice.item());
                spend(left, LINE_COST);
                continue;
            }
            let Some(path) = self.dirty.pop_first() else {
                break;
            };
            match self.read_file(&path, left, give) {
                Ok(true) => {
                    self.dirty.insert(path);
                }
                Ok(false) => {}
                Err(error) => self.failed(&path, &error),
            }
        }
        !self.is_idle()
    }

    fn failed(&mut self, path: &Path, error: &io::Error) {
        let mut offset = 0;
        let mut source = self.source_of(path);
        if let Some(known) = self.files.get_mut(path) {
            // Compared again as soon as it can be read, whatever its length is then.
            known.verified = false;
            offset = known.position.offset;
            source = Some(known.position.source.clone());
        }
        if let Some(source) = source {
            self.failing
                .fails(path, Doing::Reading, &source, offset, error);
        }
    }

    /// Compares one slice of what was read with what it was.
    fn check(&mut self, give: &mut dyn FnMut(Item<'_>)) {
        let mut left = CHECK_BYTES;
        while left > 0
            && let Some(path) = self.checks.pop_first()
        {
            let Some(known) = self.files.get_mut(&path) else {
                continue;
            };
            let checked = match os::open(&path) {
                Ok(mut file) => known.check(&mut file, &mut self.chunk, &mut left),
                Err(error) if is_gone(&error) => Ok(Checked::LookAgain),
                Err(error) => Err(error),
            };
            let offset = known.position.offset;
            let source = known.position.source.clone();
            match checked {
                Ok(Checked::More) => {
                    self.checks.insert(path);
                    continue;
                }
                Ok(Checked::Same) => {}
                Ok(Checked::Different) => {
                    let len = known.len;
                    give(known.lost(&source, &path, Lost::Rewritten, len));
                    *known = Followed::new(&source, known.position.identity);
                    self.dirty.insert(path.clone());
                }
                Ok(Checked::LookAgain) => {
                    self.dirty.insert(path);
                    continue;
                }
                Err(error) => {
                    known.check_failed();
                    self.failing
                        .fails(&path, Doing::Checking, &source, offset, &error);
                    continue;
                }
            }
            self.failing.works(&path, Doing::Checking, offset);
            self.changed.insert(path);
        }
    }

    /// The positions that changed since the last call, and the files that are gone.
    pub fn changes(&mut self) -> (BTreeMap<PathBuf, Position>, BTreeSet<PathBuf>) {
        let changed = std::mem::take(&mut self.changed);
        let positions = changed
            .into_iter()
            .filter_map(|path| {
                let position = self.files.get(&path)?.position();
                Some((path, position))
            })
            .collect();
        (positions, std::mem::take(&mut self.removed))
    }

    /// All positions.
    pub fn positions(&self) -> BTreeMap<PathBuf, Position> {
        self.files
            .iter()
            .map(|(path, file)| (path.clone(), file.position()))
            .collect()
    }

    /// Bytes that were not read yet, as of the last look.
    pub fn behind(&self) -> u64 {
        self.files
            .values()
            .map(|file| file.len.saturating_sub(file.position.offset))
            .sum()
    }

    fn source_of(&self, path: &Path) -> Option<String> {
        self.roots
            .iter()
            .find(|root| root.matches(path))
            .map(|root| root.name.clone())
    }

    /// Reads from one file; `true` when it has more.
    fn read_file(
        &mut self,
        path: &Path,
        left: &Cell<u64>,
        give: &mut dyn FnMut(Item<'_>),
    ) -> io::Result<bool> {
        let opened = match os::open(path) {
            Ok(file) => Some(file),
            Err(error) if is_gone(&error) => None,
            Err(_) if fs::metadata(path).is_ok_and(|found| !found.is_file()) => None,
            Err(error) => return Err(error),
        };
        let metadata = opened.as_ref().map(File::metadata).transpose()?;
        // A folder or a pipe in a file's place is no file.
        let metadata = metadata.filter(fs::Metadata::is_file);
        let Some(source) = self
            .files
            .get(path)
            .map(|known| known.position.source.clone())
            .or_else(|| self.source_of(path))
        else {
            return Ok(false);
        };
        let now = metadata.as_ref().map(identity);
        if let (None, Some(known)) = (now, self.files.get(path)) {
            let identity = known.position.identity;
            let is_here = |other: &PathBuf| {
                fs::metadata(other).is_ok_and(|found| self::identity(&found) == identity)
            };
            if self
                .dirty
                .iter()
                .any(|other| !self.files.contains_key(other) && is_here(other))
            {
                // Renamed: the new name takes over when its turn comes.
                return Ok(false);
            }
        }
        let mut out = Out {
            source: &source,
            path,
            left,
            give,
        };
        let other = self
            .files
            .get(path)
            .is_some_and(|known| Some(known.position.identity) != now);
        if other && let Some((mut old, tick)) = self.open.remove(path) {
            // Replaced or removed while we held it: first what was still written to the old one, as
            // far as the budget goes. Only when it still holds what was read: it may have been
            // rewritten before it was removed.
            if let Some(known) = self.files.get_mut(path)
                && old.metadata()?.len() >= known.position.offset
                && known.ends_as_before(&mut old)?
                && known.read(&mut old, &mut self.chunk, &mut out, true)?
            {
                self.open.insert(path.to_path_buf(), (old, tick));
                return Ok(true);
            }
        }
        let Some((mut file, metadata)) = opened.zip(metadata) else {
            let known = self.files.remove(path);
            self.failing.gone(path, known.is_none());
            if let Some(known) = known {
                (out.give)(known.lost(&source, path, Lost::Deleted, 0));
                self.changed.remove(path);
                self.removed.insert(path.to_path_buf());
            }
            return Ok(false);
        };
        let len = metadata.len();
        let identity = identity(&metadata);
        if !self.files.contains_key(path) {
            // Renamed from a name that we know? Then reading goes on where it was.
            let moved = self.files.iter().find(|(from, known)| {
                known.position.identity == identity && identity.1 != 0 && !from.exists()
            });
            let known = match moved.map(|(from, _)| from.clone()) {
                Some(from) => {
                    self.removed.insert(from.clone());
                    self.changed.remove(&from);
                    self.open.remove(&from);
                    self.failing.renamed(&from, path);
                    self.files
                        .remove(&from)
                        .unwrap_or_else(|| Followed::new(&source, identity))
                }
                None => Followed::new(&source, identity),
            };
            self.files.insert(path.to_path_buf(), known);
            self.removed.remove(path);
        }
        let Some(known) = self.files.get_mut(path) else {
            return Ok(false);
        };
        if known.position.offset > 0 && (!known.verified || other || len < known.position.offset) {
            let lost = known.compare(&mut file, len)?;
            if let Some(what) = lost {
                (out.give)(known.lost(&source, path, what, len));
                *known = Followed::new(&source, identity);
            }
            // Whatever its length is now: we did not see it become so.
            known.verified = false;
        } else if known.position.offset > 0 && !known.ends_as_before(&mut file)? {
            (out.give)(known.lost(&source, path, Lost::Rewritten, len));
            *known = Followed::new(&source, identity);
        }
        known.position.identity = identity;
        if known.looked(&metadata) {
            self.checks.insert(path.to_path_buf());
        }
        self.changed.insert(path.to_path_buf());
        let more = known.read(&mut file, &mut self.chunk, &mut out, false)?;
        self.failing
            .works(path, Doing::Reading, known.position.offset);
        self.tick += 1;
        self.open.insert(path.to_path_buf(), (file, self.tick));
        if self.open.len() > OPEN_MAX
            && let Some(oldest) = self
                .open
                .iter()
                .min_by_key(|(_, (_, tick))| *tick)
                .map(|(path, _)| path.clone())
        {
            self.open.remove(&oldest);
        }
        Ok(more)
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}
