//! Replaying a log: what collector, bundle verifier and recovery share.

use std::collections::{BTreeMap, BTreeSet};

use jurat_event::Kind;
use serde::Serialize;

use crate::check::Check;
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
    /// Leaf hashes that belong to another place than the one they stand at.
    #[error("leaf hashes at {expected} say that they begin at {found}")]
    Place {
        /// Where they stand.
        expected: u64,
        /// What they say.
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
            | Self::Place { expected: seq, .. }
            | Self::Payload { seq }
            | Self::StrayPayload { seq }
            | Self::Session { seq, .. }
            | Self::SessionCount { seq, .. }
            | Self::Sessions { seq }
            | Self::Batch { seq, .. } => *seq,
            Self::Opening { .. } => 0,
        }
    }

    /// The check that does not hold.
    pub fn check(&self) -> Check {
        match self {
            Self::Entry { .. } => Check::EntryMalformed,
            Self::Sequence { .. } => Check::EntrySeq,
            Self::Place { .. } => Check::LeavesPlace,
            Self::Payload { .. } => Check::PayloadCommitment,
            Self::StrayPayload { .. } => Check::PayloadStray,
            Self::Session { .. } => Check::SessionGap,
            Self::SessionCount { .. } => Check::SessionCount,
            Self::Sessions { .. } => Check::SessionMany,
            Self::Batch { what, .. } => match *what {
                "count" => Check::BatchCount,
                _ => Check::BatchChain,
            },
            Self::Opening { .. } => Check::EntryOpening,
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
    /// The first sessions, by their id.
    pub sessions: BTreeMap<String, SessionSummary>,
    /// Runs of sessions that `sessions` does not list.
    pub sessions_more: u64,
    /// Runs of a session may be among the leaves that were not seen: before or between those that are here,
    /// where a leaf does not say of which run it is, or after its last one.
    pub runs_unseen: bool,
}

/// What a replay saw of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SessionSummary {
    /// Its leaves.
    pub leaves: u64,
    /// Every leaf of it up to the last one: every run from the log's first, each from number 0, without a gap.
    pub complete: bool,
    /// Its last leaf is `session.ended`.
    pub ended: bool,
    /// Its runs so far.
    #[serde(skip)]
    runs: u64,
    /// How many records of leaf hashes there were when its last leaf came.
    #[serde(skip)]
    hidden: u64,
}

/// A session that has not ended.
#[derive(Clone, Copy)]
struct Open {
    /// The number of its next leaf; `None` when there can be none.
    next: Option<u64>,
    /// How many records of leaf hashes there were when its last leaf came.
    hidden: u64,
}

