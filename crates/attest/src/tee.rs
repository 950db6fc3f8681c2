//! Quotes of enclaves and confidential VMs: SGX, TDX, SEV-SNP.
//!
//! A quote says that this code, on this platform, was given these report data. It says nothing of what the code was fed
//! from outside. Everything is judged as of a time that the caller names: what the vendor said of a platform then is
//! archived with the quote, and expires.

mod amd;
mod intel;

pub use amd::{AmdPolicy, AmdReport, AmdTcb, check_amd_report};
pub use intel::{
    COLLATERAL_BYTES_MAX, IntelCode, IntelPolicy, IntelQuote, TcbStatus, check_intel_quote,
};

/// The longest quote.
pub const QUOTE_BYTES_MAX: usize = 64 * 1024;

/// Why a quote says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TeeError {
    /// Not what it should be.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// Longer than any.
    #[error("the {0} is too long")]
    TooLong(&'static str),
    /// What the vendor said is of later than the time of judgement.
    #[error("the {what} is valid from {from_s} on only")]
    NotYet {
        /// What.
        what: &'static str,
        /// Since when it is valid, in seconds since 1970.
        from_s: i64,
    },
    /// What the vendor said had expired at the time of judgement.
    #[error("the {what} expired at {until_s}")]
    Expired {
        /// What.
        what: &'static str,
        /// Until when it was valid, in seconds since 1970.
        until_s: i64,
    },
    /// The certificates do not lead to the vendor's root.
    #[error("the certificates do not lead to the root of {0}")]
    Root(&'static str),
    /// A signature does not hold, or the platform is not one that the vendor vouches for.
    #[error("the quote is not proven: {0}")]
    Unproven(String),
    /// Its memory is open to the machine's owner.
    #[error("the code runs in debug mode")]
    Debug,
    /// The vendor says something of the platform's state that the policy does not allow.
    #[error("the status of the platform is {0}")]
    Status(TcbStatus),
    /// The vendor names a weakness that the policy does not allow.
    #[error("the platform is concerned by {0}")]
    Advisory(String),
    /// The platform, or what the guest allows its host, is not as the policy allows.
    #[error("the policy does not allow {0}")]
    Platform(&'static str),
    /// The firmware is older than the policy allows.
    #[error("the version of {part} is {found}, the policy asks for {least}")]
    Firmware {
        /// Which.
        part: &'static str,
        /// Its version.
        found: u8,
        /// The lowest that is allowed.
        least: u8,
    },
    /// The certificate is for another chip, or for another version of its firmware.
    #[error("the certificate is not of this chip and its firmware: {0}")]
    Chip(&'static str),
    /// It is of something else: another head, another log, another nonce.
    #[error("the quote is not of this head and nonce")]
    ReportData,
    /// It is of other code.
    #[error("the {0} is not the one that is expected")]
    Code(&'static str),
}

/// Whether something is valid at this time.
fn in_window(what: &'static str, at_s: u64, from_s: i64, until_s: i64) -> Result<(), TeeError> {
    let at_s = i64::try_from(at_s).unwrap_or(i64::MAX);
    if at_s < from_s {
        return Err(TeeError::NotYet { what, from_s });
    }
    if at_s > until_s {
        return Err(TeeError::Expired { what, until_s });
    }
    Ok(())
}
