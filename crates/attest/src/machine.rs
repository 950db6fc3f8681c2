//! The state of a machine: the PCR values that its TPM quoted, what its boot log explains of them, and which states an
//! operator accepts (`docs/formats/quotes.md`).

use std::collections::{BTreeMap, BTreeSet};

use jurat_proof::Digest;
use serde::{Deserialize, Serialize};

use crate::bytes::{Base64, hex};
use crate::eventlog::{EventLog, Facts, LogError};
use crate::quoted::SELECTION;
use crate::tpm::Hash;

/// The longest file of accepted states that is read.
pub const POLICY_BYTES_MAX: usize = 256 * 1024;
/// The longest name of an accepted state.
const NAME_CHARS_MAX: usize = 200;

/// What a boot log comes to, small enough to be kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootLog {
    /// The values to which it leads, of every PCR that is quoted: zeros for one that it does not name.
    pub pcrs: BTreeMap<u8, String>,
    /// What it shows.
    pub facts: Facts,
}

impl BootLog {
    /// Replays a log.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn read(log: &[u8]) -> Result<Self, LogError> {
        let log = EventLog::parse(log)?;
        let bank = Hash::Sha256;
        if !log.banks.contains(&bank) {
            return Err(LogError::OldFormat);
        }
        let mut values = log.replay(bank);
        let mut value = |pcr| values.remove(&pcr).unwrap_or_else(|| vec![0; bank.size()]);
        let pcrs = SELECTION[0].indices().map(|pcr| (pcr, hex(&value(pcr))));
        Ok(Self {
            pcrs: pcrs.collect(),
            facts: log.facts(bank),
        })
    }

    /// The PCRs whose quoted values are others.
    pub fn misses(&self, quoted: &BTreeMap<u8, String>) -> Vec<u8> {
        let pcrs = self.pcrs.iter();
        let missed = pcrs.filter(|(pcr, value)| quoted.get(pcr) != Some(value));
        missed.map(|(pcr, _)| *pcr).collect()
    }
}

/// The boot log in the payload of a leaf `attestation.boot_log`.
pub fn boot_log_in(payload: &[u8]) -> Option<Vec<u8>> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Payload {
        boot_log: Base64,
    }
    let payload: Payload = serde_json::from_slice(payload).ok()?;
    Some(payload.boot_log.0)
}

/// A machine as its last quote shows it.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// The id of the device.
    pub device: &'a str,
    /// The quoted values of the bank `sha256`.
    pub pcrs: &'a BTreeMap<u8, String>,
    /// What its boot log shows; `None` when none leads to these values.
    pub facts: Option<&'a Facts>,
}

/// A state of a machine that the operator accepts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// What the operator calls it.
    pub name: String,
    /// The devices that may be in it, by their ids; any when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<BTreeSet<String>>,
    /// What the firmware must have measured of the variable `SecureBoot`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secure_boot: Option<bool>,
    /// The digests of what may have been started before the operating system: each that was must be among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_loaders: Option<BTreeSet<String>>,
    /// The leaf whose boot log was adopted; for comparing, nothing is judged by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_log: Option<Adopted>,
    /// Values that PCRs must have: bank, then PCR.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pcrs: BTreeMap<String, BTreeMap<String, String>>,
}

/// Where an adopted boot log is archived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adopted {
    /// The log.
    pub origin: String,
    /// Its leaf.
    pub leaf: u64,
}

/// One thing in which a machine is not as it is accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// `pcrs.sha256.N`, `secure_boot` or `boot_loaders`.
    pub what: String,
    /// What is accepted.
    pub accepted: String,
    /// What is there.
    pub found: String,
}

/// The states that an operator accepts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachinePolicy {
    /// Each of them.
    #[serde(default)]
    pub accepted: Vec<Accepted>,
}

