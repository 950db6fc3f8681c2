//! The collector: real uploads of the real sealer, over real HTTPS, against the least that any
//! server of this protocol must do with the same bytes.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use jurat_collector::Settings;
use jurat_disk::{Host, RealDisk};
use jurat_key::tls::DeviceCertificate;
use jurat_key::{HeldKey, P256Key, Secret, tls};
use jurat_ledger::Reader;
use jurat_proof::{EntryView, Note, Record, RecordReader, VerifierKey};
use jurat_sink::{Batch, Collector, Identity, SetUp, read_batch};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection, StreamOwned};

use super::{JURAT, Row, bytes_wanted, cpu, fill, usage};

/// Devices that send at the same time.
const DEVICES: usize = 4;
/// Uploads of each device before the measurement begins.
const WARM: usize = 2;
/// Uploads of each device before it is the other's turn.
const TURN: usize = 8;
/// The outbox's kind of a checkpoint.
const CHECKPOINT: u8 = 3;

struct Device {
    id: String,
    token: Secret,
    hmac: Secret,
    key: VerifierKey,
    certificate: DeviceCertificate,
    tls: Arc<dyn HeldKey>,
    uploads: Vec<Batch>,
}

impl Device {
    /// How it opens connections.
    fn client(&self, ca: &[u8]) -> Result<rustls::ClientConfig> {
        let shown = (self.certificate.clone(), self.tls.clone());
        Ok(tls::device(Some(ca), &[], Some(shown))?)
    }

    fn cut(&self, which: &Range<usize>) -> &[Batch] {
        let len = self.uploads.len();
        &self.uploads[which.start.min(len)..which.end.min(len)]
    }
}

pub(super) fn collector(files: &[PathBuf]) -> Result<Vec<Row>> {
    let dir = tempfile::tempdir_in("target")?;
    let home = dir.path().join("collector");
    let host = Host::real();
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let settings = Settings::dev(&host, &home, SocketAddr::from(([127, 0, 0, 1], port)))?;
    let devices = prepare(dir.path(), &settings, files, bytes_wanted(300))?;
    // The same state twice: once without, once with the SIEM file.
    let with_siem = dir.path().join("with-siem");
    copy(&home, &with_siem)?;

    let facts = Facts::of(&devices)?;
    let (used, floor, memory) = serve(&settings, &home, None, &devices)?;
    let siem = dir.path().join("siem.jsonl");
    let (projected, floor_then, _) = serve(&settings, &with_siem, Some(&siem), &devices)?;
    let anew = compress_anew(&devices)?;

    let (ratio, rate) = (used / floor, facts.leaves as f64 / used);
    let each = |seconds: f64| seconds * 1e6 / facts.uploads as f64;
    Ok(vec![
        Row {
            what: "collector: CPU of an upload, HTTPS to cosigned and durable, against TLS, zstd, HMAC, one SHA-256, one signature".into(),
            result: format!(
                "{ratio:.2} ({:.0} us against {:.0} us; {} uploads of {} KB, {} KB compressed, {} leaves each; {memory} MiB peak)",
                each(used),
                each(floor),
                facts.uploads,
                facts.raw / facts.uploads / 1000,
                facts.sent / facts.uploads / 1000,
                facts.leaves / facts.uploads
            ),
            floor: "at most 1.5",
            met: Some(ratio <= 1.5),
        },
        Row {
            what: "collector: events per CPU-second".into(),
            result: format!(
                "{rate:.0} (the least alone: {:.0})",
                facts.leaves as f64 / floor
            ),
            floor: "80,000",
            met: Some(rate >= 80_000.0),
        },
        Row {
            what: "collector: the same with the SIEM file".into(),
            result: format!(
                "{:.2} ({:.0} us against {:.0} us)",
                projected / floor_then,
                each(projected),
                each(floor_then)
            ),
            floor: "-",
            met: None,
        },
        Row {
            what: "collector: what compressing uploads anew, 256 KiB of one session a block, would add".into(),
            result: format!("{:.2} ({:.0} us)", anew / floor, each(anew)),
            floor: "-",
            met: None,
        },
    ])
}

/// How much is sent.
struct Facts {
    uploads: u64,
    leaves: u64,
    raw: u64,
    sent: u64,
}

