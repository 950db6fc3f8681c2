//! Benchmarks: every row is a ratio to a limit that is measured in the same run.

mod collector;
mod hash;
mod peers;
mod quotes;
mod tiles;
mod tpm;
mod verify;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use aws_lc_rs::digest::{SHA256, digest};
use jurat_disk::{Host, RealDisk};
use jurat_ledger::{Group, Ledger, Options};
use jurat_redact::{Mode, Redactor};

struct Row {
    what: String,
    result: String,
    floor: &'static str,
    met: Option<bool>,
}

/// What can be measured.
const NAMES: [&str; 12] = [
    "ledger",
    "hash",
    "tiles",
    "redactor",
    "pipeline",
    "reopen",
    "collector",
    "verify",
    "quotes",
    "tpm",
    "idle",
    "build",
];

/// Runs the rows whose name holds `filter`, prints the table.
pub(crate) fn bench(filter: &str) -> Result<bool> {
    if !NAMES.iter().any(|name| name.contains(filter)) {
        bail!(
            "nothing is called so: {filter}; there is: {}",
            NAMES.join(", ")
        );
    }
    let cargo = Command::new("cargo")
        .args(["build", "--release", "--package", "jurat"])
        .status()?;
    if !cargo.success() {
        bail!("the binary does not build");
    }
    let mut rows = Vec::new();
    let wanted = |name: &str| name.contains(filter);
    if wanted("ledger") {
        rows.extend(ledger_append()?);
    }
    if wanted("hash") {
        rows.push(hash::leaves());
    }
    if wanted("tiles") {
        rows.push(tiles::inclusion()?);
    }
    let corpus = corpus()?;
    if let Some(corpus) = &corpus {
        if wanted("redactor") {
            rows.push(redactor(corpus)?);
        }
        if wanted("pipeline") {
            rows.extend(pipeline(corpus)?);
        }
        if wanted("reopen") {
            rows.push(reopen(corpus)?);
        }
        if wanted("collector") {
            rows.extend(collector::collector(corpus)?);
        }
    } else {
        println!(
            "SKIPPED redactor, pipeline, reopen, collector: set JURAT_SHARED to the folder that holds corpus/"
        );
    }
    if wanted("tpm") {
        rows.extend(tpm::tpm(corpus.as_deref())?);
    }
    if wanted("verify") {
        rows.extend(verify::verify()?);
    }
    if wanted("quotes") {
        rows.push(quotes::judged()?);
    }
    if wanted("idle") {
        rows.push(idle()?);
    }
    if filter == "build" {
        rows.push(build()?);
    }
    let binary = fs::metadata("target/release/jurat")?.len();
    rows.push(Row {
        what: "binary size (release)".into(),
        result: format!("{} MB", binary / 1_000_000),
        floor: "-",
        met: None,
    });
    println!("\n`cargo xtask bench {filter}` on {}\n", machine());
    println!("| what | result | floor | met |\n|---|---|---|---|");
    for row in &rows {
        let met = row.met.map_or("-", |met| if met { "yes" } else { "no" });
        println!("| {} | {} | {} | {met} |", row.what, row.result, row.floor);
    }
    Ok(true)
}

fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or(": unknown");
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!(
        "{cores} cores of{}",
        model.trim_start().trim_start_matches(':')
    )
}

fn corpus() -> Result<Option<Vec<PathBuf>>> {
    let Some(shared) = std::env::var_os("JURAT_SHARED") else {
        return Ok(None);
    };
    let mut files = Vec::new();
    let root = Path::new(&shared).join("corpus/claude-code/projects");
    for project in fs::read_dir(&root).with_context(|| root.display().to_string())? {
        for file in fs::read_dir(project?.path())? {
            files.push(file?.path());
        }
    }
    files.sort();
    Ok(Some(files))
}

