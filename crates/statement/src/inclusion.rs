//! The proof that a leaf is under a head, from leaves that come one by one.

use jurat_proof::{Checkpoint, Digest, Frontier, Passing, inclusion_ranges};

use crate::StatementError;

/// A leaf, the head that it is under, and the path between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inclusion {
    /// The log and its head.
    pub head: Checkpoint,
    /// The leaf's place.
    pub index: u64,
    /// The siblings from the leaf up to the root.
    pub path: Vec<Digest>,
}

/// Finds the path of one leaf while all leaves of the log pass by.
pub struct InclusionBuilder {
    head: Checkpoint,
    index: u64,
    path: Passing,
    all: Frontier,
}

impl InclusionBuilder {
    /// A proof for leaf `index` under this head.
    ///
    /// # Errors
    /// [`StatementError::Beyond`] when the head does not cover the leaf.
    pub fn new(head: Checkpoint, index: u64) -> Result<Self, StatementError> {
        let size = head.size;
        if index >= size {
            return Err(StatementError::Beyond { index, size });
        }
        Ok(Self {
            path: Passing::new(inclusion_ranges(index, size)),
            head,
            index,
            all: Frontier::default(),
        })
    }

    /// Takes the next leaf; those that the head does not cover are passed over.
    pub fn push(&mut self, leaf: Digest) {
        if self.all.size() < self.head.size {
            self.all.push(leaf);
            self.path.push(leaf);
        }
    }

    /// The proof, when the leaves gave the signed root.
    ///
    /// # Errors
    /// [`StatementError::Root`] when they did not.
    pub fn finish(self) -> Result<Inclusion, StatementError> {
        crate::session::check_root(&self.head, &self.all)?;
        Ok(Inclusion {
            path: self.path.finish(),
            head: self.head,
            index: self.index,
        })
    }
}
