//! The sealer: events in, signed tree heads out.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jurat_disk::{Host, Time};
use jurat_event::{EraseRequest, Event, Kind, Ranges};
use jurat_ledger::{Closed, Group, Ledger, LedgerError, Options, Reader, Replayed};
use jurat_proof::{
    Chain, Checkpoint, Context, Digest, EntryError, EntryView, Frontier, Message, Note,
    ROTATIONS_MAX, Rotation, Signer, SignerError, VerifierKey, leaf_hash, session_name,
    sha256_many,
};
use jurat_redact::Redacted;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::entry::{self, Evidence, Raw};
use crate::erase::{self, Erasable, EraseError};
use crate::prune::{self, Prune, Pruned};
use crate::sessions::{Place, Sessions};

/// Kinds of ledger records. 1 to 3 and 6 are evidence and may leave the machine.
pub mod kind {
    /// An entry.
    pub const ENTRY: u8 = 1;
    /// The payload of the entry before it: salt and bytes.
    pub const PAYLOAD: u8 = 2;
    /// A signed checkpoint over all entries before it.
    pub const CHECKPOINT: u8 = 3;
    /// A head that is about to be signed.
    pub const TO_SIGN: u8 = 4;
    /// A checkpoint that came back with cosignatures.
    pub const COSIGNED: u8 = 5;
    /// Leaf hashes of entries that were pruned: evidence, too (`from u64, 32 bytes each`).
    pub const LEAVES: u8 = 6;
    /// What the `payload.erased` leaves before it name is erased.
    pub const ERASED: u8 = 7;
}

/// The largest payload of one leaf; a longer one goes on in `transcript.part` leaves.
pub const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;

/// The most bytes between two heads that are signed: with the batch that goes beyond it, and what was not
/// written yet, they still fit into an upload.
const SIGN_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// How a log is sealed.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The log's origin.
    pub origin: String,
    /// This boot.
    pub boot: String,
    /// The key from which the salts of raw commitments are derived. Never leaves the machine.
    pub reveal_key: [u8; 32],
    /// What leaf 0 says besides the origin: isolation, custody, machine, predecessor.
    pub opening: serde_json::Map<String, serde_json::Value>,
    /// The owner's state at leaf 0, when another log went before; else empty.
    pub beginning: Vec<u8>,
    /// The digest of the configuration in force, named in every batch.
    pub policy: String,
    /// How the ledger is kept.
    pub ledger: Options,
}

/// A tree head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The number of leaves.
    pub size: u64,
    /// The root over them.
    pub root: Digest,
    /// The chain over them.
    pub chain: Digest,
}

/// What this ledger says about its head of a size in the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PastHead {
    /// It was signed with this root.
    Root(Digest),
    /// No head of this size was ever signed here.
    Never,
    /// The part that would tell was archived and removed.
    Removed,
}

/// Why something could not be sealed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The key failed; the head is durable and unsigned, try again.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// The ledger holds an entry that cannot be read.
    #[error("leaf {seq} of the local ledger cannot be read")]
    Entry {
        /// Its place.
        seq: u64,
        /// What is wrong.
        #[source]
        source: EntryError,
    },
    /// The ledger holds a head that is not the head of its entries.
    #[error("the local ledger holds a head at size {size} that its entries do not have")]
    Head {
        /// The head's size.
        size: u64,
    },
    /// The ledger belongs to another log.
    #[error("the ledger holds the log {found}, not {expected}")]
    Origin {
        /// The configured log.
        expected: String,
        /// The log found.
        found: String,
    },
    /// The ledger says that another key signs now.
    #[error("the heads of this log are signed by {key}, which is not among the keys here")]
    Key {
        /// The key that signs now, or next.
        key: String,
    },
    /// A rotation that cannot have been sealed here.
    #[error("leaf {seq} does not rotate the key that signs: {what}")]
    Rotation {
        /// The leaf.
        seq: u64,
        /// Why.
        what: String,
    },
    /// No head was signed since the last rotation.
    #[error("the last rotation is not under a signed head yet")]
    Rotating,
    /// As many rotations as a log may have.
    #[error(
        "this log has had {ROTATIONS_MAX} rotations, the most that there may be; `jurat enroll --again` begins its next epoch"
    )]
    Rotations,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    origin: String,
    size: u64,
    roots: Vec<Digest>,
    chain: Digest,
    sessions: Sessions,
    in_batch: u64,
    filtered: BTreeMap<String, u64>,
    /// Heads that are durable and not signed, oldest first.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    unsigned: VecDeque<Unsigned>,
    /// Leaves under the last signed head.
    #[serde(default)]
    signed: u64,
    /// The key that signs the next head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// The key that signs from the head after it on, and the leaf below that head that says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rotating: Option<(String, u64)>,
    /// Rotations so far.
    #[serde(default)]
    rotations: usize,
    /// Leaves whose payloads are to be erased: a leaf says so.
    #[serde(default, skip_serializing_if = "Ranges::is_empty")]
    erasing: Ranges,
    /// Payloads erased on request, of the whole log.
    #[serde(default)]
    erased: u64,
}

/// A head that was sealed and is not signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Unsigned {
    size: u64,
    root: Digest,
    /// Bytes of evidence since the head before it.
    bytes: u64,
}

