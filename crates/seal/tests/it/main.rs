//! Sealing: what is sealed verifies, what is signed was durable, nothing acknowledged is lost.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod erase;
mod faults;
mod interleaved;
mod rotation;
mod tiles;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};

use jurat_disk::{FixedClock, Host};
use jurat_event::{ENTRY_BYTES_MAX, Event, Kind};
use jurat_key::{Secret, SoftwareKey};
use jurat_ledger::Options;
use jurat_proof::{Checkpoint, Note, Replay, Signer, SignerError, VerifierKey};
use jurat_redact::{Mode, Redacted, Redactor, Rules};
use jurat_seal::{PAYLOAD_BYTES_MAX, PastHead, SealError, Sealer, Settings, kind};
use jurat_testkit::{Fault, Repeatable, SimDisk};
use proptest::prelude::*;

const ORIGIN: &str = "example.org/jurat/d1/0";

fn host(disk: &SimDisk) -> Host {
    Host {
        disk: Arc::new(disk.clone()),
        clock: Arc::new(FixedClock::new(1_790_000_000)),
        rng: Arc::new(Repeatable::new(disk.steps() + 1)),
    }
}

fn settings() -> Settings {
    Settings {
        origin: ORIGIN.into(),
        boot: "b".repeat(32),
        reveal_key: [3; 32],
        opening: serde_json::Map::new(),
        beginning: Vec::new(),
        policy: "p".into(),
        ledger: Options {
            segment_bytes: 6_000,
            reserve_bytes: 0,
        },
    }
}

fn key() -> SoftwareKey {
    SoftwareKey::log(&Secret::from_bytes([5; 32]), ORIGIN).unwrap()
}

fn redacted(text: &str) -> Redacted {
    static RULES: LazyLock<Arc<Rules>> = LazyLock::new(|| Arc::new(Rules::builtin(&[]).unwrap()));
    let mut event = Event::new(Kind::PromptSubmitted);
    event.session = Some("s1".into());
    event.context = Some(text.as_bytes().to_vec());
    Redactor::with_rules(Mode::Redact, &[1; 32], RULES.clone()).redact(event)
}

/// Signs, and remembers what was signed and what the disk had done by then.
struct Watched {
    key: SoftwareKey,
    disk: SimDisk,
    signed: Arc<Mutex<Vec<(Checkpoint, String)>>>,
}

impl Signer for Watched {
    fn verifier_key(&self) -> &VerifierKey {
        self.key.verifier_key()
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignerError> {
        let checkpoint = Checkpoint::parse(std::str::from_utf8(message).unwrap()).unwrap();
        let last = self.disk.trace().last().cloned().unwrap_or_default();
        faults::assert_durable(&self.disk, &checkpoint);
        self.signed.lock().unwrap().push((checkpoint, last));
        self.key.sign(message)
    }
}

struct Log {
    sealer: Sealer,
    blobs: u64,
}

fn open(disk: &SimDisk, signed: &Arc<Mutex<Vec<(Checkpoint, String)>>>) -> Result<Log, SealError> {
    let signer = Watched {
        key: key(),
        disk: disk.clone(),
        signed: signed.clone(),
    };
    let mut blobs = 0;
    let sealer = Sealer::open(
        host(disk),
        Path::new("/l"),
        settings(),
        &[Arc::new(signer)],
        &mut |_, blob| {
            blobs = u64::from_le_bytes(blob.try_into().unwrap());
        },
    )?;
    Ok(Log { sealer, blobs })
}

impl Log {
    /// One round: three events, a filtered one, a commit; then a batch every second round.
    fn round(&mut self, number: u64) -> Result<(), SealError> {
        for index in 0..3 {
            self.sealer
                .push(redacted(&format!("{{\"n\":\"{number}.{index}\"}}")), None)?;
        }
        self.sealer.count_filtered("progress");
        let blob = (self.blobs + 1).to_le_bytes();
        let mut snapshot = || blob.to_vec();
        if number % 2 == 1 {
            self.sealer
                .seal_batch(serde_json::Map::new(), &blob, &mut snapshot)?;
        } else {
            self.sealer.commit(&blob, &mut snapshot)?;
        }
        self.blobs += 1;
        Ok(())
    }

