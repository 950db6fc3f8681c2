//! A whole bundle verified by the real program, against one pass of SHA-256 over the same bytes.

use std::fs::{self, File};
use std::io::{BufWriter, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aws_lc_rs::digest::{Context as Sha, SHA256};
use jurat_disk::Host;
use jurat_key::{Secret, SoftwareKey};
use jurat_proof::{
    BundleWriter, Chain, Checkpoint, Cosignature, Front, Frontier, Record, Signer as _,
    context_hasher, leaf_hash,
};
use serde_json::json;

use super::{Row, children, cpu, usage};

const ORIGIN: &str = "bench.invalid/jurat/00000000-0000-4000-8000-000000000000/0";
/// A payload of the size that the promise names.
const PAYLOAD_BYTES: usize = 1_000;
/// Leaves of a batch, and so between two cosigned heads.
const BATCH: u64 = 1_000;
const ROUNDS: usize = 3;

pub(super) fn verify() -> Result<Vec<Row>> {
    let events: u64 = match std::env::var("JURAT_BENCH_EVENTS") {
        Ok(text) => text.parse().context("JURAT_BENCH_EVENTS is a number")?,
        Err(_) => 1_000_000,
    };
    let dir = tempfile::tempdir_in("target")?;
    let bundle = dir.path().join("case.jurat");
    write(&bundle, &dir.path().join("trust.txt"), events)?;
    let bytes = fs::metadata(&bundle)?.len() as f64;
    let mut best: Option<(f64, f64, f64)> = None;
    let mut peak = 0;
    for _ in 0..ROUNDS {
        let (took, memory) = run(dir.path(), events)?;
        let hashed = hash(&bundle)?;
        peak = peak.max(memory);
        if best.is_none_or(|(ratio, ..)| hashed / took > ratio) {
            best = Some((hashed / took, took, hashed));
        }
    }
    let (ratio, took, hashed) = best.context("no round")?;
    write_greedy(&bundle, &dir.path().join("trust.txt"))?;
    let (_, greedy) = run(dir.path(), 0)?;
    Ok(vec![
        Row {
            what: format!(
                "verify: a bundle of {events} events of 1 KB, against one pass of SHA-256"
            ),
            result: format!(
                "{ratio:.2} ({:.0} against {:.0} MB per CPU-second over {:.0} MB; {:.0} events per CPU-second)",
                bytes / took / 1e6,
                bytes / hashed / 1e6,
                bytes / 1e6,
                events as f64 / took
            ),
            floor: "0.7",
            met: Some(ratio >= 0.7),
        },
        Row {
            what: "verify: peak memory".into(),
            result: format!("{peak} MiB"),
            floor: "128 MiB",
            met: Some(peak < 128),
        },
        Row {
            what: "verify: peak memory on a bundle that fills all that a verifier remembers".into(),
            result: format!("{greedy} MiB"),
            floor: "128 MiB",
            met: Some(greedy < 128),
        },
    ])
}

/// CPU seconds of `jurat verify`, and its peak memory in MiB.
fn run(dir: &Path, events: u64) -> Result<(f64, u64)> {
    let before = children()?;
    let mut child = Command::new("target/release/jurat")
        .args(["verify", "--json", "--trust"])
        .arg(dir.join("trust.txt"))
        .arg(dir.join("case.jurat"))
        .stdout(Stdio::piped())
        .spawn()?;
    // Somebody reads while it writes: a verdict may be larger than a pipe.
    let mut verdict = child.stdout.take().context("no standard output")?;
    let verdict = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        verdict.read_to_end(&mut bytes).map(|_| bytes)
    });
    // The peak only grows: what was seen last is right but for the last moments.
    let mut peak = 0;
    while child.try_wait()?.is_none() {
        peak = usage(child.id()).map_or(peak, |(_, now)| peak.max(now));
        std::thread::sleep(Duration::from_millis(5));
    }
    let took = children()? - before;
    let verdict = verdict.join().ok().context("reading the verdict")??;
    let verdict: serde_json::Value = serde_json::from_slice(&verdict)?;
    if verdict["verdict"] != "verified" || verdict["payloads"]["here"] != events {
        bail!("the bundle does not verify: {verdict}");
    }
    Ok((took, peak))
}

