//! A witness alone: its folder, its logs, its server.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::routing::get;
use jurat_disk::{Host, read};
use jurat_key::{KeyError, tls};
use jurat_ledger::LedgerError;
use jurat_proof::{Digest, VerifierKey};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::server::{Listening, serve};
use crate::{Answer, LOGS_BYTES_MAX, Logs, LogsError, Seen, Store, StoreError, Witness, router};

/// How often the file of logs is looked at.
const RELOAD_S: u64 = 2;
/// The most requests that are judged or wait for the disk.
const JUDGING_MAX: usize = 64;

/// Why a witness cannot be started, or stopped by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The book or the key.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The certificate.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Plain HTTP to the world.
    #[error(
        "{0} is no loopback address: name --certificate and --key, or say --plain-http when a proxy in front \
         speaks TLS"
    )]
    Plain(SocketAddr),
    /// The file of logs cannot be read.
    #[error("{path}: reading the logs")]
    ReadLogs {
        /// The file.
        path: PathBuf,
        /// What the disk said.
        #[source]
        source: std::io::Error,
    },
    /// The file of logs is not one.
    #[error("{path}: {source}")]
    Logs {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: LogsError,
    },
    /// The book failed while the server ran.
    #[error("stopped, because the book failed: {0}")]
    Stopped(String),
}

/// How clients reach it.
#[derive(Clone, Debug)]
pub enum Transport {
    /// HTTPS with this certificate chain and key, PEM.
    Tls {
        /// The chain.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// Plain HTTP, on a loopback address only.
    PlainOnLoopback,
    /// Plain HTTP wherever it listens: a proxy in front speaks TLS.
    PlainBehindProxy,
}

/// Starts a witness inside another program.
pub struct Builder {
    /// Disk, clock, randomness.
    pub host: Host,
    /// Its folder: key and book.
    pub dir: PathBuf,
    /// Its name; needed when the folder is new.
    pub name: Option<String>,
    /// Where it listens.
    pub listen: SocketAddr,
    /// How.
    pub transport: Transport,
    /// Logs that it serves.
    pub logs: Logs,
    /// A file of more logs, read again when it changes.
    pub logs_file: Option<PathBuf>,
}

/// A witness that runs.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    desk: Arc<Desk>,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<Result<(), ServeError>>,
}

struct Desk {
    store: Store,
    logs: Mutex<Arc<Logs>>,
    judging: Semaphore,
    failed: watch::Sender<Option<String>>,
}

impl Builder {
    /// Opens everything and begins to listen.
    ///
    /// # Errors
    /// [`ServeError`] names what cannot be used.
    pub async fn start(self) -> Result<Running, ServeError> {
        let tls = match &self.transport {
            Transport::Tls { certificate, key } => {
                let ask = tls::Ask::Nobody;
                Some(tls::server(certificate, key, ask)?)
            }
            Transport::PlainOnLoopback if !self.listen.ip().is_loopback() => {
                return Err(ServeError::Plain(self.listen));
            }
            Transport::PlainOnLoopback | Transport::PlainBehindProxy => None,
        };
        let file = self.logs_file.clone();
        let read = file.as_deref().map(|path| read_logs(&self.host, path));
        let read = read.transpose()?;
        let logs = read.as_ref().map_or_else(
            || self.logs.clone(),
            |(_, more)| self.logs.clone().with(more),
        );
        let store = Store::open(self.host.clone(), &self.dir, self.name.as_deref())?;
        let listen = |source| ServeError::Listen {
            address: self.listen,
            source,
        };
        let socket = TcpListener::bind(self.listen).await.map_err(listen)?;
        let address = socket.local_addr().map_err(listen)?;
        let (failed, mut failure) = watch::channel(None);
        let desk = Arc::new(Desk {
            store,
            logs: Mutex::new(Arc::new(logs)),
            judging: Semaphore::new(JUDGING_MAX),
            failed,
        });
        let (stop, mut stopped) = watch::channel(false);
        let name = desk.store.verifier_key().to_string();
        let greeting = format!("C2SP tlog-witness\n{name}\n");
        let router = router(desk.clone()).route("/", get(async || greeting));
        let (host, fixed) = (self.host, self.logs);
        let reloading = file
            .zip(read)
            .map(|(path, (bytes, _))| tokio::spawn(reload(desk.clone(), host, path, bytes, fixed)));
        let task = tokio::spawn(async move {
            let stop = async {
                tokio::select! {
                    _ = stopped.changed() => Ok(()),
                    _ = failure.changed() => {
                        let why = failure.borrow().clone().unwrap_or_default();
                        Err(ServeError::Stopped(why))
                    }
                }
            };
            let served = serve(Listening { socket, tls }, router, stop).await;
            if let Some(reloading) = reloading {
                reloading.abort();
            }
            served
        });
        Ok(Running {
            address,
            desk,
            stop,
            task,
        })
    }
}

