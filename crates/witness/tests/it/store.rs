//! The book: durable before anything leaves, one winner, one root for a size, torn at every step.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Barrier};

use jurat_disk::{Clock, FixedClock, Host, RealDisk, SystemRng};
use jurat_ledger::LedgerError;
use jurat_proof::{Checkpoint, Cosignature, Digest, ForkProof, Note, Signer as _};
use jurat_testkit::{Fault, Repeatable, SimDisk};
use jurat_witness::{Answer, Request, Store, StoreError};

use crate::{Log, NAME, ORIGIN, honest, rewritten};

fn host(disk: &SimDisk, clock: &Arc<FixedClock>) -> Host {
    Host {
        disk: Arc::new(disk.clone()),
        clock: clock.clone(),
        rng: Arc::new(Repeatable::new(disk.steps() + 1)),
    }
}

fn clock() -> Arc<FixedClock> {
    Arc::new(FixedClock::new(1_790_000_000))
}

fn open(disk: &SimDisk, clock: &Arc<FixedClock>) -> Result<Store, StoreError> {
    Store::open(host(disk, clock), Path::new("/w"), Some(NAME))
}

/// A witness in memory, and its clock.
fn witness() -> (Store, Arc<FixedClock>) {
    let clock = clock();
    (open(&SimDisk::new(), &clock).unwrap(), clock)
}

/// Every statement that left a witness.
#[derive(Default)]
struct Said {
    roots: BTreeMap<u64, Digest>,
    newest: (u64, u64),
}

impl Said {
    /// Notes a cosignature; it must contradict none before it.
    fn cosigned(&mut self, store: &Store, note: &Note, lines: &str, what: &str) {
        let head = Checkpoint::parse(&note.text).unwrap();
        let answered = Note::parse(format!("{}\n{lines}", note.text).as_bytes()).unwrap();
        let found = Cosignature::find(&answered, store.verifier_key());
        let time = found.unwrap().expect("a cosignature").time_s;
        let root = *self.roots.entry(head.size).or_insert(head.root);
        assert_eq!(root, head.root, "{what}: two roots at size {}", head.size);
        // "As of this time, the largest tree that I have seen."
        assert!(
            head.size >= self.newest.0 && time >= self.newest.1,
            "{what}: {:?} after {:?}",
            (head.size, time),
            self.newest
        );
        self.newest = (head.size, time);
    }

    /// Submits, and expects a cosignature.
    fn submit(&mut self, store: &Store, log: &Log, old: usize, size: usize) {
        let answer = store.add_checkpoint(&log.logs(), log.request(old, size).as_bytes());
        match answer.unwrap() {
            Answer::Cosigned(lines) => self.cosigned(store, &log.note(size), &lines, "submitted"),
            other => panic!("{old} to {size}: {other:?}"),
        }
    }
}

fn answer(store: &Store, log: &Log, old: usize, size: usize) -> Answer {
    let request = log.request(old, size);
    store
        .add_checkpoint(&log.logs(), request.as_bytes())
        .unwrap()
}

#[test]
fn only_what_extends_everything_cosigned_before_is_cosigned() {
    let (store, clock) = witness();
    let (log, mut said) = (honest(), Said::default());
    assert_eq!(answer(&store, &log, 3, 5), Answer::Size(0));
    said.submit(&store, &log, 0, 5);
    said.submit(&store, &log, 5, 12);
    // A resubmitted older size gets the size, never a fresh statement.
    assert_eq!(answer(&store, &log, 0, 5), Answer::Size(12));
    assert_eq!(answer(&store, &log, 5, 5), Answer::Size(12));
    assert!(matches!(answer(&store, &log, 12, 5), Answer::Malformed(_)));
    // The newest one again is said again, with the time of now.
    let first = answer(&store, &log, 12, 12);
    assert_eq!(first, answer(&store, &log, 12, 12), "in the same second");
    clock.advance_s(60);
    let later = answer(&store, &log, 12, 12);
    assert_ne!(first, later);
    // A clock that was set back does not set times back.
    clock.advance_s(-86_400);
    said.submit(&store, &log, 12, 13);
    assert!(said.newest.1 >= 1_790_000_060);
    // A proof between other sizes, an unneeded one, none at all.
    let wrong = [
        Request::encode(13, &log.proof(12, 20), &log.note(20)),
        Request::encode(13, &log.proof(12, 13), &log.note(13)),
        Request::encode(13, &[], &log.note(20)),
    ];
    for wrong in wrong {
        let answer = store.add_checkpoint(&log.logs(), wrong.as_bytes()).unwrap();
        assert!(matches!(answer, Answer::Unproven(_)), "{answer:?}");
    }
    assert!(store.forked().is_empty());
    assert_eq!(store.seen(ORIGIN).unwrap().unwrap().size, 13);
}

