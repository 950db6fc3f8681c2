//! What differs between operating systems: who may read a file, sockets that are files, the way to a TPM, and how a
//! program ends with all that it started.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command};
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

/// Starts the program in a group of its own: what a terminal sends to ours does not end it before the last
/// head is signed.
#[cfg(unix)]
pub(crate) fn own_group(command: &mut Command) {
    std::os::unix::process::CommandExt::process_group(command, 0);
}

/// There are none.
#[cfg(not(unix))]
pub(crate) fn own_group(_: &mut Command) {}

/// Ends a program that was started in a group of its own and not waited for yet, with all that it started.
#[cfg(unix)]
pub(crate) fn end_group(child: &mut Child) {
    let group = rustix::process::Pid::from_child(child);
    let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
}

/// Elsewhere it ends alone.
#[cfg(not(unix))]
pub(crate) fn end_group(child: &mut Child) {
    let _ = child.kill();
}
