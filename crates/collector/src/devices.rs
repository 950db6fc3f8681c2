//! Enrolled devices: an append-only table of its own, because it holds secrets that must not lie
//! in the archive.
//!
//! A row counts once the archive holds its leaf: the archive says up to where the table counts. A
//! row that a crash left without its leaf was never answered, and is erased at the next start.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::constant_time;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jurat_attest::ek::Identity;
use jurat_attest::tpm::Public;
use jurat_attest::{Base64, Evidence};
use jurat_disk::Host;
use jurat_key::Secret;
use jurat_ledger::{Ledger, Options};
use jurat_proof::{Digest, VerifierKey, sha256};
use jurat_sink::Enrolment;
use serde::{Deserialize, Serialize};

use crate::{ArchiveError, Refused};

/// The kind of a row in the table's ledger.
pub(crate) const DEVICE: u8 = 1;

/// A row of the table.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) id: String,
    /// The origin of its log.
    pub(crate) origin: String,
    /// The key of its log.
    pub(crate) key: String,
    /// What holds that key, as it says.
    pub(crate) key_kind: String,
    /// SHA-256 of its bearer token.
    token_digest: Digest,
    /// Its HMAC key, base64.
    hmac_key: String,
    /// When it enrolled, seconds since 1970.
    pub(crate) enrolled_at: u64,
    /// Its machine id, an attribute.
    machine: Option<String>,
    /// Its host name, an attribute.
    pub(crate) hostname: Option<String>,
    /// The key that it opens connections with: an uncompressed point of P-256.
    tls: Base64,
    /// What is known of its TPM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tpm: Option<Tpm>,
    /// The leaf of the collector's log that says that it is enrolled.
    #[serde(default)]
    pub(crate) leaf: u64,
}

/// A TPM that holds a device's keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Tpm {
    /// The name of its endorsement key, hex.
    pub(crate) ek: String,
    /// The evidence, as JSON.
    pub(crate) evidence: Base64,
    /// What its maker says of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) identity: Option<Maker>,
}

/// What an endorsement certificate says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Maker {
    pub(crate) manufacturer: String,
    pub(crate) model: String,
    pub(crate) version: String,
    /// It is a program: who runs it can copy it.
    #[serde(rename = "virtual")]
    pub(crate) is_virtual: bool,
}

/// Hardware that holds the keys of an enrolment, as it was found.
pub(crate) struct Hardware {
    pub(crate) key_kind: String,
    pub(crate) ek: String,
    pub(crate) evidence: Vec<u8>,
    pub(crate) identity: Option<Identity>,
}

/// An enrolled device, its keys ready for use.
pub(crate) struct Device {
    pub(crate) row: Row,
    /// The key of its log.
    pub(crate) key: VerifierKey,
    /// The key of its requests.
    pub(crate) hmac: Secret,
    /// The key of its connections.
    pub(crate) tls: [u8; 65],
    /// The epoch before this one.
    pub(crate) previous: Option<Arc<Device>>,
    /// The attestation key of its TPM.
    pub(crate) ak: Option<Public>,
}

/// The attestation key in evidence that was checked when it was taken.
fn ak_of(row: &Row) -> Option<Public> {
    let evidence = Evidence::parse(&row.tpm.as_ref()?.evidence).ok()?;
    Public::parse(&evidence.ak).ok()
}

