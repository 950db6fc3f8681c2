//! The archive: uploads, frontiers and the collector's own log in one ledger.
//!
//! One group makes uploads, the frontiers they move, the notes that will be sent and the leaves in
//! the collector's own log durable together. Everything else is a projection of it.
//!
//! [`Archive`] is what everybody may look at: its lock is held for a look at memory, never while a
//! disk works or bytes are hashed. What changes it goes through the one [`Writer`].

mod silence;
mod witnessing;
mod writer;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use axum::body::Bytes;
use jurat_disk::{Disk, Host};
use jurat_event::{EraseRequest, Ranges};
use jurat_key::{KeyError, LogKey, Secret, SoftwareKey};
use jurat_ledger::{Ledger, LedgerError, Options, Reader, Replayed};
use jurat_proof::{
    Chain, Checkpoint, Choice, Cosignature, Digest, EntryView, Frontier, Note, Record,
    RecordReader, Rotation, Signer, SignerError, VerifierKey,
};
use jurat_sink::{Accepted, BatchError, FileSinkError, FrontierAnswer, without_payloads};
use jurat_witness::{Seen, origin_hash};
use serde::{Deserialize, Serialize};

use crate::admin::{DeviceReport, EpochReport, Standing};
use crate::attested::Attested;
use crate::devices::{self, Device};
use crate::ingest::{
    INCONSISTENT, Judged, Known, Refused, another_root, begins_at, decompress, judge, with_head,
};
use crate::life::Life;
use crate::machine::{KnownLog, MachineReport, PolicyFile};
use crate::own_log::OwnLog;

use silence::Silence;
pub(crate) use witnessing::Witnessing;
pub(crate) use writer::{Again, Ask, Done, Writer, refused_for_good};

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
    /// A checkpoint of the collector's own log with the cosignatures that the policy's quorum asks for.
    pub(crate) const OWN_COSIGNED: u8 = 5;
    /// Likewise with fewer.
    pub(crate) const OWN_PARTLY: u8 = 6;
    /// What a TPM says of the keys of a log: `u32 length, origin, JSON`.
    pub(crate) const EVIDENCE: u8 = 7;
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
    /// The SIEM file cannot be opened.
    #[error(transparent)]
    Sink(#[from] FileSinkError),
    /// The keys have cosigned, and the archive is gone.
    #[error(
        "{path}: the keys beside it have cosigned, and what they cosigned is gone; is the disk mounted? \
         A collector that begins anew takes an empty folder and another domain or new keys"
    )]
    Forgotten {
        /// Where the archive was.
        path: PathBuf,
    },
    /// An earlier commit failed; open the archive anew.
    #[error("an earlier commit failed; the archive must be opened anew")]
    Failed,
    /// What takes long ends early.
    #[error("the collector stops")]
    Stopping,
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
    /// It came instead of an earlier one of the same leaves that held only their hashes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) late: bool,
    /// Payloads were erased: it stands for the record that was archived first, at this position. Its leaves
    /// are those of that record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) instead_of: Option<u64>,
}

/// An archived upload that holds only the hashes of some leaves; their entries may still come.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Withheld {
    from: u64,
    to: u64,
    /// The frontier and the chain before it, and the root after it.
    roots: Vec<Digest>,
    chain: Digest,
    root: Digest,
    leaves: u64,
    payloads: u64,
    /// The key that signed it, when it is not the enrolled one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// Leaves among them whose payloads were erased since, so that they will not come.
    #[serde(default, skip_serializing_if = "Ranges::is_empty")]
    erased: Ranges,
}

/// Payloads that the operator erased before they came.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Awaited {
    /// The size of the log then: later leaves are not meant.
    pub(crate) below: u64,
    pub(crate) request: EraseRequest,
}

/// The most bytes of such orders of one log: each group that moves it writes them.
const AWAITED_BYTES_MAX: usize = 64 * 1024;
/// A record's further parts follow its first leaf within so many.
const PARTS_MAX: u64 = 1_024;

/// The most uploads of one log whose leaves may still come. Those of later ones are only counted.
pub(crate) const WITHHELD_MAX: usize = 64;
/// The most ranges of leaves of one log whose missing payload a later leaf can settle.
const MISSING_RANGES_MAX: usize = 4_096;

/// What is known of one log, as it is stored.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Line {
    size: u64,
    roots: Vec<Digest>,
    chain: Digest,
    note: String,
    time: u64,
    /// The key that signs the next head, when it is not the enrolled one any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// The key that signed `note`, when it was rotated there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_before: Option<String>,
    /// The keys that were rotated away, the first one first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    retired: Vec<String>,
    /// Payloads that never came, and that no leaf says were erased: the archive cosignature is given only at 0.
    #[serde(default)]
    payloads_missing: u64,
    /// Their leaves, the first [`MISSING_RANGES_MAX`] ranges of them: a leaf that comes later may settle them.
    #[serde(default, skip_serializing_if = "Ranges::is_empty")]
    missing: Ranges,
    /// Leaves of which only the hash came. Likewise.
    #[serde(default)]
    leaves_withheld: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    withheld: Vec<Withheld>,
    /// What of them must not be stored when it comes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    awaited: Vec<Awaited>,
    /// Uploads that came late instead of withheld ones.
    #[serde(default)]
    late: u64,
    /// A head above this one that the witness cosigned for who only showed it. Gone when uploads reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ahead: Option<Seen>,
    /// A fork proof, or, where none can convince a stranger, the signed head that does not fit. No
    /// cosignature any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fork: Option<String>,
    /// The first signed head that came with entries that do not give it. The log goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disputed: Option<Disputed>,
    /// What its machine said of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attested: Option<Attested>,
}

