//! Sinks: where events go besides the collector, each on a thread of its own, with its own place in the log.
//!
//! Promise: what is under a signed head is sent, in order; a sink's place moves when its transport says that the declared
//! guarantee holds, and not before. One that is slow, dead or wrong holds up nobody else: not capture, not sealing, not the
//! collector, not another sink. What was removed from the ledger before a sink had it is counted, and sealed as `sink.missed`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jurat_disk::{Host, read, replace};
use jurat_event::{Event, Kind};
use jurat_key::{KeyError, tls};
use jurat_ledger::Reader;
use jurat_sink::format::{Header, StructuredData};
use jurat_sink::project::{Chosen, Cursor, Projector};
use jurat_sink::transport::{
    self, Destination, Relp, SyslogTcp, SyslogUdp, Transport, TransportError,
};
use jurat_sink::{Guarantee, Take, read_seals};

use crate::Input;
use crate::config::{Framing, SinkConfig};
use crate::status::SinkStatus;
use crate::uploader::{Bell, describe};

/// How often a sink looks although nobody rang.
const PAUSE: Duration = Duration::from_secs(1);
/// The pause after a failure, and the longest.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// The longest cursor that is read.
const CURSOR_BYTES_MAX: u64 = 4_096;

/// What a sink says to the loop.
#[derive(Debug)]
pub struct Missed {
    /// The sink.
    pub name: String,
    /// The leaves: from and up to.
    pub leaves: (u64, u64),
}

/// The sinks of an endpoint.
pub(crate) struct Sinks {
    running: Vec<Running>,
    stop: Arc<AtomicBool>,
}

struct Running {
    bell: SyncSender<()>,
    status: Arc<Mutex<SinkStatus>>,
    manifest: Event,
}

impl Drop for Sinks {
    fn drop(&mut self) {
        // A thread that waits for its receiver ends by itself; nothing is lost with it.
        self.stop.store(true, Ordering::Release);
    }
}

impl Sinks {
    /// Starts those that are configured.
    ///
    /// # Errors
    /// [`KeyError`] when a certificate cannot be used, or a thread not be started.
    pub(crate) fn start(
        host: &Host,
        home: &Path,
        origin: &str,
        configs: &[SinkConfig],
        bell: &Arc<Bell>,
        to_agent: &Sender<Input>,
    ) -> Result<Self, KeyError> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut running = Vec::new();
        for config in configs {
            let transport = open(config)?;
            let cursor_path = home.join(format!("cursors/sink-{}.json", config.name));
            let cursor = load(host, &cursor_path);
            let status = SinkStatus {
                name: config.name.clone(),
                to: config.to.clone(),
                guarantee: transport.guarantee(),
                size: cursor.size,
                sent: cursor.sink_seq,
                shed: 0,
                missed: 0,
                problem: None,
            };
            let manifest = manifest(config, transport.guarantee());
            let status = Arc::new(Mutex::new(status));
            let (ring, rung) = sync_channel(1);
            let sink = Sink {
                host: host.clone(),
                name: config.name.clone(),
                ledger: home.join("ledger"),
                projector: projector(config, origin)?,
                transport,
                cursor,
                cursor_path,
                status: status.clone(),
                bell: bell.clone(),
                to_agent: to_agent.clone(),
                stop: stop.clone(),
            };
            std::thread::Builder::new()
                .name(format!("sink-{}", config.name))
                .spawn(move || sink.run(&rung))
                .map_err(|source| KeyError::Io {
                    path: config.name.clone().into(),
                    doing: "starting a sink",
                    source,
                })?;
            running.push(Running {
                bell: ring,
                status,
                manifest,
            });
        }
        Ok(Self { running, stop })
    }

    /// Says that there is more.
    pub(crate) fn ring(&self) {
        for sink in &self.running {
            // One that is rung already looks again in any case.
            let _ = sink.bell.try_send(());
        }
    }

    pub(crate) fn status(&self) -> Vec<SinkStatus> {
        let status = |sink: &Running| {
            let status = sink.status.lock();
            status.unwrap_or_else(PoisonError::into_inner).clone()
        };
        self.running.iter().map(status).collect()
    }

    /// Whether all have sent what is signed.
    pub(crate) fn are_at(&self, signed: u64) -> bool {
        self.status().iter().all(|sink| sink.size >= signed)
    }

    /// What each promises, for the log.
    pub(crate) fn manifests(&mut self) -> Vec<Event> {
        let manifests = self.running.iter().map(|sink| sink.manifest.clone());
        manifests.collect()
    }
}

fn manifest(config: &SinkConfig, guarantee: Guarantee) -> Event {
    let mut event = Event::own(Kind::SinkAttached)
        .detail("name", config.name.as_str())
        .detail("to", config.to.as_str())
        .detail("format", config.format.as_str())
        .detail("guarantee", guarantee.name())
        .detail("bytes_max", config.bytes_max);
    if !config.kinds.is_empty() {
        event = event.detail("kinds", config.kinds.clone());
    }
    if !config.labels.is_empty() {
        event = event.detail("labels", config.labels.clone());
    }
    if let Some(severity) = config.severity {
        event = event.detail("severity", format!("{severity:?}").to_lowercase());
    }
    event
}

fn load(host: &Host, path: &Path) -> Cursor {
    // One that cannot be read sends everything again.
    let bytes = read(&*host.disk, path, CURSOR_BYTES_MAX).ok();
    let cursor = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    cursor.unwrap_or_default()
}