/// Why a file is no machine policy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MachinePolicyError {
    /// Longer than is read.
    #[error("longer than {POLICY_BYTES_MAX} bytes")]
    TooLong,
    /// Not TOML in UTF-8 of this form.
    #[error("not a machine policy")]
    Syntax(#[source] Box<toml::de::Error>),
    /// A state that cannot be meant.
    #[error("the accepted state {name:?}: {what}")]
    State {
        /// Its name.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
}

impl MachinePolicy {
    /// Reads a file of accepted states.
    ///
    /// # Errors
    /// [`MachinePolicyError`]; nothing of a file that is not right to its end counts.
    pub fn parse(text: &[u8]) -> Result<Self, MachinePolicyError> {
        if text.len() > POLICY_BYTES_MAX {
            return Err(MachinePolicyError::TooLong);
        }
        let policy: Self =
            toml::from_slice(text).map_err(|error| MachinePolicyError::Syntax(Box::new(error)))?;
        let mut names = BTreeSet::new();
        for state in &policy.accepted {
            let known = !names.insert(&state.name);
            let wrong = state.wrong().or(known.then_some("the name stands twice"));
            if let Some(what) = wrong {
                let name = state.name.chars().take(NAME_CHARS_MAX).collect();
                return Err(MachinePolicyError::State { name, what });
            }
        }
        Ok(policy)
    }

    /// The first accepted state that this machine is in.
    pub fn accepts(&self, machine: &Machine<'_>) -> Option<&Accepted> {
        let mut states = self.accepted.iter();
        states.find(|state| state.is_for(machine.device) && state.differences(machine).is_empty())
    }

    /// The accepted state for this device from which the machine differs least, and in what.
    pub fn nearest(&self, machine: &Machine<'_>) -> Option<(&Accepted, Vec<Difference>)> {
        let states = self.accepted.iter();
        let states = states.filter(|state| state.is_for(machine.device));
        let judged = states.map(|state| (state, state.differences(machine)));
        judged.min_by_key(|(_, differences)| differences.len())
    }
}

impl Accepted {
    /// The present state of a machine: what its boot log shows, where one leads to the quote, and these PCRs.
    pub fn adopt(name: &str, machine: &Machine<'_>, pins: &[u8]) -> Self {
        let facts = machine.facts;
        let images = facts.map(|facts| facts.boot_loaders.iter());
        let images = images.map(|images| images.map(|image| image.digest.clone()).collect());
        let pinned = machine.pcrs.iter().filter(|(pcr, _)| pins.contains(pcr));
        let pinned: BTreeMap<String, String> = pinned
            .map(|(pcr, value)| (pcr.to_string(), value.clone()))
            .collect();
        let bank = (!pinned.is_empty()).then(|| (Hash::Sha256.name().to_owned(), pinned));
        Self {
            name: name.to_owned(),
            devices: Some([machine.device.to_owned()].into()),
            secure_boot: facts.and_then(|facts| facts.secure_boot),
            boot_loaders: images.filter(|images: &BTreeSet<String>| !images.is_empty()),
            boot_log: None,
            pcrs: bank.into_iter().collect(),
        }
    }

    /// As it stands in a file.
    pub fn to_toml(&self) -> String {
        let policy = MachinePolicy {
            accepted: vec![self.clone()],
        };
        toml::to_string(&policy).expect("texts, numbers and tables can be written as TOML")
    }

    fn is_for(&self, device: &str) -> bool {
        let devices = self.devices.as_ref();
        devices.is_none_or(|devices| devices.contains(device))
    }

    /// What cannot be meant.
    fn wrong(&self) -> Option<&'static str> {
        let is_digest = |hex: &String| Digest::from_hex(hex).is_some();
        let is_quoted = |pcr: &String| {
            let mut quoted = SELECTION[0].indices();
            quoted.any(|quoted| quoted.to_string() == *pcr)
        };
        let nameless = self.name.is_empty()
            || self.name.chars().count() > NAME_CHARS_MAX
            || self.name.contains(char::is_control);
        let of_digests = self.boot_loaders.iter().flatten().all(is_digest);
        let banks = &self.pcrs;
        if nameless {
            Some("a name has 1 to 200 characters, none of control")
        } else if self.devices.as_ref().is_some_and(BTreeSet::is_empty) {
            Some("no device is in `devices`; leave it out to mean any")
        } else if self.boot_loaders.as_ref().is_some_and(BTreeSet::is_empty) || !of_digests {
            Some("`boot_loaders` is a list of SHA-256 in hex, at least one")
        } else if banks.keys().any(|bank| bank != Hash::Sha256.name()) {
            Some("the bank is sha256")
        } else if banks.values().flatten().any(|(pcr, _)| !is_quoted(pcr)) {
            Some("a PCR that is not quoted; those are 0 to 9 and 14")
        } else if banks.values().flatten().any(|(_, value)| !is_digest(value)) {
            Some("the value of a PCR is a SHA-256 in hex")
        } else if banks.values().all(BTreeMap::is_empty)
            && self.secure_boot.is_none()
            && self.boot_loaders.is_none()
        {
            // Who leaves everything out by mistake must not accept every machine.
            Some("it names neither PCRs nor facts, and so any machine would be in it")
        } else {
            None
        }
    }

    /// In what this machine is not in this state.
    fn differences(&self, machine: &Machine<'_>) -> Vec<Difference> {
        let mut differences = Vec::new();
        let mut differs = |what: String, accepted: String, found: String| {
            differences.push(Difference {
                what,
                accepted,
                found,
            });
        };
        for (bank, pcrs) in &self.pcrs {
            for (pcr, value) in pcrs {
                let number: Option<u8> = pcr.parse().ok();
                let found = number.and_then(|pcr| machine.pcrs.get(&pcr));
                if found != Some(value) {
                    let found = found.cloned().unwrap_or_else(|| NOT_QUOTED.into());
                    differs(format!("pcrs.{bank}.{pcr}"), value.clone(), found);
                }
            }
        }
        let unknown = || NO_LOG.to_owned();
        if let Some(on) = self.secure_boot {
            let found = machine.facts.map(|facts| facts.secure_boot);
            if found != Some(Some(on)) {
                let says = |found: Option<bool>| {
                    found.map_or_else(|| NOT_MEASURED.into(), |found| found.to_string())
                };
                let found = found.map_or_else(unknown, says);
                differs("secure_boot".into(), on.to_string(), found);
            }
        }
        if let Some(accepted) = &self.boot_loaders {
            let one_of = || {
                let listed: Vec<&str> = accepted.iter().map(String::as_str).collect();
                listed.join(", ")
            };
            let mut unlike = |found: String| differs("boot_loaders".into(), one_of(), found);
            match machine.facts.map(|facts| facts.boot_loaders.as_slice()) {
                None => unlike(unknown()),
                Some([]) => unlike(NOT_MEASURED.into()),
                Some(images) => {
                    for image in images {
                        if !accepted.contains(&image.digest) {
                            let path = image.path.as_deref().unwrap_or_default();
                            unlike(format!("{} {path}", image.digest).trim_end().into());
                        }
                    }
                }
            }
        }
        differences
    }
}

const NOT_QUOTED: &str = "not quoted";
const NOT_MEASURED: &str = "not measured";
const NO_LOG: &str = "unknown: no boot log leads to the quote";

#[cfg(test)]
mod tests;