/// Events in, tree heads out.
pub struct Sealer {
    ledger: Ledger,
    /// Signs the next head.
    signer: Arc<dyn Signer>,
    /// Signs from the head over this leaf on, itself left out.
    rotating: Option<(Arc<dyn Signer>, u64)>,
    rotations: usize,
    host: Host,
    settings: Settings,
    reveal: hmac::Key,
    group: Group,
    frontier: Frontier,
    chain: Chain,
    sessions: Sessions,
    /// Leaves since the last `batch.sealed`.
    in_batch: u64,
    batch_bytes: usize,
    /// Records filtered since the last `batch.sealed`, by reason.
    filtered: BTreeMap<String, u64>,
    /// Filtered since the last commit: must be durable together with the positions behind them.
    filtered_now: BTreeMap<String, u64>,
    /// The head sealed last, as a frontier, and the leaves since then.
    sealed: Frontier,
    since_sealed: Vec<Digest>,
    /// Heads that wait for their signature, oldest first. A key that is slower than the batches signs the
    /// newest that still fits into an upload, and no head below it.
    unsigned: VecDeque<Unsigned>,
    /// The one among them that was given out to be signed.
    given: Option<Unsigned>,
    /// Leaves that are durable, and leaves that are signed.
    durable: u64,
    signed: u64,
    signed_head: Option<(u64, Digest)>,
    erasing: Ranges,
    erased: u64,
    /// Random bytes drawn in advance: one draw an entry would cost more than hashing it.
    pool: Vec<u8>,
    /// Leaves that have a place and are not written yet.
    waiting: Vec<Waiting>,
    waiting_bytes: usize,
    entries: Vec<u8>,
}

/// The most reasons that are counted one by one, and the longest name of one.
const REASONS_MAX: usize = 64;
const REASON_BYTES_MAX: usize = 100;

/// What is hashed at a time: enough to fill every lane, little enough to stay in the cache.
const WAITING_MAX: usize = 64;
const WAITING_BYTES_MAX: usize = 512 * 1024;
/// What an entry counts before it is written.
const ENTRY_BYTES_USUAL: usize = 700;

/// A leaf that waits to be written.
struct Waiting {
    content: Content,
    seq: u64,
    session: Option<String>,
    place: Option<Place>,
    /// Where its payload stands in the record's.
    payload: Option<Range<usize>>,
    of: Option<u64>,
    time: Time,
    /// 16 random bytes for the entry, 32 for the payload.
    salts: [u8; 48],
}

enum Content {
    /// An event of ours.
    Own(Event),
    /// A record that fits into one leaf.
    Record(Arc<Redacted>),
    /// The first part of a longer one, and its event.
    First(Event, Arc<Redacted>),
    /// A further part.
    Part(Event, Arc<Redacted>),
}

impl Waiting {
    fn event(&self) -> &Event {
        match &self.content {
            Content::Own(event) | Content::First(event, _) | Content::Part(event, _) => event,
            Content::Record(redacted) => redacted.event(),
        }
    }

    /// The record whose facts the entry bears; parts bear none.
    fn facts(&self) -> Option<&Redacted> {
        match &self.content {
            Content::Record(redacted) | Content::First(_, redacted) => Some(redacted),
            Content::Own(_) | Content::Part(..) => None,
        }
    }

    fn payload(&self) -> Option<&[u8]> {
        let (Content::Record(redacted) | Content::First(_, redacted) | Content::Part(_, redacted)) =
            &self.content
        else {
            return None;
        };
        redacted.payload()?.get(self.payload.clone()?)
    }

    fn original(&self) -> Option<&[u8]> {
        self.facts()?.original()
    }

    fn payload_salt(&self) -> &[u8; 32] {
        self.salts.last_chunk().expect("48 bytes have a last 32")
    }
}

impl Sealer {
    /// Opens the log in this folder, or begins it with leaf 0, signed by the first of these keys.
    ///
    /// Which of the keys signs now is what the ledger says: a rotation that a crash interrupted is
    /// taken up where it was. Keys that never signed here mean nothing.
    ///
    /// `apply` is given the owner's state blobs that were committed after the snapshot, in order;
    /// the snapshot comes first with `true`.
    ///
    /// # Errors
    /// [`SealError`]; a ledger whose signed heads do not fit its entries is refused.
    pub fn open(
        host: Host,
        dir: &Path,
        settings: Settings,
        signers: &[Arc<dyn Signer>],
        apply: &mut dyn FnMut(bool, &[u8]),
    ) -> Result<Self, SealError> {
        let find = |key: &VerifierKey| {
            let found = signers.iter().find(|signer| signer.verifier_key() == key);
            found.cloned().ok_or_else(|| SealError::Key {
                key: key.to_string(),
            })
        };
        let first_key = signers.first().map(|signer| signer.verifier_key().clone());
        let first_key = first_key.ok_or_else(|| SealError::Key {
            key: settings.origin.clone(),
        })?;
        let new = State {
            origin: settings.origin.clone(),
            size: 0,
            roots: Vec::new(),
            chain: Chain::new(&settings.origin).0,
            sessions: Sessions::default(),
            in_batch: 0,
            filtered: BTreeMap::new(),
            unsigned: VecDeque::new(),
            signed: 0,
            key: Some(first_key.to_string()),
            rotating: None,
            rotations: 0,
            erasing: Ranges::default(),
            erased: 0,
        };
        let first = frame(&new, &settings.beginning);
        let mut replay = Recovery {
            state: None,
            error: None,
            unsigned: VecDeque::new(),
            bytes: 0,
            signed: 0,
            frontier: Frontier::default(),
            key: first_key,
            rotating: None,
        };
        let ledger = Ledger::open(
            host.disk.clone(),
            host.rng.clone(),
            dir,
            settings.ledger,
            &first,
            &mut |replayed| replay.take(replayed, apply),
        )?;
        if let Some(error) = replay.error {
            return Err(error);
        }
        let state = replay.state.unwrap_or(new);
        if state.origin != settings.origin {
            return Err(SealError::Origin {
                expected: settings.origin,
                found: state.origin,
            });
        }
        let frontier = replay.frontier;
        let signer = find(&replay.key)?;
        let rotating = match &replay.rotating {
            Some((key, leaf)) => Some((find(key)?, *leaf)),
            None => None,
        };
        let mut sealer = Self {
            reveal: hmac::Key::new(hmac::HMAC_SHA256, &settings.reveal_key),
            ledger,
            signer,
            rotating,
            rotations: state.rotations,
            host,
            settings,
            group: Group::new(),
            chain: Chain(state.chain),
            sessions: state.sessions,
            in_batch: state.in_batch,
            batch_bytes: replay.bytes as usize,
            filtered: state.filtered,
            filtered_now: BTreeMap::new(),
            // Consistency is proven from here on; what is older was proven when it was sealed, and
            // recovery has just recomputed every head after the snapshot.
            sealed: frontier.clone(),
            since_sealed: Vec::new(),
            durable: frontier.size(),
            signed: replay.signed,
            signed_head: None,
            frontier,
            unsigned: replay.unsigned,
            given: None,
            erasing: state.erasing,
            erased: state.erased,
            pool: Vec::new(),
            waiting: Vec::new(),
            waiting_bytes: 0,
            entries: Vec::new(),
        };
        if sealer.frontier.size() == 0 {
            let mut event = Event::own(Kind::LogOpened);
            event.detail.clone_from(&sealer.settings.opening);
            event
                .detail
                .insert("origin".into(), sealer.settings.origin.clone().into());
            event.detail.insert(
                "key".into(),
                sealer.signer.verifier_key().to_string().into(),
            );
            sealer.push_own(event)?;
        }
        Ok(sealer)
    }