/// A bundle that fills what a verifier remembers, as far as its limits go: open sessions, boots, kinds and
/// reasons, each with the longest name, runs of missing payloads and ranges of erased ones.
fn write_greedy(path: &Path, trust: &Path) -> Result<()> {
    let log = SoftwareKey::log(&Secret::random(&Host::real()), ORIGIN)?;
    fs::write(trust, format!("log {}\n", log.verifier_key()))?;
    let name = |what: &str, number: u64| format!("{what}{number:0>127}");
    let mut chain = Chain::new(ORIGIN);
    let mut frontier = Frontier::default();
    let mut entries: Vec<Vec<u8>> = Vec::new();
    let mut add = |kind: &str, boot: u64, rest: serde_json::Value, chain: &mut Chain| {
        let seq = entries.len();
        let mut entry = json!({
            "salt": format!("{seq:022}"), "seq": seq, "boot": name("b", boot), "time": "2026-11-01T10:00:00Z", "kind": kind,
        });
        if let (Some(map), serde_json::Value::Object(rest)) = (entry.as_object_mut(), rest) {
            map.extend(rest);
        }
        let entry = format!("{{\"v\":1,{}", &entry.to_string()[1..]).into_bytes();
        let leaf = leaf_hash(&entry);
        chain.push(&leaf);
        frontier.push(leaf);
        entries.push(entry);
    };
    add(
        "log.opened",
        0,
        json!({"detail": {"origin": ORIGIN, "isolation": "separate"}}),
        &mut chain,
    );
    let context = json!({"sha256": "0".repeat(64), "len": 1});
    for number in 0..100_000 {
        let session = name("s", number);
        let said = json!({"session": session, "session_seq": 0, "context": context});
        add(&name("k", number), number, said, &mut chain);
        add("x", number, json!({}), &mut chain);
    }
    for number in 0..1_000 {
        let detail = json!({"count": if number == 0 { 200_001 } else { 0 }, "chain": chain.0.to_string(),
            "filtered": {format!("r{number:0>15000}"): 1}});
        add("batch.sealed", 0, json!({"detail": detail}), &mut chain);
    }
    for number in 0..400_u64 {
        let ranges: Vec<[u64; 2]> = (0..250)
            .map(|at| 2 * (250 * number + at))
            .map(|from| [from + 1, from + 2])
            .collect();
        add(
            "payload.erased",
            0,
            json!({"detail": {"ranges": ranges}}),
            &mut chain,
        );
    }
    let checkpoint = Checkpoint {
        origin: ORIGIN.into(),
        size: frontier.size(),
        root: frontier.root(),
    };
    let head = checkpoint.sign(&log)?.encode();
    let out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut bundle =
        BundleWriter::new(out, &Front::whole(ORIGIN, frontier.size(), head.as_bytes()))?;
    for entry in &entries {
        bundle.record(&Record::Entry(entry))?;
    }
    bundle.finish()?.into_inner()?.sync_all()?;
    Ok(())
}

/// CPU seconds of one pass of SHA-256 over a file.
fn hash(path: &Path) -> Result<f64> {
    let before = cpu();
    let mut file = File::open(path)?;
    let mut sha = Sha::new(&SHA256);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        sha.update(&buffer[..read]);
    }
    std::hint::black_box(sha.finish());
    Ok((cpu() - before).as_secs_f64())
}

fn write(path: &Path, trust: &Path, events: u64) -> Result<()> {
    let host = Host::real();
    let log = SoftwareKey::log(&Secret::random(&host), ORIGIN)?;
    let witness = SoftwareKey::cosigner(&Secret::random(&host), "bench.invalid/jurat/witness")?;
    let archive = SoftwareKey::cosigner(&Secret::random(&host), "bench.invalid/jurat/archive")?;
    let text = format!(
        "log {}\nwitness w {}\narchive a {}\nquorum 1\n",
        log.verifier_key(),
        witness.verifier_key(),
        archive.verifier_key()
    );
    fs::write(trust, text)?;
    // The head stands at the front, so the leaves are made twice, the same both times.
    let mut made = Made::default();
    each(events, &mut |_, leaves| {
        made.push(leaves);
        Ok(())
    })?;
    let sign = |frontier: &Frontier, time: u64| -> Result<String> {
        let checkpoint = Checkpoint {
            origin: ORIGIN.into(),
            size: frontier.size(),
            root: frontier.root(),
        };
        let mut note = checkpoint.sign(&log)?;
        for cosigner in [&witness, &archive] {
            let line = Cosignature::sign(cosigner, time, &note.text)?;
            note.signatures.push(line);
        }
        Ok(note.encode())
    };
    let size = made.frontier.size();
    let head = sign(&made.frontier, 1_790_000_000)?;
    let out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut bundle = BundleWriter::new(out, &Front::whole(ORIGIN, size, head.as_bytes()))?;
    let mut again = Made::default();
    each(events, &mut |payload, leaves| {
        for (entry, salt) in leaves {
            bundle.record(&Record::Entry(entry))?;
            if let Some(salt) = salt {
                bundle.record(&Record::Payload {
                    salt,
                    bytes: payload,
                })?;
            }
        }
        again.push(leaves);
        if again.frontier.size() < size {
            let note = sign(&again.frontier, 1_790_000_000)?;
            bundle.record(&Record::Checkpoint(note.as_bytes()))?;
        }
        Ok(())
    })?;
    bundle.finish()?.into_inner()?.sync_all()?;
    Ok(())
}

