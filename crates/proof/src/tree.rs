//! The RFC 6962 Merkle tree: leaves, frontier, proofs.

use std::ops::Range;

use crate::{Digest, Message, sha256, sha256_many};

/// The hash of a leaf. `//= RFC 6962 section 2.1: MTH({d(0)}) = SHA-256(0x00 || d(0))`
pub fn leaf_hash(entry: &[u8]) -> Digest {
    sha256(&[&[0], entry])
}

/// The hash of an interior node. `//= RFC 6962 section 2.1: SHA-256(0x01 || left || right)`
pub fn node_hash(left: &Digest, right: &Digest) -> Digest {
    let mut node = [1_u8; 65];
    node[1..33].copy_from_slice(&left.0);
    node[33..].copy_from_slice(&right.0);
    sha256(&[&node])
}

/// The right edge of a tree: the roots of its complete subtrees, largest first.
///
/// Holds at most 64 digests however large the tree is, and is all that appending needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    roots: Vec<Digest>,
}

impl Frontier {
    /// A frontier of this size from its stored roots; `None` when their number does not fit.
    pub fn from_parts(size: u64, roots: Vec<Digest>) -> Option<Self> {
        (roots.len() == size.count_ones() as usize).then_some(Self { size, roots })
    }

    /// The number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The roots of the complete subtrees, largest first.
    pub fn roots(&self) -> &[Digest] {
        &self.roots
    }

    /// Appends a leaf.
    pub fn push(&mut self, leaf: Digest) {
        let mut node = leaf;
        for _ in 0..self.size.trailing_ones() {
            let left = self
                .roots
                .pop()
                .expect("one root for each set bit of the size");
            node = node_hash(&left, &node);
        }
        self.roots.push(node);
        self.size += 1;
    }

    /// Appends leaves, many nodes at a time.
    pub fn extend(&mut self, leaves: &[Digest]) {
        let mut nodes: Vec<[u8; 32]> = Vec::with_capacity(leaves.len() + 1);
        let mut edge = Vec::new();
        let mut size = self.size;
        nodes.extend(leaves.iter().map(|leaf| leaf.0));
        while !nodes.is_empty() {
            // The complete subtree that waits on this level is the left neighbour of the first.
            if size & 1 == 1
                && let Some(left) = self.roots.pop()
            {
                nodes.insert(0, left.0);
            }
            let (pairs, rest) = nodes.as_chunks::<2>();
            edge.extend(rest.iter().map(|node| Digest(*node)));
            let pairs: Vec<Message<'_>> = pairs.iter().map(Message::node).collect();
            nodes = sha256_many(&pairs).iter().map(|node| node.0).collect();
            size >>= 1;
        }
        self.roots.extend(edge.iter().rev());
        self.size += leaves.len() as u64;
    }

    /// Appends a complete subtree of `1 << level` leaves.
    ///
    /// `false`, and nothing is changed, when the size is not a multiple of that.
    pub fn push_subtree(&mut self, level: u32, root: Digest) -> bool {
        let Some(width) = 1_u64
            .checked_shl(level)
            .filter(|width| self.size.is_multiple_of(*width))
        else {
            return false;
        };
        let Some(size) = self.size.checked_add(width) else {
            return false;
        };
        let mut node = root;
        for _ in 0..(self.size >> level).trailing_ones() {
            let left = self
                .roots
                .pop()
                .expect("one root for each set bit of the size");
            node = node_hash(&left, &node);
        }
        self.roots.push(node);
        self.size = size;
        true
    }

    /// The root. `//= RFC 6962 section 2.1: the hash of an empty list is the hash of an empty string`
    pub fn root(&self) -> Digest {
        let mut nodes = self.roots.iter().rev();
        let Some(last) = nodes.next() else {
            return sha256(&[]);
        };
        nodes.fold(*last, |right, left| node_hash(left, &right))
    }
}

/// The root over these leaf hashes.
pub fn root_of(leaves: &[Digest]) -> Digest {
    let mut frontier = Frontier::default();
    leaves.iter().for_each(|leaf| frontier.push(*leaf));
    frontier.root()
}

/// Why a proof does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The sizes or the index cannot belong to a proof.
    #[error("index or size out of range")]
    OutOfRange,
    /// The proof has too many or too few hashes.
    #[error("the proof has {found} hashes, expected {expected}")]
    Length {
        /// Hashes in the proof.
        found: usize,
        /// Hashes that belong to this index and size.
        expected: usize,
    },
    /// The computed root is another one.
    #[error("the computed root differs")]
    Root,
}