    /// Seals an event in memory; durable after [`Sealer::commit`]. `of` is the leaf it is a block of.
    ///
    /// Returns its place in the log.
    ///
    /// # Errors
    /// [`SealError::Ledger`] when a record is too long: a bug.
    pub fn push(&mut self, redacted: Redacted, of: Option<u64>) -> Result<u64, SealError> {
        let time = self.host.clock.now();
        let len = redacted.payload().map_or(0, <[u8]>::len);
        let parts = len.div_ceil(PAYLOAD_BYTES_MAX).max(1);
        let redacted = Arc::new(redacted);
        let session = redacted.event().session.clone();
        let first = redacted.payload().map(|_| 0..len.min(PAYLOAD_BYTES_MAX));
        let mut content = Content::Record(redacted.clone());
        if parts > 1 {
            let mut event = redacted.event().clone();
            event.detail.insert("parts".into(), parts.into());
            content = Content::First(event, redacted.clone());
        }
        let seq = self.wait(content, session.as_deref(), first, of, time)?;
        for part in 2..=parts {
            let mut event = Event::new(Kind::TranscriptPart);
            event.session.clone_from(&session);
            event.detail.insert("part".into(), part.into());
            event.detail.insert("parts".into(), parts.into());
            let start = (part - 1) * PAYLOAD_BYTES_MAX;
            let range = start..len.min(start + PAYLOAD_BYTES_MAX);
            let content = Content::Part(event, redacted.clone());
            self.wait(content, session.as_deref(), Some(range), Some(seq), time)?;
        }
        while let Some(session) = self.sessions.overflow() {
            self.end_session(&session, "forgotten")?;
        }
        Ok(seq)
    }

    /// Seals the end of a session with its final count.
    ///
    /// # Errors
    /// As [`Sealer::push`].
    pub fn end_session(&mut self, session: &str, why: &str) -> Result<(), SealError> {
        let session = &*session_name(session);
        let mut event = Event::own(Kind::SessionEnded);
        event.session = Some(session.to_owned());
        event.detail.insert("why".into(), why.into());
        event
            .detail
            .insert("count".into(), (self.sessions.count(session) + 1).into());
        self.push_own(event)?;
        self.sessions.end(session);
        Ok(())
    }

    /// Seals an event about the log itself. It must hold nothing that a foreign source wrote.
    ///
    /// # Errors
    /// As [`Sealer::push`].
    pub fn push_own(&mut self, event: Event) -> Result<u64, SealError> {
        let time = self.host.clock.now();
        let session = event.session.clone();
        self.wait(Content::Own(event), session.as_deref(), None, None, time)
    }

    /// Seals that this key signs from now on: the head over this leaf is the last that the old key signs.
    /// Ask for that head with [`Sealer::seal_batch`]. The new key must be where the next opening finds it.
    ///
    /// # Errors
    /// [`SealError::Rotating`] when the last rotation is not under a signed head yet, [`SealError::Rotations`]
    /// after too many.
    pub fn rotate_to(&mut self, next: Arc<dyn Signer>) -> Result<u64, SealError> {
        if self.rotating.is_some() {
            return Err(SealError::Rotating);
        }
        if self.rotations >= ROTATIONS_MAX {
            return Err(SealError::Rotations);
        }
        let mut event = Event::own(Kind::KeyRotated);
        event.detail = Rotation::detail(self.signer.verifier_key(), next.as_ref())?;
        let seq = self.push_own(event)?;
        self.rotating = Some((next, seq));
        self.rotations += 1;
        Ok(seq)
    }

    /// The key that signs the next head.
    pub fn key(&self) -> &VerifierKey {
        self.signer.verifier_key()
    }

    /// The key that signs from the head after it on, while a rotation is not under a signed head.
    pub fn rotating(&self) -> Option<&VerifierKey> {
        let (signer, _) = self.rotating.as_ref()?;
        Some(signer.verifier_key())
    }

    /// Whether a session was seen and has not ended.
    pub fn knows_session(&self, session: &str) -> bool {
        self.sessions.is_open(&session_name(session))
    }

    /// Counts a record that was filtered and will not be sealed.
    pub fn count_filtered(&mut self, reason: &str) {
        // The counts of a batch stand in one entry.
        let known = self.filtered_now.contains_key(reason) || self.filtered.contains_key(reason);
        let many = self.filtered_now.len() + self.filtered.len() >= REASONS_MAX;
        let named = known || (!many && reason.len() <= REASON_BYTES_MAX);
        let reason = if named { reason } else { "(others)" };
        *self.filtered_now.entry(reason.to_owned()).or_default() += 1;
    }

