//! Enrolment: who a device is, and, where a TPM holds its keys, that it is this very TPM, whose maker the operator
//! believes (`docs/formats/upload.md`, `docs/formats/attestation.md`).

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::constant_time;
use axum::extract::{Request as HttpRequest, State};
use axum::{Json, http};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jurat_attest::ek::{Identity, check_certificate, check_roots};
use jurat_attest::tpm::make_credential;
use jurat_attest::{EVIDENCE_BYTES_MAX, Evidence};
use jurat_disk::{Host, read};
use jurat_key::tls::certificates;
use jurat_sink::{Activation, Challenged, Enrolled, Enrolling, Enrolment, activation_proof};
use serde::{Deserialize, Serialize};

use crate::Refused;
use crate::api::{Api, Ctx, bears, read_body, refuse};
use crate::archive::{Again, Ask, Done};
use crate::clients::requested;
use crate::devices::{Device, Hardware, epoch_of};
use crate::serve::ServeError;
use crate::settings::Settings;

/// The longest enrolment that is read: its evidence, and a little more.
const ENROLMENT_BYTES_MAX: usize = EVIDENCE_BYTES_MAX + 16 * 1024;
/// How long a device may take for the answer of its TPM, and how many may be about it.
const ACTIVATION_S: u64 = 120;
const PENDING_MAX: usize = 256;
/// The longest file of roots, and of approved keys.
const ROOTS_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// How sure it is that an endorsement key is in a TPM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EkTrust {
    /// Somebody made it: a TPM or a program.
    #[default]
    Untrusted,
    /// The operator approved this very key.
    Pinned,
    /// A maker whom the operator believes certified it.
    Verified,
}

impl EkTrust {
    fn key_kind(self) -> &'static str {
        match self {
            Self::Untrusted => "tpm-untrusted",
            Self::Pinned => "tpm-pinned",
            Self::Verified => "tpm-verified",
        }
    }
}

/// Whom the operator believes of endorsement keys.
#[derive(Debug, Default)]
pub(crate) struct EkRoots {
    authorities: Vec<Vec<u8>>,
    pinned: Vec<String>,
    needed: EkTrust,
}

impl EkRoots {
    pub(crate) fn open(host: &Host, settings: &Settings) -> Result<Self, ServeError> {
        let file = |path: &Path| {
            let bytes = read(&*host.disk, path, ROOTS_BYTES_MAX);
            bytes.map_err(|source| ServeError::EkRoots {
                path: path.to_path_buf(),
                source,
            })
        };
        let mut roots = Self {
            needed: settings.ek_needed,
            ..Self::default()
        };
        if let Some(path) = &settings.ek_roots {
            let found = certificates(path, &file(path)?)?;
            // One that cannot be a root would silence all the others.
            check_roots(&found).map_err(|error| ServeError::EkRoots {
                path: path.clone(),
                source: std::io::Error::other(error),
            })?;
            roots.authorities = found;
        }
        if let Some(path) = &settings.ek_pins {
            let text = String::from_utf8_lossy(&file(path)?).into_owned();
            let lines = text
                .lines()
                .map(|line| line.split('#').next().unwrap_or_default());
            let words = lines.filter_map(|line| line.split_whitespace().next());
            roots.pinned = words.map(str::to_ascii_lowercase).collect();
        }
        Ok(roots)
    }

    /// What is believed of this key, and what its certificate says, if it has one that can be read.
    fn judge(
        &self,
        evidence: &Evidence,
        ek: &jurat_attest::tpm::Public,
        now_s: u64,
    ) -> (EkTrust, Option<Identity>) {
        let (leaf, chain) = match evidence.ek_certificates.split_first() {
            Some((leaf, chain)) => (&leaf.0[..], chain),
            None => (&[][..], &[][..]),
        };
        let mut chain: Vec<Vec<u8>> = chain.iter().map(|der| der.0.clone()).collect();
        // The TPM often has the leaf alone.
        chain.extend(
            self.authorities
                .iter()
                .take(jurat_attest::ek::CHAIN_MAX - chain.len())
                .cloned(),
        );
        match check_certificate(leaf, &chain, &self.authorities, now_s, ek) {
            Ok(identity) => return (EkTrust::Verified, Some(identity)),
            Err(error) => tracing::info!(%error, "an endorsement certificate does not count"),
        }
        if self.pinned.contains(&ek.name().to_string()) {
            return (EkTrust::Pinned, None);
        }
        (EkTrust::Untrusted, None)
    }
}