/// A head that another history would have, or that was sent with wrong entries: which, nobody can say until the
/// right ones come.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Disputed {
    size: u64,
    root: Digest,
    /// The leaf of the own log that holds it.
    leaf: u64,
}

impl Line {
    fn frontier(&self) -> Option<Frontier> {
        Frontier::from_parts(self.size, self.roots.clone())
    }

    fn known(&self, enrolled: &VerifierKey) -> Option<Known> {
        let before = self.key_before.as_deref().map(VerifierKey::parse);
        let retired = self.retired.iter().map(|key| VerifierKey::parse(key));
        Some(Known {
            frontier: self.frontier()?,
            chain: Chain(self.chain),
            key: self.key(enrolled)?,
            before: before.transpose().ok()?,
            retired: retired.collect::<Result<_, _>>().ok()?,
        })
    }

    /// The key that signs the next head.
    fn key(&self, enrolled: &VerifierKey) -> Option<VerifierKey> {
        key_or(self.key.as_deref(), enrolled)
    }

    /// Takes note of payloads that did not come, and of those that a leaf says were erased: those are settled.
    fn miss(&mut self, missing: &Ranges, erased: &Ranges) {
        self.payloads_missing += missing.leaves();
        let known = self.missing.union(missing);
        let settled = known.intersection(erased).leaves();
        self.payloads_missing -= settled.min(self.payloads_missing);
        self.missing = known.without(erased).first(MISSING_RANGES_MAX);
        for withheld in &mut self.withheld {
            let mine = Ranges::from(vec![(withheld.from, withheld.to)]);
            let erased = withheld.erased.union(&erased.intersection(&mine));
            withheld.erased = erased.first(MISSING_RANGES_MAX);
        }
    }

    /// What came late without the payloads that the operator erased before, and which those are.
    fn without_erased(
        &self,
        body: &Bytes,
    ) -> Result<(Bytes, Vec<(EraseRequest, Ranges)>), BatchError> {
        if self.awaited.is_empty() {
            return Ok((body.clone(), Vec::new()));
        }
        // Of a leaf that several orders mean the first one says so.
        let orders = self.awaited.iter();
        let mut orders: Vec<_> = orders
            .map(|order| (order, Choice::new(&order.request), Ranges::default()))
            .collect();
        let mut means = |entry: &EntryView<'_>| {
            let mut meant = false;
            for (Awaited { below, .. }, choice, mine) in &mut orders {
                // Each is asked: its further parts come later.
                let takes = entry.seq < *below && choice.takes(entry);
                if takes && !meant {
                    mine.push((entry.seq, entry.seq + 1));
                }
                meant |= takes;
            }
            meant
        };
        let Some(thinned) = without_payloads(body, &mut means)? else {
            return Ok((body.clone(), Vec::new()));
        };
        let orders = orders.into_iter();
        let erased = orders.map(|(order, _, mine)| {
            let gone = mine.intersection(&thinned.gone);
            (order.request.clone(), gone)
        });
        let erased = erased.filter(|(_, gone)| !gone.is_empty()).collect();
        Ok((thinned.body.into(), erased))
    }

    /// The same head, cosigned at this time, as far as it may be.
    fn cosign(&mut self, keys: &Keys, note: Note, time: u64) -> Result<(), SignerError> {
        let mut note = note;
        // Cosignature times never run backwards, even when the clock does.
        self.time = time.max(self.time);
        if self.fork.is_none() {
            // What is below the witness's own frontier gets no fresh statement of it.
            if self.ahead.is_none() {
                let witness = Cosignature::sign(&keys.witness, self.time, &note.text)?;
                note.signatures.push(witness);
            }
            if self.payloads_missing == 0 && self.leaves_withheld == 0 {
                note.signatures
                    .push(Cosignature::sign(&keys.archive, self.time, &note.text)?);
            }
        }
        self.note = note.encode();
        Ok(())
    }
}

/// The key with this text, or the enrolled one when there is none.
fn key_or(text: Option<&str>, enrolled: &VerifierKey) -> Option<VerifierKey> {
    text.map_or_else(
        || Some(enrolled.clone()),
        |text| VerifierKey::parse(text).ok(),
    )
}

/// What a group changes, or, in a snapshot, everything.
#[derive(Default, Serialize, Deserialize)]
struct Change<'a> {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    lines: BTreeMap<Cow<'a, str>, Cow<'a, Line>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    lives: BTreeMap<Cow<'a, str>, Cow<'a, Life>>,
    /// The digest of the settings that a leaf names last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    policy: Option<Cow<'a, str>>,
    /// Nonces with their time stamps.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    nonces: BTreeMap<Cow<'a, str>, u64>,
    /// The newest checkpoint of the own log that the outside witnesses' quorum cosigned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    own_cosigned: Option<Cow<'a, str>>,
    own_size: u64,
    #[serde(default)]
    own_roots: Cow<'a, [Digest]>,
    /// Up to where the device table counts.
    #[serde(default)]
    devices_end: u64,
    /// Records that are to be erased, each with how much of it stays. Absent: as before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    erasing: Option<Vec<(u64, u32)>>,
}

/// Numbers about a collector since it was started, and what it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Devices enrolled.
    pub devices: u64,
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
    /// Of those, how many a checkpoint covers that the outside witnesses' quorum cosigned.
    pub own_witnessed: u64,
    /// Which outside witnesses gave nothing the last time, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub witness_problems: BTreeMap<String, String>,
    /// Lines written to the SIEM file since the start.
    pub siem_lines: u64,
    /// Why the SIEM file cannot be written now.
    pub siem_problem: Option<String>,
}