fn invalid(config: &SinkConfig, what: String) -> KeyError {
    KeyError::Held {
        place: format!("sink {}", config.name),
        what,
    }
}

fn projector(config: &SinkConfig, origin: &str) -> Result<Projector, KeyError> {
    let format = config.format.parse();
    let facility = config.facility.parse();
    Ok(Projector {
        origin: origin.to_owned(),
        format: format.map_err(|what| invalid(config, what))?,
        header: Some(Header {
            facility: facility.map_err(|what| invalid(config, what))?,
            hostname: config.hostname.clone().unwrap_or_else(jurat_disk::hostname),
            app_name: config.app_name.clone(),
            structured: StructuredData {
                enterprise: config.enterprise,
            },
        }),
        max_bytes: config.bytes_max,
        chosen: Chosen {
            kinds: config.kinds.clone(),
            severity: config.severity,
            labels: config.labels.clone(),
        },
    })
}

fn open(config: &SinkConfig) -> Result<Box<dyn Transport>, KeyError> {
    let tls = || -> Result<_, KeyError> {
        let ca = config.ca.as_deref().map(|path| {
            std::fs::read(path).map_err(|source| KeyError::Io {
                path: path.to_path_buf(),
                doing: "reading whom a sink believes",
                source,
            })
        });
        let ca = ca.transpose()?;
        let shown = config.certificate.as_deref().zip(config.key.as_deref());
        Ok(Some(Arc::new(tls::sender(ca.as_deref(), shown)?)))
    };
    let framing = match config.framing {
        Framing::OctetCounting => transport::Framing::OctetCounting,
        Framing::Newline => transport::Framing::Newline,
    };
    let destination = config.to.parse();
    Ok(match destination.map_err(|what| invalid(config, what))? {
        Destination::SyslogUdp(peer) => Box::new(SyslogUdp::new(peer)),
        Destination::SyslogTcp(peer) => Box::new(SyslogTcp::new(peer, None, framing)),
        Destination::SyslogTls(peer) => Box::new(SyslogTcp::new(peer, tls()?, framing)),
        Destination::Relp(peer) => Box::new(Relp::new(peer, None)),
        Destination::RelpTls(peer) => Box::new(Relp::new(peer, tls()?)),
    })
}

struct Sink {
    host: Host,
    name: String,
    ledger: PathBuf,
    projector: Projector,
    transport: Box<dyn Transport>,
    cursor: Cursor,
    cursor_path: PathBuf,
    status: Arc<Mutex<SinkStatus>>,
    bell: Arc<Bell>,
    to_agent: Sender<Input>,
    stop: Arc<AtomicBool>,
}

impl Sink {
    fn run(mut self, rung: &Receiver<()>) {
        let mut pause = RETRY;
        while !self.stop.load(Ordering::Acquire) {
            match self.round() {
                Ok(true) => pause = RETRY,
                Ok(false) => {
                    pause = RETRY;
                    if matches!(
                        rung.recv_timeout(PAUSE),
                        Err(RecvTimeoutError::Disconnected)
                    ) {
                        return;
                    }
                }
                Err(what) => {
                    self.note(|status| status.problem = Some(what.clone()));
                    tracing::warn!(sink = self.name, what, "a sink");
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        }
    }

    fn note(&self, change: impl FnOnce(&mut SinkStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Sends the next seals; `false` when there are none.
    fn round(&mut self) -> Result<bool, String> {
        let signed = self.bell.signed.load(Ordering::Acquire);
        let end = self.bell.end.load(Ordering::Acquire);
        if self.cursor.size >= signed {
            return Ok(false);
        }
        let (disk, from) = (self.host.disk.clone(), self.cursor.position);
        let seals = Reader::new(disk, &self.ledger, from, end)
            .map_err(|error| describe(&error))
            .and_then(|mut reader| {
                let seals = read_seals(&mut reader, self.cursor.size, Take::Many);
                seals.map_err(|error| describe(&error))
            })?;
        let Some(seals) = seals else {
            return Ok(false);
        };
        let (projected, after) = self.projector.project(self.cursor, &seals)?;
        let mut sent = 0;
        while sent < projected.messages.len() {
            if self.stop.load(Ordering::Acquire) {
                return Ok(false);
            }
            match self.transport.send(&projected.messages[sent..]) {
                Ok(()) => break,
                // What counts as sent is not sent again, as long as this runs.
                Err(TransportError {
                    sent: more,
                    to,
                    doing,
                    source,
                }) => {
                    sent += more;
                    let what = format!("{to}: {doing}: {source}");
                    self.note(|status| status.problem = Some(what.clone()));
                    tracing::warn!(sink = self.name, what, "a sink");
                    std::thread::sleep(RETRY);
                }
            }
        }
        self.cursor = after;
        let json = serde_json::to_vec(&after).unwrap_or_default();
        // Behind is safe: it is sent again.
        if let Err(error) = replace(&*self.host.disk, &self.cursor_path, &json) {
            tracing::warn!(%error, sink = self.name, "the place of a sink");
        }
        self.note(|status| {
            status.size = after.size;
            status.sent = after.sink_seq;
            status.shed += projected.shed;
            status.missed += projected.missed.map_or(0, |(from, to)| to - from);
            status.problem = None;
        });
        if let Some(leaves) = projected.missed {
            let name = self.name.clone();
            let _ = self.to_agent.send(Input::Missed(Missed { name, leaves }));
        }
        Ok(true)
    }
}
