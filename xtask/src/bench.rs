//! Benchmarks: every row is a ratio to a limit that is measured in the same run.

mod collector;

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
    what: &'static str,
    result: String,
    floor: &'static str,
    met: Option<bool>,
}

/// Runs the rows whose name holds `filter`, prints the table.
pub(crate) fn bench(filter: &str) -> Result<bool> {
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
        rows.push(ledger_reopen()?);
    }
    let corpus = corpus()?;
    if let Some(corpus) = &corpus {
        if wanted("redactor") {
            rows.push(redactor(corpus)?);
        }
        if wanted("pipeline") {
            rows.extend(pipeline(corpus)?);
        }
        if wanted("collector") {
            rows.extend(collector::collector(corpus)?);
        }
    } else {
        println!(
            "SKIPPED redact, pipeline, collector: set JURAT_SHARED to the folder that holds corpus/"
        );
    }
    if wanted("idle") {
        rows.push(idle()?);
    }
    let binary = fs::metadata("target/release/jurat")?.len();
    rows.push(Row {
        what: "binary size (release)",
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
    let (mut ours, mut limit) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..60 {
        let buffer = vec![7_u8; 1000 * 1000];
        let start = Instant::now();
        bare.write_all(&buffer)?;
        bare.sync_data()?;
        limit += start.elapsed();
        let start = Instant::now();
        for _ in 0..1000 {
            group.push(1, &[&record])?;
        }
        ledger.append(&mut group, b"", &mut Vec::new)?;
        ours += start.elapsed();
    }
    let ratio = limit.as_secs_f64() / ours.as_secs_f64();
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
            what: "ledger: committed append, 1 KB x 1,000, against bare write+fdatasync",
            result: format!("{ratio:.2} ({:.0} k records/s)", 60.0 / ours.as_secs_f64()),
            floor: "0.8",
            met: Some(ratio >= 0.8),
        },
        Row {
            what: "ledger: bytes written per byte given, 100 records a commit",
            result: format!("{amplification:.3}"),
            floor: "1.10",
            met: Some(amplification <= 1.10),
        },
    ])
}

fn ledger_reopen() -> Result<Row> {
    let dir = tempfile::tempdir_in("target")?;
    let path = dir.path().join("ledger");
    let host = Host::real();
    let open = || {
        Ledger::open(
            Arc::new(RealDisk),
            host.rng.clone(),
            &path,
            Options::default(),
            b"",
            &mut |_| {},
        )
    };
    let mut ledger = open()?;
    let mut group = Group::new();
    let record = vec![7_u8; 1000];
    for _ in 0..250 {
        for _ in 0..4_000 {
            group.push(1, &[&record])?;
        }
        ledger.append(&mut group, b"", &mut Vec::new)?;
    }
    drop(ledger);
    let start = Instant::now();
    let ledger = open()?;
    let took = start.elapsed();
    anyhow::ensure!(
        ledger.len()? > 1_000_000_000,
        "the backlog is {} bytes",
        ledger.len()?
    );
    Ok(Row {
        what: "ledger: reopening with a 1 GB backlog",
        result: format!("{:.2} s", took.as_secs_f64()),
        floor: "0.5 s",
        met: Some(took < Duration::from_millis(500)),
    })
}

/// CPU time of this thread, so that other work on the machine does not count.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn redactor(files: &[PathBuf]) -> Result<Row> {
    let mut redactor = Redactor::new(Mode::Redact, &[7; 32], &[])?;
    let mut best = f64::MAX;
    let mut bytes = 0;
    for _ in 0..3 {
        bytes = 0;
        let mut took = Duration::ZERO;
        for file in files {
            let content = fs::read(file)?;
            bytes += content.len();
            let lines: Vec<&[u8]> = content
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
                .collect();
            let start = cpu();
            for line in lines {
                std::hint::black_box(redactor.json(line));
            }
            took += cpu() - start;
        }
        best = best.min(took.as_secs_f64());
    }
    let rate = bytes as f64 / 1e6 / best;
    Ok(Row {
        what: "redactor alone, real sessions",
        result: format!("{rate:.0} MB per CPU-second"),
        floor: "100",
        met: Some(rate >= 100.0),
    })
}

