//! One key names the next: rotation inside a log, and re-enrolment from one log to its successor.
//!
//! A rotation stands in the log it is about, under a head that the old key signed; the proof shows that
//! whoever has the new key agreed. Formats: `docs/formats/entry.md`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value};

use crate::note::ALG_COSIGNATURE;
use crate::{Signer, SignerError, VerifierKey};

/// A log's key, and the key that signs its heads from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// The key that signed until now, and signs the head over this leaf.
    pub from: VerifierKey,
    /// The key that alone signs every later head.
    pub key: VerifierKey,
}

/// Why a `key.rotated` leaf does not rotate a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RotationError {
    /// A field is missing or is not what it should be.
    #[error("a rotation without a usable {0}")]
    Malformed(&'static str),
    /// A key bears another name than the log's origin.
    #[error("a rotation of {found} in the log {expected}")]
    Name {
        /// The log.
        expected: String,
        /// The name in the leaf.
        found: String,
    },
    /// It does not begin at the key that signs now.
    #[error("a rotation from another key than the one that signs now")]
    OldKey,
    /// The new key is the old one.
    #[error("a rotation to the key that signs now")]
    Unchanged,
    /// The new key signed before, and was rotated away.
    #[error("a rotation to a key that was rotated away before")]
    Retired,
    /// The new key did not sign it.
    #[error("the proof of the new key does not verify")]
    Proof,
}

impl Rotation {
    /// The detail of a `key.rotated` leaf from the key that signs now to this one.
    ///
    /// # Errors
    /// [`SignerError`] when the new key cannot sign.
    pub fn detail(from: &VerifierKey, to: &dyn Signer) -> Result<Map<String, Value>, SignerError> {
        let proof = to.sign(&message(&from.name, from))?;
        let mut detail = Map::new();
        detail.insert("from".into(), from.to_string().into());
        detail.insert("key".into(), to.verifier_key().to_string().into());
        detail.insert("proof".into(), BASE64.encode(proof).into());
        Ok(detail)
    }

    /// Reads the detail of a `key.rotated` leaf in the log `origin`, whose heads `current` signs.
    ///
    /// # Errors
    /// [`RotationError`] says what is wrong; the key that signs stays the old one.
    pub fn parse(
        origin: &str,
        current: &VerifierKey,
        detail: &Map<String, Value>,
    ) -> Result<Self, RotationError> {
        let text = |name: &'static str| {
            let value = detail.get(name).and_then(Value::as_str);
            value.ok_or(RotationError::Malformed(name))
        };
        let key = |name: &'static str| {
            let key =
                VerifierKey::parse(text(name)?).map_err(|_| RotationError::Malformed(name))?;
            if key.alg == ALG_COSIGNATURE || key.to_string() != text(name)? {
                return Err(RotationError::Malformed(name));
            }
            if key.name != origin {
                return Err(RotationError::Name {
                    expected: origin.to_owned(),
                    found: key.name,
                });
            }
            Ok(key)
        };
        let (from, key) = (key("from")?, key("key")?);
        let proof = BASE64
            .decode(text("proof")?)
            .map_err(|_| RotationError::Malformed("proof"))?;
        if from != *current {
            return Err(RotationError::OldKey);
        }
        if key == from {
            return Err(RotationError::Unchanged);
        }
        if !key.verify(&message(origin, &from), &proof) {
            return Err(RotationError::Proof);
        }
        Ok(Self { from, key })
    }

    /// This rotation, unless it leads back: a key that was rotated away never comes back.
    ///
    /// # Errors
    /// [`RotationError::Retired`].
    pub fn unless_back_to<'a>(
        self,
        mut retired: impl Iterator<Item = &'a VerifierKey>,
    ) -> Result<Self, RotationError> {
        if retired.any(|key| *key == self.key) {
            return Err(RotationError::Retired);
        }
        Ok(self)
    }
}

/// The most rotations of one log: readers remember its keys, so that none comes back. Then its next epoch
/// begins.
pub const ROTATIONS_MAX: usize = 256;

fn message(origin: &str, from: &VerifierKey) -> Vec<u8> {
    format!("jurat/key-rotation/v1\0{origin}\0{from}").into_bytes()
}

