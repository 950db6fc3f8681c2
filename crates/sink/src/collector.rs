//! A Jurat collector over HTTPS (`docs/formats/upload.md`).

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jurat_disk::Host;
use jurat_event::header;
use jurat_proof::{
    Checkpoint, Cosignature, Digest, Note, Receipt, Received, Request, VerifierKey, sha256,
};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

/// What a device says when it enrols.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Enrolment {
    /// Its random id.
    pub device: String,
    /// The public key of its log in base64: 32 bytes of Ed25519, or an uncompressed point of P-256.
    pub key: String,
    /// What holds the key: `software`, `hsm`, `external`, or `tpm`, with evidence.
    pub key_kind: String,
    /// What a TPM says of the keys in it (`docs/formats/attestation.md`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<serde_json::Value>,
    /// Its machine id, an attribute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// Its host name, an attribute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The log that this one goes on from, when the device was enrolled before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predecessor: Option<Predecessor>,
    /// The old log key's signature over the new key (`docs/formats/upload.md`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
    /// A request for the certificate that the device opens connections with (PKCS #10), base64.
    #[serde(default)]
    pub csr: String,
}

/// The last head of the log before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Predecessor {
    /// Its origin.
    pub origin: String,
    /// Its size.
    pub size: u64,
    /// Its root.
    pub root: Digest,
}

/// What only the TPM that holds the keys of an enrolment can answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Challenged {
    /// The enrolment that waits for the answer.
    pub id: String,
    /// `TPM2B_ID_OBJECT`, base64.
    pub id_object: String,
    /// `TPM2B_ENCRYPTED_SECRET`, base64.
    pub secret: String,
}

/// The answer to a challenge.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Activation {
    /// The enrolment.
    pub id: String,
    /// [`activation_proof`] in base64.
    pub proof: String,
}

/// Shows that the secret of a challenge is known, for this very enrolment, as it was sent.
pub fn activation_proof(secret: &[u8], enrolment: &[u8]) -> [u8; 32] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let mut message = b"jurat/activate/v1\0".to_vec();
    message.extend(sha256(&[enrolment]).0);
    let tag = hmac::sign(&key, &message);
    tag.as_ref().try_into().expect("HMAC-SHA256 has 32 bytes")
}

/// The answer of a device whose keys are in no TPM.
///
/// # Errors
/// Always: nothing else was said.
pub fn no_tpm(_: &Challenged) -> Result<Vec<u8>, String> {
    Err("the collector asks for a TPM, and there is none".into())
}

/// What comes back from the first request of an enrolment.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Enrolling {
    /// It is done.
    Enrolled(Box<Enrolled>),
    /// The TPM must answer first.
    Challenged(Challenged),
}

/// What a collector answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Enrolled {
    /// The origin of the device's log.
    pub origin: String,
    /// The bearer token of the device.
    pub token: String,
    /// The key of its request signatures, base64.
    pub hmac_key: String,
    /// The tenant's fingerprint key, base64.
    pub fingerprint_key: String,
    /// The verifier keys of the collector's witness, archive and own log.
    pub witness: String,
    /// See `witness`.
    pub archive: String,
    /// See `witness`.
    pub log: String,
    /// What holds the key, as the collector sees it.
    #[serde(default)]
    pub key_kind: String,
    /// The certificate that the device opens connections with: a chain in PEM. Absent where none is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}

/// The next certificate of a device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Certified {
    /// A chain in PEM.
    pub certificate: String,
}

/// What a collector knows of a log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FrontierAnswer {
    /// The archived size.
    pub size: u64,
    /// The root at that size.
    pub root: Digest,
    /// The cosigned checkpoint, absent at size 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// As in [`Accepted`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub leaves_withheld: u64,
    /// As in [`Accepted`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub payloads_missing: u64,
    /// As in [`Accepted`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub witnessed: u64,
    /// Withheld leaves, from and up to, that may still come late.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub withheld: Vec<(u64, u64)>,
}

