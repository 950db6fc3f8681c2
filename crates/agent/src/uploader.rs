//! Delivery to the collector, on a thread of its own: nothing else waits for the network.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use jurat_disk::{Host, read, replace};
use jurat_ledger::{LedgerError, Reader};
use jurat_seal::kind;
use jurat_sink::{
    Accepted, Batch, BatchError, CollectorError, FrontierAnswer, Refusal, Take, read_batch,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::Input;
use crate::config::DeliveryConfig;
use crate::dead_letters::{DeadLetter, DeadLetters};
use crate::receipts::{Accepted as Head, ReceiptStatus};
use crate::uplink::Uplink;

/// Up to where the collector archived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    /// Position in the ledger.
    pub(crate) position: u64,
    /// Leaves archived.
    pub(crate) size: u64,
}

/// What came back.
#[derive(Debug)]
pub enum Delivery {
    /// What the collector knows of this log, asked at the start; `None` when it did not answer.
    Frontier(Option<FrontierAnswer>),
    /// An upload was archived and cosigned.
    Accepted {
        /// The answer.
        accepted: Accepted,
        /// Up to where in the ledger.
        position: u64,
    },
    /// The collector holds this much already: it was told before, and the answer was lost.
    Located {
        /// Up to where in the ledger.
        position: u64,
        /// Leaves archived.
        size: u64,
    },
    /// An upload was refused for good and is set aside; its leaf hashes go out next.
    DeadLetter(DeadLetter),
    /// An upload did not succeed; it will be tried again.
    Problem(String),
    /// The collector does not accept this device; it is asked again, but only its operator can change that.
    Refused(String),
    /// An accepted head stands in the collector's log.
    Receipt(ReceiptStatus),
    /// An accepted head has not appeared in the collector's log.
    ReceiptMissing {
        /// The head's size.
        size: u64,
        /// What was answered instead.
        why: String,
    },
}

/// Shared with the loop: the end of the ledger, and a bell.
#[derive(Default)]
pub(crate) struct Bell {
    pub(crate) end: AtomicU64,
    /// The size of the newest head that is signed: what stands behind it cannot be sent, and is not read.
    pub(crate) signed: AtomicU64,
    /// Up to this size nothing waits for the time that the collector asked for.
    pub(crate) hurry_to: AtomicU64,
    /// How often payloads were erased: what was read before is read again.
    pub(crate) erased: AtomicU64,
    letters: Mutex<()>,
    pub(crate) ring: Notify,
}

impl Bell {
    /// While this is held, no upload is set aside.
    pub(crate) fn hold_letters(&self) -> MutexGuard<'_, ()> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct Uploader {
    pub(crate) host: Host,
    pub(crate) ledger_dir: PathBuf,
    pub(crate) cursor_path: PathBuf,
    pub(crate) uplink: Uplink,
    pub(crate) letters: DeadLetters,
    pub(crate) bell: Arc<Bell>,
    pub(crate) to_agent: mpsc::Sender<Input>,
    pub(crate) patience: DeliveryConfig,
}

