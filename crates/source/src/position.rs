//! Where reading goes on, and how a file is recognised.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use serde::{Deserialize, Serialize};

/// How many bytes at the front identify a file.
pub(crate) const PREFIX_BYTES: usize = 4 * 1024;
/// How many bytes before the position must be as they were.
pub(crate) const BEFORE_BYTES: usize = 256;

/// A position in a file, with everything that shows whether it is still the same file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The name of the source.
    pub source: String,
    /// Device, inode, birth time in nanoseconds.
    pub identity: (u64, u64, u64),
    /// Bytes read as whole lines.
    pub offset: u64,
    /// Lines read.
    pub lines: u64,
    /// Bytes of an over-long line that were already given out as pieces.
    #[serde(default)]
    pub pieces: u64,
    /// How many bytes the prefix hash covers; grows with the file up to 4 KiB.
    pub prefix_len: u64,
    /// The digest of the first bytes, shortened to 16 bytes.
    pub prefix: String,
    /// The digest of the bytes just before the position, shortened to 16 bytes.
    pub before: String,
    /// CRC32C of all bytes before the position.
    pub crc: u32,
    /// When the file was changed last, as of a moment when all bytes before the position were known
    /// to be in it; nanoseconds since 1970, 0 when they never were.
    pub checked: u64,
}

/// A digest of 16 bytes in base64.
pub(crate) fn short_digest(bytes: &[u8]) -> String {
    BASE64.encode(
        digest(&SHA256, bytes)
            .as_ref()
            .first_chunk::<16>()
            .expect("SHA-256 has 32 bytes"),
    )
}