impl Facts {
    fn of(devices: &[Device]) -> Result<Self> {
        let all = || devices.iter().flat_map(|device| &device.uploads[WARM..]);
        let facts = Self {
            uploads: all().count() as u64,
            leaves: all().map(|batch| batch.to - batch.from).sum(),
            raw: all().map(|batch| batch.raw_len as u64).sum(),
            sent: all().map(|batch| batch.body.len() as u64).sum(),
        };
        ensure!(facts.uploads > 100, "only {} uploads", facts.uploads);
        Ok(facts)
    }
}

fn start(settings: &Settings, home: &Path, siem: Option<&Path>) -> Result<Child> {
    let config = home.join("collector.toml");
    let siem = siem.map_or_else(String::new, |path| format!("siem_file = {path:?}\n"));
    let text = format!(
        "listen = \"{}\"\ndir = {home:?}\ndomain = {:?}\ncertificate = {:?}\nkey = {:?}\ntoken_file = {:?}\n{siem}",
        settings.listen, settings.domain, settings.certificate, settings.key, settings.token_file
    );
    fs::write(&config, text)?;
    let child = Command::new(JURAT)
        .arg("--config")
        .arg(&config)
        .arg("serve")
        .stderr(Stdio::null())
        .spawn()?;
    while TcpStream::connect(settings.listen).is_err() {
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(child)
}

/// Enrols devices, lets the real agent seal sessions while the collector is away, and cuts the
/// outboxes into uploads of one seal each, as a device does that is not behind.
fn prepare(dir: &Path, settings: &Settings, files: &[PathBuf], bytes: u64) -> Result<Vec<Device>> {
    let mut serve = start(settings, &settings.dir, None)?;
    let url = format!("https://localhost:{}", settings.listen.port());
    let ca = settings.dir.join("ca.pem");
    for number in 0..DEVICES {
        let enrolled = Command::new(JURAT)
            .arg("--state-dir")
            .arg(dir.join(format!("device-{number}")))
            .args(["enroll", &url, "--token-file"])
            .arg(&settings.token_file)
            .arg("--ca")
            .arg(&ca)
            .stdout(Stdio::null())
            .status()?;
        ensure!(enrolled.success(), "enrolment failed");
    }
    serve.kill()?;
    serve.wait()?;
    (0..DEVICES)
        .map(|number| {
            let state = dir.join(format!("device-{number}"));
            seal(dir, &state, number, files, bytes / DEVICES as u64)?;
            device(&state)
        })
        .collect()
}

fn seal(dir: &Path, state: &Path, number: usize, files: &[PathBuf], bytes: u64) -> Result<()> {
    let root = dir.join(format!("agent-{number}"));
    fs::create_dir_all(root.join("projects/p"))?;
    let (_, lines) = fill(files, &root.join("projects/p"), bytes)?;
    let config = dir.join(format!("jurat-{number}.toml"));
    let root = fs::canonicalize(root)?;
    let text = format!("[[source]]\nname = \"cc\"\ndir = {root:?}\n[seal]\nbatch_events = 100\n");
    fs::write(&config, text)?;
    let mut agent = Command::new(JURAT)
        .arg("--config")
        .arg(&config)
        .arg("--state-dir")
        .arg(state)
        .arg("run")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let start = Instant::now();
    loop {
        let status = fs::read(state.join("status.json")).unwrap_or_default();
        let status: serde_json::Value = serde_json::from_slice(&status).unwrap_or_default();
        if status["lines_in"].as_u64() == Some(lines) {
            break;
        }
        if start.elapsed() > Duration::from_secs(300) || agent.try_wait()?.is_some() {
            bail!("sealing is stuck at {status}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    agent.kill()?;
    agent.wait()?;
    fs::remove_dir_all(root)?;
    Ok(())
}

fn device(state: &Path) -> Result<Device> {
    let host = Host::real();
    let secret = |name: &str| Secret::load(&host, &state.join("keys").join(name));
    let enrolment: serde_json::Value =
        serde_json::from_slice(&fs::read(state.join("enrolment.json"))?)?;
    let trust = fs::read_to_string(state.join("trust.txt"))?;
    let key = trust
        .lines()
        .find_map(|line| line.strip_prefix("log "))
        .context("the log's key")?;
    let ledger = state.join("ledger");
    let mut seals = Vec::new();
    let mut reader = Reader::open(Arc::new(RealDisk), &ledger, 0)?;
    while let Some(item) = reader.next_record()? {
        if item.kind == CHECKPOINT {
            seals.push(item.next);
        }
    }
    let (mut position, mut size, mut uploads) = (0, 0, Vec::new());
    for end in seals {
        let mut reader = Reader::new(Arc::new(RealDisk), &ledger, position, end)?;
        let batch = read_batch(&mut reader, size, jurat_sink::Take::Many)?
            .context("a seal is an upload")?;
        (position, size) = (end, batch.to);
        uploads.push(batch);
    }
    Ok(Device {
        id: enrolment["device"].as_str().context("no device")?.into(),
        token: secret("token.key")?,
        hmac: secret("hmac.key")?,
        key: VerifierKey::parse(key)?,
        certificate: DeviceCertificate::parse(&fs::read(state.join("keys/tls.pem"))?)?,
        tls: Arc::new(P256Key::new(&secret("tls.key")?)?),
        uploads,
    })
}

/// CPU seconds of a real collector that takes everything, all devices at once, and of the least,
/// in turns, because the machine is not always equally fast; and its peak MiB.
fn serve(
    settings: &Settings,
    home: &Path,
    siem: Option<&Path>,
    devices: &[Device],
) -> Result<(f64, f64, u64)> {
    let mut serve = start(settings, home, siem)?;
    let url = format!("https://localhost:{}", settings.listen.port());
    let ca = fs::read(settings.dir.join("ca.pem"))?;
    let runtime = tokio::runtime::Runtime::new()?;
    // The first uploads find a process that has just started: they are not counted.
    send_all(&runtime, &url, &ca, devices, 0..WARM)?;
    let began = usage(serve.id()).context("the collector is gone")?.0;
    let longest = devices.iter().map(|device| device.uploads.len()).max();
    let mut floor = 0.0;
    for from in (WARM..longest.unwrap_or(0)).step_by(TURN) {
        floor += least(settings, devices, from..from + TURN)?;
        send_all(&runtime, &url, &ca, devices, from..from + TURN)?;
    }
    if let Some(siem) = siem {
        let all = |device: &Device| device.uploads.last().map_or(0, |batch| batch.to);
        let leaves = devices.iter().map(all).sum();
        let start = Instant::now();
        while lines(siem)? < leaves {
            ensure!(
                start.elapsed() < Duration::from_secs(60),
                "the SIEM file stays behind"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    let (ended, memory) = usage(serve.id()).context("the collector is gone")?;
    serve.kill()?;
    serve.wait()?;
    Ok((ended - began, floor, memory))
}

/// All devices at once, each with a connection of its own.
fn send_all(
    runtime: &tokio::runtime::Runtime,
    url: &str,
    ca: &[u8],
    devices: &[Device],
    which: Range<usize>,
) -> Result<()> {
    std::thread::scope(|scope| {
        let sending: Vec<_> = devices
            .iter()
            .map(|device| {
                let uploads = device.cut(&which);
                scope.spawn(move || runtime.block_on(send(url, ca, device, uploads)))
            })
            .collect();
        let sent = sending.into_iter().map(|thread| {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a client panicked"))?
        });
        sent.collect()
    })
}

async fn send(url: &str, ca: &[u8], device: &Device, uploads: &[Batch]) -> Result<()> {
    let collector = Collector::new(SetUp {
        url: url.to_owned(),
        tls: device.client(ca)?,
        timeout: Duration::from_secs(30),
    })?;
    let (host, token) = (Host::real(), device.token.to_base64());
    let who = Identity {
        device: &device.id,
        token: &token,
        key: device.hmac.expose(),
    };
    for batch in uploads {
        let accepted = collector.upload(&host, &who, batch.body.clone()).await?;
        ensure!(accepted.size == batch.to, "not accepted whole");
    }
    Ok(())
}

fn lines(path: &Path) -> Result<u64> {
    Ok(fs::read(path)?.split(|byte| *byte == b'\n').count() as u64 - 1)
}

/// CPU seconds of threads that take the same bodies over TLS, all devices at once as for the
/// collector, and do with each the least that the protocol asks for. No HTTP, no JSON, no tree, no
/// disk, no signature of its own.
fn least(settings: &Settings, devices: &[Device], which: Range<usize>) -> Result<f64> {
    let server = tls::server(&settings.certificate, &settings.key, tls::Ask::Clients)?.config;
    let ca = fs::read(settings.dir.join("ca.pem"))?;
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for device in devices {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let address = listener.local_addr()?;
            let (server, client) = (server.clone(), Arc::new(device.client(&ca)?));
            let uploads = device.cut(&which);
            threads.push(scope.spawn(move || take(&listener, server, device, uploads.len())));
            threads.push(scope.spawn(move || give(address, client, device, uploads)));
        }
        let used = threads.into_iter().map(|thread| {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a thread panicked"))?
        });
        used.sum()
    })
}

/// The client signs as a device does. Its CPU time does not count.
fn give(
    address: SocketAddr,
    client: Arc<rustls::ClientConfig>,
    device: &Device,
    uploads: &[Batch],
) -> Result<f64> {
    let connection = ClientConnection::new(client, ServerName::try_from("localhost")?)?;
    let mut stream = StreamOwned::new(connection, TcpStream::connect(address)?);
    let key = hmac::Key::new(hmac::HMAC_SHA256, device.hmac.expose());
    // What comes before the first byte, the handshake, is not counted.
    stream.write_all(&[1])?;
    for batch in uploads {
        std::hint::black_box(hmac::sign(&key, &batch.body));
        stream.write_all(&(batch.body.len() as u32).to_le_bytes())?;
        stream.write_all(&batch.body)?;
        stream.flush()?;
        stream.read_exact(&mut [0])?;
    }
    Ok(0.0)
}

fn take(
    listener: &TcpListener,
    server: Arc<rustls::ServerConfig>,
    device: &Device,
    uploads: usize,
) -> Result<f64> {
    let (socket, _) = listener.accept()?;
    let mut stream = StreamOwned::new(ServerConnection::new(server)?, socket);
    let key = hmac::Key::new(hmac::HMAC_SHA256, device.hmac.expose());
    let note = last_note(device)?;
    let (mut body, mut raw) = (Vec::new(), Vec::new());
    stream.read_exact(&mut [0])?;
    let begin = cpu();
    for _ in 0..uploads {
        let mut len = [0; 4];
        stream.read_exact(&mut len)?;
        body.resize(u32::from_le_bytes(len) as usize, 0);
        stream.read_exact(&mut body)?;
        std::hint::black_box(hmac::sign(&key, &body));
        raw.clear();
        zstd::stream::read::Decoder::with_buffer(body.as_slice())?.read_to_end(&mut raw)?;
        std::hint::black_box(digest(&SHA256, &raw));
        ensure!(note.is_signed_by(&device.key)?, "the log's own signature");
        stream.write_all(&[1])?;
        stream.flush()?;
    }
    Ok((cpu() - begin).as_secs_f64())
}

fn last_note(device: &Device) -> Result<Note> {
    let batch = device.uploads.last().context("no upload")?;
    let raw = raw(batch)?;
    let note = RecordReader::new(&raw).flatten().last();
    match note {
        Some(Record::Checkpoint(bytes)) => Ok(Note::parse(bytes)?),
        _ => bail!("an upload ends in a checkpoint"),
    }
}

fn raw(batch: &Batch) -> Result<Vec<u8>> {
    let mut raw = Vec::new();
    zstd::stream::read::Decoder::with_buffer(batch.body.as_slice())?.read_to_end(&mut raw)?;
    Ok(raw)
}

/// CPU seconds for sorting the records of each upload by session and compressing each part in
/// blocks of at most 256 KiB; decompressing is not counted, the collector did that.
fn compress_anew(devices: &[Device]) -> Result<f64> {
    let mut used = Duration::ZERO;
    for batch in devices.iter().flat_map(|device| &device.uploads[WARM..]) {
        let raw = raw(batch)?;
        let begin = cpu();
        let mut parts: std::collections::BTreeMap<String, Vec<u8>> = Default::default();
        let mut session = String::new();
        for record in RecordReader::new(&raw) {
            let record = record?;
            if let Record::Entry(entry) = record {
                session = EntryView::parse(entry)?
                    .session
                    .unwrap_or_default()
                    .into_owned();
            }
            jurat_proof::write_record(parts.entry(session.clone()).or_default(), &record);
        }
        for block in parts.values().flat_map(|part| part.chunks(256 * 1024)) {
            std::hint::black_box(zstd::bulk::compress(block, 1)?);
        }
        used += cpu() - begin;
    }
    Ok(used.as_secs_f64())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let target = to.join(path.file_name().context("a name")?);
        if path.is_dir() {
            copy(&path, &target)?;
        } else {
            fs::copy(&path, &target)?;
        }
    }
    Ok(())
}
