//! What differs between operating systems: who may read a file, sockets that are files, and the way to a TPM.

use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use crate::tpm::Transport;

#[cfg(windows)]
mod tbs;

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

/// A way to the program that listens at this socket; what takes longer is given up.
#[cfg(unix)]
pub(crate) fn connect(
    path: &Path,
    timeout: Duration,
) -> io::Result<impl Read + Write + Send + use<>> {
    let stream = std::os::unix::net::UnixStream::connect(path)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    Ok(stream)
}

/// There are none.
#[cfg(not(unix))]
pub(crate) fn connect(_: &Path, _: Duration) -> io::Result<impl Read + Write + Send + use<>> {
    Err::<io::Cursor<Vec<u8>>, _>(io::ErrorKind::Unsupported.into())
}

/// A way to the TPM through the TPM Base Services.
#[cfg(windows)]
pub(crate) fn tbs() -> io::Result<Box<dyn Transport>> {
    Ok(Box::new(tbs::Tbs::open()?))
}

/// There are none.
#[cfg(not(windows))]
pub(crate) fn tbs() -> io::Result<Box<dyn Transport>> {
    Err(io::ErrorKind::Unsupported.into())
}