/// Replays the records of one log in order and checks everything that needs no key.
pub struct Replay {
    origin: String,
    frontier: Frontier,
    /// Leaves that are not in the frontier yet: there they go many at a time.
    waiting: Vec<Digest>,
    chain: Chain,
    /// The chain is the log's: it was followed from its begin, or a batch says the same.
    chain_confirmed: bool,
    /// Sessions may have begun where this replay did not look: before its start, or in a withheld range.
    unseen: bool,
    /// Leaves since the last `batch.sealed`; `None` until the first one when starting inside.
    in_batch: Option<u64>,
    /// The payload that may follow.
    open: Option<Context>,
    sessions: BTreeMap<String, Open>,
    /// Records of leaf hashes so far.
    hidden: u64,
    /// The boot of the last entry, and all that were seen.
    boot: Option<String>,
    boots: BTreeSet<String>,
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
            chain_confirmed: frontier.size() == 0,
            waiting: Vec::new(),
            in_batch: (frontier.size() == 0).then_some(0),
            frontier,
            chain,
            open: None,
            sessions: BTreeMap::new(),
            hidden: 0,
            boot: None,
            boots: BTreeSet::new(),
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
        if Check::EntrySeq.fails(view.seq != seq) {
            return Err(ReplayError::Sequence {
                expected: seq,
                found: view.seq,
            });
        }
        if seq == 0 {
            let detail = view.detail_map();
            let origin = detail.get("origin").and_then(|value| value.as_str());
            let opens = view.is(Kind::LogOpened) && origin == Some(&self.origin);
            if Check::EntryOpening.fails(!opens) {
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

    /// Takes an entry that cannot be read, or one that breaks the order, as a leaf and nothing more.
    pub(crate) fn pass_over(&mut self, leaf: Digest) {
        self.close_payload();
        self.waiting.push(leaf);
        self.chain.push(&leaf);
    }

    /// Takes leaves of which only the hash is here. Tree and chain go on; what they said is not known, so
    /// numbers of sessions and of the batch are checked again from what follows.
    ///
    /// # Errors
    /// [`ReplayError::Place`] when they stand somewhere else.
    pub fn leaves(&mut self, from: u64, hashes: &[[u8; 32]]) -> Result<(), ReplayError> {
        let expected = self.size();
        if Check::LeavesPlace.fails(from != expected) {
            let found = from;
            return Err(ReplayError::Place { expected, found });
        }
        self.close_payload();
        for hash in hashes {
            self.waiting.push(Digest(*hash));
            self.chain.push(&Digest(*hash));
        }
        self.unseen = true;
        self.hidden += 1;
        self.in_batch = None;
        self.summary.leaves_withheld += hashes.len() as u64;
        self.gap(expected, || format!("{} leaves withheld", hashes.len()));
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
            self.session(seq, view, session, found)?;
        }
        if view.is(Kind::BatchSealed) {
            let detail = view.detail_map();
            let says = |name: &str| detail.get(name).and_then(serde_json::Value::as_u64);
            if let Some(count) = self.in_batch
                && Check::BatchCount.fails(says("count") != Some(count))
            {
                return Err(ReplayError::Batch { seq, what: "count" });
            }
            let chain = detail.get("chain").and_then(|value| value.as_str());
            let same = chain.and_then(Digest::from_hex) == Some(self.chain.0);
            if Check::BatchChain.fails(!same) {
                return Err(ReplayError::Batch {
                    seq,
                    what: "chain head",
                });
            }
            self.chain_confirmed = true;
            self.opened(&detail);
            if let Some(serde_json::Value::Object(filtered)) = detail.get("filtered") {
                for (reason, count) in filtered {
                    if let Some(count) = count.as_u64() {
                        add(&mut self.summary.filtered, reason, count);
                    }
                }
            }
            self.in_batch = Some(0);
        } else {
            self.in_batch = self.in_batch.map(|count| count + 1);
            let name = Kind::from_name(&view.kind);
            if matches!(name, Some(Kind::LogOpened | Kind::AgentStarted)) {
                self.opened(&view.detail_map());
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
                        | Kind::KeyRotated
                )
            ) {
                self.gap(seq, || view.kind.to_string());
            }
        }
        self.boot(seq, &view.boot);
        Ok(())
    }

    /// A boot that comes back after another one: two machines go on with one log.
    fn boot(&mut self, seq: u64, boot: &str) {
        if self.boot.as_deref() == Some(boot) {
            return;
        }
        self.boot = Some(boot.to_owned());
        if self.boots.contains(boot) {
            self.gap(seq, || "boot returned".to_owned());
        } else if self.boots.len() < BOOTS_MAX {
            self.boots.insert(boot.to_owned());
        }
    }