/// Enrolments that wait for a TPM's answer.
#[derive(Default)]
pub(crate) struct Pending(Mutex<HashMap<String, Waiting>>);

struct Waiting {
    until_s: u64,
    proof: [u8; 32],
    tls: [u8; 65],
    request: Vec<u8>,
    enrolment: Enrolment,
    hardware: Hardware,
}

impl Pending {
    fn put(&self, id: String, waiting: Waiting, now_s: u64) -> Result<(), Refused> {
        let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pending.retain(|_, waiting| waiting.until_s > now_s);
        if pending.len() >= PENDING_MAX {
            return Err(Refused::busy("too many enrolments wait for their TPM"));
        }
        pending.insert(id, waiting);
        Ok(())
    }

    /// Each challenge is answered once, rightly or wrongly.
    fn take(&self, id: &str, now_s: u64) -> Option<Waiting> {
        let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pending.remove(id).filter(|waiting| waiting.until_s > now_s)
    }
}

/// `POST /v1/enroll`
pub(crate) async fn enroll(
    State(api): Ctx,
    request: HttpRequest,
) -> Result<Json<Enrolling>, Refused> {
    let enrolling = take_enrolment(&api, request).await;
    enrolling.map(Json).map_err(|refused| refuse(&api, refused))
}

/// `POST /v1/enroll/activate`
pub(crate) async fn activate(
    State(api): Ctx,
    request: HttpRequest,
) -> Result<Json<Enrolled>, Refused> {
    let enrolled = take_activation(&api, request).await;
    enrolled.map(Json).map_err(|refused| refuse(&api, refused))
}

async fn body(api: &Api, request: HttpRequest) -> Result<Vec<u8>, Refused> {
    let (http::request::Parts { headers, .. }, body) = request.into_parts();
    bears(&headers, &api.enrol_token, "enrolment")?;
    Ok(read_body(body, ENROLMENT_BYTES_MAX).await?.to_vec())
}

async fn take_enrolment(api: &Api, request: HttpRequest) -> Result<Enrolling, Refused> {
    let body = body(api, request).await?;
    let enrolment: Enrolment = serde_json::from_slice(&body)
        .map_err(|error| Refused::new(400, "malformed", format!("not an enrolment: {error}")))?;
    let request = BASE64.decode(&enrolment.csr).unwrap_or_default();
    let tls = requested(&request, &enrolment.device)?;
    if enrolment.key_kind != "tpm" {
        return finish(api, enrolment, (tls, &request), None)
            .await
            .map(|enrolled| Enrolling::Enrolled(Box::new(enrolled)));
    }
    let now_s = api.host.clock.now().unix_s();
    let refused = |what: String| Refused::new(403, "bad_evidence", what);
    let json = enrolment.evidence.clone().unwrap_or_default().to_string();
    let evidence = Evidence::parse(json.as_bytes()).map_err(|error| refused(error.to_string()))?;
    let shown = evidence
        .check(&enrolment.device)
        .map_err(|error| refused(error.to_string()))?;
    if BASE64.encode(shown.log) != enrolment.key {
        return Err(refused(
            "the evidence is about another key than that of the log".into(),
        ));
    }
    if tls != shown.tls {
        return Err(refused(
            "the evidence is about another key than that of the connections".into(),
        ));
    }
    let (trust, identity) = api.ek_roots.judge(&evidence, &shown.ek, now_s);
    if trust < api.ek_roots.needed {
        let ek = shown.ek.name().to_string();
        return Err(refused(format!(
            "this collector takes no TPM whose endorsement key is {}; the operator approves it by its name {ek}",
            trust.key_kind()
        )));
    }
    let mut secret = [0; 32];
    api.host.rng.fill(&mut secret);
    let challenge = make_credential(&shown.ek, &shown.ak.name(), &secret)
        .map_err(|error| refused(error.to_string()))?;
    let id = jurat_disk::random_uuid(&*api.host.rng);
    let waiting = Waiting {
        until_s: now_s + ACTIVATION_S,
        proof: activation_proof(&secret, &body),
        hardware: Hardware {
            key_kind: trust.key_kind().into(),
            ek: shown.ek.name().to_string(),
            evidence: serde_json::to_vec(&evidence).unwrap_or_default(),
            identity,
        },
        tls,
        request,
        enrolment,
    };
    api.pending.put(id.clone(), waiting, now_s)?;
    Ok(Enrolling::Challenged(Challenged {
        id,
        id_object: BASE64.encode(&challenge.id_object),
        secret: BASE64.encode(&challenge.secret),
    }))
}

