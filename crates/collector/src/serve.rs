//! The server: TLS, HTTP/1.1 and HTTP/2, orderly stop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use jurat_disk::{Host, read};
use jurat_key::{KeyError, Secret, tls};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::admin::Address;
use crate::api::{Api, Room, fail, router};
use crate::archive::Ask;
use crate::queue::{self, Queue};
use crate::siem::{Progress, Projection};
use crate::tiles::TileStore;
use crate::{Archive, ArchiveError, Settings};

/// The most connections at a time; the next one waits.
const CONNECTIONS_MAX: usize = 4_096;
/// How long a client may take for its TLS handshake, and for the head of a request.
const HANDSHAKE_S: u64 = 10;

/// Why a collector could not be started, or stopped by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The archive failed.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A key or certificate cannot be used.
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
    /// The file that says where it listens cannot be written.
    #[error("{path}: writing where the collector listens")]
    Address {
        /// The file.
        path: PathBuf,
        /// What the disk said.
        #[source]
        source: std::io::Error,
    },
    /// The enrolment token cannot be read.
    #[error("{path}: reading the enrolment token")]
    Token {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: std::io::Error,
    },
    /// A thread cannot be started.
    #[error("starting a thread")]
    Thread(#[source] std::io::Error),
    /// The SIEM file cannot be written.
    #[error("the SIEM file cannot be written: {0}")]
    Siem(String),
    /// The archive failed while the server ran.
    #[error("stopped, because the archive failed: {0}")]
    Stopped(String),
}

/// Starts a collector inside another program.
pub struct Builder {
    settings: Settings,
    host: Host,
}

/// A collector that runs.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    archive: Arc<Archive>,
    siem: Option<watch::Receiver<Progress>>,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<Result<(), ServeError>>,
}

impl Builder {
    /// A collector with these settings on the real machine.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            host: Host::real(),
        }
    }

    /// Another disk, clock or generator, for tests.
    #[must_use]
    pub fn host(mut self, host: Host) -> Self {
        self.host = host;
        self
    }

    /// Opens everything and begins to listen.
    ///
    /// # Errors
    /// [`ServeError`] names what cannot be used.
    pub async fn start(self) -> Result<Running, ServeError> {
        let Self { settings, host } = self;
        let (archive, mut writer) = Archive::open(
            host.clone(),
            &settings.dir,
            &settings.domain,
            settings.next_upload_s,
            settings.silent_after_s,
        )?;
        writer.commit(vec![Ask::Policy {
            digest: settings.digest(),
        }])?;
        let admin_token = Secret::load_or_create(&host, &settings.dir.join("admin.token"))?;
        let siem = match &settings.siem_file {
            Some(path) => {
                let cursor = settings.dir.join("siem.cursor");
                let (archive, disk) = (archive.clone(), host.disk.clone());
                Some(Projection::open(archive, disk, path, &cursor)?)
            }
            None => None,
        };
        let token = read(&*host.disk, &settings.token_file, 1024)
            .and_then(|bytes| {
                let secret = std::str::from_utf8(&bytes)
                    .ok()
                    .and_then(Secret::from_base64);
                secret.ok_or_else(|| {
                    std::io::Error::other("an enrolment token is 32 random bytes in base64")
                })
            })
            .map_err(|source| ServeError::Token {
                path: settings.token_file.clone(),
                source,
            })?;
        let fingerprint_key =
            Secret::load_or_create(&host, &settings.dir.join("keys/fingerprint.key"))?;
        let read_token = Secret::load_or_create(&host, &settings.dir.join("read.token"))?;
        let tls = TlsAcceptor::from(Arc::new(tls::server(&settings.certificate, &settings.key)?));
        let listener =
            TcpListener::bind(settings.listen)
                .await
                .map_err(|source| ServeError::Listen {
                    address: settings.listen,
                    source,
                })?;
        let address = listener.local_addr().map_err(|source| ServeError::Listen {
            address: settings.listen,
            source,
        })?;
        let at = Address {
            url: format!("https://{address}"),
            domain: settings.domain.clone(),
        };
        at.store(&host, &settings.dir)
            .map_err(|source| ServeError::Address {
                path: settings.dir.join("address"),
                source,
            })?;
        let (failed, failure) = watch::channel(None);
        let (queue, inbox) = queue::queue();
        let (siem_bell, siem_rung) = std::sync::mpsc::sync_channel(1);
        let (tiles_bell, tiles_rung) = std::sync::mpsc::sync_channel(1);
        let writing = start("jurat-archive", &failed, move || {
            queue::write(writer, &inbox, &[siem_bell, tiles_bell])
        })?;
        let tiles = TileStore::new(
            archive.clone(),
            host.disk.clone(),
            &settings.dir.join("tiles"),
        );
        let tiles = Arc::new(tiles);
        let following = tiles.clone();
        let laying = start("jurat-tiles", &failed, move || {
            following.run(&tiles_rung);
            Ok(())
        })?;
        let mut threads = vec![writing, laying];
        let mut siem_progress = None;
        if let Some(siem) = siem {
            let (progress, watched) = watch::channel(Progress::default());
            siem_progress = Some(watched);
            threads.push(start("jurat-siem", &failed, move || {
                siem.run(&siem_rung, &progress)
            })?);
        }
        let api = Api {
            host,
            archive: archive.clone(),
            queue: queue.clone(),
            enrol_token: token,
            admin_token,
            fingerprint_key,
            domain: settings.domain,
            room: Room::new(),
            tiles,
            read_token,
            public_logs: settings.public_logs,
            failed,
        };
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            let served = serve(listener, tls, Arc::new(api), stopped, failure).await;
            let ended = tokio::task::spawn_blocking(move || end(&queue, threads)).await;
            let ended = ended.unwrap_or_else(|error| Err(ServeError::Stopped(error.to_string())));
            // What ended the server first is why it stopped.
            served.and(ended)
        });
        Ok(Running {
            address,
            archive,
            siem: siem_progress,
            stop,
            task,
        })
    }
}

