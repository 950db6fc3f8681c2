//! The archive on a disk that is torn at every step.

use std::collections::BTreeMap;

use jurat_disk::FixedClock;
use jurat_proof::{Checkpoint, Record, Trust, Verdict, verify, write_record};
use jurat_testkit::{Fault, Repeatable, SimDisk};
use serde_json::{Value, json};

use super::*;

const ORIGIN: &str = "example.org/jurat/d/0";
const UPLOADS: usize = 5;

/// What a device sends: the same in every run.
fn uploads(key: &SoftwareKey) -> Vec<(u64, Vec<u8>)> {
    let mut frontier = Frontier::default();
    let mut chain = Chain::new(ORIGIN);
    let mut out = Vec::new();
    for number in 0..UPLOADS {
        let mut raw = Vec::new();
        let mut add = |fields: Value| {
            let mut entry = json!({"salt":"c2FsdHNhbHRzYWx0c2FsdA","boot":"b","time":"2026-01-01T00:00:00Z","kind":"other","seq":frontier.size()});
            if frontier.size() == 0 {
                entry["kind"] = "log.opened".into();
                entry["detail"] = json!({ "origin": ORIGIN });
            }
            for (name, value) in fields.as_object().unwrap() {
                entry[name] = value.clone();
            }
            let entry = format!("{{\"v\":1,{}", &entry.to_string()[1..]);
            write_record(&mut raw, &Record::Entry(entry.as_bytes()));
            frontier.push(leaf_hash(entry.as_bytes()));
            chain.push(&leaf_hash(entry.as_bytes()));
            chain.0.to_string()
        };
        let head = add(json!({ "object": "x".repeat(number * 300) }));
        add(json!({ "kind": "batch.sealed", "detail": { "count": 1, "chain": head } }));
        let checkpoint = Checkpoint {
            origin: ORIGIN.into(),
            size: frontier.size(),
            root: frontier.root(),
        };
        let note = checkpoint.sign(key).unwrap().encode();
        write_record(&mut raw, &Record::Checkpoint(note.as_bytes()));
        out.push((frontier.size(), zstd::bulk::compress(&raw, 1).unwrap()));
    }
    out
}

fn key() -> SoftwareKey {
    SoftwareKey::log(&Secret::from_bytes([5; 32]), ORIGIN).unwrap()
}

fn open(disk: &SimDisk) -> Result<Archive, ArchiveError> {
    let host = Host {
        disk: Arc::new(disk.clone()),
        clock: Arc::new(FixedClock::new(1_790_000_000)),
        rng: Arc::new(Repeatable::new(disk.steps() + 1)),
    };
    Archive::open(
        host,
        Path::new("/c"),
        "example.org",
        Some(Path::new("/c/siem.jsonl")),
        10,
    )
}

/// Sends everything that the archive does not hold yet; notes what was answered and signed.
fn work(disk: &SimDisk, seen: &mut Seen) -> Result<(), ArchiveError> {
    let key = key();
    let mut archive = open(disk)?;
    for (size, body) in uploads(&key) {
        if archive.frontier(ORIGIN)?.size >= size {
            continue;
        }
        let nonce = (format!("d/nonce-{size:016}"), 1_790_000_000);
        let accepted = archive.accept(ORIGIN, key.verifier_key(), nonce, &body)?;
        let accepted = accepted.unwrap_or_else(|refused| panic!("{refused:?}"));
        seen.acknowledged = accepted.size;
        seen.note(&accepted.note);
        archive.seal_own_log()?;
        archive.project()?;
    }
    Ok(())
}

/// Everything that ever left the collector with a signature.
#[derive(Default)]
struct Seen {
    acknowledged: u64,
    roots: BTreeMap<(String, u64), Digest>,
}

impl Seen {
    fn note(&mut self, note: &str) {
        let note = Note::parse(note.as_bytes()).unwrap();
        let checkpoint = Checkpoint::parse(&note.text).unwrap();
        let root = self
            .roots
            .entry((checkpoint.origin, checkpoint.size))
            .or_insert(checkpoint.root);
        assert_eq!(
            *root, checkpoint.root,
            "two roots at size {}",
            checkpoint.size
        );
    }

    /// Reads every signed head that is stored.
    fn read(&mut self, archive: &Archive) {
        let mut reader = archive.reader().unwrap();
        while let Some(item) = reader.next_record().unwrap() {
            if matches!(item.kind, kind::NOTE | kind::OWN_CHECKPOINT) {
                self.note(std::str::from_utf8(item.body).unwrap());
            }
        }
    }
}

