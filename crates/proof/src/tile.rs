//! C2SP `tlog-tiles`: a log as static files, and the proofs that anyone computes from them.
//!
//! A tile holds up to 256 neighbouring hashes of one level. Level 0 are the leaf hashes; each hash
//! of level L + 1 is the root of a whole tile of level L. See `docs/formats/tiles.md`.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use jurat_event::ENTRY_BYTES_MAX;

use crate::{
    Checkpoint, Digest, Frontier, Message, Note, decimal, leaf_hash, node_hash, sha256_many,
};

/// The hashes of a whole tile.
pub const TILE_WIDTH: u16 = 256;
/// A tile stands for a subtree of this height.
const HEIGHT: u32 = 8;
/// The highest level that a path may name (C2SP tlog-tiles).
const LEVEL_MAX: u8 = 63;
/// The longest path that is looked at: three bytes for a level, seven elements for an index.
const PATH_BYTES_MAX: usize = 64;

/// The place of a tile: its level, its number on that level, and how many hashes it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tile {
    level: u8,
    index: u64,
    width: u16,
}

impl Tile {
    /// A tile of 1 to 256 hashes on a level up to 63.
    pub fn new(level: u8, index: u64, width: u16) -> Option<Self> {
        let good = level <= LEVEL_MAX && (1..=TILE_WIDTH).contains(&width);
        good.then_some(Self {
            level,
            index,
            width,
        })
    }

    /// The tile of this level and number as a tree of this size has it; `None` where it has none.
    pub fn in_tree(level: u8, index: u64, size: u64) -> Option<Self> {
        let hashes = hashes_on(level, size);
        let before = index.checked_mul(u64::from(TILE_WIDTH))?;
        let width = hashes.checked_sub(before)?.min(u64::from(TILE_WIDTH));
        Self::new(level, index, width as u16)
    }

    /// All tiles of a tree of this size, level by level.
    pub fn all(size: u64) -> impl Iterator<Item = Self> {
        (0..=LEVEL_MAX)
            .take_while(move |level| hashes_on(*level, size) > 0)
            .flat_map(move |level| (0..).map_while(move |index| Self::in_tree(level, index, size)))
    }

    /// The level; 0 is that of the leaf hashes.
    pub fn level(&self) -> u8 {
        self.level
    }

    /// The number of the tile on its level.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// How many hashes it holds.
    pub fn width(&self) -> u16 {
        self.width
    }

    /// Whether it holds all the hashes that a tile can hold.
    pub fn is_whole(&self) -> bool {
        self.width == TILE_WIDTH
    }

    /// The place of its first hash on its level.
    pub fn first(&self) -> u64 {
        self.index.saturating_mul(u64::from(TILE_WIDTH))
    }

    /// Whether every hash of it is one of a tree of this size.
    pub fn is_in(&self, size: u64) -> bool {
        Self::in_tree(self.level, self.index, size).is_some_and(|tile| tile.width >= self.width)
    }
}

/// How many hashes a level has in a tree of this size.
fn hashes_on(level: u8, size: u64) -> u64 {
    size.checked_shr(u32::from(level) * HEIGHT).unwrap_or(0)
}

/// What can be asked of a log, by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TilePath {
    /// `checkpoint`
    Checkpoint,
    /// `tile/<L>/<N>[.p/<W>]`
    Hashes(Tile),
    /// `tile/entries/<N>[.p/<W>]`: the entries whose hashes are this tile of level 0.
    Entries(Tile),
}

impl TilePath {
    /// Reads a path in its one form; `None` for anything else.
    pub fn parse(path: &str) -> Option<Self> {
        if path.len() > PATH_BYTES_MAX {
            return None;
        }
        if path == "checkpoint" {
            return Some(Self::Checkpoint);
        }
        let (level, rest) = path.strip_prefix("tile/")?.split_once('/')?;
        let (number, width) = match rest.split_once(".p/") {
            Some((number, width)) => {
                let width = decimal(width).filter(|width| *width < u64::from(TILE_WIDTH))?;
                (number, u16::try_from(width).ok()?)
            }
            None => (rest, TILE_WIDTH),
        };
        let index = parse_index(number)?;
        if level == "entries" {
            return Tile::new(0, index, width).map(Self::Entries);
        }
        let level = decimal(level).filter(|level| *level <= u64::from(LEVEL_MAX))?;
        Tile::new(level as u8, index, width).map(Self::Hashes)
    }
}

