//! The outside world in three small traits: [`Disk`], [`Clock`] and [`Rng`], with the real ones.
//!
//! Promise: whatever must survive a power cut goes through [`Disk`], so that a simulated disk can
//! stand in its place and tear every single write; whatever depends on time or chance takes a
//! [`Clock`] or an [`Rng`], so that tests are exact.
//!
//! Not here: what the bytes mean.

mod clock;
mod os;
mod real;
mod rng;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use clock::{Clock, FixedClock, SystemClock, Time};
pub use os::{boot_id, hostname, machine_id, owner, random_uuid, user_id, user_name};
pub use real::RealDisk;
pub use rng::{Rng, SystemRng};

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A file that must not exist yet, for reading and writing, readable by its owner only.
    CreateNew,
}

/// A file system, as far as evidence needs one.
///
/// Durability is explicit: bytes are durable after [`File::sync`], names after
/// [`Disk::sync_dir`] of the folder that holds them. Nothing else is.
pub trait Disk: Send + Sync {
    /// Creates a folder (0700) and its missing parents, and makes the new names durable.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Lists the file names in a folder, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Opens a file.
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Box<dyn File>>;
    /// Removes a file; durable after [`Disk::sync_dir`].
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Renames a file over another; atomic, durable after [`Disk::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes the exclusive lock kept in this file, or says `WouldBlock` when another holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>>;
}

/// An open file. Reads and writes carry their offset: there is no shared position.
pub trait File: Send + Sync {
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file holds nothing.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Reads up to `buffer.len()` bytes at `offset`; fewer only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Cuts or extends the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes content and length durable (fdatasync).
    ///
    /// After an error the file must not be synced again: the kernel may have dropped the dirty
    /// pages and would report success for bytes that are gone.
    fn sync(&self) -> io::Result<()>;
}

/// A lock that is given back when dropped.
pub trait Lock: Send + Sync {}

/// Reads a whole file of at most `max` bytes.
///
/// # Errors
/// `InvalidData` when the file is longer; otherwise what the disk says.
pub fn read(disk: &dyn Disk, path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let file = disk.open(path, Mode::Read)?;
    let len = file.len()?;
    if len > max {
        let what = format!("{} is {len} bytes, the limit is {max}", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Replaces a file as one step: after a crash either the old or the new content is there.
///
/// On return the new content is durable. The sequence is: create `.<name>.tmp`, write, fdatasync,
/// rename, sync the folder. A left-over temporary file of an earlier crash is removed first.
pub fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = parent(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let tmp = dir.join(format!(".{name}.tmp"));
    match disk.remove(&tmp) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.open(&tmp, Mode::CreateNew)?;
    file.write_at(bytes, 0)?;
    file.sync()?;
    drop(file);
    disk.rename(&tmp, path)?;
    // Sync the folder after the file: without it a power cut can lose the new name.
    disk.sync_dir(&dir)
}

/// The folder of a path; `.` for a bare name.
pub fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// The traits an endpoint or a collector runs on.
#[derive(Clone)]
pub struct Host {
    /// Where evidence is kept.
    pub disk: Arc<dyn Disk>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where randomness comes from.
    pub rng: Arc<dyn Rng>,
}

impl Host {
    /// The real machine.
    pub fn real() -> Self {
        Self {
            disk: Arc::new(RealDisk),
            clock: Arc::new(SystemClock),
            rng: Arc::new(SystemRng),
        }
    }
}