/// A committed append against a bare write + fdatasync of the same bytes, in turns.
fn ledger_append() -> Result<Vec<Row>> {
    let dir = tempfile::tempdir_in("target")?;
    let host = Host::real();
    let record = vec![7_u8; 1000];
    let mut ledger = Ledger::open(
        Arc::new(RealDisk),
        host.rng.clone(),
        &dir.path().join("ledger"),
        Options {
            segment_bytes: 1 << 30,
            reserve_bytes: 0,
        },
        b"",
        &mut |_| {},
    )?;
    let mut bare = File::create(dir.path().join("bare"))?;
    let mut group = Group::new();
    let (mut ours, mut limit) = (Vec::new(), Vec::new());
    for _ in 0..200 {
        let buffer = vec![7_u8; 1000 * 1000];
        let start = Instant::now();
        bare.write_all(&buffer)?;
        bare.sync_data()?;
        limit.push(start.elapsed());
        let start = Instant::now();
        for _ in 0..1000 {
            group.push(1, &[&record])?;
        }
        ledger.append(&mut group, b"", &mut Vec::new)?;
        ours.push(start.elapsed());
    }
    // The median: a disk that others use too stalls now and then.
    let median = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64()
    };
    let (ours, limit) = (median(ours), median(limit));
    let ratio = limit / ours;
    let before = ledger.end();
    for _ in 0..50 {
        for _ in 0..100 {
            group.push(1, &[&record])?;
        }
        ledger.append(&mut group, &[0; 100], &mut Vec::new)?;
    }
    let amplification = (ledger.end() - before) as f64 / (50.0 * 100.0 * 1000.0);
    Ok(vec![
        Row {
            what: "ledger: committed append, 1 KB x 1,000, against bare write+fdatasync".into(),
            result: format!(
                "{ratio:.2} ({:.0} us against {:.0} us a group)",
                ours * 1e6,
                limit * 1e6
            ),
            floor: "0.8",
            met: Some(ratio >= 0.8),
        },
        Row {
            what: "ledger: bytes written per byte given, 100 records a commit".into(),
            result: format!("{amplification:.3}"),
            floor: "1.10",
            met: Some(amplification <= 1.10),
        },
    ])
}

/// CPU time of this thread, so that other work on the machine does not count.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Bytes of these sessions that the redactor alone takes in a CPU-second.
fn redactor_rate(files: &[PathBuf]) -> Result<f64> {
    let mut redactor = Redactor::new(Mode::Redact, &[7; 32], &[])?;
    per_cpu_second(files, &mut |content| {
        for line in content.split(|byte| *byte == b'\n') {
            std::hint::black_box(redactor.json(line));
        }
    })
}

/// Bytes of these sessions that one pass of SHA-256 takes in a CPU-second.
fn sha256_rate(files: &[PathBuf]) -> Result<f64> {
    per_cpu_second(files, &mut |content| {
        std::hint::black_box(digest(&SHA256, content));
    })
}

fn per_cpu_second(files: &[PathBuf], take: &mut dyn FnMut(&[u8])) -> Result<f64> {
    let (mut bytes, mut took) = (0, Duration::ZERO);
    // Other work on the machine slows a core down too: several passes make a mean of it.
    for _ in 0..5 {
        for file in files {
            let content = fs::read(file)?;
            let content = content.trim_ascii_end();
            bytes += content.len();
            let start = cpu();
            take(content);
            took += cpu() - start;
        }
    }
    Ok(bytes as f64 / took.as_secs_f64())
}

fn redactor(files: &[PathBuf]) -> Result<Row> {
    let rate = redactor_rate(files)? / 1e6;
    Ok(Row {
        what: "redactor alone, real sessions".into(),
        result: format!("{rate:.0} MB per CPU-second"),
        floor: "100",
        met: Some(rate >= 100.0),
    })
}

/// A child's CPU seconds and peak resident memory in MiB, read while it can still be asked.
fn usage(pid: u32) -> Option<(f64, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let cpu = ticks(&stat, 11)?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some((
        cpu,
        peak.split_whitespace().next()?.parse::<u64>().ok()? / 1024,
    ))
}