type Thread = thread::JoinHandle<Result<(), ArchiveError>>;

/// Starts a thread whose failure stops the server.
fn start(
    name: &str,
    failed: &watch::Sender<Option<String>>,
    work: impl FnOnce() -> Result<(), ArchiveError> + Send + 'static,
) -> Result<Thread, ServeError> {
    let failed = failed.clone();
    let builder = thread::Builder::new().name(name.to_owned());
    let work = move || {
        let guard = Guard(failed);
        let done = work();
        if let Err(error) = &done {
            tracing::error!(%error, "the archive failed");
            fail(&guard.0, error.to_string());
        }
        done
    };
    builder.spawn(work).map_err(ServeError::Thread)
}

/// Without the writer nothing can be acknowledged: a thread that panics stops the server, too.
struct Guard(watch::Sender<Option<String>>);

impl Drop for Guard {
    fn drop(&mut self) {
        if thread::panicking() {
            fail(&self.0, "a bug: a thread panicked".into());
        }
    }
}

/// Lets the writer end, and then the projection: it hears no bell any more.
fn end(queue: &Queue, threads: Vec<Thread>) -> Result<(), ServeError> {
    queue.stop();
    for thread in threads {
        let done = thread.join();
        done.map_err(|_| ServeError::Stopped("a bug: a thread panicked".into()))??;
    }
    Ok(())
}

impl Running {
    /// Looks at the archive while the server runs.
    pub fn with_archive<T>(&self, look: impl FnOnce(&Archive) -> T) -> T {
        look(&self.archive)
    }

    /// Waits until the SIEM file holds everything that is archived now. At once when there is none.
    ///
    /// # Errors
    /// [`ServeError::Siem`] when the file cannot be written, [`ServeError::Stopped`] when the server
    /// ended meanwhile.
    pub async fn siem_caught_up(&self) -> Result<(), ServeError> {
        let Some(mut siem) = self.siem.clone() else {
            return Ok(());
        };
        let end = self.archive.end();
        let now = siem
            .wait_for(|now| now.position >= end || now.problem.is_some())
            .await
            .map_err(|error| ServeError::Stopped(error.to_string()))?;
        match &now.problem {
            Some(problem) if now.position < end => Err(ServeError::Siem(problem.clone())),
            _ => Ok(()),
        }
    }

    /// Whether the server stopped by itself; [`Running::wait`] says why.
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    /// Stops in an orderly way: no new connection, answers under way are finished (for at most 5 s).
    ///
    /// # Errors
    /// What stopped the server before, if something did.
    pub async fn stop(self) -> Result<(), ServeError> {
        let _ = self.stop.send(true);
        self.wait().await
    }

    /// Waits until the server stops by itself.
    ///
    /// # Errors
    /// Why it did.
    pub async fn wait(self) -> Result<(), ServeError> {
        self.task
            .await
            .unwrap_or_else(|error| Err(ServeError::Stopped(error.to_string())))
    }
}

async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    api: Arc<Api>,
    mut stopped: watch::Receiver<bool>,
    mut failure: watch::Receiver<Option<String>>,
) -> Result<(), ServeError> {
    let router = router(api);
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(HANDSHAKE_S));
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .max_concurrent_streams(64);
    let graceful = hyper_util::server::graceful::GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (connected, mut connections) = tokio::sync::mpsc::channel(64);
    let result = loop {
        tokio::select! {
            _ = stopped.changed() => break Ok(()),
            _ = failure.changed() => {
                let why = failure.borrow().clone().unwrap_or_default();
                break Err(ServeError::Stopped(why));
            }
            (slot, accepted) = async { (slots.clone().acquire_owned().await, listener.accept().await) } => {
                let Ok(slot) = slot else { continue };
                let Ok((socket, _)) = accepted else {
                    // Out of file descriptors or the like: others must end first.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let (tls, connected) = (tls.clone(), connected.clone());
                tokio::spawn(async move {
                    let _ = socket.set_nodelay(true);
                    let handshake = tokio::time::timeout(Duration::from_secs(HANDSHAKE_S), tls.accept(socket));
                    if let Ok(Ok(stream)) = handshake.await {
                        let _ = connected.send((stream, slot)).await;
                    }
                });
            }
            Some((stream, slot)) = connections.recv() => {
                let service = TowerToHyperService::new(router.clone());
                let connection = server.serve_connection(TokioIo::new(stream), service).into_owned();
                let connection = graceful.watch(connection);
                tokio::spawn(async move {
                    let _ = connection.await;
                    drop(slot);
                });
            }
        }
    };
    drop(listener);
    let _ = tokio::time::timeout(Duration::from_secs(5), graceful.shutdown()).await;
    result
}
