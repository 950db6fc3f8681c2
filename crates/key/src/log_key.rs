//! A log's key in a file, of either kind.

use std::path::Path;
use std::sync::Arc;

use jurat_disk::Host;
use jurat_proof::Signer;

use crate::{KeyError, P256Key, Secret, SoftwareKey};

/// Stands in a file before the number of a P-256 key. 32 bytes alone are the seed of an Ed25519 key.
const P256: &str = "p256:";

/// The key of a log that has no name yet. Labelled `software`, as every file is.
pub struct LogKey {
    secret: Secret,
    is_p256: bool,
}

impl LogKey {
    /// The key in this file.
    ///
    /// # Errors
    /// As [`Secret::load`].
    pub fn load(host: &Host, path: &Path) -> Result<Self, KeyError> {
        let (secret, is_p256) = Secret::load_marked(host, path, P256)?;
        Ok(Self { secret, is_p256 })
    }

    /// The key in this file, of whichever kind it is. When there is none yet, one is made: of Ed25519, and of P-256 in a
    /// build with feature `fips`.
    ///
    /// # Errors
    /// As [`Secret::load`].
    pub fn load_or_create(host: &Host, path: &Path) -> Result<Self, KeyError> {
        match Self::load(host, path) {
            Err(error) if error.is_missing() => Self::create(host, path, cfg!(feature = "fips")),
            loaded => loaded,
        }
    }

    fn create(host: &Host, path: &Path, is_p256: bool) -> Result<Self, KeyError> {
        let (secret, mark) = if is_p256 {
            (P256Key::generate(host)?, P256)
        } else {
            (Secret::random(host), "")
        };
        secret.store_marked(host, path, mark)?;
        Ok(Self { secret, is_p256 })
    }

    /// Signs plain notes under this name.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] when the name cannot stand in a note, or the file holds no key.
    pub fn signer(&self, name: &str) -> Result<Arc<dyn Signer>, KeyError> {
        if self.is_p256 {
            return Ok(Arc::new(P256Key::log(&self.secret, name)?));
        }
        Ok(Arc::new(SoftwareKey::log(&self.secret, name)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jurat_proof::{Checkpoint, Digest};

    #[test]
    fn a_key_stays_what_its_file_says_whichever_kind_this_build_makes() {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::real();
        for (is_p256, alg) in [(false, 0x01), (true, 0x02)] {
            let path = dir.path().join(alg.to_string());
            let made = LogKey::create(&host, &path, is_p256).unwrap();
            let made = made.signer("example.org/log").unwrap();
            assert_eq!(made.verifier_key().alg, alg);
            let head = Checkpoint {
                origin: made.verifier_key().name.clone(),
                size: 7,
                root: Digest([9; 32]),
            };
            let mut note = head.sign(&*made).unwrap();
            assert_eq!(note.is_signed_by(made.verifier_key()), Ok(true));
            note.text = note.text.replace("\n7\n", "\n8\n");
            assert!(note.is_signed_by(made.verifier_key()).is_err());
            for loaded in [LogKey::load, LogKey::load_or_create] {
                let loaded = loaded(&host, &path).unwrap();
                let loaded = loaded.signer("example.org/log").unwrap();
                assert_eq!(loaded.verifier_key(), made.verifier_key());
            }
        }
        let made = LogKey::load_or_create(&host, &dir.path().join("new")).unwrap();
        assert_eq!(made.is_p256, cfg!(feature = "fips"));
    }

    #[test]
    fn a_file_that_holds_no_key_is_refused_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::real();
        let path = dir.path().join("log.key");
        let key = Secret::from_bytes([7; 32]).to_base64();
        for wrong in [
            String::new(),
            "p256:".into(),
            format!("p384:{key}"),
            format!("p256:p256:{key}"),
            "\0".repeat(45),
        ] {
            Secret::from_bytes([7; 32]).store(&host, &path).unwrap();
            std::fs::write(&path, &wrong).unwrap();
            let loaded = LogKey::load_or_create(&host, &path);
            assert!(matches!(loaded, Err(KeyError::Malformed { .. })), "{wrong}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), wrong);
        }
    }
}
