//! The endpoint: one loop, one closed enum of inputs.
//!
//! Promise: a record that was read is either sealed or counted as filtered, in the same durable step
//! that moves the position past it; a `kill -9` at any moment neither loses nor doubles one. What
//! cannot be delivered now waits in the ledger; nothing here waits for the network.
//!
//! Not here: the collector, proofs.

mod again;
mod agent;
mod boot_log;
mod config;
mod dead_letters;
mod dry_run;
mod enrol;
mod erase;
mod keys;
mod marks;
mod pipeline;
mod query;
mod quoting;
mod receipts;
mod requests;
mod reveal;
mod rotate;
mod sinks;
mod state;
mod status;
mod uplink;
mod uploader;

pub use again::{Again, enroll_again};
pub use agent::{Agent, AgentError, Finish, Input, Inputs, run};
pub use config::{
    Config, ConfigError, DeliveryConfig, Filter, Framing, RedactMode, SealConfig, SinkConfig,
    SourceConfig, WhenFull,
};
pub use dead_letters::{DeadLetter, DeadLetterError, DeadLetters};
pub use dry_run::{DryRun, dry_run, root_files};
pub use enrol::{EnrolError, EnrolOptions, Enrolment, enroll, home, home_of};
pub use erase::{EraseRequestError, erase};
pub use jurat_event::{EraseRequest, Erased};
pub use keys::{KeyPlace, enrolled};
pub use query::{Query, QueryError, query};
pub use receipts::ReceiptStatus;
pub use requests::{Answer, Request, RequestError, Requests};
pub use reveal::{RevealLeafError, reveal};
pub use rotate::{RotateError, Rotated, log_keys, rotate_key};
pub use sinks::Missed;
pub use status::{Queue, SinkStatus, Status, read_status};
pub use uplink::Uplink;
