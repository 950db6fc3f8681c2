//! A key that is slower than what is sealed: its notes come behind later leaves, and every reader finds each head
//! in its place.

use std::path::Path;
use std::sync::Arc;

use jurat_disk::{FixedClock, Host};
use jurat_event::{Event, Kind};
use jurat_key::{Secret, Signer, SoftwareKey};
use jurat_ledger::{Options, Reader};
use jurat_proof::{Checkpoint, Note, Record, RecordReader, Replay, Selection, Withhold};
use jurat_seal::{Sealer, Settings};
use jurat_sink::{Take, UPLOAD_BYTES_MAX, read_batch};
use jurat_testkit::{Repeatable, SimDisk};
use proptest::prelude::*;

const ORIGIN: &str = "example.org/jurat/late/0";

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Step {
    Events(u16),
    Commit,
    EndBatch,
    /// The key is given the newest head.
    Give,
    /// It answers.
    Answer,
    /// What is signed is uploaded.
    Upload(Take),
    Restart,
    PowerCut(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..60_u16).prop_map(Step::Events),
        3 => Just(Step::Commit),
        4 => Just(Step::EndBatch),
        3 => Just(Step::Give),
        3 => Just(Step::Answer),
        2 => Just(Step::Upload(Take::Many)),
        1 => Just(Step::Upload(Take::One)),
        1 => Just(Step::Upload(Take::Hashes)),
        1 => Just(Step::Restart),
        1 => any::<u8>().prop_map(Step::PowerCut),
    ]
}

struct Log {
    disk: SimDisk,
    sealer: Sealer,
    /// As the key that is slow would give it.
    answer: Option<Note>,
    /// What the collector has.
    replay: Replay,
    position: u64,
}

fn key() -> SoftwareKey {
    SoftwareKey::log(&Secret::from_bytes([3; 32]), ORIGIN).unwrap()
}

fn open(disk: &SimDisk) -> Sealer {
    let host = Host {
        disk: Arc::new(disk.clone()),
        clock: Arc::new(FixedClock::new(1_790_000_000)),
        rng: Arc::new(Repeatable::new(1)),
    };
    let settings = Settings {
        origin: ORIGIN.into(),
        boot: "b".into(),
        reveal_key: [1; 32],
        opening: serde_json::Map::new(),
        beginning: Vec::new(),
        policy: "p".into(),
        ledger: Options {
            segment_bytes: 64 * 1024,
            reserve_bytes: 0,
        },
    };
    let keys: [Arc<dyn Signer>; 1] = [Arc::new(key())];
    Sealer::open(host, Path::new("/l"), settings, &keys, &mut |_, _| {}).unwrap()
}

impl Log {
    fn new() -> Self {
        let disk = SimDisk::new();
        Self {
            sealer: open(&disk),
            disk,
            answer: None,
            replay: Replay::new(ORIGIN),
            position: 0,
        }
    }

    fn step(&mut self, step: Step) {
        let mut snapshot = Vec::new;
        match step {
            Step::Events(count) => {
                for _ in 0..count {
                    self.sealer.push_own(Event::own(Kind::Other)).unwrap();
                }
            }
            Step::Commit => self.sealer.commit(b"", &mut snapshot).unwrap(),
            Step::EndBatch => {
                let counters = serde_json::Map::new();
                self.sealer.end_batch(counters, b"", &mut snapshot).unwrap();
            }
            Step::Give => {
                let given = self.sealer.next_unsigned();
                self.answer = given.map(|(head, signer)| head.sign(signer.as_ref()).unwrap());
            }
            Step::Answer => {
                if let Some(note) = self.answer.take() {
                    assert!(self.sealer.keep_signed(&note).unwrap());
                    self.sealer.commit(b"", &mut snapshot).unwrap();
                }
            }
            Step::Upload(take) => drop(self.upload(take)),
            Step::Restart | Step::PowerCut(_) => {
                self.answer = None;
                // The lock goes with the old one.
                let other = SimDisk::new();
                drop(std::mem::replace(&mut self.sealer, open(&other)));
                if let Step::PowerCut(seed) = step {
                    self.disk.crash(&Repeatable::new(u64::from(seed)));
                }
                self.sealer = open(&self.disk);
            }
        }
    }

