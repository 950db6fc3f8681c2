//! What differs between operating systems: who and where we are, files that are their owner's only,
//! reads and writes at a place.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;

use crate::Rng;

/// How a folder is made that only its owner may enter.
pub(crate) fn private_dir() -> DirBuilder {
    #[allow(unused_mut, reason = "only where there are permission bits")]
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
}

/// How a file is opened that, when it is made, only its owner may read.
pub(crate) fn private() -> OpenOptions {
    #[allow(unused_mut, reason = "only where there are permission bits")]
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Reads at a place, perhaps less than fits.
#[cfg(unix)]
pub(crate) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

/// Writes everything at a place.
#[cfg(unix)]
pub(crate) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

/// The identity of this boot as 32 lower-case hex digits; random where the system names none.
pub fn boot_id(rng: &dyn Rng) -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .ok()
        .map(|text| text.trim().replace('-', ""))
        .filter(|text| text.len() == 32)
        .unwrap_or_else(|| random_uuid(rng).replace('-', ""))
}

/// The machine id (`/etc/machine-id`), an attribute and never an identity: images are cloned.
pub fn machine_id() -> Option<String> {
    let text = fs::read_to_string("/etc/machine-id").ok()?;
    let id = text.trim();
    (!id.is_empty()).then(|| id.to_owned())
}

/// The host's name.
pub fn hostname() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// The numeric user this process runs as.
pub fn user_id() -> u32 {
    rustix::process::getuid().as_raw()
}

/// The name of a numeric user, from `/etc/passwd`.
pub fn user_name(uid: u32) -> Option<String> {
    let text = fs::read_to_string("/etc/passwd").ok()?;
    let wanted = uid.to_string();
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == wanted).then(|| name.to_owned())
    })
}

/// The numeric user that owns a file or folder.
#[cfg(unix)]
pub fn owner(path: &std::path::Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).ok().map(|metadata| metadata.uid())
}

/// Elsewhere not known.
#[cfg(not(unix))]
pub fn owner(_: &std::path::Path) -> Option<u32> {
    None
}

/// A random UUID (version 4).
pub fn random_uuid(rng: &dyn Rng) -> String {
    let mut bytes = [0_u8; 16];
    rng.fill(&mut bytes);
    let mut number = u128::from_be_bytes(bytes);
    number = (number & !(0xf << 76)) | (0x4 << 76);
    number = (number & !(0x3 << 62)) | (0x2 << 62);
    let hex = format!("{number:032x}");
    let (a, rest) = hex.split_at(8);
    let (b, rest) = rest.split_at(4);
    let (c, rest) = rest.split_at(4);
    let (d, e) = rest.split_at(4);
    format!("{a}-{b}-{c}-{d}-{e}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemRng;

    #[test]
    fn a_random_uuid_says_version_four() {
        let id = random_uuid(&SystemRng);
        assert_eq!(id.len(), 36);
        assert_eq!(id.as_bytes()[14], b'4');
        assert!(matches!(id.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
    }
}
