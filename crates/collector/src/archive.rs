//! The archive: uploads, frontiers and the collector's own log in one ledger.
//!
//! One group makes an upload, the frontier it moves, the note that will be sent and the leaf in the
//! collector's own log durable together. Everything else is a projection of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use jurat_disk::Host;
use jurat_event::Kind;
use jurat_key::{KeyError, Secret, SoftwareKey};
use jurat_ledger::{Group, Ledger, LedgerError, Options, Reader, Replayed};
use jurat_proof::{
    Chain, Cosignature, Digest, Frontier, Note, Record, RecordReader, Signer, SignerError,
    VerifierKey, leaf_hash,
};
use jurat_sink::{Accepted, FileSink, FileSinkError, FrontierAnswer, line};
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};

use crate::ingest::{Judged, Known, Refused, decompress, judge};
use crate::own_log::OwnLog;

/// Kinds of archive records.
pub(crate) mod kind {
    /// An upload as it came: header, then zstd frames.
    pub(crate) const UPLOAD: u8 = 1;
    /// The cosigned note of the upload before it.
    pub(crate) const NOTE: u8 = 2;
    /// An entry of the collector's own log.
    pub(crate) const OWN_ENTRY: u8 = 3;
    /// A checkpoint of the collector's own log.
    pub(crate) const OWN_CHECKPOINT: u8 = 4;
}

/// Why the archive could not do what was asked. The collector's fault, never the device's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A key failed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A key could not sign.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// The SIEM file failed.
    #[error(transparent)]
    Sink(#[from] FileSinkError),
    /// An earlier commit failed; open the archive anew.
    #[error("an earlier commit failed; the archive must be opened anew")]
    Failed,
    /// The archive holds something that it cannot have written.
    #[error("the archive is damaged: {0}")]
    Damaged(String),
}

/// The header of an archived upload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct UploadHeader {
    pub(crate) origin: String,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) received_at: u64,
    /// The chain before its first leaf.
    pub(crate) chain: Digest,
}

/// What is known of one log, as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Line {
    size: u64,
    roots: Vec<Digest>,
    chain: Digest,
    note: String,
    time: u64,
    /// Payloads that never came: the archive cosignature is given only at 0.
    #[serde(default)]
    payloads_missing: u64,
    /// A signed head that contradicts `note`. No cosignature any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fork: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Change {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    lines: BTreeMap<String, Line>,
    /// Nonces with their time stamps.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    nonces: BTreeMap<String, u64>,
    own_size: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    own_roots: Vec<Digest>,
}

/// Numbers about a collector since it was started, and what it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Logs with at least one leaf.
    pub logs: u64,
    /// Leaves archived.
    pub leaves: u64,
    /// Logs with a fork proof.
    pub forks: u64,
    /// Uploads accepted since the start.
    pub accepted: u64,
    /// Uploads and requests refused since the start, by code.
    pub refused: BTreeMap<String, u64>,
    /// Bytes in the archive.
    pub archive_bytes: u64,
    /// Leaves of the collector's own log.
    pub own_leaves: u64,
    /// Lines written to the SIEM file since the start.
    pub siem_lines: u64,
    /// Why the SIEM file cannot be written now.
    pub siem_problem: Option<String>,
}

/// The names under which a collector signs.
pub(crate) struct Keys {
    pub(crate) witness: SoftwareKey,
    pub(crate) archive: SoftwareKey,
    pub(crate) log: SoftwareKey,
}

impl Keys {
    fn open(host: &Host, dir: &Path, domain: &str) -> Result<Self, ArchiveError> {
        let seed = |name: &str| Secret::load_or_create(host, &dir.join(format!("{name}.key")));
        Ok(Self {
            witness: SoftwareKey::cosigner(&seed("witness")?, &format!("{domain}/jurat/witness"))?,
            archive: SoftwareKey::cosigner(&seed("archive")?, &format!("{domain}/jurat/archive"))?,
            log: SoftwareKey::log(&seed("log")?, &format!("{domain}/jurat/collector/0"))?,
        })
    }
}

