//! Requests to the collector, as this endpoint.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jurat_disk::{Host, read, replace};
use jurat_key::tls::DeviceCertificate;
use jurat_key::{HeldKey, Secret, SignerError, tls};
use jurat_sink::{
    Accepted, Collector, CollectorError, FrontierAnswer, Identity, SetUp, check_accepted,
    check_enrolment, check_receipt,
};
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::enrol::{EnrolError, Enrolment};
use crate::keys::{ENROLMENT_RECEIPT, KeyPlace, Keys, certificate, store_certificate};
use crate::receipts::{Accepted as Head, ReceiptStatus};
use crate::uploader::describe;

/// Who sends to the collector, and how.
pub struct Uplink {
    collector: Mutex<Reach>,
    enrolment: Enrolment,
    keys: PathBuf,
    tls: Arc<dyn HeldKey>,
    timeout: Duration,
    token: String,
    hmac_key: Secret,
    boot: String,
}

/// How the collector is reached now: a new certificate takes a new client, for a session of before goes on with the old one.
#[derive(Clone)]
struct Reach {
    client: Arc<Collector>,
    certificate: Option<DeviceCertificate>,
    /// Not before this is a certificate asked for again, by the clock that nobody sets.
    not_before_us: u64,
}

/// The longest receipt that is kept.
const RECEIPT_BYTES_MAX: u64 = 1024 * 1024;
/// A collector that issued no certificate is asked for one again after this time.
const ASK_AGAIN_US: u64 = 60_000_000;

impl Uplink {
    /// The uplink of an enrolled endpoint; `timeout` is for one request.
    ///
    /// # Errors
    /// [`EnrolError`] when it is not enrolled or a key cannot be read.
    pub fn open(host: &Host, state_dir: &Path, timeout: Duration) -> Result<Self, EnrolError> {
        let enrolment = Enrolment::load(host, state_dir)?;
        let home = enrolment.home(state_dir);
        let tls = Keys::load(host, &home, &enrolment)?.tls;
        Self::with(host, &home, enrolment, tls, timeout)
    }

    /// As [`Uplink::open`], for the epoch in this folder, with a key of the connections that is open already.
    pub(crate) fn with(
        host: &Host,
        home: &Path,
        enrolment: Enrolment,
        tls: Arc<dyn HeldKey>,
        timeout: Duration,
    ) -> Result<Self, EnrolError> {
        let keys = home.join("keys");
        let load = |name: &str| Secret::load(host, &keys.join(name));
        let certificate = certificate(host, &keys, &*tls);
        Ok(Self {
            collector: Mutex::new(Reach {
                client: client(&enrolment, &tls, certificate.clone(), timeout)?,
                certificate,
                not_before_us: 0,
            }),
            token: load("token.key")?.to_base64(),
            hmac_key: load("hmac.key")?,
            // Once: where the system names no boot, this process is one.
            boot: jurat_disk::boot_id(&*host.rng),
            keys,
            tls,
            timeout,
            enrolment,
        })
    }

