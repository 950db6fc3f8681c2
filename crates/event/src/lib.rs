//! What happened: the event, its fields, its kinds with their stable numbers, and the public
//! constants that a receiver needs.
//!
//! An [`Event`] is what a dialect makes of foreign bytes. It is neither redacted nor sealed: only
//! `jurat-redact` can turn it into something that may be stored, and only `jurat-seal` gives it a
//! place in the log. Byte by byte the sealed form is described in `docs/formats/entry.md`.
//!
//! Not here: files, keys, network.

mod erase;
mod event;
mod kind;
mod ranges;

pub use erase::{EraseRequest, Erased};
pub use event::{Actor, Agent, Decoded, Event, Outcome, Severity, Source, Traits, Usage, Witness};
pub use kind::Kind;
pub use ranges::Ranges;

/// The version of the entry format, the field `v`.
pub const ENTRY_VERSION: u8 = 1;
/// The longest entry in bytes: a header is meant for indexing, content belongs into the payload.
pub const ENTRY_BYTES_MAX: usize = 16 * 1024;
/// The longest kind, time, boot or session of an entry in bytes: readers remember them by the thousand.
pub const NAME_BYTES_MAX: usize = 128;
/// The longest single header field in bytes; what is longer is cut and its digest and length kept.
pub const FIELD_BYTES_MAX: usize = 2 * 1024;
/// The most labels an event carries.
pub const LABELS_MAX: usize = 32;

/// HTTP header names of the upload protocol (`docs/formats/upload.md`).
pub mod header {
    /// `sha256=<hex>` of the HMAC over the request.
    pub const SIGNATURE: &str = "x-siem-signature";
    /// Seconds since 1970 at which the request was signed.
    pub const TIMESTAMP: &str = "x-jurat-timestamp";
    /// A value used once.
    pub const NONCE: &str = "x-jurat-nonce";
    /// The device that signed the request.
    pub const DEVICE: &str = "x-jurat-device";
}
