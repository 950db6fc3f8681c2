//! Keys that a TPM 2.0 holds, in Rust alone: no library of a TPM vendor at build or run time.
//!
//! One command at a time over a [`Transport`]; every transient object and session is flushed, also when a
//! command fails, because only three of each are guaranteed (Part 1, 30).

mod chip;
mod command;
mod keys;
mod transport;

pub use chip::{Chip, ChipError, ChipKey, Quoter, Role};
pub use command::{Auth, Blob, NvKind, Tpm, TpmError};
pub use jurat_attest::tpm::Challenge;
pub use keys::{EK_RSA_HANDLE, Endorsement, Quote, TpmKey, Use, ak_template, log_key_template};
#[cfg(windows)]
pub(crate) use transport::RESPONSE_BYTES_MAX;
pub use transport::{Address, AddressError, Transport};
