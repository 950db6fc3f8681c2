//! Rotation of the log key: the request, which waits in a file until it is carried out, and the files of the
//! two keys.
//!
//! Promise: whatever a crash interrupts, `log.key` and `log.next.key` hold every key that the ledger may
//! still need, the ledger says which of them signs, and a request is answered once it is so. The new key is
//! durable before the leaf that names it; the old one is wiped when the collector has the last head that it
//! signed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jurat_disk::{Host, random_uuid, read, replace};
use jurat_key::{KeyError, LogKey, Secret, Signer};
use jurat_ledger::LedgerError;
use jurat_seal::{ROTATIONS_MAX, SealError};
use serde::{Deserialize, Serialize};

use crate::agent::{Agent, AgentError, Inputs};
use crate::config::Config;
use crate::enrol::{EnrolError, Enrolment};
use crate::keys::{KeyPlace, Keys};

/// A rotation that was carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotated {
    /// The key that signs from now on.
    pub key: String,
    /// Heads above this size are signed by it.
    pub size: u64,
}

/// What became of a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Answer {
    /// The request.
    id: String,
    /// The newest rotation.
    #[serde(flatten)]
    newest: Rotated,
    /// Nothing was done for this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused: Option<Refused>,
}

/// Why nothing was done for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Refused {
    /// The newest rotation is that of an earlier request, and is under way.
    UnderWay,
    /// The log has had as many as it may have.
    TooMany,
}

/// Why a key was not rotated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RotateError {
    /// This device is not enrolled.
    #[error(transparent)]
    Enrol(#[from] EnrolError),
    /// No endpoint runs, and none can be started.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The request could not be written, or the answer not be read.
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
    /// The rotation before is under way: its last head by the old key is not with the collector yet.
    #[error(
        "not rotated: the rotation before is under way; it is done when the collector has the first {size} leaves \
         (see `jurat status`), ask again then"
    )]
    UnderWay {
        /// The size of that head.
        size: u64,
    },
    /// The log has had as many rotations as it may have.
    #[error(
        "not rotated: this log has had {ROTATIONS_MAX} rotations, the most that there may be; \
         `jurat enroll --again` begins its next epoch with a new key"
    )]
    TooMany,
    /// The key is not a file.
    #[error(
        "not rotated: this log's key is held by {place}, which keeps it to itself; \
         `jurat enroll --again` begins the next epoch with a new one"
    )]
    Held {
        /// Where it is.
        place: String,
    },
    /// The endpoint that runs has not taken it up yet. It will: the request is durable.
    #[error("asked; the endpoint that runs has not answered yet and will carry it out")]
    Asked,
}

/// A request that waits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    id: String,
}

/// The files of an epoch that have to do with its key.
#[derive(Clone, Debug)]
pub(crate) struct KeyFiles {
    home: PathBuf,
}

impl KeyFiles {
    pub(crate) fn new(home: &Path) -> Self {
        Self {
            home: home.to_path_buf(),
        }
    }

    fn key(&self) -> PathBuf {
        self.home.join("keys/log.key")
    }

    fn next(&self) -> PathBuf {
        self.home.join("keys/log.next.key")
    }

    fn request(&self) -> PathBuf {
        self.home.join("rotate-key.request")
    }

    fn answer(&self) -> PathBuf {
        self.home.join("rotate-key.answer")
    }

    /// Every key that may sign: the one that did, and the one that will or does.
    ///
    /// # Errors
    /// [`KeyError`] when there is none.
    pub(crate) fn load(&self, host: &Host, origin: &str) -> Result<Vec<Arc<dyn Signer>>, KeyError> {
        let next = match LogKey::load(host, &self.next()) {
            Ok(next) => Some(next.signer(origin)?),
            Err(error) if error.is_missing() => None,
            Err(error) => return Err(error),
        };
        match (LogKey::load(host, &self.key()), next) {
            (Ok(key), next) => {
                let mut keys = vec![key.signer(origin)?];
                keys.extend(next);
                Ok(keys)
            }
            // It was wiped, and the next one not yet renamed.
            (Err(_), Some(next)) => Ok(vec![next]),
            (Err(error), None) => Err(error),
        }
    }

    /// The next key; made, durably, when there is none yet.
    pub(crate) fn make_next(&self, host: &Host, origin: &str) -> Result<Arc<dyn Signer>, KeyError> {
        LogKey::load_or_create(host, &self.next())?.signer(origin)
    }