    /// Gives an event its place; it is written together with those around it.
    fn wait(
        &mut self,
        content: Content,
        session: Option<&str>,
        payload: Option<Range<usize>>,
        of: Option<u64>,
        time: Time,
    ) -> Result<u64, SealError> {
        let seq = self.frontier.size() + self.waiting.len() as u64;
        let session = session.map(|session| session_name(session).into_owned());
        let place = session
            .as_deref()
            .map(|session| self.sessions.next(session, seq));
        let mut salts = [0; 48];
        self.draw(&mut salts);
        let len = payload.as_ref().map_or(0, ExactSizeIterator::len);
        self.waiting_bytes += len + ENTRY_BYTES_USUAL;
        self.batch_bytes += len + ENTRY_BYTES_USUAL;
        self.in_batch += 1;
        self.waiting.push(Waiting {
            content,
            seq,
            session,
            place,
            payload,
            of,
            time,
            salts,
        });
        if self.waiting.len() >= WAITING_MAX || self.waiting_bytes >= WAITING_BYTES_MAX {
            self.write_waiting()?;
        }
        Ok(seq)
    }

    /// Writes what waits: commitments, entries, leaf hashes and tree, many at a time.
    fn write_waiting(&mut self) -> Result<(), SealError> {
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        if waiting.is_empty() {
            return Ok(());
        }
        let raw_salts: Vec<[u8; 32]> = waiting.iter().map(|leaf| self.raw_salt(leaf)).collect();
        let mut commitments = Vec::new();
        for (leaf, raw_salt) in waiting.iter().zip(&raw_salts) {
            if let Some(payload) = leaf.payload() {
                commitments.push(Message::context(leaf.payload_salt(), payload));
            }
            if let Some(original) = leaf.original() {
                commitments.push(Message::raw(raw_salt, original));
            }
        }
        let mut commitments = sha256_many(&commitments).into_iter();
        let mut next = || commitments.next().expect("one digest for each message");
        let mut entries = std::mem::take(&mut self.entries);
        entries.clear();
        let mut ends = Vec::with_capacity(waiting.len());
        for leaf in &waiting {
            let facts = leaf.facts();
            let context = leaf.payload().map(|payload| Context {
                sha256: next(),
                len: payload.len() as u64,
                redactions: facts.map_or(0, Redacted::redactions),
            });
            let raw = leaf.original().map(|original| Raw {
                sha256: next(),
                len: original.len() as u64,
            });
            entry::write(
                leaf.event(),
                Evidence {
                    salt: &URL_SAFE_NO_PAD.encode(&leaf.salts[..16]),
                    seq: leaf.seq,
                    boot: &self.settings.boot,
                    time: &leaf.time.rfc3339(),
                    mono_us: leaf.time.mono_us,
                    session: leaf.session.as_deref(),
                    place: leaf.place,
                    of: leaf.of,
                    custody: facts.is_some_and(Redacted::is_custody),
                    withheld: facts.is_some_and(Redacted::is_withheld),
                    raw,
                    context,
                },
                &mut entries,
            );
            ends.push(entries.len());
        }
        self.batch_bytes += entries.len();
        self.batch_bytes -= (waiting.len() * ENTRY_BYTES_USUAL).min(self.batch_bytes);
        let mut start = 0;
        let slices: Vec<&[u8]> = ends
            .iter()
            .map(|end| {
                let entry = &entries[start..*end];
                start = *end;
                entry
            })
            .collect();
        let leaves: Vec<Message<'_>> = slices.iter().map(|entry| Message::leaf(entry)).collect();
        let leaves = sha256_many(&leaves);
        for (leaf, entry) in waiting.iter().zip(&slices) {
            self.group.push(kind::ENTRY, &[entry])?;
            if let Some(payload) = leaf.payload() {
                self.group
                    .push(kind::PAYLOAD, &[leaf.payload_salt(), payload])?;
            }
        }
        self.frontier.extend(&leaves);
        for leaf in &leaves {
            self.chain.push(leaf);
        }
        self.since_sealed.extend(leaves);
        entries.shrink_to(WAITING_BYTES_MAX);
        self.entries = entries;
        Ok(())
    }

    fn raw_salt(&self, leaf: &Waiting) -> [u8; 32] {
        let salt = |_| raw_salt(&self.reveal, &self.settings.origin, leaf.seq);
        leaf.original().map(salt).unwrap_or_default()
    }

    fn draw(&mut self, out: &mut [u8]) {
        if self.pool.len() < out.len() {
            self.pool.resize(4096, 0);
            self.host.rng.fill(&mut self.pool);
        }
        let at = self.pool.len() - out.len();
        out.copy_from_slice(&self.pool[at..]);
        self.pool.truncate(at);
    }

    /// How many bytes wait for [`Sealer::commit`].
    pub fn pending_bytes(&self) -> usize {
        self.group.len() + self.waiting_bytes
    }

    /// How many leaves the current batch has.
    pub fn batch_len(&self) -> u64 {
        self.in_batch
    }

    /// How many bytes of entries and payloads the current batch has, since the start.
    pub fn batch_bytes(&self) -> usize {
        self.batch_bytes
    }

    /// The sessions that have not ended.
    pub fn open_sessions(&self) -> Vec<String> {
        self.sessions.names()
    }

    /// How many records were filtered since the last batch.
    pub fn batch_filtered(&self) -> u64 {
        self.filtered
            .values()
            .chain(self.filtered_now.values())
            .sum()
    }

