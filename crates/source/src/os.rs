//! What differs between operating systems: the identity of a file.

use std::fs::Metadata;
use std::time::UNIX_EPOCH;

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
