//! The loop. Everything that can happen is an [`Input`] or a deadline, and is on this screen.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use jurat_disk::Host;
use jurat_event::{EraseRequest, Erased, Event, Kind, Severity};
use jurat_key::fips::Library;
use jurat_key::{KeyError, Secret};
use jurat_ledger::{LedgerError, Options};
use jurat_redact::{Mode, Redactor, RuleError};
use jurat_seal::{EraseError, PastHead, Prune, SealError, Sealer, Settings, Signing};
use jurat_source::{Root, RootError, Tail, Watch};
use serde_json::json;

use crate::again::Before;
use crate::config::{Config, RedactMode, WhenFull};
use crate::dead_letters::{DeadLetter, DeadLetterError, DeadLetters};
use crate::enrol::{EnrolError, Enrolment};
use crate::keys::Keys;
use crate::marks::Marks;
use crate::pipeline::Pipeline;
use crate::quoting::Quoting;
use crate::receipts::ReceiptStatus;
use crate::requests::{Answer, Request, RequestError, Requests};
use crate::rotate::KeyFiles;
use crate::sinks::{Missed, Sinks};
use crate::state::{Delta, apply, snapshot};
use crate::status::{Queue, Status};
use crate::uplink::Uplink;
use crate::uploader::{Bell, Cursor, Delivery, Handle, Uploader, load_cursor};

/// Everything that can happen besides the passing of time.
#[derive(Debug)]
#[non_exhaustive]
pub enum Input {
    /// Files changed.
    Changed,
    /// News from the collector.
    Delivery(Delivery),
    /// A key that is not a file has signed, or said why not.
    Signed,
    /// A sink could not be sent some leaves.
    Missed(Missed),
    /// Stop in an orderly way.
    Stop,
}

/// Both ends of the loop's inbox.
pub struct Inputs {
    sender: Sender<Input>,
    receiver: Receiver<Input>,
}

impl Default for Inputs {
    fn default() -> Self {
        let (sender, receiver) = channel();
        Self { sender, receiver }
    }
}

impl Inputs {
    /// A sender, for signal handlers and the like.
    pub fn sender(&self) -> Sender<Input> {
        self.sender.clone()
    }
}

/// When the loop ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// Never: it runs until it is told to stop.
    Never,
    /// When everything was read, sealed and archived.
    WhenDelivered,
    /// When everything was read and sealed.
    WhenSealed,
}

/// Why the endpoint stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// This device is not enrolled, or its enrolment cannot be read.
    #[error(transparent)]
    Enrol(#[from] EnrolError),
    /// A key failed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A source's pattern is not one.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The redaction rules cannot be used: a bug.
    #[error(transparent)]
    Rules(#[from] RuleError),
    /// Sealing failed in a way that opening the ledger anew does not mend.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A thread could not be started.
    #[error("a thread could not be started")]
    Thread(#[source] std::io::Error),
    /// The collector has witnessed more than this ledger holds, or something else.
    #[error(
        "the collector witnessed {witnessed} leaves with root {root}, this ledger holds {held} that do not agree: it was \
         rolled back or exchanged. Nothing will be signed; restore the ledger, or go on in the next epoch: \
         `jurat enroll URL --again --token-file FILE`"
    )]
    RolledBack {
        /// Leaves witnessed.
        witnessed: u64,
        /// Their root.
        root: String,
        /// Leaves held.
        held: u64,
    },
}

/// How much is read between two looks at the inbox.
const READ_BYTES: u64 = 1024 * 1024;
/// A group is committed when this much waits, or after [`COMMIT_MS`].
const COMMIT_BYTES: usize = 1024 * 1024;
const COMMIT_MS: u64 = 1_000;
/// A batch is sealed when it has this many bytes: with one record more, of at most
/// [`RECORD_BYTES_MAX`](crate::pipeline::RECORD_BYTES_MAX), and what was not written yet, it still fits into
/// an upload of 8 MiB.
const BATCH_BYTES: usize = 1024 * 1024;
/// How often a leaf says that receipts were verified, at most.
const RECEIPT_SAID: Duration = Duration::from_secs(600);
/// Segments are not smaller than this, however small the ledger may be.
const SEGMENT_BYTES_MIN: u64 = 256 * 1024;
/// How often a full disk is looked at again.
const ROOM_S: u64 = 5;
/// A key that has not signed within this time is said to be unavailable.
const KEY_PATIENCE: Duration = Duration::from_secs(10);
/// What a refusal counts as at least: a key that refuses at once is asked again after nine times this.
const KEY_RETRY: Duration = Duration::from_millis(200);
/// The longest pause that a slow key gets.
const KEY_REST_MAX: Duration = Duration::from_secs(20);
/// How long who stops, or erases, waits for the key.
const KEY_LAST: Duration = Duration::from_secs(5);
/// How long who stops waits for the collector to take what was sealed last.
const LAST_DELIVERY: Duration = Duration::from_secs(5);
/// How often requests are looked for.
const REQUESTS_S: u64 = 1;
/// How often the status file is written while things move.
const STATUS_MS: u64 = 2_000;
/// How many of the files that cannot be read the status names.
const EXAMPLES_MAX: usize = 100;

/// Runs the endpoint until it is told to stop or `finish` is reached. Returns the last status.
///
/// After a disk failure the ledger is opened anew and reading goes on from the durable positions.
///
/// # Errors
/// [`AgentError`] when going on makes no sense.
pub fn run(
    host: &Host,
    config: &Config,
    state_dir: &Path,
    inputs: &Inputs,
    finish: Finish,
    progress: &mut dyn FnMut(&Status),
) -> Result<Status, AgentError> {
    let mut opened_once = false;
    loop {
        let ended = Agent::open(host, config, state_dir, inputs).and_then(|mut agent| {
            opened_once = true;
            agent.run(inputs, finish, progress)
        });
        match ended {
            Err(AgentError::Seal(SealError::Ledger(error)))
                if opened_once && is_mendable(&error) =>
            {
                tracing::error!(%error, "the ledger failed; opening it anew");
                // What stands in the inbox meanwhile is not lost, but a stop is heard at once.
                let until = Instant::now() + Duration::from_secs(1);
                while let Ok(input) = inputs
                    .receiver
                    .recv_timeout(until.saturating_duration_since(Instant::now()))
                {
                    if matches!(input, Input::Stop) {
                        return Err(AgentError::Seal(SealError::Ledger(error)));
                    }
                }
            }
            ended => return ended,
        }
    }
}

