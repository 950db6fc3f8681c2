//! The same files through rsyslog and syslog-ng, the real programs.
//!
//! They keep no proof and redact nothing: what is compared is what durability costs. CPU is that of
//! the whole process, start included, until the last line is through.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::usage;

/// A disk queue that syncs each message takes as long as the disk wants: the rate per CPU-second is
/// taken from what went through by then.
const PATIENCE: Duration = Duration::from_secs(150);
/// Both cut what is longer, at 8 KiB and 64 KiB when nothing is said.
const LINE_BYTES_MAX: u64 = 4 << 20;

/// A peer's run.
pub(super) struct Ran {
    /// Bytes of input a CPU-second.
    pub(super) rate: f64,
    /// How much of the input went through.
    pub(super) bytes: f64,
    pub(super) peak_mib: u64,
}

/// The files that a peer is given.
pub(super) struct Input {
    pub(super) dir: PathBuf,
    pub(super) bytes: u64,
    pub(super) lines: u64,
}

/// Where a Debian package put its program: on the system, or below `JURAT_PEERS`, a folder for
/// `dpkg -x` (apt keeps only one of the two installed).
fn program(name: &str) -> Option<(PathBuf, PathBuf)> {
    let unpacked = std::env::var_os("JURAT_PEERS").map(PathBuf::from);
    let mut roots = vec![PathBuf::from("/")];
    roots.extend(unpacked);
    roots.into_iter().find_map(|root| {
        let program = root.join("usr/sbin").join(name);
        program.exists().then_some((program, root))
    })
}

fn absent(row: &str, package: &str) {
    println!(
        "SKIPPED {row}: install the Debian package {package}, or unpack it with `dpkg -x` into a folder that JURAT_PEERS names"
    );
}

/// rsyslog, imfile into a disk queue that is synced, its target away.
pub(super) fn rsyslog_queue(input: &Input) -> Result<Option<Ran>> {
    // Nothing may leave the queue now: this costs rsyslog less than a target that refuses.
    let hour = Command::new("date").arg("+%H").output()?.stdout;
    let hour: u32 = String::from_utf8_lossy(&hour).trim().parse()?;
    let (begin, end) = ((hour + 6) % 24, (hour + 7) % 24);
    rsyslog(
        "rsyslog, disk queue",
        input,
        &format!(
            "action(type=\"omfwd\" name=\"out\" target=\"127.0.0.1\" port=\"1\" protocol=\"tcp\"
               action.resumeRetryCount=\"-1\" queue.type=\"Disk\" queue.filename=\"out\"
               queue.syncQueueFiles=\"on\" queue.size=\"100000000\" queue.maxDiskSpace=\"100g\"
               queue.dequeueTimeBegin=\"{begin}\" queue.dequeueTimeEnd=\"{end}\")"
        ),
        &|dir| counted(&dir.join("stats"), "out queue", "enqueued") as f64 / input.lines as f64,
    )
}

/// rsyslog, imfile into a file: nothing is synced.
pub(super) fn rsyslog_file(input: &Input) -> Result<Option<Ran>> {
    rsyslog(
        "rsyslog, plain",
        input,
        "action(type=\"omfile\" file=\"{dir}/out\" template=\"raw\")",
        &|dir| written(&dir.join("out"), input),
    )
}

