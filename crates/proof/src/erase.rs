//! Which leaves an erasure means.

use jurat_event::{EraseRequest, Kind, Ranges};

use crate::EntryView;

/// Chooses leaves, given all of a log in order.
#[derive(Clone, Debug)]
pub struct Choice<'a> {
    ranges: &'a Ranges,
    /// Sessions, and whether they were seen.
    sessions: Vec<(&'a str, bool)>,
    chosen: Ranges,
}

impl<'a> Choice<'a> {
    /// What a request asks for.
    pub fn new(request: &'a EraseRequest) -> Self {
        let sessions = request.sessions.iter();
        Self {
            ranges: &request.ranges,
            sessions: sessions.map(|name| (name.as_str(), false)).collect(),
            chosen: Ranges::default(),
        }
    }

    /// Whether it means this leaf.
    pub fn takes(&mut self, entry: &EntryView<'_>) -> bool {
        let mut taken = self.ranges.contains(entry.seq);
        for (name, seen) in &mut self.sessions {
            let mine = entry.session.as_deref() == Some(*name);
            *seen |= mine;
            taken |= mine;
        }
        taken |= entry.is(Kind::TranscriptPart)
            && entry
                .of
                .is_some_and(|first| self.ranges.contains(first) || self.chosen.contains(first));
        if taken {
            self.chosen.push((entry.seq, entry.seq + 1));
        }
        taken
    }

    /// A session of which no leaf came by.
    pub fn unknown_session(&self) -> Option<&'a str> {
        let unknown = self.sessions.iter().find(|(_, seen)| !seen);
        unknown.map(|(name, _)| *name)
    }
}
