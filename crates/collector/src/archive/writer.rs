//! The one that writes: what was asked meanwhile becomes durable in one group.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jurat_disk::Time;
use jurat_event::{EraseRequest, Kind, Ranges};
use jurat_ledger::{Group, Ledger};
use jurat_proof::{ForkProof, Frontier, Note, leaf_hash, sha256, verify_reenrolment};
use jurat_sink::{Accepted, Predecessor};
use jurat_witness::{Answer, origin_hash};
use serde_json::{Map, json};

use super::witnessing::Witnessed;
use super::{
    AWAITED_BYTES_MAX, Archive, ArchiveError, Awaited, Change, Device, Disputed, Line,
    NONCE_WINDOW_S, Prepared, head_of,
};
use super::{kind, pack};
use crate::Refused;
use crate::devices;
use crate::erase::Erasure;
use crate::life::{Life, Revoked};
use crate::machine::{PolicyFile, PolicyReport};
use crate::own_log::OwnLog;

/// What is asked of the writer.
pub(crate) enum Ask {
    /// Store an upload and move its frontier.
    Upload(Box<Prepared>),
    /// Keep a signed head that contradicts what was witnessed.
    Fork {
        origin: String,
        /// The cosigned note that it contradicts.
        witnessed: String,
        refused: Refused,
    },
    /// Enrol a device.
    Enrol(Box<Device>),
    /// Remember what the witness cosigned, or the fork that it found.
    Witness(Box<Witnessed>),
    /// Keep the cosignatures of others under a checkpoint of the own log.
    OwnCosigned { note: String, quorum: bool },
    /// Begin a device's next epoch.
    Reenrol(Box<Device>, Again),
    /// Let a key of a device count no more: of its newest epoch, and the one that signs now, unless another
    /// is named.
    Revoke {
        device: String,
        reason: String,
        epoch: Option<u64>,
        key: Option<String>,
    },
    /// Let a device begin its next epoch without its old key's consent.
    AllowReenrolment { device: String },
    /// Note which boot asks.
    Boot { origin: String, boot: String },
    /// Say that a log is silent.
    Silent { origin: Arc<str>, since: u64 },
    /// Say that it is not any more.
    Returned { origin: Arc<str> },
    /// Name the settings and the machine policy in force, when they are others than before.
    Policy {
        digest: String,
        machines: Option<PolicyReport>,
    },
    /// Remember payloads that are to be erased although they did not come yet.
    Await {
        origin: String,
        request: EraseRequest,
    },
    /// Put uploads without some payloads in the place of those with them, and erase those.
    Erase(Box<Erasure>),
}

/// What a device says of the epoch that it ends.
pub(crate) struct Again {
    pub(crate) predecessor: Predecessor,
    /// The new public key, and the old key's signature over it.
    pub(crate) new_key: Vec<u8>,
    pub(crate) proof: Option<String>,
}

impl Ask {
    /// About how many bytes it adds to a group.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Upload(upload) => upload.body.len() + 4096,
            Self::Witness(_) | Self::OwnCosigned { .. } => 64 * 1024,
            Self::Erase(erasure) => {
                let bodies = erasure.uploads.iter().map(|upload| upload.body.len());
                bodies.sum::<usize>() + 16 * 1024
            }
            _ => 16 * 1024,
        }
    }
}

/// What became of it, durable.
pub(crate) enum Done {
    /// The upload is archived.
    Accepted(Accepted),
    /// Another upload of this log came first: judge it again. Nothing of it was stored.
    Stale,
    /// The fork proof is kept, or one was there before.
    Refused(Refused),
    /// The device is enrolled.
    Enrolled,
    /// The id is taken. Nothing of it was stored.
    Taken,
    /// What the witness says.
    Witnessed(Answer),
    /// It is kept.
    Kept,
    /// It stands in this leaf of the own log, now or since before.
    Said(u64),
    /// There was nothing to say.
    Nothing,
    /// There is no such device.
    Unknown,
    /// The payloads of these leaves are erased, and these leaves of the own log say so.
    Erased { ranges: Ranges, leaves: Vec<u64> },
}

/// The longest reason of a revocation that is kept.
const REASON_CHARS_MAX: usize = 1_000;

/// Why a log takes no uploads any more.
pub(crate) fn refused_for_good(life: &Life) -> Option<Refused> {
    if life.closed_by.is_some() {
        return Some(Refused::epoch_closed());
    }
    let revoked = life.revoked.as_ref()?;
    let message = format!(
        "the key of this log is revoked since leaf {} of the collector's log: {}",
        revoked.leaf, revoked.reason
    );
    Some(Refused::new(403, "revoked", message))
}

/// What the leaf of an enrolment says: who may sign, and no secret.
///
/// A device's keys in a TPM whose endorsement key another device showed are a machine that was set up anew, or two
/// of which one is a copy: `same_tpm_as` names the others.
fn enrolled(device: &Device, same: Vec<String>) -> Map<String, serde_json::Value> {
    let row = &device.row;
    let mut detail = Map::new();
    detail.insert("origin".into(), row.origin.clone().into());
    detail.insert("key".into(), row.key.clone().into());
    detail.insert("key_kind".into(), row.key_kind.clone().into());
    detail.insert("hostname".into(), json!(row.hostname));
    if let Some(tpm) = &row.tpm {
        let evidence = sha256(&[&tpm.evidence]).to_string();
        detail.insert("evidence".into(), evidence.into());
        detail.insert("ek".into(), tpm.ek.clone().into());
        if let Some(maker) = &tpm.identity {
            detail.insert("tpm".into(), json!(maker));
        }
    }
    if !same.is_empty() {
        detail.insert("same_tpm_as".into(), same.into());
    }
    detail
}