/// The answer to an upload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Accepted {
    /// The archived size.
    pub size: u64,
    /// The checkpoint with both cosignatures.
    pub note: String,
    /// When the next upload is wanted, in seconds.
    pub next_upload_s: u64,
    /// Leaves of this log of which the collector has only the hash. While there are any, it does not
    /// cosign as archive.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub leaves_withheld: u64,
    /// Payloads of this log that never came. Likewise.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub payloads_missing: u64,
    /// The size that the collector's witness has cosigned, when it is above the archived one: a head below
    /// it is archived and not witnessed anew.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub witnessed: u64,
    /// The collector asks for a quote of the machine's state now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub quote: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A collector's refusal, in words and in a code that does not change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The code, for example `root_mismatch`.
    pub code: String,
    /// The words.
    pub message: String,
    /// The archived size, where it helps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// Why a request did not succeed, sorted by what the sender should do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollectorError {
    /// It could not be reached, or did not answer in time: try again later.
    #[error("the collector at {url} did not answer")]
    Unreachable {
        /// Its address.
        url: String,
        /// What happened.
        #[source]
        source: reqwest::Error,
    },
    /// It is busy or ill: try again after this many seconds, or later.
    #[error("the collector is busy ({status}, {}): {}", .refusal.code, .refusal.message)]
    Busy {
        /// The HTTP status.
        status: u16,
        /// Its `Retry-After`.
        retry_after_s: Option<u64>,
        /// What it says of it.
        refusal: Refusal,
    },
    /// It does not accept who we are: the operator must look.
    #[error("the collector refused this device: {}", .0.message)]
    Identity(Refusal),
    /// It has another size than this upload starts at: go on from there.
    #[error("the collector holds {size} leaves of this log")]
    Conflict {
        /// The archived size.
        size: u64,
    },
    /// It refused this upload for good.
    #[error("the collector refused the upload ({status}, {}): {}", .refusal.code, .refusal.message)]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Why.
        refusal: Refusal,
    },
    /// It answered something that is not of this protocol.
    #[error("the collector's answer was not understood: {0}")]
    Protocol(String),
}

/// How to reach a collector.
#[derive(Clone)]
pub struct SetUp {
    /// Its address, `https://host:port`.
    pub url: String,
    /// Whom to believe.
    pub tls: rustls::ClientConfig,
    /// How long one request may take.
    pub timeout: Duration,
}

/// A client of one collector. Keeps its connection.
pub struct Collector {
    url: String,
    http: Client,
}

/// Who signs a request.
pub struct Identity<'a> {
    /// The device.
    pub device: &'a str,
    /// Its bearer token.
    pub token: &'a str,
    /// Its HMAC key.
    pub key: &'a [u8; 32],
}

/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// The longest list of devices: 100,000 of them.
const LIST_BYTES_MAX: usize = 256 * 1024 * 1024;

