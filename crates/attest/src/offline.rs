//! Judges what a bundle holds of a TPM, years later.

use jurat_proof::{Attestations, Digest, PublicKey, Quotes, VerifierKey};
use serde_json::{Map, Value};

use crate::evidence::Evidence;
use crate::quoted::{Heads, History, Judge, Tally};
use crate::tpm::Public;

/// Judges the quotes of one log.
#[derive(Debug, Default)]
pub struct Offline {
    known: Option<Known>,
    history: History,
    heads: Heads,
    tally: Tally,
}

#[derive(Debug)]
struct Known {
    origin: String,
    ak: Public,
    cosigners: Vec<VerifierKey>,
}

impl Attestations for Offline {
    fn evidence(
        &mut self,
        origin: &str,
        cosigners: &[VerifierKey],
        evidence: &[u8],
    ) -> Option<PublicKey> {
        // <domain>/jurat/<device>/<epoch>
        let device = origin.rsplit('/').nth(1)?;
        let shown = Evidence::parse(evidence).ok()?.check(device).ok()?;
        self.known = Some(Known {
            origin: origin.to_owned(),
            ak: shown.ak,
            cosigners: cosigners.to_vec(),
        });
        let key = VerifierKey::p256(origin, shown.log).ok()?;
        Some(key.key)
    }

    fn head(&mut self, size: u64, root: Digest, cosigned_s: Option<u64>) {
        self.heads.push(size, root);
        if let Some(time_s) = cosigned_s {
            self.tally.cosigned(size, time_s);
        }
    }

    fn quote(&mut self, seq: u64, detail: &Map<String, Value>) {
        let Some(known) = &self.known else { return };
        let judge = Judge {
            origin: &known.origin,
            ak: &known.ak,
            cosigners: &known.cosigners,
        };
        let (good, findings) = judge.quote(&mut self.history, &self.heads, detail);
        self.tally.take(seq, good.as_ref(), &findings);
    }

    fn finish(&mut self) -> Option<Quotes> {
        self.known.as_ref()?;
        Some(std::mem::take(&mut self.tally).finish())
    }
}