/// The most devices that a leaf names.
const SAME_MAX: usize = 16;

/// Whom two heads show a fork.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shows {
    Everybody,
    /// Who saw the entries.
    Us,
    /// Nobody yet: the log goes on.
    MayBe,
}

/// The most ranges that one leaf names.
const RANGES_MAX: usize = 256;

/// Owns the archive's ledger and the device table.
pub(crate) struct Writer {
    archive: Arc<Archive>,
    ledger: Ledger,
    devices: Ledger,
    devices_end: u64,
    own: OwnLog,
    own_signed: u64,
    /// The digest of the settings.
    settings: String,
    /// Records that were erased since the archive was opened: what was made of them before does not count.
    erased: BTreeSet<u64>,
}

/// A group that is being put together.
struct Round {
    group: Group,
    own: Frontier,
    time: Time,
    lines: BTreeMap<Arc<str>, Arc<Line>>,
    lives: BTreeMap<Arc<str>, Arc<Life>>,
    policy: Option<String>,
    nonces: BTreeMap<String, u64>,
    devices: Group,
    enrolled: Vec<Arc<Device>>,
    own_cosigned: Option<String>,
    own_partly: Option<String>,
    accepted: u64,
    erasing: Vec<(u64, u32)>,
}

impl Writer {
    pub(super) fn new(
        archive: Arc<Archive>,
        ledger: Ledger,
        devices: Ledger,
        own: OwnLog,
        devices_end: u64,
    ) -> Self {
        Self {
            archive,
            ledger,
            devices,
            devices_end,
            own,
            own_signed: 0,
            settings: String::new(),
            erased: BTreeSet::new(),
        }
    }

    /// Does what was asked, in this order, and makes it durable with one fdatasync (enrolments: with
    /// one more, before). What everybody sees moves only when the disk has it.
    ///
    /// # Errors
    /// [`ArchiveError`]: nothing may be answered, and nothing is said any more; open the archive anew.
    pub(crate) fn commit(&mut self, asked: Vec<Ask>) -> Result<Vec<Done>, ArchiveError> {
        let done = self.try_commit(asked);
        if done.is_err() {
            self.archive.state().failed = true;
        }
        done
    }

    fn try_commit(&mut self, asked: Vec<Ask>) -> Result<Vec<Done>, ArchiveError> {
        self.check()?;
        let mut round = Round {
            group: Group::new(),
            own: self.own.frontier.clone(),
            time: self.archive.host.clock.now(),
            lines: BTreeMap::new(),
            lives: BTreeMap::new(),
            policy: None,
            nonces: BTreeMap::new(),
            devices: Group::new(),
            enrolled: Vec::new(),
            own_cosigned: None,
            own_partly: None,
            accepted: 0,
            erasing: Vec::new(),
        };
        if round.own.size() == 0 && !asked.is_empty() {
            // As in every log, the first leaf names the log.
            let mut detail = Map::new();
            detail.insert("origin".into(), self.own.origin.as_str().into());
            self.own_entry(&mut round, Kind::LogOpened, detail)?;
        }
        let mut done = Vec::with_capacity(asked.len());
        for ask in asked {
            done.push(match ask {
                Ask::Upload(upload) => self.upload(&mut round, *upload)?,
                Ask::Fork {
                    origin,
                    witnessed,
                    refused,
                } => self.fork(&mut round, &origin, &witnessed, refused)?,
                Ask::Enrol(device) => self.enrol(&mut round, *device)?,
                Ask::Witness(witnessed) => self.witness(&mut round, *witnessed)?,
                Ask::OwnCosigned { note, quorum } => {
                    let (kind, kept) = if quorum {
                        (kind::OWN_COSIGNED, &mut round.own_cosigned)
                    } else {
                        (kind::OWN_PARTLY, &mut round.own_partly)
                    };
                    round.group.push(kind, &[note.as_bytes()])?;
                    *kept = Some(note);
                    Done::Kept
                }
                Ask::Reenrol(device, again) => self.reenrol(&mut round, *device, &again)?,
                Ask::Revoke {
                    device,
                    reason,
                    epoch,
                    key,
                } => self.revoke(&mut round, &device, &reason, epoch, key.as_deref())?,
                Ask::AllowReenrolment { device } => self.allow(&mut round, &device)?,
                Ask::Boot { origin, boot } => self.boots(&mut round, &origin, &[boot], false)?,
                Ask::Silent { origin, since } => self.silent(&mut round, &origin, Some(since))?,
                Ask::Returned { origin } => self.silent(&mut round, &origin, None)?,
                Ask::Policy { digest, machines } => self.policy(&mut round, digest, machines)?,
                Ask::Await { origin, request } => self.wait(&mut round, &origin, request),
                Ask::Erase(erasure) => self.thin(&mut round, *erasure)?,
            });
        }
        if round.is_empty() {
            return Ok(done);
        }
        // The table first: what a crash leaves there without its leaf does not count, and is erased.
        let devices_end = if round.devices.is_empty() {
            self.devices_end
        } else {
            self.devices
                .append(&mut round.devices, b"", &mut Vec::new)?
        };
        let change = Change {
            lines: round
                .lines
                .iter()
                .map(|(origin, line)| (Cow::Borrowed(&**origin), Cow::Borrowed(&**line)))
                .collect(),
            lives: round
                .lives
                .iter()
                .map(|(origin, life)| (Cow::Borrowed(&**origin), Cow::Borrowed(&**life)))
                .collect(),
            policy: round.policy.as_deref().map(Cow::Borrowed),
            nonces: round
                .nonces
                .iter()
                .map(|(name, time)| (Cow::Borrowed(name.as_str()), *time))
                .collect(),
            own_cosigned: round.own_cosigned.as_deref().map(Cow::Borrowed),
            own_size: round.own.size(),
            own_roots: Cow::Borrowed(round.own.roots()),
            devices_end,
            erasing: (!round.erasing.is_empty()).then(|| round.erasing.clone()),
        };
        let state = serde_json::to_vec(&change).unwrap_or_default();
        let mut group = std::mem::take(&mut round.group);
        let mut snapshot = || self.archive.snapshot(Some(&round), &round.own, devices_end);
        self.ledger.append(&mut group, &state, &mut snapshot)?;
        self.devices_end = devices_end;
        self.own.frontier = round.own;
        let mut state = self.archive.state();
        state.end = self.ledger.end();
        state.stats.archive_bytes = state.end;
        state.stats.own_leaves = self.own.frontier.size();
        state.stats.accepted += round.accepted;
        state.own_cosigned = round.own_cosigned.or(state.own_cosigned.take());
        state.own_partly = round.own_partly.or(state.own_partly.take());
        for (origin, line) in round.lines {
            let (size, fork) = (line.size, line.fork.is_some());
            state.origins.insert(origin_hash(&origin), origin.clone());
            let before = state.lines.insert(origin, line);
            let is_new = before.as_ref().is_none_or(|line| line.size == 0);
            state.stats.logs += u64::from(is_new && size > 0);
            state.stats.leaves += size - before.as_ref().map_or(0, |line| line.size);
            let forked = before.is_some_and(|line| line.fork.is_some());
            state.stats.forks += u64::from(fork && !forked);
        }
        state.policy = round.policy.or(state.policy.take());
        for device in round.enrolled {
            let origin = device.row.origin.as_str().into();
            let enrolled_at = device.row.enrolled_at;
            state.silence.watch(origin, enrolled_at, false, round.time);
            let (id, previous) = (device.row.id.clone(), device.previous.is_some());
            state.stats.devices += u64::from(!previous);
            state.devices.insert(id, device);
        }
        for (origin, life) in round.lives {
            let before = state.lives.get(&origin).and_then(|life| life.silent_since);
            if life.revoked.is_some() || life.closed_by.is_some() {
                state.silence.forget(&origin);
            } else if life.silent_since != before {
                state.silence.told(&origin, life.silent_since);
            }
            state.lives.insert(origin, life);
        }
        drop(state);
        self.erase(round.erasing)?;
        Ok(done)
    }

