//! An Ed25519 key in a file.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use jurat_proof::{Signer, SignerError, VerifierKey};

use crate::{KeyError, Secret};

/// An Ed25519 key whose seed is a file. Always labelled `software`.
pub struct SoftwareKey {
    pair: Ed25519KeyPair,
    public: [u8; 32],
    verifier: VerifierKey,
}

impl SoftwareKey {
    /// A key that signs plain notes under this name.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] when the name cannot stand in a note.
    pub fn log(seed: &Secret, name: &str) -> Result<Self, KeyError> {
        Self::new(seed, name, VerifierKey::ed25519)
    }

    /// A key that makes timestamped cosignatures under this name.
    ///
    /// # Errors
    /// As [`SoftwareKey::log`].
    pub fn cosigner(seed: &Secret, name: &str) -> Result<Self, KeyError> {
        Self::new(seed, name, VerifierKey::cosigner)
    }

    fn new(
        seed: &Secret,
        name: &str,
        make: fn(&str, [u8; 32]) -> Result<VerifierKey, jurat_proof::NoteError>,
    ) -> Result<Self, KeyError> {
        let malformed = |what| KeyError::Malformed {
            path: name.into(),
            what,
        };
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.expose())
            .map_err(|_| malformed("seed of an Ed25519 key"))?;
        let public = pair
            .public_key()
            .as_ref()
            .try_into()
            .map_err(|_| malformed("Ed25519 key"))?;
        let verifier =
            make(name, public).map_err(|_| malformed("name that a signed note can bear"))?;
        Ok(Self {
            pair,
            public,
            verifier,
        })
    }

    /// The public half.
    pub fn public_key(&self) -> [u8; 32] {
        self.public
    }

    /// The public half with its name, as verifiers are given it.
    pub fn verifier_text(&self) -> String {
        self.verifier.to_string()
    }
}

impl Signer for SoftwareKey {
    fn verifier_key(&self) -> &VerifierKey {
        &self.verifier
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignerError> {
        Ok(self.pair.sign(message).as_ref().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jurat_proof::{Checkpoint, Cosignature, Digest};

    #[test]
    fn a_checkpoint_signed_and_cosigned_verifies_and_a_changed_one_does_not() {
        let key = SoftwareKey::log(&Secret::from_bytes([1; 32]), "example.org/jurat/d/0").unwrap();
        let witness =
            SoftwareKey::cosigner(&Secret::from_bytes([2; 32]), "example.org/witness").unwrap();
        let checkpoint = Checkpoint {
            origin: key.verifier_key().name.clone(),
            size: 7,
            root: Digest([9; 32]),
        };
        let mut note = checkpoint.sign(&key).unwrap();
        note.signatures
            .push(Cosignature::sign(&witness, 1_700_000_000, &note.text).unwrap());
        let mut read = jurat_proof::Note::parse(note.encode().as_bytes()).unwrap();
        assert_eq!(read, note);
        assert_eq!(read.is_signed_by(key.verifier_key()), Ok(true));
        let found = Cosignature::find(&read, witness.verifier_key())
            .unwrap()
            .unwrap();
        assert_eq!(found.time_s, 1_700_000_000);
        read.text = read.text.replace("\n7\n", "\n8\n");
        assert!(read.is_signed_by(key.verifier_key()).is_err());
        assert!(Cosignature::find(&read, witness.verifier_key()).is_err());
    }
}
