//! Which records were sealed already, wherever they turn up again. Durable with the ledger's state.

use std::collections::HashSet;

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;

/// A keyed fingerprint of 8 bytes: who does not have the key cannot make two records collide.
pub(crate) type Mark = u64;

/// The newest marks: at least [`GENERATION_LEN`], at most twice as many.
pub(crate) struct Marks {
    key: [u8; 32],
    new: HashSet<Mark>,
    old: HashSet<Mark>,
    /// Added since the last commit.
    added: Vec<Mark>,
}

/// A copied record is recognised for at least this many records after its first appearance.
const GENERATION_LEN: usize = 500_000;

impl Marks {
    pub(crate) fn new(key: [u8; 32]) -> Self {
        Self {
            key,
            new: HashSet::new(),
            old: HashSet::new(),
            added: Vec::new(),
        }
    }

    /// Adds an identity; `false` when it is known.
    pub(crate) fn add(&mut self, kind: &str, identity: &str) -> bool {
        let mut context = Context::new(&SHA256);
        context.update(&self.key);
        context.update(kind.as_bytes());
        context.update(b"\0");
        context.update(identity.as_bytes());
        let digest = context.finish();
        let mark =
            u64::from_le_bytes(*digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes"));
        if self.new.contains(&mark) || self.old.contains(&mark) {
            return false;
        }
        self.insert(mark);
        self.added.push(mark);
        true
    }

    fn insert(&mut self, mark: Mark) {
        if self.new.len() >= GENERATION_LEN {
            self.old = std::mem::take(&mut self.new);
        }
        self.new.insert(mark);
    }

    /// What was added since the last call, as text.
    pub(crate) fn take_added(&mut self) -> String {
        encode(std::mem::take(&mut self.added).into_iter())
    }

    /// Everything, as text: the old generation, then the new one.
    pub(crate) fn all(&self) -> (String, String) {
        (
            encode(self.old.iter().copied()),
            encode(self.new.iter().copied()),
        )
    }

    /// Takes back what [`Marks::all`] gave.
    pub(crate) fn restore(&mut self, old: &str, new: &str) {
        self.old = decode(old).collect();
        self.new = decode(new).collect();
    }

    /// Takes back what [`Marks::take_added`] gave.
    pub(crate) fn replay(&mut self, added: &str) {
        decode(added).for_each(|mark| self.insert(mark));
    }
}

fn encode(marks: impl Iterator<Item = Mark>) -> String {
    BASE64.encode(marks.flat_map(u64::to_le_bytes).collect::<Vec<u8>>())
}

fn decode(text: &str) -> impl Iterator<Item = Mark> {
    let bytes = BASE64.decode(text).unwrap_or_default();
    let marks: Vec<Mark> = bytes
        .as_chunks::<8>()
        .0
        .iter()
        .map(|chunk| u64::from_le_bytes(*chunk))
        .collect();
    marks.into_iter()
}
