//! The server: its threads, its settings, orderly stop.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use jurat_disk::{Host, read};
use jurat_key::tls::Pin;
use jurat_key::{KeyError, Secret, tls};
use jurat_witness::{LOGS_BYTES_MAX, Listening, Logs, serve};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::admin::Address;
use crate::api::{Api, Room, fail, router};
use crate::clients::Certificates;
use crate::enrol::{EkRoots, Pending};
use crate::gather::{Gatherer, WitnessPolicyError};
use crate::machine::{PolicyFile, PolicyFileError};
use crate::queue::{self, Queue};
use crate::siem::{Progress, Projection};
use crate::tiles::TileStore;
use crate::{Archive, ArchiveError, Settings};

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
    /// The file of foreign logs cannot be used.
    #[error("{path}: the foreign logs: {source}")]
    ForeignLogs {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file of endorsement roots, or of approved endorsement keys, cannot be read.
    #[error("{path}: whom to believe of TPMs")]
    EkRoots {
        /// The file.
        path: PathBuf,
        /// What the disk said.
        #[source]
        source: std::io::Error,
    },
    /// The machine policy cannot be used.
    #[error(transparent)]
    MachinePolicy(#[from] PolicyFileError),
    /// The policy of outside witnesses cannot be used.
    #[error(transparent)]
    Witnesses(#[from] WitnessPolicyError),
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
    /// Its key, for who pins it.
    pub pin: Option<Pin>,
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
        if let Some(path) = &settings.machine_policy {
            archive.accept_machines(PolicyFile::open(&host, path)?);
        }
        writer.say_policy(settings.digest())?;
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
        let foreign = match &settings.foreign_logs {
            Some(path) => read_foreign(&host, path)?,
            None => Logs::default(),
        };
        let ek_roots = EkRoots::open(&host, &settings)?;
        let fingerprint_key =
            Secret::load_or_create(&host, &settings.dir.join("keys/fingerprint.key"))?;
        let read_token = Secret::load_or_create(&host, &settings.dir.join("read.token"))?;
        let certificates = Certificates::open(&host, &settings)?;
        let ask = match certificates {
            Some(_) => tls::Ask::Clients,
            None => tls::Ask::Nobody,
        };
        let tls = tls::server(&settings.certificate, &settings.key, ask)?;
        let pin = tls.pin();
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
        let (failed, mut failure) = watch::channel(None);
        let (queue, inbox) = queue::queue();
        let (siem_bell, siem_rung) = std::sync::mpsc::sync_channel(1);
        let (tiles_bell, tiles_rung) = std::sync::mpsc::sync_channel(1);
        let (stop_gathering, gathering) = tokio::sync::mpsc::channel(1);
        let writing = start("jurat-archive", &failed, move || {
            // Dropped with the writer: then nothing is gathered any more.
            let _gathering = stop_gathering;
            queue::write(writer, &inbox, &[siem_bell, tiles_bell])
        })?;
        let tiles = TileStore::new(
            archive.clone(),
            host.disk.clone(),
            &settings.dir.join("tiles"),
        );
        let tiles = Arc::new(tiles);
        let gatherer = settings.witness_policy.as_deref().map(|path| {
            Gatherer::open(
                &host,
                path,
                settings.witness_ca.as_deref(),
                archive.clone(),
                queue.clone(),
                tiles.clone(),
            )
        });
        let gatherer = gatherer.transpose()?;
        let following = tiles.clone();
        let laying = start("jurat-tiles", &failed, move || {
            following.run(&tiles_rung);
            Ok(())
        })?;
        let mut threads = vec![writing, laying];
        if let Some(gatherer) = gatherer {
            threads.push(start("jurat-gather", &failed, move || {
                gatherer.run(gathering);
                Ok(())
            })?);
        }
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
            ek_roots,
            pending: Pending::default(),
            certificates: certificates.map(Arc::new),
            has_witnesses: settings.witness_policy.is_some(),
            admin_token,
            fingerprint_key,
            domain: settings.domain.clone(),
            room: Room::new(),
            tiles,
            read_token,
            public_logs: settings.public_logs,
            foreign,
            failed,
        };
        let (stop, mut stopped) = watch::channel(false);
        let running = archive.clone();
        let task = tokio::spawn(async move {
            let stop = async {
                let said = tokio::select! {
                    _ = stopped.changed() => Ok(()),
                    _ = failure.changed() => {
                        let why = failure.borrow().clone().unwrap_or_default();
                        Err(ServeError::Stopped(why))
                    }
                };
                running.stop();
                said
            };
            let listening = Listening {
                socket: listener,
                tls: Some(tls),
            };
            let api = Arc::new(api);
            let served = tokio::select! {
                served = serve(listening, router(api.clone()), stop) => served,
                () = follow(&api, &settings) => unreachable!("it goes on for ever"),
            };
            let ended = tokio::task::spawn_blocking(move || end(&queue, threads)).await;
            let ended = ended.unwrap_or_else(|error| Err(ServeError::Stopped(error.to_string())));
            // What ended the server first is why it stopped.
            served.and(ended)
        });
        Ok(Running {
            address,
            pin,
            archive,
            siem: siem_progress,
            stop,
            task,
        })
    }
}

/// Follows the files of settings that may change while the collector runs.
async fn follow(api: &Api, settings: &Settings) {
    match (&api.certificates, &settings.device_ca) {
        (Some(certificates), Some(_)) => certificates.follow(&api.host, settings).await,
        _ => std::future::pending().await,
    }
}

fn read_foreign(host: &Host, path: &Path) -> Result<Logs, ServeError> {
    let bytes =
        read(&*host.disk, path, LOGS_BYTES_MAX).map_err(|source| ServeError::ForeignLogs {
            path: path.to_path_buf(),
            source: source.into(),
        })?;
    Logs::parse(&String::from_utf8_lossy(&bytes)).map_err(|source| ServeError::ForeignLogs {
        path: path.to_path_buf(),
        source: source.into(),
    })
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
