//! The verdict: what is proven, how strongly on each axis, and what is not (`docs/formats/verdict.md`).

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::{Attestation, Check, Digest, SessionSummary};

/// The outcome of a verification. Never a bool: what could not be checked must look neither like
/// success nor like tampering.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "verdict", rename_all = "lowercase")]
pub enum Verdict {
    /// Everything that was claimed holds; the report says how much that is.
    Verified(Box<Report>),
    /// Nothing is wrong as far as could be seen, but trust or evidence is missing.
    Unverifiable {
        /// What is missing.
        #[serde(flatten)]
        reason: Reason,
    },
    /// Something is not what was committed to.
    Tampered {
        /// Where.
        #[serde(flatten)]
        place: Place,
    },
}

/// Why a verdict could not be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// No trust policy was given.
    NoTrust,
    /// Not a bundle, or one that is cut.
    NotABundle {
        /// What does not hold.
        check: Check,
        /// What was found, for people.
        #[serde(skip)]
        what: String,
    },
    /// The log is not named in the trust policy.
    UnknownOrigin {
        /// The log's origin.
        origin: String,
    },
    /// The log is named, but none of its accepted keys signed.
    UnknownKey {
        /// The log's origin.
        origin: String,
    },
    /// The key was revoked, and nothing shows that the head was accepted before.
    Revoked {
        /// The key.
        key: String,
    },
    /// The log was longer when it was seen, and nothing here reaches so far.
    Behind {
        /// The leaves that it had.
        size: u64,
    },
    /// Fewer witnesses cosigned than the policy asks for.
    Quorum {
        /// Of what: the device's head, or the collector's in the receipt.
        of: Signed,
        /// Who did.
        found: Vec<String>,
    },
    /// A cosignature is from the future.
    Future {
        /// Its time, in seconds since 1970.
        time: u64,
    },
}

/// What a quorum is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Signed {
    /// The device's head.
    Head,
    /// The collector's head in the receipt.
    Receipt,
}

/// Where the evidence does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The leaf, where one can be named.
    pub seq: Option<u64>,
    /// What does not hold there.
    pub check: Check,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(seq) = self.seq {
            write!(f, "leaf {seq}: ")?;
        }
        write!(f, "{} ({})", self.check, self.check.code())
    }
}

/// How the entries are bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Integrity {
    /// Durable on the endpoint, under no signature.
    Committed,
    /// Under a checkpoint signed by the log key.
    Signed,
}

/// What holds the log key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyAxis {
    /// No key signed.
    None,
    /// A file, or nothing here says otherwise. Whoever can read it can sign.
    Software,
    /// A security module, as the device said.
    Hsm,
    /// A program that asks something else, as the device said.
    External,
    /// A TPM, or a program that acts like one: the collector saw it answer, and believes nobody of it.
    TpmUntrusted,
    /// A TPM whose endorsement key the collector's operator approved.
    TpmPinned,
    /// A TPM whose maker the collector's operator believes.
    TpmVerified,
}

impl KeyAxis {
    /// What a collector wrote in the leaf of an enrolment.
    pub(crate) fn from_kind(kind: &str) -> Self {
        match kind {
            "hsm" => Self::Hsm,
            "external" => Self::External,
            "tpm-untrusted" => Self::TpmUntrusted,
            "tpm-pinned" => Self::TpmPinned,
            "tpm-verified" => Self::TpmVerified,
            _ => Self::Software,
        }
    }

    /// Whether a TPM holds the key.
    pub fn is_tpm(self) -> bool {
        matches!(
            self,
            Self::TpmUntrusted | Self::TpmPinned | Self::TpmVerified
        )
    }

    /// The word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Software => "software",
            Self::Hsm => "hsm",
            Self::External => "external",
            Self::TpmUntrusted => "tpm-untrusted",
            Self::TpmPinned => "tpm-pinned",
            Self::TpmVerified => "tpm-verified",
        }
    }
}

/// Whether the agent's user could have signed this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// The agent's user could have.
    Shared,
    /// The daemon ran under an account of its own; the endpoint says so itself.
    Separate,
}

/// Who saw the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WitnessAxis {
    /// The names of the trusted witnesses that cosigned.
    pub names: Vec<String>,
    /// Those among them that run on the endpoint's own host.
    pub same_host: Vec<String>,
}

impl fmt::Display for WitnessAxis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.names.is_empty() {
            return f.write_str("none");
        }
        let named = self.names.iter().map(|name| {
            if self.same_host.contains(name) {
                format!("{name} (same host, not independent)")
            } else {
                name.clone()
            }
        });
        f.write_str(&named.collect::<Vec<_>>().join(", "))
    }
}

/// Who says that entries and payloads are durable elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ArchiveAxis {
    /// The names of the trusted archives that cosigned.
    pub names: Vec<String>,
}

impl fmt::Display for ArchiveAxis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.names.is_empty() {
            f.write_str("none")
        } else {
            f.write_str(&self.names.join(", "))
        }
    }
}

/// The axes: independent statements, each the minimum over the range, never one number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Axes {
    /// How the entries are bound.
    pub integrity: Integrity,
    /// What holds the key.
    pub key: KeyAxis,
    /// Whether the agent's user could have signed.
    pub isolation: Isolation,
    /// Who saw it.
    pub witness: WitnessAxis,
    /// Who keeps it.
    pub archive: ArchiveAxis,
    /// Whether every leaf of the range and every payload is here, archived, up to the end of a batch.
    pub complete: bool,
}

