//! What is said of a session: which leaves it has, and whether they are all.

use jurat_event::Kind;
use jurat_proof::{Checkpoint, Digest, EntryView, Frontier, Hasher, leaf_hash};
use serde::Serialize;

use crate::StatementError;

/// A session as a statement names it: the predicate of the in-toto statement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Session {
    /// The log's origin.
    pub origin: String,
    /// The leaves of the head under which everything here stands.
    pub size: u64,
    /// The root of that head.
    pub root: Digest,
    /// The session.
    pub session: String,
    /// Its first leaf.
    pub first: u64,
    /// Its last leaf under that head.
    pub last: u64,
    /// How many leaves it has.
    pub count: u64,
    /// SHA-256 over the hashes of these leaves, one after the other: what the statement is about.
    pub leaves_sha256: Digest,
    /// Whether its numbers have no gap from 0 to an end, and every leaf of the log was read.
    pub complete: bool,
    /// Whether its last leaf is a `session.ended`.
    pub ended: bool,
    /// Leaves of the log of which only the hash is here: they may belong to the session.
    pub leaves_withheld: u64,
    /// Values that were redacted in its payloads.
    pub redactions: u64,
    /// When its first leaf was sealed, by the device's clock.
    pub first_time: String,
    /// When its last leaf was sealed, by the device's clock.
    pub last_time: String,
}

/// Gathers one session while all leaves of the log pass by.
pub struct SessionBuilder {
    session: Session,
    head: Checkpoint,
    all: Frontier,
    leaves: Hasher,
    /// The number that the next leaf must bear; 0 after an end, where a run begins anew.
    next: u64,
    gap: bool,
}

impl SessionBuilder {
    /// What this head says of a session.
    pub fn new(head: Checkpoint, session: &str) -> Self {
        Self {
            session: Session {
                origin: head.origin.clone(),
                size: head.size,
                root: head.root,
                session: session.to_owned(),
                first: 0,
                last: 0,
                count: 0,
                leaves_sha256: Digest([0; 32]),
                complete: false,
                ended: false,
                leaves_withheld: 0,
                redactions: 0,
                first_time: String::new(),
                last_time: String::new(),
            },
            head,
            all: Frontier::default(),
            leaves: Hasher::default(),
            next: 0,
            gap: false,
        }
    }

    /// Takes the next leaf; those that the head does not cover are passed over.
    ///
    /// # Errors
    /// [`StatementError::Entry`] when it is no entry.
    pub fn entry(&mut self, entry: &[u8]) -> Result<(), StatementError> {
        let seq = self.all.size();
        if seq >= self.head.size {
            return Ok(());
        }
        let leaf = leaf_hash(entry);
        self.all.push(leaf);
        let view =
            EntryView::parse(entry).map_err(|source| StatementError::Entry { seq, source })?;
        let it = &mut self.session;
        if view.session.as_deref() != Some(&it.session) {
            return Ok(());
        }
        if it.count == 0 {
            it.first = seq;
            it.first_time = view.time.to_string();
        }
        it.last = seq;
        it.last_time = view.time.to_string();
        it.count += 1;
        it.ended = view.is(Kind::SessionEnded);
        let redactions = view.context.map_or(0, |context| context.redactions);
        it.redactions = it.redactions.saturating_add(redactions);
        self.leaves.update(&leaf.0);
        self.gap |= view.session_seq != Some(self.next);
        let says = view
            .detail_map()
            .get("count")
            .and_then(serde_json::Value::as_u64);
        self.gap |= it.ended && says != Some(self.next + 1);
        self.next = if it.ended { 0 } else { self.next + 1 };
        Ok(())
    }

    /// Takes leaves of which only the hash is here.
    pub fn withheld(&mut self, hashes: &[[u8; 32]]) {
        for hash in hashes {
            if self.all.size() < self.head.size {
                self.all.push(Digest(*hash));
                self.session.leaves_withheld += 1;
            }
        }
    }

    /// The session, when the leaves gave the signed root.
    ///
    /// # Errors
    /// [`StatementError::Root`] when they did not, [`StatementError::NoSession`] when no leaf of it came.
    pub fn finish(self) -> Result<Session, StatementError> {
        check_root(&self.head, &self.all)?;
        let mut session = self.session;
        if session.count == 0 {
            return Err(StatementError::NoSession(session.session));
        }
        session.leaves_sha256 = self.leaves.finish();
        session.complete = session.ended && !self.gap && session.leaves_withheld == 0;
        Ok(session)
    }
}

pub(crate) fn check_root(head: &Checkpoint, all: &Frontier) -> Result<(), StatementError> {
    if (all.size(), all.root()) != (head.size, head.root) {
        let (found, size) = (all.size(), head.size);
        return Err(StatementError::Root { found, size });
    }
    Ok(())
}
