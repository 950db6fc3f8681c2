//! The collector's own log: what it accepted, whom it enrolled, which forks it saw.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jurat_disk::{Host, Time};
use jurat_event::{ENTRY_VERSION, Kind, Severity};
use jurat_proof::{Checkpoint, Frontier, Note, Signer, SignerError};
use serde_json::{Map, Value, json};

fn severity(kind: Kind, detail: &Map<String, Value>) -> Severity {
    match kind {
        Kind::AttestationJudged => match detail.get("status").and_then(Value::as_str) {
            Some("contraindicated") => Severity::High,
            Some("warning") => Severity::Medium,
            _ => Severity::Info,
        },
        Kind::PolicyChanged if detail.contains_key("problem") => Severity::Medium,
        Kind::ForkProof => Severity::Critical,
        Kind::CloneDetected | Kind::KeyRevoked => Severity::High,
        Kind::DeviceSilent | Kind::PayloadErased => Severity::Medium,
        _ => Severity::Info,
    }
}

/// A tree of entries about the collector itself.
pub(crate) struct OwnLog {
    pub(crate) frontier: Frontier,
    pub(crate) origin: String,
    boot: String,
}

impl OwnLog {
    pub(crate) fn new(origin: &str, boot: String, frontier: Frontier) -> Self {
        Self {
            frontier,
            boot,
            origin: origin.to_owned(),
        }
    }

    /// Makes the entry of this number. It counts only once it was committed.
    pub(crate) fn entry(
        &self,
        host: &Host,
        seq: u64,
        kind: Kind,
        time: Time,
        detail: Map<String, Value>,
    ) -> Vec<u8> {
        let mut salt = [0; 16];
        host.rng.fill(&mut salt);
        let entry = json!({
            "salt": URL_SAFE_NO_PAD.encode(salt),
            "seq": seq,
            "boot": self.boot,
            "time": time.rfc3339(),
            "mono_us": time.mono_us,
            "kind": kind,
            "kind_id": kind.id(),
            "severity": severity(kind, &detail),
            "witness": "jurat",
            "detail": detail,
        });
        // An entry begins with its version.
        let fields = entry.to_string();
        format!(
            "{{\"v\":{ENTRY_VERSION},{}",
            fields.get(1..).unwrap_or_default()
        )
        .into_bytes()
    }

    pub(crate) fn checkpoint(&self, signer: &dyn Signer) -> Result<Note, SignerError> {
        let checkpoint = Checkpoint {
            origin: self.origin.clone(),
            size: self.frontier.size(),
            root: self.frontier.root(),
        };
        checkpoint.sign(signer)
    }
}
