//! The book of a witness that stands alone, in a ledger of its own.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jurat_disk::Host;
use jurat_key::{KeyError, Secret, SoftwareKey};
use jurat_ledger::{Group, Ledger, LedgerError, Options, Replayed};
use jurat_proof::{Digest, Signer as _, SignerError, VerifierKey, sha256};
use serde::{Deserialize, Serialize};

use crate::{Answer, Decision, Logs, Request, Seen, judge};

/// A segment of the book; the ones before the last are removed.
const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;
/// How often a request is judged again because another one of the same log came first.
const ROUNDS: usize = 16;

/// Why a witness cannot go on. Never the client's fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The key could not sign.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// An earlier write failed; open the book anew.
    #[error("an earlier write failed; the book must be opened anew")]
    Failed,
    /// The book holds something that it cannot have written.
    #[error("the book is damaged: {0}")]
    Damaged(String),
    /// The folder is another witness's.
    #[error("this folder is that of the witness {found}, not of {asked}")]
    Name {
        /// The name in the folder.
        found: String,
        /// The name that was asked for.
        asked: String,
    },
    /// A folder without a book needs a name.
    #[error("a new witness needs a name, for example witness.example.org/w1")]
    NoName,
    /// The key is there and the book is gone.
    #[error(
        "{path}: this key has cosigned, and the book of what it cosigned is gone; a witness that forgets \
         could cosign a fork: begin anew in an empty folder, with another name"
    )]
    Forgotten {
        /// The key.
        path: PathBuf,
    },
}

/// What a commit changes, or, in a snapshot, everything.
#[derive(Default, Serialize, Deserialize)]
struct Change<'a> {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(default)]
    seen: BTreeMap<Cow<'a, str>, Cow<'a, Seen>>,
}

#[derive(Default)]
struct Book {
    seen: BTreeMap<String, Arc<Seen>>,
    origins: BTreeMap<Digest, String>,
    /// A write failed: what is in memory may be behind the disk, so nothing is said any more.
    failed: bool,
}

struct Writer {
    ledger: Ledger,
    /// The position at which old segments were removed last.
    swept: u64,
}

/// A witness's key and all that it cosigned.
pub struct Store {
    host: Host,
    key: SoftwareKey,
    /// Held while a disk works; requests that will be refused do not need it.
    writer: Mutex<Writer>,
    /// Held for a look at memory. Never locked before `writer`.
    book: Mutex<Book>,
}

