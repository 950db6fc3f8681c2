//! The other end: submits a checkpoint to witnesses and collects their cosignatures.

use std::sync::Arc;
use std::time::Duration;

use jurat_key::{KeyError, tls};
use jurat_proof::{
    Checkpoint, Cosignature, Digest, Note, NoteError, PolicyWitness, Signature, VerifierKey,
    decimal,
};
use reqwest::{Client, StatusCode, header};

use crate::Request;
use crate::request::SIZE_TYPE;

/// The most bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How often a checkpoint is sent to one witness: with what is remembered, with what it says, and once
/// more when another client came between.
const ROUNDS: usize = 3;

/// Who has the log, and can prove that it only grew.
pub trait Prover: Send + Sync {
    /// The consistency proof between these sizes, `0 < old < new`; `None` when it cannot be made.
    fn consistency(&self, old: u64, new: u64) -> Option<Vec<Digest>>;
}

/// Why a witness gave no cosignature.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The witness has no URL, or none that can be used.
    #[error("{0}")]
    Url(String),
    /// The TLS configuration cannot be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Not reached, or no answer in time.
    #[error("not reached: {0}")]
    Unreached(String),
    /// What is submitted is no checkpoint.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The log cannot prove its growth from the size that the witness has.
    #[error("no consistency proof from size {0}")]
    NoProof(u64),
    /// The witness has cosigned a larger tree of this log.
    #[error("the witness has cosigned size {0} already")]
    Ahead(u64),
    /// The witness refused for good.
    #[error("refused with {status}: {message}")]
    Refused {
        /// The HTTP status: 409 and 422 mean that the log contradicts what the witness saw.
        status: u16,
        /// The beginning of what it said.
        message: String,
    },
    /// A 200 without a good cosignature by the witness's key.
    #[error("an answer without a good cosignature by {0}")]
    NoCosignature(String),
}

/// One witness, and what it cosigned last.
#[derive(Clone, Debug)]
pub struct Submitter {
    http: Client,
    url: String,
    /// Its name in the policy.
    pub name: String,
    /// Its key.
    pub key: VerifierKey,
    size: u64,
}