    /// Replays everything in the ledger and checks it as a stranger would.
    fn verify(&self) -> (u64, u64, BTreeMap<String, u64>) {
        let mut replay = Replay::new(ORIGIN);
        let mut reader = self.sealer.ledger().read(0).unwrap();
        let mut signed = 0;
        while let Some(item) = reader.next_record().unwrap() {
            match item.kind {
                kind::ENTRY => drop(replay.entry(item.body).unwrap()),
                kind::PAYLOAD => {
                    let (salt, bytes) = item.body.split_first_chunk::<32>().unwrap();
                    replay.payload(salt, bytes).unwrap();
                }
                kind::CHECKPOINT => {
                    let note = Note::parse(item.body).unwrap();
                    assert_eq!(note.is_signed_by(key().verifier_key()), Ok(true));
                    let checkpoint = Checkpoint::parse(&note.text).unwrap();
                    assert_eq!(
                        (checkpoint.size, checkpoint.root),
                        (replay.frontier().size(), replay.frontier().root())
                    );
                    signed = checkpoint.size;
                }
                _ => {}
            }
        }
        assert_eq!(replay.payloads_missing(), 0);
        let (frontier, chain, summary) = replay.finish();
        let head = self.sealer.head();
        assert_eq!(
            (head.size, head.root, head.chain),
            (frontier.size(), frontier.root(), chain.0)
        );
        (frontier.size(), signed, summary.filtered)
    }
}

const ROUNDS: u64 = 8;

fn work(
    disk: &SimDisk,
    signed: &Arc<Mutex<Vec<(Checkpoint, String)>>>,
) -> Result<u64, (u64, SealError)> {
    let mut log = open(disk, signed).map_err(|error| (0, error))?;
    let blob = log.blobs.to_le_bytes();
    log.sealer
        .sign_pending(&mut || blob.to_vec())
        .map_err(|error| (0, error))?;
    for number in log.blobs..ROUNDS {
        let before = log.blobs;
        log.round(number).map_err(|error| (before, error))?;
    }
    Ok(log.blobs)
}

#[test]
fn what_was_sealed_verifies_and_every_filtered_record_is_counted() {
    let disk = SimDisk::new();
    let signed = Arc::default();
    assert_eq!(work(&disk, &signed).unwrap(), ROUNDS);
    let (size, last, filtered) = open(&disk, &signed).unwrap().verify();
    assert_eq!((size, last), (1 + 3 * ROUNDS + ROUNDS / 2, size));
    assert_eq!(filtered["progress"], ROUNDS);
}

#[test]
fn at_any_power_cut_positions_and_events_agree_and_no_two_heads_contradict() {
    let clean = SimDisk::new();
    work(&clean, &Arc::default()).unwrap();
    for step in 0..clean.steps() {
        let disk = SimDisk::new();
        let signed: Arc<Mutex<Vec<(Checkpoint, String)>>> = Arc::default();
        disk.fail_at(step, Fault::Crash);
        let (acknowledged, _) = work(&disk, &signed).unwrap_err();
        disk.crash(&Repeatable::new(step));
        // Go on to the end after the crash: what was half done must be done once.
        assert_eq!(
            work(&disk, &signed).unwrap_or_else(|(_, error)| panic!("step {step}: {error}")),
            ROUNDS
        );
        let log = open(&disk, &signed).unwrap();
        assert!(log.blobs >= acknowledged);
        let (size, last, filtered) = log.verify();
        assert_eq!(
            (size, last),
            (1 + 3 * ROUNDS + ROUNDS / 2, size),
            "step {step}"
        );
        assert_eq!(filtered["progress"], ROUNDS, "step {step}");
        let mut roots = BTreeMap::new();
        for (checkpoint, before) in signed.lock().unwrap().iter() {
            let root = roots.entry(checkpoint.size).or_insert(checkpoint.root);
            assert_eq!(
                *root, checkpoint.root,
                "step {step}: two roots at size {}",
                checkpoint.size
            );
            let durable = before.starts_with("sync");
            assert!(
                durable,
                "step {step}: signed before its head was durable, after {before:?}"
            );
        }
    }
}

#[test]
fn a_payload_longer_than_a_leaf_goes_on_in_parts() {
    let disk = SimDisk::new();
    let mut log = open(&disk, &Arc::default()).unwrap();
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(2 * PAYLOAD_BYTES_MAX));
    log.sealer.push(redacted(&long), None).unwrap();
    log.sealer.commit(b"", &mut Vec::new).unwrap();
    assert_eq!(log.verify().0, 4);
    let mut reader = log.sealer.ledger().read(0).unwrap();
    let mut whole = Vec::new();
    while let Some(item) = reader.next_record().unwrap() {
        if item.kind == kind::PAYLOAD {
            whole.extend_from_slice(&item.body[32..]);
        }
    }
    assert_eq!(whole, long.as_bytes());
}

