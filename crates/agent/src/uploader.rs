//! Delivery to the collector, on a thread of its own: nothing else waits for the network.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::Duration;

use jurat_disk::{Host, read, replace};
use jurat_key::Secret;
use jurat_ledger::{LedgerError, Reader};
use jurat_seal::kind;
use jurat_sink::{
    Accepted, Batch, BatchError, Collector, CollectorError, FrontierAnswer, Identity, check_note,
    read_batch,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use crate::Input;
use crate::config::DeliveryConfig;

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
    /// An upload did not succeed; it will be tried again.
    Problem(String),
}

/// Shared with the loop: the end of the ledger, and a bell.
#[derive(Default)]
pub(crate) struct Bell {
    pub(crate) end: AtomicU64,
    pub(crate) ring: Notify,
}

pub(crate) struct Uploader {
    pub(crate) host: Host,
    pub(crate) ledger_dir: PathBuf,
    pub(crate) cursor_path: PathBuf,
    pub(crate) collector: Collector,
    pub(crate) device: String,
    pub(crate) token: Secret,
    pub(crate) hmac_key: Secret,
    /// The collector's keys and the log's name: an answer counts only when they signed.
    pub(crate) witness: String,
    pub(crate) archive: String,
    pub(crate) origin: String,
    pub(crate) bell: Arc<Bell>,
    pub(crate) to_agent: Sender<Input>,
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
        let runtime = tokio::runtime::Builder::new_current_thread()
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
        let token = self.token.to_base64();
        let who = Identity {
            device: &self.device,
            token: &token,
            key: self.hmac_key.expose(),
        };
        let asked = tokio::time::timeout(
            Duration::from_secs(5),
            self.collector.frontier(&self.host, &who),
        )
        .await;
        let frontier = asked.ok().and_then(Result::ok);
        let _ = self
            .to_agent
            .send(Input::Delivery(Delivery::Frontier(frontier)));
        let mut cursor = load_cursor(&self.host, &self.cursor_path);
        let first_ms = self.patience.retry_ms;
        let longest_ms = self.patience.retry_max_ms;
        // A collector that refuses this device or an upload for good is asked again this often.
        let refused = Duration::from_millis(longest_ms);
        let mut backoff_ms = first_ms;
        loop {
            let end = self.bell.end.load(Ordering::Acquire);
            let batch = match self.next_batch(cursor, end) {
                Ok(Some(batch)) => batch,
                Ok(None) => {
                    self.bell.ring.notified().await;
                    continue;
                }
                Err(error) => {
                    self.problem(&error.to_string());
                    tokio::time::sleep(refused).await;
                    continue;
                }
            };
            match self.collector.upload(&self.host, &who, &batch).await {
                Ok(accepted)
                    if let Err(what) = check_note(
                        &accepted.note,
                        &self.origin,
                        accepted.size,
                        &self.witness,
                        &self.archive,
                    ) =>
                {
                    self.problem(&format!("the collector's answer does not count: {what}"));
                    tokio::time::sleep(refused).await;
                }
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
                        tokio::time::sleep(refused).await;
                        continue;
                    };
                    backoff_ms = first_ms;
                    cursor = next;
                    self.store(cursor);
                    let position = cursor.position;
                    let _ = self
                        .to_agent
                        .send(Input::Delivery(Delivery::Accepted { accepted, position }));
                }
                Err(CollectorError::Conflict { size }) => match self.locate(size, end) {
                    Some(found) if found != cursor => {
                        cursor = found;
                        self.store(cursor);
                        let known = self.collector.frontier(&self.host, &who).await.ok();
                        let _ = self
                            .to_agent
                            .send(Input::Delivery(self.located(cursor, known)));
                        // A collector that names another size each time must not be asked without end.
                        tokio::time::sleep(Duration::from_millis(backoff_ms)).await;
                        backoff_ms = (backoff_ms * 2).min(longest_ms);
                    }
                    _ => {
                        self.problem(&format!(
                            "the collector holds {size} leaves of this log, and this ledger has no such checkpoint"
                        ));
                        tokio::time::sleep(refused).await;
                    }
                },
                Err(error @ (CollectorError::Unreachable { .. } | CollectorError::Busy { .. })) => {
                    self.problem(&describe(&error));
                    let asked_ms = match error {
                        CollectorError::Busy {
                            retry_after_s: Some(seconds),
                            ..
                        } => seconds.min(3_600) * 1_000,
                        _ => 0,
                    };
                    // Jitter: a fleet that lost its collector must not come back as one.
                    let mut jitter = [0; 8];
                    self.host.rng.fill(&mut jitter);
                    let jitter_ms = u64::from_le_bytes(jitter) % (backoff_ms / 2 + 1);
                    tokio::time::sleep(Duration::from_millis(asked_ms.max(backoff_ms) + jitter_ms))
                        .await;
                    backoff_ms = (backoff_ms * 2).min(longest_ms);
                }
                Err(error) => {
                    self.problem(&describe(&error));
                    tokio::time::sleep(refused).await;
                }
            }
        }
    }

    fn next_batch(&self, cursor: Cursor, end: u64) -> Result<Option<Batch>, BatchError> {
        if cursor.position >= end {
            return Ok(None);
        }
        let mut reader = Reader::new(
            self.host.disk.clone(),
            &self.ledger_dir,
            cursor.position,
            end,
        )?;
        read_batch(&mut reader, cursor.size)
    }

    /// Finds the place in the ledger after the checkpoint of this size.
    fn locate(&self, size: u64, end: u64) -> Option<Cursor> {
        if size == 0 {
            return Some(Cursor::default());
        }
        let find = || -> Result<Option<Cursor>, LedgerError> {
            let mut reader = Reader::new(self.host.disk.clone(), &self.ledger_dir, 0, end)?;
            while let Some(item) = reader.next_record()? {
                if item.kind == kind::CHECKPOINT && checkpoint_size(item.body) == Some(size) {
                    return Ok(Some(Cursor {
                        position: item.next,
                        size,
                    }));
                }
            }
            Ok(None)
        };
        find().ok().flatten()
    }

    /// The collector holds this much already: the answer that said so was lost, and its note with it.
    /// What the collector knows of the log has the note once more.
    fn located(&self, cursor: Cursor, known: Option<FrontierAnswer>) -> Delivery {
        let (position, size) = (cursor.position, cursor.size);
        let note = known
            .filter(|known| known.size == size)
            .and_then(|known| known.note);
        match note {
            Some(note)
                if check_note(&note, &self.origin, size, &self.witness, &self.archive).is_ok() =>
            {
                let accepted = Accepted {
                    size,
                    note,
                    next_upload_s: 0,
                };
                Delivery::Accepted { accepted, position }
            }
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
        let _ = self
            .to_agent
            .send(Input::Delivery(Delivery::Problem(what.to_owned())));
    }
}

/// The second line of a checkpoint.
fn checkpoint_size(note: &[u8]) -> Option<u64> {
    std::str::from_utf8(note).ok()?.lines().nth(1)?.parse().ok()
}

/// An error with its causes, in one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
