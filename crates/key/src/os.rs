//! What differs between operating systems: who may read a file.

use std::path::Path;

/// The permission bits of a file, when others than its owner may do anything with it.
#[cfg(unix)]
pub(crate) fn exposed(path: &Path) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
    (mode & 0o077 != 0).then_some(mode)
}

/// Elsewhere not known.
#[cfg(not(unix))]
pub(crate) fn exposed(_: &Path) -> Option<u32> {
    None
}
