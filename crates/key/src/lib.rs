//! Who swears: signing keys and the other secrets of an installation, and the only place that
//! builds TLS configurations ([`tls`]).
//!
//! Trust: a software key is a file. Who can read it can sign in this device's name from anywhere;
//! verdicts say `software`. It is created once, readable by its owner only, and wiped from memory
//! when dropped.

pub mod enclave;
pub mod external;
pub mod fips;
mod held;
mod log_key;
mod os;
mod p256;
#[cfg(feature = "pkcs11")]
pub mod pkcs11;
mod secret;
mod software;
pub mod tls;
pub mod tpm;

pub use held::{HeldKey, HeldSigner, der_signature};
pub use jurat_proof::{Signer, SignerError};
pub use log_key::LogKey;
pub use p256::P256Key;
pub use secret::Secret;
pub use software::SoftwareKey;

use std::io;
use std::path::PathBuf;

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file could not be read or written.
    #[error("{path}: {doing}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the disk said.
        #[source]
        source: io::Error,
    },
    /// The file does not hold a key of this kind.
    #[error("{path}: not a {what}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was expected.
        what: &'static str,
    },
    /// Others than its owner can read the file.
    #[error("{path}: readable by others (mode {mode:o}); run chmod 600 on it")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// What holds a key does not let us use it.
    #[error("{place}: {what}")]
    Held {
        /// The token or the program.
        place: String,
        /// What is wrong.
        what: String,
    },
    /// A certificate or TLS setting cannot be used.
    #[error("{path}: {what}")]
    Tls {
        /// The file, or what stands for it.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

impl KeyError {
    /// Whether there is no such file.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

#[cfg(all(feature = "fips", feature = "tee"))]
compile_error!(
    "features `fips` and `tee` exclude each other: what judges quotes of enclaves brings cryptography of its own; \
     judge them with a build that has `tee` alone"
);
