//! A P-256 key that something else holds: a TPM, an HSM, a program.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{Digest, SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey, UnparsedPublicKey};
use jurat_proof::{Signer, SignerError, VerifierKey};

use crate::KeyError;

/// A private P-256 key that only its holder can use.
pub trait HeldKey: Send + Sync {
    /// The public half: an uncompressed point (SEC 1, 2.3.3).
    fn point(&self) -> &[u8; 65];
    /// Where it is, for people.
    fn place(&self) -> String;
    /// Signs a SHA-256 digest: an `ECDSA-Sig-Value` in DER (RFC 3279, 2.2.3). Takes as long as it takes.
    ///
    /// # Errors
    /// [`SignerError`] when the key cannot be used now; nothing was signed.
    fn sign_digest(&self, digest: &[u8; 32]) -> Result<Vec<u8>, SignerError>;

    /// Signs a message: as its SHA-256 digest, unless the holder hashes as well.
    ///
    /// # Errors
    /// As [`HeldKey::sign_digest`].
    fn sign_message(&self, message: &[u8]) -> Result<Vec<u8>, SignerError> {
        let hashed = digest(&SHA256, message);
        let hashed = hashed.as_ref().try_into().expect("SHA-256 has 32 bytes");
        self.sign_digest(hashed)
    }

    /// As [`Signer::is_slow`].
    fn is_slow(&self) -> bool {
        true
    }
}

impl fmt::Debug for dyn HeldKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HeldKey").field(&self.place()).finish()
    }
}

/// Signs plain notes with a held key, as type 0x02: ECDSA over SHA-256, in DER.
pub struct HeldSigner {
    key: Arc<dyn HeldKey>,
    verifier: VerifierKey,
}

impl HeldSigner {
    /// A signer for this name.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] when the name cannot stand in a note, or the point is none.
    pub fn new(key: Arc<dyn HeldKey>, name: &str) -> Result<Self, KeyError> {
        let verifier = VerifierKey::p256(name, *key.point()).map_err(|_| KeyError::Malformed {
            path: name.into(),
            what: "name that a signed note can bear, with a point of P-256",
        })?;
        Ok(Self { key, verifier })
    }
}

impl Signer for HeldSigner {
    fn verifier_key(&self) -> &VerifierKey {
        &self.verifier
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignerError> {
        self.key.sign_message(message)
    }

    fn is_slow(&self) -> bool {
        self.key.is_slow()
    }
}

/// Whether these bytes are an uncompressed point of P-256.
pub(crate) fn is_point(point: &[u8; 65]) -> bool {
    point[0] == 0x04 && ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).is_ok()
}

/// Whether the key of this point signed this digest: asked of every holder whose signature is foreign bytes.
pub(crate) fn is_signed(point: &[u8; 65], digest: &[u8; 32], signature: &[u8]) -> bool {
    Digest::import_less_safe(digest, &SHA256).is_ok_and(|digest| {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
            .verify_digest(&digest, signature)
            .is_ok()
    })
}

/// `r` and `s`, as hardware gives them, in DER.
pub fn der_signature(r: &[u8], s: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(72);
    for number in [r, s] {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        let number = &number[zeros.min(number.len().saturating_sub(1))..];
        let padded = number.first().is_none_or(|byte| byte & 0x80 != 0);
        body.extend([0x02, (number.len() + usize::from(padded)) as u8]);
        body.extend(padded.then_some(0));
        body.extend(number);
    }
    let mut out = vec![0x30, body.len() as u8];
    out.extend(body);
    out
}