/// How long a nonce is remembered; a time stamp may be off by half of it.
pub(crate) const NONCE_WINDOW_S: u64 = 600;
/// The most nonces remembered; a collector with more traffic than this answers 429.
const NONCES_MAX: usize = 1_000_000;

/// Uploads, frontiers, the collector's own log.
pub struct Archive {
    host: Host,
    ledger: Ledger,
    lines: BTreeMap<String, Line>,
    nonces: BTreeMap<String, u64>,
    own: OwnLog,
    own_signed: u64,
    keys: Keys,
    siem: Option<FileSink>,
    stats: Stats,
    next_upload_s: u64,
    raw: Vec<u8>,
    /// A commit failed: what is in memory may be ahead of the disk, so nothing is said any more.
    failed: bool,
    siem_problem: Option<String>,
}

impl Archive {
    /// Opens the archive in `dir/archive` with the keys in `dir/keys`, or begins them.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub fn open(
        host: Host,
        dir: &Path,
        domain: &str,
        siem: Option<&Path>,
        next_upload_s: u64,
    ) -> Result<Self, ArchiveError> {
        let key_dir = dir.join("keys");
        host.disk
            .create_dir_all(&key_dir)
            .map_err(|source| LedgerError::Io {
                path: key_dir.clone(),
                doing: "creating the keys' folder",
                source,
            })?;
        let keys = Keys::open(&host, &key_dir, domain)?;
        let first = serde_json::to_vec(&Change::default()).unwrap_or_default();
        let mut state = Change::default();
        let mut damaged = None;
        let archive_dir = dir.join("archive");
        let ledger = Ledger::open(
            host.disk.clone(),
            host.rng.clone(),
            &archive_dir,
            Options {
                segment_bytes: 64 * 1024 * 1024,
                reserve_bytes: 0,
            },
            &first,
            &mut |replayed| match replayed {
                Replayed::Snapshot(bytes) => match serde_json::from_slice(bytes) {
                    Ok(snapshot) => state = snapshot,
                    Err(error) => damaged = Some(format!("snapshot: {error}")),
                },
                Replayed::State(bytes) => match serde_json::from_slice::<Change>(bytes) {
                    Ok(change) => {
                        state.lines.extend(change.lines);
                        state.nonces.extend(change.nonces);
                        state.own_size = change.own_size;
                        state.own_roots = change.own_roots;
                    }
                    Err(error) => damaged = Some(format!("state: {error}")),
                },
                Replayed::Record { .. } => {}
            },
        )?;
        if let Some(what) = damaged {
            return Err(ArchiveError::Damaged(what));
        }
        let own = Frontier::from_parts(state.own_size, state.own_roots)
            .ok_or_else(|| ArchiveError::Damaged("the own log's frontier".into()))?;
        let siem = siem
            .map(|path| FileSink::open(host.disk.clone(), path, &dir.join("siem.cursor")))
            .transpose()?;
        let boot = jurat_disk::boot_id(&*host.rng);
        let mut archive = Self {
            own: OwnLog::new(&keys.log.verifier_key().name, boot, own),
            own_signed: 0,
            host,
            ledger,
            lines: state.lines,
            nonces: state.nonces,
            keys,
            siem,
            stats: Stats::default(),
            next_upload_s,
            raw: Vec::new(),
            failed: false,
            siem_problem: None,
        };
        archive.project()?;
        Ok(archive)
    }

    /// The verifier keys of witness, archive and own log.
    pub fn verifier_keys(&self) -> [VerifierKey; 3] {
        [&self.keys.witness, &self.keys.archive, &self.keys.log]
            .map(|key| key.verifier_key().clone())
    }

    /// What is known of a log.
    ///
    /// # Errors
    /// [`ArchiveError::Failed`] when a commit failed.
    pub fn frontier(&self, origin: &str) -> Result<FrontierAnswer, ArchiveError> {
        self.check()?;
        Ok(match self.lines.get(origin) {
            Some(line) => FrontierAnswer {
                size: line.size,
                root: known(line).map_or_else(Digest::default, |known| known.frontier.root()),
                note: Some(line.note.clone()),
            },
            None => FrontierAnswer {
                size: 0,
                root: Frontier::default().root(),
                note: None,
            },
        })
    }

    fn check(&self) -> Result<(), ArchiveError> {
        if self.failed {
            return Err(ArchiveError::Failed);
        }
        Ok(())
    }

    /// Takes a nonce, or refuses a request whose nonce was taken or whose time is off.
    pub(crate) fn take_nonce(
        &mut self,
        device: &str,
        nonce: &str,
        timestamp: u64,
    ) -> Result<(), Refused> {
        let now = self.host.clock.now().unix_s();
        if timestamp.abs_diff(now) > NONCE_WINDOW_S / 2 {
            let message = format!(
                "the time stamp is {} s off; check the clocks",
                timestamp.abs_diff(now)
            );
            return Err(Refused::new(401, "stale_timestamp", message));
        }
        if nonce.len() < 16 || nonce.len() > 64 {
            return Err(Refused::new(
                401,
                "bad_nonce",
                "a nonce has 16 to 64 characters",
            ));
        }
        if self.nonces.len() >= NONCES_MAX {
            self.nonces.retain(|_, time| *time + NONCE_WINDOW_S > now);
            if self.nonces.len() >= NONCES_MAX {
                return Err(Refused::new(
                    429,
                    "busy",
                    "too many requests in the last ten minutes",
                ));
            }
        }
        let name = format!("{device}/{nonce}");
        if self.nonces.contains_key(&name) {
            return Err(Refused::new(
                401,
                "replayed_nonce",
                "this nonce was used before",
            ));
        }
        self.nonces.insert(name, timestamp);
        Ok(())
    }

    /// Judges an upload, archives it and cosigns its head. Durable on return.
    ///
    /// `Err` is the collector's own failure; a refusal is `Ok(Err(..))`.
    ///
    /// # Errors
    /// [`ArchiveError`]: nothing was cosigned; open the archive anew.
    pub(crate) fn accept(
        &mut self,
        origin: &str,
        key: &VerifierKey,
        nonce: (String, u64),
        body: &[u8],
    ) -> Result<Result<Accepted, Refused>, ArchiveError> {
        self.check()?;
        let before = match self.lines.get(origin) {
            Some(line) => known(line)
                .ok_or_else(|| ArchiveError::Damaged(format!("the frontier of {origin}")))?,
            None => Known {
                frontier: Frontier::default(),
                chain: Chain::new(origin),
            },
        };
        let mut raw = std::mem::take(&mut self.raw);
        let judged = decompress(body, &mut raw).and_then(|()| judge(&raw, origin, key, &before));
        raw.shrink_to(1024 * 1024);
        self.raw = raw;
        match judged {
            Ok(Some(judged)) => Ok(Ok(self.archive(origin, key, nonce, body, &before, &judged)?)),
            Ok(None) => Ok(match self.lines.get(origin) {
                Some(line) if line.fork.is_none() => Ok(self.answer(line.size, line.note.clone())),
                _ => Err(Refused::conflict(before.frontier.size())),
            }),
            Err(refused) => {
                if let Some(fork) = &refused.fork {
                    self.keep_fork(origin, fork)?;
                }
                Ok(Err(refused))
            }
        }
    }

    fn answer(&self, size: u64, note: String) -> Accepted {
        Accepted {
            size,
            note,
            next_upload_s: self.next_upload_s,
            leaves_withheld: 0,
            payloads_missing: 0,
        }
    }

    fn archive(
        &mut self,
        origin: &str,
        key: &VerifierKey,
        nonce: (String, u64),
        body: &[u8],
        before: &Known,
        judged: &Judged,
    ) -> Result<Accepted, ArchiveError> {
        let now = self.host.clock.now();
        let known = self.lines.get(origin);
        // Cosignature times never run backwards, even when the clock does.
        let time = now.unix_s().max(known.map_or(0, |line| line.time));
        let fork = known.and_then(|line| line.fork.clone());
        let payloads_missing = known.map_or(0, |line| line.payloads_missing)
            + judged.payloads_missing
            + judged.leaves_withheld;
        let mut note = judged.note.clone();
        // Only the device's own signature is kept: foreign lines would be stored for nothing.
        note.signatures.retain(|signature| key.made(signature));
        if fork.is_none() {
            note.signatures
                .push(Cosignature::sign(&self.keys.witness, time, &note.text)?);
            if payloads_missing == 0 {
                note.signatures
                    .push(Cosignature::sign(&self.keys.archive, time, &note.text)?);
            }
        }
        let size = judged.frontier.size();
        let text = note.encode();
        let header = UploadHeader {
            origin: origin.to_owned(),
            from: judged.from,
            to: size,
            received_at: now.unix_s(),
            chain: before.chain.0,
        };
        let header = serde_json::to_vec(&header).unwrap_or_default();
        let mut detail = Map::new();
        detail.insert("origin".into(), origin.into());
        detail.insert("size".into(), size.into());
        detail.insert("root".into(), judged.root.to_string().into());
        let entry = self
            .own
            .entry(&self.host, 0, Kind::FrontierAccepted, now, detail);
        let mut group = Group::new();
        group.push(
            kind::UPLOAD,
            &[&(header.len() as u32).to_le_bytes(), &header, body],
        )?;
        group.push(kind::NOTE, &[text.as_bytes()])?;
        group.push(kind::OWN_ENTRY, &[&entry])?;
        let line = Line {
            size,
            roots: judged.frontier.roots().to_vec(),
            chain: judged.chain.0,
            note: text.clone(),
            time,
            payloads_missing,
            fork: fork.clone(),
        };
        self.commit(&mut group, &entry, Some((origin, line)), Some(nonce))?;
        self.stats.accepted += 1;
        Ok(self.answer(size, text))
    }

    /// Commits a group, an entry of the own log among it, with the change of at most one log. What is
    /// in memory moves only when the disk has it; after a failure nothing is said any more.
    fn commit(
        &mut self,
        group: &mut Group,
        own_entry: &[u8],
        line: Option<(&str, Line)>,
        nonce: Option<(String, u64)>,
    ) -> Result<(), ArchiveError> {
        self.check()?;
        let now = self.host.clock.now().unix_s();
        let mut own = self.own.frontier.clone();
        own.push(leaf_hash(own_entry));
        let line = line.map(|(origin, line)| (origin.to_owned(), line));
        let change = Change {
            lines: line.into_iter().collect(),
            nonces: nonce.into_iter().collect(),
            own_size: own.size(),
            own_roots: own.roots().to_vec(),
        };
        let (lines, nonces) = (&self.lines, &self.nonces);
        let mut snapshot = || whole(lines, nonces, &change, now);
        let state = serde_json::to_vec(&change).unwrap_or_default();
        if let Err(error) = self.ledger.append(group, &state, &mut snapshot) {
            self.failed = true;
            return Err(error.into());
        }
        self.own.frontier = own;
        self.lines.extend(change.lines);
        Ok(())
    }

    /// Keeps a signed head that contradicts what was witnessed: no cosignature any more, and a leaf
    /// in the own log that holds both notes.
    fn keep_fork(&mut self, origin: &str, note: &str) -> Result<(), ArchiveError> {
        let Some(line) = self.lines.get(origin).cloned() else {
            return Ok(());
        };
        if line.fork.is_some() {
            return Ok(());
        }
        let mut detail = Map::new();
        detail.insert("origin".into(), origin.into());
        detail.insert("witnessed".into(), line.note.clone().into());
        detail.insert(
            "contradicts".into(),
            note.chars().take(4_000).collect::<String>().into(),
        );
        let entry = self.own.entry(
            &self.host,
            0,
            Kind::ForkProof,
            self.host.clock.now(),
            detail,
        );
        let mut group = Group::new();
        group.push(kind::OWN_ENTRY, &[&entry])?;
        let line = Line {
            fork: Some(note.chars().take(4_000).collect()),
            ..line
        };
        self.commit(&mut group, &entry, Some((origin, line)), None)
    }

    /// Seals an enrolment in the own log.
    pub(crate) fn note_enrolment(&mut self, device: &crate::Device) -> Result<(), ArchiveError> {
        let mut detail = Map::new();
        detail.insert("origin".into(), device.origin.clone().into());
        detail.insert("key".into(), device.key.clone().into());
        detail.insert("key_kind".into(), device.key_kind.clone().into());
        detail.insert("hostname".into(), json!(device.hostname));
        let entry = self.own.entry(
            &self.host,
            0,
            Kind::DeviceEnrolled,
            self.host.clock.now(),
            detail,
        );
        let mut group = Group::new();
        group.push(kind::OWN_ENTRY, &[&entry])?;
        self.commit(&mut group, &entry, None, None)
    }

    /// Signs the own log's head when there is news. Called about once a second.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub fn seal_own_log(&mut self) -> Result<(), ArchiveError> {
        self.check()?;
        let size = self.own.frontier.size();
        if size == 0 || size == self.own_signed {
            return Ok(());
        }
        let note = self.own.checkpoint(&self.keys.log)?;
        let mut group = Group::new();
        group.push(kind::OWN_CHECKPOINT, &[note.encode().as_bytes()])?;
        let now = self.host.clock.now().unix_s();
        let change = Change {
            own_size: self.own.frontier.size(),
            own_roots: self.own.frontier.roots().to_vec(),
            ..Change::default()
        };
        let (lines, nonces) = (&self.lines, &self.nonces);
        let appended = self
            .ledger
            .append(&mut group, b"", &mut || whole(lines, nonces, &change, now));
        if let Err(error) = appended {
            self.failed = true;
            return Err(error.into());
        }
        self.own_signed = size;
        Ok(())
    }

    /// Writes to the SIEM file what is archived and not written yet. A projection: after a crash it
    /// goes on from its own cursor.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub fn project(&mut self) -> Result<(), ArchiveError> {
        self.siem_problem = None;
        match self.try_project() {
            // Evidence is safe in the archive; the lines are written when the file can be written.
            Err(ArchiveError::Sink(error)) => {
                tracing::error!(%error, "the SIEM file cannot be written");
                self.siem_problem = Some(error.to_string());
                if let Some(siem) = &mut self.siem {
                    siem.rewind();
                }
                Ok(())
            }
            done => done,
        }
    }

    fn try_project(&mut self) -> Result<(), ArchiveError> {
        let Some(siem) = &mut self.siem else {
            return Ok(());
        };
        if siem.position() >= self.ledger.end() {
            return Ok(());
        }
        let mut reader = self.ledger.read(siem.position())?;
        let mut raw = Vec::new();
        let mut out = Vec::new();
        while let Some(item) = reader.next_record()? {
            if item.kind != kind::UPLOAD {
                continue;
            }
            let next = item.next;
            let (header, body) = split_upload(item.body)?;
            let damaged = |what: String| ArchiveError::Damaged(what);
            decompress(body, &mut raw).map_err(|refused| damaged(refused.refusal.message))?;
            let mut chain = Chain(header.chain);
            let mut records = RecordReader::new(&raw).peekable();
            let mut seq = header.from;
            while let Some(record) = records.next() {
                let record = record.map_err(|error| damaged(error.to_string()))?;
                let Record::Entry(entry) = record else {
                    continue;
                };
                let payload = match records.peek() {
                    Some(Ok(Record::Payload { bytes, .. })) => Some(*bytes),
                    _ => None,
                };
                let leaf = leaf_hash(entry);
                let prev = chain.0;
                let proof = line::Proof {
                    device: header.origin.clone(),
                    seq,
                    leaf_hash: leaf,
                    chain_hash: chain.push(&leaf),
                    prev_chain_hash: prev,
                    sink_seq: siem.sink_seq(),
                    batch: header.to,
                    judged: "verified".into(),
                };
                line::write(&proof, entry, payload, &mut out);
                siem.push(&out);
                self.stats.siem_lines += 1;
                seq += 1;
            }
            siem.commit(next)?;
        }
        let position = self.ledger.end();
        if position > siem.position() {
            siem.commit(position)?;
        }
        Ok(())
    }

    /// A reader over the archive from its beginning.
    pub(crate) fn reader(&self) -> Result<Reader, ArchiveError> {
        Ok(self.ledger.read(0)?)
    }

    /// Counts a refusal.
    pub(crate) fn count_refusal(&mut self, code: &str) {
        *self.stats.refused.entry(code.to_owned()).or_default() += 1;
    }

    /// Numbers.
    pub fn stats(&self) -> Stats {
        let mut stats = self.stats.clone();
        stats.logs = self.lines.len() as u64;
        stats.leaves = self.lines.values().map(|line| line.size).sum();
        stats.forks = self
            .lines
            .values()
            .filter(|line| line.fork.is_some())
            .count() as u64;
        stats.archive_bytes = self.ledger.len().unwrap_or(0);
        stats.own_leaves = self.own.frontier.size();
        stats.siem_problem.clone_from(&self.siem_problem);
        stats
    }
}