/// The inclusion proof of leaf `index` in the tree over `leaves` (RFC 6962 section 2.1.1).
pub fn inclusion_proof(leaves: &[Digest], index: usize) -> Option<Vec<Digest>> {
    if index >= leaves.len() {
        return None;
    }
    let mut proof = Vec::new();
    path(leaves, index, &mut proof);
    Some(proof)
}

fn path(leaves: &[Digest], index: usize, proof: &mut Vec<Digest>) {
    if leaves.len() <= 1 {
        return;
    }
    let (left, right) = leaves.split_at(split(leaves.len()));
    if index < left.len() {
        path(left, index, proof);
        proof.push(root_of(right));
    } else {
        path(right, index - left.len(), proof);
        proof.push(root_of(left));
    }
}

/// The consistency proof between the first `old` leaves and all of them (RFC 6962 section 2.1.2).
pub fn consistency_proof(leaves: &[Digest], old: usize) -> Option<Vec<Digest>> {
    if old == 0 || old > leaves.len() {
        return None;
    }
    let mut proof = Vec::new();
    subproof(leaves, old, true, &mut proof);
    Some(proof)
}

fn subproof(leaves: &[Digest], old: usize, whole: bool, proof: &mut Vec<Digest>) {
    if old == leaves.len() {
        if !whole {
            proof.push(root_of(leaves));
        }
        return;
    }
    let (left, right) = leaves.split_at(split(leaves.len()));
    if old <= left.len() {
        subproof(left, old, whole, proof);
        proof.push(root_of(right));
    } else {
        subproof(right, old - left.len(), false, proof);
        proof.push(root_of(left));
    }
}

/// The leaves under each hash of the consistency proof from `old` to `new`, in the proof's order: who has
/// the leaves as a stream computes the proof without holding them.
pub fn consistency_ranges(old: u64, new: u64) -> Vec<Range<u64>> {
    let mut ranges = Vec::new();
    let (mut start, mut end, mut old) = (0, new, old);
    let mut whole = true;
    // From the root down, as `subproof` does it; the deepest comes first.
    while old > 0 && old < end - start {
        let split = 1 << (u64::BITS - 1 - (end - start - 1).leading_zeros());
        if old <= split {
            ranges.push(start + split..end);
            end = start + split;
        } else {
            ranges.push(start..start + split);
            start += split;
            old -= split;
            whole = false;
        }
    }
    if !whole {
        ranges.push(start..end);
    }
    ranges.reverse();
    ranges
}

/// The leaves under each hash of the inclusion proof of leaf `index` in a tree of this size, in the
/// proof's order; none when the tree does not hold the leaf.
pub fn inclusion_ranges(index: u64, size: u64) -> Vec<Range<u64>> {
    let mut ranges = Vec::new();
    let (mut start, mut end) = (0, size);
    while index < size && end - start > 1 {
        // RFC 6962 section 2.1.1: at each node the path takes the half in which the leaf is not.
        let middle = start + (1 << (u64::BITS - 1 - (end - start - 1).leading_zeros()));
        if index < middle {
            ranges.push(middle..end);
            end = middle;
        } else {
            ranges.push(start..middle);
            start = middle;
        }
    }
    ranges.reverse();
    ranges
}

/// The hashes of a proof from leaves that pass by once: at most 64 subtrees are kept, not the leaves.
#[derive(Clone, Debug)]
pub struct Passing {
    parts: Vec<(Range<u64>, Frontier)>,
    next: u64,
}

impl Passing {
    /// The roots over these ranges of leaves, as [`inclusion_ranges`] and [`consistency_ranges`] give them.
    pub fn new(ranges: Vec<Range<u64>>) -> Self {
        let parts = ranges.into_iter();
        Self {
            parts: parts.map(|range| (range, Frontier::default())).collect(),
            next: 0,
        }
    }

    /// Takes the next leaf, from leaf 0 on.
    pub fn push(&mut self, leaf: Digest) {
        for (range, part) in &mut self.parts {
            if range.contains(&self.next) {
                part.push(leaf);
            }
        }
        self.next += 1;
    }

