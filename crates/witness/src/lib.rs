//! The witness: cosigns a checkpoint that is consistent with all it has seen of the log (C2SP
//! `tlog-witness`), and keeps what contradicts itself.
//!
//! Promise: what was cosigned is durable before the cosignature leaves, one root for a size, sizes and
//! times never run backwards, and of two requests that race exactly one wins. Of a log that contradicted
//! itself the fork proof is kept, and it is not cosigned any more.
//!
//! [`judge`] is the decision, pure. [`Store`] keeps it in a ledger of its own; a collector keeps it in its
//! archive. [`router`] is the HTTP interface of both, [`Submitter`] the other end.
//!
//! Not here: what a log's entries say.

mod api;
mod book;
mod client;
mod logs;
mod request;
mod serve;
mod server;
mod store;

pub use api::{Witness, origin_hash, router};
pub use book::{Decision, Seen, judge};
pub use client::{Outcome, Prover, SubmitError, Submitter, gather};
pub use logs::{LOGS_BYTES_MAX, Logs, LogsError};
pub use request::{Answer, PROOF_LINES_MAX, REQUEST_BYTES_MAX, Request, RequestError};
pub use serve::{Builder, Running, ServeError, Transport};
pub use server::{Listening, serve};
pub use store::{Store, StoreError};
