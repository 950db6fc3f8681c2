//! SHA-256 and the commitments built on it.

use std::fmt;

use aws_lc_rs::digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A SHA-256 digest; printed and read as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest in these 32 bytes; any other length is refused.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Writes 64 hex digits.
    fn hex<'a>(&self, out: &'a mut [u8; 64]) -> &'a str {
        for (pair, byte) in out.as_chunks_mut::<2>().0.iter_mut().zip(self.0) {
            *pair = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
        }
        std::str::from_utf8(out).expect("hex digits are ASCII")
    }

    /// The digest written as 64 hex digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.len() != 64 {
            return None;
        }
        let mut out = [0_u8; 32];
        for (target, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
            let [high, low] = pair else { return None };
            *target = nibble(*high)? << 4 | nibble(*low)?;
        }
        Some(Self(out))
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn nibble(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.hex(&mut [0; 64]))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.hex(&mut [0; 64]))
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::from_hex(&text)
            .ok_or_else(|| serde::de::Error::custom("not 64 lower-case hex digits"))
    }
}

/// A SHA-256 computation in pieces.
#[derive(Clone)]
pub struct Hasher(digest::Context);

impl Default for Hasher {
    fn default() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }
}

impl Hasher {
    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(bytes);
        self
    }

    /// Ends the computation.
    pub fn finish(self) -> Digest {
        let mut out = [0; 32];
        out.copy_from_slice(self.0.finish().as_ref());
        Digest(out)
    }
}

/// The SHA-256 of these parts, one after the other.
pub fn sha256(parts: &[&[u8]]) -> Digest {
    // Nodes, links and entries are short: copying them costs less than a context in pieces.
    let mut short = [0; SHORT_BYTES];
    let mut len = 0;
    for part in parts {
        match short.get_mut(len..len + part.len()) {
            Some(place) => place.copy_from_slice(part),
            None => return sha256_in_pieces(parts),
        }
        len += part.len();
    }
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, &short[..len]).as_ref());
    Digest(out)
}

const SHORT_BYTES: usize = 2048;

fn sha256_in_pieces(parts: &[&[u8]]) -> Digest {
    let mut hasher = Hasher::default();
    for part in parts {
        hasher.update(part);
    }
    hasher.finish()
}

pub(crate) const CONTEXT_DOMAIN: &[u8] = b"jurat/context/v1\0";
pub(crate) const RAW_DOMAIN: &[u8] = b"jurat/raw/v1\0";

/// Begins the commitment to a payload: `SHA-256("jurat/context/v1\0" || salt32 || payload)`.
pub fn context_hasher(salt: &[u8; 32]) -> Hasher {
    let mut hasher = Hasher::default();
    hasher.update(CONTEXT_DOMAIN).update(salt);
    hasher
}

/// The commitment to the original bytes: `SHA-256("jurat/raw/v1\0" || salt32 || original)`.
pub fn raw_commitment(salt: &[u8; 32], original: &[u8]) -> Digest {
    sha256(&[RAW_DOMAIN, salt, original])
}