/// A child's CPU seconds and peak resident memory in MiB, read while it can still be asked.
fn usage(pid: u32) -> Option<(f64, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks: f64 = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some((
        ticks / 100.0,
        peak.split_whitespace().next()?.parse::<u64>().ok()? / 1024,
    ))
}

/// A device without a collector that answers: sealing alone.
struct Device {
    dir: tempfile::TempDir,
    serve: Option<Child>,
}

const JURAT: &str = "target/release/jurat";

impl Device {
    fn enrolled(config: &str) -> Result<Self> {
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
        let enrolled = Command::new(JURAT)
            .args([
                "--state-dir",
                &path("device"),
                "enroll",
                &format!("https://localhost:{port}"),
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
        Ok(device)
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

/// JSONL to sealed ledger by the real binary, collector away: CPU time against one pass of SHA-256.
fn pipeline(files: &[PathBuf]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let bytes: u64 = std::env::var("JURAT_BENCH_MB")
        .ok()
        .and_then(|mb| mb.parse().ok())
        .unwrap_or(300)
        * 1_000_000;
    for (name, config) in [
        ("custody", "[redact]\nmode = \"custody\""),
        ("redaction", ""),
    ] {
        let mut device = Device::enrolled(config)?;
        device.stop_serve();
        let (total, lines) = fill(files, &device.dir.path().join("agent/projects/p"), bytes)?;
        let mut child = device.run()?;
        let start = Instant::now();
        let mut last = (0.0, 0);
        let mut warm = None;
        while device.status()["lines_in"].as_u64() != Some(lines) {
            if let Some(used) = usage(child.id()) {
                last = used;
                warm.get_or_insert(used.0);
            }
            if start.elapsed() > Duration::from_secs(600) || child.try_wait()?.is_some() {
                bail!("{name}: stuck at {}", device.status());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        last = usage(child.id()).unwrap_or(last);
        child.kill()?;
        child.wait()?;
        let sample: Vec<u8> = fs::read(&files[0])?;
        let (begin, mut hashed) = (cpu(), 0_u64);
        while hashed < 400_000_000 {
            for line in sample.split(|byte| *byte == b'\n') {
                std::hint::black_box(digest(&SHA256, line));
            }
            hashed += sample.len() as u64;
        }
        let sha = hashed as f64 / (cpu() - begin).as_secs_f64();
        let ours = total as f64 / last.0;
        let ratio = ours / sha;
        let result = format!(
            "{ratio:.2} ({:.0} MB per CPU-second; SHA-256 {:.0})",
            ours / 1e6,
            sha / 1e6
        );
        let (what, floor, met) = if name == "custody" {
            (
                "pipeline: JSONL to sealed ledger, custody, against SHA-256 of the same bytes",
                "0.4",
                Some(ratio >= 0.4),
            )
        } else {
            (
                "pipeline: JSONL to sealed ledger, redaction on, against SHA-256 of the same bytes",
                "-",
                None,
            )
        };
        rows.push(Row {
            what,
            result,
            floor,
            met,
        });
        let what = if name == "custody" {
            "pipeline: peak memory, custody"
        } else {
            "pipeline: peak memory, redaction"
        };
        rows.push(Row {
            what,
            result: format!("{} MiB", last.1),
            floor: "64 MiB",
            met: Some(last.1 <= 64),
        });
    }
    Ok(rows)
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
        what: "idle with 2,000 watched files",
        result: format!("{share:.2} % of one core, {} MiB peak", after.1),
        floor: "0.5 %, 32 MiB",
        met: Some(share < 0.5 && after.1 <= 32),
    })
}
