//! Keys in a TPM, against the software TPM of Debian.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod chip;
mod swtpm;