    fn reach(&self) -> Reach {
        let reach = self.collector.lock();
        reach.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The client to ask with: after a new certificate was asked for, where it is time for one. What is shown stays what it
    /// was where none comes.
    async fn current(&self, host: &Host) -> Arc<Collector> {
        let reach = self.reach();
        let now = host.clock.now();
        let is_due = |certificate: &DeviceCertificate| certificate.is_due(now.unix_s());
        if reach.certificate.as_ref().is_some_and(is_due) && now.mono_us >= reach.not_before_us {
            match self.certify(host).await {
                Ok(client) => return client,
                Err(what) => tracing::warn!(what, "the device's certificate stays as it was"),
            }
        }
        reach.client
    }

    /// From now on this one is shown, with connections of its own.
    fn show(
        &self,
        certificate: Option<DeviceCertificate>,
        not_before_us: u64,
    ) -> Result<Arc<Collector>, String> {
        let client = client(
            &self.enrolment,
            &self.tls,
            certificate.clone(),
            self.timeout,
        );
        let client = client.map_err(|error| describe(&error))?;
        let reach = Reach {
            client: client.clone(),
            certificate,
            not_before_us,
        };
        *self
            .collector
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = reach;
        Ok(client)
    }

    /// Asks for a certificate, keeps it, and uses it from now on.
    async fn certify(&self, host: &Host) -> Result<Arc<Collector>, String> {
        let not_before_us = host.clock.now().mono_us + ASK_AGAIN_US;
        self.collector
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .not_before_us = not_before_us;
        let (key, device) = (self.tls.clone(), self.enrolment.device.clone());
        // The key may take its time.
        let request = tokio::task::spawn_blocking(move || tls::request(&key, &device));
        let request = request.await.map_err(|error| error.to_string())?;
        let request = request.map_err(|error| describe(&error))?;
        // Without a certificate: the one that there is may be what is wrong.
        let bare = client(&self.enrolment, &self.tls, None, self.timeout);
        let bare = bare.map_err(|error| describe(&error))?;
        match bare.certificate(host, &self.identity(), request).await {
            Ok(certified) => {
                let pem = certified.certificate;
                let stored = store_certificate(host, &self.keys, &*self.tls, &pem);
                let certificate = stored.map_err(|error| describe(&error))?;
                self.show(Some(certificate), not_before_us)
            }
            // It asks for none any more.
            Err(CollectorError::Refused { refusal, .. }) if refusal.code == "no_certificates" => {
                self.show(None, not_before_us)
            }
            Err(error) => Err(describe(&error)),
        }
    }

    /// Asks; where the certificate was what was wrong, asks for another one and then once more.
    async fn ask<T>(
        &self,
        host: &Host,
        what: impl AsyncFn(Arc<Collector>) -> Result<T, CollectorError>,
    ) -> Result<T, CollectorError> {
        let client = self.current(host).await;
        let asked = what(client).await;
        let wrong = match &asked {
            Err(CollectorError::Identity(refusal)) => refusal.code.starts_with("certificate_"),
            _ => false,
        };
        if !wrong || host.clock.now().mono_us < self.reach().not_before_us {
            return asked;
        }
        match self.certify(host).await {
            Ok(client) => what(client).await,
            Err(what) => {
                tracing::warn!(what, "no certificate");
                asked
            }
        }
    }

    /// What the collector knows of this log.
    pub(crate) async fn frontier(&self, host: &Host) -> Result<FrontierAnswer, CollectorError> {
        let ask = async |collector: Arc<Collector>| {
            let who = self.identity();
            collector.frontier(host, &who, &self.boot).await
        };
        self.ask(host, ask).await
    }

    /// The receipt of an accepted head, checked.
    ///
    /// # Errors
    /// What is wrong with it, or why it did not come.
    pub(crate) async fn receipt(&self, host: &Host, head: &Head) -> Result<ReceiptStatus, String> {
        let ask = async |collector: Arc<Collector>| {
            let who = self.identity();
            collector.receipt(host, &who, head.size).await
        };
        let asked = self.ask(host, ask).await;
        let receipt = asked.map_err(|error| describe(&error))?;
        let found = check_receipt(&receipt, &head.note, &self.enrolment.log)?;
        Ok(ReceiptStatus {
            size: head.size,
            leaf: found.index,
            log_size: found.log_size,
        })
    }

    /// Keeps the receipt of the enrolment, which a device whose keys are no files shows in bundles. `false` where it is
    /// not there yet.
    pub(crate) async fn keep_enrolment_receipt(&self, host: &Host) -> bool {
        let path = self.keys.join(ENROLMENT_RECEIPT);
        if self.enrolment.key == KeyPlace::Software
            || read(&*host.disk, &path, RECEIPT_BYTES_MAX).is_ok()
        {
            return true;
        }
        let Ok(receipt) = self.enrolment_receipt(host).await else {
            return false;
        };
        let Enrolment { origin, log, .. } = &self.enrolment;
        if let Err(what) = check_enrolment(&receipt, origin, log) {
            tracing::warn!(what, "the receipt of the enrolment");
            return false;
        }
        let kept = replace(&*host.disk, &path, &receipt);
        if let Err(error) = &kept {
            tracing::warn!(%error, path = %path.display(), "the enrolment's receipt");
        }
        kept.is_ok()
    }

    async fn enrolment_receipt(&self, host: &Host) -> Result<Vec<u8>, CollectorError> {
        let ask = async |collector: Arc<Collector>| {
            let who = self.identity();
            collector.enrolment_receipt(host, &who).await
        };
        self.ask(host, ask).await
    }

    /// Sends the body of an upload; an answer counts only when the collector's keys signed it.
    ///
    /// # Errors
    /// [`CollectorError`].
    pub async fn send(&self, host: &Host, body: Vec<u8>) -> Result<Accepted, CollectorError> {
        let ask = async |collector: Arc<Collector>| {
            let who = self.identity();
            collector.upload(host, &who, body.clone()).await
        };
        let accepted = self.ask(host, ask).await?;
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

/// A client that shows this certificate.
fn client(
    enrolment: &Enrolment,
    key: &Arc<dyn HeldKey>,
    certificate: Option<DeviceCertificate>,
    timeout: Duration,
) -> Result<Arc<Collector>, EnrolError> {
    let key: Arc<dyn HeldKey> = if key.is_slow() {
        Arc::new(Patient(key.clone()))
    } else {
        key.clone()
    };
    let shown = certificate.map(|certificate| (certificate, key));
    let ca = enrolment.ca.as_deref().map(str::as_bytes);
    let collector = Collector::new(SetUp {
        url: enrolment.url.clone(),
        tls: tls::device(ca, &enrolment.pins, shown)?,
        timeout,
    })?;
    Ok(Arc::new(collector))
}

/// A slow key that signs in a handshake, on a thread of the runtime: what else that thread has to do, timers among it, goes to
/// another one meanwhile.
struct Patient(Arc<dyn HeldKey>);

impl HeldKey for Patient {
    fn point(&self) -> &[u8; 65] {
        self.0.point()
    }

    fn place(&self) -> String {
        self.0.place()
    }

    fn sign_digest(&self, digest: &[u8; 32]) -> Result<Vec<u8>, SignerError> {
        let flavor = Handle::try_current().map(|handle| handle.runtime_flavor());
        match flavor {
            Ok(RuntimeFlavor::MultiThread) => {
                tokio::task::block_in_place(|| self.0.sign_digest(digest))
            }
            _ => self.0.sign_digest(digest),
        }
    }
}