    /// The proof.
    pub fn finish(self) -> Vec<Digest> {
        self.parts.iter().map(|(_, part)| part.root()).collect()
    }
}

/// The largest power of two below `n`, for `n > 1`.
fn split(n: usize) -> usize {
    1 << (usize::BITS - 1 - (n - 1).leading_zeros())
}

/// Checks that a leaf stands at `index` in the tree of this size and root.
pub fn verify_inclusion(
    index: u64,
    size: u64,
    leaf: &Digest,
    proof: &[Digest],
    root: &Digest,
) -> Result<(), ProofError> {
    verify_inclusion_by(&mut node_hash, index, size, leaf, proof, root)
}

/// Likewise, with this hash of a node: who checks millions of proofs of one tree remembers them.
pub(crate) fn verify_inclusion_by(
    node_hash: &mut dyn FnMut(&Digest, &Digest) -> Digest,
    index: u64,
    size: u64,
    leaf: &Digest,
    proof: &[Digest],
    root: &Digest,
) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::OutOfRange);
    }
    let inner = (64 - (index ^ (size - 1)).leading_zeros()) as usize;
    let border = (index.checked_shr(inner as u32).unwrap_or(0)).count_ones() as usize;
    if proof.len() != inner + border {
        return Err(ProofError::Length {
            found: proof.len(),
            expected: inner + border,
        });
    }
    let (low, high) = proof.split_at(inner);
    let node = low
        .iter()
        .enumerate()
        .fold(*leaf, |node, (level, sibling)| {
            if index >> level & 1 == 0 {
                node_hash(&node, sibling)
            } else {
                node_hash(sibling, &node)
            }
        });
    let node = high
        .iter()
        .fold(node, |node, sibling| node_hash(sibling, &node));
    if node == *root {
        Ok(())
    } else {
        Err(ProofError::Root)
    }
}

/// Checks that the tree of the first size is a prefix of the tree of the second.
///
/// A size of 0 proves nothing and is refused.
pub fn verify_consistency(
    old: u64,
    new: u64,
    old_root: &Digest,
    new_root: &Digest,
    proof: &[Digest],
) -> Result<(), ProofError> {
    verify_consistency_by(&mut node_hash, old, new, old_root, new_root, proof)
}

/// As [`verify_inclusion_by`].
pub(crate) fn verify_consistency_by(
    node_hash: &mut dyn FnMut(&Digest, &Digest) -> Digest,
    old: u64,
    new: u64,
    old_root: &Digest,
    new_root: &Digest,
    proof: &[Digest],
) -> Result<(), ProofError> {
    if old == 0 || old > new {
        return Err(ProofError::OutOfRange);
    }
    if old == new {
        if !proof.is_empty() {
            return Err(ProofError::Length {
                found: proof.len(),
                expected: 0,
            });
        }
        return if old_root == new_root {
            Ok(())
        } else {
            Err(ProofError::Root)
        };
    }
    // When the old tree is complete its root is the first node and is left out of the proof.
    let complete = old.is_power_of_two().then_some(old_root);
    let (first, second) = proof_roots(node_hash, old, new, complete, proof)?;
    if first == *old_root && second == *new_root {
        Ok(())
    } else {
        Err(ProofError::Root)
    }
}

/// The root over the first `old` leaves to which this consistency proof leads from the new root.
///
/// `None` when it does not lead to the new root, or does not say: between equal sizes, and where `old`
/// is a power of two, a proof holds no root of the old tree.
pub fn consistency_old_root(
    old: u64,
    new: u64,
    new_root: &Digest,
    proof: &[Digest],
) -> Option<Digest> {
    if old >= new || old.count_ones() < 2 {
        return None;
    }
    let (first, second) = proof_roots(&mut node_hash, old, new, None, proof).ok()?;
    (second == *new_root).then_some(first)
}