fn is_mendable(error: &LedgerError) -> bool {
    matches!(error, LedgerError::Io { .. } | LedgerError::Poisoned)
}

/// An endpoint with its ledger open.
pub struct Agent {
    pub(crate) host: Host,
    config: Config,
    state_dir: PathBuf,
    pub(crate) enrolment: Enrolment,
    pub(crate) sealer: Sealer,
    pub(crate) pipeline: Pipeline,
    tail: Tail,
    watch: Watch,
    bell: Arc<Bell>,
    letters: DeadLetters,
    letters_waiting: u64,
    pub(crate) cursor: Cursor,
    requests: Requests,
    confirmed: bool,
    cosigned_at: Option<u64>,
    /// Since when leaves have been waiting for a cosignature.
    waiting_since: Option<Instant>,
    pub(crate) problem: Option<String>,
    /// The collector does not accept this device.
    device_refused: bool,
    paused: Option<String>,
    /// What was sealed last is not to wait for the collector's pace.
    pub(crate) in_a_hurry: bool,
    /// The disk had no room; looked at again at `room_at`.
    disk_full: bool,
    room_at: Instant,
    /// The pause that the log tells of: of a full disk, or of a full ledger.
    said_full: Option<bool>,
    /// The state blob of a commit that found no room.
    pub(crate) unsaved: Option<Vec<u8>>,
    /// Payloads and entries removed before they were archived, since the start.
    shed: u64,
    pub(crate) key_files: KeyFiles,
    /// Up to here the collector must have the log before an old key can go.
    pub(crate) promote_at: u64,
    /// Where the newest accepted head stands in the collector's log, and whether a leaf says so.
    receipt: Option<(ReceiptStatus, bool)>,
    receipt_said_at: Option<Instant>,
    receipt_missing: Option<String>,
    stopping: bool,
    /// For a key that is not a file.
    signing: Option<Signing>,
    /// The key does not sign: since when, and how many leaves were signed by then.
    key_silent: Option<(Instant, u64)>,
    /// The key, or the TPM that holds it, is not asked again before this.
    pub(crate) key_at: Instant,
    /// Where a TPM holds the keys.
    pub(crate) quoting: Option<Quoting>,
    _uploader: Handle,
    sinks: Sinks,
}