/// The names under which a collector signs.
pub(crate) struct Keys {
    pub(crate) witness: SoftwareKey,
    pub(crate) archive: SoftwareKey,
    pub(crate) log: Arc<dyn Signer>,
}

impl Keys {
    fn open(host: &Host, dir: &Path, domain: &str) -> Result<Self, ArchiveError> {
        let seed = |name: &str| Secret::load_or_create(host, &dir.join(format!("{name}.key")));
        Ok(Self {
            witness: SoftwareKey::cosigner(&seed("witness")?, &format!("{domain}/jurat/witness"))?,
            archive: SoftwareKey::cosigner(&seed("archive")?, &format!("{domain}/jurat/archive"))?,
            log: LogKey::load_or_create(host, &dir.join("log.key"))?
                .signer(&format!("{domain}/jurat/collector/0"))?,
        })
    }
}

/// How long a nonce is remembered; a time stamp may be off by half of it.
pub(crate) const NONCE_WINDOW_S: u64 = 600;
/// The most nonces remembered; a collector with more traffic than this answers 429.
const NONCES_MAX: usize = 1_000_000;
/// The most of them for one device: several a second, so that none can use up those of others.
const NONCES_OF_DEVICE: u32 = 4_096;
/// The most that a buffer may have held to be kept for the next upload.
const BUFFER_BYTES_KEPT: usize = 2 * 1024 * 1024;
/// The largest snapshot that is read, uncompressed.
const SNAPSHOT_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// What is durable, and the nonces that were taken.
#[derive(Default)]
struct State {
    lines: BTreeMap<Arc<str>, Arc<Line>>,
    /// The origins by their SHA-256.
    origins: HashMap<Digest, Arc<str>>,
    /// The newest checkpoint of the own log, the newest one that the outside witnesses' quorum cosigned, and
    /// the newest one that fewer cosigned since the start.
    own_note: Option<String>,
    own_cosigned: Option<String>,
    own_partly: Option<String>,
    lives: BTreeMap<Arc<str>, Arc<Life>>,
    policy: Option<String>,
    silence: Silence,
    devices: HashMap<String, Arc<Device>>,
    nonces: HashMap<String, u64>,
    /// Old nonces are looked for when there are this many.
    nonces_prune: usize,
    nonces_pruned_at: u64,
    /// How many of them each device has.
    nonces_of: HashMap<String, u32>,
    /// The position after the last durable group.
    end: u64,
    stats: Stats,
    /// A commit failed: what is in memory may be ahead of the disk, so nothing is said any more.
    failed: bool,
}

/// Uploads, frontiers, devices, the collector's own log, for everybody to look at.
pub struct Archive {
    host: Host,
    dir: PathBuf,
    keys: Keys,
    next_upload_s: u64,
    state: Mutex<State>,
    /// Buffers for decompressed uploads, one for each that is judged at a time.
    buffers: Mutex<Vec<Vec<u8>>>,
    /// Which states of machines the operator accepts, while a collector runs that was told so.
    machine_policy: OnceLock<PolicyFile>,
    stopping: AtomicBool,
}

/// What follows from judging an upload.
pub(crate) enum Judgement {
    /// The answer; nothing is to be stored.
    Answer(Result<Accepted, Refused>),
    /// The writer must store this first.
    Store(Ask),
}

/// An upload that holds together, with everything that its commit needs.
pub(crate) struct Prepared {
    header: UploadHeader,
    /// What it was judged against: it is stale when the log has moved since.
    before: Option<Arc<Line>>,
    line: Line,
    body: Bytes,
    root: Digest,
    nonce: (String, u64),
    /// Each with the size of the head over it.
    rotations: Vec<(Rotation, u64)>,
    boots: Vec<String>,
    /// Payloads that came and are not stored, because the operator erased them before: by whom, and why.
    erased: Vec<(EraseRequest, Ranges)>,
    /// What is news of the device's quotes: details of leaves.
    attested: Vec<serde_json::Map<String, serde_json::Value>>,
}

