//! A P-256 key in a file: what hardware holds, for devices that have none.

use std::sync::Arc;

use std::path::Path;

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use aws_lc_rs::encoding::{AsBigEndian as _, EcPrivateKeyBin};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use jurat_disk::Host;
use jurat_proof::SignerError;

use crate::{HeldKey, HeldSigner, KeyError, Secret};

/// A P-256 key whose private number is a file. Labelled `software`, as every file is.
pub struct P256Key {
    pair: EcdsaKeyPair,
    point: [u8; 65],
}

impl P256Key {
    /// A signer of plain notes under this name, with the key of this private number.
    ///
    /// # Errors
    /// As [`P256Key::new`] and [`HeldSigner::new`].
    pub fn log(seed: &Secret, name: &str) -> Result<HeldSigner, KeyError> {
        HeldSigner::new(Arc::new(Self::new(seed)?), name)
    }

    /// The key in this file; made when there is none yet.
    ///
    /// # Errors
    /// As [`Secret::load`] and [`P256Key::new`].
    pub fn load_or_create(host: &Host, path: &Path) -> Result<Self, KeyError> {
        match Secret::load(host, path) {
            Err(error) if error.is_missing() => {
                let secret = Self::generate(host)?;
                secret.store(host, path)?;
                Self::new(&secret)
            }
            loaded => Self::new(&loaded?),
        }
    }

    /// A new private number: with feature `fips` the module's own, which tests the pair as well.
    pub(crate) fn generate(host: &Host) -> Result<Secret, KeyError> {
        if !cfg!(feature = "fips") {
            return Ok(Secret::random(host));
        }
        let made = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).and_then(|pair| {
            let number: EcPrivateKeyBin<'static> = pair.private_key().as_be_bytes()?;
            Ok(number)
        });
        let number = made.ok().and_then(|number| {
            let number: Result<[u8; 32], _> = number.as_ref().try_into();
            number.ok()
        });
        number
            .map(Secret::from_bytes)
            .ok_or_else(|| KeyError::Held {
                place: "the library".into(),
                what: "no key of P-256 could be made".into(),
            })
    }

    /// The key with this private number.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] when the secret is no private number of the curve (one in 2^32 is
    /// not).
    pub fn new(seed: &Secret) -> Result<Self, KeyError> {
        let malformed = || KeyError::Malformed {
            path: "P-256".into(),
            what: "private number of a P-256 key",
        };
        // The signing type wants the public half as well; the agreement type computes it.
        let public = PrivateKey::from_private_key(&ECDH_P256, seed.expose())
            .and_then(|key| key.compute_public_key().map_err(Into::into))
            .map_err(|_| malformed())?;
        let pair = EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_ASN1_SIGNING,
            seed.expose(),
            public.as_ref(),
        )
        .map_err(|_| malformed())?;
        let point = public.as_ref().try_into().map_err(|_| malformed())?;
        Ok(Self { pair, point })
    }

    fn refused(&self) -> SignerError {
        SignerError {
            key: self.place(),
            reason: "the library refuses".into(),
        }
    }
}

impl HeldKey for P256Key {
    fn point(&self) -> &[u8; 65] {
        &self.point
    }

    fn place(&self) -> String {
        "a file".into()
    }

    fn sign_digest(&self, digest: &[u8; 32]) -> Result<Vec<u8>, SignerError> {
        let signed =
            aws_lc_rs::digest::Digest::import_less_safe(digest, &aws_lc_rs::digest::SHA256)
                .and_then(|digest| self.pair.sign_digest(&digest));
        let signature = signed.map_err(|_| self.refused())?;
        Ok(signature.as_ref().to_vec())
    }

    fn sign_message(&self, message: &[u8]) -> Result<Vec<u8>, SignerError> {
        let signed = self.pair.sign(&SystemRandom::new(), message);
        let signature = signed.map_err(|_| self.refused())?;
        Ok(signature.as_ref().to_vec())
    }

    fn is_slow(&self) -> bool {
        false
    }
}
