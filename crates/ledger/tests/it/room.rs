//! Making room: segments rewritten shorter, and a reserve for the last words.

use std::path::Path;
use std::sync::Arc;

use jurat_ledger::{Group, Ledger, LedgerError, Options, fsck};
use jurat_testkit::{Fault, Repeatable, SimDisk};

use crate::support::{Counter, DIR, record};

/// Keeps every third record of the first closed segment.
fn thin_out(counter: &mut Counter) -> Result<(), LedgerError> {
    let closed = counter.ledger.closed()?[0];
    let mut reader = counter.ledger.read(closed.base)?;
    let mut group = Group::new();
    let mut index = 0;
    while let Some(item) = reader.next_record()? {
        if item.position >= closed.end {
            break;
        }
        if index % 3 == 0 {
            group.push(item.kind, &[item.body])?;
        }
        index += 1;
    }
    let prepared = counter.ledger.prepare(&closed, &mut group)?;
    counter.ledger.replace(prepared)
}

fn filled(disk: &SimDisk) -> Counter {
    let mut counter = Counter::open(disk).unwrap();
    (0..60).for_each(|_| counter.append(1).unwrap());
    counter
}

#[test]
fn a_rewritten_segment_reads_on_into_the_next_and_frees_its_bytes() {
    let disk = SimDisk::new();
    let mut counter = filled(&disk);
    let before = counter.numbers().unwrap();
    let closed = counter.ledger.closed().unwrap();
    let (end, len) = (counter.ledger.end(), counter.ledger.len().unwrap());
    thin_out(&mut counter).unwrap();
    assert_eq!(counter.ledger.end(), end, "positions stay");
    assert!(counter.ledger.len().unwrap() < len);
    let numbers = counter.numbers().unwrap();
    assert_eq!(numbers[..3], [0, 3, 6]);
    assert_eq!(numbers.last(), before.last());
    // A place inside the old segment: reading begins at its front. One in the next: exactly there.
    let mut reader = counter.ledger.read(closed[0].base + 700).unwrap();
    assert_eq!(reader.next_record().unwrap().unwrap().body, record(0));
    let mut reader = counter.ledger.read(closed[1].base).unwrap();
    let first = reader.next_record().unwrap().unwrap().body.to_vec();
    assert!(before.iter().any(|number| record(*number) == first));
    assert!(fsck(&disk, Path::new(DIR)).unwrap().is_clean());
    // Twice is no more than once; the last segment can still be opened and appended to.
    thin_out(&mut counter).unwrap();
    drop(counter);
    let mut counter = Counter::open(&disk).unwrap();
    counter.append(1).unwrap();
    assert_eq!(counter.numbers().unwrap().last(), Some(&60));
}

#[test]
fn a_power_cut_while_rewriting_leaves_the_old_segment_or_the_new_one() {
    let reference = SimDisk::new();
    let mut counter = filled(&reference);
    let old = counter.numbers().unwrap();
    let start = reference.steps();
    thin_out(&mut counter).unwrap();
    let new = counter.numbers().unwrap();
    let end = reference.steps();
    assert!(end > start + 3);
    for step in start..end {
        let disk = SimDisk::new();
        let mut counter = filled(&disk);
        disk.fail_at(step, Fault::Crash);
        assert!(thin_out(&mut counter).is_err(), "step {step}");
        drop(counter);
        disk.crash(&Repeatable::new(step));
        let numbers = Counter::open(&disk).unwrap().numbers().unwrap();
        assert!(numbers == old || numbers == new, "step {step}: {numbers:?}");
    }
}

#[test]
fn a_disk_too_full_to_rewrite_changes_nothing() {
    let disk = SimDisk::new();
    let mut counter = filled(&disk);
    let old = counter.numbers().unwrap();
    disk.limit(Some(disk.used() + 100));
    let error = thin_out(&mut counter).unwrap_err();
    assert!(matches!(error, LedgerError::Full { .. }), "{error}");
    assert_eq!(counter.numbers().unwrap(), old);
    disk.limit(None);
    counter.append(1).unwrap();
}

#[test]
fn the_reserve_holds_the_room_for_the_last_words() {
    let disk = SimDisk::new();
    let open = || {
        let options = Options {
            segment_bytes: 1 << 20,
            reserve_bytes: 8_192,
        };
        let (disk, rng) = (Arc::new(disk.clone()), Arc::new(Repeatable::new(1)));
        Ledger::open(disk, rng, Path::new(DIR), options, b"", &mut |_| {}).unwrap()
    };
    let mut ledger = open();
    disk.limit(Some(disk.used() + 2_000));
    let mut group = Group::new();
    let mut append = |ledger: &mut Ledger, body: &[u8]| {
        group.clear();
        group.push(1, &[body]).unwrap();
        ledger.append(&mut group, b"", &mut Vec::new)
    };
    let full = loop {
        if let Err(error) = append(&mut ledger, &[7; 500]) {
            break error;
        }
    };
    assert!(matches!(full, LedgerError::Full { .. }), "{full}");
    assert!(ledger.use_reserve().unwrap());
    append(&mut ledger, &[7; 500]).unwrap();
    append(&mut ledger, b"the disk is full").unwrap();
    assert!(!ledger.use_reserve().unwrap(), "there is only one");
    assert!(!ledger.keep_reserve().unwrap(), "no room for a new one yet");
    disk.limit(None);
    assert!(ledger.keep_reserve().unwrap());
    drop(ledger);
    let ledger = open();
    let mut reader = ledger.read(0).unwrap();
    let mut last = Vec::new();
    while let Some(item) = reader.next_record().unwrap() {
        last = item.body.to_vec();
    }
    assert_eq!(last, b"the disk is full");
}