impl Submitter {
    /// The witness of a policy. `limit` bounds each request; `ca` are the only certificates believed, when
    /// given.
    ///
    /// # Errors
    /// [`SubmitError::Url`] when the policy names none that can be used, [`SubmitError::Key`].
    pub fn new(
        witness: &PolicyWitness,
        limit: Duration,
        ca: Option<&[u8]>,
    ) -> Result<Self, SubmitError> {
        let name = witness.name().into_owned();
        let url = witness.url.as_deref();
        let url =
            url.ok_or_else(|| SubmitError::Url(format!("the policy has no URL of {name}")))?;
        let http = Client::builder()
            .tls_backend_preconfigured(tls::client(ca)?)
            .timeout(limit)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| SubmitError::Url(error.to_string()))?;
        Ok(Self {
            http,
            url: format!("{}/add-checkpoint", url.trim_end_matches('/')),
            name,
            key: witness.key.clone(),
            size: 0,
        })
    }

    /// Submits a checkpoint of a log and returns the cosignature. A witness that has another size than is
    /// remembered says so, and is sent the proof from there.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub async fn submit(
        &mut self,
        note: &Note,
        prover: &dyn Prover,
    ) -> Result<Signature, SubmitError> {
        let head = Checkpoint::parse_foreign(&note.text)?;
        let mut said = None;
        for _ in 0..ROUNDS {
            let old = self.size.min(head.size);
            let proof = match old {
                0 => Vec::new(),
                old if old == head.size => Vec::new(),
                old => {
                    let proof = prover.consistency(old, head.size);
                    proof.ok_or(SubmitError::NoProof(old))?
                }
            };
            match self.post(Request::encode(old, &proof, note)).await? {
                Said::Cosigned(lines) => {
                    let cosignature = self.pick(note, &lines)?;
                    self.size = head.size;
                    return Ok(cosignature);
                }
                Said::Size(size) => {
                    self.size = size;
                    if size > head.size {
                        return Err(SubmitError::Ahead(size));
                    }
                    said = Some(size);
                }
            }
        }
        Err(SubmitError::Refused {
            status: 409,
            message: format!("its size moves: {}", said.unwrap_or_default()),
        })
    }

    async fn post(&self, body: String) -> Result<Said, SubmitError> {
        let unreached = |error: reqwest::Error| {
            let error: &dyn std::error::Error = &error;
            // What happened stands at the end of the chain.
            let mut text = error.to_string();
            let mut next = error.source();
            while let Some(cause) = next {
                text = format!("{text}: {cause}");
                next = cause.source();
            }
            SubmitError::Unreached(text)
        };
        let request = self.http.post(&self.url);
        let request = request.header(header::CONTENT_TYPE, "text/plain; charset=utf-8");
        let mut answer = request.body(body).send().await.map_err(unreached)?;
        let status = answer.status();
        let has_size = answer
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|found| found.as_bytes() == SIZE_TYPE.as_bytes());
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(unreached)? {
            if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(SubmitError::Unreached("too long an answer".into()));
            }
            bytes.extend_from_slice(&chunk);
        }
        let text = String::from_utf8_lossy(&bytes);
        if status == StatusCode::OK {
            return Ok(Said::Cosigned(text.into_owned()));
        }
        let size = text.strip_suffix('\n').and_then(decimal);
        match size {
            Some(size) if status == StatusCode::CONFLICT && has_size => Ok(Said::Size(size)),
            _ => Err(SubmitError::Refused {
                status: status.as_u16(),
                message: text.trim().chars().take(200).collect(),
            }),
        }
    }

    /// The cosignature by this witness's key; lines of other keys are ignored.
    fn pick(&self, note: &Note, lines: &str) -> Result<Signature, SubmitError> {
        let missing = || SubmitError::NoCosignature(self.key.name.clone());
        let answered = format!("{}\n{lines}", note.text);
        let answered = Note::parse(answered.as_bytes()).map_err(|_| missing())?;
        let found = Cosignature::find(&answered, &self.key).map_err(|_| missing())?;
        //= C2SP tlog-witness: the timestamp MUST NOT be zero
        let found = found.filter(|found| found.time_s > 0).ok_or_else(missing)?;
        // Of several by this key, the newest.
        let mut lines = answered.signatures.into_iter();
        lines
            .find(|line| self.key.made(line) && line.bytes.starts_with(&found.time_s.to_be_bytes()))
            .ok_or_else(missing)
    }
}

enum Said {
    Cosigned(String),
    Size(u64),
}

/// What came of one witness.
pub type Outcome = (String, Result<Signature, SubmitError>);

/// Submits a checkpoint to all witnesses at once and waits for each, at most as long as its own limit. A
/// silent one costs the others nothing.
pub async fn gather(
    submitters: &mut Vec<Submitter>,
    note: &Note,
    prover: &Arc<dyn Prover>,
) -> Vec<Outcome> {
    let mut under_way = Vec::with_capacity(submitters.len());
    for mut submitter in submitters.drain(..) {
        let (note, prover) = (note.clone(), prover.clone());
        let kept = submitter.clone();
        let task = tokio::spawn(async move {
            let outcome = submitter.submit(&note, &*prover).await;
            (submitter, outcome)
        });
        under_way.push((kept, task));
    }
    let mut outcomes = Vec::with_capacity(under_way.len());
    for (kept, task) in under_way {
        let (submitter, outcome) = task.await.unwrap_or_else(|error| {
            let error = SubmitError::Unreached(format!("a bug: {error}"));
            (kept, Err(error))
        });
        outcomes.push((submitter.name.clone(), outcome));
        submitters.push(submitter);
    }
    outcomes
}
