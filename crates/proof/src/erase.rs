//! Which leaves an erasure means.

use std::borrow::Cow;

use jurat_event::{EraseRequest, Kind, NAME_BYTES_MAX, Ranges};

use crate::{EntryView, sha256};

/// The session as it stands in entries and everywhere else: it joins events, so it is kept whole or
/// replaced by its digest, never cut.
pub fn session_name(session: &str) -> Cow<'_, str> {
    if session.len() <= NAME_BYTES_MAX && !session.chars().any(char::is_control) {
        return Cow::Borrowed(session);
    }
    Cow::Owned(format!("sha256:{}", sha256(&[session.as_bytes()])))
}

/// Chooses leaves, given all of a log in order.
#[derive(Clone, Debug)]
pub struct Choice<'a> {
    ranges: &'a Ranges,
    /// Sessions as entries name them, and whether they were seen.
    sessions: Vec<(Cow<'a, str>, bool)>,
    chosen: Ranges,
}

impl<'a> Choice<'a> {
    /// What a request asks for.
    pub fn new(request: &'a EraseRequest) -> Self {
        let sessions = request.sessions.iter();
        Self {
            ranges: &request.ranges,
            sessions: sessions.map(|name| (session_name(name), false)).collect(),
            chosen: Ranges::default(),
        }
    }

    /// Whether it means this leaf.
    pub fn takes(&mut self, entry: &EntryView<'_>) -> bool {
        let mut taken = self.ranges.contains(entry.seq);
        for (name, seen) in &mut self.sessions {
            let mine = entry.session.as_deref() == Some(&**name);
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
    pub fn unknown_session(&self) -> Option<&str> {
        let unknown = self.sessions.iter().find(|(_, seen)| !seen);
        unknown.map(|(name, _)| &**name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_erased_by_the_name_that_it_was_given_however_its_leaves_name_it() {
        let names = ["short".to_owned(), "s".repeat(5_000), "a\nb".to_owned()];
        for name in names {
            let stands = session_name(&name).into_owned();
            let entry = format!(
                r#"{{"v":1,"salt":"c2FsdHNhbHRzYWx0c2FsdA","seq":7,"boot":"b","time":"t","kind":"other","session":"{stands}","session_seq":0}}"#
            );
            let entry = EntryView::parse(entry.as_bytes()).unwrap();
            // As it was given, and as `jurat log` shows it.
            for asked in [name.clone(), stands.clone()] {
                let request = EraseRequest {
                    sessions: vec![asked],
                    ..EraseRequest::default()
                };
                let mut choice = Choice::new(&request);
                assert_eq!(choice.unknown_session(), Some(&*stands));
                assert!(choice.takes(&entry), "{stands}");
                assert_eq!(choice.unknown_session(), None);
            }
        }
    }
}
