//! The trust policy: whom a verifier believes. Always given by the person who verifies.

use crate::note::ALG_COSIGNATURE;
use crate::policy::{groups_met, threshold};
use crate::{Digest, VerifierKey, decimal};

/// Whom to believe, read from a text file in the manner of C2SP `tlog-policy` (`docs/formats/trust.md`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// Accepted logs.
    pub logs: Vec<VerifierKey>,
    /// Witnesses with their names.
    pub witnesses: Vec<(String, VerifierKey)>,
    /// Archives with their names.
    pub archives: Vec<(String, VerifierKey)>,
    /// Groups of witnesses and of groups named before them.
    pub groups: Vec<Group>,
    /// Who must have cosigned a device's head.
    pub quorum: Quorum,
    /// The collector's own log.
    pub collector: Option<VerifierKey>,
    /// Who must have cosigned the collector's head.
    pub outside: Quorum,
    /// Witnesses that share the endpoint's host.
    pub same_host: Vec<String>,
    /// Heads that logs are known to have had: origin, size, root.
    pub seen: Vec<(String, u64, Digest)>,
    /// Keys of logs that count only below a leaf of the collector's log.
    pub revoked: Vec<(VerifierKey, u64)>,
}

/// A group that holds when enough of its members do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// How many members must hold.
    pub needed: usize,
    /// Witnesses and groups.
    pub members: Vec<String>,
}

/// Who must have cosigned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Quorum {
    /// Nobody.
    #[default]
    None,
    /// So many of all witnesses.
    Count(usize),
    /// This witness or group.
    Named(String),
}

impl std::fmt::Display for Quorum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Count(count) => count.fmt(f),
            Self::Named(name) => f.write_str(name),
        }
    }
}

/// Why a trust file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("trust file, line {line}: {what}")]
pub struct TrustError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

/// The longest trust file.
const TRUST_BYTES_MAX: usize = 1024 * 1024;

impl Trust {
    /// Reads a trust file.
    ///
    /// # Errors
    /// [`TrustError`] names the line.
    pub fn parse(text: &str) -> Result<Self, TrustError> {
        let mut trust = Self::default();
        let mut said = (false, false);
        if text.len() > TRUST_BYTES_MAX {
            let what = format!("longer than {TRUST_BYTES_MAX} bytes");
            return Err(TrustError { line: 1, what });
        }
        for (index, line) in text.lines().enumerate() {
            let words: Vec<&str> = line
                .split([' ', '\t'])
                .filter(|word| !word.is_empty())
                .take_while(|word| !word.starts_with('#'))
                .collect();
            trust
                .statement(&words, &mut said)
                .map_err(|what| TrustError {
                    line: index + 1,
                    what,
                })?;
        }
        Ok(trust)
    }

    fn statement(&mut self, words: &[&str], said: &mut (bool, bool)) -> Result<(), String> {
        match words {
            [] => {}
            ["log", key] => self.logs.push(log_key(key)?),
            ["witness", name, key] => {
                let key = cosigner_key(key)?;
                self.new_member(name)?;
                alone(&self.witnesses, name, &key)?;
                self.witnesses.push(((*name).to_owned(), key));
            }
            ["archive", name, key] => {
                let key = cosigner_key(key)?;
                alone(&self.archives, name, &key)?;
                self.archives.push(((*name).to_owned(), key));
            }
            ["group", name, needed, members @ ..] => {
                self.new_member(name)?;
                let needed = threshold(needed, members.len())?;
                let mut list: Vec<String> = Vec::new();
                for member in members {
                    if !self.is_member(member) {
                        return Err(format!("{member} is no witness or group named above"));
                    }
                    if list.iter().any(|other| other == member) {
                        return Err(format!("{member} stands twice"));
                    }
                    list.push((*member).to_owned());
                }
                self.groups.push(Group {
                    name: (*name).to_owned(),
                    needed,
                    members: list,
                });
            }
            ["quorum", of] if !std::mem::replace(&mut said.0, true) => {
                self.quorum = self.quorum_of(of)?;
            }
            ["outside", of] if !std::mem::replace(&mut said.1, true) => {
                self.outside = self.quorum_of(of)?;
            }
            ["collector", key] if self.collector.is_none() => {
                self.collector = Some(log_key(key)?);
            }
            ["quorum" | "outside" | "collector", _] => {
                return Err(format!("{} stands twice", words[0]));
            }
            ["same-host", name] => {
                if !self.witnesses.iter().any(|(other, _)| other == name) {
                    return Err(format!("{name} is no witness named above"));
                }
                self.same_host.push((*name).to_owned());
            }
            ["seen", origin, size, root] => {
                let size = number(size)?;
                let root = Digest::from_hex(root)
                    .filter(|_| size > 0)
                    .ok_or("a head that was seen has a size above 0 and a root of 64 hex digits")?;
                self.seen.push(((*origin).to_owned(), size, root));
            }
            ["revoked", key, leaf] => {
                self.revoked.push((log_key(key)?, number(leaf)?));
            }
            [word, ..] => {
                return Err(format!(
                    "{word:?} with {} values: expected log, witness, archive, group, quorum, collector, outside, same-host, \
                     seen or revoked",
                    words.len() - 1
                ));
            }
        }
        Ok(())
    }

