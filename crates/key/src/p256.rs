//! A P-256 key in a file: what hardware holds, for logs and tests that have none.

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use jurat_proof::{Signer, SignerError, VerifierKey};

use crate::{KeyError, Secret};

/// A P-256 key whose private number is a file. It signs plain notes as type 0x02: ECDSA over
/// SHA-256, in DER. Labelled `software`, as every file is.
pub struct P256Key {
    pair: EcdsaKeyPair,
    verifier: VerifierKey,
}

impl P256Key {
    /// A key that signs plain notes under this name.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] when the secret is no private number of the curve (one in 2^32 is
    /// not), or the name cannot stand in a note.
    pub fn log(seed: &Secret, name: &str) -> Result<Self, KeyError> {
        let malformed = |what| KeyError::Malformed {
            path: name.into(),
            what,
        };
        let number = malformed("private number of a P-256 key");
        // The signing type wants the public half as well; the agreement type computes it.
        let Ok(public) = PrivateKey::from_private_key(&ECDH_P256, seed.expose())
            .and_then(|key| key.compute_public_key().map_err(Into::into))
        else {
            return Err(number);
        };
        let pair = EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_ASN1_SIGNING,
            seed.expose(),
            public.as_ref(),
        )
        .map_err(|_| number)?;
        let point = public.as_ref().try_into();
        let verifier = point
            .ok()
            .and_then(|point| VerifierKey::p256(name, point).ok())
            .ok_or_else(|| malformed("name that a signed note can bear"))?;
        Ok(Self { pair, verifier })
    }
}

impl Signer for P256Key {
    fn verifier_key(&self) -> &VerifierKey {
        &self.verifier
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignerError> {
        let signed = self.pair.sign(&SystemRandom::new(), message);
        let signature = signed.map_err(|_| SignerError {
            key: self.verifier.name.clone(),
            reason: "no randomness".into(),
        })?;
        Ok(signature.as_ref().to_vec())
    }
}