    fn session(
        &mut self,
        seq: u64,
        view: &EntryView<'_>,
        session: &str,
        found: u64,
    ) -> Result<(), ReplayError> {
        let known = self.sessions.get(session).copied();
        let expected = known.map_or(Some(0), |open| open.next);
        // Leaves of it may stand where this replay did not look.
        let unseen = known.map_or(self.unseen, |open| open.hidden != self.hidden);
        let begins = known.is_none();
        self.summary.runs_unseen |= unseen && view.session_run.is_none();
        if Check::SessionGap.fails(Some(found) != expected && !unseen) {
            let session = session.to_owned();
            return Err(ReplayError::Session {
                seq,
                session,
                expected: expected.unwrap_or(u64::MAX),
                found,
            });
        }
        let ended = view.is(Kind::SessionEnded);
        let next = found.checked_add(1);
        if ended {
            let detail = view.detail_map();
            let says = detail.get("count").and_then(serde_json::Value::as_u64);
            if Check::SessionCount.fails(says.is_none() || says != next) {
                let session = session.to_owned();
                return Err(ReplayError::SessionCount {
                    seq,
                    session,
                    says: says.unwrap_or(0),
                    count: next.unwrap_or(u64::MAX),
                });
            }
            self.sessions.remove(session);
        } else {
            let hidden = self.hidden;
            if let Some(open) = self.sessions.get_mut(session) {
                *open = Open { next, hidden };
            } else {
                let full = self.sessions.len() >= OPEN_SESSIONS_MAX;
                if Check::SessionMany.fails(full) {
                    return Err(ReplayError::Sessions { seq });
                }
                let open = Open { next, hidden };
                self.sessions.insert(session.to_owned(), open);
            }
        }
        let listed = &mut self.summary.sessions;
        if !listed.contains_key(session) {
            if listed.len() >= NAMES_MAX {
                self.summary.sessions_more += u64::from(begins);
                return Ok(());
            }
            let new = SessionSummary {
                leaves: 0,
                complete: true,
                ended: false,
                runs: 0,
                hidden: 0,
            };
            listed.insert(session.to_owned(), new);
        }
        if let Some(summary) = listed.get_mut(session) {
            summary.runs += u64::from(begins);
            // Where nothing is hidden, a leaf that does not know its run hides none.
            let this = view
                .session_run
                .map_or(!unseen, |run| run == summary.runs - 1);
            summary.leaves += 1;
            summary.complete &= Some(found) == expected && this;
            summary.ended = ended;
            summary.hidden = self.hidden;
        }
        Ok(())
    }

    /// What the endpoint says about itself; the weakest statement counts.
    fn opened(&mut self, detail: &BTreeMap<String, serde_json::Value>) {
        if let Some(isolation) = detail.get("isolation").and_then(|value| value.as_str()) {
            let before = self.summary.isolation.as_deref();
            if matches!(before, None | Some("separate")) {
                self.summary.isolation = Some(isolation.to_owned());
            }
        }
        self.summary.custody |= detail.get("custody") == Some(&serde_json::Value::Bool(true));
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
        let Some(context) = self.open.take() else {
            let stray = Err(ReplayError::StrayPayload { seq });
            return if Check::PayloadStray.holds(false) {
                Ok(())
            } else {
                stray
            };
        };
        let same = context.len == len as u64 && context.sha256 == commitment;
        if Check::PayloadCommitment.fails(!same) {
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

    /// Whether the chain is the log's, as far as the records say.
    pub(crate) fn is_chain_confirmed(&self) -> bool {
        self.chain_confirmed
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
        let hidden = self.hidden;
        let listed = self.summary.sessions.values();
        let unlisted = hidden > 0 && self.summary.sessions_more > 0;
        self.summary.runs_unseen |= unlisted || listed.into_iter().any(|it| it.hidden < hidden);
        (self.frontier, self.chain, self.summary)
    }
}

/// The most gaps listed by leaf; all of them are counted by kind.
const GAPS_MAX: usize = 1_000;
/// The most names counted one by one; a log with more of them has the rest under `(others)`.
const NAMES_MAX: usize = 1_000;
/// The most sessions without an end: a sealer ends the quietest one long before.
const OPEN_SESSIONS_MAX: usize = 100_000;
/// The most boots that are remembered: thirty years of one a day.
const BOOTS_MAX: usize = 10_000;

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
