//! The sealer: events in, signed tree heads out.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jurat_disk::{Host, Time};
use jurat_event::{Event, Kind};
use jurat_ledger::{Closed, Group, Ledger, LedgerError, Options, Reader, Replayed};
use jurat_proof::{
    Chain, Checkpoint, Context, Digest, EntryError, EntryView, Frontier, Note, Signer, SignerError,
    context_hasher, leaf_hash, raw_commitment,
};
use jurat_redact::Redacted;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::entry::{self, Evidence, Raw};
use crate::prune::{self, Prune, Pruned};
use crate::sessions::Sessions;

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
}

/// The largest payload of one leaf; a longer one goes on in `transcript.part` leaves.
pub const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;

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
    to_sign: Option<(u64, Digest)>,
}

/// Events in, tree heads out.
pub struct Sealer {
    ledger: Ledger,
    signer: Arc<dyn Signer>,
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
    /// The head signed last, as a frontier, and the leaves since then.
    signed: Frontier,
    since_signed: Vec<Digest>,
    to_sign: Option<(u64, Digest)>,
    /// Random bytes drawn in advance: one draw an entry would cost more than hashing it.
    pool: Vec<u8>,
    buffer: Vec<u8>,
}

impl Sealer {
    /// Opens the log in this folder, or begins it with leaf 0.
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
        signer: Arc<dyn Signer>,
        apply: &mut dyn FnMut(bool, &[u8]),
    ) -> Result<Self, SealError> {
        let new = State {
            origin: settings.origin.clone(),
            size: 0,
            roots: Vec::new(),
            chain: Chain::new(&settings.origin).0,
            sessions: Sessions::default(),
            in_batch: 0,
            filtered: BTreeMap::new(),
            to_sign: None,
        };
        let first = frame(&new, b"");
        let mut replay = Recovery {
            state: None,
            error: None,
            to_sign: None,
            frontier: Frontier::default(),
        };
        let ledger = Ledger::open(
            host.disk.clone(),
            host.rng.clone(),
            dir,
            settings.ledger,
            &first,
            &mut |replayed| replay.take(replayed, signer.as_ref(), apply),
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
        let mut sealer = Self {
            reveal: hmac::Key::new(hmac::HMAC_SHA256, &settings.reveal_key),
            ledger,
            signer,
            host,
            settings,
            group: Group::new(),
            chain: Chain(state.chain),
            sessions: state.sessions,
            in_batch: state.in_batch,
            batch_bytes: 0,
            filtered: state.filtered,
            filtered_now: BTreeMap::new(),
            // Consistency is proven from here on; what is older was proven when it was signed, and
            // recovery has just recomputed every head after the snapshot.
            signed: frontier.clone(),
            since_signed: Vec::new(),
            frontier,
            to_sign: replay.to_sign,
            pool: Vec::new(),
            buffer: Vec::new(),
        };
        if sealer.frontier.size() == 0 {
            let mut event = Event::own(Kind::LogOpened);
            event.detail = sealer.settings.opening.clone();
            event
                .detail
                .insert("origin".into(), sealer.settings.origin.clone().into());
            event.detail.insert(
                "key".into(),
                sealer.signer.verifier_key().to_string().into(),
            );
            sealer.push_own(&event)?;
        }
        Ok(sealer)
    }

    /// Seals an event in memory; durable after [`Sealer::commit`]. `of` is the leaf it is a block of.
    ///
    /// Returns its place in the log.
    ///
    /// # Errors
    /// [`SealError::Ledger`] when a record is too long: a bug.
    pub fn push(&mut self, redacted: &Redacted, of: Option<u64>) -> Result<u64, SealError> {
        let time = self.host.clock.now();
        let payload = redacted.payload();
        let first = payload.map(|payload| payload.get(..PAYLOAD_BYTES_MAX).unwrap_or(payload));
        let parts = payload
            .map_or(0, |payload| payload.len().div_ceil(PAYLOAD_BYTES_MAX))
            .max(1);
        let seq = if parts > 1 {
            let mut event = redacted.event().clone();
            event.detail.insert("parts".into(), parts.into());
            self.write(&event, redacted, first, of, time)?
        } else {
            self.write(redacted.event(), redacted, first, of, time)?
        };
        let rest = payload
            .and_then(|payload| payload.get(PAYLOAD_BYTES_MAX..))
            .unwrap_or_default();
        for (index, piece) in rest.chunks(PAYLOAD_BYTES_MAX).enumerate() {
            let mut event = Event::new(Kind::TranscriptPart);
            event.session.clone_from(&redacted.event().session);
            event.detail.insert("part".into(), (index + 2).into());
            event.detail.insert("parts".into(), parts.into());
            self.write_plain(&event, Some(piece), Some(seq), time)?;
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
        let session = &*entry::session_name(session);
        let mut event = Event::own(Kind::SessionEnded);
        event.session = Some(session.to_owned());
        event.detail.insert("why".into(), why.into());
        event
            .detail
            .insert("count".into(), (self.sessions.count(session) + 1).into());
        self.push_own(&event)?;
        self.sessions.end(session);
        Ok(())
    }

    /// Seals an event about the log itself. It must hold nothing that a foreign source wrote.
    ///
    /// # Errors
    /// As [`Sealer::push`].
    pub fn push_own(&mut self, event: &Event) -> Result<u64, SealError> {
        let time = self.host.clock.now();
        self.write_plain(event, None, None, time)
    }

    /// Whether a session was seen and has not ended.
    pub fn knows_session(&self, session: &str) -> bool {
        self.sessions.is_open(&entry::session_name(session))
    }

    /// Counts a record that was filtered and will not be sealed.
    pub fn count_filtered(&mut self, reason: &str) {
        *self.filtered_now.entry(reason.to_owned()).or_default() += 1;
    }

    fn write_plain(
        &mut self,
        event: &Event,
        payload: Option<&[u8]>,
        of: Option<u64>,
        time: Time,
    ) -> Result<u64, SealError> {
        self.write_with(event, payload, of, time, |_, _| (None, 0, false, false))
    }

    fn write(
        &mut self,
        event: &Event,
        redacted: &Redacted,
        payload: Option<&[u8]>,
        of: Option<u64>,
        time: Time,
    ) -> Result<u64, SealError> {
        self.write_with(event, payload, of, time, |reveal, name| {
            let raw = redacted.original().map(|original| {
                let tag = hmac::sign(reveal, name);
                let mut salt = [0; 32];
                salt.copy_from_slice(tag.as_ref());
                Raw {
                    sha256: raw_commitment(&salt, original),
                    len: original.len() as u64,
                }
            });
            (
                raw,
                redacted.redactions(),
                redacted.is_custody(),
                redacted.is_withheld(),
            )
        })
    }

    fn write_with(
        &mut self,
        event: &Event,
        payload: Option<&[u8]>,
        of: Option<u64>,
        time: Time,
        facts: impl FnOnce(&hmac::Key, &[u8]) -> (Option<Raw>, u64, bool, bool),
    ) -> Result<u64, SealError> {
        let seq = self.frontier.size();
        let mut salts = [0; 48];
        self.draw(&mut salts);
        let (entry_salt, payload_salt) = salts.split_at(16);
        let payload_salt: [u8; 32] = payload_salt.try_into().expect("48 - 16 = 32");
        let mut name = b"jurat/raw-salt/v1\0".to_vec();
        name.extend_from_slice(self.settings.origin.as_bytes());
        name.extend_from_slice(&seq.to_le_bytes());
        let (raw, redactions, custody, withheld) = facts(&self.reveal, &name);
        let context = payload.map(|payload| {
            let mut hasher = context_hasher(&payload_salt);
            hasher.update(payload);
            Context {
                sha256: hasher.finish(),
                len: payload.len() as u64,
                redactions,
            }
        });
        let session = event.session.as_deref().map(entry::session_name);
        let session_seq = session
            .as_deref()
            .map(|session| self.sessions.next(session, seq));
        let mut buffer = std::mem::take(&mut self.buffer);
        entry::write(
            event,
            Evidence {
                salt: &URL_SAFE_NO_PAD.encode(entry_salt),
                seq,
                boot: &self.settings.boot,
                time: &time.rfc3339(),
                mono_us: time.mono_us,
                session: session.as_deref(),
                session_seq,
                of,
                custody,
                withheld,
                raw,
                context,
            },
            &mut buffer,
        );
        // Sealed is for good: an entry that a reader would refuse must never be written.
        if let Err(source) = EntryView::parse(&buffer) {
            return Err(SealError::Entry { seq, source });
        }
        let pushed = self.group.push(kind::ENTRY, &[&buffer]);
        let leaf = leaf_hash(&buffer);
        self.buffer = buffer;
        pushed?;
        if let Some(payload) = payload {
            self.group.push(kind::PAYLOAD, &[&payload_salt, payload])?;
        }
        self.batch_bytes += self.buffer.len() + payload.map_or(0, <[u8]>::len);
        self.frontier.push(leaf);
        self.chain.push(&leaf);
        self.since_signed.push(leaf);
        self.in_batch += 1;
        Ok(seq)
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
        self.group.len()
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
        let (chain, in_batch, to_sign) = (self.chain.0, self.in_batch, self.to_sign);
        let mut whole = || {
            let state = State {
                origin: settings.origin.clone(),
                size: frontier.size(),
                roots: frontier.roots().to_vec(),
                chain,
                sessions: sessions.clone(),
                in_batch,
                filtered: filtered.clone(),
                to_sign,
            };
            frame(&state, &snapshot())
        };
        self.ledger
            .append(&mut self.group, state, &mut whole)
            .map(drop)
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
        self.push_own(&event)?;
        let (size, root) = (self.frontier.size(), self.frontier.root());
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
        self.to_sign = Some((size, root));
        match self.commit(blob, snapshot) {
            Ok(()) => {}
            // Nothing was committed and everything is kept: the batch has ended, and becomes durable
            // and signed when there is room ([`Sealer::commit`], [`Sealer::sign_pending`]).
            Err(SealError::Ledger(error @ LedgerError::Full { .. })) => {
                self.batch_bytes = 0;
                return Err(error.into());
            }
            Err(error) => {
                (self.filtered, self.filtered_now, self.in_batch) = before;
                self.to_sign = None;
                return Err(error);
            }
        }
        self.batch_bytes = 0;
        self.sign_pending(snapshot)?.ok_or(SealError::Head { size })
    }

    /// Signs a head that is durable and not signed yet; `None` when there is none.
    ///
    /// A head that was overtaken (entries were pushed since) is left unsigned: the next batch's head
    /// covers it, and a checkpoint always stands in the ledger right after its last entry.
    ///
    /// # Errors
    /// As [`Sealer::seal_batch`].
    pub fn sign_pending(
        &mut self,
        snapshot: &mut dyn FnMut() -> Vec<u8>,
    ) -> Result<Option<Note>, SealError> {
        let Some((size, root)) = self.to_sign else {
            return Ok(None);
        };
        if self.frontier.size() != size || !self.group.is_empty() {
            self.to_sign = None;
            return Ok(None);
        }
        // Prove that this head extends the one signed last, from what was kept since then.
        let mut proven = self.signed.clone();
        for leaf in &self.since_signed {
            if proven.size() < size {
                proven.push(*leaf);
            }
        }
        if proven.size() != size || proven.root() != root {
            return Err(SealError::Head { size });
        }
        let checkpoint = Checkpoint {
            origin: self.settings.origin.clone(),
            size,
            root,
        };
        let note = checkpoint.sign(self.signer.as_ref())?;
        self.group
            .push(kind::CHECKPOINT, &[note.encode().as_bytes()])?;
        self.to_sign = None;
        let filtered = self.filtered.clone();
        if let Err(error) = self.append(b"", &filtered, snapshot) {
            // The same head can be signed again when there is room.
            if matches!(error, LedgerError::Full { .. }) {
                self.group.clear();
            }
            self.to_sign = Some((size, root));
            return Err(error.into());
        }
        let taken = (size - self.signed.size()) as usize;
        self.signed = proven;
        self.since_signed
            .drain(..taken.min(self.since_signed.len()));
        Ok(Some(note))
    }

    /// Keeps a checkpoint that came back with cosignatures.
    ///
    /// # Errors
    /// As [`Sealer::commit`].
    pub fn keep_cosigned(&mut self, note: &str) -> Result<(), SealError> {
        self.group.push(kind::COSIGNED, &[note.as_bytes()])?;
        Ok(())
    }

    /// The head over everything pushed.
    pub fn head(&self) -> Head {
        Head {
            size: self.frontier.size(),
            root: self.frontier.root(),
            chain: self.chain.0,
        }
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

    /// What a closed segment would be without its payloads, or without its entries.
    ///
    /// # Errors
    /// [`SealError`] when it cannot be read.
    pub fn prune(&self, closed: Closed, what: Prune) -> Result<Pruned, SealError> {
        let reader = Reader::new(
            self.host.disk.clone(),
            self.ledger.dir(),
            closed.base,
            closed.end,
        )?;
        prune::prune(reader, closed, what)
    }

    /// Makes it so. A leaf that says so must be durable before.
    ///
    /// # Errors
    /// As [`Ledger::rewrite`].
    pub fn apply(&mut self, mut pruned: Pruned) -> Result<(), SealError> {
        Ok(self.ledger.rewrite(&pruned.closed, &mut pruned.group)?)
    }

    /// The digest of the configuration in force from now on.
    pub fn set_policy(&mut self, policy: String) {
        self.settings.policy = policy;
    }
}

struct Recovery {
    state: Option<State>,
    frontier: Frontier,
    error: Option<SealError>,
    to_sign: Option<(u64, Digest)>,
}

impl Recovery {
    fn take(
        &mut self,
        replayed: Replayed<'_>,
        signer: &dyn Signer,
        apply: &mut dyn FnMut(bool, &[u8]),
    ) {
        if self.error.is_some() {
            return;
        }
        if let Err(error) = self.try_take(replayed, signer, apply) {
            self.error = Some(error);
        }
    }

    fn try_take(
        &mut self,
        replayed: Replayed<'_>,
        signer: &dyn Signer,
        apply: &mut dyn FnMut(bool, &[u8]),
    ) -> Result<(), SealError> {
        let wrong = |size| SealError::Head { size };
        match replayed {
            Replayed::Snapshot(bytes) => {
                let (state, blob) = unframe::<State>(bytes).ok_or_else(|| wrong(0))?;
                self.frontier = Frontier::from_parts(state.size, state.roots.clone())
                    .ok_or_else(|| wrong(state.size))?;
                self.to_sign = state.to_sign;
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
                self.to_sign = Some((size, root));
            }
            Replayed::Record {
                kind: kind::CHECKPOINT,
                body,
                ..
            } => {
                let size = self.frontier.size();
                let note = Note::parse(body).map_err(|_| wrong(size))?;
                let checkpoint = Checkpoint::parse(&note.text).map_err(|_| wrong(size))?;
                let ours = note.is_signed_by(signer.verifier_key()).unwrap_or(false);
                if !ours || checkpoint.size != size || checkpoint.root != self.frontier.root() {
                    return Err(wrong(size));
                }
                self.to_sign = None;
            }
            Replayed::Record { .. } => {}
        }
        Ok(())
    }
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