/// What a verification found: each field as `docs/formats/verdict.md` defines it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The log.
    pub origin: String,
    /// The first leaf that is here.
    pub from: u64,
    /// The number of leaves of the head.
    pub size: u64,
    /// The root over them.
    pub root: Digest,
    /// The head of the chain; `None` when nothing in a range confirms it.
    pub chain: Option<Digest>,
    /// The key that signed the head, after those that it came from here.
    pub keys: Vec<KeySpan>,
    /// The axes.
    #[serde(flatten)]
    pub axes: Axes,
    /// What hardware said of the key and of its machine.
    pub attestation: Option<Attestation>,
    /// Where the head stands in the collector's own log.
    pub logged: Option<Logged>,
    /// A later head that goes on from this one.
    pub later: Option<Later>,
    /// What each trusted witness cosigned here.
    pub cosignatures: BTreeMap<String, Cosigned>,
    /// The longest time between two checkpoints cosigned by one witness, in seconds, for the witness
    /// with the shortest: an event could have been changed unnoticed for at most this long after it
    /// was sealed.
    pub exposure_s: Option<u64>,
    /// When the head was cosigned last, in seconds since 1970.
    pub witnessed_at: Option<u64>,
    /// Leaves by whether their entries are here.
    pub leaves: Leaves,
    /// Payloads by whether they are here.
    pub payloads: Payloads,
    /// Leaves by kind.
    pub events: BTreeMap<String, u64>,
    /// The first sessions.
    pub sessions: BTreeMap<String, SessionSummary>,
    /// Runs of sessions that `sessions` does not list.
    pub sessions_more: u64,
    /// Values redacted.
    pub redactions: u64,
    /// Records filtered before sealing, by reason.
    pub filtered: BTreeMap<String, u64>,
    /// Recorded in custody mode, without redaction.
    pub custody: bool,
    /// Restarts, cut transcripts and other blindness, with the leaf that says so.
    pub gaps: Vec<(u64, String)>,
    /// What this verdict does not say.
    pub not_proven: Vec<NotProven>,
}

/// A key and the heads that it signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeySpan {
    /// The verifier key.
    pub key: String,
    /// It signs heads greater than this.
    pub from: u64,
    /// The `key.rotated` that named it.
    pub leaf: Option<u64>,
}

/// A place in the collector's own log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Logged {
    /// The leaf there.
    pub leaf: u64,
    /// The size of that log's head.
    pub size: u64,
    /// The witnesses that cosigned that head.
    pub names: Vec<String>,
}

/// A later head of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Later {
    /// Its size.
    pub size: u64,
    /// The witnesses that cosigned it.
    pub names: Vec<String>,
}

/// What one witness cosigned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cosigned {
    /// How many heads.
    pub heads: u64,
    /// When the first, in seconds since 1970.
    pub first: u64,
    /// When the last.
    pub last: u64,
}

/// Leaves of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Leaves {
    /// With their entry.
    pub here: u64,
    /// As hashes only.
    pub withheld: u64,
}

/// Payloads of the entries of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Payloads {
    /// As they were committed.
    pub here: u64,
    /// Left out.
    pub withheld: u64,
    /// Erased, as the log says.
    pub erased: u64,
}

macro_rules! not_proven {
    ($($variant:ident = $code:literal $text:literal,)*) => {
        /// What a verdict does not say.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum NotProven { $(#[doc = $text] $variant,)* }

        impl NotProven {
            /// The stable code.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// For people.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

not_proven! {
    Truth = "truth" "that what the agent wrote is true: the events are the agent's own transcript",
    Unseen = "unseen" "anything that no source saw, and anything sealed after the last checkpoint here",
    Withheld = "withheld" "what the withheld leaves said, isolation and custody among it: only their hashes are here",
    SoftwareKey = "software_key" "that only this device could sign: the key is a file (software), or nothing here says what holds it",
    HeldKey = "held_key" "that only this device could sign: where its key is, the device says itself",
    Activation = "activation" "that a TPM holds the key, to who does not believe the collector: its answer convinces only who asked",
    Quotes = "quotes" "what the machine ran: no quote of its TPM here counts, or one is not as it should be",
    Shared = "shared" "that the agent could not sign: it runs as the same user (shared), or nothing here says that it does not",
    NoWitness = "no_witness" "that history was not rewritten and signed anew: no witness cosigned",
    SameHost = "same_host" "that history was not rewritten by this host: its only witness runs on it",
    Collusion = "collusion" "that the witnesses did not collude with the device",
    NotLogged = "not_logged" "that the collector's own log holds this head: no receipt that the trust file lets count",
    Runs = "runs" "that a session has no more runs among the leaves that are not here",
    Chain = "chain" "the chain of the lines in a SIEM: no batch in this range names it",
    Exposure = "exposure" "how long an event could have been changed unnoticed: nothing here says when it began",
    Seen = "seen" "that this log goes on from the head in the trust file: the range begins after it",
    Erasures = "erasures" "that what was erased is gone: too many payloads are missing to compare",
}

impl Serialize for NotProven {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl Verdict {
    pub(crate) fn tampered(seq: Option<u64>, check: Check) -> Self {
        let place = Place { seq, check };
        Self::Tampered { place }
    }

    pub(crate) fn unverifiable(reason: Reason) -> Self {
        Self::Unverifiable { reason }
    }

    /// The exit code: 0 verified, 1 tampered, 2 could not tell.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Verified(_) => 0,
            Self::Tampered { .. } => 1,
            Self::Unverifiable { .. } => 2,
        }
    }
}