    /// Makes everything pushed durable, with the owner's state blob, in one step.
    ///
    /// # Errors
    /// [`LedgerError::Full`]: nothing was committed, try again. Otherwise open the sealer anew.
    pub fn commit(
        &mut self,
        blob: &[u8],
        snapshot: &mut dyn FnMut() -> Vec<u8>,
    ) -> Result<(), SealError> {
        self.write_waiting()?;
        if self.group.is_empty() && blob.is_empty() && self.filtered_now.is_empty() {
            return Ok(());
        }
        let state = if blob.is_empty() && self.filtered_now.is_empty() {
            Vec::new()
        } else {
            frame(&self.filtered_now, blob)
        };
        let filtered = self.all_filtered();
        self.append(&state, &filtered, snapshot)?;
        self.filtered = filtered;
        self.filtered_now.clear();
        Ok(())
    }

    fn all_filtered(&self) -> BTreeMap<String, u64> {
        let mut filtered = self.filtered.clone();
        for (reason, count) in &self.filtered_now {
            *filtered.entry(reason.clone()).or_default() += count;
        }
        filtered
    }

    fn append(
        &mut self,
        state: &[u8],
        filtered: &BTreeMap<String, u64>,
        snapshot: &mut dyn FnMut() -> Vec<u8>,
    ) -> Result<(), LedgerError> {
        let (settings, frontier, sessions) = (&self.settings, &self.frontier, &self.sessions);
        let (chain, in_batch, signed) = (self.chain.0, self.in_batch, self.signed);
        let unsigned: VecDeque<_> = self.given.iter().chain(&self.unsigned).cloned().collect();
        let (key, rotations) = (self.key().to_string(), self.rotations);
        let rotating = self.rotating.as_ref();
        let rotating = rotating.map(|(signer, leaf)| (signer.verifier_key().to_string(), *leaf));
        let (erasing, erased) = (&self.erasing, self.erased);
        let mut whole = || {
            let state = State {
                origin: settings.origin.clone(),
                size: frontier.size(),
                roots: frontier.roots().to_vec(),
                chain,
                sessions: sessions.clone(),
                in_batch,
                filtered: filtered.clone(),
                unsigned: unsigned.clone(),
                signed,
                key: Some(key.clone()),
                rotating: rotating.clone(),
                rotations,
                erasing: erasing.clone(),
                erased,
            };
            frame(&state, &snapshot())
        };
        self.ledger.append(&mut self.group, state, &mut whole)?;
        self.durable = self.frontier.size();
        Ok(())
    }

    /// Ends the batch: `batch.sealed` and the unsigned head become durable, then the head is signed
    /// and the note becomes durable, too. Everything pushed before is committed with it.
    ///
    /// # Errors
    /// [`SealError::Signer`]: the head is durable and unsigned; [`Sealer::sign_pending`] tries again.
    pub fn seal_batch(
        &mut self,
        counters: serde_json::Map<String, serde_json::Value>,
        blob: &[u8],
        snapshot: &mut dyn FnMut() -> Vec<u8>,
    ) -> Result<Note, SealError> {
        self.end_batch(counters, blob, snapshot)?;
        let size = self.frontier.size();
        self.sign_pending(snapshot)?.ok_or(SealError::Head { size })
    }

    /// Ends the batch: `batch.sealed` and the unsigned head become durable, with everything pushed before.
    ///
    /// # Errors
    /// As [`Sealer::commit`].
    pub fn end_batch(
        &mut self,
        counters: serde_json::Map<String, serde_json::Value>,
        blob: &[u8],
        snapshot: &mut dyn FnMut() -> Vec<u8>,
    ) -> Result<(), SealError> {
        self.write_waiting()?;
        let filtered = self.all_filtered();
        let mut event = Event::own(Kind::BatchSealed);
        event.detail = counters;
        event.detail.insert("count".into(), self.in_batch.into());
        event
            .detail
            .insert("chain".into(), self.chain.0.to_string().into());
        event
            .detail
            .insert("policy".into(), self.settings.policy.clone().into());
        event.detail.insert("filtered".into(), json!(filtered));
        self.push_own(event)?;
        self.write_waiting()?;
        let (size, root) = (self.frontier.size(), self.frontier.root());
        // Prove that this head extends the one sealed last, from what was kept since then.
        let mut proven = self.sealed.clone();
        proven.extend(&self.since_sealed);
        if proven.size() != size || proven.root() != root {
            return Err(SealError::Head { size });
        }
        let mut body = size.to_le_bytes().to_vec();
        body.extend_from_slice(&root.0);
        self.group.push(kind::TO_SIGN, &[&body])?;
        // The counters belong to the batch that was just sealed; a crash between here and the
        // commit brings back neither.
        let before = (
            std::mem::take(&mut self.filtered),
            std::mem::take(&mut self.filtered_now),
            self.in_batch,
        );
        self.in_batch = 0;
        let bytes = self.batch_bytes as u64;
        enqueue(&mut self.unsigned, Unsigned { size, root, bytes });
        match self.commit(blob, snapshot) {
            Ok(()) => {}
            // Nothing was committed and everything is kept: the batch has ended, and becomes durable
            // and signed when there is room ([`Sealer::commit`], [`Sealer::sign_pending`]).
            Err(error @ SealError::Ledger(LedgerError::Full { .. })) => {
                self.end_sealed(proven);
                return Err(error);
            }
            Err(error) => {
                (self.filtered, self.filtered_now, self.in_batch) = before;
                self.unsigned.pop_back();
                return Err(error);
            }
        }
        self.end_sealed(proven);
        Ok(())
    }

    fn end_sealed(&mut self, proven: Frontier) {
        self.batch_bytes = 0;
        self.sealed = proven;
        self.since_sealed.clear();
    }

