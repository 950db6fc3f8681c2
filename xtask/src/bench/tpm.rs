//! What keys in a TPM cost, with the software TPM of Debian: an enrolment, sealing, and how long a line waits to be sealed
//! behind a TPM that takes 600 ms for each command.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use jurat_testkit::swtpm::{Slow, Swtpm};

use super::{Device, Row, bytes_wanted, sealed_by};

/// Times that each thing is measured, in turns with what it is compared to.
const ROUNDS: usize = 3;
/// Lines whose way is timed, of each kind of key.
const LINES: usize = 40;
/// What each command of the slow TPM takes longer.
const SLOW: Duration = Duration::from_millis(600);

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    times[times.len() / 2]
}

pub(super) fn tpm(corpus: Option<&[PathBuf]>) -> Result<Vec<Row>> {
    // A socket's path is short.
    let short = tempfile::tempdir()?;
    let Some(swtpm) = Swtpm::start("bench", short.path()) else {
        println!("SKIPPED tpm: needs swtpm and swtpm_setup: install swtpm swtpm-tools");
        return Ok(Vec::new());
    };
    let key = format!("tpm:{}", swtpm.address());
    let mut rows = vec![enrolment(&key)?];
    match corpus {
        Some(corpus) => rows.push(sealing(corpus, &key)?),
        None => println!("SKIPPED tpm, sealing: set JURAT_SHARED"),
    }
    rows.push(latency(&swtpm, short.path())?);
    Ok(rows)
}

fn enrolment(key: &str) -> Result<Row> {
    let mut times = Vec::new();
    for _ in 0..5 {
        let (_, took) = Device::enrolled_with("", key)?;
        times.push(took.as_secs_f64());
    }
    let worst = times.iter().copied().fold(0.0, f64::max);
    let middle = median(times);
    Ok(Row {
        what: "enrolment with swtpm, the whole process, to the receipt in the collector's log"
            .into(),
        result: format!("{middle:.2} s in the middle, {worst:.2} s at worst, of 5"),
        floor: "1 s",
        met: Some(worst < 1.0),
    })
}

fn sealing(corpus: &[PathBuf], key: &str) -> Result<Row> {
    let bytes = bytes_wanted(1000) / 3;
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (key, rates) in ["software", key].into_iter().zip(&mut rates) {
            let (device, _) = Device::enrolled_with("", key)?;
            let (_, sealed) = sealed_by(device, corpus, bytes, &|| Ok(0.0))?;
            rates.push(sealed.rate / 1e6);
        }
    }
    let [software, tpm] = rates.map(median);
    let ratio = tpm / software;
    Ok(Row {
        what: "sealing with keys in a TPM, against keys in a file".into(),
        result: format!("{ratio:.2} ({tpm:.0} against {software:.0} MB per CPU-second)"),
        floor: "0.95",
        met: Some(ratio >= 0.95),
    })
}

/// From the write of a line until it is in the ledger, in ms.
fn waits(device: &Device) -> Result<Vec<f64>> {
    let mut child = device.run()?;
    let pid = child.id();
    device.wait(&mut child, &|status| status["pid"] == pid)?;
    let path = device.sessions()?.join("a.jsonl");
    let ledger = device.dir.path().join("device/ledger");
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    let mut times = Vec::new();
    for number in 0..LINES + 5 {
        // At times that have nothing to do with any of the program's own.
        std::thread::sleep(Duration::from_millis(700 + (number as u64 * 137) % 600));
        let mark = format!("the line {number} of this measurement");
        let line = format!(
            "{{\"type\":\"user\",\"uuid\":\"u{number}\",\"message\":{{\"content\":\"{mark}\"}}}}\n"
        );
        let start = Instant::now();
        file.write_all(line.as_bytes())?;
        while !holds(&ledger, mark.as_bytes())? {
            if start.elapsed() > Duration::from_secs(60) {
                bail!("a line was not sealed");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // The first ones find a program that has just started.
        if number >= 5 {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    child.kill()?;
    child.wait()?;
    Ok(times)
}

/// Whether the newest segment holds these bytes: payloads lie there as they were written.
fn holds(ledger: &Path, mark: &[u8]) -> Result<bool> {
    let mut segments = Vec::new();
    for file in fs::read_dir(ledger)? {
        segments.push(file?.path());
    }
    segments.retain(|path| path.extension().is_some_and(|end| end == "jl"));
    segments.sort();
    let Some(newest) = segments.last() else {
        return Ok(false);
    };
    let bytes = fs::read(newest)?;
    Ok(memchr::memmem::find(&bytes, mark).is_some())
}

fn latency(swtpm: &Swtpm, dir: &Path) -> Result<Row> {
    let slow = Slow::before(swtpm, dir, Duration::ZERO);
    let keys = ["software".to_owned(), format!("tpm:{}", slow.address())];
    let mut found = Vec::new();
    for key in keys {
        slow.set(Duration::ZERO);
        // A quote as often as there may be one: the TPM is always busy.
        let (device, _) = Device::enrolled_with("[attest]\nquote = \"each-batch\"", &key)?;
        slow.set(SLOW);
        let times = waits(&device)?;
        let worst = times.iter().copied().fold(0.0, f64::max);
        found.push((median(times), worst));
    }
    let [(software, software_worst), (tpm, tpm_worst)] = found[..] else {
        bail!("two kinds of keys");
    };
    let ratio = tpm / software;
    Ok(Row {
        what: "a line's way into the ledger, keys in a TPM with 600 ms a command, against keys in a file".into(),
        result: format!(
            "{ratio:.2} ({tpm:.0} against {software:.0} ms in the middle, {tpm_worst:.0} against {software_worst:.0} at worst, of {LINES})"
        ),
        floor: "1.05",
        met: Some(ratio <= 1.05),
    })
}