impl fmt::Display for TilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tile = match self {
            Self::Checkpoint => return f.write_str("checkpoint"),
            Self::Hashes(tile) => {
                write!(f, "tile/{}/", tile.level)?;
                tile
            }
            Self::Entries(tile) => {
                f.write_str("tile/entries/")?;
                tile
            }
        };
        let mut elements = vec![tile.index % 1000];
        let mut rest = tile.index / 1000;
        while rest > 0 {
            elements.push(rest % 1000);
            rest /= 1000;
        }
        let last = elements.remove(0);
        for element in elements.iter().rev() {
            write!(f, "x{element:03}/")?;
        }
        write!(f, "{last:03}")?;
        if tile.is_whole() {
            return Ok(());
        }
        write!(f, ".p/{}", tile.width)
    }
}

/// `x001/x234/067` is 1234067. No element of zeros stands in front: each number has one form.
fn parse_index(text: &str) -> Option<u64> {
    let mut index: u64 = 0;
    let mut elements = text.split('/').peekable();
    while let Some(element) = elements.next() {
        let last = elements.peek().is_none();
        let digits = if last {
            element
        } else {
            element.strip_prefix('x')?
        };
        if digits.len() != 3 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let value: u64 = digits.parse().ok()?;
        if !last && index == 0 && value == 0 {
            return None;
        }
        index = index.checked_mul(1000)?.checked_add(value)?;
    }
    Some(index)
}

/// Why bytes are not an entry bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryBundleError {
    /// The bytes end inside an entry, or go on after the last one.
    #[error("the entries do not end where the bundle ends")]
    Cut,
    /// An entry longer than one may be.
    #[error("an entry of {0} bytes, the limit is {ENTRY_BYTES_MAX}")]
    TooLong(usize),
}

/// The entries of a bundle of this many.
///
/// # Errors
/// [`EntryBundleError`] when the bytes are not exactly so many entries.
pub fn parse_entries(bytes: &[u8], width: u16) -> Result<Vec<&[u8]>, EntryBundleError> {
    let mut entries = Vec::with_capacity(usize::from(width));
    let mut rest = bytes;
    for _ in 0..width {
        let (len, after) = rest.split_first_chunk::<2>().ok_or(EntryBundleError::Cut)?;
        let len = usize::from(u16::from_be_bytes(*len));
        if len > ENTRY_BYTES_MAX {
            return Err(EntryBundleError::TooLong(len));
        }
        let (entry, after) = after.split_at_checked(len).ok_or(EntryBundleError::Cut)?;
        entries.push(entry);
        rest = after;
    }
    if !rest.is_empty() {
        return Err(EntryBundleError::Cut);
    }
    Ok(entries)
}

/// Appends an entry to a bundle.
///
/// # Errors
/// [`EntryBundleError::TooLong`]; the bundle is as before.
pub fn push_entry(bundle: &mut Vec<u8>, entry: &[u8]) -> Result<(), EntryBundleError> {
    let len = u16::try_from(entry.len())
        .ok()
        .filter(|_| entry.len() <= ENTRY_BYTES_MAX)
        .ok_or(EntryBundleError::TooLong(entry.len()))?;
    bundle.extend_from_slice(&len.to_be_bytes());
    bundle.extend_from_slice(entry);
    Ok(())
}

/// Where tiles come from.
pub trait Tiles {
    /// Why a tile could not be had.
    type Error;

    /// The hashes of this tile, as many as its width says.
    ///
    /// # Errors
    /// [`Tiles::Error`].
    fn read(&self, tile: Tile) -> Result<Vec<Digest>, Self::Error>;
}

