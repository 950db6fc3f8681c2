//! What became of a log besides its leaves: revoked, closed by its next epoch, silent, running on two
//! machines. Pure values, part of the archive's state.

use serde::{Deserialize, Serialize};

use crate::admin::Standing;

/// What became of a log. Absent is the usual case: a key that lives and a device that is heard of.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Life {
    /// Its key counts no more from this leaf of the own log on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) revoked: Option<Revoked>,
    /// Keys that were rotated away before, and count no more either.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) revoked_before: Vec<Revoked>,
    /// The epoch that goes on in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) closed_by: Option<u64>,
    /// The operator allows the next epoch without the old key's consent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) reenrolment_allowed: bool,
    /// Since when nothing was heard, in seconds since 1970: a leaf says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) silent_since: Option<u64>,
    /// The boots that sealed entries, in the order of the log.
    #[serde(default, skip_serializing_if = "Boots::is_empty")]
    pub(crate) sealed_by: Boots,
    /// The boots that asked for the frontier, in the order of time. Apart from the ones before: after a
    /// restart a device asks, and then delivers what an earlier boot sealed.
    #[serde(default, skip_serializing_if = "Boots::is_empty")]
    pub(crate) asked_by: Boots,
    /// Pairs of boots that a leaf tells of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) clones: Vec<[String; 2]>,
}

/// A revocation: a position in the own log, not a time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Revoked {
    pub(crate) leaf: u64,
    pub(crate) key: String,
    pub(crate) reason: String,
}

/// Boots in the order in which they came, the last one last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Boots(Vec<String>);

/// The most boots of one log that are remembered, and the most pairs that are told of.
const BOOTS_MAX: usize = 16;

impl Boots {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this is the boot that came last.
    pub(crate) fn is_last(&self, boot: &str) -> bool {
        self.0.last().is_some_and(|last| last == boot)
    }

    /// Takes the next boot. One that comes back after another is no restart: it gives that other one.
    fn next(&mut self, boot: &str) -> Option<String> {
        if self.is_last(boot) {
            return None;
        }
        let back = self.0.iter().position(|known| known == boot);
        let other = back.and_then(|_| self.0.last().cloned());
        if let Some(place) = back {
            self.0.remove(place);
        } else if self.0.len() >= BOOTS_MAX {
            self.0.remove(0);
        }
        self.0.push(boot.to_owned());
        other
    }
}

impl Life {
    /// Whether this is a key that was rotated away before, and counts no more.
    pub(crate) fn is_revoked_before(&self, key: &str) -> bool {
        self.revoked_before.iter().any(|revoked| revoked.key == key)
    }

    /// What a report says of it.
    pub(crate) fn standing(&self) -> Vec<Standing> {
        let mut standing = Vec::new();
        if let Some(Revoked { leaf, reason, .. }) = &self.revoked {
            let (leaf, reason) = (*leaf, reason.clone());
            standing.push(Standing::Revoked { leaf, reason });
        }
        let before = self.revoked_before.iter().cloned();
        standing.extend(
            before.map(|Revoked { leaf, key, reason }| Standing::RevokedBefore {
                key,
                leaf,
                reason,
            }),
        );
        standing.extend(self.closed_by.map(|by| Standing::Closed { by }));
        if !self.clones.is_empty() {
            let boots = self.clones.clone();
            standing.push(Standing::Cloned { boots });
        }
        // Of a log that is over, silence is no news.
        if self.closed_by.is_none() && self.revoked.is_none() {
            standing.extend(self.silent_since.map(|since| Standing::Silent { since }));
        }
        standing
    }

    /// Takes the next boot that sealed, or asked. Two that take turns are one log on two machines; each
    /// pair is given once.
    pub(crate) fn boot(&mut self, boot: &str, sealed: bool) -> Option<[String; 2]> {
        let boots = if sealed {
            &mut self.sealed_by
        } else {
            &mut self.asked_by
        };
        let other = boots.next(boot)?;
        let mut pair = [boot.to_owned(), other];
        pair.sort();
        if self.clones.contains(&pair) || self.clones.len() >= BOOTS_MAX {
            return None;
        }
        self.clones.push(pair.clone());
        Some(pair)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_boot_that_comes_back_is_a_clone_and_each_pair_is_told_of_once() {
        let mut life = Life::default();
        for boot in ["a", "a", "b", "c", "c"] {
            assert_eq!(life.boot(boot, false), None, "{boot}: a restart");
        }
        // What an earlier boot sealed is delivered after the restart.
        for boot in ["a", "b", "c"] {
            assert_eq!(life.boot(boot, true), None, "{boot}: in the log's order");
        }
        assert_eq!(life.boot("b", false), Some(["b".into(), "c".into()]));
        for boot in ["c", "b", "c", "b"] {
            assert_eq!(life.boot(boot, false), None, "told of");
        }
        assert_eq!(life.boot("a", true), Some(["a".into(), "c".into()]));
        assert_eq!(life.boot("d", false), None);
        assert_eq!(life.boot("b", false), Some(["b".into(), "d".into()]));
    }

    #[test]
    fn a_device_that_invents_boots_does_not_fill_the_collector() {
        let mut life = Life::default();
        let mut told = 0;
        for number in 0..2_000 {
            let boot = (number * 7 % 20).to_string();
            told += usize::from(life.boot(&boot, number % 2 == 0).is_some());
        }
        assert!(told <= BOOTS_MAX);
        assert!(life.sealed_by.0.len() <= BOOTS_MAX && life.asked_by.0.len() <= BOOTS_MAX);
    }
}
