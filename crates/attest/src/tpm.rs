//! TPM 2.0 structures and their checks (TCG TPM 2.0 Library Specification, Part 2: Structures).
//!
//! Every reader takes bytes from strangers: sizes are bounded, nothing may be left over, nothing panics.

mod attest;
mod clock;
mod credential;
mod public;
mod quote;
mod signature;
mod wire;

pub use attest::{Attest, Attested, Certified, NvCertified, PcrSelection, Quoted};
pub use clock::{Clock, ClockError, Since};
pub use credential::{Challenge, CredentialError, make_credential};
pub use public::{Attribute, Attributes, KeyError, Name, Parameters, Public, is_ak, is_log_key};
pub use quote::{Expected, PcrValues, QuoteError, check_quote};
pub use signature::{Signature, SignatureError};
pub use wire::{Hash, Malformed, Reader, put_sized};