impl Archive {
    /// Opens the archive in `dir/archive` with the keys in `dir/keys` and the devices in
    /// `dir/devices`, or begins them. Who holds the [`Writer`] is the one who may write.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub(crate) fn open(
        host: Host,
        dir: &Path,
        domain: &str,
        next_upload_s: u64,
        silent_after_s: u64,
    ) -> Result<(Arc<Self>, Writer), ArchiveError> {
        let key_dir = dir.join("keys");
        host.disk
            .create_dir_all(&key_dir)
            .map_err(|source| LedgerError::Io {
                path: key_dir.clone(),
                doing: "creating the keys' folder",
                source,
            })?;
        let first = pack(&Change::default());
        let mut whole = Change::default();
        let mut damaged = None;
        let archive_dir = dir.join("archive");
        // Whoever forgets what he cosigned could cosign a fork, and would take every device for a stranger.
        let names = host.disk.list(&archive_dir).unwrap_or_default();
        let begun = names.iter().any(|name| name.ends_with(".jl"));
        let key = key_dir.join("witness.key");
        if !begun && host.disk.open(&key, jurat_disk::Mode::Read).is_ok() {
            return Err(ArchiveError::Forgotten { path: archive_dir });
        }
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
                Replayed::Snapshot(bytes) => match unpack(bytes) {
                    Ok(snapshot) => whole = snapshot,
                    Err(error) => damaged = Some(format!("snapshot: {error}")),
                },
                Replayed::State(bytes) => match serde_json::from_slice::<Change<'_>>(bytes) {
                    Ok(change) => {
                        whole.lines.extend(change.lines);
                        whole.lives.extend(change.lives);
                        whole.policy = change.policy.or(whole.policy.take());
                        whole.nonces.extend(change.nonces);
                        whole.own_cosigned = change.own_cosigned.or(whole.own_cosigned.take());
                        whole.own_size = change.own_size;
                        whole.own_roots = change.own_roots;
                        whole.devices_end = change.devices_end;
                        if change.erasing.is_some() {
                            whole.erasing = change.erasing;
                        }
                    }
                    Err(error) => damaged = Some(format!("state: {error}")),
                },
                Replayed::Record { .. } => {}
            },
        )?;
        if let Some(what) = damaged {
            return Err(ArchiveError::Damaged(what));
        }
        // After the archive: keys without an archive are those of one that was lost.
        let keys = Keys::open(&host, &key_dir, domain)?;
        let own = Frontier::from_parts(whole.own_size, whole.own_roots.into_owned())
            .ok_or_else(|| ArchiveError::Damaged("the own log's frontier".into()))?;
        let (device_ledger, devices) =
            devices::open(&host, &dir.join("devices"), whole.devices_end)?;
        let lines: BTreeMap<Arc<str>, Arc<Line>> = whole
            .lines
            .into_iter()
            .map(|(origin, line)| (origin.into(), Arc::new(line.into_owned())))
            .collect();
        let stats = Stats {
            logs: lines.values().filter(|line| line.size > 0).count() as u64,
            devices: devices.len() as u64,
            leaves: lines.values().map(|line| line.size).sum(),
            forks: lines.values().filter(|line| line.fork.is_some()).count() as u64,
            archive_bytes: ledger.end(),
            own_leaves: own.size(),
            ..Stats::default()
        };
        let nonces = whole.nonces.into_iter();
        let origins = lines
            .keys()
            .map(|origin| (origin_hash(origin), origin.clone()));
        let lives: BTreeMap<Arc<str>, Arc<Life>> = whole
            .lives
            .into_iter()
            .map(|(origin, life)| (origin.into(), Arc::new(life.into_owned())))
            .collect();
        let mut silence = Silence::new(silent_after_s);
        let now = host.clock.now();
        for device in devices.values() {
            // An epoch that is over is expected to be silent.
            let over = |life: &Arc<Life>| life.closed_by.is_some() || life.revoked.is_some();
            if lives.get(device.row.origin.as_str()).is_some_and(over) {
                continue;
            }
            let origin: Arc<str> = device.row.origin.as_str().into();
            let line = lines.get(&origin).filter(|line| line.size > 0);
            let heard_at = line.map_or(device.row.enrolled_at, |line| line.time);
            let silent = lives
                .get(&origin)
                .is_some_and(|life| life.silent_since.is_some());
            silence.watch(origin, heard_at, silent, now);
        }
        let state = State {
            origins: origins.collect(),
            lines,
            own_note: None,
            own_cosigned: whole.own_cosigned.map(Cow::into_owned),
            own_partly: None,
            lives,
            policy: whole.policy.map(Cow::into_owned),
            silence,
            devices,
            nonces: nonces
                .map(|(name, time)| (name.into_owned(), time))
                .collect(),
            nonces_prune: 0,
            nonces_pruned_at: 0,
            nonces_of: HashMap::new(),
            end: ledger.end(),
            stats,
            failed: false,
        };
        let boot = jurat_disk::boot_id(&*host.rng);
        let own = OwnLog::new(&keys.log.verifier_key().name, boot, own);
        let archive = Arc::new(Self {
            host,
            dir: archive_dir,
            keys,
            next_upload_s,
            state: Mutex::new(state),
            buffers: Mutex::default(),
            machine_policy: OnceLock::new(),
            stopping: AtomicBool::new(false),
        });
        let mut writer = Writer::new(
            archive.clone(),
            ledger,
            device_ledger,
            own,
            whole.devices_end,
        );
        writer.erase(whole.erasing.unwrap_or_default())?;
        Ok((archive, writer))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The verifier keys of witness, archive and own log.
    pub fn verifier_keys(&self) -> [VerifierKey; 3] {
        let keys: [&dyn Signer; 3] = [&self.keys.witness, &self.keys.archive, &*self.keys.log];
        keys.map(|key| key.verifier_key().clone())
    }

    /// What is known of a log.
    ///
    /// # Errors
    /// [`ArchiveError::Failed`] when a commit failed.
    pub fn frontier(&self, origin: &str) -> Result<FrontierAnswer, ArchiveError> {
        Ok(match self.line(origin)? {
            Some(line) => FrontierAnswer {
                size: line.size,
                root: line
                    .frontier()
                    .map_or_else(Digest::default, |frontier| frontier.root()),
                note: Some(line.note.clone()).filter(|note| !note.is_empty()),
                leaves_withheld: line.leaves_withheld,
                payloads_missing: line.payloads_missing,
                witnessed: line.witnessed(),
                withheld: line
                    .withheld
                    .iter()
                    .map(|withheld| (withheld.from, withheld.to))
                    .collect(),
            },
            None => FrontierAnswer {
                size: 0,
                root: Frontier::default().root(),
                note: None,
                leaves_withheld: 0,
                payloads_missing: 0,
                witnessed: 0,
                withheld: Vec::new(),
            },
        })
    }

    fn line(&self, origin: &str) -> Result<Option<Arc<Line>>, ArchiveError> {
        let state = self.state();
        if state.failed {
            return Err(ArchiveError::Failed);
        }
        Ok(state.lines.get(origin).cloned())
    }

    /// The logs of which something is archived.
    pub(crate) fn origins(&self) -> Vec<Arc<str>> {
        let state = self.state();
        let archived = state.lines.iter().filter(|(_, line)| line.size > 0);
        archived.map(|(origin, _)| origin.clone()).collect()
    }

    /// How many leaves of a log may still come that a request to erase may mean.
    pub(crate) fn awaited(
        &self,
        origin: &str,
        request: &EraseRequest,
    ) -> Result<u64, ArchiveError> {
        let line = self.line(origin)?;
        let withheld = line.iter().flat_map(|line| &line.withheld);
        let meant = withheld.filter(|withheld| {
            let near = (withheld.from.saturating_sub(PARTS_MAX), withheld.to);
            let near = Ranges::from(vec![near]).intersection(&request.ranges);
            !request.sessions.is_empty() || !near.is_empty()
        });
        Ok(meant.map(|withheld| withheld.to - withheld.from).sum())
    }

    /// The position after the last durable group.
    pub(crate) fn end(&self) -> u64 {
        self.state().end
    }

    /// An enrolled device, as its newest epoch knows it.
    pub(crate) fn device(&self, id: &str) -> Option<Arc<Device>> {
        self.state().devices.get(id).cloned()
    }

    /// The device whose log this is, as that epoch knows it.
    fn device_of(&self, origin: &str) -> Option<Arc<Device>> {
        let id = origin.rsplit('/').nth(1)?;
        let newest = self.device(id);
        let mut epochs = std::iter::successors(newest.as_ref(), |device| device.previous.as_ref());
        epochs.find(|device| device.row.origin == origin).cloned()
    }

    fn is_in_a_tpm(&self, origin: &str) -> bool {
        self.device_of(origin)
            .is_some_and(|device| device.ak.is_some())
    }

    /// What became of a log.
    pub(crate) fn life(&self, origin: &str) -> Option<Arc<Life>> {
        self.state().lives.get(origin).cloned()
    }

    /// Every device, by its id.
    pub fn devices(&self) -> Vec<DeviceReport> {
        let state = self.state();
        let mut devices: Vec<&Arc<Device>> = state.devices.values().collect();
        devices.sort_by(|a, b| a.row.id.cmp(&b.row.id));
        let report = |device: &Arc<Device>| {
            let epochs = std::iter::successors(Some(device), |device| device.previous.as_ref());
            DeviceReport {
                device: device.row.id.clone(),
                hostname: device.row.hostname.clone(),
                key_kind: device.row.key_kind.clone(),
                epochs: epochs.map(|device| state.epoch(device)).collect(),
            }
        };
        devices.into_iter().map(report).collect()
    }

    /// What is known of the machine of a device, by its newest log; `None` when it has none that speaks of itself.
    pub fn machine(&self, id: &str) -> Option<MachineReport> {
        let device = self.device(id)?;
        let line = self
            .state()
            .lines
            .get(device.row.origin.as_str())
            .cloned()?;
        let attested = line.attested.as_ref()?;
        let boot_log = attested.boot_log.as_ref();
        Some(MachineReport {
            device: device.row.id.clone(),
            hostname: device.row.hostname.clone(),
            origin: device.row.origin.clone(),
            attestation: attested.into(),
            quote: attested.quote,
            quoted_at: attested.quoted_at,
            pcrs: attested.history.pcrs(),
            boot_log: boot_log.map(KnownLog::report),
            facts: boot_log.and_then(KnownLog::facts).cloned(),
            policy: self.machine_policy.get().map(PolicyFile::report),
        })
    }

    /// Judges machines by this file from now on.
    pub(crate) fn accept_machines(&self, policy: PolicyFile) {
        // There is one collector to a folder, and it is told once.
        let _ = self.machine_policy.set(policy);
    }

    pub(crate) fn machine_policy(&self) -> Option<&PolicyFile> {
        self.machine_policy.get()
    }

    /// Notes that a device was heard of: a request of its log was authenticated.
    pub(crate) fn heard(&self, origin: &str) {
        let now = self.host.clock.now();
        self.state().silence.heard(origin, now);
    }

    /// Takes a nonce, or refuses a request whose nonce was taken or whose time is off.
    pub(crate) fn take_nonce(
        &self,
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
        let name = format!("{device}/{nonce}");
        let mut state = self.state();
        let state = &mut *state;
        let mine = state.nonces_of.get(device).copied().unwrap_or(0);
        if (state.nonces.len() >= state.nonces_prune || mine >= NONCES_OF_DEVICE)
            && state.nonces_pruned_at != now
        {
            state.nonces_pruned_at = now;
            state.nonces.retain(|_, time| *time + NONCE_WINDOW_S > now);
            state.nonces_of.clear();
            for name in state.nonces.keys() {
                let device = name.split('/').next().unwrap_or_default();
                *state.nonces_of.entry(device.to_owned()).or_default() += 1;
            }
            // Looked for again when there are twice as many: the search costs each request little.
            state.nonces_prune = (state.nonces.len() * 2).clamp(1_000, NONCES_MAX);
        }
        let mine = state.nonces_of.get(device).copied().unwrap_or(0);
        if state.nonces.len() >= NONCES_MAX || mine >= NONCES_OF_DEVICE {
            return Err(Refused::busy("too many requests in the last ten minutes"));
        }
        if state.nonces.contains_key(&name) {
            return Err(Refused::new(
                401,
                "replayed_nonce",
                "this nonce was used before",
            ));
        }
        state.nonces.insert(name, timestamp);
        *state.nonces_of.entry(device.to_owned()).or_default() += 1;
        Ok(())
    }

    /// Judges an upload against what is known of its log, and cosigns its head. Nothing is stored
    /// yet, and the signatures must not leave before it is.
    ///
    /// # Errors
    /// [`ArchiveError`]: the collector's own failure.
    pub(crate) fn judge(
        &self,
        origin: &str,
        key: &VerifierKey,
        nonce: &(String, u64),
        body: &Bytes,
    ) -> Result<Judgement, ArchiveError> {
        let before = self.line(origin)?;
        let life = self.life(origin);
        let is_revoked = |key: &VerifierKey| matches!(&life, Some(life) if life.is_revoked_before(&key.to_string()));
        let mut known = match &before {
            Some(line) => line
                .known(key)
                .ok_or_else(|| ArchiveError::Damaged(format!("the frontier of {origin}")))?,
            None => Known {
                frontier: Frontier::default(),
                chain: Chain::new(origin),
                key: key.clone(),
                before: None,
                retired: Vec::new(),
            },
        };
        // A thief's word against the head that it signed before ends nothing any more.
        known.before = known.before.filter(|key| !is_revoked(key));
        let mut raw = self.buffers().pop().unwrap_or_default();
        let mut withheld = None;
        let judged = decompress(body, &mut raw).and_then(|()| {
            withheld = before.as_ref().and_then(|line| line.withheld_at(&raw, key));
            match &withheld {
                Some((withheld, late)) => {
                    let size = known.frontier.size();
                    let judged = judge_late(&raw, origin, late, withheld, size);
                    judged.map_err(|refused| match refused.fork {
                        Some(_) if is_revoked(&late.key) => Refused::conflict(size),
                        _ => refused,
                    })
                }
                None => {
                    let ahead = before.as_deref().and_then(Line::must_pass);
                    let judged = judge(&raw, origin, &known);
                    let judged = judged.map_err(|refused| {
                        let refused = with_head(refused, &raw, origin, &known);
                        witnessing::weigh(refused, ahead)
                    });
                    judged.and_then(|judged| {
                        if let (Some(judged), Some(ahead)) = (&judged, ahead) {
                            witnessing::passes(&raw, &known.frontier, judged, ahead)?;
                        }
                        Ok(judged)
                    })
                }
            }
        });
        // A buffer that a rare huge upload filled is given back; the others stay warm.
        if raw.len() <= BUFFER_BYTES_KEPT {
            self.buffers().push(raw);
        }
        Ok(match (judged, before) {
            (Ok(Some(judged)), Some(before)) if let Some((withheld, known)) = withheld => {
                let body = match before.without_erased(body) {
                    Ok(body) => body,
                    Err(error) => {
                        let refused = Refused::new(400, "malformed", error.to_string());
                        return Ok(Judgement::Answer(Err(refused)));
                    }
                };
                let upload =
                    self.prepare_late(origin, nonce, body, &known, before, &withheld, &judged)?;
                Judgement::Store(Ask::Upload(Box::new(upload)))
            }
            // Its label would stay, and the next key is a file.
            (Ok(Some(judged)), _) if !judged.rotations.is_empty() && self.is_in_a_tpm(origin) => {
                let message =
                    "the key of this log is in a TPM and is not rotated; begin another epoch";
                Judgement::Answer(Err(Refused::new(422, "bad_rotation", message)))
            }
            (Ok(Some(judged)), before) => {
                let upload = self.prepare(origin, key, nonce, body, &known, before, &judged)?;
                Judgement::Store(Ask::Upload(Box::new(upload)))
            }
            (Ok(None), Some(line)) if line.fork.is_none() && line.size > 0 => {
                Judgement::Answer(Ok(self.answer(&line)))
            }
            (Ok(None), _) => Judgement::Answer(Err(Refused::conflict(known.frontier.size()))),
            (Err(refused), Some(line)) if refused.fork.is_some() && line.is_news(&refused) => {
                Judgement::Store(Ask::Fork {
                    origin: origin.to_owned(),
                    witnessed: line.contradicted(&refused),
                    refused,
                })
            }
            (Err(refused), _) => Judgement::Answer(Err(refused)),
        })
    }

    fn buffers(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, line: &Line) -> Accepted {
        Accepted {
            size: line.size,
            note: line.note.clone(),
            next_upload_s: self.next_upload_s,
            leaves_withheld: line.leaves_withheld,
            payloads_missing: line.payloads_missing,
            witnessed: line.witnessed(),
            quote: line
                .attested
                .as_ref()
                .is_some_and(|attested| attested.is_old(self.host.clock.now().unix_s())),
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "all that was found out about one upload"
    )]
    fn prepare(
        &self,
        origin: &str,
        enrolled: &VerifierKey,
        nonce: &(String, u64),
        body: &Bytes,
        known: &Known,
        before: Option<Arc<Line>>,
        judged: &Judged,
    ) -> Result<Prepared, ArchiveError> {
        let size = judged.frontier.size();
        let mut line = Line {
            size,
            roots: judged.frontier.roots().to_vec(),
            chain: judged.chain.0,
            leaves_withheld: judged.leaves_withheld,
            ..Line::default()
        };
        let text = |key: &VerifierKey| (key != enrolled).then(|| key.to_string());
        line.key = text(&judged.key);
        line.key_before = (judged.signed_by != judged.key).then(|| judged.signed_by.to_string());
        if let Some(last) = before.as_deref() {
            line.payloads_missing = last.payloads_missing;
            line.missing.clone_from(&last.missing);
            line.leaves_withheld += last.leaves_withheld;
            line.withheld.clone_from(&last.withheld);
            line.awaited.clone_from(&last.awaited);
            line.late = last.late;
            line.retired.clone_from(&last.retired);
            line.time = last.time;
            line.fork.clone_from(&last.fork);
            line.disputed.clone_from(&last.disputed);
            line.attested.clone_from(&last.attested);
            // The entries that give it came.
            line.disputed
                .take_if(|head| (head.size, head.root) == (size, judged.root));
            line.follow(last);
        }
        let rotated = judged.rotations.iter();
        line.retired
            .extend(rotated.map(|(rotation, _)| rotation.from.to_string()));
        line.miss(&judged.missing, &judged.erased);
        // What the device pruned never comes; only an upload of nothing but hashes may.
        let may_come = judged.leaves_withheld == size - judged.from;
        if may_come && line.withheld.len() < WITHHELD_MAX {
            line.withheld.push(Withheld {
                from: judged.from,
                to: size,
                roots: known.frontier.roots().to_vec(),
                chain: known.chain.0,
                root: judged.root,
                leaves: judged.leaves_withheld,
                payloads: judged.missing.leaves(),
                erased: Ranges::default(),
                key: text(&judged.signed_by),
            });
        }
        let now = self.host.clock.now().unix_s();
        let mut attested = Vec::new();
        if let Some(device) = self.device_of(origin).filter(|device| device.ak.is_some()) {
            let [witness, archive, _] = self.verifier_keys();
            let standing = line.attested.get_or_insert_default();
            let policy = self.machine_policy.get().map(PolicyFile::in_force);
            let cosigners = [archive, witness];
            attested = standing.take(&device, &cosigners, &judged.said, policy.as_deref(), now);
        }
        let mut note = judged.note.clone();
        // Only the device's own signature is kept: foreign lines would be stored for nothing.
        let signed_by = &judged.signed_by;
        note.signatures
            .retain(|signature| signed_by.made(signature));
        line.cosign(&self.keys, note, now)?;
        let header = UploadHeader {
            origin: origin.to_owned(),
            from: judged.from,
            to: size,
            received_at: now,
            chain: known.chain.0,
            late: false,
            instead_of: None,
        };
        Ok(Prepared {
            header,
            before,
            line,
            body: body.clone(),
            root: judged.root,
            nonce: nonce.clone(),
            rotations: judged.rotations.clone(),
            boots: judged.boots.clone(),
            erased: Vec::new(),
            attested,
        })
    }

    /// What came instead of withheld leaves: the head stays, and may now be cosigned as archived.
    #[expect(
        clippy::too_many_arguments,
        reason = "all that was found out about one upload"
    )]
    fn prepare_late(
        &self,
        origin: &str,
        nonce: &(String, u64),
        (body, erased): (Bytes, Vec<(EraseRequest, Ranges)>),
        known: &Known,
        before: Arc<Line>,
        withheld: &Withheld,
        judged: &Judged,
    ) -> Result<Prepared, ArchiveError> {
        let damaged = |what: String| ArchiveError::Damaged(what);
        let mut line = Line::clone(&before);
        line.withheld.retain(|other| other.from != withheld.from);
        let still = line.withheld.iter().map(|withheld| withheld.from).min();
        line.awaited
            .retain(|awaited| still.is_some_and(|from| from < awaited.below));
        line.leaves_withheld -= withheld.leaves.min(line.leaves_withheld);
        line.payloads_missing -= withheld.payloads.min(line.payloads_missing);
        line.miss(&judged.missing.without(&withheld.erased), &judged.erased);
        line.late += 1;
        let now = self.host.clock.now().unix_s();
        let mut note =
            Note::parse(line.note.as_bytes()).map_err(|error| damaged(error.to_string()))?;
        // Only the device's own signature was kept with it.
        note.signatures.retain(|signature| signature.name == origin);
        line.cosign(&self.keys, note, now)?;
        let header = UploadHeader {
            origin: origin.to_owned(),
            from: withheld.from,
            to: withheld.to,
            received_at: now,
            chain: known.chain.0,
            late: true,
            instead_of: None,
        };
        Ok(Prepared {
            header,
            before: Some(before),
            line,
            body,
            root: judged.root,
            nonce: nonce.clone(),
            rotations: Vec::new(),
            // They stand before others that came earlier.
            boots: Vec::new(),
            erased,
            attested: Vec::new(),
        })
    }

    /// Ends what reads the archive through on somebody's order.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether such reading may go on.
    pub(crate) fn goes_on(&self) -> Result<(), ArchiveError> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(ArchiveError::Stopping);
        }
        Ok(())
    }

    /// A reader over the archive, from one position to another that is durable.
    pub(crate) fn reader(&self, from: u64, to: u64) -> Result<Reader, ArchiveError> {
        Ok(Reader::new(self.host.disk.clone(), &self.dir, from, to)?)
    }

    /// The records of an upload whose record at this position was erased.
    pub(crate) fn instead_of(&self, position: u64) -> Result<Vec<u8>, ArchiveError> {
        instead_of(&|from| self.reader(from, self.end()), position)
    }

    /// Where it is kept, and up to where it is durable.
    pub(crate) fn place(&self) -> (Arc<dyn Disk>, PathBuf, u64) {
        (self.host.disk.clone(), self.dir.clone(), self.end())
    }

    /// Counts a refusal.
    pub(crate) fn count_refusal(&self, code: &str) {
        *self
            .state()
            .stats
            .refused
            .entry(code.to_owned())
            .or_default() += 1;
    }

    /// Says how the SIEM file is doing.
    pub(crate) fn note_siem(&self, lines: u64, problem: Option<String>) {
        let mut state = self.state();
        state.stats.siem_lines += lines;
        state.stats.siem_problem = problem;
    }

    /// Numbers.
    pub fn stats(&self) -> Stats {
        self.state().stats.clone()
    }
}

