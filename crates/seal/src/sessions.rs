//! Numbers inside sessions: gap-free, so that a session's completeness can be proven.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The most sessions whose number is remembered. Beyond it the one that was quiet the longest ends
/// with a `session.ended` that names its count; if it goes on, it begins anew.
pub(crate) const SESSIONS_MAX: usize = 10_000;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sessions {
    /// Session -> (next number, sequence of its last leaf).
    open: BTreeMap<String, (u64, u64)>,
}

impl Sessions {
    /// The next number of a session.
    pub(crate) fn next(&mut self, session: &str, seq: u64) -> u64 {
        if let Some((next, last)) = self.open.get_mut(session) {
            *last = seq;
            *next += 1;
            return *next - 1;
        }
        self.open.insert(session.to_owned(), (1, seq));
        0
    }

    pub(crate) fn is_open(&self, session: &str) -> bool {
        self.open.contains_key(session)
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.open.keys().cloned().collect()
    }

    pub(crate) fn end(&mut self, session: &str) {
        self.open.remove(session);
    }

    /// How many leaves a session has.
    pub(crate) fn count(&self, session: &str) -> u64 {
        self.open.get(session).map_or(0, |(next, _)| *next)
    }

    /// The session that must end because there are too many.
    pub(crate) fn overflow(&self) -> Option<String> {
        if self.open.len() <= SESSIONS_MAX {
            return None;
        }
        self.open
            .iter()
            .min_by_key(|(_, (_, last))| *last)
            .map(|(session, _)| session.clone())
    }
}