    /// The head to sign next, with its key; `None` when there is none. It is given out until it comes back
    /// ([`Sealer::keep_signed`]) or another is asked for: then the newest that there is by then.
    pub fn next_unsigned(&mut self) -> Option<(Checkpoint, Arc<dyn Signer>)> {
        if let Some(given) = self.given.take() {
            self.unsigned.push_front(given);
        }
        let mut bytes = 0;
        let mut last = None;
        for (place, head) in self.unsigned.iter().enumerate() {
            bytes += head.bytes;
            // What is not durable is not signed, and no two roots for one size.
            if head.size > self.durable || (bytes > SIGN_BYTES_MAX && last.is_some()) {
                break;
            }
            last = Some(place);
        }
        // It stands for those below it: put back, it must not look smaller than it is.
        let mut head = self.unsigned.get(last?)?.clone();
        head.bytes = self.unsigned.drain(..=last?).map(|head| head.bytes).sum();
        let checkpoint = Checkpoint {
            origin: self.settings.origin.clone(),
            size: head.size,
            root: head.root,
        };
        self.given = Some(head);
        Some((checkpoint, self.signer.clone()))
    }

    /// Leaves under a signed head, or under one that was signed before the last opening.
    pub fn signed(&self) -> u64 {
        self.signed
    }

    /// The head that was signed last since the opening: size and root.
    pub fn signed_head(&self) -> Option<(u64, Digest)> {
        self.signed_head
    }

    /// Whether heads wait for their signature.
    pub fn has_unsigned(&self) -> bool {
        self.given.is_some() || !self.unsigned.is_empty()
    }

    /// Keeps the signature of the head that was given out; durable with the next commit. `false` when
    /// another head was given out since.
    ///
    /// # Errors
    /// [`SealError::Head`] when the key that signs did not sign it.
    pub fn keep_signed(&mut self, note: &Note) -> Result<bool, SealError> {
        let Some(given) = &self.given else {
            return Ok(false);
        };
        let size = given.size;
        let signed = note.is_signed_by(self.key()) == Ok(true);
        let head = Checkpoint::parse(&note.text).ok().filter(|_| signed);
        let head = head.ok_or(SealError::Head { size })?;
        if (head.size, head.root) != (size, given.root) {
            return Ok(false);
        }
        self.write_waiting()?;
        self.group
            .push(kind::CHECKPOINT, &[note.encode().as_bytes()])?;
        (self.given, self.signed) = (None, size);
        self.signed_head = Some((size, head.root));
        // A snapshot behind this head must name the key that signs the next one.
        if let Some((next, _)) = self.rotating.take_if(|(_, leaf)| *leaf < size) {
            self.signer = next;
        }
        Ok(true)
    }

    /// Signs every head that is durable and not signed yet, here and now, and makes the notes durable.
    /// Returns the last one; `None` while something waits for [`Sealer::commit`], whose blob is the owner's.
    ///
    /// # Errors
    /// As [`Sealer::seal_batch`].
    pub fn sign_pending(
        &mut self,
        snapshot: &mut dyn FnMut() -> Vec<u8>,
    ) -> Result<Option<Note>, SealError> {
        let mut last = None;
        if self.pending_bytes() > 0 {
            return Ok(None);
        }
        while let Some((checkpoint, signer)) = self.next_unsigned() {
            let note = checkpoint.sign(signer.as_ref())?;
            self.keep_signed(&note)?;
            last = Some(note);
        }
        if last.is_some() {
            self.commit(b"", snapshot)?;
        }
        Ok(last)
    }

    /// Keeps a checkpoint that came back with cosignatures.
    ///
    /// # Errors
    /// As [`Sealer::commit`].
    pub fn keep_cosigned(&mut self, note: &str) -> Result<(), SealError> {
        self.write_waiting()?;
        self.group.push(kind::COSIGNED, &[note.as_bytes()])?;
        Ok(())
    }

    /// The head over everything that was written: all that was pushed before the last commit or seal,
    /// and perhaps more.
    pub fn head(&self) -> Head {
        Head {
            size: self.frontier.size(),
            root: self.frontier.root(),
            chain: self.chain.0,
        }
    }

    /// The head that was signed at this size. It is looked for from the segment that holds `near` on, and
    /// in the whole ledger when it is not there.
    ///
    /// # Errors
    /// [`SealError::Ledger`].
    pub fn head_at(&self, size: u64, near: u64) -> Result<PastHead, SealError> {
        let base = self.ledger.base_of(near)?;
        match self.head_from(size, base)? {
            PastHead::Removed | PastHead::Never if base > 0 => self.head_from(size, 0),
            found => Ok(found),
        }
    }

    fn head_from(&self, size: u64, from: u64) -> Result<PastHead, SealError> {
        let mut removed = self.ledger.start()? > 0;
        let mut reader = self.ledger.read(from)?;
        while let Some(item) = reader.next_record()? {
            if item.kind != kind::CHECKPOINT {
                continue;
            }
            let note = Note::parse(item.body).ok();
            let Some(head) = note.and_then(|note| Checkpoint::parse(&note.text).ok()) else {
                continue;
            };
            match head.size.cmp(&size) {
                std::cmp::Ordering::Less => removed = false,
                std::cmp::Ordering::Equal => return Ok(PastHead::Root(head.root)),
                std::cmp::Ordering::Greater => break,
            }
        }
        Ok(if removed {
            PastHead::Removed
        } else {
            PastHead::Never
        })
    }

    /// The ledger, for reading.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Removes old segments; see [`Ledger::remove_before`].
    ///
    /// # Errors
    /// [`SealError::Ledger`].
    pub fn remove_before(&mut self, position: u64) -> Result<u64, SealError> {
        Ok(self.ledger.remove_before(position)?)
    }

