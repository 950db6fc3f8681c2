//! What a TPM said, judged: by vectors of a software TPM, and each thing that must be refused.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod ek;
mod eventlog;
mod ima;
mod oracle;
#[cfg(feature = "tee")]
mod tee;
mod vectors;
