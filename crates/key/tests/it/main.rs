//! Keys in a TPM, against the software TPM of Debian, and quotes of enclaves, against folders.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod chip;
#[cfg(unix)]
mod enclave;
mod swtpm;