#[derive(Default)]
struct Made {
    frontier: Frontier,
}

impl Made {
    fn push(&mut self, leaves: &[Leaf]) {
        for (entry, _) in leaves {
            self.frontier.push(leaf_hash(entry));
        }
    }
}

type Leaf = (Vec<u8>, Option<[u8; 32]>);

/// Gives the leaves batch by batch: entries as the sealer writes them, with one payload for all.
fn each(events: u64, give: &mut dyn FnMut(&[u8], &[Leaf]) -> Result<()>) -> Result<()> {
    let text = "the quick brown fox jumps over the lazy dog ".repeat(PAYLOAD_BYTES / 40);
    let mut payload = json!({ "type": "assistant", "message": text }).to_string();
    payload.truncate(PAYLOAD_BYTES - 2);
    payload.push_str("\"}");
    let payload = payload.into_bytes();
    let mut chain = Chain::new(ORIGIN);
    let mut seq = 0_u64;
    let mut batch: Vec<Leaf> = Vec::new();
    let mut done = 0;
    let mut add = |kind: &str,
                   rest: serde_json::Value,
                   salt: Option<[u8; 32]>,
                   batch: &mut Vec<Leaf>,
                   chain: &mut Chain| {
        let mut entry = json!({
            "salt": format!("{seq:022}"), "seq": seq, "boot": "0123456789abcdef0123456789abcdef",
            "time": "2026-11-01T10:00:00.123456789Z", "mono_us": seq * 1_000, "kind": kind, "severity": "info",
            "witness": "transcript", "actor": {"user": "dev", "uid": 1000, "pid": 4711, "exe": "jurat"},
        });
        if let (Some(map), Some(rest)) = (entry.as_object_mut(), rest.as_object()) {
            map.extend(rest.clone());
        }
        let entry = format!("{{\"v\":1,{}", &entry.to_string()[1..]).into_bytes();
        chain.push(&leaf_hash(&entry));
        batch.push((entry, salt));
        seq += 1;
    };
    add(
        "log.opened",
        json!({"detail": {"origin": ORIGIN, "isolation": "separate"}}),
        None,
        &mut batch,
        &mut chain,
    );
    while done < events {
        let mut salt = [0; 32];
        salt[..8].copy_from_slice(&done.to_le_bytes());
        let mut hasher = context_hasher(&salt);
        hasher.update(&payload);
        let rest = json!({
            "agent": {"product": "claude-code", "version": "2.1.197"},
            "session": "11111111-2222-4333-8444-555555555555", "session_seq": done,
            "action": "Bash", "object": "cargo test --release",
            "source": {"name": "claude-code", "path": "/home/dev/.claude/projects/p/s.jsonl", "offset": done * 1_000, "len": 1_000},
            "context": {"sha256": hasher.finish().to_string(), "len": payload.len(), "redactions": 0},
        });
        add("tool.call", rest, Some(salt), &mut batch, &mut chain);
        done += 1;
        if batch.len() as u64 >= BATCH || done == events {
            let detail = json!({"detail": {
                "count": batch.len(), "chain": chain.0.to_string(), "policy": "p", "filtered": {},
                "isolation": "separate", "custody": false,
            }});
            add("batch.sealed", detail, None, &mut batch, &mut chain);
            give(&payload, &batch)?;
            batch.clear();
        }
    }
    Ok(())
}
