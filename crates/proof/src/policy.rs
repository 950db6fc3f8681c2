//! Quorum policies in the format of C2SP `tlog-policy`: which logs, which witnesses, how many of them.
//!
//! Strict: a policy that was cut, or that names one key twice, must not pass for a weaker one.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::note::{ALG_COSIGNATURE, Note, NoteError, VerifierKey};
use crate::{Checkpoint, Cosignature, decimal};

/// The most bytes of a policy.
pub const POLICY_BYTES_MAX: usize = 256 * 1024;
/// The most logs, witnesses and groups, each.
const NAMES_MAX: usize = 1_024;

/// A witness of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyWitness {
    name: Vec<u8>,
    /// Its key.
    pub key: VerifierKey,
    /// Its submission prefix, where one is named.
    pub url: Option<String>,
}

impl PolicyWitness {
    /// Its name in this policy. It means nothing elsewhere.
    pub fn name(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.name)
    }
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Member {
    Witness(usize),
    Group(usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    needed: usize,
    members: Vec<Member>,
}

/// A quorum policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Accepted logs. May be empty where the log is known from elsewhere.
    pub logs: Vec<VerifierKey>,
    /// Witnesses.
    pub witnesses: Vec<PolicyWitness>,
    groups: Vec<Group>,
    /// `None`: no cosignature is needed.
    quorum: Option<Member>,
}

/// Why a policy cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("policy, line {line}: {what}")]
pub struct PolicyError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

/// What a policy finds in a note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Whether one of the policy's logs signed it; `false` also when the policy names none.
    pub signed: bool,
    /// The witnesses that cosigned it, with their newest time.
    pub cosigned: Vec<(String, u64)>,
    /// Whether they are enough.
    pub quorum: bool,
}

impl Policy {
    /// Reads a policy.
    ///
    /// # Errors
    /// [`PolicyError`] names the line.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        Reader::default().read(bytes)
    }

    /// Who of this policy signed and cosigned a checkpoint.
    ///
    /// # Errors
    /// [`NoteError`] when a known key's signature does not verify, or the note is no checkpoint.
    pub fn holds(&self, note: &Note) -> Result<Holding, NoteError> {
        let head = Checkpoint::parse_foreign(&note.text)?;
        let mut signed = false;
        for key in self.logs.iter().filter(|key| key.name == head.origin) {
            signed |= note.is_signed_by(key)?;
        }
        let mut cosigned = Vec::new();
        let mut have = Vec::with_capacity(self.witnesses.len());
        for witness in &self.witnesses {
            let found = Cosignature::find(note, &witness.key)?;
            have.push(found.is_some());
            cosigned.extend(found.map(|found| (witness.name().into_owned(), found.time_s)));
        }
        let counts = |member: &Member, groups: &[bool]| match *member {
            Member::Witness(index) => have.get(index).copied().unwrap_or(false),
            Member::Group(index) => groups.get(index).copied().unwrap_or(false),
        };
        let groups = self.groups.iter();
        let groups = groups_met(groups.map(|group| (group.needed, &*group.members)), counts);
        let quorum = self.quorum.is_none_or(|member| counts(&member, &groups));
        Ok(Holding {
            signed,
            cosigned,
            quorum,
        })
    }
}

#[derive(Default)]
struct Reader {
    logs: Vec<VerifierKey>,
    witnesses: Vec<PolicyWitness>,
    groups: Vec<Group>,
    names: BTreeMap<Vec<u8>, Member>,
    taken: BTreeSet<Vec<u8>>,
    has_quorum: bool,
    quorum: Option<Member>,
}