impl Store {
    /// Opens the witness in `dir`, or begins one of this name.
    ///
    /// # Errors
    /// [`StoreError`]; [`LedgerError::Locked`] in it when another process has the folder open.
    pub fn open(host: Host, dir: &Path, name: Option<&str>) -> Result<Self, StoreError> {
        let (book_dir, key_path) = (dir.join("book"), dir.join("witness.key"));
        let names = host.disk.list(&book_dir).unwrap_or_default();
        let begun = names.iter().any(|name| name.ends_with(".jl"));
        if !begun && host.disk.open(&key_path, jurat_disk::Mode::Read).is_ok() {
            return Err(StoreError::Forgotten { path: key_path });
        }
        if let Some(name) = name {
            // Before anything is written under a name that no key can bear.
            SoftwareKey::cosigner(&Secret::from_bytes([1; 32]), name)?;
        } else if !begun {
            return Err(StoreError::NoName);
        }
        let first = Change {
            name: name.unwrap_or_default().to_owned(),
            ..Change::default()
        };
        let first = serde_json::to_vec(&first).unwrap_or_default();
        let mut whole = Change::default();
        let mut damaged = None;
        let options = Options {
            segment_bytes: SEGMENT_BYTES,
            reserve_bytes: 0,
        };
        let ledger = Ledger::open(
            host.disk.clone(),
            host.rng.clone(),
            &book_dir,
            options,
            &first,
            &mut |replayed| {
                let (Replayed::Snapshot(bytes) | Replayed::State(bytes)) = replayed else {
                    return;
                };
                match serde_json::from_slice::<Change<'_>>(bytes) {
                    Ok(change) => {
                        if !change.name.is_empty() {
                            whole.name = change.name;
                        }
                        let seen = change.seen.into_iter().map(|(origin, seen)| {
                            (
                                Cow::Owned(origin.into_owned()),
                                Cow::Owned(seen.into_owned()),
                            )
                        });
                        whole.seen.extend(seen);
                    }
                    Err(error) => damaged = Some(error.to_string()),
                }
            },
        )?;
        if let Some(what) = damaged {
            return Err(StoreError::Damaged(what));
        }
        if let Some(asked) = name.filter(|name| *name != whole.name) {
            return Err(StoreError::Name {
                found: whole.name,
                asked: asked.into(),
            });
        }
        // After the book: a key without a book has cosigned what nobody remembers.
        let key = SoftwareKey::cosigner(&Secret::load_or_create(&host, &key_path)?, &whole.name)?;
        let mut book = Book::default();
        for (origin, seen) in whole.seen {
            book.put(&origin, Arc::new(seen.into_owned()));
        }
        let mut writer = Writer { ledger, swept: 0 };
        writer.sweep()?;
        Ok(Self {
            host,
            key,
            writer: Mutex::new(writer),
            book: Mutex::new(book),
        })
    }

    /// The witness's key.
    pub fn verifier_key(&self) -> &VerifierKey {
        self.key.verifier_key()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is remembered of a log.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when a write failed.
    pub fn seen(&self, origin: &str) -> Result<Option<Arc<Seen>>, StoreError> {
        let book = self.book();
        if book.failed {
            return Err(StoreError::Failed);
        }
        Ok(book.seen.get(origin).cloned())
    }

    /// What is remembered of the log with this SHA-256 of its origin.
    pub fn seen_by_hash(&self, hash: &Digest) -> Option<Arc<Seen>> {
        let book = self.book();
        let seen = book.seen.get(book.origins.get(hash)?)?;
        Some(seen.clone()).filter(|_| !book.failed)
    }

    /// The origins with a fork proof.
    pub fn forked(&self) -> Vec<String> {
        let book = self.book();
        let forked = book.seen.iter().filter(|(_, seen)| seen.fork.is_some());
        forked.map(|(origin, _)| origin.clone()).collect()
    }

    /// Judges a request, makes what follows durable, and answers.
    ///
    /// # Errors
    /// [`StoreError`]: nothing may be answered but that. [`LedgerError::Full`] in it may pass.
    pub fn add_checkpoint(&self, logs: &Logs, body: &[u8]) -> Result<Answer, StoreError> {
        let request = match Request::parse(body) {
            Ok(request) => request,
            Err(error) => return Ok(Answer::Malformed(error.to_string())),
        };
        let origin = request.head.origin.as_str();
        for _ in 0..ROUNDS {
            let before = self.seen(origin)?;
            let now = self.host.clock.now().unix_s();
            let keys = logs.keys(origin);
            match judge(before.as_deref(), keys, &request, &self.key, now)? {
                Decision::Answer(answer) => return Ok(answer),
                Decision::Store { seen, answer } => {
                    if self.store(origin, before.as_ref(), *seen)? {
                        return Ok(answer);
                    }
                }
            }
        }
        Ok(Answer::Unavailable)
    }

    /// Puts this in the place of what was judged against; `false`, and nothing is changed, when something
    /// else stands there by now.
    fn store(
        &self,
        origin: &str,
        before: Option<&Arc<Seen>>,
        seen: Seen,
    ) -> Result<bool, StoreError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.seen(origin)?;
        // The very value that it was judged against, not one that looks like it.
        let same = match (&now, before) {
            (Some(now), Some(before)) => Arc::ptr_eq(now, before),
            (None, None) => true,
            _ => false,
        };
        if !same {
            return Ok(false);
        }
        let mut change = Change::default();
        change
            .seen
            .insert(Cow::Borrowed(origin), Cow::Borrowed(&seen));
        let state = serde_json::to_vec(&change).unwrap_or_default();
        let mut snapshot = || self.snapshot(origin, &seen);
        let appended = writer
            .ledger
            .append(&mut Group::new(), &state, &mut snapshot);
        let appended = appended.map_err(StoreError::from);
        let appended = appended.and_then(|end| {
            if end - writer.swept > 2 * SEGMENT_BYTES {
                writer.sweep()?;
            }
            Ok(())
        });
        let mut book = self.book();
        match appended {
            Ok(()) => {}
            // Nothing was written; there may be room later.
            Err(error @ StoreError::Ledger(LedgerError::Full { .. })) => return Err(error),
            Err(error) => {
                book.failed = true;
                return Err(error);
            }
        }
        if let Some(fork) = &seen.fork {
            tracing::error!(origin, fork, "a log contradicts itself");
        }
        book.put(origin, Arc::new(seen));
        Ok(true)
    }

    /// Everything as it is after this change.
    fn snapshot(&self, origin: &str, seen: &Seen) -> Vec<u8> {
        let now = self.book().seen.clone();
        let mut change = Change {
            name: self.key.verifier_key().name.clone(),
            seen: now
                .iter()
                .map(|(origin, seen)| (Cow::Borrowed(origin.as_str()), Cow::Borrowed(&**seen)))
                .collect(),
        };
        change
            .seen
            .insert(Cow::Borrowed(origin), Cow::Borrowed(seen));
        serde_json::to_vec(&change).unwrap_or_default()
    }
}

impl Writer {
    /// A snapshot begins each segment: what stands before the last one is not needed.
    fn sweep(&mut self) -> Result<(), StoreError> {
        self.swept = self.ledger.end();
        self.ledger.remove_before(self.swept)?;
        Ok(())
    }
}

impl Book {
    fn put(&mut self, origin: &str, seen: Arc<Seen>) {
        self.origins
            .insert(sha256(&[origin.as_bytes()]), origin.to_owned());
        self.seen.insert(origin.to_owned(), seen);
    }
}
