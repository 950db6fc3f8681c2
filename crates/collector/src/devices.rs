//! Enrolled devices: one file, replaced as a whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aws_lc_rs::constant_time;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jurat_disk::{Host, read, replace};
use jurat_key::Secret;
use jurat_proof::{Digest, VerifierKey, sha256};
use jurat_sink::Enrolment;
use serde::{Deserialize, Serialize};

/// An enrolled device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Device {
    /// Its random id.
    pub id: String,
    /// The origin of its log.
    pub origin: String,
    /// The key of its log.
    pub key: String,
    /// What holds that key, as it says.
    pub key_kind: String,
    /// SHA-256 of its bearer token.
    token_digest: Digest,
    /// Its HMAC key, base64.
    hmac_key: String,
    /// When it enrolled, seconds since 1970.
    pub enrolled_at: u64,
    /// Its machine id, an attribute.
    pub machine: Option<String>,
    /// Its host name, an attribute.
    pub hostname: Option<String>,
}

impl Device {
    /// Whether this is the device's bearer token; in constant time.
    pub fn accepts_token(&self, token: &str) -> bool {
        let digest = sha256(&[token.as_bytes()]);
        constant_time::verify_slices_are_equal(&digest.0, &self.token_digest.0).is_ok()
    }

    /// Its HMAC key.
    pub fn hmac_key(&self) -> Option<Secret> {
        Secret::from_base64(&self.hmac_key)
    }

    /// The key of its log.
    pub fn verifier_key(&self) -> Option<VerifierKey> {
        VerifierKey::parse(&self.key).ok()
    }
}

/// Why a device cannot be enrolled, or the table not be kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The table could not be read or written.
    #[error("{path}: {doing}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the disk said.
        #[source]
        source: std::io::Error,
    },
    /// The device's id is not a UUID, or its key is not a usable Ed25519 key.
    #[error("{0}")]
    Invalid(&'static str),
    /// The id is taken.
    #[error("the device {0} is enrolled already; a new enrolment takes a new id")]
    Taken(String),
}

/// The table of devices.
pub(crate) struct Devices {
    path: PathBuf,
    by_id: BTreeMap<String, Device>,
}

/// The longest table: about 100,000 devices.
const TABLE_BYTES_MAX: u64 = 64 * 1024 * 1024;

impl Devices {
    pub(crate) fn open(host: &Host, path: &Path) -> Result<Self, DeviceError> {
        let fail = |source| DeviceError::Io {
            path: path.to_path_buf(),
            doing: "reading the devices",
            source,
        };
        let by_id = match read(&*host.disk, path, TABLE_BYTES_MAX) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| fail(std::io::Error::other(error)))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(fail(error)),
        };
        Ok(Self {
            path: path.to_path_buf(),
            by_id,
        })
    }

    pub(crate) fn find(&self, id: &str) -> Option<&Device> {
        self.by_id.get(id)
    }

    /// Enrols a device; durable on return. Gives back the device and its bearer token.
    pub(crate) fn enroll(
        &mut self,
        host: &Host,
        domain: &str,
        enrolment: &Enrolment,
    ) -> Result<(Device, String), DeviceError> {
        let id = &enrolment.device;
        let uuid = id.len() == 36
            && id
                .bytes()
                .all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        if !uuid {
            return Err(DeviceError::Invalid("the device id is not a UUID"));
        }
        if self.by_id.contains_key(id) {
            return Err(DeviceError::Taken(id.clone()));
        }
        let origin = format!("{domain}/jurat/{id}/0");
        let key = BASE64
            .decode(&enrolment.key)
            .ok()
            .and_then(|key| <[u8; 32]>::try_from(key).ok());
        let key = key.ok_or(DeviceError::Invalid("the key is not 32 bytes in base64"))?;
        let key = VerifierKey::ed25519(&origin, key)
            .map_err(|_| DeviceError::Invalid("the key is not a canonical Ed25519 key"))?;
        let token = Secret::random(host).to_base64();
        let short =
            |text: &Option<String>| text.as_ref().map(|text| text.chars().take(200).collect());
        let device = Device {
            id: id.clone(),
            origin,
            key: key.to_string(),
            key_kind: "software".into(),
            token_digest: sha256(&[token.as_bytes()]),
            hmac_key: Secret::random(host).to_base64(),
            enrolled_at: host.clock.now().unix_s(),
            machine: short(&enrolment.machine),
            hostname: short(&enrolment.hostname),
        };
        self.by_id.insert(id.clone(), device.clone());
        if let Err(error) = self.store(host) {
            self.by_id.remove(id);
            return Err(error);
        }
        Ok((device, token))
    }

    fn store(&self, host: &Host) -> Result<(), DeviceError> {
        let fail = |source| DeviceError::Io {
            path: self.path.clone(),
            doing: "writing the devices",
            source,
        };
        let json = serde_json::to_vec_pretty(&self.by_id)
            .map_err(|error| fail(std::io::Error::other(error)))?;
        replace(&*host.disk, &self.path, &json).map_err(fail)
    }
}