    /// Erases records that the state names, which stays so until it is done: a crash in between is made good
    /// when the archive is opened.
    pub(super) fn erase(&mut self, places: Vec<(u64, u32)>) -> Result<(), ArchiveError> {
        if places.is_empty() {
            return Ok(());
        }
        self.ledger.erase(&places)?;
        self.erased
            .extend(places.iter().map(|(position, _)| *position));
        let (own, devices_end) = (&self.own.frontier, self.devices_end);
        let change = Change {
            own_size: own.size(),
            own_roots: Cow::Borrowed(own.roots()),
            devices_end,
            erasing: Some(Vec::new()),
            ..Change::default()
        };
        let state = serde_json::to_vec(&change).unwrap_or_default();
        let mut snapshot = || self.archive.snapshot(None, own, devices_end);
        self.ledger
            .append(&mut Group::new(), &state, &mut snapshot)?;
        let mut state = self.archive.state();
        state.end = self.ledger.end();
        state.stats.archive_bytes = state.end;
        Ok(())
    }

    /// New records in the place of old ones, and leaves in the own log that say so.
    fn thin(&self, round: &mut Round, erasure: Erasure) -> Result<Done, ArchiveError> {
        let places = erasure.uploads.iter().map(|upload| upload.place);
        let mut before = round.erasing.iter().map(|(position, _)| *position);
        if places.clone().any(|(position, _)| {
            self.erased.contains(&position) || before.any(|known| known == position)
        }) {
            return Ok(Done::Stale);
        }
        round.erasing.extend(places);
        let mut ranges = Ranges::default();
        for upload in &erasure.uploads {
            let header = serde_json::to_vec(&upload.header).unwrap_or_default();
            let parts: [&[u8]; 3] = [&(header.len() as u32).to_le_bytes(), &header, &upload.body];
            round.group.push(kind::UPLOAD, &parts)?;
            ranges = ranges.union(&upload.gone);
        }
        let Erasure {
            origin,
            who,
            reason,
            ..
        } = &erasure;
        let leaves = self.erased_leaves(round, origin, [who, reason], &ranges)?;
        Ok(Done::Erased { ranges, leaves })
    }

    /// The leaves in the own log that say who erased these payloads, and why.
    fn erased_leaves(
        &self,
        round: &mut Round,
        origin: &str,
        [who, reason]: [&str; 2],
        ranges: &Ranges,
    ) -> Result<Vec<u64>, ArchiveError> {
        let mut leaves = Vec::new();
        for pairs in ranges.pairs().chunks(RANGES_MAX) {
            let mut detail = Map::new();
            detail.insert("origin".into(), origin.into());
            detail.insert("ranges".into(), json!(pairs));
            let count = pairs.iter().map(|(from, to)| to - from).sum::<u64>();
            detail.insert("count".into(), count.into());
            detail.insert("who".into(), who.into());
            detail.insert("reason".into(), reason.into());
            leaves.push(round.own.size());
            self.own_entry(round, Kind::PayloadErased, detail)?;
        }
        Ok(leaves)
    }