#[test]
fn size_zero_has_the_root_of_nothing_and_needs_no_proof() {
    let (store, _) = witness();
    let log = honest();
    let mut empty = log.note(0);
    assert!(matches!(answer(&store, &log, 0, 0), Answer::Cosigned(_)));
    empty.text = empty.text.replace("\n0\n", "\n9\n");
    assert!(empty.is_signed_by(log.key().verifier_key()).is_err());
    let unneeded = Request::encode(0, &[Digest([1; 32])], &log.note(4));
    let answered = store.add_checkpoint(&log.logs(), unneeded.as_bytes());
    assert!(matches!(answered.unwrap(), Answer::Unproven(_)));
    let nonsense = Checkpoint {
        origin: ORIGIN.into(),
        size: 0,
        root: Digest([1; 32]),
    };
    let nonsense = Request::encode(0, &[], &nonsense.sign(&log.key()).unwrap());
    let answered = store.add_checkpoint(&log.logs(), nonsense.as_bytes());
    assert!(matches!(answered.unwrap(), Answer::Unproven(_)));
    assert!(matches!(answer(&store, &log, 0, 4), Answer::Cosigned(_)));
}

#[test]
fn a_log_that_contradicts_itself_leaves_a_proof_for_strangers_and_is_cosigned_no_more() {
    let (log, other) = (honest(), rewritten());
    // The same size with whatever old size; a longer head with the forger's own proof.
    for (old, size, expected) in [
        (12, 12, Answer::Forked),
        (0, 12, Answer::Size(12)),
        (12, 20, Answer::Unproven(String::new())),
    ] {
        let disk = SimDisk::new();
        let store = open(&disk, &clock()).unwrap();
        assert!(matches!(answer(&store, &log, 0, 12), Answer::Cosigned(_)));
        let said = answer(&store, &other, old, size);
        assert_eq!(said.status(), expected.status(), "{said:?}");
        assert_eq!(said.content_type(), expected.content_type());
        // Honest heads come too late.
        assert_eq!(answer(&store, &log, 12, 30), Answer::Forked);
        assert_eq!(answer(&store, &log, 0, 30), Answer::Size(12));
        drop(store);
        let store = open(&disk, &clock()).unwrap();
        assert_eq!(answer(&store, &log, 12, 30), Answer::Forked);
        assert_eq!(store.forked(), [ORIGIN]);
        let proof = store.seen(ORIGIN).unwrap().unwrap().fork.clone().unwrap();
        let proof = ForkProof::parse(proof.as_bytes()).unwrap();
        let heads = proof.check(&[log.key().verifier_key().clone()]).unwrap();
        assert_eq!([heads[0].size, heads[1].size], [12, size as u64]);
        // It holds the cosigned head: what the witness swore to.
        let cosigned = Cosignature::find(&proof.first, store.verifier_key());
        assert!(cosigned.unwrap().is_some());
    }
}

#[test]
fn nobody_can_freeze_a_log_without_its_key() {
    let (store, _) = witness();
    let (log, other) = (honest(), rewritten());
    assert!(matches!(answer(&store, &log, 0, 12), Answer::Cosigned(_)));
    let mut forged = other.note(12);
    forged.signatures = log.note(12).signatures;
    let mut unsigned = other.note(12);
    unsigned.signatures[0].name = "someone.example/else".into();
    // A head that is the log's own, and a proof that fails: anyone can send that.
    let broken = vec![Digest([3; 32]); log.proof(12, 20).len()];
    for (note, proof, status) in [
        (forged, vec![], 403),
        (unsigned, vec![], 403),
        (log.note(20), broken, 422),
        (other.note(20), log.proof(12, 20), 422),
    ] {
        let body = Request::encode(12, &proof, &note);
        let answer = store.add_checkpoint(&log.logs(), body.as_bytes()).unwrap();
        assert_eq!(answer.status(), status, "{answer:?}");
        assert!(store.forked().is_empty());
    }
    assert!(matches!(answer(&store, &log, 12, 20), Answer::Cosigned(_)));
}

