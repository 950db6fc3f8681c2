//! What a collector refused for good, set aside with the reason.
//!
//! A letter is one seal: its leaf hashes went to the collector in its place, so the tree goes on, and its
//! records wait here until somebody sends them again. Two files each: `<from>-<to>.zst`, the upload as it
//! was refused, and `<from>-<to>.json`, what is known of it.

use std::path::{Path, PathBuf};

use jurat_disk::{Host, read, replace};
use jurat_event::Ranges;
use jurat_sink::{CollectorError, UPLOAD_BYTES_MAX, without_payloads};
use serde::{Deserialize, Serialize};

use crate::enrol::EnrolError;
use crate::uplink::Uplink;

/// What is known of a letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Its first leaf.
    pub from: u64,
    /// The leaf after its last one.
    pub to: u64,
    /// The HTTP status of the refusal; 0 when it could not even be sent.
    pub status: u16,
    /// The refusal's code, for example `too_large`.
    pub code: String,
    /// The refusal's words.
    pub message: String,
    /// When it was set aside, RFC 3339.
    pub time: String,
    /// Bytes of the upload.
    pub bytes: u64,
    /// Whether a leaf says that it was set aside.
    #[serde(default)]
    pub noted: bool,
    /// Whether the collector has taken it since; the agent seals a leaf that says so and forgets it.
    #[serde(default)]
    pub delivered: bool,
}

/// The folder of letters.
#[derive(Clone, Debug)]
pub struct DeadLetters {
    dir: PathBuf,
}

