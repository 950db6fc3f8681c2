//! Takes secrets out: `Event -> Redacted`, the only way to a sealable event.
//!
//! Promise: every string of a JSON record, keys included, is scanned after decoding; what a rule
//! finds is replaced by `[redacted:<kind>:<12 hex digits>]`, a fingerprint under a key that only
//! the tenant has, so that equal secrets can be correlated but not guessed. Structure is kept, text
//! without secrets comes out byte for byte, redacting twice changes nothing. What cannot be scanned
//! is withheld: it fails closed. A line too long to be held goes through a [`Stream`], with the same
//! result.
//!
//! Not here: whether a found secret is valid; who may see what.

mod json;
mod names;
mod prefilter;
mod redactor;
mod rules;
mod scan;
mod stream;
mod walk;

pub use redactor::{GROWTH_BYTES_MAX, Mode, Redacted, Redactor};
pub use rules::{Rule, RuleError, Rules};
pub use stream::{Cleaned, Stream, WINDOW_BYTES};
