//! What differs between operating systems: opening a file, and its identity.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

/// Opens a file for reading, and never waits: a pipe that someone puts in a file's place would hold
/// the caller until another opens its other end.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
        options.custom_flags(flags.bits().cast_signed());
    }
    options.read(true).open(path)
}

/// Device, inode and birth time (nanoseconds since 1970, 0 where the file system knows none).
#[cfg(unix)]
pub(crate) fn identity(metadata: &Metadata) -> (u64, u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino(), birth(metadata))
}

/// Elsewhere the birth time alone.
#[cfg(not(unix))]
pub(crate) fn identity(metadata: &Metadata) -> (u64, u64, u64) {
    (0, 0, birth(metadata))
}

fn birth(metadata: &Metadata) -> u64 {
    let since = metadata
        .created()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since
        .and_then(|since| u64::try_from(since.as_nanos()).ok())
        .unwrap_or(0)
}