impl Agent {
    /// Opens ledger, keys and sources, and starts the uploader.
    ///
    /// # Errors
    /// [`AgentError`] names what cannot be used.
    pub fn open(
        host: &Host,
        config: &Config,
        state_dir: &Path,
        inputs: &Inputs,
    ) -> Result<Self, AgentError> {
        let enrolment = Enrolment::load(host, state_dir)?;
        let home = enrolment.home(state_dir);
        let keys = home.join("keys");
        let load = |name: &str| Secret::load(host, &keys.join(name));
        let key_files = KeyFiles::new(&home);
        let loaded = Keys::load(host, &home, &enrolment)?;
        let (signers, tls) = (loaded.signers, loaded.tls);
        let quoting = match &loaded.chip {
            Some(chip) => Some(Quoting::start(
                chip,
                &enrolment,
                &config.attest,
                &home,
                host,
                inputs,
            )?),
            None => None,
        };
        let signing = if signers.iter().any(|signer| signer.is_slow()) {
            let wake = inputs.sender();
            let signing = Signing::signing(move || drop(wake.send(Input::Signed)));
            Some(signing.map_err(AgentError::Thread)?)
        } else {
            None
        };
        let before = Before::load(host, &home)?;
        let reveal_key = load("reveal.key")?;
        let roots: Vec<Root> = config
            .sources()
            .iter()
            .map(|source| Root::new(&source.name, &source.dir, &source.patterns))
            .collect::<Result<_, _>>()?;
        let custody = config.redact.mode == RedactMode::Custody;
        let isolation = isolation(&roots);
        let opening = json!({
            "isolation": isolation,
            "custody": custody,
            "machine": jurat_disk::machine_id(),
            "version": env!("CARGO_PKG_VERSION"),
            "epoch": enrolment.epoch(),
        });
        let mut opening = opening.as_object().cloned().unwrap_or_default();
        opening.extend(before.opening);
        let mut files = BTreeMap::new();
        let mut marks = Marks::new(*reveal_key.expose());
        let policy = policy_digest(config);
        let sealer = Sealer::open(
            host.clone(),
            &home.join("ledger"),
            Settings {
                origin: enrolment.origin.clone(),
                boot: jurat_disk::boot_id(&*host.rng),
                reveal_key: *reveal_key.expose(),
                opening,
                beginning: before.state,
                policy: policy.clone(),
                ledger: Options {
                    // A segment is the unit in which room is made.
                    segment_bytes: (config.ledger.bytes_max / 8)
                        .clamp(SEGMENT_BYTES_MIN, Options::default().segment_bytes),
                    ..Options::default()
                },
            },
            &signers,
            &mut |whole, blob| apply(whole, blob, &mut files, &mut marks),
        )?;
        let mode = if custody { Mode::Custody } else { Mode::Redact };
        let redactor = Redactor::new(
            mode,
            load("fingerprint.key")?.expose(),
            &config.redact.personal,
        )?;
        let mut pipeline = Pipeline::new(redactor, config.filter.clone(), marks);
        let now = Instant::now();
        pipeline.sessions = sealer
            .open_sessions()
            .into_iter()
            .map(|session| (session, now))
            .collect();
        let wake = inputs.sender();
        let watch = Watch::new(&roots, move || drop(wake.send(Input::Changed)));
        let tail = Tail::new(roots, files);
        let cursors = home.join("cursors");
        host.disk
            .create_dir_all(&cursors)
            .map_err(|source| LedgerError::Io {
                path: cursors.clone(),
                doing: "creating the cursors' folder",
                source,
            })
            .map_err(SealError::from)?;
        let cursor_path = cursors.join("collector.json");
        let bell = Arc::new(Bell::default());
        let letters = DeadLetters::new(&home);
        let uploader = Uploader {
            host: host.clone(),
            ledger_dir: home.join("ledger"),
            cursor_path: cursor_path.clone(),
            uplink: Uplink::with(
                host,
                &home,
                enrolment.clone(),
                tls,
                Duration::from_secs(config.delivery.timeout_s),
            )?,
            letters: letters.clone(),
            bell: bell.clone(),
            to_agent: inputs.sender(),
            patience: config.delivery.clone(),
        };
        let cursor = load_cursor(host, &cursor_path);
        let origin = &enrolment.origin;
        let sinks = Sinks::start(host, &home, origin, &config.sink, &bell, &inputs.sender())?;
        let mut agent = Self {
            host: host.clone(),
            config: config.clone(),
            state_dir: state_dir.to_path_buf(),
            enrolment,
            sealer,
            pipeline,
            tail,
            watch,
            bell,
            letters,
            letters_waiting: 0,
            requests: Requests::new(state_dir),
            cursor,
            confirmed: false,
            cosigned_at: None,
            waiting_since: None,
            problem: None,
            device_refused: false,
            paused: None,
            in_a_hurry: false,
            disk_full: false,
            room_at: now,
            said_full: None,
            unsaved: None,
            shed: 0,
            key_files,
            // Which head was the last of an old key is not known: surely none after this one.
            promote_at: 0,
            receipt: None,
            receipt_said_at: None,
            receipt_missing: None,
            stopping: false,
            signing,
            key_silent: None,
            key_at: now,
            quoting,
            _uploader: uploader.start().map_err(AgentError::Thread)?,
            sinks,
        };
        agent.meet_the_collector(inputs)?;
        // Before anything is pushed: a head that a crash left unsigned. Nothing goes out yet: first what was
        // to be erased is.
        match agent.sign_without_ring() {
            Err(AgentError::Seal(SealError::Ledger(LedgerError::Full { .. }))) => {
                agent.disk_full = true;
            }
            done => done?,
        }
        let sources: Vec<_> = agent
            .tail
            .roots()
            .iter()
            .map(|root| root.dir.to_string_lossy().into_owned())
            .collect();
        let started = Event::own(Kind::AgentStarted)
            .detail("version", env!("CARGO_PKG_VERSION"))
            .detail("isolation", isolation)
            .detail("custody", custody)
            .detail(
                "frontier",
                if agent.confirmed {
                    "confirmed"
                } else {
                    "frontier_unconfirmed"
                },
            )
            .detail("policy", policy)
            .detail("sources", sources);
        let started = agent.pipeline.redactor.redact(started);
        agent.sealer.push(started, None)?;
        for manifest in agent.sinks.manifests() {
            let manifest = agent.pipeline.redactor.redact(manifest);
            agent.sealer.push(manifest, None)?;
        }
        agent.promote_at = agent.sealer.head().size;
        agent.note_letters()?;
        agent.take_requests()?;
        agent.ring();
        Ok(agent)
    }