impl State {
    fn epoch(&self, device: &Device) -> EpochReport {
        let row = &device.row;
        let line = self.lines.get(row.origin.as_str());
        let key = line.and_then(|line| line.key.clone());
        let archived = line.filter(|line| line.size > 0);
        let heard_at = archived.map_or(row.enrolled_at, |line| line.time);
        let mut standing = Vec::new();
        if line.is_some_and(|line| line.fork.is_some()) {
            standing.push(Standing::Forked);
        }
        if let Some(Disputed { leaf, .. }) = line.and_then(|line| line.disputed.as_ref()) {
            standing.push(Standing::Disputed { leaf: *leaf });
        }
        if let Some(life) = self.lives.get(row.origin.as_str()) {
            standing.extend(life.standing());
        }
        if standing.is_empty() {
            standing.push(Standing::Active);
        }
        EpochReport {
            epoch: device.epoch(),
            origin: row.origin.clone(),
            key: key.unwrap_or_else(|| row.key.clone()),
            keys_before: line.map_or_else(Vec::new, |line| line.retired.clone()),
            enrolled_at: row.enrolled_at,
            heard_at: self.silence.heard_at(&row.origin).unwrap_or(heard_at),
            size: line.map_or(0, |line| line.size),
            attestation: line.and_then(|line| line.attested.as_ref()).map(Into::into),
            standing,
        }
    }
}

