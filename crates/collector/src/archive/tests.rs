//! The archive on a disk that is torn at every step.

mod life;

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jurat_disk::FixedClock;
use jurat_proof::{
    Checkpoint, Selection, Trust, Verdict, Withhold, leaf_hash, verify, write_record,
};
use jurat_sink::Enrolment;
use jurat_testkit::{Fault, Repeatable, SimDisk};
use serde_json::{Value, json};

use super::*;
use crate::siem::Projection;

mod erase;
mod witnessing;

pub(crate) const ORIGIN: &str = "example.org/jurat/d/0";
const UPLOADS: usize = 5;

/// What a device sends: the same in every run.
fn uploads(key: &SoftwareKey) -> Vec<(u64, Vec<u8>)> {
    uploads_of(ORIGIN, key, 1)
}

/// Likewise of another log, with this many entries and a `batch.sealed` in each upload.
pub(crate) fn uploads_of(origin: &str, key: &SoftwareKey, entries: usize) -> Vec<(u64, Vec<u8>)> {
    let mut frontier = Frontier::default();
    let mut chain = Chain::new(origin);
    let mut out = Vec::new();
    for number in 0..UPLOADS {
        let mut raw = Vec::new();
        let mut add = |fields: Value| {
            let mut entry = json!({"salt":"c2FsdHNhbHRzYWx0c2FsdA","boot":"b","time":"2026-01-01T00:00:00Z","kind":"other","seq":frontier.size()});
            if frontier.size() == 0 {
                entry["kind"] = "log.opened".into();
                entry["detail"] = json!({ "origin": origin });
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
        let mut head = String::new();
        for _ in 0..entries {
            head = add(json!({ "object": "x".repeat(number * 300) }));
        }
        add(json!({ "kind": "batch.sealed", "detail": { "count": entries, "chain": head } }));
        let checkpoint = Checkpoint {
            origin: origin.into(),
            size: frontier.size(),
            root: frontier.root(),
        };
        let note = checkpoint.sign(key).unwrap().encode();
        write_record(&mut raw, &Record::Checkpoint(note.as_bytes()));
        out.push((frontier.size(), zstd::bulk::compress(&raw, 1).unwrap()));
    }
    out
}

pub(crate) fn key() -> SoftwareKey {
    SoftwareKey::log(&Secret::from_bytes([5; 32]), ORIGIN).unwrap()
}

/// A collector without its threads: each does its work when it is told to.
struct Open {
    archive: Arc<Archive>,
    writer: Writer,
    siem: Projection,
}

fn open(disk: &SimDisk) -> Result<Open, ArchiveError> {
    let host = host(disk);
    let (archive, writer) = Archive::open(host.clone(), Path::new("/c"), "example.org", 10, 0)?;
    let siem = Projection::open(
        archive.clone(),
        host.disk,
        Path::new("/c/siem.jsonl"),
        Path::new("/c/siem.cursor"),
    )?;
    Ok(Open {
        archive,
        writer,
        siem,
    })
}

pub(crate) fn host(disk: &SimDisk) -> Host {
    Host {
        disk: Arc::new(disk.clone()),
        clock: Arc::new(FixedClock::new(1_790_000_000)),
        rng: Arc::new(Repeatable::new(disk.steps() + 1)),
    }
}

impl Open {
    fn judge(&self, index: usize) -> Result<Judgement, ArchiveError> {
        let key = key();
        let body = Bytes::from(uploads(&key)[index].1.clone());
        let nonce = (format!("d/nonce-{index:016}"), 1_790_000_000);
        self.archive
            .judge(ORIGIN, key.verifier_key(), &nonce, &body)
    }

    fn accept(&mut self, index: usize) -> Result<Accepted, ArchiveError> {
        match self.judge(index)? {
            Judgement::Answer(answer) => Ok(answer.unwrap()),
            Judgement::Store(ask) => match self.writer.commit(vec![ask])?.pop() {
                Some(Done::Accepted(accepted)) => Ok(accepted),
                _ => panic!("not accepted"),
            },
        }
    }

    fn enrol(&mut self, id: &str) -> Result<Done, ArchiveError> {
        let ask = Ask::Enrol(Box::new(device(&self.archive.host, id)));
        Ok(self.writer.commit(vec![ask])?.pop().unwrap())
    }
}

fn device(host: &Host, id: &str) -> Device {
    let enrolment = Enrolment {
        device: id.into(),
        key: BASE64.encode(key().public_key()),
        key_kind: "software".into(),
        hostname: Some("host".into()),
        ..Enrolment::default()
    };
    Device::new(host, "example.org", &enrolment, [4; 65], None, 0)
        .unwrap()
        .0
}

const DEVICES: [&str; 2] = [
    "11111111-2222-4333-8444-555555555555",
    "21111111-2222-4333-8444-555555555555",
];

/// Enrols and sends everything that the archive does not hold yet; notes what was answered.
fn work(disk: &SimDisk, seen: &mut Seen) -> Result<(), ArchiveError> {
    let mut open = open(disk)?;
    for id in DEVICES {
        if open.archive.device(id).is_none() {
            assert!(matches!(open.enrol(id)?, Done::Enrolled));
        }
        seen.enrolled.insert(id);
    }
    for (index, (size, _)) in uploads(&key()).into_iter().enumerate() {
        if open.archive.frontier(ORIGIN)?.size >= size {
            continue;
        }
        let accepted = open.accept(index)?;
        seen.acknowledged = accepted.size;
        seen.note(&accepted.note);
        open.writer.seal_own_log()?;
        open.siem.round()?;
    }
    Ok(())
}

/// Everything that ever left the collector with a signature.
#[derive(Default)]
struct Seen {
    acknowledged: u64,
    enrolled: BTreeSet<&'static str>,
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
        let mut reader = archive.reader(0, archive.end()).unwrap();
        while let Some(item) = reader.next_record().unwrap() {
            if matches!(item.kind, kind::NOTE | kind::OWN_CHECKPOINT) {
                self.note(std::str::from_utf8(item.body).unwrap());
            }
        }
    }
}

fn check(disk: &SimDisk, seen: &mut Seen, what: &str) {
    let opened = open(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    let archive = &opened.archive;
    for id in &seen.enrolled {
        assert!(archive.device(id).is_some(), "{what}: {id} is gone");
    }
    assert!(
        archive.frontier(ORIGIN).unwrap().size >= seen.acknowledged,
        "{what}: an acknowledged upload is gone"
    );
    seen.read(archive);
    drop(opened);
    work(disk, seen).unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut opened = open(disk).unwrap();
    opened.siem.round().unwrap();
    let archive = &*opened.archive;
    seen.read(archive);
    let [witness, archive_key, _] = archive.verifier_keys();
    let trust = format!(
        "log {}\nwitness w {witness}\narchive a {archive_key}\nquorum 1\n",
        key().verifier_key()
    );
    let mut bundle = Vec::new();
    crate::export(
        archive,
        ORIGIN,
        &Selection::All,
        &Withhold::default(),
        &mut bundle,
    )
    .unwrap();
    match verify(
        bundle.as_slice(),
        Some(&Trust::parse(&trust).unwrap()),
        None,
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
    let mut enrolled = Vec::new();
    let mut reader = archive.reader(0, archive.end()).unwrap();
    while let Some(item) = reader.next_record().unwrap() {
        match item.kind {
            kind::OWN_ENTRY => {
                own.push(leaf_hash(item.body));
                let entry: Value = serde_json::from_slice(item.body).unwrap();
                if entry["kind"] == "device.enrolled" {
                    enrolled.push(entry["detail"]["origin"].as_str().unwrap().to_owned());
                }
            }
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
    // Every device once, in the table and in the own log.
    let origins = DEVICES.map(|id| format!("example.org/jurat/{id}/0"));
    assert_eq!(enrolled, origins, "{what}: enrolments in the own log");
    assert_eq!(archive.stats().devices, 2, "{what}");
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
    let mut opened = open(&disk).unwrap();
    opened.accept(0).unwrap();
    // Judged before the failure, and still without effect.
    let Judgement::Store(ask) = opened.judge(1).unwrap() else {
        panic!()
    };
    disk.fail_at(disk.steps(), Fault::Full);
    assert!(opened.accept(1).is_err());
    disk.heal();
    assert!(matches!(
        opened.archive.frontier(ORIGIN),
        Err(ArchiveError::Failed)
    ));
    let failed = |done: Result<(), ArchiveError>| {
        assert!(matches!(done, Err(ArchiveError::Failed)), "{done:?}");
    };
    failed(opened.writer.seal_own_log());
    failed(opened.accept(1).map(drop));
    failed(opened.writer.commit(vec![ask]).map(drop));
    failed(opened.enrol(DEVICES[0]).map(drop));
    drop(opened);
    let mut seen = Seen {
        acknowledged: 2,
        ..Seen::default()
    };
    check(&disk, &mut seen, "after it");
}

#[test]
fn what_many_devices_send_meanwhile_is_one_sync() {
    let disk = SimDisk::new();
    let mut opened = open(&disk).unwrap();
    let mut asked: Vec<Ask> = (0..50).map(|number| another(&opened, number)).collect();
    let Judgement::Store(ask) = opened.judge(0).unwrap() else {
        panic!()
    };
    asked.push(ask);
    let before = disk.trace().len();
    let done = opened.writer.commit(asked).unwrap();
    let accepted = |done: &Done| matches!(done, Done::Accepted(_));
    assert!(done.iter().all(accepted));
    let steps = disk.trace().split_off(before);
    let syncs = steps.iter().filter(|step| step.starts_with("sync"));
    assert_eq!(syncs.count(), 1, "{steps:?}");
    // The SIEM's file: one sync of the lines, and the cursor replaced once.
    let before = disk.trace().len();
    opened.siem.round().unwrap();
    let steps = disk.trace().split_off(before);
    let syncs = steps.iter().filter(|step| step.starts_with("sync"));
    assert_eq!(syncs.count(), 3, "{steps:?}");
    assert_eq!(opened.archive.stats().siem_lines, 51 * 2);
}

/// The first upload of another log.
fn another(opened: &Open, number: u64) -> Ask {
    let origin = format!("example.org/jurat/another-{number}/0");
    let key = SoftwareKey::log(&Secret::from_bytes([6; 32]), &origin).unwrap();
    let body = Bytes::from(uploads_of(&origin, &key, 1).remove(0).1);
    let nonce = (format!("{origin}/nonce-nonce-nonce"), 1_790_000_000);
    let judged = opened
        .archive
        .judge(&origin, key.verifier_key(), &nonce, &body);
    match judged.unwrap() {
        Judgement::Store(ask) => ask,
        Judgement::Answer(answer) => panic!("{answer:?}"),
    }
}

#[test]
fn two_uploads_of_one_log_that_race_are_one_acceptance_and_one_stored_answer() {
    for together in [true, false] {
        let disk = SimDisk::new();
        let mut opened = open(&disk).unwrap();
        let Judgement::Store(first) = opened.judge(0).unwrap() else {
            panic!()
        };
        let Judgement::Store(second) = opened.judge(0).unwrap() else {
            panic!()
        };
        let done = if together {
            opened.writer.commit(vec![first, second]).unwrap()
        } else {
            let mut done = opened.writer.commit(vec![first]).unwrap();
            done.extend(opened.writer.commit(vec![second]).unwrap());
            done
        };
        let [Done::Accepted(accepted), Done::Stale] = done.as_slice() else {
            panic!()
        };
        // Judged again: it is archived already, and the device is told where to go on.
        let Judgement::Answer(Err(again)) = opened.judge(0).unwrap() else {
            panic!()
        };
        assert_eq!((again.status, again.refusal.size), (409, Some(2)));
        let stats = opened.archive.stats();
        assert_eq!((stats.leaves, stats.accepted, stats.logs), (2, 1, 1));
        assert_eq!(
            opened.archive.frontier(ORIGIN).unwrap().note.as_deref(),
            Some(&*accepted.note)
        );
    }
}

#[test]
fn an_enrolment_without_its_leaf_does_not_count_and_leaves_no_secret() {
    let disk = SimDisk::new();
    let mut opened = open(&disk).unwrap();
    opened.enrol(DEVICES[0]).unwrap();
    assert!(matches!(opened.enrol(DEVICES[0]).unwrap(), Done::Taken));
    let lost = device(&opened.archive.host, DEVICES[1]);
    let secret = lost.hmac.to_base64();
    let holds = |disk: &SimDisk, dir: &str, secret: &str| {
        let path = Path::new(dir).join("0000000000000000.jl");
        let bytes = jurat_disk::read(disk, &path, 1 << 20).unwrap();
        bytes
            .windows(secret.len())
            .any(|window| window == secret.as_bytes())
    };
    // The table is written and synced; the group in the archive is not.
    disk.fail_at(disk.steps() + 2, Fault::Full);
    let ask = Ask::Enrol(Box::new(lost));
    assert!(opened.writer.commit(vec![ask]).is_err());
    assert!(holds(&disk, "/c/devices", &secret));
    disk.heal();
    drop(opened);
    let mut opened = open(&disk).unwrap();
    assert!(opened.archive.device(DEVICES[1]).is_none());
    assert!(!holds(&disk, "/c/devices", &secret));
    opened.enrol(DEVICES[1]).unwrap();
    let kept = DEVICES.map(|id| opened.archive.device(id).unwrap());
    for device in kept {
        let secret = device.hmac.to_base64();
        assert!(holds(&disk, "/c/devices", &secret));
        assert!(!holds(&disk, "/c/archive", &secret));
    }
    drop(opened);
    let opened = open(&disk).unwrap();
    assert_eq!(opened.archive.stats().devices, 2);
}