#[test]
fn a_head_that_was_overtaken_is_covered_by_the_next_one() {
    let clean = SimDisk::new();
    work(&clean, &Arc::default()).unwrap();
    for step in 0..clean.steps() {
        let disk = SimDisk::new();
        let signed = Arc::default();
        disk.fail_at(step, Fault::Crash);
        let _ = work(&disk, &signed);
        disk.crash(&Repeatable::new(step));
        // The owner pushes before it asks for what is pending.
        let mut log = open(&disk, &signed).unwrap();
        log.sealer.push(redacted("{}"), None).unwrap();
        assert!(log.sealer.sign_pending(&mut Vec::new).unwrap().is_none());
        let blob = log.blobs.to_le_bytes();
        log.sealer
            .seal_batch(serde_json::Map::new(), &blob, &mut || blob.to_vec())
            .unwrap();
        drop(log);
        let (size, last, _) = open(&disk, &signed).unwrap().verify();
        assert_eq!(size, last, "step {step}");
    }
}

#[test]
fn a_session_name_of_any_length_is_counted_the_same_before_and_after_a_restart() {
    let disk = SimDisk::new();
    for _ in 0..3 {
        let mut log = open(&disk, &Arc::default()).unwrap();
        let mut event = Event::own(Kind::Other);
        event.session = Some("s".repeat(5_000));
        log.sealer.push_own(event).unwrap();
        log.sealer.commit(b"", &mut Vec::new).unwrap();
    }
    assert_eq!(open(&disk, &Arc::default()).unwrap().verify().0, 4);
}

#[test]
fn a_past_head_is_told_from_one_that_never_was_and_from_one_that_was_removed() {
    let disk = SimDisk::new();
    let signed: Arc<Mutex<Vec<(Checkpoint, String)>>> = Arc::default();
    work(&disk, &signed).unwrap();
    let mut log = open(&disk, &signed).unwrap();
    let heads: Vec<Checkpoint> = signed
        .lock()
        .unwrap()
        .iter()
        .map(|(head, _)| head.clone())
        .collect();
    for head in &heads {
        let found = log.sealer.head_at(head.size, u64::MAX).unwrap();
        assert_eq!(found, PastHead::Root(head.root));
        assert_eq!(
            log.sealer.head_at(head.size - 1, u64::MAX).unwrap(),
            PastHead::Never
        );
    }
    let end = log.sealer.ledger().end();
    assert!(log.sealer.remove_before(end).unwrap() > 0);
    let first = log.sealer.head_at(heads[0].size, 0).unwrap();
    assert_eq!(first, PastHead::Removed);
}

#[test]
fn a_ledger_of_another_log_is_refused() {
    let disk = SimDisk::new();
    drop(
        open(&disk, &Arc::default())
            .unwrap()
            .sealer
            .commit(b"", &mut Vec::new),
    );
    let mut other = settings();
    other.origin = "example.org/jurat/d2/0".into();
    let refused = Sealer::open(
        host(&disk),
        Path::new("/l"),
        other,
        &[Arc::new(key())],
        &mut |_, _| {},
    );
    assert!(matches!(refused.err(), Some(SealError::Origin { .. })));
}

proptest! {
    /// Whatever a record claims, its entry fits and can be read again.
    #[test]
    fn no_event_makes_an_entry_that_is_too_long(
        text in "[\u{0}-\u{7f}\u{e9}]{0,40}", times in 0..400_usize, labels in 0..50_usize,
    ) {
        let disk = SimDisk::new();
        let mut log = open(&disk, &Arc::default()).unwrap();
        let long = text.repeat(times);
        let mut event = Event::own(Kind::Other);
        event.object = Some(long.clone());
        event.action = Some(long.clone());
        event.session = Some(long.clone());
        event.claimed_time = Some(long.clone());
        event.agent = Some(jurat_event::Agent { product: long.clone(), version: Some(long.clone()), id: Some(long.clone()) });
        event.actor = Some(jurat_event::Actor { user: Some(long.clone()), exe: Some(long.clone()), ..Default::default() });
        for index in 0..labels {
            event.labels.insert(format!("l{index}").into(), long.clone());
        }
        event.detail.insert("d".into(), long.into());
        log.sealer.push_own(event).unwrap();
        log.sealer.commit(b"", &mut Vec::new).unwrap();
        let mut reader = log.sealer.ledger().read(0).unwrap();
        while let Some(item) = reader.next_record().unwrap() {
            prop_assert!(item.body.len() <= ENTRY_BYTES_MAX);
        }
        prop_assert_eq!(log.verify().0, 2);
    }
}
