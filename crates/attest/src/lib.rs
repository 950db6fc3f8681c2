//! Judges attestations: what a machine's hardware says of its keys and of its state.
//!
//! Pure: bytes come in, a judgement goes out. No device, no clock, no network.

mod bytes;
pub mod ek;
pub mod eventlog;
mod evidence;
pub mod ima;
pub mod machine;
mod offline;
mod quoted;
#[cfg(feature = "tee")]
pub mod tee;
pub mod tpm;

pub use bytes::Base64;
pub use evidence::{
    Certified, EVIDENCE_BYTES_MAX, Evidence, EvidenceError, Shown, certify_binding,
};
pub use offline::Offline;
pub use quoted::{
    After, Finding, Good, Heads, History, Judge, QuoteLeaf, SELECTION, Signed, Status, Tally,
    quote_binding, report_data, write_pcrs,
};
