//! Where evidence goes: a format and a transport, chosen independently.
//!
//! Formats: [`mod@format`]; [`mod@line`] is the one that a verifier reads back. Transports: [`FileSink`], a local file;
//! [`Collector`], a Jurat collector over HTTPS.
//!
//! Not here: how it was collected, when to try again.

mod batch;
mod collector;
mod file;
pub mod format;
pub mod line;
pub mod project;
pub mod transport;

pub use batch::{
    Batch, BatchError, Seals, THINNED_BYTES_MAX, Take, Thinned, UPLOAD_BYTES_MAX, read_batch,
    read_seals, without_payloads,
};
pub use collector::{
    Accepted, Activation, Certified, Challenged, Collector, CollectorError, Enrolled, Enrolling,
    Enrolment, FrontierAnswer, Identity, Predecessor, Refusal, SetUp, activation_proof,
    check_accepted, check_enrolment, check_receipt, no_tpm, understand,
};
pub use file::{FileSink, FileSinkError, Guarantee};
