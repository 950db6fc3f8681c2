//! The hash chain that every line in a SIEM carries.

use crate::{Digest, sha256};

/// The chain: `chain(-1) = SHA-256("jurat/chain/v1\0" || origin)`,
/// `chain(n) = SHA-256(0x02 || chain(n-1) || leaf_hash(n))`.
///
/// Not stored in an entry: whoever has the leaves can compute it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain(pub Digest);

impl Chain {
    /// The chain before the first leaf of this log.
    pub fn new(origin: &str) -> Self {
        Self(sha256(&[b"jurat/chain/v1\0", origin.as_bytes()]))
    }

    /// Links a leaf and returns the new head.
    pub fn push(&mut self, leaf: &Digest) -> Digest {
        self.0 = sha256(&[&[2], &self.0.0, &leaf.0]);
        self.0
    }
}
