//! Which logs a witness serves.

use std::collections::BTreeMap;

use jurat_proof::VerifierKey;

/// The most bytes of a file of logs.
pub const LOGS_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The keys that each log may sign with, by origin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logs(BTreeMap<String, Vec<VerifierKey>>);

/// Why a list of logs cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("logs, line {line}: {what}")]
pub struct LogsError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

impl Logs {
    /// Reads `log <verifier key> [<URL>]` lines; `#` begins a comment line.
    ///
    /// # Errors
    /// [`LogsError`] names the line.
    pub fn parse(text: &str) -> Result<Self, LogsError> {
        let mut logs = Self::default();
        for (index, line) in text.lines().enumerate() {
            let wrong = |what: String| LogsError {
                line: index + 1,
                what,
            };
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                [] => {}
                [word, ..] if word.starts_with('#') => {}
                ["log", vkey] | ["log", vkey, _] => {
                    let key = VerifierKey::parse(vkey).map_err(|error| wrong(error.to_string()))?;
                    logs.add(key).map_err(wrong)?;
                }
                _ => return Err(wrong("expected: log <verifier key>".into())),
            }
        }
        Ok(logs)
    }

    /// Adds a key of a log. Several keys of one origin may all sign for it.
    ///
    /// # Errors
    /// What is wrong with the key.
    pub fn add(&mut self, key: VerifierKey) -> Result<(), String> {
        if key.alg == COSIGNER {
            return Err(format!("{} makes cosignatures: not a log's key", key.name));
        }
        let keys = self.0.entry(key.name.clone()).or_default();
        if !keys.contains(&key) {
            keys.push(key);
        }
        Ok(())
    }

    /// The keys of this log; none when it is not known.
    pub fn keys(&self, origin: &str) -> &[VerifierKey] {
        self.0.get(origin).map(Vec::as_slice).unwrap_or_default()
    }

    /// How many logs there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of both.
    #[must_use]
    pub fn with(mut self, other: &Self) -> Self {
        for key in other.0.values().flatten() {
            // Checked when it was added there.
            let _ = self.add(key.clone());
        }
        self
    }
}

/// Signature type of a timestamped cosignature (C2SP signed-note).
const COSIGNER: u8 = 0x04;