#[test]
fn of_requests_that_race_exactly_one_wins_each_step() {
    let (store, _) = witness();
    let log = honest();
    let mut said = Said::default();
    said.submit(&store, &log, 0, 1);
    for step in 1..20 {
        let start = Barrier::new(8);
        let answers: Vec<(usize, Answer)> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..8)
                .map(|racer| {
                    let (store, log, start) = (&store, &log, &start);
                    scope.spawn(move || {
                        // All from the same size, to sizes of their own.
                        let old = store.seen(ORIGIN).unwrap().unwrap().size as usize;
                        start.wait();
                        let size = old + 1 + racer % 3;
                        (size, answer(store, log, old, size))
                    })
                })
                .collect();
            racers
                .into_iter()
                .map(|racer| racer.join().unwrap())
                .collect()
        });
        let mut won = Vec::new();
        for (size, answer) in answers {
            match answer {
                Answer::Cosigned(_) => won.push(size),
                Answer::Size(_) => {}
                other => panic!("step {step}: {other:?}"),
            }
        }
        assert_eq!(won.len(), 1, "step {step}");
        assert_eq!(store.seen(ORIGIN).unwrap().unwrap().size, won[0] as u64);
    }
}

/// Advances a log whose operator is honest, and one that forks; notes what left the witness.
fn work(disk: &SimDisk, clock: &Arc<FixedClock>, said: &mut Said) -> Result<(), StoreError> {
    let store = open(disk, clock)?;
    let log = honest();
    for size in [1, 2, 5, 12, 13, 40] {
        let now = store.seen(ORIGIN)?.map_or(0, |seen| seen.size as usize);
        if now >= size {
            continue;
        }
        clock.advance_s(1);
        let request = log.request(now, size);
        match store.add_checkpoint(&log.logs(), request.as_bytes())? {
            Answer::Cosigned(lines) => said.cosigned(&store, &log.note(size), &lines, "at work"),
            other => panic!("{now} to {size}: {other:?}"),
        }
    }
    let (first, second) = forker();
    let body = first.request(0, 7);
    let logs = first.logs();
    if store.seen(&first.origin)?.is_none() {
        store.add_checkpoint(&logs, body.as_bytes())?;
    }
    store.add_checkpoint(&logs, second.request(7, 7).as_bytes())?;
    Ok(())
}

fn forker() -> (Log, Log) {
    let origin = "example.org/jurat/forker/0";
    (Log::new(origin, 9, 100), Log::new(origin, 9, 3))
}

fn steps() -> u64 {
    let disk = SimDisk::new();
    work(&disk, &clock(), &mut Said::default()).unwrap();
    disk.steps()
}

/// After whatever happened: opened anew it takes back nothing that it said, and goes on.
fn check(disk: &SimDisk, clock: &Arc<FixedClock>, said: &mut Said, what: &str) {
    let store = open(disk, clock).unwrap_or_else(|error| panic!("{what}: {error}"));
    let size = store.seen(ORIGIN).unwrap().map_or(0, |seen| seen.size);
    assert!(
        size >= said.newest.0,
        "{what}: a cosigned size is forgotten"
    );
    drop(store);
    work(disk, clock, said).unwrap_or_else(|error| panic!("{what}: {error}"));
    let store = open(disk, clock).unwrap();
    assert_eq!(store.seen(ORIGIN).unwrap().unwrap().size, 40, "{what}");
    assert_eq!(store.forked(), [forker().0.origin], "{what}");
    // Another story at the newest size that was cosigned: never cosigned, and found out.
    assert_eq!(
        answer(&store, &rewritten(), 0, 40),
        Answer::Size(40),
        "{what}"
    );
    assert_eq!(store.forked().len(), 2, "{what}");
}

#[test]
fn at_any_power_cut_nothing_that_was_cosigned_is_forgotten() {
    for step in 0..steps() {
        let (disk, clock) = (SimDisk::new(), clock());
        let mut said = Said::default();
        disk.fail_at(step, Fault::Crash);
        let _ = work(&disk, &clock, &mut said);
        disk.crash(&Repeatable::new(step));
        check(&disk, &clock, &mut said, &format!("power cut at {step}"));
    }
}

#[test]
fn a_disk_that_fails_in_whatever_way_makes_it_silent_and_not_forgetful() {
    for fault in [
        Fault::Full,
        Fault::FullForGood,
        Fault::SyncError,
        Fault::Killed,
        Fault::ReadOnly,
    ] {
        for step in 0..steps() {
            let (disk, clock) = (SimDisk::new(), clock());
            let mut said = Said::default();
            disk.fail_at(step, fault);
            let _ = work(&disk, &clock, &mut said);
            disk.heal();
            check(&disk, &clock, &mut said, &format!("{fault:?} at {step}"));
        }
    }
}

