//! Where evidence goes: a format and a transport, chosen independently.
//!
//! Formats: [`mod@line`], one JSON line as a SIEM sees it. Transports: [`FileSink`], a local file;
//! [`Collector`], a Jurat collector over HTTPS.
//!
//! Not here: how it was collected, when to try again.

mod batch;
mod collector;
mod file;
pub mod line;

pub use batch::{
    Batch, BatchError, THINNED_BYTES_MAX, Take, Thinned, UPLOAD_BYTES_MAX, read_batch,
    without_payloads,
};
pub use collector::{
    Accepted, Activation, Certified, Challenged, Collector, CollectorError, Enrolled, Enrolling,
    Enrolment, FrontierAnswer, Identity, Predecessor, Refusal, SetUp, activation_proof,
    check_accepted, check_receipt, no_tpm, understand,
};
pub use file::{FileSink, FileSinkError, Guarantee};
