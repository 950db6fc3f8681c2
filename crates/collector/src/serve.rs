//! The server: TLS, HTTP/1.1 and HTTP/2, orderly stop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use jurat_disk::{Host, read};
use jurat_key::{KeyError, Secret, tls};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::api::{Api, router};
use crate::archive::Shared;
use crate::devices::Devices;
use crate::{Archive, ArchiveError, DeviceError, Settings};

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
    /// The device table failed.
    #[error(transparent)]
    Devices(#[from] DeviceError),
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
    /// The enrolment token cannot be read.
    #[error("{path}: reading the enrolment token")]
    Token {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: std::io::Error,
    },
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
    archive: Shared,
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
        let archive = Archive::open(
            host.clone(),
            &settings.dir,
            &settings.domain,
            settings.siem_file.as_deref(),
            settings.next_upload_s,
        )?;
        let devices = Devices::open(&host, &settings.dir.join("devices.json"))?;
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
        let archive: Shared = Arc::new(Mutex::new(archive));
        let (failed, failure) = watch::channel(None);
        let api = Api {
            host,
            archive: archive.clone(),
            devices: Mutex::new(devices),
            enrol_token: token,
            fingerprint_key,
            domain: settings.domain,
            failed,
        };
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(serve(listener, tls, Arc::new(api), stopped, failure));
        Ok(Running {
            address,
            archive,
            stop,
            task,
        })
    }
}

impl Running {
    /// Looks at the archive while the server runs.
    pub fn with_archive<T>(&self, look: impl FnOnce(&mut Archive) -> T) -> T {
        look(&mut self.archive.lock().unwrap_or_else(PoisonError::into_inner))
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
    let archive = api.archive.clone();
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
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (connected, mut connections) = tokio::sync::mpsc::channel(64);
    let result = loop {
        tokio::select! {
            _ = stopped.changed() => break Ok(()),
            _ = failure.changed() => {
                let why = failure.borrow().clone().unwrap_or_default();
                break Err(ServeError::Stopped(why));
            }
            _ = tick.tick() => {
                let archive = archive.clone();
                let done = tokio::task::spawn_blocking(move || {
                    let mut archive = archive.lock().unwrap_or_else(PoisonError::into_inner);
                    archive.seal_own_log().and_then(|()| archive.project())
                });
                if let Ok(Err(error)) = done.await {
                    break Err(error.into());
                }
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
    let last = tokio::task::spawn_blocking(move || {
        let mut archive = archive.lock().unwrap_or_else(PoisonError::into_inner);
        archive.seal_own_log().and_then(|()| archive.project())
    });
    if let Ok(Err(error)) = last.await
        && result.is_ok()
    {
        return Err(error.into());
    }
    result
}