impl Device {
    /// A device that is to be enrolled, and its bearer token.
    pub(crate) fn new(
        host: &Host,
        domain: &str,
        enrolment: &Enrolment,
        tls: [u8; 65],
        hardware: Option<Hardware>,
        epoch: u64,
    ) -> Result<(Self, String), Refused> {
        let invalid = |what| Refused::new(400, "malformed", what);
        let id = &enrolment.device;
        let uuid = id.len() == 36
            && id
                .bytes()
                .all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        if !uuid {
            return Err(invalid("the device id is not a UUID"));
        }
        let origin = format!("{domain}/jurat/{id}/{epoch}");
        let key = BASE64.decode(&enrolment.key).unwrap_or_default();
        let key = if let Ok(key) = <[u8; 32]>::try_from(&*key) {
            VerifierKey::ed25519(&origin, key)
        } else if let Ok(point) = <[u8; 65]>::try_from(&*key) {
            VerifierKey::p256(&origin, point)
        } else {
            return Err(invalid("the key is neither 32 nor 65 bytes in base64"));
        };
        let key = key.map_err(|_| invalid("the key is no canonical key of Ed25519 or P-256"))?;
        let key_kind = match (&hardware, enrolment.key_kind.as_str()) {
            (Some(hardware), _) => hardware.key_kind.clone(),
            // A device's own word.
            (None, kind @ ("software" | "hsm" | "external")) => kind.to_owned(),
            (None, _) => return Err(invalid("nobody knows what holds this key")),
        };
        let (token, hmac) = (Secret::random(host).to_base64(), Secret::random(host));
        let short =
            |text: &Option<String>| text.as_ref().map(|text| text.chars().take(200).collect());
        let row = Row {
            id: id.clone(),
            origin,
            key: key.to_string(),
            key_kind,
            token_digest: sha256(&[token.as_bytes()]),
            hmac_key: hmac.to_base64(),
            enrolled_at: host.clock.now().unix_s(),
            machine: short(&enrolment.machine),
            hostname: short(&enrolment.hostname),
            tls: Base64(tls.to_vec()),
            tpm: hardware.map(|hardware| Tpm {
                ek: hardware.ek,
                evidence: Base64(hardware.evidence),
                identity: hardware.identity.map(|identity| Maker {
                    is_virtual: identity.is_virtual(),
                    manufacturer: identity.manufacturer,
                    model: identity.model,
                    version: identity.version,
                }),
            }),
            leaf: 0,
        };
        let device = Self {
            ak: ak_of(&row),
            row,
            key,
            hmac,
            tls,
            previous: None,
        };
        Ok((device, token))
    }

    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let row: Row = serde_json::from_slice(bytes).ok()?;
        let key = VerifierKey::parse(&row.key).ok()?;
        let hmac = Secret::from_base64(&row.hmac_key)?;
        Some(Self {
            ak: ak_of(&row),
            tls: (&*row.tls.0).try_into().ok()?,
            row,
            key,
            hmac,
            previous: None,
        })
    }

    /// Which of the device's logs this is, from 0: the last part of the origin.
    pub(crate) fn epoch(&self) -> u64 {
        epoch_of(&self.row.origin).unwrap_or(0)
    }

    /// Whether this is the device's bearer token; in constant time.
    pub(crate) fn accepts_token(&self, token: &str) -> bool {
        let digest = sha256(&[token.as_bytes()]);
        constant_time::verify_slices_are_equal(&digest.0, &self.row.token_digest.0).is_ok()
    }
}

/// The epoch before this one, when the table's last row was this: the same epoch may stand twice, when
/// its answer was lost.
fn follows(last: &Arc<Device>, device: &Device) -> Option<Arc<Device>> {
    if last.row.origin == device.row.origin {
        return last.previous.clone();
    }
    Some(last.clone())
}

/// The epoch that an origin names.
pub(crate) fn epoch_of(origin: &str) -> Option<u64> {
    origin.rsplit('/').next()?.parse().ok()
}

/// Opens the table in `dir`, or begins one, and erases what stands at `end` and after it.
pub(crate) fn open(
    host: &Host,
    dir: &Path,
    end: u64,
) -> Result<(Ledger, HashMap<String, Arc<Device>>), ArchiveError> {
    let mut ledger = Ledger::open(
        host.disk.clone(),
        host.rng.clone(),
        dir,
        Options::default(),
        b"",
        &mut |_| {},
    )?;
    if ledger.end() < end {
        let what = "the device table is older than the archive".into();
        return Err(ArchiveError::Damaged(what));
    }
    let mut devices: HashMap<String, Arc<Device>> = HashMap::new();
    let mut unanswered = Vec::new();
    let mut reader = ledger.read(0)?;
    while let Some(item) = reader.next_record()? {
        if item.erased || item.kind != DEVICE {
            continue;
        }
        if item.position >= end {
            unanswered.push((item.position, 0));
            continue;
        }
        let mut device = Device::read(item.body)
            .ok_or_else(|| ArchiveError::Damaged("a row of the device table".into()))?;
        if let Some(before) = devices.remove(&device.row.id) {
            device.previous = follows(&before, &device);
        }
        devices.insert(device.row.id.clone(), Arc::new(device));
    }
    ledger.erase(&unanswered)?;
    Ok((ledger, devices))
}
