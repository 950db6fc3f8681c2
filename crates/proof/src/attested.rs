//! What hardware said of the key and of its machine, as a verdict shows it. Judging it is somebody else's room.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{Digest, PublicKey, VerifierKey};

/// Who judges what a TPM said.
pub trait Attestations {
    /// Takes what a device showed of its keys when it enrolled: the key of this log, when its TPM says that it holds
    /// it. The cosignatures of these keys say after what a quote was made.
    fn evidence(
        &mut self,
        origin: &str,
        cosigners: &[VerifierKey],
        evidence: &[u8],
    ) -> Option<PublicKey>;

    /// Takes the next head of the log, and when a witness cosigned it first, in seconds since 1970.
    fn head(&mut self, size: u64, root: Digest, cosigned_s: Option<u64>);

    /// Takes the next quote: the `detail` of the leaf with this number.
    fn quote(&mut self, seq: u64, detail: &Map<String, Value>);

    /// What all of them say; `None` without evidence.
    fn finish(&mut self) -> Option<Quotes>;
}

/// Who judges nothing: quotes say nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unattested;

impl Attestations for Unattested {
    fn evidence(&mut self, _: &str, _: &[VerifierKey], _: &[u8]) -> Option<PublicKey> {
        None
    }

    fn head(&mut self, _: u64, _: Digest, _: Option<u64>) {}

    fn quote(&mut self, _: u64, _: &Map<String, Value>) {}

    fn finish(&mut self) -> Option<Quotes> {
        None
    }
}

/// What hardware said.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Attestation {
    /// The collector that saw the TPM answer, or took the device's word.
    pub by: String,
    /// The leaf of the collector's log that says so.
    pub leaf: u64,
    /// The size of that log's head here.
    pub size: u64,
    /// The witnesses that cosigned that head.
    pub names: Vec<String>,
    /// The name of the endorsement key, hex.
    pub ek: Option<String>,
    /// What the TPM's maker says of it: `manufacturer`, `model`, `version`, `virtual`.
    pub tpm: Option<Value>,
    /// What its quotes say.
    pub quotes: Option<Quotes>,
}

/// What all quotes of a range say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Quotes {
    /// In one word of EAR (draft-ietf-rats-ear, section 3.2): `none`, `affirming`, `warning`, `contraindicated`.
    pub status: &'static str,
    /// Quotes that count.
    pub good: u64,
    /// Quotes that do not.
    pub bad: u64,
    /// Of those that count: how many nothing says when they were made.
    pub undated: u64,
    /// The newest head that one of them binds.
    pub size: Option<u64>,
    /// Starts of the machine between them.
    pub reboots: u64,
    /// The longest time in which one of them was made: from the cosignature that it was made after to the first one
    /// by a witness over its leaf, in seconds.
    pub window_s: Option<u64>,
    /// Leaves and what was found of them, by its code: the first 1,000.
    pub findings: Vec<(u64, &'static str)>,
}