    /// Writes what a closed segment would be without its payloads, or without its entries; `None` when
    /// there is nothing to remove.
    ///
    /// # Errors
    /// [`LedgerError::Full`] when there is no room for the shorter segment beside the longer one.
    pub fn prune(&self, closed: Closed, what: Prune) -> Result<Option<Pruned>, SealError> {
        let reader = Reader::new(
            self.host.disk.clone(),
            self.ledger.dir(),
            closed.base,
            closed.end,
        )?;
        let mut rest = prune::prune(reader, what)?;
        if rest.payloads == 0 && rest.entries == 0 {
            return Ok(None);
        }
        let bytes = closed.len.saturating_sub(rest.group.len() as u64);
        Ok(Some(Pruned {
            prepared: self.ledger.prepare(&closed, &mut rest.group)?,
            from: rest.from,
            to: rest.to,
            payloads: rest.payloads,
            entries: rest.entries,
            bytes,
        }))
    }

    /// Makes it so. A leaf that says so must be durable before.
    ///
    /// # Errors
    /// As [`Ledger::replace`].
    pub fn apply(&mut self, pruned: Pruned) -> Result<(), SealError> {
        Ok(self.ledger.replace(pruned.prepared)?)
    }

    /// Finds what can be erased of what was committed.
    ///
    /// # Errors
    /// [`EraseError`] when there is no such leaf or session.
    pub fn erasable(&self, request: &EraseRequest) -> Result<Erasable, EraseError> {
        erase::find(self.ledger.read(0)?, request, self.frontier.size())
    }

    /// Seals who erases what, and why: words that hold nothing a foreign source wrote. When it is durable,
    /// [`Sealer::erase_sealed`] does it. Returns the leaves.
    ///
    /// # Errors
    /// As [`Sealer::push`].
    pub fn push_erasure(
        &mut self,
        erasable: &Erasable,
        who: &str,
        reason: &str,
    ) -> Result<Vec<u64>, SealError> {
        let mut leaves = Vec::new();
        for (event, ranges, count) in erasable.leaves(who, reason) {
            leaves.push(self.push_own(event)?);
            self.erasing = self.erasing.union(&ranges);
            self.erased += count;
        }
        Ok(leaves)
    }

    /// The leaves whose payloads are to be erased: a leaf says so, and [`Sealer::note_erased`] was not told
    /// yet that it is done.
    pub fn erasing(&self) -> &Ranges {
        &self.erasing
    }

    /// How many payloads of this log were erased on request.
    pub fn erased(&self) -> u64 {
        self.erased
    }

    /// Erases the payloads of [`Sealer::erasing`] in the ledger. The leaf that says so must be durable before.
    ///
    /// # Errors
    /// [`SealError::Ledger`]; done again it goes on where it stopped.
    pub fn erase_sealed(&mut self) -> Result<(), SealError> {
        let places = erase::places(self.ledger.read(0)?, &self.erasing)?;
        Ok(self.ledger.erase(&places)?)
    }

    /// Notes with the next commit that what was to be erased is erased everywhere.
    ///
    /// # Errors
    /// As [`Sealer::commit`].
    pub fn note_erased(&mut self) -> Result<(), SealError> {
        self.write_waiting()?;
        self.group.push(kind::ERASED, &[])?;
        self.erasing = Ranges::default();
        Ok(())
    }

    /// The digest of the configuration in force from now on.
    pub fn set_policy(&mut self, policy: String) {
        self.settings.policy = policy;
    }
}

/// The head that was signed last in the ledger in this folder: size and root. Of a ledger without one, the
/// empty tree's. Reads checkpoints only, and up to where damage begins, so that it works in a damaged ledger.
///
/// # Errors
/// [`LedgerError`].
pub fn last_signed(host: &Host, dir: &Path) -> Result<(u64, Digest), LedgerError> {
    let mut last = (0, Frontier::default().root());
    let mut reader = Reader::salvage(host.disk.clone(), dir, 0)?;
    while let Some(item) = reader.next_record()? {
        if item.kind != kind::CHECKPOINT {
            continue;
        }
        let note = Note::parse(item.body).ok();
        if let Some(head) = note.and_then(|note| Checkpoint::parse(&note.text).ok()) {
            last = (head.size, head.root);
        }
    }
    Ok(last)
}

/// Adds a head to those that wait; those before it that would not be signed any more go. What waits is then
/// no more than one for each two [`SIGN_BYTES_MAX`].
fn enqueue(unsigned: &mut VecDeque<Unsigned>, mut head: Unsigned) {
    while let Some(last) = unsigned.back()
        && last.bytes + head.bytes <= SIGN_BYTES_MAX
    {
        head.bytes += last.bytes;
        unsigned.pop_back();
    }
    unsigned.push_back(head);
}

struct Recovery {
    state: Option<State>,
    frontier: Frontier,
    error: Option<SealError>,
    unsigned: VecDeque<Unsigned>,
    /// Bytes of evidence since the last head.
    bytes: u64,
    /// Leaves under the last signed head.
    signed: u64,
    /// The key that signs the next head, and the one from the head over this leaf on, itself left out.
    key: VerifierKey,
    rotating: Option<(VerifierKey, u64)>,
}

impl Recovery {
    fn take(&mut self, replayed: Replayed<'_>, apply: &mut dyn FnMut(bool, &[u8])) {
        if self.error.is_some() {
            return;
        }
        if let Err(error) = self.try_take(replayed, apply) {
            self.error = Some(error);
        }
    }