    /// What is erased before it came is left out when it comes.
    fn wait(&self, round: &mut Round, origin: &str, request: EraseRequest) -> Done {
        let Some(line) = self.line(round, origin) else {
            return Done::Unknown;
        };
        if line.withheld.is_empty() {
            return Done::Nothing;
        }
        let mut line = Line::clone(&line);
        let below = line.size;
        // One order with those of the same words, unless it would mean what came since of a session that is
        // not named again.
        let mut one = request;
        let last = line.withheld.iter().map(|withheld| withheld.to).max();
        line.awaited.retain(|awaited| {
            let before = &awaited.request;
            let mut sessions = before.sessions.iter();
            let joins = (&before.who, &before.reason) == (&one.who, &one.reason)
                && (last <= Some(awaited.below)
                    || sessions.all(|session| one.sessions.contains(session)));
            if joins {
                one.ranges = one.ranges.union(&before.ranges);
                let new = before.sessions.iter();
                let new: Vec<_> = new
                    .filter(|name| !one.sessions.contains(name))
                    .cloned()
                    .collect();
                one.sessions.extend(new);
            }
            !joins
        });
        let request = one;
        line.awaited.push(Awaited { below, request });
        let bytes = serde_json::to_vec(&line.awaited).map_or(usize::MAX, |orders| orders.len());
        if bytes > AWAITED_BYTES_MAX {
            let message = "too many orders wait for payloads of this log that did not come yet";
            return Done::Refused(Refused::new(409, "too_many", message));
        }
        round.lines.insert(origin.into(), Arc::new(line));
        Done::Kept
    }

    fn check(&self) -> Result<(), ArchiveError> {
        if self.archive.state().failed {
            return Err(ArchiveError::Failed);
        }
        Ok(())
    }

    /// The log as this group leaves it.
    fn line(&self, round: &Round, origin: &str) -> Option<Arc<Line>> {
        let changed = round.lines.get(origin).cloned();
        changed.or_else(|| self.archive.state().lines.get(origin).cloned())
    }

    /// What became of a log, as this group leaves it.
    fn life(&self, round: &Round, origin: &str) -> Life {
        let changed = round.lives.get(origin).cloned();
        let life = changed.or_else(|| self.archive.life(origin));
        life.map_or_else(Life::default, |life| Life::clone(&life))
    }

    /// A device, as this group leaves it.
    fn device(&self, round: &Round, id: &str) -> Option<Arc<Device>> {
        let mut changed = round.enrolled.iter().rev();
        let changed = changed.find(|device| device.row.id == id).cloned();
        changed.or_else(|| self.archive.device(id))
    }

    fn upload(&self, round: &mut Round, upload: Prepared) -> Result<Done, ArchiveError> {
        let origin = &upload.header.origin;
        // Revoked or closed while it was being judged.
        if let Some(refused) = refused_for_good(&self.life(round, origin)) {
            return Ok(Done::Refused(refused));
        }
        let now = self.line(round, origin);
        if !is_same(now.as_ref(), upload.before.as_ref()) {
            return Ok(Done::Stale);
        }
        let header = serde_json::to_vec(&upload.header).unwrap_or_default();
        let line = upload.line;
        let parts: [&[u8]; 3] = [&(header.len() as u32).to_le_bytes(), &header, &upload.body];
        round.group.push(kind::UPLOAD, &parts)?;
        round.group.push(kind::NOTE, &[line.note.as_bytes()])?;
        for (rotation, size) in &upload.rotations {
            let mut detail = Map::new();
            detail.insert("origin".into(), origin.clone().into());
            detail.insert("from".into(), rotation.from.to_string().into());
            detail.insert("key".into(), rotation.key.to_string().into());
            detail.insert("size".into(), (*size).into());
            self.own_entry(round, Kind::KeyRotated, detail)?;
        }
        self.boots(round, origin, &upload.boots, true)?;
        let mut detail = Map::new();
        detail.insert("origin".into(), origin.clone().into());
        detail.insert("size".into(), upload.header.to.into());
        detail.insert("root".into(), upload.root.to_string().into());
        if upload.header.late {
            detail.insert("late_from".into(), upload.header.from.into());
        }
        if line.leaves_withheld > 0 {
            detail.insert("leaves_withheld".into(), line.leaves_withheld.into());
        }
        self.own_entry(round, Kind::FrontierAccepted, detail)?;
        for detail in upload.attested {
            self.own_entry(round, Kind::AttestationJudged, detail)?;
        }
        for (request, ranges) in &upload.erased {
            let by: [&str; 2] = [&request.who, &request.reason];
            self.erased_leaves(round, origin, by, ranges)?;
        }
        let accepted = self.archive.answer(&line);
        round.lines.insert(origin.as_str().into(), Arc::new(line));
        round.nonces.extend([upload.nonce]);
        round.accepted += 1;
        Ok(Done::Accepted(accepted))
    }

