//! Cosignatures of others under the collector's own log: a thread behind the archive that waits for no
//! upload, and for which no upload waits.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jurat_disk::{Host, read};
use jurat_proof::{Digest, Note, POLICY_BYTES_MAX, Policy, PolicyError};
use jurat_witness::{Prover, SubmitError, Submitter, gather};
use tokio::sync::mpsc::Receiver;

use crate::archive::{Archive, Ask};
use crate::queue::Queue;
use crate::tiles::TileStore;

/// How long one request to a witness may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How often the own log is looked at; its head is signed as often.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a head that was gathered for once is left alone, when somebody gave nothing.
const AGAIN: Duration = Duration::from_secs(10);

/// Why a policy of witnesses cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WitnessPolicyError {
    /// The file cannot be read.
    #[error("{path}: reading the witness policy")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the disk said.
        #[source]
        source: std::io::Error,
    },
    /// It is no policy.
    #[error("{path}: {source}")]
    Policy {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: PolicyError,
    },
    /// A witness cannot be submitted to.
    #[error("{path}: {source}")]
    Witness {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: SubmitError,
    },
}

/// Gathers cosignatures.
pub(crate) struct Gatherer {
    archive: Arc<Archive>,
    queue: Queue,
    policy: Policy,
    submitters: Vec<Submitter>,
    prover: Arc<dyn Prover>,
    last: Option<Last>,
}

/// What was gathered for last.
struct Last {
    text: String,
    when: Instant,
    /// Who gave nothing.
    missing: BTreeSet<String>,
}

/// Consistency proofs of the own log from its tiles.
struct OwnLog(Arc<TileStore>);

impl Prover for OwnLog {
    fn consistency(&self, old: u64, new: u64) -> Option<Vec<Digest>> {
        let proof = self.0.own_consistency(old, new);
        proof
            .inspect_err(|error| tracing::warn!(%error, "no consistency proof of the own log"))
            .ok()
    }
}

impl Gatherer {
    /// Reads the policy. Nothing is sent yet.
    ///
    /// # Errors
    /// [`WitnessPolicyError`].
    pub(crate) fn open(
        host: &Host,
        path: &Path,
        ca: Option<&Path>,
        archive: Arc<Archive>,
        queue: Queue,
        tiles: Arc<TileStore>,
    ) -> Result<Self, WitnessPolicyError> {
        let load = |path: &Path| {
            read(&*host.disk, path, POLICY_BYTES_MAX as u64).map_err(|source| {
                WitnessPolicyError::Read {
                    path: path.to_path_buf(),
                    source,
                }
            })
        };
        let (bytes, ca) = (load(path)?, ca.map(load).transpose()?);
        let policy = Policy::parse(&bytes).map_err(|source| WitnessPolicyError::Policy {
            path: path.to_path_buf(),
            source,
        })?;
        let submitters = policy
            .witnesses
            .iter()
            .map(|witness| Submitter::new(witness, LIMIT, ca.as_deref()));
        let submitters: Result<_, _> = submitters.collect();
        Ok(Self {
            archive,
            queue,
            submitters: submitters.map_err(|source| WitnessPolicyError::Witness {
                path: path.to_path_buf(),
                source,
            })?,
            policy,
            prover: Arc::new(OwnLog(tiles)),
            last: None,
        })
    }

    /// Gathers until the other end of `stop` is dropped. Never ends because of what a witness does.
    pub(crate) fn run(mut self, mut stop: Receiver<()>) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                let problems = BTreeMap::from([("runtime".to_owned(), error.to_string())]);
                self.archive.note_witnesses(None, problems);
                return;
            }
        };
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = stop.recv() => return,
                    () = tokio::time::sleep(PAUSE) => {}
                }
                tokio::select! {
                    _ = stop.recv() => return,
                    () = self.round() => {}
                }
            }
        });
    }

    /// Submits the newest checkpoint of the own log when it is another than the last, or somebody gave
    /// nothing a while ago.
    async fn round(&mut self) {
        let Some(note) = self.archive.own_checkpoint() else {
            return;
        };
        let Ok(mut note) = Note::parse(note.as_bytes()) else {
            return;
        };
        let last = self.last.as_ref().filter(|last| last.text == note.text);
        if last.is_some_and(|last| last.missing.is_empty() || last.when.elapsed() < AGAIN) {
            return;
        }
        let is_asked =
            |submitter: &&Submitter| last.is_none_or(|last| last.missing.contains(&submitter.name));
        // Clones: a drop of this future in the middle must not lose them.
        let mut asked: Vec<Submitter> = self.submitters.iter().filter(is_asked).cloned().collect();
        let outcomes = gather(&mut asked, &note, &self.prover).await;
        for asked in asked {
            let kept = self.submitters.iter_mut();
            kept.filter(|kept| kept.name == asked.name)
                .for_each(|kept| *kept = asked.clone());
        }
        let mut problems = BTreeMap::new();
        let mut news = false;
        for (name, outcome) in outcomes {
            match outcome {
                Ok(signature) => {
                    let other = |line: &jurat_proof::Signature| {
                        line.name != signature.name || line.key_id != signature.key_id
                    };
                    note.signatures.retain(other);
                    note.signatures.push(signature);
                    news = true;
                }
                Err(error) => {
                    tracing::warn!(witness = name, %error, "no cosignature");
                    problems.insert(name, error.to_string());
                }
            }
        }
        self.last = Some(Last {
            text: note.text.clone(),
            when: Instant::now(),
            missing: problems.keys().cloned().collect(),
        });
        let holding = self.policy.holds(&note);
        let quorum = holding.is_ok_and(|holding| holding.quorum);
        let size = note.text.lines().nth(1).and_then(|size| size.parse().ok());
        // Durable first; then it may be shown.
        if news
            && self
                .queue
                .ask(Ask::OwnCosigned {
                    note: note.encode(),
                    quorum,
                })
                .await
                .is_err()
        {
            return;
        }
        self.archive
            .note_witnesses(size.filter(|_| quorum), problems);
    }
}