/// Why no proof could be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TileError<E> {
    /// A tile could not be had.
    #[error("a tile cannot be read")]
    Read(E),
    /// A tile has another number of hashes than its width says.
    #[error("tile {index} of level {level} has {found} hashes")]
    Width {
        /// Its level.
        level: u8,
        /// Its number.
        index: u64,
        /// How many hashes came.
        found: usize,
    },
    /// The tree of this size has no such leaf, or no such smaller tree.
    #[error("index or size out of range")]
    OutOfRange,
}

/// The nodes inside one tile: its hashes, then level by level those of its complete subtrees.
struct Nodes(Vec<Vec<[u8; 32]>>);

impl Nodes {
    fn new(hashes: &[Digest]) -> Self {
        let mut levels = vec![hashes.iter().map(|hash| hash.0).collect::<Vec<_>>()];
        loop {
            let below = levels.last().map_or(&[][..], Vec::as_slice);
            let pairs: Vec<Message<'_>> =
                below.as_chunks::<2>().0.iter().map(Message::node).collect();
            if pairs.is_empty() {
                return Self(levels);
            }
            let above = sha256_many(&pairs).iter().map(|node| node.0).collect();
            levels.push(above);
        }
    }

    fn get(&self, height: u32, place: u64) -> Option<Digest> {
        let level = self.0.get(height as usize)?;
        level.get(usize::try_from(place).ok()?).copied().map(Digest)
    }
}

/// The root of a whole tile: its hash on the level above.
pub fn tile_root(hashes: &[Digest]) -> Digest {
    let mut frontier = Frontier::default();
    frontier.extend(hashes);
    frontier.root()
}

/// The most tiles that are remembered between two proofs; one proof needs at most 16.
const TILES_KEPT: usize = 64;

/// Computes proofs in the tree of one size from its tiles. A proof reads at most two tiles a level.
///
/// What it gives is as good as the tiles: whoever relies on it verifies the proof.
pub struct Prover<'a, T: Tiles> {
    tiles: &'a T,
    size: u64,
    kept: BTreeMap<(u8, u64), Nodes>,
    /// The hashes from a place up to the end of the tree; no more than the size has bits.
    edges: BTreeMap<u64, Digest>,
}

impl<'a, T: Tiles> Prover<'a, T> {
    /// A prover in the tree of this size.
    pub fn new(tiles: &'a T, size: u64) -> Self {
        Self {
            tiles,
            size,
            kept: BTreeMap::new(),
            edges: BTreeMap::new(),
        }
    }

    /// The right edge of the tree.
    ///
    /// # Errors
    /// [`TileError::Read`] or [`TileError::Width`].
    pub fn frontier(&mut self) -> Result<Frontier, TileError<T::Error>> {
        let (size, mut frontier) = (self.size, Frontier::default());
        for level in (0..u64::BITS).rev().filter(|bit| size >> bit & 1 == 1) {
            let root = self.node(level, frontier.size() >> level)?;
            frontier.push_subtree(level, root);
        }
        Ok(frontier)
    }

    /// The root of the tree.
    ///
    /// # Errors
    /// As [`Prover::frontier`].
    pub fn root(&mut self) -> Result<Digest, TileError<T::Error>> {
        Ok(self.frontier()?.root())
    }

    /// The leaf hash at this index.
    ///
    /// # Errors
    /// [`TileError`].
    pub fn leaf(&mut self, index: u64) -> Result<Digest, TileError<T::Error>> {
        if index >= self.size {
            return Err(TileError::OutOfRange);
        }
        self.node(0, index)
    }

