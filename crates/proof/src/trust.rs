//! The trust policy: whom a verifier believes. Always given by the person who verifies.

use crate::VerifierKey;

/// Whom to believe. Read from a text file in the manner of C2SP `tlog-policy`:
///
/// ```text
/// log <verifier key>               a device log whose key is accepted
/// witness <name> <verifier key>    a witness of checkpoints
/// archive <name> <verifier key>    a cosigner that says: entries and payloads are durable
/// quorum <k>                       how many witnesses must have cosigned; 0 when absent
/// same-host <name>                 this witness runs on the endpoint itself: not independent
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// Accepted logs.
    pub logs: Vec<VerifierKey>,
    /// Witnesses with their names.
    pub witnesses: Vec<(String, VerifierKey)>,
    /// Archives with their names.
    pub archives: Vec<(String, VerifierKey)>,
    /// How many witnesses are needed.
    pub quorum: usize,
    /// Witnesses that share the endpoint's host.
    pub same_host: Vec<String>,
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

impl Trust {
    /// Reads a trust file.
    ///
    /// # Errors
    /// [`TrustError`] names the line.
    pub fn parse(text: &str) -> Result<Self, TrustError> {
        let mut trust = Self::default();
        for (index, line) in text.lines().enumerate() {
            let wrong = |what: String| TrustError {
                line: index + 1,
                what,
            };
            let words: Vec<&str> = line
                .split_whitespace()
                .take_while(|word| !word.starts_with('#'))
                .collect();
            let key =
                |text: &str| VerifierKey::parse(text).map_err(|error| wrong(error.to_string()));
            match words.as_slice() {
                [] => {}
                ["log", vkey] => trust.logs.push(key(vkey)?),
                ["witness", name, vkey] => trust.witnesses.push(((*name).to_owned(), key(vkey)?)),
                ["archive", name, vkey] => trust.archives.push(((*name).to_owned(), key(vkey)?)),
                ["same-host", name] => trust.same_host.push((*name).to_owned()),
                ["quorum", count] => {
                    trust.quorum = count
                        .parse()
                        .map_err(|_| wrong(format!("not a number: {count}")))?;
                }
                [word, ..] => {
                    return Err(wrong(format!(
                        "{word:?} with {} values: expected log, witness, archive, quorum or same-host",
                        words.len() - 1
                    )));
                }
            }
        }
        if let Some(what) = trust.duplicate() {
            let line = text.lines().count();
            return Err(TrustError { line, what });
        }
        if trust.quorum > trust.witnesses.len() {
            let what = format!(
                "a quorum of {} with {} witnesses",
                trust.quorum,
                trust.witnesses.len()
            );
            return Err(TrustError {
                line: text.lines().count(),
                what,
            });
        }
        Ok(trust)
    }

    /// A name or a key that stands twice: one witness must not count as two.
    fn duplicate(&self) -> Option<String> {
        for list in [&self.witnesses, &self.archives] {
            for (index, (name, key)) in list.iter().enumerate() {
                for (other, other_key) in list.iter().take(index) {
                    if name == other {
                        return Some(format!("the name {name} stands twice"));
                    }
                    if key.key == other_key.key {
                        return Some(format!("{name} and {other} are the same key"));
                    }
                }
            }
        }
        None
    }

    /// The accepted keys of a log.
    pub fn keys_of<'a>(&'a self, origin: &'a str) -> impl Iterator<Item = &'a VerifierKey> {
        self.logs.iter().filter(move |key| key.name == origin)
    }
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
        self.same_host
            .iter()
            .try_for_each(|name| writeln!(f, "same-host {name}"))?;
        writeln!(f, "quorum {}", self.quorum)
    }
}