async fn take_activation(api: &Api, request: HttpRequest) -> Result<Enrolled, Refused> {
    let body = body(api, request).await?;
    let activation: Activation = serde_json::from_slice(&body)
        .map_err(|error| Refused::new(400, "malformed", format!("not an activation: {error}")))?;
    let now_s = api.host.clock.now().unix_s();
    let waiting = api.pending.take(&activation.id, now_s).ok_or_else(|| {
        let message = "no enrolment waits for this answer; begin again";
        Refused::new(404, "unknown_challenge", message)
    })?;
    let proof = BASE64.decode(&activation.proof).unwrap_or_default();
    constant_time::verify_slices_are_equal(&waiting.proof, &proof).map_err(|_| {
        let message = "the TPM did not answer its challenge: another TPM, or another enrolment";
        Refused::new(403, "not_activated", message)
    })?;
    let tls = (waiting.tls, &*waiting.request);
    finish(api, waiting.enrolment, tls, Some(waiting.hardware)).await
}

async fn finish(
    api: &Api,
    enrolment: Enrolment,
    (tls, request): ([u8; 65], &[u8]),
    hardware: Option<Hardware>,
) -> Result<Enrolled, Refused> {
    let malformed = |what: &str| Refused::new(400, "malformed", what);
    let epoch = match &enrolment.predecessor {
        None => 0,
        Some(before) => epoch_of(&before.origin)
            .and_then(|epoch| epoch.checked_add(1))
            .ok_or_else(|| malformed("the predecessor's origin names no epoch"))?,
    };
    let (device, token) = Device::new(&api.host, &api.domain, &enrolment, tls, hardware, epoch)?;
    let (origin, hmac_key) = (device.row.origin.clone(), device.hmac.to_base64());
    let key_kind = device.row.key_kind.clone();
    let id = enrolment.device.clone();
    let ask = match enrolment.predecessor {
        None => Ask::Enrol(Box::new(device)),
        Some(predecessor) => {
            let again = Again {
                predecessor,
                new_key: device.key.key.bytes().to_vec(),
                proof: enrolment.proof,
            };
            Ask::Reenrol(Box::new(device), again)
        }
    };
    match api.queue.ask(ask).await? {
        Done::Enrolled => {}
        Done::Refused(refused) => return Err(refused),
        Done::Unknown => {
            let message = format!("no device {id} is enrolled here");
            return Err(Refused::new(404, "unknown_device", message));
        }
        _ => {
            let message =
                format!("the device {id} is enrolled already; a new enrolment takes a new id");
            return Err(Refused::new(409, "device_taken", message));
        }
    }
    // Only now: an authority certifies nobody who is not enrolled. One that fails is asked again by the device.
    let mut certificate = None;
    if let Some(certificates) = &api.certificates {
        let whom = (&*id, &*key_kind);
        let issued = certificates.issue(&api.host, whom, &tls, request).await;
        certificate = issued.ok();
    }
    let [witness, archive, log] = api.archive.verifier_keys().map(|key| key.to_string());
    tracing::info!(device = id, origin, key_kind, "enrolled");
    Ok(Enrolled {
        origin,
        token,
        hmac_key,
        fingerprint_key: api.fingerprint_key.to_base64(),
        witness,
        archive,
        log,
        key_kind,
        certificate,
    })
}
