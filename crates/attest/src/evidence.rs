//! What a device shows of the keys in its TPM when it enrols; anybody may check it again later.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bytes::Base64;
use crate::ek::{CERTIFICATE_BYTES_MAX, CHAIN_MAX};
use crate::tpm::{
    Attest, Attested, Attribute, Hash, KeyError, Malformed, Parameters, Public, Signature,
    SignatureError, is_ak, is_log_key,
};

/// The longest text of [`Evidence`].
pub const EVIDENCE_BYTES_MAX: usize = 128 * 1024;

/// The keys of a device that are in its TPM, and what the TPM says of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// The endorsement key: `TPMT_PUBLIC`.
    pub ek: Base64,
    /// Its certificate, then those of the authorities above it, in DER.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ek_certificates: Vec<Base64>,
    /// The attestation key: `TPMT_PUBLIC`.
    pub ak: Base64,
    /// The key that signs heads.
    pub log: Certified,
    /// The key that opens connections.
    pub tls: Certified,
}

/// A key, and the attestation key's word that the TPM holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certified {
    /// `TPMT_PUBLIC`.
    pub public: Base64,
    /// `TPMS_ATTEST` of the type certify, bound by [`certify_binding`].
    pub attest: Base64,
    /// `TPMT_SIGNATURE` of the attestation key over it.
    pub signature: Base64,
}

/// What the attestation key signs with a certificate of a key of this device.
pub fn certify_binding(device: &str) -> [u8; 32] {
    hash(&[b"jurat/certify/v1\0", device.as_bytes()])
}

pub(crate) fn hash(pieces: &[&[u8]]) -> [u8; 32] {
    let digest = Hash::Sha256.digest(pieces);
    digest.try_into().expect("SHA-256 has 32 bytes")
}

/// Why evidence shows nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// Not JSON of this form, or too long.
    #[error("not evidence of a TPM: {0}")]
    Form(String),
    /// A part of it cannot be read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The endorsement key could be used for anything.
    #[error("the endorsement key is not one: not restricted to what its TPM understands")]
    Ek,
    /// The attestation key is none.
    #[error("the attestation key is not one: {0}")]
    Ak(#[source] KeyError),
    /// A key is not as it must be.
    #[error("the {which} key is not bound to its TPM: {source}")]
    Key {
        /// `log` or `tls`.
        which: &'static str,
        /// What it is not.
        source: KeyError,
    },
    /// The word of the attestation key does not count.
    #[error("the attestation key did not certify the {which} key: {source}")]
    Signature {
        /// See above.
        which: &'static str,
        /// Why.
        source: SignatureError,
    },
    /// It says something else.
    #[error("the attestation key's word is not about the {which} key of this device: {what}")]
    Certify {
        /// See above.
        which: &'static str,
        /// What it is.
        what: &'static str,
    },
}

/// Keys of which the attestation key says that they are in one TPM with it. Whether that is a TPM, and which, is
/// the endorsement certificate's to say.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The endorsement key.
    pub ek: Public,
    /// The attestation key.
    pub ak: Public,
    /// The key that signs heads: an uncompressed point.
    pub log: [u8; 65],
    /// The key that opens connections: an uncompressed point.
    pub tls: [u8; 65],
}

impl Evidence {
    /// Reads evidence.
    ///
    /// # Errors
    /// [`EvidenceError::Form`].
    pub fn parse(json: &[u8]) -> Result<Self, EvidenceError> {
        if json.len() > EVIDENCE_BYTES_MAX {
            return Err(EvidenceError::Form("too long".into()));
        }
        let form = |error: serde_json::Error| EvidenceError::Form(error.to_string());
        let evidence: Self = serde_json::from_slice(json).map_err(form)?;
        // Arrays of the same values would be read as well.
        let value: Value = serde_json::from_slice(json).map_err(form)?;
        if ![&value, &value["log"], &value["tls"]]
            .iter()
            .all(|object| object.is_object())
        {
            return Err(EvidenceError::Form("not objects".into()));
        }
        evidence.bounded()
    }

    fn bounded(self) -> Result<Self, EvidenceError> {
        let long = |der: &Base64| der.len() > CERTIFICATE_BYTES_MAX;
        if self.ek_certificates.len() > CHAIN_MAX || self.ek_certificates.iter().any(long) {
            return Err(EvidenceError::Form(
                "too many or too long certificates".into(),
            ));
        }
        Ok(self)
    }

    /// Checks what the keys are, and that the attestation key says of the others, for this device, that they are in
    /// its TPM.
    ///
    /// # Errors
    /// [`EvidenceError`]: the first thing that does not hold.
    pub fn check(&self, device: &str) -> Result<Shown, EvidenceError> {
        let ek = Public::parse(&self.ek)?;
        let needed = [
            Attribute::FixedTpm,
            Attribute::Restricted,
            Attribute::Decrypt,
        ];
        let is_key = !matches!(ek.parameters, Parameters::Other);
        if !is_key || !needed.iter().all(|needed| ek.attributes.has(*needed)) {
            return Err(EvidenceError::Ek);
        }
        let ak = Public::parse(&self.ak)?;
        is_ak(&ak).map_err(EvidenceError::Ak)?;
        // Of those that a TPM has, the one that every second verifier can check as well: ECDSA with SHA-256.
        let scheme = Some((0x0018, Some(Hash::Sha256)));
        let plain =
            matches!(&ak.parameters, Parameters::Ecc { scheme: found, .. } if *found == scheme);
        if !plain || ak.point().is_none_or(|point| point.len() != 65) {
            return Err(EvidenceError::Ak(KeyError::Scheme));
        }
        let binding = certify_binding(device);
        let log = self.log.check("log", &ak, &binding)?;
        let tls = self.tls.check("tls", &ak, &binding)?;
        Ok(Shown { ek, ak, log, tls })
    }
}

impl Certified {
    fn check(
        &self,
        which: &'static str,
        ak: &Public,
        binding: &[u8; 32],
    ) -> Result<[u8; 65], EvidenceError> {
        let key = Public::parse(&self.public)?;
        is_log_key(&key).map_err(|source| EvidenceError::Key { which, source })?;
        let signature = Signature::parse(&self.signature)?;
        signature
            .verify(ak, &self.attest)
            .map_err(|source| EvidenceError::Signature { which, source })?;
        let attest = Attest::parse(&self.attest)?;
        let other = |what| EvidenceError::Certify { which, what };
        let Attested::Certify(certified) = attest.attested else {
            return Err(other("another statement of a TPM"));
        };
        if certified.name != key.name() {
            return Err(other("another key"));
        }
        if attest.extra != *binding {
            return Err(other("another device"));
        }
        let point = key.point().and_then(|point| point.try_into().ok());
        point.ok_or_else(|| other("not a key of P-256"))
    }
}
