//! Requests to the collector, as this endpoint.

use std::path::Path;
use std::time::Duration;

use jurat_disk::Host;
use jurat_key::{Secret, tls};
use jurat_sink::{
    Accepted, Collector, CollectorError, FrontierAnswer, Identity, SetUp, check_accepted,
};

use crate::enrol::{EnrolError, Enrolment};

/// Who sends to the collector, and how.
pub struct Uplink {
    collector: Collector,
    enrolment: Enrolment,
    token: String,
    hmac_key: Secret,
}

impl Uplink {
    /// The uplink of an enrolled endpoint; one request may take this long.
    ///
    /// # Errors
    /// [`EnrolError`] when it is not enrolled or a key cannot be read.
    pub fn open(host: &Host, state_dir: &Path, request: Duration) -> Result<Self, EnrolError> {
        let enrolment = Enrolment::load(host, state_dir)?;
        let keys = state_dir.join("keys");
        let load = |name: &str| Secret::load(host, &keys.join(name));
        Ok(Self {
            collector: Collector::new(SetUp {
                url: enrolment.url.clone(),
                tls: tls::client(enrolment.ca.as_deref().map(str::as_bytes))?,
                timeout: request,
            })?,
            token: load("token.key")?.to_base64(),
            hmac_key: load("hmac.key")?,
            enrolment,
        })
    }

    /// What the collector knows of this log.
    pub(crate) async fn frontier(&self, host: &Host) -> Result<FrontierAnswer, CollectorError> {
        self.collector.frontier(host, &self.identity()).await
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

    /// Whether the collector's keys, as agreed on at enrolment, signed this answer for this log.
    pub(crate) fn check(&self, accepted: &Accepted) -> Result<(), String> {
        let enrolment = &self.enrolment;
        let (witness, archive) = (&enrolment.witness, &enrolment.archive);
        check_accepted(accepted, &enrolment.origin, witness, archive)
    }

    fn identity(&self) -> Identity<'_> {
        Identity {
            device: &self.enrolment.device,
            token: &self.token,
            key: self.hmac_key.expose(),
        }
    }
}