    /// No cosignature any more, and a leaf in the own log that holds both notes. Of a head that may only have
    /// come with wrong entries: the leaf.
    fn fork(
        &self,
        round: &mut Round,
        origin: &str,
        witnessed: &str,
        refused: Refused,
    ) -> Result<Done, ArchiveError> {
        let line = self.line(round, origin);
        let (Some(line), Some(fork)) = (line, &refused.fork) else {
            return Ok(Done::Refused(refused));
        };
        if !line.is_news(&refused) {
            return Ok(Done::Refused(refused));
        }
        let mut line = Line::clone(&line);
        let fork: String = fork.chars().take(4_000).collect();
        if refused.only_disputes() {
            let Some(head) = head_of(&fork).filter(|_| line.note == witnessed) else {
                return Ok(Done::Stale);
            };
            line.disputed = Some(Disputed {
                size: head.size,
                root: head.root,
                leaf: round.own.size(),
            });
            self.fork_leaf(round, origin, witnessed, &fork, Shows::MayBe)?;
            round.lines.insert(origin.into(), Arc::new(line));
            return Ok(Done::Refused(refused));
        }
        let proof = fork_proof(witnessed, &fork);
        let shows = if proof.is_some() {
            Shows::Everybody
        } else {
            Shows::Us
        };
        self.fork_leaf(round, origin, witnessed, &fork, shows)?;
        line.fork = Some(proof.unwrap_or(fork));
        round.lines.insert(origin.into(), Arc::new(line));
        Ok(Done::Refused(refused))
    }

    fn fork_leaf(
        &self,
        round: &mut Round,
        origin: &str,
        witnessed: &str,
        contradicts: &str,
        shows: Shows,
    ) -> Result<(), ArchiveError> {
        let mut detail = Map::new();
        detail.insert("origin".into(), origin.into());
        detail.insert("witnessed".into(), witnessed.into());
        detail.insert("contradicts".into(), contradicts.into());
        detail.insert("transferable".into(), (shows == Shows::Everybody).into());
        if shows == Shows::MayBe {
            detail.insert("goes_on".into(), true.into());
        }
        self.own_entry(round, Kind::ForkProof, detail)
    }

    /// What the witness cosigned or found moves only the log that it was judged against.
    fn witness(&self, round: &mut Round, witnessed: Witnessed) -> Result<Done, ArchiveError> {
        let Witnessed {
            origin,
            before,
            line,
            answer,
        } = witnessed;
        // Revoked or closed while it was being judged: judged again, it is refused.
        if refused_for_good(&self.life(round, &origin)).is_some() {
            return Ok(Done::Stale);
        }
        if !is_same(self.line(round, &origin).as_ref(), before.as_ref()) {
            return Ok(Done::Stale);
        }
        if let Some(fork) = &line.fork
            && let Ok(proof) = ForkProof::parse(fork.as_bytes())
        {
            let (first, second) = (proof.first.encode(), proof.second.encode());
            self.fork_leaf(round, &origin, &first, &second, Shows::Everybody)?;
        }
        round.lines.insert(origin.into(), Arc::new(line));
        Ok(Done::Witnessed(answer))
    }

    fn enrol(&self, round: &mut Round, mut device: Device) -> Result<Done, ArchiveError> {
        if self.device(round, &device.row.id).is_some() {
            return Ok(Done::Taken);
        }
        let detail = enrolled(&device, self.same_tpm(round, &device));
        self.enrolment_leaf(round, &mut device, detail)?;
        Self::row(round, device)?;
        Ok(Done::Enrolled)
    }

    fn enrolment_leaf(
        &self,
        round: &mut Round,
        device: &mut Device,
        detail: Map<String, serde_json::Value>,
    ) -> Result<(), ArchiveError> {
        device.row.leaf = round.own.size();
        if let Some(tpm) = &device.row.tpm {
            let origin = device.row.origin.as_bytes();
            let parts: [&[u8]; 3] = [&(origin.len() as u32).to_le_bytes(), origin, &tpm.evidence];
            round.group.push(kind::EVIDENCE, &parts)?;
        }
        self.own_entry(round, Kind::DeviceEnrolled, detail)
    }

    /// The other devices whose keys are in a TPM with the same endorsement key.
    fn same_tpm(&self, round: &Round, device: &Device) -> Vec<String> {
        let Some(tpm) = &device.row.tpm else {
            return Vec::new();
        };
        let state = self.archive.state();
        let known = state.devices.values().chain(&round.enrolled);
        let same = known.filter(|other| {
            let theirs = other.row.tpm.as_ref();
            other.row.id != device.row.id && theirs.is_some_and(|theirs| theirs.ek == tpm.ek)
        });
        let mut same: Vec<String> = same.map(|other| other.row.id.clone()).collect();
        same.sort();
        same.truncate(SAME_MAX);
        same
    }

    fn row(round: &mut Round, device: Device) -> Result<(), ArchiveError> {
        let record = serde_json::to_vec(&device.row).unwrap_or_default();
        round.devices.push(devices::DEVICE, &[&record])?;
        round.enrolled.push(Arc::new(device));
        Ok(())
    }