impl Line {
    /// The withheld leaves in whose place an upload begins.
    fn withheld_at(&self, raw: &[u8], enrolled: &VerifierKey) -> Option<(Withheld, Known)> {
        // Hashes sent again are a resubmission like any other.
        if !matches!(RecordReader::new(raw).next(), Some(Ok(Record::Entry(_)))) {
            return None;
        }
        let from = begins_at(raw).ok()??;
        let withheld = self
            .withheld
            .iter()
            .find(|withheld| withheld.from == from)?;
        let frontier = Frontier::from_parts(from, withheld.roots.clone())?;
        let known = Known {
            frontier,
            chain: Chain(withheld.chain),
            key: key_or(withheld.key.as_deref(), enrolled)?,
            before: None,
            retired: Vec::new(),
        };
        Some((withheld.clone(), known))
    }
}

/// Judges what came instead of withheld leaves: the very ones that were accepted, all of them. Anything
/// else that holds together is a resubmission like any other.
fn judge_late(
    raw: &[u8],
    origin: &str,
    known: &Known,
    withheld: &Withheld,
    size: u64,
) -> Result<Option<Judged>, Refused> {
    let judged = match judge(raw, origin, known) {
        Ok(judged) => judged,
        Err(mut refused) => {
            // Only another root at the very size that was accepted contradicts it. The accepted head
            // itself, around other entries, says that the entries are wrong.
            let Some(fork) = refused.fork.take() else {
                return Err(refused);
            };
            let contradicts = head_of(&fork)
                .is_some_and(|head| head.size == withheld.to && head.root != withheld.root);
            if contradicts {
                return Err(another_root(fork, withheld.to));
            }
            refused.refusal.code = INCONSISTENT.into();
            return Err(refused);
        }
    };
    let Some(judged) = judged else {
        return Err(Refused::conflict(size));
    };
    if judged.frontier.size() == withheld.to && judged.root != withheld.root {
        return Err(another_root(judged.note.encode(), withheld.to));
    }
    if judged.frontier.size() != withheld.to || judged.leaves_withheld > 0 {
        return Err(Refused::conflict(size));
    }
    if !judged.rotations.is_empty() {
        // The heads after it were signed by the key that this would have ended.
        let message = "a rotation that came only after the heads behind it";
        return Err(Refused::new(422, "bad_rotation", message));
    }
    Ok(Some(judged))
}

