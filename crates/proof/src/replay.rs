//! Replaying a log: what collector, bundle verifier and recovery share.

use std::collections::BTreeMap;

use jurat_event::Kind;
use serde::Serialize;

use crate::{Chain, Context, Digest, EntryError, EntryView, Frontier, context_hasher, leaf_hash};

/// Where a log does not hold together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The entry at this place cannot be read.
    #[error("leaf {seq}: {source}")]
    Entry {
        /// Its place.
        seq: u64,
        /// What is wrong.
        source: EntryError,
    },
    /// The entry names another place than the one it stands at.
    #[error("leaf {expected} says that it is leaf {found}")]
    Sequence {
        /// Where it stands.
        expected: u64,
        /// What it says.
        found: u64,
    },
    /// A payload that is not the one its entry commits to.
    #[error("leaf {seq}: the payload is not the one that was committed")]
    Payload {
        /// The entry's place.
        seq: u64,
    },
    /// A payload after an entry that commits to none, or a second one.
    #[error("leaf {seq}: a payload that no entry commits to")]
    StrayPayload {
        /// The place of the entry before it.
        seq: u64,
    },
    /// A number inside a session is missing or stands twice.
    #[error("leaf {seq}: session {session} goes from {expected} to {found}")]
    Session {
        /// The entry's place.
        seq: u64,
        /// The session.
        session: String,
        /// The number that should follow.
        expected: u64,
        /// The number found.
        found: u64,
    },
    /// A `session.ended` whose count is not the number of the session's leaves.
    #[error("leaf {seq}: session {session} ends with a count of {says}, it has {count} leaves")]
    SessionCount {
        /// The entry's place.
        seq: u64,
        /// The session.
        session: String,
        /// The count that it names.
        says: u64,
        /// Its number in the session, plus one.
        count: u64,
    },
    /// More sessions without an end than a log may have.
    #[error("leaf {seq}: more than {OPEN_SESSIONS_MAX} sessions without an end")]
    Sessions {
        /// The entry's place.
        seq: u64,
    },
    /// Leaf 0 does not open this log.
    #[error("leaf 0 does not open the log {origin}")]
    Opening {
        /// The log.
        origin: String,
    },
    /// A `batch.sealed` that contradicts the leaves before it.
    #[error("leaf {seq}: the batch does not have the {what} it says")]
    Batch {
        /// The entry's place.
        seq: u64,
        /// Which fact.
        what: &'static str,
    },
}

impl ReplayError {
    /// The leaf at which it was noticed.
    pub fn seq(&self) -> u64 {
        match self {
            Self::Entry { seq, .. }
            | Self::Sequence { expected: seq, .. }
            | Self::Payload { seq }
            | Self::StrayPayload { seq }
            | Self::Session { seq, .. }
            | Self::SessionCount { seq, .. }
            | Self::Sessions { seq }
            | Self::Batch { seq, .. } => *seq,
            Self::Opening { .. } => 0,
        }
    }
}

/// What a replay counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Leaves by kind.
    pub events: BTreeMap<String, u64>,
    /// Values redacted in payloads.
    pub redactions: u64,
    /// Records filtered, by reason, as the batches say.
    pub filtered: BTreeMap<String, u64>,
    /// Payloads that were not there: erased or withheld.
    pub payloads_missing: u64,
    /// Leaves of which only the hash was there.
    pub leaves_withheld: u64,
    /// What the log says about its own blindness: restarts, gaps, cut transcripts, with their leaf.
    pub gaps: Vec<(u64, String)>,
    /// How the endpoint was installed, as it says itself in `log.opened` and `agent.started`.
    pub isolation: Option<String>,
    /// Records sealed in custody mode, not redacted.
    pub custody: bool,
}

/// Replays the records of one log in order and checks everything that needs no key.
pub struct Replay {
    origin: String,
    frontier: Frontier,
    /// Leaves that are not in the frontier yet: there they go many at a time.
    waiting: Vec<Digest>,
    chain: Chain,
    /// Sessions may have begun where this replay did not look: before its start, or in a withheld range.
    unseen: bool,
    /// Leaves since the last `batch.sealed`; `None` until the first one when starting inside.
    in_batch: Option<u64>,
    /// The payload that may follow.
    open: Option<Context>,
    sessions: BTreeMap<String, u64>,
    summary: Summary,
}

impl Replay {
    /// A replay from the log's first leaf.
    pub fn new(origin: &str) -> Self {
        Self::resume(origin, Frontier::default(), Chain::new(origin))
    }

