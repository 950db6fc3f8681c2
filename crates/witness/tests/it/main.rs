//! The witness: what it cosigns, what it refuses, what it never forgets.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod client;
mod foreign;
mod http;
mod store;

use jurat_key::{Secret, SoftwareKey};
use jurat_proof::{Checkpoint, Digest, Note, Signer as _, consistency_proof, leaf_hash, root_of};
use jurat_witness::{Logs, Prover, Request};

const ORIGIN: &str = "example.org/jurat/collector/0";
const NAME: &str = "witness.example.org/w1";

/// A log in memory; from one leaf on it may tell another story.
#[derive(Clone)]
struct Log {
    origin: String,
    leaves: Vec<Digest>,
}

impl Log {
    fn new(origin: &str, leaves: u64, other_from: u64) -> Self {
        let leaf = |number: u64| format!("{number} {}", number >= other_from);
        Self {
            origin: origin.into(),
            leaves: (0..leaves)
                .map(|number| leaf_hash(leaf(number).as_bytes()))
                .collect(),
        }
    }

    fn key(&self) -> SoftwareKey {
        SoftwareKey::log(&Secret::from_bytes([7; 32]), &self.origin).unwrap()
    }

    fn note(&self, size: usize) -> Note {
        let head = Checkpoint {
            origin: self.origin.clone(),
            size: size as u64,
            root: root_of(&self.leaves[..size]),
        };
        head.sign(&self.key()).unwrap()
    }

    fn proof(&self, old: usize, size: usize) -> Vec<Digest> {
        if old == 0 || old >= size {
            return Vec::new();
        }
        consistency_proof(&self.leaves[..size], old).unwrap()
    }

    fn request(&self, old: usize, size: usize) -> String {
        Request::encode(old as u64, &self.proof(old, size), &self.note(size))
    }

    fn logs(&self) -> Logs {
        let mut logs = Logs::default();
        logs.add(self.key().verifier_key().clone()).unwrap();
        logs
    }
}

impl Prover for Log {
    fn consistency(&self, old: u64, new: u64) -> Option<Vec<Digest>> {
        Some(self.proof(old as usize, new as usize))
    }
}

fn honest() -> Log {
    Log::new(ORIGIN, 64, 1_000)
}

/// The same log, written anew from its sixth leaf on.
fn rewritten() -> Log {
    Log::new(ORIGIN, 64, 5)
}