impl Collector {
    /// A client; nothing is sent yet.
    ///
    /// # Errors
    /// [`CollectorError::Protocol`] when the address is not `https://...`.
    pub fn new(set_up: SetUp) -> Result<Self, CollectorError> {
        let url = set_up.url.trim_end_matches('/').to_owned();
        if !url.starts_with("https://") {
            return Err(CollectorError::Protocol(format!(
                "{url} does not begin with https://"
            )));
        }
        let http = Client::builder()
            .tls_backend_preconfigured(set_up.tls)
            .https_only(true)
            .timeout(set_up.timeout)
            .connect_timeout(Duration::from_secs(30))
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("jurat/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|source| CollectorError::Unreachable {
                url: url.clone(),
                source,
            })?;
        Ok(Self { url, http })
    }

    /// Enrols this device; a TPM is asked to answer first, where one holds the keys.
    ///
    /// # Errors
    /// [`CollectorError::Identity`] when the enrolment token is not accepted.
    pub async fn enroll(
        &self,
        token: &str,
        enrolment: &Enrolment,
        answer: impl FnOnce(&Challenged) -> Result<Vec<u8>, String>,
    ) -> Result<Enrolled, CollectorError> {
        let body = serde_json::to_vec(enrolment)
            .map_err(|error| CollectorError::Protocol(error.to_string()))?;
        let asked = self.post(token, "/v1/enroll", body.clone()).await?;
        let challenged = match asked {
            Enrolling::Enrolled(enrolled) => return Ok(*enrolled),
            Enrolling::Challenged(challenged) => challenged,
        };
        let secret = answer(&challenged).map_err(CollectorError::Protocol)?;
        let activation = Activation {
            id: challenged.id,
            proof: BASE64.encode(activation_proof(&secret, &body)),
        };
        let body = serde_json::to_vec(&activation)
            .map_err(|error| CollectorError::Protocol(error.to_string()))?;
        self.post(token, "/v1/enroll/activate", body).await
    }

    async fn post<T: for<'de> Deserialize<'de>>(
        &self,
        token: &str,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T, CollectorError> {
        let request = self.http.post(format!("{}{path}", self.url));
        let request = request
            .bearer_auth(token)
            .header("content-type", "application/json")
            .body(body);
        let sent = send(request).await;
        read_answer(self.answered(sent)?).await
    }

    /// Asks for the receipt of this device's enrolment.
    ///
    /// # Errors
    /// [`CollectorError`].
    pub async fn enrolment_receipt(
        &self,
        host: &Host,
        who: &Identity<'_>,
    ) -> Result<Vec<u8>, CollectorError> {
        self.text(host, who, "/v1/receipt?enrolment").await
    }

    /// Asks for the next certificate of this device. No certificate is needed for it: the last one may have expired.
    ///
    /// # Errors
    /// [`CollectorError`].
    pub async fn certificate(
        &self,
        host: &Host,
        who: &Identity<'_>,
        request: Vec<u8>,
    ) -> Result<Certified, CollectorError> {
        let path = "/v1/certificate";
        let sent = self.signed(host, who, "POST", path, "", request).await;
        read_answer(self.answered(sent)?).await
    }

    /// Asks what the collector knows of this device's log, and says which boot asks.
    ///
    /// # Errors
    /// [`CollectorError`].
    pub async fn frontier(
        &self,
        host: &Host,
        who: &Identity<'_>,
        boot: &str,
    ) -> Result<FrontierAnswer, CollectorError> {
        let path = format!("/v1/frontier?boot={boot}");
        let sent = self.signed(host, who, "GET", &path, "", Vec::new()).await;
        read_answer(self.answered(sent)?).await
    }

    /// Asks for the receipt of an accepted head.
    ///
    /// # Errors
    /// [`CollectorError`].
    pub async fn receipt(
        &self,
        host: &Host,
        who: &Identity<'_>,
        size: u64,
    ) -> Result<Vec<u8>, CollectorError> {
        self.text(host, who, &format!("/v1/receipt?size={size}"))
            .await
    }

    async fn text(
        &self,
        host: &Host,
        who: &Identity<'_>,
        path: &str,
    ) -> Result<Vec<u8>, CollectorError> {
        let sent = self.signed(host, who, "GET", path, "", Vec::new()).await;
        let (status, retry_after_s, body) = read_body(self.answered(sent)?).await?;
        if status.is_success() {
            return Ok(body);
        }
        match understand::<Refusal>(status, retry_after_s, &body) {
            Err(error) => Err(error),
            Ok(_) => Err(CollectorError::Protocol("a refusal that succeeds".into())),
        }
    }

    /// Asks or orders something as the collector's operator, with the token in its folder.
    ///
    /// # Errors
    /// [`CollectorError`].
    pub async fn operate<T: for<'de> Deserialize<'de>>(
        &self,
        token: &str,
        path: &str,
        order: Option<&impl Serialize>,
    ) -> Result<T, CollectorError> {
        let url = format!("{}{path}", self.url);
        let request = match order {
            None => self.http.get(url),
            Some(order) => {
                let body = serde_json::to_vec(order)
                    .map_err(|error| CollectorError::Protocol(error.to_string()))?;
                let request = self.http.post(url).body(body);
                request.header("content-type", "application/json")
            }
        };
        let sent = send(request.bearer_auth(token)).await;
        let (status, retry_after_s, body) =
            read_up_to(self.answered(sent)?, LIST_BYTES_MAX).await?;
        understand(status, retry_after_s, &body)
    }

    /// Sends the body of an upload ([`Batch::body`](crate::Batch)).
    ///
    /// # Errors
    /// [`CollectorError`] says what to do.
    pub async fn upload(
        &self,
        host: &Host,
        who: &Identity<'_>,
        body: Vec<u8>,
    ) -> Result<Accepted, CollectorError> {
        let sent = self
            .signed(host, who, "POST", "/v1/batches", "zstd", body)
            .await;
        read_answer(self.answered(sent)?).await
    }

    async fn signed(
        &self,
        host: &Host,
        who: &Identity<'_>,
        method: &str,
        path: &str,
        encoding: &str,
        body: Vec<u8>,
    ) -> reqwest::Result<Response> {
        let mut nonce = [0; 16];
        host.rng.fill(&mut nonce);
        let nonce = nonce
            .iter()
            .fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        let timestamp = host.clock.now().unix_s();
        let signature = Request {
            method,
            path,
            device: who.device,
            encoding,
            timestamp,
            nonce: &nonce,
            body: &body,
        }
        .sign(who.key);
        let url = format!("{}{path}", self.url);
        let mut request = if method == "GET" {
            self.http.get(url)
        } else {
            self.http.post(url).body(body)
        };
        if !encoding.is_empty() {
            request = request
                .header("content-encoding", encoding)
                .header("content-type", "application/octet-stream");
        }
        let request = request
            .bearer_auth(who.token)
            .header(header::DEVICE, who.device)
            .header(header::TIMESTAMP, timestamp.to_string())
            .header(header::NONCE, nonce)
            .header(header::SIGNATURE, signature);
        send(request).await
    }

    fn answered(&self, sent: reqwest::Result<Response>) -> Result<Response, CollectorError> {
        sent.map_err(|source| CollectorError::Unreachable {
            url: self.url.clone(),
            source,
        })
    }
}

