//! What differs between operating systems: opening a file, its identity, when it changed.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

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

/// When anything about the file was changed last, in nanoseconds since 1970. Unlike the time that is
/// usually shown, this one cannot be set back by the file's owner.
#[cfg(unix)]
pub(crate) fn changed(metadata: &Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let ns = i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec());
    u64::try_from(ns).unwrap_or(0)
}

/// Elsewhere when its content was changed last.
#[cfg(not(unix))]
pub(crate) fn changed(metadata: &Metadata) -> u64 {
    metadata.modified().map_or(0, since_1970)
}

fn birth(metadata: &Metadata) -> u64 {
    metadata.created().map_or(0, since_1970)
}

pub(crate) fn since_1970(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(0)
}
