//! Whether what was cosigned for this device appears in the collector's log. At enrolment the collector names
//! that log, so a receipt is owed from the first head on.

use std::time::Duration;

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

impl Uploader {
    /// Fetches the receipt of the enrolment where it did not come with that.
    pub(crate) async fn enrolment_receipt(&self) {
        let pause = Duration::from_secs(self.patience.receipt_s.max(1));
        let mut complained = false;
        while !self.uplink.keep_enrolment_receipt(&self.host).await {
            if !std::mem::replace(&mut complained, true) {
                tracing::info!("the collector's log does not show the enrolment yet");
            }
            sleep(pause).await;
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
                Ok(status) => {
                    self.tell(Delivery::Receipt(status));
                    (verified, since, alarmed) = (head.size, None, false);
                    sleep(pause).await;
                    continue;
                }
                Err(why) => why,
            };
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