/// A running uploader; stops when dropped.
pub(crate) struct Handle {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The longest time between uploads that a collector can ask for.
const PACE_MAX_S: u64 = 3_600;

/// Reads the cursor; the beginning when there is none.
pub(crate) fn load_cursor(host: &Host, path: &std::path::Path) -> Cursor {
    // A cursor that cannot be read costs a second upload, which the collector recognises.
    read(&*host.disk, path, 4096)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

impl Uploader {
    pub(crate) fn start(self) -> std::io::Result<Handle> {
        let (stop, mut stopped) = watch::channel(false);
        // Requests run on other threads: in one of them a TPM may be signing, and this one is to end when asked.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("uploads")
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new()
            .name("uploader".into())
            .spawn(move || {
                runtime.block_on(async move {
                    tokio::select! {
                        _ = stopped.changed() => {}
                        () = self.run() => {}
                    }
                });
                runtime.shutdown_background();
            })?;
        Ok(Handle {
            stop,
            thread: Some(thread),
        })
    }

    async fn run(self) {
        let (accepted, heads) = watch::channel(Head::default());
        tokio::join!(
            self.deliver(&accepted),
            self.receipts(heads),
            self.enrolment_receipt()
        );
    }

    async fn deliver(&self, heads: &watch::Sender<Head>) {
        let asked = timeout(Duration::from_secs(5), self.uplink.frontier(&self.host)).await;
        let frontier = asked.ok().and_then(Result::ok);
        let held = frontier.as_ref().map(|frontier| frontier.size);
        self.tell(Delivery::Frontier(frontier));
        let mut cursor = load_cursor(&self.host, &self.cursor_path);
        if held.is_some_and(|held| held < cursor.size) {
            // Somebody edited the cursor, or the collector lost something. From the front: what it holds is
            // found again by its answer.
            cursor = Cursor::default();
            self.store(cursor);
            let (position, size) = (cursor.position, cursor.size);
            self.tell(Delivery::Located { position, size });
        }
        let first_ms = self.patience.retry_ms;
        let longest_ms = self.patience.retry_max_ms;
        // A collector that refuses this device, or that cannot be understood, is asked again this often.
        let refused = Duration::from_millis(longest_ms);
        let mut backoff_ms = first_ms;
        let mut take = Take::Many;
        let mut not_before = Instant::now();
        // An upload that could not be sent is not made again, unless something was erased since.
        let mut unsent: Option<(u64, Batch)> = None;
        loop {
            self.wait_for_turn(not_before, cursor.size).await;
            let end = self.bell.end.load(Ordering::Acquire);
            let read_at = self.bell.erased.load(Ordering::Acquire);
            let made = match unsent.take() {
                Some((at, batch)) if at == read_at => Ok(Some(batch)),
                _ => self.next_batch(cursor, end, take),
            };
            let batch = match made {
                Ok(Some(batch)) => batch,
                Ok(None) => {
                    self.bell.ring.notified().await;
                    continue;
                }
                // The agent seals so that this does not happen. Should it, the content is kept like
                // anything that cannot be delivered.
                Err(error @ BatchError::TooLarge { .. }) if take != Take::Hashes => {
                    let kept = match self.next_batch(cursor, end, Take::Oversized) {
                        Ok(Some(batch)) if !batch.rotates => {
                            let refusal = Refusal {
                                code: "too_large_here".into(),
                                message: error.to_string(),
                                size: None,
                            };
                            self.set_aside(&batch, read_at, 0, refusal)
                        }
                        _ => Aside::Not,
                    };
                    if kept == Aside::Stale {
                        continue;
                    }
                    take = Take::Hashes;
                    if kept == Aside::Not {
                        take = Take::Many;
                        self.problem(&describe(&error));
                        sleep(refused).await;
                    }
                    continue;
                }
                Err(error) => {
                    self.problem(&describe(&error));
                    sleep(refused).await;
                    continue;
                }
            };
            let error = match self.uplink.send(&self.host, batch.body.clone()).await {
                Ok(accepted) => {
                    let reached = if accepted.size == batch.to {
                        Some(Cursor {
                            position: batch.next,
                            size: batch.to,
                        })
                    } else {
                        self.locate(accepted.size, end)
                    };
                    let Some(next) = reached.filter(|next| next.size > cursor.size) else {
                        // Genuine, and old: sent again at once it would be answered so again.
                        let size = accepted.size;
                        self.problem(&format!("the collector answered with size {size} again"));
                        sleep(refused).await;
                        continue;
                    };
                    backoff_ms = first_ms;
                    take = Take::Many;
                    if !batch.more {
                        let pause = Duration::from_secs(accepted.next_upload_s.min(PACE_MAX_S));
                        not_before = Instant::now() + pause;
                    }
                    cursor = next;
                    self.store(cursor);
                    let position = cursor.position;
                    heads.send_replace(Head {
                        size: accepted.size,
                        note: accepted.note.clone(),
                    });
                    self.tell(Delivery::Accepted { accepted, position });
                    continue;
                }
                Err(error) => error,
            };
            match error {
                CollectorError::Conflict { size } => match self.locate(size, end) {
                    Some(found) if found != cursor => {
                        cursor = found;
                        take = Take::Many;
                        self.store(cursor);
                        self.tell(self.located(cursor).await);
                        // A collector that names another size each time must not be asked without end.
                        sleep(Duration::from_millis(backoff_ms)).await;
                        backoff_ms = (backoff_ms * 2).min(longest_ms);
                    }
                    _ => {
                        self.problem(&format!(
                            "the collector holds {size} leaves of this log, and this ledger has no such checkpoint"
                        ));
                        sleep(refused).await;
                    }
                },
                CollectorError::Unreachable { .. } | CollectorError::Busy { .. } => {
                    self.problem(&describe(&error));
                    let asked_ms = match error {
                        CollectorError::Busy {
                            retry_after_s: Some(seconds),
                            ..
                        } => seconds.min(PACE_MAX_S) * 1_000,
                        _ => 0,
                    };
                    // Jitter: a fleet that lost its collector must not come back as one.
                    let mut jitter = [0; 8];
                    self.host.rng.fill(&mut jitter);
                    let jitter_ms = u64::from_le_bytes(jitter) % (backoff_ms / 2 + 1);
                    unsent = Some((read_at, batch));
                    sleep(Duration::from_millis(asked_ms.max(backoff_ms) + jitter_ms)).await;
                    backoff_ms = (backoff_ms * 2).min(longest_ms);
                }
                CollectorError::Refused { status, refusal }
                    if take != Take::Hashes && is_about_content(status, &refusal.code) =>
                {
                    // First alone: what is wrong with one seal is not wrong with its neighbours.
                    if take == Take::Many {
                        take = Take::One;
                        continue;
                    }
                    if batch.rotates {
                        // Without its entries no later head would be believed.
                        let code = &refusal.code;
                        self.problem(&format!("the rotation of the key was refused ({code})"));
                        sleep(refused).await;
                        continue;
                    }
                    match self.set_aside(&batch, read_at, status, refusal) {
                        Aside::Kept => take = Take::Hashes,
                        Aside::Stale => {}
                        Aside::Not => sleep(refused).await,
                    }
                }
                error => {
                    if let CollectorError::Identity(_) = error {
                        let what = describe(&error);
                        tracing::warn!(what, "delivery");
                        self.tell(Delivery::Refused(what));
                    } else {
                        self.problem(&describe(&error));
                    }
                    // Who is refused a head may be one of two that go on from the same one: both show
                    // themselves, and the collector compares.
                    if let CollectorError::Refused { .. } = error {
                        let _ = self.uplink.frontier(&self.host).await;
                    }
                    sleep(refused).await;
                }
            }
        }
    }

    /// Waits for the time that the collector asked for, unless something cannot wait.
    async fn wait_for_turn(&self, not_before: Instant, delivered: u64) {
        while delivered >= self.bell.hurry_to.load(Ordering::Acquire) {
            if timeout_at(not_before, self.bell.ring.notified())
                .await
                .is_err()
            {
                return;
            }
        }
    }

    /// Sets a refused seal aside, as it was read when `read_at` times something had been erased.
    fn set_aside(&self, batch: &Batch, read_at: u64, status: u16, refusal: Refusal) -> Aside {
        let _held = self.bell.hold_letters();
        if self.bell.erased.load(Ordering::Acquire) != read_at {
            return Aside::Stale;
        }
        let letter = DeadLetter {
            from: batch.from,
            to: batch.to,
            status,
            code: refusal.code,
            message: refusal.message.chars().take(1_000).collect(),
            time: self.host.clock.now().rfc3339(),
            bytes: batch.body.len() as u64,
            noted: false,
            delivered: false,
        };
        tracing::error!(
            from = letter.from,
            to = letter.to,
            code = letter.code,
            "refused for good; set aside"
        );
        match self.letters.keep(&self.host, &letter, &batch.body) {
            Ok(()) => {
                self.tell(Delivery::DeadLetter(letter));
                Aside::Kept
            }
            Err(error) => {
                self.problem(&describe(&error));
                Aside::Not
            }
        }
    }

    fn next_batch(
        &self,
        cursor: Cursor,
        end: u64,
        take: Take,
    ) -> Result<Option<Batch>, BatchError> {
        if cursor.position >= end || cursor.size >= self.bell.signed.load(Ordering::Acquire) {
            return Ok(None);
        }
        let mut reader = Reader::new(
            self.host.disk.clone(),
            &self.ledger_dir,
            cursor.position,
            end,
        )?;
        read_batch(&mut reader, cursor.size, take)
    }

    /// Finds the place in the ledger after the checkpoint of this size.
    fn locate(&self, size: u64, end: u64) -> Option<Cursor> {
        if size == 0 {
            return Some(Cursor::default());
        }
        let find = || -> Result<Option<Cursor>, LedgerError> {
            let mut reader = Reader::new(self.host.disk.clone(), &self.ledger_dir, 0, end)?;
            let mut sealed = None;
            while let Some(item) = reader.next_record()? {
                // The note may stand behind later leaves; the head was sealed before them.
                if item.kind == kind::TO_SIGN && item.body.starts_with(&size.to_le_bytes()) {
                    sealed = Some(item.next);
                }
                if item.kind == kind::CHECKPOINT && checkpoint_size(item.body) == Some(size) {
                    let position = sealed.unwrap_or(item.next);
                    return Ok(Some(Cursor { position, size }));
                }
            }
            Ok(None)
        };
        find().ok().flatten()
    }

    /// The collector holds this much already: the answer that said so was lost, and its note with it.
    /// What the collector knows of the log has the note once more.
    async fn located(&self, cursor: Cursor) -> Delivery {
        let (position, size) = (cursor.position, cursor.size);
        match self.uplink.frontier(&self.host).await {
            Ok(known) if known.size == size => match self.uplink.stored(known) {
                Some(accepted) => Delivery::Accepted { accepted, position },
                None => Delivery::Located { position, size },
            },
            _ => Delivery::Located { position, size },
        }
    }

    fn store(&self, cursor: Cursor) {
        let json = serde_json::to_vec(&cursor).unwrap_or_default();
        // Behind is safe: what is sent twice is recognised.
        if let Err(error) = replace(&*self.host.disk, &self.cursor_path, &json) {
            tracing::warn!(%error, "the cursor could not be written");
        }
    }

    fn problem(&self, what: &str) {
        tracing::warn!(what, "delivery");
        self.tell(Delivery::Problem(what.to_owned()));
    }

    pub(crate) fn tell(&self, delivery: Delivery) {
        let _ = self.to_agent.send(Input::Delivery(delivery));
    }
}

/// What became of an upload that is to be set aside.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Aside {
    Kept,
    /// Something was erased since it was read: it is read again.
    Stale,
    Not,
}

/// Whether a refusal is about what an upload holds, so that the tree can go on without it. A refusal of
/// the device, of the address or of the signed head is not.
fn is_about_content(status: u16, code: &str) -> bool {
    matches!(
        code,
        "malformed"
            | "malformed_entry"
            | "inconsistent"
            | "payload_mismatch"
            | "too_large"
            | "bad_encoding"
    ) || status == 413
}

/// The second line of a checkpoint.
fn checkpoint_size(note: &[u8]) -> Option<u64> {
    std::str::from_utf8(note).ok()?.lines().nth(1)?.parse().ok()
}

/// An error with its causes, in one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