fn rsyslog(
    row: &str,
    input: &Input,
    action: &str,
    through: &dyn Fn(&Path) -> f64,
) -> Result<Option<Ran>> {
    let Some((program, root)) = program("rsyslogd") else {
        absent(row, "rsyslog");
        return Ok(None);
    };
    let dir = tempfile::tempdir_in("target")?;
    let home = fs::canonicalize(dir.path())?.display().to_string();
    let config = format!(
        "global(workDirectory=\"{home}\" maxMessageSize=\"{LINE_BYTES_MAX}\")
         module(load=\"imfile\" mode=\"inotify\")
         module(load=\"impstats\" interval=\"1\" format=\"json\" log.file=\"{home}/stats\" log.syslog=\"off\")
         main_queue(queue.type=\"Direct\")
         template(name=\"raw\" type=\"string\" string=\"%rawmsg%\\n\")
         input(type=\"imfile\" file=\"{}/*.jsonl\" tag=\"cc\" ruleset=\"out\")
         ruleset(name=\"out\") {{ {} }}\n",
        input.dir.display(),
        action.replace("{dir}", &home),
    );
    fs::write(dir.path().join("conf"), config)?;
    let mut command = Command::new(program);
    command
        .args(["-n", "-iNONE", "-f", &format!("{home}/conf"), "-M"])
        .arg(root.join("usr/lib/x86_64-linux-gnu/rsyslog"));
    run(row, command, &root, dir.path(), input, through).map(Some)
}

/// syslog-ng, files into a file: nothing is synced.
pub(super) fn syslog_ng_file(input: &Input) -> Result<Option<Ran>> {
    let Some((program, root)) = program("syslog-ng") else {
        absent("syslog-ng", "syslog-ng-core");
        return Ok(None);
    };
    let dir = tempfile::tempdir_in("target")?;
    let home = fs::canonicalize(dir.path())?.display().to_string();
    let files = fs::read_dir(&input.dir)?.count();
    let config = format!(
        "@version: 3.38
         options {{ log-msg-size({LINE_BYTES_MAX}); stats-freq(0); }};
         source s {{ wildcard-file(base-dir({:?}) filename-pattern(\"*.jsonl\") flags(no-parse)
           monitor-method(\"inotify\") max-files({files}) log-fetch-limit(100) log-iw-size({})); }};
         destination d {{ file(\"{home}/out\" template(\"${{MESSAGE}}\\n\")); }};
         log {{ source(s); destination(d); flags(flow-control); }};\n",
        input.dir.display().to_string(),
        files * 100,
    );
    fs::write(dir.path().join("conf"), config)?;
    let mut command = Command::new(program);
    command
        .args(["-F", "--no-caps", "-f", &format!("{home}/conf")])
        .args([
            "-R",
            &format!("{home}/persist"),
            "-c",
            &format!("{home}/ctl"),
        ])
        .args(["-p", &format!("{home}/pid")]);
    if root != Path::new("/") {
        command
            .arg("--module-path")
            .arg(root.join("usr/lib/syslog-ng/3.38"));
    }
    run("syslog-ng", command, &root, dir.path(), input, &|dir| {
        written(&dir.join("out"), input)
    })
    .map(Some)
}

/// Runs a peer until all of its input, or what it manages in time, is through.
fn run(
    row: &str,
    mut command: Command,
    root: &Path,
    dir: &Path,
    input: &Input,
    through: &dyn Fn(&Path) -> f64,
) -> Result<Ran> {
    let libraries = [
        "usr/lib/x86_64-linux-gnu",
        "usr/lib/syslog-ng",
        "lib/x86_64-linux-gnu",
    ];
    if root != Path::new("/") {
        let libraries = libraries.map(|lib| root.join(lib).display().to_string());
        command.env("LD_LIBRARY_PATH", libraries.join(":"));
    }
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| row.to_owned())?;
    let began = Instant::now();
    let (share, used) = loop {
        std::thread::sleep(Duration::from_millis(100));
        if let Some(ended) = child.try_wait()? {
            bail!("{row} ended by itself: {ended}");
        }
        let share = through(dir);
        let used = usage(child.id());
        if share >= 1.0 || began.elapsed() > PATIENCE {
            break (share.min(1.0), used);
        }
    };
    child.kill()?;
    child.wait()?;
    let (cpu, peak_mib) = used.with_context(|| format!("{row} is gone"))?;
    if share == 0.0 {
        bail!("{row}: nothing went through");
    }
    let bytes = share * input.bytes as f64;
    Ok(Ran {
        rate: bytes / cpu,
        bytes,
        peak_mib,
    })
}

fn written(out: &Path, input: &Input) -> f64 {
    fs::metadata(out).map_or(0, |out| out.len()) as f64 / input.bytes as f64
}

/// The last value of one of rsyslog's own counters.
fn counted(stats: &Path, name: &str, counter: &str) -> u64 {
    let text = fs::read_to_string(stats).unwrap_or_default();
    text.lines()
        .rev()
        .filter_map(|line| line.get(line.find('{')?..))
        .filter_map(|json| serde_json::from_str::<serde_json::Value>(json).ok())
        .find(|value| value["name"] == name)
        .and_then(|value| value[counter].as_u64())
        .unwrap_or(0)
}
