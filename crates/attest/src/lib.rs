//! Judges attestations: what a machine's hardware says of its keys and of its state.
//!
//! Pure: bytes come in, a judgement goes out. No device, no clock, no network.

pub mod binding;
pub mod ek;
pub mod eventlog;
pub mod ima;
#[cfg(feature = "tee")]
pub mod tee;
pub mod tpm;
