//! The one that writes: what was asked meanwhile becomes durable in one group.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jurat_disk::Time;
use jurat_event::Kind;
use jurat_ledger::{Group, Ledger};
use jurat_proof::{ForkProof, Frontier, Note, leaf_hash};
use jurat_sink::Accepted;
use jurat_witness::{Answer, origin_hash};
use serde_json::{Map, json};

use super::witnessing::Witnessed;
use super::{Archive, ArchiveError, Change, Device, Line, NONCE_WINDOW_S, Prepared};
use super::{kind, pack};
use crate::Refused;
use crate::devices;
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
    OwnCosigned(String),
}

impl Ask {
    /// About how many bytes it adds to a group.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Upload(upload) => upload.body.len() + 4096,
            Self::Fork { .. } | Self::Enrol(_) => 16 * 1024,
            Self::Witness(_) | Self::OwnCosigned(_) => 64 * 1024,
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
}

/// Owns the archive's ledger and the device table.
pub(crate) struct Writer {
    archive: Arc<Archive>,
    ledger: Ledger,
    devices: Ledger,
    devices_end: u64,
    own: OwnLog,
    own_signed: u64,
}

/// A group that is being put together.
struct Round {
    group: Group,
    own: Frontier,
    time: Time,
    lines: BTreeMap<Arc<str>, Arc<Line>>,
    nonces: BTreeMap<String, u64>,
    devices: Group,
    enrolled: Vec<Device>,
    ids: BTreeSet<String>,
    own_cosigned: Option<String>,
    accepted: u64,
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
            nonces: BTreeMap::new(),
            devices: Group::new(),
            enrolled: Vec::new(),
            ids: BTreeSet::new(),
            own_cosigned: None,
            accepted: 0,
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
                Ask::OwnCosigned(note) => {
                    round.own_cosigned = Some(note);
                    Done::Kept
                }
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
            nonces: round
                .nonces
                .iter()
                .map(|(name, time)| (Cow::Borrowed(name.as_str()), *time))
                .collect(),
            own_cosigned: round.own_cosigned.as_deref().map(Cow::Borrowed),
            own_size: round.own.size(),
            own_roots: Cow::Borrowed(round.own.roots()),
            devices_end,
        };
        let state = serde_json::to_vec(&change).unwrap_or_default();
        let cosigned = round.own_cosigned.as_deref();
        let archive = &self.archive;
        let mut snapshot = || archive.snapshot(&round.lines, cosigned, &round.own, devices_end);
        self.ledger
            .append(&mut round.group, &state, &mut snapshot)?;
        self.devices_end = devices_end;
        self.own.frontier = round.own;
        let mut state = self.archive.state();
        state.end = self.ledger.end();
        state.stats.archive_bytes = state.end;
        state.stats.own_leaves = self.own.frontier.size();
        state.stats.accepted += round.accepted;
        state.stats.devices += round.enrolled.len() as u64;
        if round.own_cosigned.is_some() {
            state.own_cosigned = round.own_cosigned;
        }
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
        for device in round.enrolled {
            state
                .devices
                .insert(device.row.id.clone(), Arc::new(device));
        }
        Ok(done)
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

    fn upload(&self, round: &mut Round, upload: Prepared) -> Result<Done, ArchiveError> {
        let origin = &upload.header.origin;
        let now = self.line(round, origin);
        if !is_same(now.as_ref(), upload.before.as_ref()) {
            return Ok(Done::Stale);
        }
        let header = serde_json::to_vec(&upload.header).unwrap_or_default();
        let line = upload.line;
        let parts: [&[u8]; 3] = [&(header.len() as u32).to_le_bytes(), &header, &upload.body];
        round.group.push(kind::UPLOAD, &parts)?;
        round.group.push(kind::NOTE, &[line.note.as_bytes()])?;
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
        let accepted = self.archive.answer(&line);
        round.lines.insert(origin.as_str().into(), Arc::new(line));
        round.nonces.extend([upload.nonce]);
        round.accepted += 1;
        Ok(Done::Accepted(accepted))
    }

    /// No cosignature any more, and a leaf in the own log that holds both notes.
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
        if line.fork.is_some() {
            return Ok(Done::Refused(refused));
        }
        let fork: String = fork.chars().take(4_000).collect();
        let proof = fork_proof(witnessed, &fork);
        self.fork_leaf(round, origin, witnessed, &fork, proof.is_some())?;
        let line = Line {
            fork: Some(proof.unwrap_or(fork)),
            ..Line::clone(&line)
        };
        round.lines.insert(origin.into(), Arc::new(line));
        Ok(Done::Refused(refused))
    }

    fn fork_leaf(
        &self,
        round: &mut Round,
        origin: &str,
        witnessed: &str,
        contradicts: &str,
        transferable: bool,
    ) -> Result<(), ArchiveError> {
        let mut detail = Map::new();
        detail.insert("origin".into(), origin.into());
        detail.insert("witnessed".into(), witnessed.into());
        detail.insert("contradicts".into(), contradicts.into());
        detail.insert("transferable".into(), transferable.into());
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
        if !is_same(self.line(round, &origin).as_ref(), before.as_ref()) {
            return Ok(Done::Stale);
        }
        if let Some(fork) = &line.fork
            && let Ok(proof) = ForkProof::parse(fork.as_bytes())
        {
            let (first, second) = (proof.first.encode(), proof.second.encode());
            self.fork_leaf(round, &origin, &first, &second, true)?;
        }
        round.lines.insert(origin.into(), Arc::new(line));
        Ok(Done::Witnessed(answer))
    }

    fn enrol(&self, round: &mut Round, device: Device) -> Result<Done, ArchiveError> {
        let row = &device.row;
        if self.archive.device(&row.id).is_some() || !round.ids.insert(row.id.clone()) {
            return Ok(Done::Taken);
        }
        let record = serde_json::to_vec(row).unwrap_or_default();
        round.devices.push(devices::DEVICE, &[&record])?;
        // The leaf says who may sign, and holds no secret.
        let mut detail = Map::new();
        detail.insert("origin".into(), row.origin.clone().into());
        detail.insert("key".into(), row.key.clone().into());
        detail.insert("key_kind".into(), row.key_kind.clone().into());
        detail.insert("hostname".into(), json!(row.hostname));
        self.own_entry(round, Kind::DeviceEnrolled, detail)?;
        round.enrolled.push(device);
        Ok(Done::Enrolled)
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
        let note = self.own.checkpoint(&self.archive.keys.log)?;
        let mut group = Group::new();
        group.push(kind::OWN_CHECKPOINT, &[note.encode().as_bytes()])?;
        let (own, devices_end) = (&self.own.frontier, self.devices_end);
        let mut snapshot = || {
            self.archive
                .snapshot(&BTreeMap::new(), None, own, devices_end)
        };
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
        self.group.is_empty() && self.lines.is_empty() && self.own_cosigned.is_none()
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
    fn snapshot(
        &self,
        changed: &BTreeMap<Arc<str>, Arc<Line>>,
        cosigned: Option<&str>,
        own: &Frontier,
        devices_end: u64,
    ) -> Vec<u8> {
        let now = self.host.clock.now().unix_s();
        let (mut lines, nonces, before) = {
            let state = self.state();
            let before = state.own_cosigned.clone();
            (state.lines.clone(), state.nonces.clone(), before)
        };
        lines.extend(
            changed
                .iter()
                .map(|(origin, line)| (origin.clone(), line.clone())),
        );
        let whole = Change {
            lines: lines
                .iter()
                .map(|(origin, line)| (Cow::Borrowed(&**origin), Cow::Borrowed(&**line)))
                .collect(),
            nonces: nonces
                .iter()
                .filter(|(_, time)| **time + NONCE_WINDOW_S > now)
                .map(|(name, time)| (Cow::Borrowed(name.as_str()), *time))
                .collect(),
            own_cosigned: cosigned.or(before.as_deref()).map(Cow::Borrowed),
            own_size: own.size(),
            own_roots: Cow::Borrowed(own.roots()),
            devices_end,
        };
        pack(&whole)
    }
}