    /// Takes the next upload as a collector does: every head stands right after its last leaf.
    fn upload(&mut self, take: Take) -> bool {
        let end = self.sealer.ledger().end();
        let disk = Arc::new(self.disk.clone());
        let mut reader = Reader::new(disk, Path::new("/l"), self.position, end).unwrap();
        let from = self.replay.frontier().size();
        let Some(batch) = read_batch(&mut reader, from, take).unwrap() else {
            return false;
        };
        assert_eq!(batch.from, from);
        assert!(batch.raw_len <= UPLOAD_BYTES_MAX);
        let raw = zstd::decode_all(&*batch.body).unwrap();
        let mut signed = 0;
        for record in RecordReader::new(&raw) {
            signed = take_record(&mut self.replay, &record.unwrap()).unwrap_or(signed);
        }
        assert_eq!(signed, batch.to, "it ends in its head");
        assert_eq!(self.replay.frontier().size(), batch.to);
        self.position = batch.next;
        true
    }
}

/// The size of the head, when it is one; it must be that of what came before.
fn take_record(replay: &mut Replay, record: &Record<'_>) -> Option<u64> {
    match record {
        Record::Entry(entry) => drop(replay.entry(entry).unwrap()),
        Record::Payload { salt, bytes } => replay.payload(salt, bytes).unwrap(),
        Record::Leaves { from, hashes } => replay.leaves(*from, hashes).unwrap(),
        Record::Checkpoint(note) => {
            let note = Note::parse(note).unwrap();
            assert_eq!(note.is_signed_by(key().verifier_key()), Ok(true));
            let head = Checkpoint::parse(&note.text).unwrap();
            let here = replay.frontier();
            assert_eq!((head.size, head.root), (here.size(), here.root()));
            return Some(head.size);
        }
    }
    None
}

proptest! {
    #[test]
    fn however_late_a_key_signs_uploads_are_whole_and_in_order(steps in proptest::collection::vec(step(), 0..80)) {
        let mut log = Log::new();
        for step in steps {
            log.step(step);
        }
        for step in [Step::EndBatch, Step::Give, Step::Answer] {
            log.step(step);
        }
        prop_assert!(!log.sealer.has_unsigned());
        while log.upload(Take::Many) {}
        let (held, here) = (log.sealer.head(), log.replay.frontier());
        prop_assert_eq!((held.size, held.root), (here.size(), here.root()));
        prop_assert_eq!(log.sealer.signed(), held.size);
        // And after a restart, and as a bundle.
        log.step(Step::Restart);
        prop_assert!(!log.sealer.has_unsigned());
        let disk = Arc::new(log.disk.clone());
        let mut bundle = Vec::new();
        let exported = jurat_seal::export(disk, Path::new("/l"), &Selection::All, &Withhold::default(), jurat_seal::Enrolled::default(), &mut bundle).unwrap();
        prop_assert_eq!(exported.to, held.size);
    }
}

#[test]
fn a_key_that_was_silent_for_long_signs_heads_that_each_fit_into_an_upload() {
    let mut log = Log::new();
    // Some 20 MiB of batches while the key says nothing.
    for _ in 0..40 {
        for _ in 0..1_000 {
            log.step(Step::Events(1));
        }
        log.step(Step::Commit);
        log.step(Step::EndBatch);
    }
    assert!(!log.upload(Take::Many), "nothing is signed");
    let mut signed = 0;
    while log.sealer.has_unsigned() {
        log.step(Step::Give);
        log.step(Step::Answer);
        signed += 1;
    }
    assert!(signed > 1, "one head over all of it would not fit");
    while log.upload(Take::Many) {}
    assert_eq!(log.replay.frontier().size(), log.sealer.head().size);
}

#[test]
fn a_key_that_fails_again_and_again_still_signs_heads_that_each_fit_into_an_upload() {
    let mut log = Log::new();
    for _ in 0..40 {
        for _ in 0..1_000 {
            log.step(Step::Events(1));
        }
        log.step(Step::EndBatch);
        // It is asked each time, and each time it refuses.
        log.step(Step::Give);
        log.answer = None;
    }
    // What waits is remembered over a restart.
    log.step(Step::Restart);
    let mut signed = 0;
    while log.sealer.has_unsigned() {
        log.step(Step::Give);
        log.step(Step::Answer);
        signed += 1;
    }
    assert!(signed > 1, "one head over all of it would not fit");
    while log.upload(Take::Many) {}
    assert_eq!(log.replay.frontier().size(), log.sealer.head().size);
}

#[test]
fn an_answer_for_a_head_that_was_given_up_is_not_kept() {
    let mut log = Log::new();
    log.step(Step::EndBatch);
    log.step(Step::Give);
    let late = log.answer.clone().unwrap();
    log.step(Step::Events(1));
    log.step(Step::EndBatch);
    log.step(Step::Give);
    assert!(!log.sealer.keep_signed(&late).unwrap());
    log.step(Step::Answer);
    assert_eq!(log.sealer.signed(), log.sealer.head().size);
}
