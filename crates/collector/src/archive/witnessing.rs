//! The witness inside the collector: its frontier may be ahead of what is archived, because anyone may
//! show it a signed head (`add-checkpoint`), and it stands in the same line as the archive's.

use std::collections::BTreeMap;
use std::sync::Arc;

use jurat_proof::{
    Chain, Digest, ForkProof, Frontier, Note, Record, Signer as _, VerifierKey, hash_records,
};
use jurat_witness::{Answer, Decision, Logs, Request, Seen, judge};

use super::{Archive, ArchiveError, Keys, Line, head_of, refused_for_good};
use crate::Refused;
use crate::ingest::Judged;

/// What the witness cosigned or found out, with everything that its commit needs.
pub(crate) struct Witnessed {
    pub(super) origin: String,
    /// What it was judged against: it is stale when the log has moved since.
    pub(super) before: Option<Arc<Line>>,
    pub(super) line: Line,
    pub(super) answer: Answer,
}

/// What follows from a request to the witness.
pub(crate) enum Witnessing {
    /// The answer; nothing is to be stored.
    Answer(Answer),
    /// The writer must store this first.
    Store(Box<Witnessed>),
}

impl Line {
    /// What the witness cosigned last.
    fn seen(&self) -> Option<Seen> {
        let mut seen = match &self.ahead {
            Some(ahead) => ahead.clone(),
            None if self.size == 0 => return None,
            None => Seen {
                size: self.size,
                root: Frontier::from_parts(self.size, self.roots.clone())?.root(),
                time: self.time,
                note: self.note.clone(),
                fork: None,
            },
        };
        seen.fork.clone_from(&self.fork);
        Some(seen)
    }

    /// The size that the witness cosigned when it is above the archived one; else 0.
    pub(super) fn witnessed(&self) -> u64 {
        self.ahead.as_ref().map_or(0, |ahead| ahead.size)
    }

    /// The head that uploads must lead through, unless the log is known to be forked: then it is archived
    /// as it comes.
    pub(super) fn must_pass(&self) -> Option<&Seen> {
        self.ahead.as_ref().filter(|_| self.fork.is_none())
    }

    /// Takes the witness's frontier over from the line before, as far as this one has not reached it.
    pub(super) fn follow(&mut self, last: &Self) {
        let Some(ahead) = &last.ahead else { return };
        if ahead.size > self.size || self.fork.is_some() {
            self.ahead = Some(ahead.clone());
        } else {
            // The witness speaks again in this line: not before its own last word.
            self.time = self.time.max(ahead.time);
        }
    }

    /// Whether a head that was refused is still to be kept: of each sort the first one is.
    pub(super) fn is_news(&self, refused: &Refused) -> bool {
        let kept = refused.only_disputes() && (self.disputed.is_some() || self.size == 0);
        self.fork.is_none() && !kept
    }

    /// The cosigned note that a refused head contradicts.
    pub(super) fn contradicted(&self, refused: &Refused) -> String {
        let ahead = self.ahead.as_ref();
        let ahead = ahead.filter(|_| refused.refusal.code == PASSED_BY);
        ahead.map_or_else(|| self.note.clone(), |ahead| ahead.note.clone())
    }

    /// This line after the witness's decision.
    fn with(&self, seen: Seen, keys: &Keys) -> Result<Self, ArchiveError> {
        let mut line = self.clone();
        if seen.fork.is_some() {
            line.fork = seen.fork;
        } else if seen.size > line.size || line.size == 0 {
            line.ahead = Some(seen);
        } else {
            // The archived head again, with the time of now: only the witness's line is another.
            let parse = |text: &str| {
                Note::parse(text.as_bytes())
                    .map_err(|error| ArchiveError::Damaged(error.to_string()))
            };
            let (mut note, fresh) = (parse(&line.note)?, parse(&seen.note)?);
            let witness = keys.witness.verifier_key();
            note.signatures.retain(|signature| !witness.made(signature));
            let fresh = fresh.signatures.into_iter();
            note.signatures
                .extend(fresh.filter(|signature| witness.made(signature)));
            line.note = note.encode();
            line.time = seen.time;
        }
        Ok(line)
    }

    /// A log of which only the witness knows.
    fn unarchived(origin: &str) -> Self {
        Self {
            chain: Chain::new(origin).0,
            ..Self::default()
        }
    }
}

/// The code of a refusal whose head leads past what the witness cosigned.
const PASSED_BY: &str = "witnessed_otherwise";

/// Entries that do not give the root of a genuine head are no fork: the right ones may still come. That
/// head is one where the witness cosigned another root at its size; else it is kept as disputed.
pub(super) fn weigh(mut refused: Refused, ahead: Option<&Seen>) -> Refused {
    if refused.only_disputes() {
        let head = refused.fork.as_deref().and_then(head_of);
        let contradicts = |ahead: &Seen| {
            head.is_some_and(|head| head.size == ahead.size && head.root != ahead.root)
        };
        if ahead.is_some_and(contradicts) {
            refused.refusal.code = PASSED_BY.into();
        }
    }
    refused
}

