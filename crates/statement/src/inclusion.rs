//! The proof that a leaf is under a head, from leaves that come one by one.

use jurat_proof::{Checkpoint, Digest, Frontier};

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

/// One subtree of which the path needs the root.
struct Sibling {
    from: u64,
    to: u64,
    frontier: Frontier,
}

/// Finds the path of one leaf while all leaves of the log pass by: at most 64 subtrees are kept,
/// not the leaves.
pub struct InclusionBuilder {
    head: Checkpoint,
    index: u64,
    /// From the root down.
    siblings: Vec<Sibling>,
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
        // RFC 6962 section 2.1.1: at each node the path takes the half in which the leaf is not.
        let (mut from, mut to, mut siblings) = (0, size, Vec::new());
        while to - from > 1 {
            let left = 1_u64 << (u64::BITS - 1 - (to - from - 1).leading_zeros());
            let middle = from + left;
            let sibling = if index < middle {
                let sibling = (middle, to);
                to = middle;
                sibling
            } else {
                let sibling = (from, middle);
                from = middle;
                sibling
            };
            siblings.push(Sibling {
                from: sibling.0,
                to: sibling.1,
                frontier: Frontier::default(),
            });
        }
        Ok(Self {
            head,
            index,
            siblings,
            all: Frontier::default(),
        })
    }

    /// Takes the next leaf; those that the head does not cover are passed over.
    pub fn push(&mut self, leaf: Digest) {
        let at = self.all.size();
        if at >= self.head.size {
            return;
        }
        self.all.push(leaf);
        let sibling = self
            .siblings
            .iter_mut()
            .find(|sibling| sibling.from <= at && at < sibling.to);
        if let Some(sibling) = sibling {
            sibling.frontier.push(leaf);
        }
    }

    /// The proof, when the leaves gave the signed root.
    ///
    /// # Errors
    /// [`StatementError::Root`] when they did not.
    pub fn finish(self) -> Result<Inclusion, StatementError> {
        crate::session::check_root(&self.head, &self.all)?;
        let path = self.siblings.iter().rev();
        Ok(Inclusion {
            path: path.map(|sibling| sibling.frontier.root()).collect(),
            head: self.head,
            index: self.index,
        })
    }
}