    fn is_member(&self, name: &str) -> bool {
        self.witnesses.iter().any(|(other, _)| other == name)
            || self.groups.iter().any(|group| group.name == name)
    }

    fn new_member(&self, name: &str) -> Result<(), String> {
        if self.is_member(name) {
            return Err(format!("the name {name} stands twice"));
        }
        if name == "none" || name.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("{name} cannot be a name"));
        }
        Ok(())
    }

    fn quorum_of(&self, of: &str) -> Result<Quorum, String> {
        if of == "none" {
            return Ok(Quorum::None);
        }
        if self.is_member(of) {
            return Ok(Quorum::Named(of.to_owned()));
        }
        let count = count_of(of)?;
        if count == 0 || count > self.witnesses.len() {
            let witnesses = self.witnesses.len();
            return Err(format!("a quorum of {count} with {witnesses} witnesses"));
        }
        Ok(Quorum::Count(count))
    }

    /// Whether these witnesses are enough.
    pub(crate) fn is_met(&self, quorum: &Quorum, names: &[String]) -> bool {
        match quorum {
            Quorum::None => true,
            Quorum::Count(count) => names.len() >= *count,
            Quorum::Named(name) => {
                let holds = |name: &String, met: &[bool]| {
                    let group = self.groups.iter().position(|group| group.name == *name);
                    group.map_or_else(
                        || names.contains(name),
                        |group| met.get(group) == Some(&true),
                    )
                };
                let groups = self.groups.iter();
                let met = groups_met(groups.map(|group| (group.needed, &*group.members)), holds);
                holds(name, &met)
            }
        }
    }

    /// The heads that a log is known to have had.
    pub(crate) fn seen_of<'a>(
        &'a self,
        origin: &'a str,
    ) -> impl Iterator<Item = &'a (String, u64, Digest)> {
        self.seen.iter().filter(move |seen| seen.0 == origin)
    }

    /// The accepted keys of a log.
    pub fn keys_of<'a>(&'a self, origin: &'a str) -> impl Iterator<Item = &'a VerifierKey> {
        self.logs.iter().filter(move |key| key.name == origin)
    }
}

fn number(text: &str) -> Result<u64, String> {
    decimal(text).ok_or_else(|| format!("neither a number nor a name from above: {text}"))
}

fn count_of(text: &str) -> Result<usize, String> {
    usize::try_from(number(text)?).map_err(|_| format!("{text} are too many"))
}

fn key(text: &str) -> Result<VerifierKey, String> {
    VerifierKey::parse(text).map_err(|error| error.to_string())
}

fn log_key(text: &str) -> Result<VerifierKey, String> {
    let key = key(text)?;
    if key.alg == ALG_COSIGNATURE {
        return Err("a log's key signs heads, this one cosigns (type 4)".into());
    }
    Ok(key)
}

fn cosigner_key(text: &str) -> Result<VerifierKey, String> {
    let key = key(text)?;
    if key.alg != ALG_COSIGNATURE {
        return Err("a witness or an archive has a key of type 4".into());
    }
    Ok(key)
}

fn alone(list: &[(String, VerifierKey)], name: &str, key: &VerifierKey) -> Result<(), String> {
    for (other, other_key) in list {
        if name == other {
            return Err(format!("the name {name} stands twice"));
        }
        if key.key == other_key.key {
            return Err(format!("{name} and {other} are the same key"));
        }
    }
    Ok(())
}

impl std::fmt::Display for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "# Whom `jurat verify` believes. Each line is your decision; see docs/formats/trust.md."
        )?;
        self.logs
            .iter()
            .try_for_each(|key| writeln!(f, "log {key}"))?;
        self.witnesses
            .iter()
            .try_for_each(|(name, key)| writeln!(f, "witness {name} {key}"))?;
        self.archives
            .iter()
            .try_for_each(|(name, key)| writeln!(f, "archive {name} {key}"))?;
        self.groups.iter().try_for_each(|group| {
            let members = group.members.join(" ");
            writeln!(f, "group {} {} {members}", group.name, group.needed)
        })?;
        self.same_host
            .iter()
            .try_for_each(|name| writeln!(f, "same-host {name}"))?;
        writeln!(f, "quorum {}", self.quorum)?;
        if let Some(key) = &self.collector {
            writeln!(f, "collector {key}")?;
        }
        writeln!(f, "outside {}", self.outside)?;
        self.seen
            .iter()
            .try_for_each(|(origin, size, root)| writeln!(f, "seen {origin} {size} {root}"))?;
        self.revoked
            .iter()
            .try_for_each(|(key, leaf)| writeln!(f, "revoked {key} {leaf}"))
    }
}
