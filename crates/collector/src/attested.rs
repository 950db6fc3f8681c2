//! What the machine of a device said of itself in its last quotes, and what the collector makes of it.

use jurat_attest::machine::Machine;
use jurat_attest::{Finding, Heads, History, Judge, Status};
use jurat_proof::{Digest, VerifierKey};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::devices::Device;
use crate::machine::{InForce, KnownLog};

/// What an upload holds that a judge of quotes looks at, in order.
pub(crate) enum Said {
    /// A head of the log.
    Head(u64, Digest),
    /// A quote in this leaf.
    Quote(u64, Map<String, Value>),
    /// A boot log; `None` when its payload did not come.
    BootLog(Option<Box<KnownLog>>),
}

/// The most quotes of one upload that are judged; those beyond do not count.
pub(crate) const QUOTES_MAX: usize = 256;
/// The most boot logs of one upload that are read.
pub(crate) const BOOT_LOGS_MAX: usize = 16;
/// How many heads of the uploads before are remembered: a quote is of a head just before it.
const HEADS_KEPT: usize = 16;
/// A quote made so long after what it names, and what comes in an upload, is too old to say anything of now.
const STALE_S: u64 = 600;

/// How a device stands by its quotes: part of the archive's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attested {
    /// What the newest quote makes of it.
    pub(crate) status: Status,
    /// The leaf of that quote.
    pub(crate) seq: u64,
    /// When it came, in seconds since 1970.
    pub(crate) at: u64,
    /// How long before that it was made, at most; absent when nothing says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) age_s: Option<u64>,
    /// What was found of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) findings: Vec<Finding>,
    /// Quotes that counted, and that did not.
    #[serde(default)]
    pub(crate) good: u64,
    #[serde(default)]
    pub(crate) bad: u64,
    /// What the newest quote that names something was made after, in seconds since 1970.
    #[serde(default)]
    dated_s: u64,
    /// The leaf of the newest quote that counts, and when it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) quote: Option<u64>,
    #[serde(default)]
    pub(crate) quoted_at: u64,
    /// The boot log of this start of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) boot_log: Option<KnownLog>,
    /// The accepted state that the machine is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) accepted: Option<String>,
    pub(crate) history: History,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    heads: Vec<(u64, Digest)>,
}

/// A device whose newest quote is older than this is asked for one with the next answer.
const ASK_S: u64 = 300;

impl Attested {
    /// Whether a quote is wanted now.
    pub(crate) fn is_old(&self, now_s: u64) -> bool {
        self.at + ASK_S < now_s
    }

    /// Judges what an upload holds. Gives the `detail` of a leaf when the operator should know: another status, or
    /// something new that was found.
    pub(crate) fn take(
        &mut self,
        device: &Device,
        cosigners: &[VerifierKey],
        said: &[Said],
        policy: Option<&InForce>,
        now_s: u64,
    ) -> Vec<Map<String, Value>> {
        let Some(ak) = &device.ak else {
            return Vec::new();
        };
        let judge = Judge {
            origin: &device.row.origin,
            ak,
            cosigners,
        };
        let mut heads = Heads::default();
        for (size, root) in &self.heads {
            heads.push(*size, *root);
        }
        let mut leaves = Vec::new();
        let mut judged = 0;
        for said in said {
            let (seq, detail) = match said {
                Said::Head(size, root) => {
                    heads.push(*size, *root);
                    continue;
                }
                Said::BootLog(log) => {
                    self.boot_log = log.as_deref().cloned();
                    continue;
                }
                Said::Quote(seq, detail) => (*seq, detail),
            };
            judged += 1;
            let (good, mut findings) = if judged > QUOTES_MAX {
                (None, vec![Finding::Many])
            } else {
                judge.quote(&mut self.history, &heads, detail)
            };
            let after_s = good.as_ref().and_then(|good| good.after_s);
            let age_s = after_s.map(|after_s| now_s.saturating_sub(after_s));
            self.dated_s = self.dated_s.max(after_s.unwrap_or(0));
            // Without a date, or of a head of long ago, it may have been kept for later, when the machine ran something
            // else. The first one of a run can have none, and has the counter.
            let kept = good.as_ref().is_some_and(|good| {
                let undated = good.after_s.is_none() && !good.counted && self.dated_s > 0;
                let unplaced = good.size.is_none() && !self.heads.is_empty();
                (undated && self.dated_s + STALE_S < now_s) || unplaced
            });
            if kept || age_s.is_some_and(|age_s| age_s > STALE_S) {
                findings.push(Finding::Stale);
            }
            let accepted = match &good {
                Some(good) => {
                    (self.quote, self.quoted_at) = (Some(seq), now_s);
                    self.machine(device, good.rebooted, policy, &mut findings)
                }
                None => self.accepted.clone(),
            };
            let status = Status::of(&findings);
            let known =
                (status, &findings, &accepted) == (self.status, &self.findings, &self.accepted);
            if good.is_some() {
                self.good += 1;
            } else {
                self.bad += 1;
            }
            if !known {
                let mut leaf = Map::new();
                leaf.insert("origin".into(), device.row.origin.clone().into());
                leaf.insert("seq".into(), seq.into());
                leaf.insert("status".into(), json!(status));
                leaf.insert("before".into(), json!(self.status));
                if !findings.is_empty() {
                    leaf.insert("findings".into(), json!(findings));
                }
                if let Some(accepted) = &accepted {
                    leaf.insert("accepted".into(), accepted.clone().into());
                }
                if let Some(policy) = policy {
                    leaf.insert("machine_policy".into(), json!(policy.sha256));
                }
                leaves.push(leaf);
            }
            self.accepted = accepted;
            (self.status, self.seq, self.at) = (status, seq, now_s);
            (self.age_s, self.findings) = (age_s, findings);
        }
        self.heads = heads.newest(HEADS_KEPT);
        // It goes on, and says nothing of its machine any more.
        let silent = judged == 0 && self.good > 0 && self.at + 2 * ASK_S < now_s;
        if silent && !self.findings.contains(&Finding::Stale) {
            let mut leaf = Map::new();
            leaf.insert("origin".into(), device.row.origin.clone().into());
            leaf.insert("seq".into(), self.seq.into());
            leaf.insert("before".into(), json!(self.status));
            self.findings.push(Finding::Stale);
            self.status = Status::of(&self.findings);
            leaf.insert("status".into(), json!(self.status));
            leaf.insert("findings".into(), json!(self.findings));
            leaves.push(leaf);
        }
        leaves
    }

    /// Holds the machine of a quote that counts against its boot log and against what the operator accepts. Gives the
    /// name of the accepted state that it is in.
    fn machine(
        &mut self,
        device: &Device,
        rebooted: bool,
        policy: Option<&InForce>,
        findings: &mut Vec<Finding>,
    ) -> Option<String> {
        let pcrs = self.history.pcrs();
        self.boot_log
            .take_if(|boot_log| !boot_log.meets(&pcrs, rebooted));
        if self.boot_log.as_ref().is_some_and(KnownLog::is_wrong) {
            findings.push(Finding::BootLog);
        }
        let machine = Machine {
            device: &device.row.id,
            pcrs: &pcrs,
            facts: self.boot_log.as_ref().and_then(KnownLog::facts),
        };
        let accepted = policy?.policy.accepts(&machine);
        if accepted.is_none() {
            findings.push(Finding::Unaccepted);
        }
        accepted.map(|state| state.name.clone())
    }
}