/// Two neighbouring fields of a `stat`, user and system time, in seconds.
fn ticks(stat: &str, field: usize) -> Option<f64> {
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let tick = |field: usize| fields.get(field)?.parse::<f64>().ok();
    Some((tick(field)? + tick(field + 1)?) / 100.0)
}

/// A device without a collector that answers: sealing alone.
struct Device {
    dir: tempfile::TempDir,
    serve: Option<Child>,
}

const JURAT: &str = "target/release/jurat";

impl Device {
    fn enrolled(config: &str) -> Result<Self> {
        let (device, _) = Self::enrolled_with(config, "software")?;
        Ok(device)
    }

    /// One with its keys elsewhere; and how long its enrolment took, the whole process.
    fn enrolled_with(config: &str, key: &str) -> Result<(Self, Duration)> {
        let dir = tempfile::tempdir_in("target")?;
        let path = |name: &str| dir.path().join(name).display().to_string();
        fs::create_dir_all(dir.path().join("agent/projects/p"))?;
        let root = fs::canonicalize(dir.path().join("agent"))?;
        fs::write(
            path("jurat.toml"),
            format!("[[source]]\nname = \"cc\"\ndir = {root:?}\n{config}\n"),
        )?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let serve = Command::new(JURAT)
            .args([
                "serve",
                "--dev",
                &path("collector"),
                "--listen",
                &format!("127.0.0.1:{port}"),
            ])
            .stderr(Stdio::null())
            .spawn()?;
        let device = Self {
            serve: Some(serve),
            dir,
        };
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
        let path = |name: &str| device.dir.path().join(name).display().to_string();
        let start = Instant::now();
        let enrolled = Command::new(JURAT)
            .args([
                "--state-dir",
                &path("device"),
                "enroll",
                &format!("https://localhost:{port}"),
                "--key",
                key,
            ])
            .args([
                "--token-file",
                &path("collector/enroll.token"),
                "--ca",
                &path("collector/ca.pem"),
            ])
            .stdout(Stdio::null())
            .status()?;
        anyhow::ensure!(enrolled.success(), "enrolment failed");
        Ok((device, start.elapsed()))
    }