fn check(disk: &SimDisk, seen: &mut Seen, what: &str) {
    let archive = open(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(
        archive.frontier(ORIGIN).unwrap().size >= seen.acknowledged,
        "{what}: an acknowledged upload is gone"
    );
    seen.read(&archive);
    drop(archive);
    work(disk, seen).unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut archive = open(disk).unwrap();
    archive.project().unwrap();
    seen.read(&archive);
    let [witness, archive_key, _] = archive.verifier_keys();
    let trust = format!(
        "log {}\nwitness w {witness}\narchive a {archive_key}\nquorum 1\n",
        key().verifier_key()
    );
    let mut bundle = Vec::new();
    crate::export(&archive, ORIGIN, &mut bundle).unwrap();
    match verify(
        bundle.as_slice(),
        Some(&Trust::parse(&trust).unwrap()),
        &mut |_| {},
    ) {
        Verdict::Verified(report) => assert!(
            report.axes.complete && report.size == 2 * UPLOADS as u64,
            "{what}"
        ),
        other => panic!("{what}: {other:?}"),
    }
    // The own log's entries give the roots that were signed.
    let mut own = Frontier::default();
    let mut reader = archive.reader().unwrap();
    while let Some(item) = reader.next_record().unwrap() {
        match item.kind {
            kind::OWN_ENTRY => own.push(leaf_hash(item.body)),
            kind::OWN_CHECKPOINT => {
                let note = Note::parse(item.body).unwrap();
                let checkpoint = Checkpoint::parse(&note.text).unwrap();
                assert_eq!(
                    (checkpoint.size, checkpoint.root),
                    (own.size(), own.root()),
                    "{what}: the own log"
                );
            }
            _ => {}
        }
    }
    // Every line once in the SIEM's file.
    let siem = jurat_disk::read(disk, Path::new("/c/siem.jsonl"), 1 << 20).unwrap();
    let lines: Vec<&[u8]> = siem
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .collect();
    assert_eq!(lines.len(), 2 * UPLOADS, "{what}: lines in the SIEM's file");
}

fn steps() -> u64 {
    let disk = SimDisk::new();
    work(&disk, &mut Seen::default()).unwrap();
    disk.steps()
}

#[test]
fn at_any_power_cut_nothing_acknowledged_is_lost_and_no_two_heads_contradict() {
    for step in 0..steps() {
        let disk = SimDisk::new();
        let mut seen = Seen::default();
        disk.fail_at(step, Fault::Crash);
        // A crash inside the SIEM file is no failure of the archive.
        let _ = work(&disk, &mut seen);
        disk.crash(&Repeatable::new(step));
        check(&disk, &mut seen, &format!("power cut at step {step}"));
    }
}

#[test]
fn a_full_disk_or_a_failed_sync_stops_signing_until_the_archive_is_opened_anew() {
    for fault in [
        Fault::Full,
        Fault::FullForGood,
        Fault::SyncError,
        Fault::ReadOnly,
    ] {
        for step in 0..steps() {
            let disk = SimDisk::new();
            let mut seen = Seen::default();
            disk.fail_at(step, fault);
            let _ = work(&disk, &mut seen);
            disk.heal();
            check(&disk, &mut seen, &format!("{fault:?} at step {step}"));
        }
    }
}

#[test]
fn after_a_failed_commit_nothing_is_said_any_more() {
    let disk = SimDisk::new();
    let key = key();
    let mut archive = open(&disk).unwrap();
    let all = uploads(&key);
    let send = |archive: &mut Archive, index: usize| {
        archive.accept(
            ORIGIN,
            key.verifier_key(),
            (format!("d/{index:020}"), 1_790_000_000),
            &all[index].1,
        )
    };
    send(&mut archive, 0).unwrap().unwrap();
    disk.fail_at(disk.steps(), Fault::Full);
    assert!(send(&mut archive, 1).is_err());
    disk.heal();
    assert!(matches!(
        archive.frontier(ORIGIN),
        Err(ArchiveError::Failed)
    ));
    assert!(matches!(archive.seal_own_log(), Err(ArchiveError::Failed)));
    assert!(matches!(send(&mut archive, 1), Err(ArchiveError::Failed)));
    drop(archive);
    check(
        &disk,
        &mut Seen {
            acknowledged: 2,
            ..Seen::default()
        },
        "after it",
    );
}