/// Sends a request from a task of its own. The key of a connection signs inside of it, and may take its time: who waits for
/// the answer on another thread can give up.
async fn send(request: RequestBuilder) -> reqwest::Result<Response> {
    let mut task = JoinSet::new();
    task.spawn(request.send());
    match task.join_next().await.expect("there is one task") {
        Ok(sent) => sent,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and who waits here with it.
            Err(_) => std::future::pending().await,
        },
    }
}

async fn read_answer<T: for<'de> Deserialize<'de>>(
    response: Response,
) -> Result<T, CollectorError> {
    let (status, retry_after_s, body) = read_body(response).await?;
    understand(status, retry_after_s, &body)
}

async fn read_body(
    response: Response,
) -> Result<(StatusCode, Option<u64>, Vec<u8>), CollectorError> {
    read_up_to(response, ANSWER_BYTES_MAX).await
}

async fn read_up_to(
    mut response: Response,
    max: usize,
) -> Result<(StatusCode, Option<u64>, Vec<u8>), CollectorError> {
    let status = response.status();
    let retry_after_s = response
        .headers()
        .get("retry-after")
        .and_then(|value| value.to_str().ok()?.parse().ok());
    let mut body = Vec::new();
    loop {
        let chunk = response.chunk().await;
        match chunk.map_err(|source| CollectorError::Unreachable {
            url: response.url().to_string(),
            source,
        })? {
            Some(chunk) if body.len() + chunk.len() <= max => body.extend_from_slice(&chunk),
            Some(_) => {
                return Err(CollectorError::Protocol(format!("more than {max} bytes")));
            }
            None => break,
        }
    }
    Ok((status, retry_after_s, body))
}

