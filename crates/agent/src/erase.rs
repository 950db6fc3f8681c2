//! Erasing payloads on this machine: the request, what became of it, and who does it.

use std::path::Path;
use std::time::Duration;

use jurat_disk::Host;
use jurat_event::{EraseRequest, Erased};
use jurat_ledger::LedgerError;
use jurat_seal::SealError;

use crate::agent::{Agent, AgentError, Inputs};
use crate::config::Config;
use crate::enrol::Enrolment;
use crate::requests::{Answer, Request, RequestError, Requests};

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