/// The file's bytes, and the logs in it.
fn read_logs(host: &Host, path: &Path) -> Result<(Vec<u8>, Logs), ServeError> {
    let bytes = read(&*host.disk, path, LOGS_BYTES_MAX).map_err(|source| ServeError::ReadLogs {
        path: path.to_path_buf(),
        source,
    })?;
    let logs =
        Logs::parse(&String::from_utf8_lossy(&bytes)).map_err(|source| ServeError::Logs {
            path: path.to_path_buf(),
            source,
        })?;
    Ok((bytes, logs))
}

/// Takes a changed file over; one that cannot be read leaves things as they are.
async fn reload(desk: Arc<Desk>, host: Host, path: PathBuf, mut bytes: Vec<u8>, fixed: Logs) {
    let mut complained = false;
    loop {
        tokio::time::sleep(Duration::from_secs(RELOAD_S)).await;
        match read_logs(&host, &path) {
            Ok((now, _)) if now == bytes => complained = false,
            Ok((now, more)) => {
                let logs = fixed.clone().with(&more);
                tracing::info!(logs = logs.len(), "the logs were read again");
                *desk.logs.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(logs);
                bytes = now;
                complained = false;
            }
            Err(error) => {
                if !complained {
                    tracing::warn!(%error, "the logs stay as they were");
                }
                complained = true;
            }
        }
    }
}

impl Witness for Desk {
    async fn add_checkpoint(self: Arc<Self>, body: Bytes) -> Answer {
        let Ok(_permit) = self.judging.try_acquire() else {
            return Answer::Unavailable;
        };
        let desk = self.clone();
        // Signatures and disk: not on a thread that serves sockets.
        let judged = tokio::task::spawn_blocking(move || {
            let logs = desk
                .logs
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            desk.store.add_checkpoint(&logs, &body)
        });
        let error = match judged.await {
            Ok(Ok(answer)) => return answer,
            Ok(Err(error)) => {
                tracing::error!(%error, "nothing was cosigned");
                if matches!(error, StoreError::Ledger(LedgerError::Full { .. })) {
                    return Answer::Unavailable;
                }
                error.to_string()
            }
            Err(error) => format!("a bug: {error}"),
        };
        self.failed.send_if_modified(|first| {
            let new = first.is_none();
            first.get_or_insert(error);
            new
        });
        Answer::Unavailable
    }

    fn seen(&self, origin_hash: &Digest) -> Option<Arc<Seen>> {
        self.store.seen_by_hash(origin_hash)
    }
}

impl Running {
    /// The witness's key: what a policy names.
    pub fn verifier_key(&self) -> &VerifierKey {
        self.desk.store.verifier_key()
    }

    /// How many logs it serves now.
    pub fn logs(&self) -> usize {
        self.desk
            .logs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// The logs that contradicted themselves.
    pub fn forked(&self) -> Vec<String> {
        self.desk.store.forked()
    }

    /// Whether it stopped by itself; [`Running::wait`] says why.
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    /// Stops in an orderly way.
    ///
    /// # Errors
    /// What stopped it before, if something did.
    pub async fn stop(self) -> Result<(), ServeError> {
        let _ = self.stop.send(true);
        self.wait().await
    }

    /// Waits until it stops by itself.
    ///
    /// # Errors
    /// Why it did.
    pub async fn wait(self) -> Result<(), ServeError> {
        self.task
            .await
            .unwrap_or_else(|error| Err(ServeError::Stopped(error.to_string())))
    }
}
