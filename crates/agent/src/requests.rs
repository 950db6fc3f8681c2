//! What a command asks of the endpoint that holds the ledger: a file each in `requests/`, and one for the
//! answer.
//!
//! Promise: a request is durable before the command waits, and is forgotten only when its answer is durable.
//! After a crash it is taken up again, so doing what it asks twice must be the same as once.
//!
//! Trust: who may write into the state folder may ask. Whatever is done leaves a leaf.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jurat_disk::{Host, read, replace};
use jurat_event::{EraseRequest, Erased};
use serde::{Deserialize, Serialize};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Request {
    /// Remove payloads.
    Erase(EraseRequest),
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Answer {
    /// Payloads were removed.
    Erased(Erased),
    /// It was not done, and why.
    Refused {
        /// The reason.
        why: String,
    },
}

/// Why a request could not be left, read or answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
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
    /// Too many wait already.
    #[error("{path}: {REQUESTS_MAX} requests wait already")]
    Full {
        /// The folder.
        path: PathBuf,
    },
    /// Nobody answered in time. The request stays.
    #[error(
        "{path}: the running endpoint did not answer within {waited_s} s; the request stays and is taken up when it can be"
    )]
    Unanswered {
        /// The request.
        path: PathBuf,
        /// How long it was waited.
        waited_s: u64,
    },
}

/// The most requests that wait at a time, and the longest file of one.
const REQUESTS_MAX: usize = 64;
const REQUEST_BYTES_MAX: u64 = 256 * 1024;
/// How often a command looks for its answer.
const LOOK_MS: u64 = 100;
/// An answer that nobody came for is forgotten when there are more than this many.
const ANSWERS_MAX: usize = 64;

const ASKED: &str = ".json";
const ANSWERED: &str = ".answer";

/// The folder of requests.
#[derive(Clone, Debug)]
pub struct Requests {
    dir: PathBuf,
}

impl Requests {
    /// The requests of an endpoint.
    pub fn new(state_dir: &Path) -> Self {
        Self {
            dir: state_dir.join("requests"),
        }
    }

    /// Leaves a request; durable on return. The name that it returns is asked for its answer.
    ///
    /// # Errors
    /// [`RequestError::Full`], [`RequestError::Io`].
    pub fn leave(&self, host: &Host, request: &Request) -> Result<String, RequestError> {
        let dir = &self.dir;
        host.disk
            .create_dir_all(dir)
            .map_err(|source| failed(dir, "creating the folder of requests", source))?;
        if self.names(host, ASKED)?.len() >= REQUESTS_MAX {
            return Err(RequestError::Full { path: dir.clone() });
        }
        let Request::Erase(_) = request;
        let mut id = [0; 8];
        host.rng.fill(&mut id);
        // By time, so that old answers are known by their names.
        let (time, id) = (host.clock.now().unix_s(), u64::from_le_bytes(id));
        let name = format!("erase-{time:012}-{id:016x}");
        let path = self.path(&name, ASKED);
        let json = serde_json::to_vec(request).unwrap_or_default();
        replace(&*host.disk, &path, &json)
            .map_err(|source| failed(&path, "leaving a request", source))?;
        Ok(name)
    }

    /// The answer to a request, when there is one; it is forgotten.
    ///
    /// # Errors
    /// [`RequestError::Io`].
    pub fn answer(&self, host: &Host, name: &str) -> Result<Option<Answer>, RequestError> {
        let path = self.path(name, ANSWERED);
        let bytes = match read(&*host.disk, &path, REQUEST_BYTES_MAX) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(|source| failed(&path, "reading an answer", source))?,
        };
        let answer = serde_json::from_slice(&bytes)
            .map_err(|error| failed(&path, "reading an answer", std::io::Error::other(error)))?;
        self.forget(host, &path)?;
        Ok(Some(answer))
    }

    /// Waits for the answer. `instead` is asked now and then, and may give one itself.
    ///
    /// # Errors
    /// [`RequestError::Unanswered`] after `patience`; what `instead` says.
    pub fn wait<E: From<RequestError>>(
        &self,
        host: &Host,
        name: &str,
        patience: Duration,
        instead: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<Answer, E> {
        let until = Instant::now() + patience;
        loop {
            if let Some(answer) = self.answer(host, name)? {
                return Ok(answer);
            }
            if Instant::now() >= until {
                let error = RequestError::Unanswered {
                    path: self.path(name, ASKED),
                    waited_s: patience.as_secs(),
                };
                return Err(error.into());
            }
            instead()?;
            std::thread::sleep(Duration::from_millis(LOOK_MS));
        }
    }

    /// Takes a request back. Whoever has begun with it goes on.
    ///
    /// # Errors
    /// [`RequestError::Io`].
    pub fn withdraw(&self, host: &Host, name: &str) -> Result<(), RequestError> {
        self.forget(host, &self.path(name, ASKED))
    }

    /// The requests that wait. One that cannot be read is answered so.
    pub(crate) fn waiting(&self, host: &Host) -> Result<Vec<(String, Request)>, RequestError> {
        let mut waiting = Vec::new();
        for name in self.names(host, ASKED)?.into_iter().take(REQUESTS_MAX) {
            let path = self.path(&name, ASKED);
            let read = read(&*host.disk, &path, REQUEST_BYTES_MAX)
                .and_then(|bytes| serde_json::from_slice(&bytes).map_err(Into::into));
            match read {
                Ok(request) => waiting.push((name, request)),
                // Taken back meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    let why = format!("the request cannot be read: {error}");
                    self.give(host, &name, &Answer::Refused { why })?;
                }
            }
        }
        Ok(waiting)
    }

    /// Answers a request, and only then forgets it.
    pub(crate) fn give(
        &self,
        host: &Host,
        name: &str,
        answer: &Answer,
    ) -> Result<(), RequestError> {
        let answers = self.names(host, ANSWERED)?;
        for old in answers.iter().rev().skip(ANSWERS_MAX) {
            self.forget(host, &self.path(old, ANSWERED))?;
        }
        let path = self.path(name, ANSWERED);
        let json = serde_json::to_vec(answer).unwrap_or_default();
        replace(&*host.disk, &path, &json)
            .map_err(|source| failed(&path, "answering a request", source))?;
        self.forget(host, &self.path(name, ASKED))
    }

    fn path(&self, name: &str, kind: &str) -> PathBuf {
        self.dir.join(format!("{name}{kind}"))
    }

    /// The names of files of this kind.
    fn names(&self, host: &Host, kind: &str) -> Result<Vec<String>, RequestError> {
        match host.disk.list(&self.dir) {
            Ok(names) => Ok(names
                .iter()
                .filter(|name| !name.starts_with('.'))
                .filter_map(|name| Some(name.strip_suffix(kind)?.to_owned()))
                .collect()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => Err(failed(&self.dir, "listing requests", source)),
        }
    }

    fn forget(&self, host: &Host, path: &Path) -> Result<(), RequestError> {
        match host.disk.remove(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed
                .and_then(|()| host.disk.sync_dir(&self.dir))
                .map_err(|source| failed(path, "forgetting a request", source)),
        }
    }
}

fn failed(path: &Path, doing: &'static str, source: std::io::Error) -> RequestError {
    RequestError::Io {
        path: path.to_path_buf(),
        doing,
        source,
    }
}
