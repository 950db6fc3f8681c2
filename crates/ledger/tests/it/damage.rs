//! Damage is told apart from a torn tail, and never silently cut off.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jurat_disk::{Disk, Mode, RealDisk};
use jurat_ledger::{Group, Ledger, LedgerError, Options, Reader, fsck};
use jurat_testkit::{Repeatable, SimDisk};

use crate::support::{Counter, DIR};

fn last_segment(disk: &SimDisk) -> PathBuf {
    let name = disk
        .list(Path::new(DIR))
        .unwrap()
        .into_iter()
        .rfind(|name| name.ends_with(".jl"))
        .unwrap();
    Path::new(DIR).join(name)
}

#[test]
fn a_flipped_bit_before_good_groups_is_named_and_nothing_is_cut() {
    let clean = SimDisk::new();
    {
        let mut counter = Counter::open(&clean).unwrap();
        (0..3).for_each(|_| counter.append(1).unwrap());
    }
    let path = last_segment(&clean);
    let len = clean.open(&path, Mode::Read).unwrap().len().unwrap();
    let mut named = 0;
    for at in (0..len as usize).step_by(7) {
        let disk = SimDisk::new();
        {
            let mut counter = Counter::open(&disk).unwrap();
            (0..3).for_each(|_| counter.append(1).unwrap());
        }
        disk.corrupt(&path, |bytes| bytes[at] ^= 0x10);
        match Counter::open(&disk) {
            Err(LedgerError::Corrupt { path: found, .. }) => {
                assert_eq!(found, path);
                assert!(!fsck(&disk, Path::new(DIR)).unwrap().is_clean());
                named += 1;
            }
            // Only the very last group can be mistaken for a torn one, and unused header bytes.
            Ok(counter) => assert!(counter.state >= 2, "byte {at}: {}", counter.state),
            Err(error) => panic!("byte {at}: {error}"),
        }
        assert!(disk.open(&path, Mode::Read).unwrap().len().unwrap() >= 64);
    }
    assert!(named > 10);
}

/// The numbers that a reader finds that does not have the ledger open, and how it ended.
fn read_beside(disk: Arc<dyn Disk>, dir: &Path) -> (Vec<u64>, Result<(), LedgerError>) {
    let mut numbers = Vec::new();
    let mut reader = match Reader::open(disk, dir, 0) {
        Ok(reader) => reader,
        Err(error) => return (numbers, Err(error)),
    };
    loop {
        match reader.next_record() {
            Ok(Some(item)) => numbers.push(u64::from_le_bytes(item.body[..8].try_into().unwrap())),
            Ok(None) => return (numbers, Ok(())),
            Err(error) => return (numbers, Err(error)),
        }
    }
}

#[test]
fn a_reader_never_takes_damage_for_the_end_of_the_ledger() {
    let disk = SimDisk::new();
    {
        let mut counter = Counter::open(&disk).unwrap();
        (0..3).for_each(|_| counter.append(1).unwrap());
    }
    let (path, dir) = (last_segment(&disk), Path::new(DIR));
    let (mut named, mut torn) = (0, 0);
    let len = disk.open(&path, Mode::Read).unwrap().len().unwrap();
    for at in (0..len as usize).step_by(7) {
        disk.corrupt(&path, |bytes| bytes[at] ^= 0x10);
        let damaged = !fsck(&disk, dir).unwrap().is_clean();
        let (numbers, ended) = read_beside(Arc::new(disk.clone()), dir);
        assert!((0..3).take(numbers.len()).eq(numbers.iter().copied()));
        match ended {
            Err(LedgerError::Corrupt { path: found, .. }) => {
                assert!(damaged, "byte {at}");
                assert_eq!(found, path);
                named += 1;
            }
            // Of the very last group it cannot be said.
            Ok(()) => {
                assert!(!damaged, "byte {at}");
                torn += usize::from(numbers.len() == 2);
            }
            Err(error) => panic!("byte {at}: {error}"),
        }
        if let Ok(mut left) = Reader::salvage(Arc::new(disk.clone()), dir, 0) {
            assert!(
                numbers
                    .iter()
                    .all(|_| left.next_record().unwrap().is_some())
            );
            assert!(left.next_record().unwrap().is_none(), "byte {at}");
        }
        disk.corrupt(&path, |bytes| bytes[at] ^= 0x10);
    }
    assert!(named > 10 && torn > 1, "{named}, {torn}");
}

#[test]
fn a_reader_beside_the_writer_never_calls_a_half_written_group_damage() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ledger");
    let rng = Arc::new(Repeatable::new(1));
    let (options, disk) = (Options::default(), Arc::new(RealDisk));
    let mut ledger = Ledger::open(disk, rng, &dir, options, b"", &mut |_| {}).unwrap();
    let writer = std::thread::spawn(move || {
        let mut group = Group::new();
        for number in 0..150_u64 {
            // Longer than a page many times over: it does not appear in the file at once.
            let body = [number.to_le_bytes().to_vec(), vec![7; 200_000]].concat();
            group.push(7, &[&body]).unwrap();
            ledger.append(&mut group, b"", &mut Vec::new).unwrap();
        }
    });
    loop {
        let done = writer.is_finished();
        let (numbers, ended) = read_beside(Arc::new(RealDisk), &dir);
        ended.unwrap();
        assert!((0..).zip(&numbers).all(|(at, number)| at == *number));
        if done {
            assert_eq!(numbers.len(), 150);
            return writer.join().unwrap();
        }
    }
}