    /// A replay that goes on after `frontier`.
    pub fn resume(origin: &str, frontier: Frontier, chain: Chain) -> Self {
        Self {
            origin: origin.to_owned(),
            unseen: frontier.size() > 0,
            waiting: Vec::new(),
            in_batch: (frontier.size() == 0).then_some(0),
            frontier,
            chain,
            open: None,
            sessions: BTreeMap::new(),
            summary: Summary::default(),
        }
    }

    /// Takes the next entry and returns its leaf hash.
    ///
    /// # Errors
    /// [`ReplayError`] names the leaf; the replay must not go on.
    pub fn entry<'a>(&mut self, entry: &'a [u8]) -> Result<(EntryView<'a>, Digest), ReplayError> {
        let leaf = leaf_hash(entry);
        Ok((self.hashed_entry(entry, leaf)?, leaf))
    }

    /// Takes the next entry with its leaf hash, as [`hash_records`](crate::hash_records) gives it.
    ///
    /// # Errors
    /// As [`Replay::entry`].
    pub fn hashed_entry<'a>(
        &mut self,
        entry: &'a [u8],
        leaf: Digest,
    ) -> Result<EntryView<'a>, ReplayError> {
        let seq = self.size();
        let view = EntryView::parse(entry).map_err(|source| ReplayError::Entry { seq, source })?;
        if view.seq != seq {
            return Err(ReplayError::Sequence {
                expected: seq,
                found: view.seq,
            });
        }
        if seq == 0 {
            let detail = view.detail_map();
            let origin = detail.get("origin").and_then(|value| value.as_str());
            if !view.is(Kind::LogOpened) || origin != Some(&self.origin) {
                let origin = self.origin.clone();
                return Err(ReplayError::Opening { origin });
            }
        }
        self.close_payload();
        self.open = view.context;
        self.count(seq, &view)?;
        self.waiting.push(leaf);
        self.chain.push(&leaf);
        Ok(view)
    }

    /// The number of leaves so far.
    pub fn size(&self) -> u64 {
        self.frontier.size() + self.waiting.len() as u64
    }

    /// Takes leaves of which only the hash is here. Tree and chain go on; what they said is not known, so
    /// numbers of sessions and of the batch are checked again from what follows.
    ///
    /// # Errors
    /// [`ReplayError::Sequence`] when they stand somewhere else.
    pub fn leaves(&mut self, from: u64, hashes: &[[u8; 32]]) -> Result<(), ReplayError> {
        let expected = self.size();
        if from != expected {
            let found = from;
            return Err(ReplayError::Sequence { expected, found });
        }
        self.close_payload();
        for hash in hashes {
            self.waiting.push(Digest(*hash));
            self.chain.push(&Digest(*hash));
        }
        self.unseen = true;
        self.sessions.clear();
        self.in_batch = None;
        self.summary.leaves_withheld += hashes.len() as u64;
        self.gap(from, || format!("{} leaves withheld", hashes.len()));
        Ok(())
    }

    fn close_payload(&mut self) {
        if self.open.take().is_some() {
            self.summary.payloads_missing += 1;
        }
    }

    fn gap(&mut self, seq: u64, what: impl FnOnce() -> String) {
        if self.summary.gaps.len() < GAPS_MAX {
            self.summary.gaps.push((seq, what()));
        }
    }

    fn count(&mut self, seq: u64, view: &EntryView<'_>) -> Result<(), ReplayError> {
        add(&mut self.summary.events, &view.kind, 1);
        let redactions = view.context.map_or(0, |context| context.redactions);
        self.summary.redactions = self.summary.redactions.saturating_add(redactions);
        if let (Some(session), Some(found)) = (&view.session, view.session_seq) {
            // A session that was read before this range began may start at any number.
            let known = self.sessions.get(&**session).copied();
            let expected = known.unwrap_or(if self.unseen { found } else { 0 });
            if found != expected {
                let session = session.to_string();
                return Err(ReplayError::Session {
                    seq,
                    session,
                    expected,
                    found,
                });
            }
            if view.is(Kind::SessionEnded) {
                let says = view
                    .detail_map()
                    .get("count")
                    .and_then(serde_json::Value::as_u64);
                let count = found.saturating_add(1);
                if says != Some(count) {
                    let session = session.to_string();
                    let says = says.unwrap_or(0);
                    return Err(ReplayError::SessionCount {
                        seq,
                        session,
                        says,
                        count,
                    });
                }
                self.sessions.remove(&**session);
            } else if known.is_some() {
                if let Some(next) = self.sessions.get_mut(&**session) {
                    *next = found.saturating_add(1);
                }
            } else {
                if self.sessions.len() >= OPEN_SESSIONS_MAX {
                    return Err(ReplayError::Sessions { seq });
                }
                self.sessions
                    .insert(session.to_string(), found.saturating_add(1));
            }
        }
        if view.is(Kind::BatchSealed) {
            let detail = view.detail_map();
            let says = |name: &str| detail.get(name).and_then(serde_json::Value::as_u64);
            if let Some(count) = self.in_batch
                && says("count") != Some(count)
            {
                return Err(ReplayError::Batch { seq, what: "count" });
            }
            let chain = detail.get("chain").and_then(|value| value.as_str());
            if chain.and_then(Digest::from_hex) != Some(self.chain.0) {
                return Err(ReplayError::Batch {
                    seq,
                    what: "chain head",
                });
            }
            if let Some(serde_json::Value::Object(filtered)) = detail.get("filtered") {
                for (reason, count) in filtered {
                    add(
                        &mut self.summary.filtered,
                        reason,
                        count.as_u64().unwrap_or(0),
                    );
                }
            }
            self.in_batch = Some(0);
        } else {
            self.in_batch = self.in_batch.map(|count| count + 1);
            let name = Kind::from_name(&view.kind);
            if matches!(name, Some(Kind::LogOpened | Kind::AgentStarted)) {
                let detail = view.detail_map();
                if let Some(isolation) = detail.get("isolation").and_then(|value| value.as_str()) {
                    // The weakest statement counts.
                    if self.summary.isolation.as_deref() != Some("shared") {
                        self.summary.isolation = Some(isolation.to_owned());
                    }
                }
                self.summary.custody |=
                    detail.get("custody") == Some(&serde_json::Value::Bool(true));
            }
            if matches!(
                name,
                Some(
                    Kind::AgentStarted
                        | Kind::AgentStopped
                        | Kind::TranscriptTruncated
                        | Kind::TranscriptRewritten
                        | Kind::TranscriptDeleted
                        | Kind::ClockStepped
                        | Kind::LedgerFull
                        | Kind::DeadLetter
                        | Kind::SourceFailed
                        | Kind::PayloadErased
                        | Kind::LedgerPruned
                )
            ) {
                self.gap(seq, || view.kind.to_string());
            }
        }
        Ok(())
    }

    /// Takes the payload of the entry just before.
    ///
    /// # Errors
    /// [`ReplayError`] names the leaf.
    pub fn payload(&mut self, salt: &[u8; 32], bytes: &[u8]) -> Result<(), ReplayError> {
        let mut hasher = context_hasher(salt);
        hasher.update(bytes);
        self.hashed_payload(bytes.len(), hasher.finish())
    }

    /// Takes the payload of the entry just before by its length and its commitment, as
    /// [`hash_records`](crate::hash_records) gives it.
    ///
    /// # Errors
    /// As [`Replay::payload`].
    pub fn hashed_payload(&mut self, len: usize, commitment: Digest) -> Result<(), ReplayError> {
        let seq = self.size().saturating_sub(1);
        let context = self.open.take().ok_or(ReplayError::StrayPayload { seq })?;
        if context.len != len as u64 || context.sha256 != commitment {
            return Err(ReplayError::Payload { seq });
        }
        Ok(())
    }

    /// The frontier after the last entry.
    pub fn frontier(&mut self) -> &Frontier {
        self.frontier.extend(&self.waiting);
        self.waiting.clear();
        &self.frontier
    }

    /// The chain after the last entry.
    pub fn chain(&self) -> Chain {
        self.chain
    }

    /// Whether the last entry was a `batch.sealed`.
    pub fn ends_a_batch(&self) -> bool {
        self.in_batch == Some(0)
    }

    /// Payloads that were expected and did not come, up to and with the last entry.
    pub fn payloads_missing(&self) -> u64 {
        self.summary.payloads_missing + u64::from(self.open.is_some())
    }

    /// What was counted.
    pub fn finish(mut self) -> (Frontier, Chain, Summary) {
        self.frontier();
        self.summary.payloads_missing = self.payloads_missing();
        (self.frontier, self.chain, self.summary)
    }
}

/// The most gaps listed by leaf; all of them are counted by kind.
const GAPS_MAX: usize = 1_000;
/// The most names counted one by one; a log with more of them has the rest under `(others)`.
const NAMES_MAX: usize = 1_000;
/// The most sessions without an end: a sealer ends the quietest one long before.
const OPEN_SESSIONS_MAX: usize = 100_000;

fn add(counts: &mut BTreeMap<String, u64>, name: &str, count: u64) {
    if let Some(sum) = counts.get_mut(name) {
        *sum = sum.saturating_add(count);
    } else {
        let full = counts.len() >= NAMES_MAX;
        let name = if full { "(others)" } else { name };
        let sum = counts.entry(name.to_owned()).or_default();
        *sum = sum.saturating_add(count);
    }
}