fn head_of(note: &str) -> Option<Checkpoint> {
    Checkpoint::parse(&Note::parse(note.as_bytes()).ok()?.text).ok()
}

/// A snapshot's bytes: digests in hex are half air.
fn pack(whole: &Change<'_>) -> Vec<u8> {
    let json = serde_json::to_vec(whole).expect("maps with text keys can be written as JSON");
    zstd::bulk::compress(&json, 1).expect("the buffer is as large as zstd may need")
}

fn unpack(bytes: &[u8]) -> std::io::Result<Change<'static>> {
    let decoder = zstd::stream::read::Decoder::with_buffer(bytes)?;
    let mut json = Vec::new();
    decoder.take(SNAPSHOT_BYTES_MAX).read_to_end(&mut json)?;
    Ok(serde_json::from_slice(&json)?)
}

/// How often another erasure may come in between before a reader gives up.
const ERASURES_MAX: usize = 16;

/// The records of an upload whose record at this position was erased: the ones that were archived in its
/// place before that, however new they are. `open` gives a reader up to the newest durable group.
pub(crate) fn instead_of(
    open: &dyn Fn(u64) -> Result<Reader, ArchiveError>,
    position: u64,
) -> Result<Vec<u8>, ArchiveError> {
    for _ in 0..ERASURES_MAX {
        let mut first = None;
        let mut newest = None;
        let mut reader = open(position)?;
        while let Some(item) = reader.next_record()? {
            if item.kind != kind::UPLOAD {
                continue;
            }
            let (header, body) = split_upload(item.body)?;
            let first = *first.get_or_insert(header.instead_of.unwrap_or(position));
            if header.instead_of == Some(first) && !item.erased {
                newest = Some(body.to_vec());
            }
        }
        if let Some(newest) = newest {
            return Ok(newest);
        }
        // Erased again since the reader was opened: its successor stands after the end that it had.
    }
    let what = "an erased upload without another one; if an erasure is under way, try again when it is done";
    Err(ArchiveError::Damaged(what.into()))
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

#[cfg(test)]
pub(crate) mod tests;