    /// Closes a device's newest epoch and begins the next one.
    fn reenrol(
        &self,
        round: &mut Round,
        mut device: Device,
        again: &Again,
    ) -> Result<Done, ArchiveError> {
        let named = &again.predecessor;
        let Some(newest) = self.device(round, &device.row.id) else {
            return Ok(Done::Unknown);
        };
        // The answer to this very request was lost: it is given again, with new secrets, for the same proof.
        let mut life = self.life(round, &newest.row.origin);
        let nothing_came = newest.row.origin == device.row.origin
            && self
                .line(round, &newest.row.origin)
                .is_none_or(|line| line.size == 0 && line.witnessed() == 0)
            && refused_for_good(&life).is_none();
        let lost = nothing_came && newest.key == device.key;
        // Or the keys that were enrolled are gone before anything came of them: the operator lets others take their place.
        let instead = nothing_came && !lost && life.reenrolment_allowed;
        let before = newest.previous.clone().filter(|_| lost || instead);
        let before = before.unwrap_or_else(|| newest.clone());
        if before.row.origin != named.origin {
            return Ok(Done::Refused(Refused::epoch_closed()));
        }
        let line = self.line(round, &named.origin);
        let key = match &line {
            Some(line) => line.key(&before.key),
            None => Some(before.key.clone()),
        };
        let key =
            key.ok_or_else(|| ArchiveError::Damaged(format!("the key of {}", named.origin)))?;
        let proof = again.proof.as_deref();
        let consents = proof.is_some_and(|proof| verify_reenrolment(&key, &again.new_key, proof))
            && self.life(round, &named.origin).revoked.is_none();
        // The operator allows what comes after the newest log; while that one is empty, its answer again.
        let allowed_by = match (life.reenrolment_allowed, consents) {
            (_, true) if !instead => "key",
            (true, _) => "operator",
            (false, _) => {
                let message = "the old key did not sign this, or is revoked; \
                               ask the operator for `jurat devices allow-reenrolment`";
                return Ok(Done::Refused(Refused::new(403, "not_allowed", message)));
            }
        };
        let epochs = || std::iter::successors(Some(&newest), |device| device.previous.as_ref());
        let is_known = epochs().any(|epoch| epoch.key.key == device.key.key);
        if !lost && is_known {
            let message = "an epoch of this device had this key; the next one takes a new one";
            return Ok(Done::Refused(Refused::new(409, "same_key", message)));
        }
        life.reenrolment_allowed = false;
        if lost {
            device.previous.clone_from(&newest.previous);
            device.row.leaf = newest.row.leaf;
            device.row.tpm.clone_from(&newest.row.tpm);
            device.row.key_kind.clone_from(&newest.row.key_kind);
            device.ak.clone_from(&newest.ak);
        } else {
            let archived = line.as_deref().and_then(Line::frontier).unwrap_or_default();
            let (size, root) = (archived.size(), archived.root());
            let head = match named.size.cmp(&size) {
                std::cmp::Ordering::Less => "shorter than archived",
                std::cmp::Ordering::Equal if named.root == root => "archived",
                std::cmp::Ordering::Equal => "another root than archived",
                std::cmp::Ordering::Greater => "longer than archived",
            };
            let mut detail = enrolled(&device, self.same_tpm(round, &device));
            detail.insert("epoch".into(), device.epoch().into());
            detail.insert("predecessor".into(), json!(named));
            detail.insert("archived".into(), json!({ "size": size, "root": root }));
            detail.insert("head".into(), head.into());
            detail.insert("allowed_by".into(), allowed_by.into());
            if instead {
                detail.insert("instead_of".into(), newest.key.to_string().into());
                device.previous.clone_from(&newest.previous);
            } else {
                life.closed_by = Some(device.epoch());
                device.previous = Some(newest.clone());
            }
            self.enrolment_leaf(round, &mut device, detail)?;
        }
        let origin = newest.row.origin.as_str().into();
        round.lives.insert(origin, Arc::new(life));
        Self::row(round, device)?;
        Ok(Done::Enrolled)
    }

    fn revoke(
        &self,
        round: &mut Round,
        id: &str,
        reason: &str,
        epoch: Option<u64>,
        key: Option<&str>,
    ) -> Result<Done, ArchiveError> {
        let Some(newest) = self.device(round, id) else {
            return Ok(Done::Unknown);
        };
        // The keys of each epoch, the one that signs now first.
        let mut keys = Vec::new();
        for device in std::iter::successors(Some(&newest), |device| device.previous.as_ref()) {
            let line = self.line(round, &device.row.origin);
            let line = line.as_deref();
            let now = line.and_then(|line| line.key.clone());
            let before = line.map_or(&[][..], |line| &line.retired);
            let of_epoch = [now.unwrap_or_else(|| device.row.key.clone())].into_iter();
            let of_epoch = of_epoch.chain(before.iter().rev().cloned());
            keys.push((device, of_epoch.collect::<Vec<String>>()));
        }
        // `<name>+<id>+<key>`
        let is_named = |known: &str| match key {
            Some(key) => known == key || known.split('+').nth(1) == Some(key),
            None => true,
        };
        let named = keys.iter().filter(|(device, _)| match (epoch, key) {
            (Some(epoch), _) => device.epoch() == epoch,
            (None, Some(_)) => true,
            (None, None) => device.epoch() == newest.epoch(),
        });
        let mut named = named.flat_map(|(device, of_epoch)| {
            let of_epoch = of_epoch.iter().enumerate();
            of_epoch.map(move |(place, known)| (device, place, known))
        });
        let Some((device, place, key)) = named.find(|(_, _, known)| is_named(known)) else {
            let keys: Vec<String> = keys
                .iter()
                .map(|(device, of_epoch)| {
                    format!("epoch {}: {}", device.epoch(), of_epoch.join(", "))
                })
                .collect();
            let message = format!("the device has no such key; it has {}", keys.join("; "));
            return Ok(Done::Refused(Refused::new(404, "no_such_key", message)));
        };
        // Whoever was allowed to enrol again before may not do so any more.
        let mut allowed = self.life(round, &newest.row.origin);
        if std::mem::take(&mut allowed.reenrolment_allowed) {
            let origin = newest.row.origin.as_str().into();
            round.lives.insert(origin, Arc::new(allowed));
        }
        let origin = &device.row.origin;
        let mut life = self.life(round, origin);
        let known = life.revoked.iter().chain(&life.revoked_before);
        if let Some(revoked) = known.into_iter().find(|revoked| revoked.key == *key) {
            return Ok(Done::Said(revoked.leaf));
        }
        let revoked = Revoked {
            leaf: round.own.size(),
            key: key.clone(),
            reason: reason.chars().take(REASON_CHARS_MAX).collect(),
        };
        let mut detail = Map::new();
        detail.insert("origin".into(), origin.clone().into());
        detail.insert("key".into(), revoked.key.clone().into());
        detail.insert("reason".into(), revoked.reason.clone().into());
        self.own_entry(round, Kind::KeyRevoked, detail)?;
        let leaf = revoked.leaf;
        if place == 0 {
            life.revoked = Some(revoked);
        } else {
            life.revoked_before.push(revoked);
        }
        round.lives.insert(origin.as_str().into(), Arc::new(life));
        Ok(Done::Said(leaf))
    }