/// The most letters, and the most bytes in them. Beyond that nothing more is set aside: delivery stops
/// and says so, and everything stays in the ledger.
const LETTERS_MAX: usize = 64;
const LETTERS_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Why letters could not be read, kept or sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeadLetterError {
    /// A file could not be read or written.
    #[error("{path}: {doing}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the disk said.
        #[source]
        source: std::io::Error,
    },
    /// There are too many.
    #[error("{path} is full ({letters} dead letters); see `jurat dead-letters list`")]
    Full {
        /// The folder.
        path: PathBuf,
        /// How many there are.
        letters: usize,
    },
    /// There is no such letter.
    #[error("no dead letter begins at leaf {0}; see `jurat dead-letters list`")]
    Unknown(u64),
    /// This device is not enrolled, or a key cannot be read.
    #[error(transparent)]
    Enrol(#[from] EnrolError),
    /// The collector did not take it.
    #[error(transparent)]
    Collector(#[from] CollectorError),
}

impl DeadLetters {
    /// The letters of an endpoint.
    pub fn new(state_dir: &Path) -> Self {
        Self {
            dir: state_dir.join("dead-letters"),
        }
    }

    fn path(&self, letter: &DeadLetter, kind: &str) -> PathBuf {
        self.dir
            .join(format!("{:012}-{:012}.{kind}", letter.from, letter.to))
    }

    /// All letters, oldest first.
    ///
    /// # Errors
    /// [`DeadLetterError::Io`].
    pub fn list(&self, host: &Host) -> Result<Vec<DeadLetter>, DeadLetterError> {
        let names = match host.disk.list(&self.dir) {
            Ok(names) => names,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(failed(self.dir.clone(), "listing dead letters", source)),
        };
        let mut letters = Vec::new();
        for name in names.iter().filter(|name| name.ends_with(".json")) {
            let path = self.dir.join(name);
            let letter = read(&*host.disk, &path, 64 * 1024)
                .and_then(|bytes| serde_json::from_slice(&bytes).map_err(std::io::Error::other));
            letters.push(letter.map_err(|source| failed(path, "reading a dead letter", source))?);
        }
        letters.sort_unstable_by_key(|letter: &DeadLetter| letter.from);
        Ok(letters)
    }

    /// Sets an upload aside; durable on return. Setting the same one aside again changes nothing.
    pub(crate) fn keep(
        &self,
        host: &Host,
        letter: &DeadLetter,
        body: &[u8],
    ) -> Result<(), DeadLetterError> {
        let letters = self.list(host)?;
        if letters
            .iter()
            .any(|known| known.from == letter.from && known.to == letter.to)
        {
            return Ok(());
        }
        let bytes: u64 = letters.iter().map(|letter| letter.bytes).sum();
        if letters.len() >= LETTERS_MAX || bytes + letter.bytes > LETTERS_BYTES_MAX {
            return Err(DeadLetterError::Full {
                path: self.dir.clone(),
                letters: letters.len(),
            });
        }
        host.disk
            .create_dir_all(&self.dir)
            .map_err(|source| failed(self.dir.clone(), "creating the folder", source))?;
        // The body first: a letter that is listed is whole.
        let path = self.path(letter, "zst");
        replace(&*host.disk, &path, body)
            .map_err(|source| failed(path, "setting an upload aside", source))?;
        self.write(host, letter)
    }

    fn write(&self, host: &Host, letter: &DeadLetter) -> Result<(), DeadLetterError> {
        let path = self.path(letter, "json");
        let json = serde_json::to_vec_pretty(letter).unwrap_or_default();
        replace(&*host.disk, &path, &json)
            .map_err(|source| failed(path, "writing a dead letter", source))
    }

    /// A leaf says what became of a letter: a delivered one is forgotten, another one is marked. One that
    /// was delivered meanwhile stays for the next look.
    pub(crate) fn noted(&self, host: &Host, letter: &DeadLetter) -> Result<(), DeadLetterError> {
        if letter.delivered {
            return self.remove(host, letter);
        }
        let now = self.list(host)?;
        match now
            .into_iter()
            .find(|now| now.from == letter.from && now.to == letter.to)
        {
            Some(mut now) if !now.delivered => {
                now.noted = true;
                self.write(host, &now)
            }
            _ => Ok(()),
        }
    }

    /// Takes the payloads of these leaves out of every letter; one that cannot be read cannot be sent either,
    /// and is forgotten.
    pub(crate) fn erase(&self, host: &Host, ranges: &Ranges) -> Result<(), DeadLetterError> {
        for letter in self.list(host)? {
            let covered = Ranges::from(vec![(letter.from, letter.to)]);
            if covered.intersection(ranges).is_empty() {
                continue;
            }
            let path = self.path(&letter, "zst");
            let body = match read(&*host.disk, &path, LETTERS_BYTES_MAX) {
                // A crash came between its two files.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                body => {
                    body.map_err(|source| failed(path.clone(), "reading a dead letter", source))?
                }
            };
            match without_payloads(&body, &mut |entry| ranges.contains(entry.seq)) {
                Ok(None) => {}
                Ok(Some(rest)) => replace(&*host.disk, &path, &rest.body)
                    .map_err(|source| failed(path, "writing a dead letter anew", source))?,
                Err(error) => {
                    tracing::error!(%error, path = %path.display(), "a dead letter that cannot be read is removed");
                    self.remove(host, &letter)?;
                }
            }
        }
        Ok(())
    }

    /// Forgets a letter.
    fn remove(&self, host: &Host, letter: &DeadLetter) -> Result<(), DeadLetterError> {
        for kind in ["json", "zst"] {
            let path = self.path(letter, kind);
            match host.disk.remove(&path) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(failed(path, "removing a dead letter", source));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Sends a letter again. When the collector takes it, it is marked as delivered; the running agent
    /// seals a leaf about it and forgets it.
    ///
    /// # Errors
    /// [`DeadLetterError::Collector`] with the collector's reason when it is refused again; the letter
    /// stays.
    pub async fn retry(
        &self,
        host: &Host,
        uplink: &Uplink,
        from: u64,
    ) -> Result<(), DeadLetterError> {
        let letters = self.list(host)?;
        let letter = letters.into_iter().find(|letter| letter.from == from);
        let mut letter = letter.ok_or(DeadLetterError::Unknown(from))?;
        let path = self.path(&letter, "zst");
        let body = read(&*host.disk, &path, UPLOAD_BYTES_MAX as u64)
            .map_err(|source| failed(path, "reading a dead letter", source))?;
        match uplink.send(host, body).await {
            Ok(_) => {}
            // Taken before, and the answer was lost: the collector no longer waits for it.
            Err(CollectorError::Conflict { size })
                if size >= letter.to
                    && !uplink
                        .frontier(host)
                        .await?
                        .withheld
                        .contains(&(letter.from, letter.to)) => {}
            Err(error) => return Err(error.into()),
        }
        letter.delivered = true;
        self.write(host, &letter)
    }
}

fn failed(path: PathBuf, doing: &'static str, source: std::io::Error) -> DeadLetterError {
    DeadLetterError::Io {
        path,
        doing,
        source,
    }
}
