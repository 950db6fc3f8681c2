//! The hashes of one log, a flat file a level: tile N of a level is its bytes from N * 8192 on.
//!
//! Nothing here is synced, because all of it can be made again, and nothing is believed: whoever
//! reads a tile compares it with the level above, or with the root ([`Levels::checked`]).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jurat_disk::{Disk, File, Mode};
use jurat_proof::{Digest, Prover, TILE_WIDTH, Tile, TileError, Tiles, tile_root};

use super::{TilesError, open_or_create};

const HASH_BYTES: u64 = 32;
const WIDTH: u64 = TILE_WIDTH as u64;

/// One level: its file, and how many hashes it holds.
struct Level {
    file: Box<dyn File>,
    count: u64,
}

/// The levels of one log, open for reading and appending.
pub struct Levels {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    levels: Vec<Level>,
}

impl Levels {
    /// Opens the files in this folder, which is made when there is none.
    ///
    /// # Errors
    /// What the disk says.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path) -> io::Result<Self> {
        disk.create_dir_all(dir)?;
        let mut levels = Self {
            disk,
            dir: dir.to_path_buf(),
            levels: Vec::new(),
        };
        for level in 0..=u8::MAX {
            match levels.disk.open(&levels.path(level), Mode::Write) {
                Ok(file) => {
                    let count = file.len()? / HASH_BYTES;
                    levels.levels.push(Level { file, count });
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            }
        }
        let size = levels.size();
        levels.truncate(size)?;
        levels.raise()?;
        Ok(levels)
    }

    fn path(&self, level: u8) -> PathBuf {
        self.dir.join(level.to_string())
    }

    /// How many leaves there are.
    pub fn size(&self) -> u64 {
        self.levels.first().map_or(0, |level| level.count)
    }

    /// Forgets the leaves from this one on.
    pub(crate) fn truncate(&mut self, size: u64) -> io::Result<()> {
        let mut most = size;
        for level in &mut self.levels {
            level.count = level.count.min(most);
            level.file.set_len(level.count * HASH_BYTES)?;
            most = level.count / WIDTH;
        }
        Ok(())
    }

    /// Appends leaf hashes.
    ///
    /// # Errors
    /// What the disk says; open it anew then.
    pub fn extend(&mut self, leaves: &[Digest]) -> io::Result<()> {
        self.append(0, leaves)?;
        self.raise()
    }

    fn append(&mut self, level: usize, hashes: &[Digest]) -> io::Result<()> {
        if hashes.is_empty() {
            return Ok(());
        }
        if self.levels.len() == level {
            let path = self.path(level as u8);
            let file = open_or_create(&*self.disk, &path)?;
            // Of a level below that is gone.
            file.set_len(0)?;
            self.levels.push(Level { file, count: 0 });
        }
        if let Some(level) = self.levels.get_mut(level) {
            let bytes: Vec<u8> = hashes.iter().flat_map(|hash| hash.0).collect();
            level.file.write_at(&bytes, level.count * HASH_BYTES)?;
            level.count += hashes.len() as u64;
        }
        Ok(())
    }

    /// Gives every whole tile its hash on the level above.
    fn raise(&mut self) -> io::Result<()> {
        for below in 0.. {
            let Some(whole) = self.levels.get(below).map(|level| level.count / WIDTH) else {
                return Ok(());
            };
            loop {
                let above = self.levels.get(below + 1).map_or(0, |level| level.count);
                if above >= whole {
                    break;
                }
                let tiles = above..whole.min(above + WIDTH);
                let roots = tiles.map(|tile| {
                    let hashes = self.hashes(below, tile * WIDTH, WIDTH)?;
                    Ok(tile_root(&hashes))
                });
                let roots: Vec<Digest> = roots.collect::<io::Result<_>>()?;
                self.append(below + 1, &roots)?;
            }
        }
        Ok(())
    }

    fn hashes(&self, level: usize, first: u64, count: u64) -> io::Result<Vec<Digest>> {
        let absent = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let level = self.levels.get(level).ok_or_else(absent)?;
        if first + count > level.count {
            return Err(absent());
        }
        let mut bytes = vec![0; (count * HASH_BYTES) as usize];
        if level.file.read_at(&mut bytes, first * HASH_BYTES)? < bytes.len() {
            return Err(absent());
        }
        let (hashes, _) = bytes.as_chunks();
        Ok(hashes.iter().copied().map(Digest).collect())
    }

    /// Whether the right edge of the tree of this size has this root.
    pub(crate) fn has_root(&self, size: u64, root: &Digest) -> Result<bool, TilesError> {
        if self.size() < size {
            return Ok(false);
        }
        match Prover::new(self, size).root() {
            Ok(found) => Ok(found == *root),
            Err(TileError::Read(error)) => Err(error.into()),
            Err(_) => Ok(false),
        }
    }

    /// The hashes of a tile of the tree of this size and root, compared with what stands above it.
    pub(crate) fn checked(
        &self,
        tile: Tile,
        size: u64,
        root: &Digest,
    ) -> Result<Vec<Digest>, TilesError> {
        let now =
            Tile::in_tree(tile.level(), tile.index(), size).ok_or(TilesError::Torn("size"))?;
        let mut hashes = self.read(now)?;
        let good = if now.is_whole() {
            let above = usize::from(tile.level()) + 1;
            self.hashes(above, tile.index(), 1)? == [tile_root(&hashes)]
        } else {
            self.has_root(size, root)?
        };
        if !good {
            return Err(TilesError::Torn("a tile"));
        }
        hashes.truncate(tile.width().into());
        Ok(hashes)
    }
}

impl Tiles for Levels {
    type Error = io::Error;

    fn read(&self, tile: Tile) -> io::Result<Vec<Digest>> {
        self.hashes(tile.level().into(), tile.first(), tile.width().into())
    }
}
