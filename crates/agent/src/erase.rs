//! Erasing payloads on this machine: the request, what became of it, and who does it.

use std::path::Path;
use std::time::Duration;

use jurat_disk::Host;
use jurat_event::Ranges;
use jurat_ledger::LedgerError;
use jurat_seal::{SealError, Wanted};
use serde::{Deserialize, Serialize};

use crate::agent::{Agent, AgentError, Inputs};
use crate::config::Config;
use crate::enrol::Enrolment;
use crate::requests::{Answer, Request, RequestError, Requests};

/// What is to be erased, by whom and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EraseRequest {
    /// The payloads of these leaves.
    pub ranges: Ranges,
    /// The payloads of every leaf of these sessions.
    #[serde(default)]
    pub sessions: Vec<String>,
    /// Who wants it.
    pub who: String,
    /// Why.
    pub reason: String,
}

/// What was erased.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erased {
    /// Payloads erased now.
    pub count: u64,
    /// Payloads that were asked for and were gone before.
    pub gone_before: u64,
    /// The leaves whose payloads they were.
    pub ranges: Ranges,
    /// The leaves that say so.
    pub leaves: Vec<u64>,
}

/// Why nothing was erased.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EraseRequestError {
    /// The endpoint could not be opened.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The request could not be left, or nobody answered.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// It was refused.
    #[error("not erased: {0}")]
    Refused(String),
}

/// The longest words of a request, in characters, and the most sessions.
const WORDS_MAX: usize = 500;
const SESSIONS_MAX: usize = 100;

impl EraseRequest {
    /// Whether it can be taken up at all.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        for (name, words) in [("reason", &self.reason), ("who", &self.who)] {
            if words.trim().is_empty() {
                return Err(format!("the {name} is empty"));
            }
            if words.chars().count() > WORDS_MAX || words.chars().any(char::is_control) {
                return Err(format!(
                    "the {name} has more than {WORDS_MAX} characters, or a control character"
                ));
            }
        }
        if self.ranges.is_empty() && self.sessions.is_empty() {
            return Err("no leaf and no session is named".into());
        }
        if self.sessions.len() > SESSIONS_MAX {
            return Err(format!("more than {SESSIONS_MAX} sessions"));
        }
        Ok(())
    }

    pub(crate) fn wanted(&self) -> Wanted {
        Wanted {
            ranges: self.ranges.clone(),
            sessions: self.sessions.clone(),
        }
    }
}

/// Has the endpoint of this folder erase payloads: the one that runs, or, when none does, one that is opened
/// for that alone and reads no source.
///
/// # Errors
/// [`EraseRequestError`]; when nobody answered within `patience`, the request stays.
pub fn erase(
    host: &Host,
    config: &Config,
    state_dir: &Path,
    request: &EraseRequest,
    patience: Duration,
) -> Result<Erased, EraseRequestError> {
    request.check().map_err(EraseRequestError::Refused)?;
    Enrolment::load(host, state_dir).map_err(AgentError::from)?;
    let requests = Requests::new(state_dir);
    let name = requests.leave(host, &Request::Erase(request.clone()))?;
    let answer = requests.wait(host, &name, patience, &mut || {
        do_it_here(host, config, state_dir)
    });
    match answer {
        Ok(Answer::Erased(erased)) => Ok(erased),
        Ok(Answer::Refused { why }) => Err(EraseRequestError::Refused(why)),
        Err(error @ EraseRequestError::Agent(_)) => {
            // Nothing was begun: the endpoint cannot even be opened.
            requests.withdraw(host, &name)?;
            Err(error)
        }
        Err(error) => Err(error),
    }
}

/// Opens the endpoint, which takes up what waits, and stops it. Nothing when another process has it open.
fn do_it_here(host: &Host, config: &Config, state_dir: &Path) -> Result<(), EraseRequestError> {
    match Agent::open(host, config, state_dir, &Inputs::default()) {
        Ok(mut agent) => {
            agent.stop()?;
            Ok(())
        }
        Err(AgentError::Seal(SealError::Ledger(LedgerError::Locked { .. }))) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