/// Everything as it is after this change.
fn whole(
    lines: &BTreeMap<String, Line>,
    nonces: &BTreeMap<String, u64>,
    change: &Change,
    now: u64,
) -> Vec<u8> {
    let mut whole = Change {
        lines: lines.clone(),
        nonces: nonces.clone(),
        ..change.clone()
    };
    whole.nonces.retain(|_, time| *time + NONCE_WINDOW_S > now);
    whole.lines.extend(change.lines.clone());
    serde_json::to_vec(&whole).unwrap_or_default()
}

fn known(line: &Line) -> Option<Known> {
    let frontier = Frontier::from_parts(line.size, line.roots.clone())?;
    Some(Known {
        frontier,
        chain: Chain(line.chain),
    })
}

/// The header and the compressed records of an archived upload.
pub(crate) fn split_upload(body: &[u8]) -> Result<(UploadHeader, &[u8]), ArchiveError> {
    let damaged = || ArchiveError::Damaged("an upload's header".into());
    let (len, rest) = body.split_first_chunk::<4>().ok_or_else(damaged)?;
    let (header, body) = rest
        .split_at_checked(u32::from_le_bytes(*len) as usize)
        .ok_or_else(damaged)?;
    Ok((serde_json::from_slice(header).map_err(|_| damaged())?, body))
}