#[test]
fn after_a_failed_sync_nothing_is_said_until_the_book_is_opened_anew() {
    let (disk, clock) = (SimDisk::new(), clock());
    let store = open(&disk, &clock).unwrap();
    let log = honest();
    assert!(matches!(answer(&store, &log, 0, 5), Answer::Cosigned(_)));
    disk.fail_at(disk.steps() + 1, Fault::SyncError);
    let failed = store.add_checkpoint(&log.logs(), log.request(5, 6).as_bytes());
    assert!(matches!(failed, Err(StoreError::Ledger(_))), "{failed:?}");
    disk.heal();
    for (old, size) in [(5, 5), (5, 6), (0, 0)] {
        let said = store.add_checkpoint(&log.logs(), log.request(old, size).as_bytes());
        assert!(matches!(said, Err(StoreError::Failed)), "{said:?}");
    }
    drop(store);
    let store = open(&disk, &clock).unwrap();
    assert!(matches!(answer(&store, &log, 5, 6), Answer::Cosigned(_)));
}

#[test]
fn a_full_disk_cosigns_nothing_and_goes_on_when_there_is_room() {
    let (disk, clock) = (SimDisk::new(), clock());
    let store = open(&disk, &clock).unwrap();
    let log = honest();
    disk.fail_at(disk.steps(), Fault::Full);
    let full = store.add_checkpoint(&log.logs(), log.request(0, 5).as_bytes());
    let is_full = matches!(full, Err(StoreError::Ledger(LedgerError::Full { .. })));
    assert!(is_full, "{full:?}");
    disk.heal();
    assert!(matches!(answer(&store, &log, 0, 6), Answer::Cosigned(_)));
}

#[test]
fn two_witnesses_behind_one_name_never_both_cosign() {
    let dir = tempfile::tempdir().unwrap();
    let host = || Host {
        disk: Arc::new(RealDisk),
        clock: clock() as Arc<dyn Clock>,
        rng: Arc::new(SystemRng),
    };
    let first = Store::open(host(), dir.path(), Some(NAME)).unwrap();
    let second = Store::open(host(), dir.path(), Some(NAME));
    let locked = matches!(
        second.as_ref().err(),
        Some(StoreError::Ledger(LedgerError::Locked { .. }))
    );
    assert!(locked, "{:?}", second.err());
    let log = honest();
    assert!(matches!(answer(&first, &log, 0, 5), Answer::Cosigned(_)));
    drop(first);
    // Its key under another name would be two cosigners with one key.
    let renamed = Store::open(host(), dir.path(), Some("another.example/w"));
    assert!(matches!(renamed, Err(StoreError::Name { .. })));
    let again = Store::open(host(), dir.path(), None).unwrap();
    assert_eq!(again.verifier_key().name, NAME);
    assert_eq!(answer(&again, &rewritten(), 0, 9), Answer::Size(5));
    drop(again);
    // A copy of the key without the book does not remember, and is refused.
    std::fs::remove_dir_all(dir.path().join("book")).unwrap();
    let forgetful = Store::open(host(), dir.path(), Some(NAME));
    assert!(matches!(forgetful, Err(StoreError::Forgotten { .. })));
    let nameless = tempfile::tempdir().unwrap();
    let nameless = Store::open(host(), nameless.path(), None);
    assert!(matches!(nameless, Err(StoreError::NoName)));
}

#[test]
fn the_book_stays_small_however_long_a_log_is_witnessed() {
    let disk = SimDisk::new();
    let store = open(&disk, &clock()).unwrap();
    // Each checkpoint is new, and so is each line in the book.
    let log = Log::new(ORIGIN, 300, 10_000);
    // An extension line of 40 KB: what a foreign log may write.
    let mut bytes = 0;
    let extension = "x".repeat(40_000);
    for size in 1..300 {
        let mut note = log.note(size);
        note.text.push_str(&format!("{extension}\n"));
        note.signatures[0] = log.key().sign_note(&note.text).unwrap();
        let body = Request::encode(size as u64 - 1, &log.proof(size - 1, size), &note);
        let answer = store.add_checkpoint(&log.logs(), body.as_bytes()).unwrap();
        assert!(matches!(answer, Answer::Cosigned(_)), "{size}: {answer:?}");
        bytes += note.text.len();
    }
    assert!(bytes > 11_000_000);
    let kept: u64 = jurat_disk::Disk::list(&disk, Path::new("/w/book"))
        .unwrap()
        .iter()
        .filter(|name| name.ends_with(".jl"))
        .map(|name| {
            let path = Path::new("/w/book").join(name);
            let file = jurat_disk::Disk::open(&disk, &path, jurat_disk::Mode::Read).unwrap();
            file.len().unwrap()
        })
        .sum();
    assert!(kept < 13_000_000, "{kept} bytes are kept");
    drop(store);
    let store = open(&disk, &clock()).unwrap();
    assert_eq!(store.seen(ORIGIN).unwrap().unwrap().size, 299);
}