    fn try_take(
        &mut self,
        replayed: Replayed<'_>,
        apply: &mut dyn FnMut(bool, &[u8]),
    ) -> Result<(), SealError> {
        let wrong = |size| SealError::Head { size };
        match replayed {
            Replayed::Snapshot(bytes) => {
                let (state, blob) = unframe::<State>(bytes).ok_or_else(|| wrong(0))?;
                self.frontier = Frontier::from_parts(state.size, state.roots.clone())
                    .ok_or_else(|| wrong(state.size))?;
                self.unsigned.clone_from(&state.unsigned);
                self.signed = state.signed;
                let key = |text: &String| VerifierKey::parse(text).map_err(|_| wrong(state.size));
                if let Some(text) = &state.key {
                    self.key = key(text)?;
                }
                self.rotating = match &state.rotating {
                    Some((text, leaf)) => Some((key(text)?, *leaf)),
                    None => None,
                };
                self.state = Some(state);
                if !blob.is_empty() {
                    apply(true, blob);
                }
            }
            Replayed::State(bytes) => {
                let state = self.state.as_mut().ok_or_else(|| wrong(0))?;
                let (filtered, blob) =
                    unframe::<BTreeMap<String, u64>>(bytes).ok_or_else(|| wrong(0))?;
                for (reason, count) in filtered {
                    *state.filtered.entry(reason).or_default() += count;
                }
                if !blob.is_empty() {
                    apply(false, blob);
                }
            }
            Replayed::Record {
                kind: kind::ENTRY,
                body,
                ..
            } => {
                let state = self.state.as_mut().ok_or_else(|| wrong(0))?;
                let seq = self.frontier.size();
                let view =
                    EntryView::parse(body).map_err(|source| SealError::Entry { seq, source })?;
                if view.seq != seq {
                    return Err(wrong(seq));
                }
                let leaf = leaf_hash(body);
                self.frontier.push(leaf);
                self.bytes += body.len() as u64;
                let mut chain = Chain(state.chain);
                state.chain = chain.push(&leaf);
                state.in_batch += 1;
                if let Some(session) = &view.session {
                    state.sessions.next(session, seq);
                    if view.is(Kind::SessionEnded) {
                        state.sessions.end(session);
                    }
                }
                if view.is(Kind::BatchSealed) {
                    state.in_batch = 0;
                    state.filtered.clear();
                }
                if view.is(Kind::KeyRotated) {
                    let what = |what: String| SealError::Rotation { seq, what };
                    if self.rotating.is_some() {
                        return Err(what("another rotation is not under a head yet".into()));
                    }
                    let detail = view.detail_map().into_iter().collect();
                    let rotation = Rotation::parse(&state.origin, &self.key, &detail)
                        .map_err(|error| what(error.to_string()))?;
                    self.rotating = Some((rotation.key, seq));
                    state.rotations += 1;
                }
                if view.is(Kind::PayloadErased) {
                    let detail = view.detail_map();
                    let ranges = detail
                        .get("ranges")
                        .and_then(|ranges| Ranges::deserialize(ranges).ok());
                    let count = detail.get("count").and_then(serde_json::Value::as_u64);
                    state.erasing = state.erasing.union(&ranges.ok_or_else(|| wrong(seq))?);
                    state.erased += count.unwrap_or(0);
                }
            }
            Replayed::Record {
                kind: kind::ERASED, ..
            } => {
                let state = self.state.as_mut().ok_or_else(|| wrong(0))?;
                state.erasing = Ranges::default();
            }
            Replayed::Record {
                kind: kind::TO_SIGN,
                body,
                ..
            } => {
                let (size, root) = body.split_first_chunk::<8>().ok_or_else(|| wrong(0))?;
                let size = u64::from_le_bytes(*size);
                let root = Digest::from_slice(root).ok_or_else(|| wrong(size))?;
                if size != self.frontier.size() || root != self.frontier.root() {
                    return Err(wrong(size));
                }
                let bytes = std::mem::take(&mut self.bytes);
                // Not thinned: any of them may have been the one that was signed.
                self.unsigned.push_back(Unsigned { size, root, bytes });
            }
            Replayed::Record {
                kind: kind::CHECKPOINT,
                body,
                ..
            } => {
                let here = wrong(self.frontier.size());
                let note = Note::parse(body).map_err(|_| wrong(self.frontier.size()))?;
                let head = Checkpoint::parse(&note.text).map_err(|_| here)?;
                let size = head.size;
                let ours = note.is_signed_by(&self.key).unwrap_or(false);
                // It may stand behind later leaves: its key was slower than they came.
                let is_it =
                    |unsigned: &Unsigned| (unsigned.size, unsigned.root) == (size, head.root);
                let place = self.unsigned.iter().position(is_it);
                let place = place.filter(|_| ours).ok_or_else(|| wrong(size))?;
                self.unsigned.drain(..=place);
                self.signed = size;
                if let Some((key, _)) = self.rotating.take_if(|(_, leaf)| *leaf < size) {
                    self.key = key;
                }
            }
            Replayed::Record {
                kind: kind::PAYLOAD,
                body,
                ..
            } => self.bytes += body.len() as u64,
            Replayed::Record { .. } => {}
        }
        Ok(())
    }
}

/// The salt of the commitment to a leaf's original bytes: derived, never stored. That of one leaf tells nothing
/// about those of others.
pub(crate) fn raw_salt(key: &hmac::Key, origin: &str, seq: u64) -> [u8; 32] {
    let mut name = hmac::Context::with_key(key);
    name.update(b"jurat/raw-salt/v1\0");
    name.update(origin.as_bytes());
    name.update(&seq.to_le_bytes());
    let mut salt = [0; 32];
    salt.copy_from_slice(name.sign().as_ref());
    salt
}

/// A serialised part of ours, then the owner's bytes.
fn frame(ours: &impl Serialize, blob: &[u8]) -> Vec<u8> {
    // Writing to memory does not fail, and every type here can be written.
    let json = serde_json::to_vec(ours).unwrap_or_default();
    let mut out = (json.len() as u32).to_le_bytes().to_vec();
    out.extend_from_slice(&json);
    out.extend_from_slice(blob);
    out
}

fn unframe<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<(T, &'a [u8])> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (json, blob) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    Some((serde_json::from_slice(json).ok()?, blob))
}
