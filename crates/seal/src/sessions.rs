//! Numbers inside sessions: gap-free, so that a session's completeness can be proven.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The most sessions without an end. Beyond it the one that was quiet the longest ends with a
/// `session.ended` that names its count; if it goes on, it begins anew.
pub(crate) const SESSIONS_MAX: usize = 10_000;
/// The most sessions that are remembered, with those that ended.
const KNOWN_MAX: usize = 12_000;

/// The place of a leaf in its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) number: u64,
    /// How many runs of the session the log had before this one, when that is known.
    pub(crate) run: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    /// The number of the next leaf; 0 when it has ended.
    next: u64,
    /// The sequence of its last leaf.
    last: u64,
    /// Runs that have ended; `None` when earlier ones may have been forgotten.
    runs: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sessions {
    known: BTreeMap<String, Known>,
    /// How many of them have not ended.
    open: usize,
    /// A session was forgotten: of one that is not known it cannot be said that it is new.
    forgot: bool,
}

impl Sessions {
    /// Gives the session's next leaf, which stands at `seq`, its place.
    pub(crate) fn next(&mut self, session: &str, seq: u64) -> Place {
        if !self.known.contains_key(session) {
            self.forget();
        }
        let runs = (!self.forgot).then_some(0);
        let new = Known {
            next: 0,
            last: seq,
            runs,
        };
        let known = self.known.entry(session.to_owned()).or_insert(new);
        let number = known.next;
        known.last = seq;
        known.next += 1;
        self.open += usize::from(number == 0);
        Place {
            number,
            run: known.runs,
        }
    }

    /// Makes room: the session that ended the longest ago is forgotten.
    fn forget(&mut self) {
        if self.known.len() < KNOWN_MAX {
            return;
        }
        let ended = self.known.iter().filter(|(_, known)| known.next == 0);
        let oldest = ended.min_by_key(|(_, known)| known.last);
        if let Some(name) = oldest.map(|(name, _)| name.clone()) {
            self.known.remove(&name);
            self.forgot = true;
        }
    }

    fn open(&self) -> impl Iterator<Item = (&String, &Known)> {
        self.known.iter().filter(|(_, known)| known.next > 0)
    }

    pub(crate) fn is_open(&self, session: &str) -> bool {
        self.count(session) > 0
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.open().map(|(name, _)| name.clone()).collect()
    }

    /// Ends the open run of a session, if it has one.
    pub(crate) fn end(&mut self, session: &str) {
        if let Some(known) = self.known.get_mut(session).filter(|known| known.next > 0) {
            known.next = 0;
            known.runs = known.runs.map(|runs| runs + 1);
            self.open -= 1;
        }
    }

    /// How many leaves the open run of a session has.
    pub(crate) fn count(&self, session: &str) -> u64 {
        self.known.get(session).map_or(0, |known| known.next)
    }

    /// The session that must end because there are too many.
    pub(crate) fn overflow(&self) -> Option<String> {
        if self.open <= SESSIONS_MAX {
            return None;
        }
        let quietest = self.open().min_by_key(|(_, known)| known.last);
        quietest.map(|(session, _)| session.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_numbered_only_while_no_earlier_one_can_have_been_forgotten() {
        let mut sessions = Sessions::default();
        let first = Place {
            number: 0,
            run: Some(0),
        };
        assert_eq!(sessions.next("a", 0), first);
        assert_eq!(sessions.next("a", 1).run, Some(0));
        sessions.end("a");
        assert_eq!(sessions.next("a", 2).run, Some(1));
        sessions.end("a");
        for seq in 0..KNOWN_MAX as u64 {
            let name = format!("s{seq}");
            assert_eq!(sessions.next(&name, 3 + seq).number, 0);
            sessions.end(&name);
        }
        assert!(!sessions.known.contains_key("a"), "it is the oldest");
        assert_eq!(sessions.next("a", u64::MAX).run, None, "it had two");
        assert_eq!(sessions.next("s9000", u64::MAX).run, Some(1), "remembered");
        assert_eq!((sessions.known.len(), sessions.open), (KNOWN_MAX, 2));
    }
}
