//! Whether what was cosigned for this device appears in the collector's log.

use std::path::PathBuf;
use std::time::Duration;

use jurat_disk::{read, replace};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::uploader::{Delivery, Uploader};

/// Where an accepted head stands in the collector's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptStatus {
    /// The size of this log's head.
    pub size: u64,
    /// The leaf in the collector's log.
    pub leaf: u64,
    /// The size of that log's head.
    pub log_size: u64,
}

/// A head that the collector accepted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accepted {
    pub(crate) size: u64,
    pub(crate) note: String,
}

/// What is remembered: a collector that gave receipts and gives none any more is noticed after a restart, too.
#[derive(Default, Serialize, Deserialize)]
struct Memory {
    offered: bool,
}

impl Uploader {
    fn memory_path(&self) -> PathBuf {
        self.cursor_path.with_file_name("receipts.json")
    }

    /// Notes, for good, that this collector gives receipts.
    fn remember(&self, memory: &mut Memory) {
        if memory.offered {
            return;
        }
        memory.offered = true;
        let json = serde_json::to_vec(memory).unwrap_or_default();
        if let Err(error) = replace(&*self.host.disk, &self.memory_path(), &json) {
            tracing::warn!(%error, "receipts.json could not be written");
        }
    }

    /// Checks the newest accepted head now and then, and says when it stands in the collector's log, or has
    /// not appeared there for too long.
    pub(crate) async fn receipts(&self, mut heads: watch::Receiver<Accepted>) {
        let pause = Duration::from_secs(self.patience.receipt_s);
        let patience = Duration::from_secs(self.patience.receipt_missing_s);
        if pause.is_zero() {
            return;
        }
        let memory = read(&*self.host.disk, &self.memory_path(), 1024).ok();
        let memory = memory.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let mut memory: Memory = memory.unwrap_or_default();
        let mut verified = 0;
        let mut since: Option<Instant> = None;
        let mut alarmed = false;
        loop {
            if heads.wait_for(|head| head.size > verified).await.is_err() {
                return;
            }
            let since_when = *since.get_or_insert_with(Instant::now);
            // The leaf is under a head of the collector's log within a second or so.
            sleep(FIRST.min(pause)).await;
            let head = heads.borrow().clone();
            let why = match self.uplink.receipt(&self.host, &head).await {
                Ok(Some(status)) => {
                    self.remember(&mut memory);
                    self.tell(Delivery::Receipt(status));
                    (verified, since, alarmed) = (head.size, None, false);
                    sleep(pause).await;
                    continue;
                }
                Ok(None) => "the collector gives no receipts any more".to_owned(),
                Err((why, answered)) => {
                    if answered {
                        self.remember(&mut memory);
                    }
                    why
                }
            };
            if !memory.offered {
                // It never gave one, or could not be asked yet.
                (verified, since) = (head.size, None);
                sleep(pause).await;
                continue;
            }
            if since_when.elapsed() >= patience && !alarmed {
                alarmed = true;
                let size = head.size;
                self.tell(Delivery::ReceiptMissing { size, why });
            }
            sleep(pause).await;
        }
    }
}

/// How long after an upload its receipt is first asked for, at most.
const FIRST: Duration = Duration::from_secs(2);