    fn allow(&self, round: &mut Round, id: &str) -> Result<Done, ArchiveError> {
        let Some(device) = self.device(round, id) else {
            return Ok(Done::Unknown);
        };
        let origin = &device.row.origin;
        let mut life = self.life(round, origin);
        let leaf = round.own.size();
        let mut detail = Map::new();
        detail.insert("origin".into(), origin.clone().into());
        self.own_entry(round, Kind::ReenrolmentAllowed, detail)?;
        life.reenrolment_allowed = true;
        round.lives.insert(origin.as_str().into(), Arc::new(life));
        Ok(Done::Said(leaf))
    }

    /// Notes boots that sealed (`sealed`) or asked, in order, and tells of two that take turns.
    fn boots(
        &self,
        round: &mut Round,
        origin: &str,
        boots: &[String],
        sealed: bool,
    ) -> Result<Done, ArchiveError> {
        let mut life = self.life(round, origin);
        let last = |life: &Life, boot: &str| {
            let boots = if sealed {
                &life.sealed_by
            } else {
                &life.asked_by
            };
            boots.is_last(boot)
        };
        if boots.iter().all(|boot| last(&life, boot)) {
            return Ok(Done::Nothing);
        }
        for boot in boots {
            let Some(pair) = life.boot(boot, sealed) else {
                continue;
            };
            let mut detail = Map::new();
            detail.insert("origin".into(), origin.into());
            detail.insert("boots".into(), json!(pair));
            let seen = if sealed { "entries" } else { "requests" };
            detail.insert("seen_in".into(), seen.into());
            self.own_entry(round, Kind::CloneDetected, detail)?;
        }
        round.lives.insert(origin.into(), Arc::new(life));
        Ok(Done::Nothing)
    }

    fn silent(
        &self,
        round: &mut Round,
        origin: &str,
        since: Option<u64>,
    ) -> Result<Done, ArchiveError> {
        let mut life = self.life(round, origin);
        if life.silent_since.is_some() == since.is_some() {
            return Ok(Done::Nothing);
        }
        let mut detail = Map::new();
        detail.insert("origin".into(), origin.into());
        let last = since.or(life.silent_since);
        detail.insert("heard_at".into(), json!(last));
        let kind = if since.is_some() {
            Kind::DeviceSilent
        } else {
            Kind::DeviceReturned
        };
        self.own_entry(round, kind, detail)?;
        life.silent_since = since;
        round.lives.insert(origin.into(), Arc::new(life));
        Ok(Done::Nothing)
    }

    fn policy(
        &self,
        round: &mut Round,
        digest: String,
        machines: Option<PolicyReport>,
    ) -> Result<Done, ArchiveError> {
        let mut said = digest.clone();
        let mut detail = Map::new();
        detail.insert("policy".into(), digest.into());
        detail.insert("version".into(), env!("CARGO_PKG_VERSION").into());
        if let Some(machines) = machines {
            let sha256 = machines.sha256.to_string();
            said = format!("{said} {sha256}");
            detail.insert("machine_policy".into(), sha256.into());
            if let Some(problem) = machines.problem {
                said = format!("{said} {problem}");
                detail.insert("problem".into(), problem.into());
            }
        }
        if self.archive.state().policy.as_ref() == Some(&said) {
            return Ok(Done::Nothing);
        }
        self.own_entry(round, Kind::PolicyChanged, detail)?;
        round.policy = Some(said);
        Ok(Done::Nothing)
    }

    /// Says which settings and which machine policy are in force from here on, when they are others than before.
    ///
    /// # Errors
    /// As [`Writer::commit`].
    pub(crate) fn say_policy(&mut self, digest: String) -> Result<(), ArchiveError> {
        self.settings.clone_from(&digest);
        let machines = self.archive.machine_policy().map(PolicyFile::report);
        self.commit(vec![Ask::Policy { digest, machines }])?;
        Ok(())
    }

    /// Takes over a changed machine policy. Called about once a second. Whether there was anything.
    ///
    /// # Errors
    /// As [`Writer::commit`].
    pub(crate) fn watch_policy(&mut self) -> Result<bool, ArchiveError> {
        let Some(file) = self.archive.machine_policy() else {
            return Ok(false);
        };
        if !file.look() {
            return Ok(false);
        }
        match file.report().problem {
            None => tracing::info!("the machine policy was read again"),
            Some(problem) => tracing::error!(problem, "the machine policy stays as it was"),
        }
        self.say_policy(self.settings.clone())?;
        Ok(true)
    }