    /// The inclusion proof of a leaf (RFC 6962 section 2.1.1).
    ///
    /// # Errors
    /// [`TileError`].
    pub fn inclusion(&mut self, index: u64) -> Result<Vec<Digest>, TileError<T::Error>> {
        if index >= self.size {
            return Err(TileError::OutOfRange);
        }
        let mut proof = Vec::new();
        let (mut low, mut high) = (0, self.size);
        while high - low > 1 {
            let middle = low + split(high - low);
            if index < middle {
                proof.push(self.span(middle, high)?);
                high = middle;
            } else {
                proof.push(self.span(low, middle)?);
                low = middle;
            }
        }
        proof.reverse();
        Ok(proof)
    }

    /// The consistency proof from a smaller tree (RFC 6962 section 2.1.2).
    ///
    /// # Errors
    /// [`TileError`]; a size of 0 proves nothing and is refused.
    pub fn consistency(&mut self, old: u64) -> Result<Vec<Digest>, TileError<T::Error>> {
        if old == 0 || old > self.size {
            return Err(TileError::OutOfRange);
        }
        let mut proof = Vec::new();
        let (mut low, mut high) = (0, self.size);
        while old < high {
            let middle = low + split(high - low);
            if old <= middle {
                proof.push(self.span(middle, high)?);
                high = middle;
            } else {
                proof.push(self.span(low, middle)?);
                low = middle;
            }
        }
        // The old tree itself is known to who asks; a part of it is not.
        if low > 0 {
            proof.push(self.span(low, high)?);
        }
        proof.reverse();
        Ok(proof)
    }

    /// The hash over the leaves from `low`, where a subtree begins, up to `high`.
    fn span(&mut self, low: u64, high: u64) -> Result<Digest, TileError<T::Error>> {
        if let Some(known) = self.edges.get(&low).filter(|_| high == self.size) {
            return Ok(*known);
        }
        let mut edge = Vec::new();
        let mut at = low;
        while at < high {
            let level = (high - at).ilog2();
            edge.push(self.node(level, at >> level)?);
            at += 1 << level;
        }
        let mut edge = edge.into_iter().rev();
        let last = edge.next().ok_or(TileError::OutOfRange)?;
        let hash = edge.fold(last, |right, left| node_hash(&left, &right));
        if high == self.size {
            self.edges.insert(low, hash);
        }
        Ok(hash)
    }

    /// The root of the complete subtree of `1 << level` leaves at this place.
    fn node(&mut self, level: u32, place: u64) -> Result<Digest, TileError<T::Error>> {
        let (tile_level, height) = ((level / HEIGHT) as u8, level % HEIGHT);
        let index = place >> (HEIGHT - height);
        let inside = place & ((1 << (HEIGHT - height)) - 1);
        if self.kept.len() >= TILES_KEPT && !self.kept.contains_key(&(tile_level, index)) {
            self.kept.clear();
        }
        let nodes = match self.kept.entry((tile_level, index)) {
            std::collections::btree_map::Entry::Occupied(kept) => kept.into_mut(),
            std::collections::btree_map::Entry::Vacant(free) => {
                let tile = Tile::in_tree(tile_level, index, self.size);
                let tile = tile.ok_or(TileError::OutOfRange)?;
                let hashes = self.tiles.read(tile).map_err(TileError::Read)?;
                if hashes.len() != usize::from(tile.width) {
                    return Err(TileError::Width {
                        level: tile_level,
                        index,
                        found: hashes.len(),
                    });
                }
                free.insert(Nodes::new(&hashes))
            }
        };
        nodes.get(height, inside).ok_or(TileError::OutOfRange)
    }
}

/// The largest power of two below `n`, for `n > 1`.
fn split(n: u64) -> u64 {
    1 << (n - 1).ilog2()
}

/// Why a folder of tiles could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TileWriteError {
    /// A file could not be written.
    #[error("writing a tile")]
    Write(#[from] io::Error),
    /// An entry does not fit into a bundle.
    #[error(transparent)]
    Bundle(#[from] EntryBundleError),
    /// The leaves are not those of the checkpoint.
    #[error("the leaves do not have the checkpoint's size and root")]
    Checkpoint,
}

/// What a [`TileWriter`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiled {
    /// The size of the tree.
    pub size: u64,
    /// Entries that were not given: the bundles that they belong to do not exist.
    pub entries_missing: u64,
}