/// Whether the key of a log signed that this public key opens the log's next epoch.
pub fn verify_reenrolment(old: &VerifierKey, new: &[u8], signature: &str) -> bool {
    let Ok(signature) = BASE64.decode(signature) else {
        return false;
    };
    old.verify(reenrolment_message(&old.name, new).as_bytes(), &signature)
}

pub(crate) fn reenrolment_message(origin: &str, new: &[u8]) -> String {
    format!("jurat/reenrolment/v1\0{origin}\0{}", BASE64.encode(new))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

    const ORIGIN: &str = "example.org/jurat/d/0";

    /// A key as `jurat-key` makes them, which this crate cannot name.
    pub(crate) struct Key(Ed25519KeyPair, pub(crate) VerifierKey);

    impl Key {
        pub(crate) fn new(seed: u16, name: &str) -> Self {
            let seed = [seed.to_le_bytes(); 16].concat();
            let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
            let public = pair.public_key().as_ref().try_into().unwrap();
            Self(pair, VerifierKey::ed25519(name, public).unwrap())
        }
    }

    impl Signer for Key {
        fn verifier_key(&self) -> &VerifierKey {
            &self.1
        }

        fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignerError> {
            Ok(self.0.sign(message).as_ref().to_vec())
        }
    }

    #[test]
    fn a_rotation_counts_only_from_the_key_that_signs_now_and_with_the_new_keys_consent() {
        let (old, new, other) = (
            Key::new(1, ORIGIN),
            Key::new(2, ORIGIN),
            Key::new(3, ORIGIN),
        );
        let good = Rotation::detail(&old.1, &new).unwrap();
        let parse = |detail: &Map<String, Value>| Rotation::parse(ORIGIN, &old.1, detail);
        let read = parse(&good).unwrap();
        assert_eq!((&read.from, &read.key), (&old.1, &new.1));

        let with = |name: &str, value: &str| {
            let mut detail = good.clone();
            detail.insert(name.into(), value.into());
            parse(&detail).unwrap_err()
        };
        for name in ["from", "key", "proof"] {
            let mut detail = good.clone();
            detail.remove(name);
            assert_eq!(parse(&detail), Err(RotationError::Malformed(name)));
            assert_eq!(with(name, "!"), RotationError::Malformed(name));
        }
        let cosigner =
            VerifierKey::cosigner(ORIGIN, new.1.key.bytes().try_into().unwrap()).unwrap();
        assert_eq!(
            with("key", &cosigner.to_string()),
            RotationError::Malformed("key")
        );
        let elsewhere = Key::new(2, "example.org/jurat/e/0");
        let found = elsewhere.1.name.clone();
        assert_eq!(
            with("key", &elsewhere.1.to_string()),
            RotationError::Name {
                expected: ORIGIN.into(),
                found
            }
        );
        assert_eq!(with("from", &other.1.to_string()), RotationError::OldKey);
        assert_eq!(with("key", &old.1.to_string()), RotationError::Unchanged);
        // A key whose owner was not asked, and the consent of another rotation.
        assert_eq!(with("key", &other.1.to_string()), RotationError::Proof);
        let theirs = Rotation::detail(&other.1, &new).unwrap();
        assert_eq!(
            with("proof", theirs["proof"].as_str().unwrap()),
            RotationError::Proof
        );
        // Played back after it happened.
        assert_eq!(
            Rotation::parse(ORIGIN, &new.1, &good),
            Err(RotationError::OldKey)
        );
    }

    #[test]
    fn a_reenrolment_counts_only_for_the_log_and_the_key_that_were_signed() {
        let (old, new) = (Key::new(1, ORIGIN), Key::new(2, "unnamed"));
        let signature = old.consent_to(new.1.key.bytes()).unwrap();
        assert!(verify_reenrolment(&old.1, new.1.key.bytes(), &signature));
        assert!(!verify_reenrolment(&old.1, &[7; 32], &signature));
        assert!(!verify_reenrolment(&new.1, new.1.key.bytes(), &signature));
        let next = Key::new(1, "example.org/jurat/d/1");
        assert!(!verify_reenrolment(&next.1, new.1.key.bytes(), &signature));
        assert!(!verify_reenrolment(&old.1, new.1.key.bytes(), "?"));
        // A head is no consent, and a consent is no head.
        assert!(!verify_reenrolment(
            &old.1,
            new.1.key.bytes(),
            &BASE64.encode(old.sign(b"a head\n").unwrap())
        ));
    }
}
