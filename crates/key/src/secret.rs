//! Secrets of 32 bytes in files of their own.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jurat_disk::{Host, Mode, read, replace};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{KeyError, os};

/// 32 secret bytes. Never printed; wiped from memory when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// A new random secret.
    pub fn random(host: &Host) -> Self {
        let mut bytes = [0; 32];
        host.rng.fill(&mut bytes);
        Self(bytes)
    }

    /// The secret in these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The secret written as base64.
    pub fn from_base64(text: &str) -> Option<Self> {
        let mut bytes = BASE64.decode(text.trim()).ok()?;
        let secret = bytes.as_slice().try_into().ok().map(Self);
        bytes.zeroize();
        secret
    }

    /// The secret as base64, for a file or an answer over TLS. Nowhere else.
    pub fn to_base64(&self) -> String {
        BASE64.encode(self.0)
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads a secret from its file.
    ///
    /// # Errors
    /// [`KeyError::Exposed`] when others can read the file, [`KeyError::Malformed`] when it holds
    /// something else.
    pub fn load(host: &Host, path: &Path) -> Result<Self, KeyError> {
        Self::load_marked(host, path, "").map(|(secret, _)| secret)
    }

    /// As [`Secret::load`], and whether this mark stands before it.
    pub(crate) fn load_marked(
        host: &Host,
        path: &Path,
        mark: &str,
    ) -> Result<(Self, bool), KeyError> {
        refuse_exposed(path)?;
        let mut bytes = read(&*host.disk, path, 1024).map_err(|source| KeyError::Io {
            path: path.to_path_buf(),
            doing: "reading a key",
            source,
        })?;
        let text = std::str::from_utf8(&bytes).ok();
        let marked = text.and_then(|text| text.strip_prefix(mark));
        let is_marked = marked.is_some();
        let secret = marked.or(text).and_then(Self::from_base64);
        bytes.zeroize();
        let secret = secret.ok_or_else(|| KeyError::Malformed {
            path: path.to_path_buf(),
            what: "key of 32 bytes in base64",
        })?;
        Ok((secret, is_marked))
    }

    /// Writes a secret to its file, durably, readable by its owner only.
    ///
    /// # Errors
    /// [`KeyError::Io`].
    pub fn store(&self, host: &Host, path: &Path) -> Result<(), KeyError> {
        self.store_marked(host, path, "")
    }

    /// As [`Secret::store`], with this mark before it.
    pub(crate) fn store_marked(
        &self,
        host: &Host,
        path: &Path,
        mark: &str,
    ) -> Result<(), KeyError> {
        // Long enough that no copy stays behind where it grew.
        let mut text = String::with_capacity(128);
        text.push_str(mark);
        BASE64.encode_string(self.0, &mut text);
        text.push('\n');
        let stored = replace(&*host.disk, path, text.as_bytes());
        text.zeroize();
        stored.map_err(|source| KeyError::Io {
            path: path.to_path_buf(),
            doing: "writing a key",
            source,
        })
    }

    /// Makes a secret unreadable in its file: the name stays, the content is gone. As far as the disk
    /// itself writes in place.
    ///
    /// # Errors
    /// [`KeyError::Io`].
    pub fn wipe(host: &Host, path: &Path) -> Result<(), KeyError> {
        let wipe = || -> std::io::Result<()> {
            let file = host.disk.open(path, Mode::Write)?;
            let len = usize::try_from(file.len()?.min(1024)).unwrap_or(1024);
            file.write_at(&vec![0; len], 0)?;
            file.sync()
        };
        wipe().map_err(|source| KeyError::Io {
            path: path.to_path_buf(),
            doing: "wiping a key",
            source,
        })
    }

    /// Reads a secret, or makes one and writes it when there is no file yet.
    ///
    /// # Errors
    /// As [`Secret::load`].
    pub fn load_or_create(host: &Host, path: &Path) -> Result<Self, KeyError> {
        match Self::load(host, path) {
            Err(error) if error.is_missing() => {
                let secret = Self::random(host);
                secret.store(host, path)?;
                Ok(secret)
            }
            loaded => loaded,
        }
    }
}

pub(crate) fn refuse_exposed(path: &Path) -> Result<(), KeyError> {
    match os::exposed(path) {
        Some(mode) => Err(KeyError::Exposed {
            path: path.to_path_buf(),
            mode,
        }),
        None => Ok(()),
    }
}