/// Both roots that a consistency proof between `0 < old < new` leads to.
fn proof_roots(
    node_hash: &mut dyn FnMut(&Digest, &Digest) -> Digest,
    old: u64,
    new: u64,
    complete: Option<&Digest>,
    proof: &[Digest],
) -> Result<(Digest, Digest), ProofError> {
    let shift = old.trailing_zeros();
    let inner = (64 - ((old - 1) ^ (new - 1)).leading_zeros()) as usize;
    let border = ((old - 1).checked_shr(inner as u32).unwrap_or(0)).count_ones() as usize;
    let (seed, start) = match complete {
        Some(root) => (Some(*root), 0),
        None => (proof.first().copied(), 1),
    };
    let inner = inner - shift as usize;
    let expected = start + inner + border;
    if proof.len() != expected {
        return Err(ProofError::Length {
            found: proof.len(),
            expected,
        });
    }
    let Some(seed) = seed else {
        return Err(ProofError::Length { found: 0, expected });
    };
    let (low, high) = proof[start..].split_at(inner);
    let mask = (old - 1) >> shift;
    let mut first = seed;
    let mut second = seed;
    for (level, sibling) in low.iter().enumerate() {
        if mask >> level & 1 == 1 {
            first = node_hash(sibling, &first);
            second = node_hash(sibling, &second);
        } else {
            second = node_hash(&second, sibling);
        }
    }
    for sibling in high {
        first = node_hash(sibling, &first);
        second = node_hash(sibling, &second);
    }
    Ok((first, second))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(n: usize) -> Vec<Digest> {
        (0..n).map(|i| leaf_hash(&i.to_le_bytes())).collect()
    }

    #[test]
    fn every_proof_of_small_trees_verifies_and_no_neighbour_does() {
        for size in 1..70 {
            let all = leaves(size);
            let root = root_of(&all);
            for index in 0..size {
                let proof = inclusion_proof(&all, index).unwrap();
                let check =
                    |i: usize| verify_inclusion(i as u64, size as u64, &all[index], &proof, &root);
                assert_eq!(check(index), Ok(()), "{index} of {size}");
                assert!(index == 0 || check(index - 1).is_err(), "{index} of {size}");
            }
            for old in 1..=size {
                let proof = consistency_proof(&all, old).unwrap();
                let old_root = root_of(&all[..old]);
                let check =
                    |r: &Digest| verify_consistency(old as u64, size as u64, &old_root, r, &proof);
                assert_eq!(check(&root), Ok(()), "{old} to {size}");
                assert!(check(&leaf_hash(b"other")).is_err(), "{old} to {size}");
                let found = consistency_old_root(old as u64, size as u64, &root, &proof);
                let says = old < size && !old.is_power_of_two();
                assert_eq!(found, says.then_some(old_root), "{old} to {size}");
            }
        }
    }

    fn passed(ranges: Vec<Range<u64>>, leaves: &[Digest]) -> Vec<Digest> {
        let mut passing = Passing::new(ranges);
        leaves.iter().for_each(|leaf| passing.push(*leaf));
        passing.finish()
    }

    #[test]
    fn a_proof_from_a_stream_is_the_one_from_memory() {
        for size in 1..70 {
            let all = leaves(size);
            for old in 1..=size {
                let streamed = passed(consistency_ranges(old as u64, size as u64), &all);
                assert_eq!(streamed, consistency_proof(&all, old).unwrap());
                let streamed = passed(inclusion_ranges(old as u64 - 1, size as u64), &all);
                assert_eq!(streamed, inclusion_proof(&all, old - 1).unwrap());
            }
        }
    }

    #[test]
    fn any_way_to_append_subtrees_gives_the_same_root() {
        let all = leaves(100);
        for cut in 0..100 {
            let mut frontier = Frontier::default();
            all[..cut].iter().for_each(|leaf| frontier.push(*leaf));
            let mut at = cut;
            while at < 100 {
                let level = (at.trailing_zeros()).min(((100 - at) as u64).ilog2());
                let end = at + (1 << level);
                assert!(frontier.push_subtree(level, root_of(&all[at..end])));
                at = end;
            }
            assert_eq!(frontier.root(), root_of(&all));
        }
    }

    #[test]
    fn leaves_appended_in_crowds_of_any_size_give_the_tree_of_single_ones() {
        let leaf = |number: u64| sha256(&[&number.to_le_bytes()]);
        for start in 0..70 {
            for count in 0..70 {
                let mut one_by_one = Frontier::default();
                (0..start).for_each(|number| one_by_one.push(leaf(number)));
                let mut crowd = one_by_one.clone();
                let leaves: Vec<Digest> = (start..start + count).map(leaf).collect();
                leaves.iter().for_each(|leaf| one_by_one.push(*leaf));
                crowd.extend(&leaves);
                assert_eq!(crowd, one_by_one, "{count} after {start}");
            }
        }
    }
}