    /// Before anything is signed: does the collector know a longer or another history?
    fn meet_the_collector(&mut self, inputs: &Inputs) -> Result<(), AgentError> {
        let deadline = Instant::now() + Duration::from_secs(6);
        while let Ok(input) = inputs
            .receiver
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            match input {
                Input::Delivery(Delivery::Frontier(frontier)) => {
                    let Some(frontier) = frontier else { break };
                    // An edited cursor must not look as if everything had been delivered.
                    if frontier.size < self.cursor.size {
                        self.cursor = Cursor::default();
                    }
                    let head = self.sealer.head();
                    let longer = frontier.size > head.size;
                    // What was witnessed has to be this ledger's own past, however long it has grown.
                    let past = match frontier.size {
                        0 => PastHead::Root(frontier.root),
                        size => self.sealer.head_at(size, self.cursor.position)?,
                    };
                    let other = match past {
                        PastHead::Root(root) => root != frontier.root,
                        PastHead::Never => true,
                        PastHead::Removed => break,
                    };
                    if longer || other {
                        let root = frontier.root.to_string();
                        return Err(AgentError::RolledBack {
                            witnessed: frontier.size,
                            root,
                            held: head.size,
                        });
                    }
                    self.confirmed = true;
                    break;
                }
                Input::Stop => {
                    let _ = inputs.sender.send(Input::Stop);
                    break;
                }
                Input::Changed | Input::Delivery(_) | Input::Signed | Input::Missed(_) => {}
            }
        }
        Ok(())
    }

    fn run(
        &mut self,
        inputs: &Inputs,
        finish: Finish,
        progress: &mut dyn FnMut(&Status),
    ) -> Result<Status, AgentError> {
        self.tail.scan();
        let seal = self.config.seal.clone();
        let attest = self.config.attest.clone();
        let every = |seconds| Duration::from_secs(seconds);
        let mut next_scan = Instant::now() + every(seal.scan_s);
        let mut next_status = Instant::now();
        let mut next_requests = Instant::now();
        let mut sealed_at = Instant::now();
        let mut first_pending: Option<Instant> = Some(Instant::now());
        let mut in_batch_since: Option<Instant> = Some(Instant::now());
        let mut last_status = Status::default();
        loop {
            // 1. What happened. With something to read there is no wait.
            let busy = !self.tail.is_idle() && self.paused.is_none();
            let mut deadline = next_scan.min(next_status).min(next_requests);
            if in_batch_since.is_none() {
                deadline = deadline.min(sealed_at + every(seal.heartbeat_s));
            }
            if let Some(since) = first_pending {
                deadline = deadline.min(since + Duration::from_millis(COMMIT_MS));
            }
            if let Some(since) = in_batch_since {
                deadline = deadline.min(since + every(seal.batch_s));
            }
            if self.unsaved.is_some() {
                deadline = self.room_at.min(next_status);
            }
            let wait = if busy {
                Duration::ZERO
            } else {
                deadline.saturating_duration_since(Instant::now())
            };
            let mut input = inputs.receiver.recv_timeout(wait);
            loop {
                match input {
                    Ok(Input::Stop) => return self.stop_delivered(inputs),
                    Ok(Input::Changed) => {
                        let changed = self.watch.take();
                        self.tail.touch(changed);
                    }
                    Ok(Input::Delivery(delivery)) => self.delivered(delivery)?,
                    // Taken below.
                    Ok(Input::Signed) => {}
                    Ok(Input::Missed(missed)) => {
                        let (from, to) = missed.leaves;
                        let event = Event::own(Kind::SinkMissed)
                            .severity(Severity::High)
                            .detail("name", missed.name)
                            .detail("from", from)
                            .detail("to", to);
                        self.sealer.push_own(event)?;
                    }
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
                }
                input = inputs
                    .receiver
                    .try_recv()
                    .map_err(|_| RecvTimeoutError::Timeout);
            }
            let now = Instant::now();
            if now >= next_scan && self.unsaved.is_none() {
                self.tail.scan();
                self.end_idle_sessions(now)?;
                self.note_letters()?;
                next_scan = now + every(seal.scan_s);
            }
            if now >= next_requests && self.unsaved.is_none() {
                if self.take_requests()? {
                    (in_batch_since, first_pending, sealed_at) = (None, None, now);
                }
                next_requests = now + every(REQUESTS_S);
            }

            // 2. Read, unless there is no room for it. Nothing is added to what found no room.
            self.check_room()?;
            if self.unsaved.is_some() {
                self.tell(progress, &mut last_status, &mut next_status);
                continue;
            }
            if self.paused.is_none() {
                self.read()?;
            }

            // 3. Make it durable, and 4. seal it.
            self.take_signature(Duration::ZERO)?;
            self.take_quote(&attest)?;
            if now >= next_status {
                self.rotate_if_asked()?;
            }
            if self.sealer.pending_bytes() > 0 {
                first_pending.get_or_insert(now);
            }
            if self.sealer.batch_len() > 0 || self.sealer.batch_filtered() > 0 {
                in_batch_since.get_or_insert(now);
                self.waiting_since.get_or_insert(now);
            }
            let idle = self.tail.is_idle();
            let full_batch = self.sealer.batch_len() >= seal.batch_events
                || self.sealer.batch_bytes() >= BATCH_BYTES;
            let old_batch = in_batch_since.is_some_and(|since| now >= since + every(seal.batch_s));
            let ending = finish != Finish::Never && idle && in_batch_since.is_some();
            // What is severe is sealed and sent at once.
            let urgent = std::mem::take(&mut self.pipeline.urgent);
            if full_batch || old_batch || ending || urgent {
                self.in_a_hurry = urgent || finish != Finish::Never;
                self.seal_batch()?;
                (in_batch_since, first_pending, sealed_at) = (None, None, now);
            } else if self.sealer.pending_bytes() >= COMMIT_BYTES
                || first_pending
                    .is_some_and(|since| now >= since + Duration::from_millis(COMMIT_MS))
            {
                self.commit()?;
                first_pending = None;
            }
            if now >= sealed_at + every(seal.heartbeat_s) && in_batch_since.is_none() {
                self.sealer.push_own(Event::own(Kind::Heartbeat))?;
                sealed_at = now;
            }

            // 5. Tell.
            let done = idle
                && self.tail.is_idle()
                && in_batch_since.is_none()
                && self.unsaved.is_none()
                && !self.sealer.has_unsigned();
            let quoted = self.quoting.as_ref().is_none_or(Quoting::is_settled);
            let delivered = self.cursor.size >= self.sealer.head().size
                && self.sinks.are_at(self.sealer.signed());
            let finished = match finish {
                Finish::Never => false,
                Finish::WhenSealed => done,
                Finish::WhenDelivered => done && delivered && quoted,
            };
            if now >= next_status || finished {
                let status = self.status(if finished { "stopped" } else { "running" });
                progress(&status);
                if status_differs(&status, &last_status) || finished {
                    self.write_status(&status);
                }
                last_status = status;
                let pause = if finish == Finish::Never {
                    STATUS_MS
                } else {
                    100
                };
                next_status = now + Duration::from_millis(pause);
            }
            if finished {
                self.commit()?;
                return Ok(last_status);
            }
        }
    }

    fn read(&mut self) -> Result<(), AgentError> {
        let (sealer, pipeline) = (&mut self.sealer, &mut self.pipeline);
        let mut result = Ok(());
        let left = Cell::new(READ_BYTES);
        self.tail.read_within(&left, &mut |item| {
            if result.is_ok() {
                result = pipeline.take(sealer, &item);
            }
            // A batch must fit into an upload: not one record more than it takes to fill it.
            if result.is_err() || sealer.batch_bytes() >= BATCH_BYTES {
                left.set(0);
            }
        });
        Ok(result?)
    }

    /// Makes what is pending durable. When the disk is full, what is pending is kept and reading pauses.
    pub(crate) fn commit(&mut self) -> Result<(), AgentError> {
        let blob = self.blob();
        let (tail, marks) = (&self.tail, &self.pipeline.marks);
        let done = self
            .sealer
            .commit(&blob, &mut || snapshot(&tail.positions(), marks));
        match done {
            Err(SealError::Ledger(LedgerError::Full { .. })) => self.disk_is_full(blob),
            done => Ok(done?),
        }
    }

    /// What belongs to the events that are pending; once more, when it did not go in the last time.
    fn blob(&mut self) -> Vec<u8> {
        match self.unsaved.take() {
            Some(blob) => blob,
            None => Delta::take(&mut self.tail, &mut self.pipeline.marks),
        }
    }

    pub(crate) fn seal_batch(&mut self) -> Result<(), AgentError> {
        self.say_receipt()?;
        let done = self.seal();
        self.ring();
        done
    }

    /// Says that an accepted head stands in the collector's log, now and then, and only beside other leaves:
    /// a receipt for the head over a receipt would never end.
    fn say_receipt(&mut self) -> Result<(), AgentError> {
        let recent = |since: Instant| since.elapsed() < RECEIPT_SAID;
        if let Some((status, said @ false)) = &mut self.receipt
            && self.sealer.batch_len() > 0
            && (self.stopping || !self.receipt_said_at.is_some_and(recent))
        {
            *said = true;
            let event = Event::own(Kind::ReceiptVerified)
                .detail("size", status.size)
                .detail("leaf", status.leaf)
                .detail("log_size", status.log_size);
            self.receipt_said_at = Some(Instant::now());
            self.sealer.push_own(event)?;
        }
        Ok(())
    }

    /// Ends the batch as it is, and does not call the uploader yet.
    pub(crate) fn seal(&mut self) -> Result<(), AgentError> {
        let counters = json!({
            "isolation": isolation(self.tail.roots()),
            "custody": self.config.redact.mode == RedactMode::Custody,
            "lines_in": self.pipeline.counters.lines_in,
            "records_sealed": self.pipeline.counters.records_sealed,
            "withheld": self.pipeline.counters.withheld,
            "shed": self.shed,
        });
        let mut counters = counters.as_object().cloned().unwrap_or_default();
        // The newest statement about the machine that all of this was sealed on.
        if let Some(leaf) = self.quoting.as_ref().and_then(Quoting::leaf) {
            counters.insert("quote".into(), leaf.into());
        }
        let blob = self.blob();
        let (tail, marks) = (&self.tail, &self.pipeline.marks);
        let done = self
            .sealer
            .end_batch(counters, &blob, &mut || snapshot(&tail.positions(), marks));
        match done {
            Err(SealError::Ledger(LedgerError::Full { .. })) => return self.disk_is_full(blob),
            done => done?,
        }
        match self.sign_without_ring() {
            Err(AgentError::Seal(SealError::Ledger(LedgerError::Full { .. }))) => {
                self.disk_is_full(Vec::new())
            }
            done => done,
        }
    }

    fn sign_pending(&mut self) -> Result<(), AgentError> {
        self.sign_without_ring()?;
        self.ring();
        Ok(())
    }

    /// Signs what is sealed: at once with a file, else as soon as the key can.
    fn sign_without_ring(&mut self) -> Result<(), AgentError> {
        let Some(signing) = &mut self.signing else {
            let (tail, marks) = (&self.tail, &self.pipeline.marks);
            self.sealer
                .sign_pending(&mut || snapshot(&tail.positions(), marks))?;
            return Ok(());
        };
        if signing.waiting().is_none()
            && Instant::now() >= self.key_at
            && let Some(head) = self.sealer.next_unsigned()
        {
            signing.give(head);
        }
        Ok(())
    }

    /// Takes a signature when it comes within this time, and gives the next head. Says when the key has become
    /// silent, and when it is back: what was sealed meanwhile was committed and under no signature.
    fn take_signature(&mut self, within: Duration) -> Result<(), AgentError> {
        let Some(signing) = &mut self.signing else {
            return Ok(());
        };
        match signing.take(within) {
            Some((Ok(note), took)) => {
                self.key_rests(took);
                if self.sealer.keep_signed(&note)? {
                    self.commit()?;
                }
                if let Some((since, size)) = self.key_silent.take() {
                    let event = Event::own(Kind::KeyAvailable)
                        .detail("after_s", since.elapsed().as_secs())
                        .detail("from", size);
                    self.sealer.push_own(event)?;
                    self.problem = None;
                }
                self.ring();
            }
            Some((Err(error), took)) => {
                self.key_rests(took.max(KEY_RETRY));
                self.key_is_silent(error.to_string())?;
            }
            None if signing.waiting().is_some_and(|for_| for_ > KEY_PATIENCE) => {
                let why = format!("no answer within {} s", KEY_PATIENCE.as_secs());
                self.key_is_silent(why)?;
            }
            None => {}
        }
        if self.unsaved.is_none() {
            self.sign_without_ring()?;
        }
        Ok(())
    }

    /// No more than a tenth of the time is the key's; one that stood still for long is not waited for as long again.
    pub(crate) fn key_rests(&mut self, took: Duration) {
        self.key_at = Instant::now() + (took * 9).min(KEY_REST_MAX);
    }

    fn key_is_silent(&mut self, why: String) -> Result<(), AgentError> {
        if self.key_silent.is_none() {
            tracing::error!(why, "the key does not sign");
            self.key_silent = Some((Instant::now(), self.sealer.signed()));
            let event = Event::own(Kind::KeyUnavailable)
                .severity(Severity::High)
                .detail("why", why.as_str());
            // The words may be those of a device or a program: foreign.
            let redacted = self.pipeline.redactor.redact(event);
            self.sealer.push(redacted, None)?;
            self.problem = Some(format!("the key does not sign: {why}"));
        }
        Ok(())
    }

    /// Waits for the key, but not for ever.
    fn wait_for_signature(&mut self) -> Result<(), AgentError> {
        let until = Instant::now() + KEY_LAST;
        while self.signing.is_some() && self.sealer.has_unsigned() && self.unsaved.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.key_silent.is_some() {
                break;
            }
            // It rests afterwards.
            self.key_at = Instant::now();
            self.sign_without_ring()?;
            self.take_signature(left)?;
        }
        Ok(())
    }

    /// Does what commands ask for, after what is left of what they asked before. `true` when something was
    /// sealed.
    fn take_requests(&mut self) -> Result<bool, AgentError> {
        self.finish_erasures()?;
        let mut sealed = false;
        if !self.sealer.erasing().is_empty() {
            return Ok(false);
        }
        let waiting = match self.requests.waiting(&self.host) {
            Ok(waiting) => waiting,
            Err(error) => {
                self.request_failed(&error);
                return Ok(false);
            }
        };
        for (name, request) in waiting {
            let answer = match request {
                Request::Erase(request) => self.erase(&request, &mut sealed)?,
            };
            // What cannot be done now is taken up again.
            let Some(answer) = answer else { continue };
            if let Err(error) = self.requests.give(&self.host, &name, &answer) {
                self.request_failed(&error);
            }
        }
        Ok(sealed)
    }

    fn request_failed(&mut self, error: &RequestError) {
        tracing::warn!(%error, "requests");
        self.problem = Some(error.to_string());
    }

    /// Erases payloads: the leaf that says so is durable and signed before the first one goes. `None` when
    /// there is no room to say so, or not everything could be erased.
    fn erase(
        &mut self,
        request: &EraseRequest,
        sealed: &mut bool,
    ) -> Result<Option<Answer>, AgentError> {
        let refused = |why| Ok(Some(Answer::Refused { why }));
        if let Err(why) = request.check() {
            return refused(why);
        }
        self.commit()?;
        if self.unsaved.is_some() {
            return Ok(None);
        }
        let found = match self.sealer.erasable(request) {
            Ok(found) => found,
            Err(EraseError::Seal(error)) => return Err(error.into()),
            Err(error) => return refused(error.to_string()),
        };
        let mut leaves = Vec::new();
        if found.count > 0 {
            let [who, reason] = [&request.who, &request.reason].map(|words| self.redacted(words));
            leaves = self.sealer.push_erasure(&found, &who, &reason)?;
            self.seal()?;
            *sealed = true;
            self.wait_for_signature()?;
        }
        self.finish_erasures()?;
        if !self.sealer.erasing().is_empty() {
            return Ok(None);
        }
        self.ring();
        Ok(Some(Answer::Erased(Erased {
            count: found.count,
            gone_before: found.gone,
            ranges: found.ranges,
            leaves,
            ..Erased::default()
        })))
    }

    /// The words of a command without what a rule takes for a secret.
    fn redacted(&mut self, words: &str) -> String {
        let event = Event::own(Kind::PayloadErased).detail("words", words);
        let redacted = self.pipeline.redactor.redact(event);
        let words = redacted.event().detail.get("words");
        let words = words.and_then(|words| words.as_str());
        words.unwrap_or_default().to_owned()
    }

    /// Erases what durable leaves say is erased: in the ledger, in dead letters, and in what the uploader has
    /// in its hands. What cannot be done now is done later, or at the next start.
    fn finish_erasures(&mut self) -> Result<(), AgentError> {
        if self.sealer.erasing().is_empty() || self.unsaved.is_some() {
            return Ok(());
        }
        // A leaf under no signature could be denied.
        if self.signing.is_some() && self.sealer.has_unsigned() {
            return Ok(());
        }
        self.sealer.erase_sealed()?;
        let erased = {
            let _held = self.bell.hold_letters();
            self.bell.erased.fetch_add(1, Ordering::AcqRel);
            self.letters.erase(&self.host, self.sealer.erasing())
        };
        if let Err(error) = erased {
            self.letters_failed(&error);
            return Ok(());
        }
        self.sealer.note_erased()?;
        self.commit()
    }

    /// Tells the uploader how far the ledger reaches.
    pub(crate) fn ring(&self) {
        if self.in_a_hurry {
            let size = self.sealer.head().size;
            self.bell.hurry_to.store(size, Ordering::Release);
        }
        self.bell
            .end
            .store(self.sealer.ledger().end(), Ordering::Release);
        self.bell
            .signed
            .store(self.sealer.signed(), Ordering::Release);
        self.bell.ring.notify_one();
        self.sinks.ring();
    }

    fn delivered(&mut self, delivery: Delivery) -> Result<(), AgentError> {
        match delivery {
            Delivery::Frontier(frontier) => self.confirmed = frontier.is_some(),
            Delivery::Problem(what) => self.problem = Some(what),
            Delivery::Refused(what) => {
                self.problem = Some(what);
                self.device_refused = true;
            }
            Delivery::Receipt(status) => {
                self.receipt = Some((status, false));
                self.receipt_missing = None;
            }
            Delivery::ReceiptMissing { size, why } => {
                let event = Event::own(Kind::ReceiptMissing)
                    .severity(Severity::High)
                    .detail("size", size)
                    .detail("why", why.as_str());
                // The words may be the collector's: foreign.
                let redacted = self.pipeline.redactor.redact(event);
                self.sealer.push(redacted, None)?;
                self.pipeline.urgent = true;
                self.receipt_missing = Some(why);
            }
            Delivery::DeadLetter(letter) => {
                self.note_letter(&letter)?;
                self.letters_waiting += 1;
            }
            Delivery::Located { position, size } => self.cursor = Cursor { position, size },
            Delivery::Accepted { accepted, position } => {
                self.problem = None;
                if let Some(quoting) = &mut self.quoting {
                    quoting.note = Some(accepted.note.clone());
                    quoting.wanted |= accepted.quote;
                }
                self.device_refused = false;
                self.cursor = Cursor {
                    position,
                    size: accepted.size,
                };
                self.cosigned_at = Some(self.host.clock.now().unix_s());
                self.waiting_since = (accepted.size < self.sealer.head().size).then(Instant::now);
                self.sealer.keep_cosigned(&accepted.note)?;
                let kept = self.config.ledger.bytes_max;
                let ledger = self.sealer.ledger();
                let limit = ledger.end().saturating_sub(kept).min(position);
                if ledger.start().map_err(SealError::from)? < limit {
                    self.sealer.remove_before(limit)?;
                }
            }
        }
        Ok(())
    }

    /// Seals what happened to dead letters that no leaf tells of yet.
    fn note_letters(&mut self) -> Result<(), AgentError> {
        let letters = match self.letters.list(&self.host) {
            Ok(letters) => letters,
            Err(error) => {
                self.letters_failed(&error);
                return Ok(());
            }
        };
        self.letters_waiting = letters.iter().filter(|letter| !letter.delivered).count() as u64;
        for letter in letters {
            if letter.delivered || !letter.noted {
                self.note_letter(&letter)?;
            }
        }
        Ok(())
    }

    /// Seals that a letter was set aside or delivered, and only then says so in its file: after a crash
    /// it may be said twice, never not at all.
    fn note_letter(&mut self, letter: &DeadLetter) -> Result<(), AgentError> {
        let severity = if letter.delivered {
            Severity::Info
        } else {
            Severity::High
        };
        let event = Event::own(Kind::DeadLetter)
            .severity(severity)
            .detail("from", letter.from)
            .detail("to", letter.to)
            .detail("delivered", letter.delivered)
            .detail("status", letter.status)
            .detail("code", letter.code.as_str())
            .detail("message", letter.message.as_str());
        // The words are the collector's: foreign.
        let redacted = self.pipeline.redactor.redact(event);
        self.sealer.push(redacted, None)?;
        self.pipeline.urgent |= !letter.delivered;
        self.commit()?;
        if self.unsaved.is_some() {
            return Ok(());
        }
        if let Err(error) = self.letters.noted(&self.host, letter) {
            self.letters_failed(&error);
        }
        Ok(())
    }

    fn letters_failed(&mut self, error: &DeadLetterError) {
        tracing::warn!(%error, "dead letters");
        self.problem = Some(error.to_string());
    }

    /// Makes room, or pauses reading, when what is not archived fills the ledger's share of the disk or
    /// the disk itself.
    fn check_room(&mut self) -> Result<(), AgentError> {
        let ledger = self.sealer.ledger();
        let quota = self.config.ledger.bytes_max;
        // Positions first: they cost nothing, and rewritten segments only take less than they say.
        let over = ledger.end().saturating_sub(self.cursor.position) > quota
            && ledger
                .len_from(self.cursor.position)
                .map_err(SealError::from)?
                > quota;
        if !over && !self.disk_full {
            (self.paused, self.said_full) = (None, None);
            return Ok(());
        }
        let why = if self.disk_full {
            "the disk is full"
        } else {
            "the ledger is full of what the collector has not archived"
        };
        if self.disk_full {
            self.paused.get_or_insert_with(|| why.to_owned());
            if Instant::now() < self.room_at {
                return Ok(());
            }
            self.room_at = Instant::now() + Duration::from_secs(ROOM_S);
            self.sealer.remove_before(self.cursor.position)?;
            if self.unsaved.is_some() {
                self.commit()?;
                if self.unsaved.is_some() {
                    return Ok(());
                }
                // What was sealed without room to say so.
                self.sign_pending()?;
            }
            if self
                .sealer
                .ledger()
                .keep_reserve()
                .map_err(SealError::from)?
            {
                self.disk_full = false;
                return Ok(());
            }
        }
        if self.config.ledger.when_full == WhenFull::Prune && self.prune(why)? {
            self.paused = None;
        } else if self.said_full != Some(self.disk_full) {
            self.said_full = Some(self.disk_full);
            self.paused = Some(why.to_owned());
            let event = Event::own(Kind::LedgerFull)
                .severity(Severity::High)
                .detail("why", why)
                .detail("bytes_max", quota);
            self.pipeline.urgent = true;
            self.sealer.push_own(event)?;
        }
        Ok(())
    }

    /// Prunes the oldest segment that is not archived: payloads everywhere first, then entries. `false`
    /// when nothing is left to prune, or there is no room to do it.
    fn prune(&mut self, why: &str) -> Result<bool, AgentError> {
        let from = self.cursor.position;
        let closed = self.sealer.ledger().closed().map_err(SealError::from)?;
        let waiting = || closed.iter().filter(|closed| closed.base >= from);
        let payloads = waiting().filter(|closed| !closed.rewritten);
        let payloads = payloads.map(|closed| (closed, Prune::Payloads));
        let entries = waiting().map(|closed| (closed, Prune::Entries));
        for (closed, what) in payloads.chain(entries) {
            let pruned = match self.sealer.prune(*closed, what) {
                Ok(Some(pruned)) => pruned,
                // Nothing in it, or no room for the shorter segment beside the longer one; without entries
                // it is tiny.
                Ok(None) | Err(SealError::Ledger(LedgerError::Full { .. })) => continue,
                Err(error) => return Err(error.into()),
            };
            let event = Event::own(Kind::LedgerPruned)
                .severity(Severity::High)
                .detail("why", why)
                .detail("from", pruned.from)
                .detail("to", pruned.to)
                .detail("payloads", pruned.payloads)
                .detail("entries", pruned.entries)
                .detail("bytes", pruned.bytes);
            self.pipeline.urgent = true;
            self.sealer.push_own(event)?;
            self.commit()?;
            if self.unsaved.is_some() {
                // Not even this fits: nothing goes before a leaf says so.
                return Ok(false);
            }
            self.shed += pruned.payloads.max(pruned.entries);
            self.sealer.apply(pruned)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// The disk is full: what was pushed stays in memory and nothing is added to it, until it could be
    /// written. The reserve makes room for it.
    fn disk_is_full(&mut self, blob: Vec<u8>) -> Result<(), AgentError> {
        self.unsaved = Some(blob);
        let freed = self
            .sealer
            .ledger()
            .use_reserve()
            .map_err(SealError::from)?;
        if freed || !self.disk_full {
            tracing::error!(freed, "no space left on the disk");
            self.room_at = Instant::now();
        }
        self.disk_full = true;
        Ok(())
    }

    fn end_idle_sessions(&mut self, now: Instant) -> Result<(), AgentError> {
        let idle = Duration::from_secs(self.config.seal.session_idle_s);
        let ended: Vec<String> = self
            .pipeline
            .sessions
            .iter()
            .filter(|(_, heard)| now.duration_since(**heard) >= idle)
            .map(|(session, _)| session.clone())
            .collect();
        for session in ended {
            self.pipeline.sessions.remove(&session);
            if self.sealer.knows_session(&session) {
                self.sealer.end_session(&session, "idle")?;
            }
        }
        Ok(())
    }

    pub(crate) fn stop(&mut self) -> Result<Status, AgentError> {
        self.stopping = true;
        self.in_a_hurry = true;
        if self.unsaved.is_none() {
            self.sealer.push_own(Event::own(Kind::AgentStopped))?;
            self.seal_batch()?;
            self.wait_for_signature()?;
        }
        if self.unsaved.is_some() {
            self.problem =
                Some("stopped while the disk was full; what was read last is read again".into());
        }
        let status = self.status("stopped");
        self.write_status(&status);
        Ok(status)
    }

    /// Stops, and gives a collector that took everything until now a moment for the rest.
    fn stop_delivered(&mut self, inputs: &Inputs) -> Result<Status, AgentError> {
        let status = self.stop()?;
        let until = Instant::now() + LAST_DELIVERY;
        while self.problem.is_none()
            && self.confirmed
            && self.unsaved.is_none()
            && !self.sealer.has_unsigned()
            && self.cursor.size < self.sealer.head().size
        {
            let left = until.saturating_duration_since(Instant::now());
            match inputs.receiver.recv_timeout(left) {
                Ok(Input::Delivery(
                    delivery @ (Delivery::Accepted { .. }
                    | Delivery::Located { .. }
                    | Delivery::Problem(_)
                    | Delivery::Refused(_)),
                )) => self.delivered(delivery)?,
                // Anything else is taken up at the next start, and who asks twice is not in more of a hurry:
                // `timeout` does.
                Ok(_) => {}
                Err(_) => break,
            }
        }
        if self.cursor.size == status.delivered {
            return Ok(status);
        }
        if self.unsaved.is_none() {
            self.commit()?;
        }
        let status = self.status("stopped");
        self.write_status(&status);
        Ok(status)
    }

    /// Tells how it is going, now and then.
    fn tell(&mut self, progress: &mut dyn FnMut(&Status), last: &mut Status, next: &mut Instant) {
        let now = Instant::now();
        if now < *next {
            return;
        }
        let status = self.status("running");
        progress(&status);
        if status_differs(&status, last) {
            self.write_status(&status);
        }
        *last = status;
        *next = now + Duration::from_millis(STATUS_MS);
    }

    fn status(&self, state: &str) -> Status {
        let counters = &self.pipeline.counters;
        let head = self.sealer.head();
        let ledger = self.sealer.ledger();
        let waiting_s = self
            .waiting_since
            .map_or(0, |since| since.elapsed().as_secs());
        let (unreadable, unreadable_examples) = self.tail.failing(EXAMPLES_MAX);
        Status {
            time: self.host.clock.now().rfc3339(),
            pid: std::process::id(),
            state: self
                .paused
                .as_ref()
                .map_or_else(|| state.to_owned(), |why| format!("paused: {why}")),
            origin: self.enrolment.origin.clone(),
            collector: self.enrolment.url.clone(),
            crypto: Library::linked(),
            files: self.tail.len() as u64,
            unread_bytes: self.tail.behind(),
            unreadable: unreadable as u64,
            unreadable_examples,
            lines_in: counters.lines_in,
            records_sealed: counters.records_sealed,
            records_filtered: counters.records_filtered.clone(),
            events: counters.events,
            redactions: counters.redactions,
            withheld: counters.withheld,
            shed: self.shed,
            size: head.size,
            root: head.root.to_string(),
            delivered: self.cursor.size,
            queue: Queue {
                len: head.size.saturating_sub(self.cursor.size),
                bytes: ledger.len_from(self.cursor.position).unwrap_or(0),
                oldest_s: waiting_s,
            },
            cosigned_at: self.cosigned_at,
            exposure_s: waiting_s,
            frontier_confirmed: self.confirmed,
            problem: self.problem.clone(),
            device_refused: self.device_refused,
            dead_letters: self.letters_waiting,
            erased: self.sealer.erased(),
            ledger_bytes: ledger.len().unwrap_or(0),
            receipt: self.receipt.map(|(status, _)| status),
            boot_log: self.quoting.as_ref().and_then(Quoting::boot_log_problem),
            receipt_missing: self.receipt_missing.clone(),
            sinks: self.sinks.status(),
        }
    }

    /// Written for people to read; losing it costs nothing, so it is not synced.
    fn write_status(&self, status: &Status) {
        let path = self.state_dir.join("status.json");
        let tmp = self.state_dir.join(".status.json.tmp");
        let json = serde_json::to_vec_pretty(status).unwrap_or_default();
        if let Err(error) = std::fs::write(&tmp, json).and_then(|()| std::fs::rename(&tmp, &path)) {
            tracing::warn!(%error, path = %path.display(), "the status could not be written");
        }
    }
}

fn status_differs(new: &Status, old: &Status) -> bool {
    let plain = |status: &Status| Status {
        time: String::new(),
        exposure_s: 0,
        queue: Queue::default(),
        ..status.clone()
    };
    plain(new) != plain(old) || new.queue.len != old.queue.len
}

/// `shared` when the owner of any source could also read the keys: it is the same account.
fn isolation(roots: &[Root]) -> &'static str {
    let me = jurat_disk::user_id();
    let shared = roots.is_empty()
        || roots
            .iter()
            .any(|root| jurat_disk::owner(&root.dir).is_none_or(|owner| owner == me || owner == 0));
    if shared { "shared" } else { "separate" }
}

fn policy_digest(config: &Config) -> String {
    let text = toml::to_string(config).unwrap_or_default();
    digest(&SHA256, text.as_bytes())
        .as_ref()
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}