/// Replays everything archived of one log: what `export` and audits stand on.
pub(crate) fn replay_log(
    archive: &Archive,
    origin: &str,
    give: &mut dyn FnMut(Record<'_>, Option<&Note>) -> Result<(), ArchiveError>,
) -> Result<(), ArchiveError> {
    let mut reader = archive.reader()?;
    let mut raw = Vec::new();
    let mut mine = false;
    while let Some(item) = reader.next_record()? {
        match item.kind {
            kind::UPLOAD => {
                let (header, body) = split_upload(item.body)?;
                mine = header.origin == origin;
                if mine {
                    decompress(body, &mut raw)
                        .map_err(|refused| ArchiveError::Damaged(refused.refusal.message))?;
                    for record in RecordReader::new(&raw) {
                        let record =
                            record.map_err(|error| ArchiveError::Damaged(error.to_string()))?;
                        // The last checkpoint comes again as the cosigned note just after.
                        give(record, None)?;
                    }
                }
            }
            kind::NOTE if mine => {
                let note = Note::parse(item.body)
                    .map_err(|error| ArchiveError::Damaged(error.to_string()))?;
                give(Record::Checkpoint(item.body), Some(&note))?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// An archive shared between requests.
pub(crate) type Shared = Arc<std::sync::Mutex<Archive>>;

#[cfg(test)]
mod tests;