/// What an answer says, from its status, its `Retry-After` and its body.
///
/// # Errors
/// [`CollectorError`] for everything but a success whose body is what was asked for.
#[doc(hidden)] // public for the fuzz target
pub fn understand<T: for<'de> Deserialize<'de>>(
    status: StatusCode,
    retry_after_s: Option<u64>,
    body: &[u8],
) -> Result<T, CollectorError> {
    if status.is_success() {
        return serde_json::from_slice(body)
            .map_err(|error| CollectorError::Protocol(error.to_string()));
    }
    let refusal = serde_json::from_slice(body).unwrap_or_else(|_| Refusal {
        code: "unknown".into(),
        message: String::from_utf8_lossy(body.get(..200).unwrap_or(body)).into_owned(),
        size: None,
    });
    let slow = status == StatusCode::REQUEST_TIMEOUT;
    if slow || status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
        return Err(CollectorError::Busy {
            status: status.as_u16(),
            retry_after_s,
            refusal,
        });
    }
    match (status, refusal.size) {
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
            Err(CollectorError::Identity(refusal))
        }
        (StatusCode::CONFLICT, Some(size)) => Err(CollectorError::Conflict { size }),
        _ => Err(CollectorError::Refused {
            status: status.as_u16(),
            refusal,
        }),
    }
}

/// Checks that the cosigned checkpoint of an answer is of this log and size, and that both keys that were
/// agreed on at enrolment cosigned it. Only such an answer may move an outbox.
///
/// A collector that never got some leaves or payloads, and says how many, cannot cosign as archive; then
/// the witness alone must have.
///
/// # Errors
/// What is wrong, in words.
pub fn check_accepted(
    accepted: &Accepted,
    origin: &str,
    witness: &str,
    archive: &str,
) -> Result<(), String> {
    let note = Note::parse(accepted.note.as_bytes()).map_err(|error| error.to_string())?;
    let checkpoint = Checkpoint::parse(&note.text).map_err(|error| error.to_string())?;
    if checkpoint.origin != origin || checkpoint.size != accepted.size {
        return Err(format!(
            "a checkpoint of {} at size {}",
            checkpoint.origin, checkpoint.size
        ));
    }
    let holds_all = accepted.leaves_withheld == 0 && accepted.payloads_missing == 0;
    let archive = holds_all.then_some(("archive", archive));
    // Only the archive's cosignature lets the outbox go; a witness says nothing new of an older size.
    let witness = (accepted.witnessed <= accepted.size).then_some(("witness", witness));
    for (role, key) in witness.into_iter().chain(archive) {
        let key = VerifierKey::parse(key).map_err(|error| format!("{role}: {error}"))?;
        if Cosignature::find(&note, &key)
            .map_err(|error| format!("{role}: {error}"))?
            .is_none()
        {
            return Err(format!("its {role} key did not cosign"));
        }
    }
    Ok(())
}

/// Checks a receipt: the collector's log, whose key was agreed on at enrolment, says that it accepted the
/// head in this cosigned checkpoint.
///
/// # Errors
/// What is wrong, in words.
pub fn check_receipt(receipt: &[u8], note: &str, log: &str) -> Result<Received, String> {
    let words = |error: &dyn std::error::Error| error.to_string();
    let log = VerifierKey::parse(log).map_err(|error| words(&error))?;
    let note = Note::parse(note.as_bytes()).map_err(|error| words(&error))?;
    let head = Checkpoint::parse(&note.text).map_err(|error| words(&error))?;
    let receipt = Receipt::parse(receipt).map_err(|error| words(&error))?;
    receipt
        .verify(&log, &head.origin, head.size, &head.root)
        .map_err(|error| words(&error))
}

/// Checks a receipt: the collector's log, whose key was agreed on at enrolment, says that it enrolled this log.
///
/// # Errors
/// What is wrong, in words.
pub fn check_enrolment(receipt: &[u8], origin: &str, log: &str) -> Result<(), String> {
    let words = |error: &dyn std::error::Error| error.to_string();
    let log = VerifierKey::parse(log).map_err(|error| words(&error))?;
    let receipt = Receipt::parse(receipt).map_err(|error| words(&error))?;
    let verified = receipt.verify_enrolment(&log, origin);
    verified.map_err(|error| words(&error))
}
