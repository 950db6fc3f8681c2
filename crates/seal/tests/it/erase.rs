//! Erasing on a disk that stops at every single step.

use std::path::Path;
use std::sync::Arc;

use jurat_disk::Disk as _;
use jurat_event::{EraseRequest, Ranges};
use jurat_ledger::Reader;
use jurat_proof::EntryView;
use jurat_seal::{EraseError, SealError, kind};
use jurat_testkit::{Fault, Repeatable, SimDisk};

use crate::{Log, open};

const ROUNDS: u64 = 24;

/// In a closed segment, over its end, and in the last one.
fn wanted() -> EraseRequest {
    EraseRequest {
        ranges: vec![(2, 5), (20, 60), (80, 83)].into(),
        ..EraseRequest::default()
    }
}

/// What the payload of a leaf says that a round sealed.
fn filled() -> Log {
    let disk = SimDisk::new();
    fill(&disk)
}

fn fill(disk: &SimDisk) -> Log {
    let mut log = open(disk, &Arc::default()).unwrap();
    for round in 0..ROUNDS {
        log.round(round).unwrap();
    }
    log
}

/// What the endpoint does with a request, and at every start with what is left of one.
fn erase(log: &mut Log) -> Result<(), SealError> {
    finish(log)?;
    let found = match log.sealer.erasable(&wanted()) {
        Ok(found) => found,
        Err(EraseError::Seal(error)) => return Err(error),
        Err(error) => panic!("{error}"),
    };
    if found.count > 0 {
        log.sealer.push_erasure(&found, "somebody", "asked for")?;
        let blob = log.blobs.to_le_bytes();
        let map = serde_json::Map::new();
        log.sealer.seal_batch(map, &blob, &mut || blob.to_vec())?;
    }
    finish(log)
}

fn finish(log: &mut Log) -> Result<(), SealError> {
    if log.sealer.erasing().is_empty() {
        return Ok(());
    }
    log.sealer.erase_sealed()?;
    log.sealer.note_erased()?;
    let blob = log.blobs.to_le_bytes();
    log.sealer.commit(&blob, &mut || blob.to_vec())
}

/// What stands in a ledger.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    /// `payload.erased` leaves, with what they name.
    said: Ranges,
    leaves: u64,
    erased: Ranges,
    kept: Ranges,
}

fn look(disk: &SimDisk) -> Found {
    let mut found = Found::default();
    let mut reader = Reader::open(Arc::new(disk.clone()), Path::new("/l"), 0).unwrap();
    let mut seq = 0;
    while let Some(item) = reader.next_record().unwrap() {
        match item.kind {
            kind::ENTRY => {
                let view = EntryView::parse(item.body).unwrap();
                seq = view.seq;
                if view.kind == "payload.erased" {
                    let detail = view.detail_map();
                    let said: Ranges = serde_json::from_value(detail["ranges"].clone()).unwrap();
                    found.said = found.said.union(&said);
                    found.leaves += 1;
                }
            }
            kind::PAYLOAD if item.erased => found.erased.push((seq, seq + 1)),
            kind::PAYLOAD => found.kept.push((seq, seq + 1)),
            _ => {}
        }
    }
    found
}

/// Every byte of every file.
fn bytes(disk: &SimDisk) -> Vec<u8> {
    let mut all = Vec::new();
    for name in disk.list(Path::new("/l")).unwrap() {
        let path = Path::new("/l").join(name);
        all.extend(jurat_disk::read(disk, &path, u64::MAX).unwrap());
    }
    all
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

#[test]
fn wherever_the_power_goes_nothing_is_erased_without_its_leaf_and_what_was_begun_is_finished() {
    let clean = SimDisk::new();
    let mut log = fill(&clean);
    let head = log.sealer.head();
    let first = clean.steps();
    let before = look(&clean);
    erase(&mut log).unwrap();
    let steps = clean.steps();
    let whole = look(&clean);
    let gone = before.kept.intersection(&wanted().ranges);
    assert_eq!((&whole.erased, whole.leaves), (&gone, 1));
    assert_eq!(whole.kept, before.kept.without(&gone));
    assert_eq!(log.sealer.erased(), gone.leaves());
    // Nothing but leaves came after the head that was.
    assert!(log.sealer.head().size > head.size);
    // The leaves 2 to 4 are the last two of the first round and the first of the second one.
    let texts = ["\"n\":\"0.1\"", "\"n\":\"0.2\"", "\"n\":\"1.0\""];
    for text in texts {
        assert!(holds(
            &bytes(&{
                let disk = SimDisk::new();
                fill(&disk);
                disk
            }),
            text
        ));
        assert!(!holds(&bytes(&clean), text));
    }
    let mut begun = [0; 3];
    for step in first..steps {
        for seed in 0..6 {
            let disk = SimDisk::new();
            let mut log = fill(&disk);
            disk.fail_at(step, Fault::Crash);
            assert!(erase(&mut log).is_err(), "step {step}");
            drop(log);
            disk.crash(&Repeatable::new(seed));
            let found = look(&disk);
            assert_eq!(
                found.erased.without(&found.said),
                Ranges::default(),
                "step {step}: erased and not said"
            );
            begun[usize::from(found.leaves > 0) + usize::from(!found.erased.is_empty())] += 1;
            // The next start, and the request once more.
            let mut log = open(&disk, &Arc::default()).unwrap();
            assert!(
                found.erased.is_empty() || !log.sealer.erasing().is_empty() || found.erased == gone
            );
            finish(&mut log).unwrap();
            let found = look(&disk);
            assert_eq!(
                found.erased,
                found.said.intersection(&before.kept),
                "step {step}"
            );
            erase(&mut log).unwrap();
            drop(log);
            let found = look(&disk);
            assert_eq!((&found.erased, found.leaves), (&gone, 1), "step {step}");
            let log = open(&disk, &Arc::default()).unwrap();
            assert!(log.sealer.erasing().is_empty());
            assert_eq!(log.sealer.erased(), gone.leaves(), "step {step}");
            for text in texts {
                assert!(!holds(&bytes(&disk), text), "step {step}: {text}");
            }
        }
    }
    assert!(begun.iter().all(|count| *count > 0), "{begun:?}");
}

#[test]
fn what_does_not_exist_is_refused_and_a_session_is_erased_whole() {
    let log = filled();
    let size = log.sealer.head().size;
    let ask = |ranges: Vec<(u64, u64)>, sessions: &[&str]| {
        log.sealer.erasable(&EraseRequest {
            ranges: ranges.into(),
            sessions: sessions.iter().map(|name| (*name).to_owned()).collect(),
            ..EraseRequest::default()
        })
    };
    assert!(matches!(
        ask(vec![(2, size + 1)], &[]),
        Err(EraseError::Beyond { last, .. }) if last == size
    ));
    assert!(matches!(
        ask(Vec::new(), &["s1", "s2"]),
        Err(EraseError::Session(name)) if name == "s2"
    ));
    let all = ask(Vec::new(), &["s1"]).unwrap();
    assert_eq!((all.count, all.gone), (3 * ROUNDS, 0));
    assert_eq!(ask(vec![(0, size)], &[]).unwrap(), all);
    // Leaves without a payload between two of them cost no range.
    assert_eq!(all.ranges.pairs().len(), 1);
    assert_eq!(ask(vec![(0, 1)], &[]).unwrap().count, 0);
}