    /// The next key, when one was made.
    pub(crate) fn has_next(&self, host: &Host, origin: &str) -> Option<Arc<dyn Signer>> {
        let next = LogKey::load(host, &self.next()).ok()?;
        next.signer(origin).ok()
    }

    /// Wipes the old key, and gives the next one its name.
    pub(crate) fn promote(&self, host: &Host) -> Result<(), KeyError> {
        match Secret::wipe(host, &self.key()) {
            Err(error) if !error.is_missing() => return Err(error),
            _ => {}
        }
        let renamed = host
            .disk
            .rename(&self.next(), &self.key())
            .and_then(|()| host.disk.sync_dir(&self.home.join("keys")));
        renamed.map_err(|source| KeyError::Io {
            path: self.key(),
            doing: "putting the next key in its place",
            source,
        })
    }

    /// Removes a next key that nothing named.
    fn forget_next(&self, host: &Host) -> Result<(), KeyError> {
        let removed = host
            .disk
            .remove(&self.next())
            .and_then(|()| host.disk.sync_dir(&self.home.join("keys")));
        removed.map_err(|source| KeyError::Io {
            path: self.next(),
            doing: "removing a key that signs nothing",
            source,
        })
    }

    /// The request that waits.
    pub(crate) fn asked(&self, host: &Host) -> Option<Request> {
        let bytes = read(&*host.disk, &self.request(), 4096).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Answers a request: durable, before the request is gone.
    fn answer_to(&self, host: &Host, answer: &Answer) -> std::io::Result<()> {
        let json = serde_json::to_vec(answer).unwrap_or_default();
        replace(&*host.disk, &self.answer(), &json)?;
        self.done(host)
    }

    /// A request was answered.
    fn done(&self, host: &Host) -> std::io::Result<()> {
        host.disk.remove(&self.request())?;
        host.disk.sync_dir(&self.home)
    }

    /// The answer that was given last.
    fn answered(&self, host: &Host) -> Option<Answer> {
        let bytes = read(&*host.disk, &self.answer(), 64 * 1024).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// What was answered to this request.
    fn outcome(&self, host: &Host, id: &str) -> Option<Result<Rotated, RotateError>> {
        let answer = self.answered(host).filter(|answer| answer.id == id)?;
        let size = answer.newest.size;
        Some(match answer.refused {
            None => Ok(answer.newest),
            Some(Refused::UnderWay) => Err(RotateError::UnderWay { size }),
            Some(Refused::TooMany) => Err(RotateError::TooMany),
        })
    }
}

/// Every key of this epoch's log that may sign: the ledger says which of them does.
///
/// # Errors
/// [`EnrolError`] when there is none.
pub fn log_keys(
    host: &Host,
    state_dir: &Path,
    enrolment: &Enrolment,
) -> Result<Vec<Arc<dyn Signer>>, EnrolError> {
    let keys = Keys::load(host, &enrolment.home(state_dir), enrolment)?;
    Ok(keys.signers)
}

/// How often it is looked whether a request was answered.
const LOOK: Duration = Duration::from_millis(100);

/// Rotates the log key: asks the endpoint that runs, and waits for so long; or does it when none runs.
///
/// # Errors
/// [`RotateError::Asked`] when the endpoint that runs did not answer in time: it will carry it out;
/// [`RotateError::UnderWay`] when an earlier rotation has to reach the collector first.
pub fn rotate_key(
    host: &Host,
    config: &Config,
    state_dir: &Path,
    wait: Duration,
) -> Result<Rotated, RotateError> {
    let enrolment = Enrolment::load(host, state_dir)?;
    if enrolment.key != KeyPlace::Software {
        let place = enrolment.key.to_string();
        return Err(RotateError::Held { place });
    }
    let home = enrolment.home(state_dir);
    let files = KeyFiles::new(&home);
    // One that waits already is the same wish.
    let request = files.asked(host).unwrap_or_else(|| Request {
        id: random_uuid(&*host.rng),
    });
    let json = serde_json::to_vec(&request).unwrap_or_default();
    replace(&*host.disk, &files.request(), &json).map_err(|source| RotateError::Io {
        path: files.request(),
        doing: "asking for a rotation",
        source,
    })?;
    let since = Instant::now();
    loop {
        if let Some(outcome) = files.outcome(host, &request.id) {
            return outcome;
        }
        match Agent::open(host, config, state_dir, &Inputs::default()) {
            Ok(mut agent) => {
                agent.rotate_if_asked()?;
                agent.stop()?;
                let outcome = files.outcome(host, &request.id);
                return outcome.unwrap_or(Err(RotateError::Asked));
            }
            Err(AgentError::Seal(SealError::Ledger(LedgerError::Locked { .. }))) => {}
            Err(error) => return Err(error.into()),
        }
        if since.elapsed() >= wait {
            return Err(RotateError::Asked);
        }
        std::thread::sleep(LOOK);
    }
}

impl Agent {
    /// Carries out a rotation that was asked for. What a crash or a full disk interrupted is gone on with.
    pub(crate) fn rotate_if_asked(&mut self) -> Result<(), AgentError> {
        if self.enrolment.key != KeyPlace::Software {
            return Ok(());
        }
        let Some(request) = self.key_files.asked(&self.host) else {
            self.promote();
            return Ok(());
        };
        if self.unsaved.is_some() {
            return Ok(());
        }
        // The power went between the answer and the end of the request.
        if self.key_files.outcome(&self.host, &request.id).is_some() {
            if let Err(error) = self.key_files.done(&self.host) {
                self.problem = Some(format!("an answered rotation is asked for still: {error}"));
            }
            return Ok(());
        }
        if let Some(before) = self.answered_rotation() {
            self.promote_at = before.size;
            self.promote();
            if self.answered_rotation().is_some() {
                self.answer(request, before, Some(Refused::UnderWay));
                return Ok(());
            }
        }
        let origin = self.enrolment.origin.clone();
        let next = match self.key_files.make_next(&self.host, &origin) {
            Ok(next) => next,
            Err(error) => {
                self.problem = Some(format!("the next key could not be made: {error}"));
                return Ok(());
            }
        };
        let key = next.verifier_key().to_string();
        let signs = |signer: &dyn std::fmt::Display| signer.to_string() == key;
        if !signs(self.sealer.key()) && self.sealer.rotating().is_none() {
            // What waits gets a batch of its own: what is refused of it does not hold the rotation up.
            if self.sealer.batch_len() > 0 || self.sealer.batch_filtered() > 0 {
                self.seal_batch()?;
            }
            if self.unsaved.is_some() {
                return Ok(());
            }
            match self.sealer.rotate_to(next) {
                Err(SealError::Rotations) => {
                    self.refuse_one_more(request);
                    return Ok(());
                }
                rotated => drop(rotated?),
            }
        }
        if !signs(self.sealer.key()) {
            self.in_a_hurry = true;
            self.seal()?;
            self.ring();
        }
        // Without room the head is signed later, and the request answered then.
        if signs(self.sealer.key()) {
            let size = self.sealer.head().size;
            self.promote_at = size;
            self.answer(request, Rotated { key, size }, None);
        }
        Ok(())
    }

    /// The log may not be rotated any more; recording goes on.
    fn refuse_one_more(&mut self, request: Request) {
        if let Err(error) = self.key_files.forget_next(&self.host) {
            self.problem = Some(format!(
                "a key that nothing needs could not be removed: {error}"
            ));
        }
        let newest = Rotated {
            key: self.sealer.key().to_string(),
            size: self.sealer.head().size,
        };
        self.answer(request, newest, Some(Refused::TooMany));
    }

    /// The rotation to the key that signs, when a request was answered with it and the old key is here still.
    fn answered_rotation(&self) -> Option<Rotated> {
        let next = self
            .key_files
            .has_next(&self.host, &self.enrolment.origin)?;
        let newest = self.key_files.answered(&self.host)?.newest;
        let signs = self.sealer.key().to_string();
        (newest.key == signs && next.verifier_key().to_string() == signs).then_some(newest)
    }

    fn answer(&mut self, request: Request, newest: Rotated, refused: Option<Refused>) {
        let id = request.id;
        let answer = Answer {
            id,
            newest,
            refused,
        };
        if let Err(error) = self.key_files.answer_to(&self.host, &answer) {
            self.problem = Some(format!("a rotation could not be answered: {error}"));
        }
    }

    /// Wipes the old key once the collector has the last head that it signed.
    fn promote(&mut self) {
        let delivered = self.cursor.size >= self.promote_at;
        if !delivered || self.sealer.rotating().is_some() {
            return;
        }
        let signs = self.sealer.key().to_string();
        let next = self
            .key_files
            .has_next(&self.host, &self.enrolment.origin)
            .filter(|next| next.verifier_key().to_string() == signs);
        if next.is_some()
            && let Err(error) = self.key_files.promote(&self.host)
        {
            // Both keys stay; the next start tries again.
            self.problem = Some(format!("the old key could not be removed: {error}"));
        }
        // Nothing to look for until the next rotation.
        self.promote_at = u64::MAX;
    }
}