impl Reader {
    fn read(mut self, bytes: &[u8]) -> Result<Policy, PolicyError> {
        let wrong = |line: usize, what: &str| PolicyError {
            line,
            what: what.into(),
        };
        if bytes.len() > POLICY_BYTES_MAX {
            return Err(wrong(1, "too long"));
        }
        let mut count = 0;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            count += 1;
            //= C2SP tlog-policy: each line is terminated by ASCII newline
            let line = line
                .strip_suffix(b"\n")
                .ok_or_else(|| wrong(count, "no line end: the file may have been cut"))?;
            self.line(line)
                .map_err(|what| PolicyError { line: count, what })?;
        }
        if !self.has_quorum {
            return Err(wrong(count, "a policy has one quorum line"));
        }
        Ok(Policy {
            logs: self.logs,
            witnesses: self.witnesses,
            groups: self.groups,
            quorum: self.quorum,
        })
    }

    fn line(&mut self, line: &[u8]) -> Result<(), String> {
        //= C2SP tlog-policy: the only allowed control characters are tab and newline
        if line
            .iter()
            .any(|byte| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f)
        {
            return Err("a control character".into());
        }
        let words: Vec<&[u8]> = line
            .split(|byte| matches!(byte, b' ' | b'\t'))
            .filter(|word| !word.is_empty())
            .collect();
        match words.as_slice() {
            [] => Ok(()),
            [word, ..] if word.starts_with(b"#") => Ok(()),
            [b"log", vkey] | [b"log", vkey, _] => self.log(vkey),
            [b"witness", name, vkey] => self.witness(name, vkey, None),
            [b"witness", name, vkey, url] => self.witness(name, vkey, Some(url)),
            [b"group", name, needed, members @ ..] => self.group(name, needed, members),
            [b"quorum", name] => self.set_quorum(name),
            [word, ..] => Err(format!(
                "{:?} with {} values: expected log, witness, group or quorum",
                String::from_utf8_lossy(word),
                words.len() - 1
            )),
        }
    }

    fn log(&mut self, vkey: &[u8]) -> Result<(), String> {
        let key = parse_key(vkey)?;
        if key.alg == ALG_COSIGNATURE {
            return Err("a log's key does not make cosignatures".into());
        }
        // The same key under another name or type is the same key.
        if self.logs.iter().any(|log| log.key == key.key) {
            return Err("this key stands twice among the logs".into());
        }
        if self.logs.len() == NAMES_MAX {
            return Err(format!("more than {NAMES_MAX} logs"));
        }
        self.logs.push(key);
        Ok(())
    }

    fn witness(&mut self, name: &[u8], vkey: &[u8], url: Option<&[u8]>) -> Result<(), String> {
        let key = parse_key(vkey)?;
        if key.alg != ALG_COSIGNATURE {
            return Err("a witness's key makes cosignatures (type 0x04)".into());
        }
        if self.witnesses.iter().any(|other| other.key.key == key.key) {
            return Err("this key stands twice among the witnesses".into());
        }
        let url =
            url.map(|url| String::from_utf8(url.to_vec()).map_err(|_| "the URL is not UTF-8"));
        let url = url.transpose()?;
        self.define(name, Member::Witness(self.witnesses.len()))?;
        self.witnesses.push(PolicyWitness {
            name: name.to_vec(),
            key,
            url,
        });
        Ok(())
    }

    fn define(&mut self, name: &[u8], member: Member) -> Result<(), String> {
        if name == b"none" {
            return Err("the name none has its own meaning".into());
        }
        if self.names.len() == 2 * NAMES_MAX {
            return Err(format!("more than {} names", 2 * NAMES_MAX));
        }
        if self.names.insert(name.to_vec(), member).is_some() {
            let name = String::from_utf8_lossy(name);
            return Err(format!("the name {name} is defined twice"));
        }
        Ok(())
    }

    fn group(&mut self, name: &[u8], needed: &[u8], members: &[&[u8]]) -> Result<(), String> {
        let mut found = Vec::with_capacity(members.len());
        for member in members {
            found.push(self.named(member)?);
            //= C2SP tlog-policy: each defined name can be listed as a group member at most once
            if !self.taken.insert(member.to_vec()) {
                let member = String::from_utf8_lossy(member);
                return Err(format!("{member} is a member twice"));
            }
        }
        let needed = threshold(&String::from_utf8_lossy(needed), found.len())?;
        self.define(name, Member::Group(self.groups.len()))?;
        self.groups.push(Group {
            needed,
            members: found,
        });
        Ok(())
    }

    fn set_quorum(&mut self, name: &[u8]) -> Result<(), String> {
        if std::mem::replace(&mut self.has_quorum, true) {
            return Err("a second quorum line".into());
        }
        if name != b"none" {
            self.quorum = Some(self.named(name)?);
        }
        Ok(())
    }

    fn named(&self, name: &[u8]) -> Result<Member, String> {
        let member = self.names.get(name).copied();
        member.ok_or_else(|| {
            let name = String::from_utf8_lossy(name);
            format!("{name} is not defined on a line before")
        })
    }
}

/// How many of so many members a group needs.
pub(crate) fn threshold(word: &str, members: usize) -> Result<usize, String> {
    let needed = match word {
        "any" => 1,
        "all" => members,
        count => decimal(count)
            .and_then(|count| usize::try_from(count).ok())
            .ok_or_else(|| format!("a threshold is any, all or a number, not {word}"))?,
    };
    if needed == 0 || needed > members {
        return Err(format!("{needed} of {members} members"));
    }
    Ok(needed)
}

/// Which groups are met, each given by what it needs and its members. A group names only what stands before it:
/// one pass is enough, and `holds` is given the groups before.
pub(crate) fn groups_met<'a, M: 'a>(
    groups: impl Iterator<Item = (usize, &'a [M])>,
    holds: impl Fn(&M, &[bool]) -> bool,
) -> Vec<bool> {
    let mut met = Vec::new();
    for (needed, members) in groups {
        let count = members.iter().filter(|member| holds(member, &met)).count();
        met.push(count >= needed);
    }
    met
}

fn parse_key(word: &[u8]) -> Result<VerifierKey, String> {
    let text = std::str::from_utf8(word).map_err(|_| "the key is not UTF-8")?;
    VerifierKey::parse(text).map_err(|error| error.to_string())
}