    /// Says who fell silent and who returned. Called about once a second. Whether there was anything.
    ///
    /// # Errors
    /// As [`Writer::commit`].
    pub(crate) fn watch_silence(&mut self) -> Result<bool, ArchiveError> {
        let now = self.archive.host.clock.now();
        let (fallen, returned) = self.archive.state().silence.news(now);
        let fallen = fallen
            .into_iter()
            .map(|(origin, since)| Ask::Silent { origin, since });
        let returned = returned.into_iter().map(|origin| Ask::Returned { origin });
        let asked: Vec<Ask> = fallen.chain(returned).collect();
        let any = !asked.is_empty();
        if any {
            self.commit(asked)?;
        }
        Ok(any)
    }

    fn own_entry(
        &self,
        round: &mut Round,
        kind: Kind,
        detail: Map<String, serde_json::Value>,
    ) -> Result<(), ArchiveError> {
        let (host, seq) = (&self.archive.host, round.own.size());
        let entry = self.own.entry(host, seq, kind, round.time, detail);
        round.group.push(kind::OWN_ENTRY, &[&entry])?;
        round.own.push(leaf_hash(&entry));
        Ok(())
    }

    /// What a new segment would begin with now.
    #[cfg(test)]
    pub(super) fn whole(&self) -> Vec<u8> {
        self.archive
            .snapshot(None, &self.own.frontier, self.devices_end)
    }

    /// Whether the own log has leaves that no head of this process covers.
    pub(crate) fn own_log_has_news(&self) -> bool {
        let size = self.own.frontier.size();
        size > 0 && size != self.own_signed
    }

    /// Signs the own log's head when there is news. Called about once a second.
    ///
    /// # Errors
    /// As [`Writer::commit`].
    pub(crate) fn seal_own_log(&mut self) -> Result<(), ArchiveError> {
        self.check()?;
        if !self.own_log_has_news() {
            return Ok(());
        }
        let note = self.own.checkpoint(&*self.archive.keys.log)?;
        let mut group = Group::new();
        group.push(kind::OWN_CHECKPOINT, &[note.encode().as_bytes()])?;
        let (own, devices_end) = (&self.own.frontier, self.devices_end);
        let mut snapshot = || self.archive.snapshot(None, own, devices_end);
        let appended = self.ledger.append(&mut group, b"", &mut snapshot);
        let mut state = self.archive.state();
        if let Err(error) = appended {
            state.failed = true;
            return Err(error.into());
        }
        state.end = self.ledger.end();
        state.stats.archive_bytes = state.end;
        state.own_note = Some(note.encode());
        drop(state);
        self.own_signed = self.own.frontier.size();
        Ok(())
    }
}

impl Round {
    fn is_empty(&self) -> bool {
        self.group.is_empty()
            && self.lines.is_empty()
            && self.lives.is_empty()
            && self.devices.is_empty()
            && self.own_cosigned.is_none()
    }
}

/// Whether this is the very line that was judged against, not one that looks like it.
fn is_same(now: Option<&Arc<Line>>, before: Option<&Arc<Line>>) -> bool {
    match (now, before) {
        (Some(now), Some(before)) => Arc::ptr_eq(now, before),
        (None, None) => true,
        _ => false,
    }
}

/// A fork proof that convinces a stranger, where two notes alone can.
fn fork_proof(witnessed: &str, contradicts: &str) -> Option<String> {
    let [first, second] = [witnessed, contradicts].map(|note| Note::parse(note.as_bytes()).ok());
    Some(ForkProof::find(&first?, &second?, &[])?.encode())
}

impl Archive {
    /// Everything as it is after these lines. The lock is held for a copy of pointers only.
    fn snapshot(&self, round: Option<&Round>, own: &Frontier, devices_end: u64) -> Vec<u8> {
        let now = self.host.clock.now().unix_s();
        let (mut lines, mut lives, mut policy, nonces, mut cosigned) = {
            let state = self.state();
            let cosigned = state.own_cosigned.clone();
            let (lines, lives) = (state.lines.clone(), state.lives.clone());
            (
                lines,
                lives,
                state.policy.clone(),
                state.nonces.clone(),
                cosigned,
            )
        };
        if let Some(round) = round {
            lines.extend(round.lines.clone());
            lives.extend(round.lives.clone());
            policy = round.policy.clone().or(policy);
            cosigned = round.own_cosigned.clone().or(cosigned);
        }
        let whole = Change {
            lines: lines
                .iter()
                .map(|(origin, line)| (Cow::Borrowed(&**origin), Cow::Borrowed(&**line)))
                .collect(),
            lives: lives
                .iter()
                .map(|(origin, life)| (Cow::Borrowed(&**origin), Cow::Borrowed(&**life)))
                .collect(),
            policy: policy.as_deref().map(Cow::Borrowed),
            nonces: nonces
                .iter()
                .filter(|(_, time)| **time + NONCE_WINDOW_S > now)
                .map(|(name, time)| (Cow::Borrowed(name.as_str()), *time))
                .collect(),
            own_cosigned: cosigned.as_deref().map(Cow::Borrowed),
            own_size: own.size(),
            own_roots: Cow::Borrowed(own.roots()),
            devices_end,
            erasing: round
                .filter(|round| !round.erasing.is_empty())
                .map(|round| round.erasing.clone()),
        };
        pack(&whole)
    }
}
