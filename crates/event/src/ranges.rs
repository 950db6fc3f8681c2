//! Sets of leaves, as `payload.erased` names them.

use serde::{Deserialize, Serialize};

/// A set of leaves as half-open ranges, ascending, none empty, none touching the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct Ranges(Vec<(u64, u64)>);

impl From<Vec<(u64, u64)>> for Ranges {
    fn from(mut pairs: Vec<(u64, u64)>) -> Self {
        pairs.sort_unstable();
        let mut ranges = Self::default();
        pairs.iter().for_each(|pair| ranges.push(*pair));
        ranges
    }
}

impl From<Ranges> for Vec<(u64, u64)> {
    fn from(ranges: Ranges) -> Self {
        ranges.0
    }
}

impl Ranges {
    /// Adds a range that begins at or after the last one's beginning; an empty one is nothing.
    pub fn push(&mut self, (from, to): (u64, u64)) {
        if from >= to {
            return;
        }
        match self.0.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => self.0.push((from, to)),
        }
    }

    /// The ranges, ascending.
    pub fn pairs(&self) -> &[(u64, u64)] {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many leaves they are.
    pub fn leaves(&self) -> u64 {
        self.0.iter().map(|(from, to)| to - from).sum()
    }

    /// Whether a leaf is one of them.
    pub fn contains(&self, seq: u64) -> bool {
        let after = self.0.partition_point(|(from, _)| *from <= seq);
        let before = after.checked_sub(1).and_then(|index| self.0.get(index));
        before.is_some_and(|(_, to)| seq < *to)
    }

    /// The first so many ranges.
    #[must_use]
    pub fn first(mut self, count: usize) -> Self {
        self.0.truncate(count);
        self
    }

    /// The leaves of both.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        [self.pairs(), other.pairs()].concat().into()
    }

    /// The leaves that are in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut both = Self::default();
        let (mut ours, mut theirs) = (self.0.iter().peekable(), other.0.iter().peekable());
        while let (Some((from, to)), Some((other_from, other_to))) = (ours.peek(), theirs.peek()) {
            both.push((*from.max(other_from), *to.min(other_to)));
            if to <= other_to {
                ours.next();
            } else {
                theirs.next();
            }
        }
        both
    }

    /// The leaves that are not in the other.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut rest = Self::default();
        for (from, to) in &self.0 {
            let mut at = *from;
            let first = other.0.partition_point(|(_, end)| *end <= at);
            for (gone_from, gone_to) in other.0.iter().skip(first) {
                if gone_from >= to {
                    break;
                }
                rest.push((at, *gone_from));
                at = at.max(*gone_to);
            }
            rest.push((at, *to));
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every set of leaves below 7 as ranges.
    fn sets() -> impl Iterator<Item = (BTreeSet<u64>, Ranges)> {
        (0_u64..128).map(|bits| {
            let set: BTreeSet<u64> = (0..7).filter(|bit| bits >> bit & 1 == 1).collect();
            let ranges = set.iter().map(|leaf| (*leaf, leaf + 1)).collect::<Vec<_>>();
            (set, ranges.into())
        })
    }

    fn leaves(ranges: &Ranges) -> BTreeSet<u64> {
        (0..9).filter(|leaf| ranges.contains(*leaf)).collect()
    }

    #[test]
    fn ranges_are_the_sets_they_stand_for_and_each_set_is_written_in_one_way() {
        for (set, ranges) in sets() {
            assert_eq!(leaves(&ranges), set);
            assert_eq!(ranges.leaves(), set.len() as u64);
            let written = serde_json::to_string(&ranges).unwrap();
            assert_eq!(serde_json::from_str::<Ranges>(&written).unwrap(), ranges);
            for (other_set, other) in sets() {
                let check = |made: Ranges, wanted: BTreeSet<u64>| {
                    assert_eq!(leaves(&made), wanted);
                    let again: Vec<_> = wanted.iter().map(|leaf| (*leaf, leaf + 1)).collect();
                    assert_eq!(made, again.into());
                };
                check(ranges.union(&other), &set | &other_set);
                check(ranges.intersection(&other), &set & &other_set);
                check(ranges.without(&other), &set - &other_set);
            }
        }
    }

    #[test]
    fn foreign_pairs_in_any_order_overlapping_empty_or_turned_around_are_taken_as_a_set() {
        let ranges: Ranges =
            serde_json::from_str("[[9,12],[3,3],[7,2],[0,2],[1,5],[11,10]]").unwrap();
        assert_eq!(ranges.pairs(), [(0, 5), (9, 12)]);
    }
}