    fn run(&self) -> Result<Child> {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        Ok(Command::new(JURAT)
            .args([
                "--config",
                &path("jurat.toml"),
                "--state-dir",
                &path("device"),
                "run",
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?)
    }

    fn status(&self) -> serde_json::Value {
        let bytes = fs::read(self.dir.path().join("device/status.json")).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Where its sessions are written.
    fn sessions(&self) -> Result<PathBuf> {
        Ok(fs::canonicalize(self.dir.path().join("agent/projects/p"))?)
    }

    /// Waits until the status says so.
    fn wait(&self, child: &mut Child, done: &dyn Fn(&serde_json::Value) -> bool) -> Result<()> {
        let start = Instant::now();
        while !done(&self.status()) {
            if start.elapsed() > Duration::from_secs(900) || child.try_wait()?.is_some() {
                bail!("stuck at {}", self.status());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn stop_serve(&mut self) {
        if let Some(mut child) = self.serve.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.stop_serve();
    }
}

/// Fills a folder with copies of the corpus up to about this many bytes; every record is new.
fn fill(files: &[PathBuf], dir: &Path, bytes: u64) -> Result<(u64, u64)> {
    let (mut total, mut lines, mut round) = (0, 0, 0);
    while total < bytes {
        round += 1;
        for (index, file) in files.iter().enumerate() {
            let text = fs::read_to_string(file)?;
            // Other ids in each copy, or all but the first would be recognised.
            let text = text.replace("\"uuid\":\"", &format!("\"uuid\":\"{round:04}-"));
            let mut out = File::create(dir.join(format!("{round:04}-{index:02}.jsonl")))?;
            out.write_all(text.as_bytes())?;
            if !text.ends_with('\n') {
                out.write_all(b"\n")?;
                total += 1;
            }
            lines += text.lines().filter(|line| !line.is_empty()).count() as u64;
            total += text.len() as u64;
            if total >= bytes {
                break;
            }
        }
    }
    Ok((total, lines))
}

/// JSONL to sealed ledger by the real binary, collector away, the whole process from its start.
fn pipeline(files: &[PathBuf]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let (bytes, limit) = (bytes_wanted(1000), || sha256_rate(files));
    let (_, custody) = sealed("[redact]\nmode = \"custody\"", files, bytes, &limit)?;
    let ratio = custody.rate / custody.limit;
    rows.push(Row {
        what: "pipeline: JSONL to sealed ledger, custody, against one pass of SHA-256".into(),
        result: format!(
            "{ratio:.2} ({:.0} MB per CPU-second; SHA-256 {:.0})",
            custody.rate / 1e6,
            custody.limit / 1e6
        ),
        floor: "0.4",
        met: Some(ratio >= 0.4),
    });
    let limit = || redactor_rate(files);
    let (device, redacted) = sealed("", files, bytes, &limit)?;
    let ratio = redacted.rate / redacted.limit;
    rows.push(Row {
        what: "pipeline: JSONL to sealed ledger, redaction on, against the redactor alone".into(),
        result: format!(
            "{ratio:.2} ({:.0} MB per CPU-second; redactor {:.0})",
            redacted.rate / 1e6,
            redacted.limit / 1e6
        ),
        floor: "0.6",
        met: Some(ratio >= 0.6),
    });
    let input = peers::Input {
        dir: device.sessions()?,
        bytes: redacted.bytes,
        lines: redacted.lines,
    };
    for (what, floor, ran) in [
        (
            "rsyslog imfile to a synced disk queue",
            Some(2.0),
            peers::rsyslog_queue(&input)?,
        ),
        (
            "plain rsyslog, to a file",
            None,
            peers::rsyslog_file(&input)?,
        ),
        ("syslog-ng, to a file", None, peers::syslog_ng_file(&input)?),
    ] {
        let Some(ran) = ran else { continue };
        let ratio = redacted.rate / ran.rate;
        rows.push(Row {
            what: format!("pipeline: {} MB, redaction on, against {what}", input.bytes / 1_000_000),
            result: format!(
                "{ratio:.2} ({:.0} against {:.0} MB per CPU-second, taken over {:.0} MB; {} MiB peak)",
                redacted.rate / 1e6,
                ran.rate / 1e6,
                ran.bytes / 1e6,
                ran.peak_mib
            ),
            floor: floor.map_or("-", |_| "2"),
            met: floor.map(|floor| ratio >= floor),
        });
    }
    for (name, mib) in [
        ("custody", custody.peak_mib),
        ("redaction on", redacted.peak_mib),
    ] {
        rows.push(Row {
            what: format!("pipeline: peak memory, {name}"),
            result: format!("{mib} MiB"),
            floor: "64 MiB",
            met: Some(mib <= 64),
        });
    }
    Ok(rows)
}

/// How much a row works on.
fn bytes_wanted(default_mb: u64) -> u64 {
    let wanted = std::env::var("JURAT_BENCH_MB").ok();
    wanted.and_then(|mb| mb.parse().ok()).unwrap_or(default_mb) * 1_000_000
}

/// A device that has sealed everything.
struct Sealed {
    bytes: u64,
    lines: u64,
    /// Bytes a CPU-second.
    rate: f64,
    /// The same of the limit, measured before and after.
    limit: f64,
    peak_mib: u64,
}

fn sealed(
    config: &str,
    files: &[PathBuf],
    bytes: u64,
    limit: &dyn Fn() -> Result<f64>,
) -> Result<(Device, Sealed)> {
    sealed_by(Device::enrolled(config)?, files, bytes, limit)
}

/// Likewise, by this device.
fn sealed_by(
    mut device: Device,
    files: &[PathBuf],
    bytes: u64,
    limit: &dyn Fn() -> Result<f64>,
) -> Result<(Device, Sealed)> {
    device.stop_serve();
    let (bytes, lines) = fill(files, &device.sessions()?, bytes)?;
    let before = limit()?;
    let mut child = device.run()?;
    device.wait(&mut child, &|status| status["lines_in"] == lines)?;
    // Within this time the last batch is sealed and signed.
    std::thread::sleep(Duration::from_secs(6));
    let (cpu, peak_mib) = usage(child.id()).context("the process is gone")?;
    child.kill()?;
    child.wait()?;
    let sealed = Sealed {
        bytes,
        lines,
        rate: bytes as f64 / cpu,
        limit: f64::midpoint(before, limit()?),
        peak_mib,
    };
    Ok((device, sealed))
}

/// Opening the ledger that a killed process left: by itself, and until the next process is at work.
fn reopen(files: &[PathBuf]) -> Result<Row> {
    let mut device = Device::enrolled("[redact]\nmode = \"custody\"")?;
    device.stop_serve();
    let backlog = bytes_wanted(1000);
    // The entries come on top: the ledger is full before the files are read.
    fill(files, &device.sessions()?, backlog)?;
    let mut child = device.run()?;
    device.wait(&mut child, &|status| {
        status["ledger_bytes"].as_u64() >= Some(backlog)
    })?;
    child.kill()?;
    child.wait()?;
    let host = Host::real();
    let start = Instant::now();
    let ledger = Ledger::open(
        Arc::new(RealDisk),
        host.rng.clone(),
        &device.dir.path().join("device/ledger"),
        Options::default(),
        b"",
        &mut |_| {},
    )?;
    let took = start.elapsed();
    let len = ledger.len()?;
    drop(ledger);
    let start = Instant::now();
    let mut child = device.run()?;
    let pid = child.id();
    device.wait(&mut child, &|status| status["pid"] == pid)?;
    let ready = start.elapsed();
    child.kill()?;
    child.wait()?;
    Ok(Row {
        what: "reopening a ledger after `kill -9` of `jurat run` at work".into(),
        result: format!(
            "{:.2} s with a backlog of {} MB (from the start of the next process to its first status: {:.1} s)",
            took.as_secs_f64(),
            len / 1_000_000,
            ready.as_secs_f64()
        ),
        floor: "0.5 s",
        met: Some(took < Duration::from_millis(500)),
    })
}

/// CPU time of a clean build of the binary. Only when asked for: it takes minutes.
fn build() -> Result<Row> {
    let dir = tempfile::tempdir_in("target")?;
    let before = children()?;
    let built = Command::new("cargo")
        .args(["build", "--release", "--package", "jurat", "--target-dir"])
        .arg(dir.path())
        .status()?;
    anyhow::ensure!(built.success(), "the binary does not build");
    Ok(Row {
        what: "clean release build".into(),
        result: format!("{:.0} CPU-seconds", children()? - before),
        floor: "-",
        met: None,
    })
}

/// CPU seconds of the processes that this one started and waited for, and of theirs.
fn children() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    ticks(&stat, 13).context("/proc/self/stat")
}

/// 2,000 watched files and nothing to do.
fn idle() -> Result<Row> {
    let device = Device::enrolled("")?;
    for index in 0..2_000 {
        let path = device
            .dir
            .path()
            .join(format!("agent/projects/p/{index}.jsonl"));
        fs::write(path, format!("{{\"type\":\"summary\",\"n\":{index}}}\n"))?;
    }
    let mut child = device.run()?;
    while device.status()["queue"]["len"].as_u64() != Some(0)
        || device.status()["files"].as_u64() != Some(2_000)
    {
        std::thread::sleep(Duration::from_millis(100));
    }
    std::thread::sleep(Duration::from_secs(3));
    let before = usage(child.id()).context("the process is gone")?;
    std::thread::sleep(Duration::from_secs(40));
    let after = usage(child.id()).context("the process is gone")?;
    child.kill()?;
    child.wait()?;
    let share = (after.0 - before.0) / 40.0 * 100.0;
    Ok(Row {
        what: "idle with 2,000 watched files".into(),
        result: format!("{share:.2} % of one core, {} MiB peak", after.1),
        floor: "0.5 %, 32 MiB",
        met: Some(share < 0.5 && after.1 <= 32),
    })
}