/// Whether an upload leads through the head that the witness cosigned before its leaves came.
///
/// # Errors
/// [`Refused`] with the contradicting head.
pub(super) fn passes(
    raw: &[u8],
    before: &Frontier,
    judged: &Judged,
    ahead: &Seen,
) -> Result<(), Refused> {
    if judged.frontier.size() < ahead.size {
        return Ok(());
    }
    let mut frontier = before.clone();
    let (records, _) = hash_records(raw);
    for hashed in records {
        let left = (ahead.size - frontier.size()) as usize;
        match hashed.record {
            _ if left == 0 => break,
            Record::Entry(_) => frontier.push(hashed.digest),
            Record::Leaves { hashes, .. } => {
                let hashes: Vec<Digest> = hashes.iter().copied().map(Digest).collect();
                frontier.extend(hashes.get(..left).unwrap_or(&hashes));
            }
            Record::Payload { .. } | Record::Checkpoint(_) => {}
        }
    }
    if frontier.root() == ahead.root {
        return Ok(());
    }
    let message = format!("another root was witnessed at size {}", ahead.size);
    Err(Refused {
        fork: Some(judged.note.encode()),
        ..Refused::new(422, PASSED_BY, message)
    })
}

impl Archive {
    /// The keys that may sign a head of this log at this size: its device's, or those of a foreign log.
    /// None where the device's key is revoked or its epoch is over.
    fn log_keys(
        &self,
        origin: &str,
        line: Option<&Line>,
        size: u64,
        foreign: &Logs,
    ) -> Vec<VerifierKey> {
        // `<domain>/jurat/<device>/<epoch>`
        let device = origin.rsplit('/').nth(1).and_then(|id| self.device(id));
        let Some(device) = device.filter(|device| device.row.origin == origin) else {
            return foreign.keys(origin).to_vec();
        };
        let life = self.life(origin);
        if life.as_deref().and_then(refused_for_good).is_some() {
            return Vec::new();
        }
        let is_revoked = |key: &&str| {
            life.as_ref()
                .is_some_and(|life| life.is_revoked_before(key))
        };
        let Some(line) = line else {
            return vec![device.key.clone()];
        };
        // The head at which the key was rotated is the old key's, and no later one is.
        let before = line.key_before.as_deref().filter(|_| line.size == size);
        let before = before.filter(|key| !is_revoked(key));
        let before = before.and_then(|key| VerifierKey::parse(key).ok());
        line.key(&device.key).into_iter().chain(before).collect()
    }

    /// Judges a request to the witness. Nothing is stored yet, and the cosignature must not leave before
    /// it is.
    ///
    /// # Errors
    /// [`ArchiveError`]: the collector's own failure.
    pub(crate) fn judge_checkpoint(
        &self,
        foreign: &Logs,
        body: &[u8],
    ) -> Result<Witnessing, ArchiveError> {
        let request = match Request::parse(body) {
            Ok(request) => request,
            Err(error) => return Ok(Witnessing::Answer(Answer::Malformed(error.to_string()))),
        };
        let origin = request.head.origin.as_str();
        let before = self.line(origin)?;
        let seen = before.as_deref().and_then(Line::seen);
        let keys = self.log_keys(origin, before.as_deref(), request.head.size, foreign);
        let now = self.host.clock.now().unix_s();
        let decided = judge(seen.as_ref(), &keys, &request, &self.keys.witness, now)?;
        let (seen, answer) = match decided {
            Decision::Answer(answer) => return Ok(Witnessing::Answer(answer)),
            Decision::Store { seen, answer } => (*seen, answer),
        };
        let line = match &before {
            Some(line) => line.with(seen, &self.keys)?,
            None => Line::unarchived(origin).with(seen, &self.keys)?,
        };
        Ok(Witnessing::Store(Box::new(Witnessed {
            origin: origin.to_owned(),
            before,
            line,
            answer,
        })))
    }

    /// What the witness cosigned last of the log with this SHA-256 of its origin, with the fork proof where
    /// one convinces strangers.
    pub(crate) fn seen(&self, origin_hash: &Digest) -> Option<Arc<Seen>> {
        let line = {
            let state = self.state();
            let line = state.lines.get(state.origins.get(origin_hash)?)?;
            line.clone()
        };
        let mut seen = line.seen()?;
        let is_proof = |fork: &String| ForkProof::parse(fork.as_bytes()).is_ok();
        seen.fork = seen.fork.filter(is_proof);
        Some(Arc::new(seen))
    }

    /// The newest checkpoint of the collector's own log, with the cosignatures that came; `None` before
    /// this process signed one.
    pub fn own_checkpoint(&self) -> Option<String> {
        let state = self.state();
        let newest = state.own_note.as_ref()?;
        let text = |note: &str| note.split("\n\n").next().map(str::to_owned);
        let mut cosigned = [&state.own_cosigned, &state.own_partly]
            .into_iter()
            .flatten();
        let same = cosigned.find(|cosigned| text(cosigned) == text(newest));
        Some(same.unwrap_or(newest).clone())
    }

    /// The newest checkpoint of the collector's own log that the outside witnesses' quorum cosigned.
    pub fn own_cosigned(&self) -> Option<String> {
        self.state().own_cosigned.clone()
    }

    /// That checkpoint, and the newest one that fewer cosigned: the better one first.
    pub(crate) fn own_with_others(&self) -> [Option<String>; 2] {
        let state = self.state();
        [state.own_cosigned.clone(), state.own_partly.clone()]
    }

    /// Says how the outside witnesses are doing.
    pub(crate) fn note_witnesses(
        &self,
        quorum_at: Option<u64>,
        problems: BTreeMap<String, String>,
    ) {
        let mut state = self.state();
        if let Some(size) = quorum_at {
            state.stats.own_witnessed = size;
        }
        state.stats.witness_problems = problems;
    }
}
