//! Requests to the collector, as this endpoint.

use std::path::Path;
use std::time::Duration;

use jurat_disk::Host;
use jurat_key::{Secret, tls};
use jurat_sink::{
    Accepted, Collector, CollectorError, FrontierAnswer, Identity, SetUp, check_accepted,
    check_receipt,
};

use crate::enrol::{EnrolError, Enrolment};
use crate::receipts::{Accepted as Head, ReceiptStatus};
use crate::uploader::describe;

/// Who sends to the collector, and how.
pub struct Uplink {
    collector: Collector,
    enrolment: Enrolment,
    token: String,
    hmac_key: Secret,
    boot: String,
}

impl Uplink {
    /// The uplink of an enrolled endpoint; `timeout` is for one request.
    ///
    /// # Errors
    /// [`EnrolError`] when it is not enrolled or a key cannot be read.
    pub fn open(host: &Host, state_dir: &Path, timeout: Duration) -> Result<Self, EnrolError> {
        let enrolment = Enrolment::load(host, state_dir)?;
        let keys = enrolment.home(state_dir).join("keys");
        let load = |name: &str| Secret::load(host, &keys.join(name));
        Ok(Self {
            collector: Collector::new(SetUp {
                url: enrolment.url.clone(),
                tls: tls::client(enrolment.ca.as_deref().map(str::as_bytes))?,
                timeout,
            })?,
            token: load("token.key")?.to_base64(),
            hmac_key: load("hmac.key")?,
            // Once: where the system names no boot, this process is one.
            boot: jurat_disk::boot_id(&*host.rng),
            enrolment,
        })
    }

    /// What the collector knows of this log.
    pub(crate) async fn frontier(&self, host: &Host) -> Result<FrontierAnswer, CollectorError> {
        self.collector
            .frontier(host, &self.identity(), &self.boot)
            .await
    }

    /// The receipt of an accepted head, checked.
    ///
    /// # Errors
    /// What is wrong with it, or why it did not come.
    pub(crate) async fn receipt(&self, host: &Host, head: &Head) -> Result<ReceiptStatus, String> {
        let who = self.identity();
        let asked = self.collector.receipt(host, &who, head.size).await;
        let receipt = asked.map_err(|error| describe(&error))?;
        let found = check_receipt(&receipt, &head.note, &self.enrolment.log)?;
        Ok(ReceiptStatus {
            size: head.size,
            leaf: found.index,
            log_size: found.log_size,
        })
    }

    /// The receipt of this device's enrolment.
    pub(crate) async fn enrolment_receipt(&self, host: &Host) -> Result<Vec<u8>, CollectorError> {
        let who = self.identity();
        self.collector.enrolment_receipt(host, &who).await
    }

    /// Sends the body of an upload; an answer counts only when the collector's keys signed it.
    pub(crate) async fn send(
        &self,
        host: &Host,
        body: Vec<u8>,
    ) -> Result<Accepted, CollectorError> {
        let accepted = self.collector.upload(host, &self.identity(), body).await?;
        self.check(&accepted)
            .map_err(|what| CollectorError::Protocol(format!("it does not count: {what}")))?;
        Ok(accepted)
    }

    /// What the collector knows of this log as an answer to the upload that brought it there, when its
    /// keys signed it.
    pub(crate) fn stored(&self, known: FrontierAnswer) -> Option<Accepted> {
        let accepted = Accepted {
            size: known.size,
            note: known.note?,
            next_upload_s: 0,
            leaves_withheld: known.leaves_withheld,
            payloads_missing: known.payloads_missing,
            witnessed: known.witnessed,
            quote: false,
        };
        self.check(&accepted).is_ok().then_some(accepted)
    }

    fn check(&self, accepted: &Accepted) -> Result<(), String> {
        let Enrolment {
            origin,
            witness,
            archive,
            ..
        } = &self.enrolment;
        check_accepted(accepted, origin, witness, archive)
    }

    fn identity(&self) -> Identity<'_> {
        Identity {
            device: &self.enrolment.device,
            token: &self.token,
            key: self.hmac_key.expose(),
        }
    }
}