#[test]
fn a_second_process_is_refused() {
    let disk = SimDisk::new();
    let _first = Counter::open(&disk).unwrap();
    assert!(matches!(
        Counter::open(&disk).err(),
        Some(LedgerError::Locked { .. })
    ));
}

#[test]
fn old_segments_go_and_what_is_left_reads_on() {
    let disk = SimDisk::new();
    let mut counter = Counter::open(&disk).unwrap();
    (0..30).for_each(|_| counter.append(1).unwrap());
    let middle = counter.ledger.end() / 2;
    assert!(counter.ledger.remove_before(middle).unwrap() > 0);
    let numbers = counter.numbers().unwrap();
    assert_eq!(numbers.last(), Some(&29));
    assert!(numbers.len() < 30 && numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]));
    assert!(counter.ledger.start().unwrap() <= middle);
}

#[test]
fn an_erased_record_reads_as_zeros_and_the_ledger_stays_whole() {
    let disk = SimDisk::new();
    let open = |replay: &mut dyn FnMut(jurat_ledger::Replayed<'_>)| {
        let (disk, rng) = (Arc::new(disk.clone()), Arc::new(Repeatable::new(1)));
        Ledger::open(disk, rng, Path::new(DIR), Options::default(), b"", replay).unwrap()
    };
    let mut ledger = open(&mut |_| {});
    let mut group = Group::new();
    for body in [b"keep", b"gone", b"half"] {
        group.push(1, &[body]).unwrap();
    }
    ledger.append(&mut group, b"", &mut Vec::new).unwrap();
    let mut reader = ledger.read(0).unwrap();
    reader.next_record().unwrap();
    let mut next = || reader.next_record().unwrap().unwrap().position;
    let places = [(next(), 0), (next(), 2)];
    ledger.erase(&places).unwrap();
    // Once more changes nothing.
    ledger.erase(&places).unwrap();
    drop(ledger);
    let ledger = open(&mut |_| {});
    let mut reader = ledger.read(0).unwrap();
    let mut found = Vec::new();
    while let Some(item) = reader.next_record().unwrap() {
        found.push((item.erased, item.body.to_vec()));
    }
    assert_eq!(
        found,
        [
            (false, b"keep".to_vec()),
            (true, vec![0; 4]),
            (true, b"ha\0\0".to_vec())
        ]
    );
    let report = fsck(&disk, Path::new(DIR)).unwrap();
    assert!(report.is_clean());
    assert_eq!(report.segments[0].erased, 2);
}

#[test]
fn a_mark_of_erasure_of_which_a_power_cut_wrote_only_one_half_is_no_damage() {
    let bytes = |disk: &SimDisk| {
        let mut copy = Vec::new();
        disk.corrupt(&last_segment(disk), |bytes| copy.clone_from(bytes));
        copy
    };
    let disk = SimDisk::new();
    let mut counter = Counter::open(&disk).unwrap();
    counter.append(3).unwrap();
    let before = bytes(&disk);
    let mut reader = counter.ledger.read(0).unwrap();
    reader.next_record().unwrap();
    let position = reader.next_record().unwrap().unwrap().position;
    counter.ledger.erase(&[(position, 0)]).unwrap();
    let marked = bytes(&disk)[position as usize..][..16].to_vec();
    drop(counter);
    // A sector ends at one of these places, before its CRC.
    for cut in 0..=12 {
        for first in [true, false] {
            disk.corrupt(&last_segment(&disk), |bytes| {
                bytes.clone_from(&before);
                let header = &mut bytes[position as usize..][..16];
                let (new, old) = (&marked, header.to_vec());
                for (at, byte) in header.iter_mut().enumerate() {
                    *byte = if (at < cut) == first {
                        new[at]
                    } else {
                        old[at]
                    };
                }
            });
            let counter = Counter::open(&disk).unwrap();
            let mut reader = counter.ledger.read(0).unwrap();
            let mut records = 0;
            while reader.next_record().unwrap().is_some() {
                records += 1;
            }
            assert_eq!(records, 3, "cut at {cut}");
        }
    }
}

#[test]
fn a_record_copied_to_another_place_does_not_count() {
    let disk = SimDisk::new();
    let mut counter = Counter::open(&disk).unwrap();
    counter.append(1).unwrap();
    let before = counter.ledger.end();
    drop(counter);
    let path = last_segment(&disk);
    // The whole file appended to itself: every header is good, and none fits its new place.
    disk.corrupt(&path, |bytes| bytes.extend_from_within(64..));
    assert_eq!(Counter::open(&disk).unwrap().ledger.end(), before);
}