/// Writes a log as files, leaf by leaf: tiles and entry bundles, and last the checkpoint.
///
/// Holds one tile a level and one bundle, however large the log is.
pub struct TileWriter<W> {
    write: W,
    frontier: Frontier,
    /// The tile of each level that is not whole yet.
    levels: Vec<Vec<Digest>>,
    bundle: Vec<u8>,
    /// Entries of the bundle that were not given.
    gaps: u64,
    missing: u64,
}

impl<W: FnMut(&str, &[u8]) -> io::Result<()>> TileWriter<W> {
    /// A writer that gives each file, once, to this function: its path and its content.
    pub fn new(write: W) -> Self {
        Self {
            write,
            frontier: Frontier::default(),
            levels: Vec::new(),
            bundle: Vec::new(),
            gaps: 0,
            missing: 0,
        }
    }

    /// The next leaf, with its entry.
    ///
    /// # Errors
    /// [`TileWriteError`].
    pub fn entry(&mut self, entry: &[u8]) -> Result<(), TileWriteError> {
        push_entry(&mut self.bundle, entry)?;
        self.leaf(leaf_hash(entry))
    }

    /// The next leaf, whose entry is not here.
    ///
    /// # Errors
    /// [`TileWriteError`].
    pub fn withheld(&mut self, leaf: Digest) -> Result<(), TileWriteError> {
        self.gaps += 1;
        self.missing += 1;
        self.leaf(leaf)
    }

    fn leaf(&mut self, leaf: Digest) -> Result<(), TileWriteError> {
        self.frontier.push(leaf);
        let mut hash = leaf;
        for level in 0.. {
            if self.levels.len() == level {
                self.levels.push(Vec::with_capacity(TILE_WIDTH.into()));
            }
            let Some(tile) = self.levels.get_mut(level) else {
                break;
            };
            tile.push(hash);
            if tile.len() < usize::from(TILE_WIDTH) {
                break;
            }
            hash = tile_root(tile);
            self.flush(level)?;
        }
        Ok(())
    }

    /// Writes the tile of this level as far as there is one, and begins the next.
    fn flush(&mut self, level: usize) -> Result<(), TileWriteError> {
        let Some(hashes) = self.levels.get_mut(level) else {
            return Ok(());
        };
        let hashes = std::mem::take(hashes);
        let after = hashes_on(level as u8, self.frontier.size());
        let index = after.saturating_sub(1) / u64::from(TILE_WIDTH);
        let Some(tile) = Tile::new(level as u8, index, hashes.len() as u16) else {
            return Ok(());
        };
        let bytes: Vec<u8> = hashes.iter().flat_map(|hash| hash.0).collect();
        (self.write)(&TilePath::Hashes(tile).to_string(), &bytes)?;
        if level == 0 {
            if self.gaps == 0 {
                (self.write)(&TilePath::Entries(tile).to_string(), &self.bundle)?;
            }
            self.gaps = 0;
            self.bundle.clear();
        }
        Ok(())
    }

    /// Writes the tiles that are not whole, and the checkpoint over all leaves.
    ///
    /// # Errors
    /// [`TileWriteError::Checkpoint`] when the note is another head than that of these leaves.
    pub fn finish(mut self, note: &[u8]) -> Result<Tiled, TileWriteError> {
        let head = Note::parse(note)
            .and_then(|note| Checkpoint::parse(&note.text))
            .map_err(|_| TileWriteError::Checkpoint)?;
        let size = self.frontier.size();
        if head.size != size || head.root != self.frontier.root() {
            return Err(TileWriteError::Checkpoint);
        }
        for level in 0..self.levels.len() {
            self.flush(level)?;
        }
        (self.write)(&TilePath::Checkpoint.to_string(), note)?;
        Ok(Tiled {
            size,
            entries_missing: self.missing,
        })
    }
}

#[cfg(test)]
mod tests;
