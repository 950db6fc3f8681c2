//! A disk that fails at every single step, in every way that disks fail.

use std::path::Path;
use std::sync::{Arc, Mutex};

use jurat_ledger::{LedgerError, Reader};
use jurat_proof::{Checkpoint, Frontier, leaf_hash};
use jurat_seal::{SealError, kind};
use jurat_testkit::{Fault, Repeatable, SimDisk};

use crate::{Log, ROUNDS, open, work};

type Signed = Arc<Mutex<Vec<(Checkpoint, String)>>>;

/// A head that is being signed would survive a power cut at this moment: the entries, and the head itself.
pub(crate) fn assert_durable(disk: &SimDisk, head: &Checkpoint) {
    let survivor = disk.durable();
    let mut reader = Reader::open(Arc::new(survivor), Path::new("/l"), 0).unwrap();
    let mut frontier = Frontier::default();
    let mut announced = false;
    while let Some(item) = reader.next_record().unwrap() {
        if item.kind == kind::ENTRY {
            frontier.push(leaf_hash(item.body));
        } else if item.kind == kind::TO_SIGN {
            let wanted = [head.size.to_le_bytes().as_slice(), &head.root.0].concat();
            announced |= item.body == wanted;
        }
    }
    assert!(
        announced,
        "signed before the head of {} was durable",
        head.size
    );
    assert_eq!((frontier.size(), frontier.root()), (head.size, head.root));
}

/// How the owner goes on after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// It opens the ledger anew, as the endpoint does.
    Reopen,
    /// The power goes, too, and with it what the failed operation left in memory.
    PowerCut,
    /// There is room again, and the sealer goes on with what it kept.
    Retry,
}

/// Works until the fault stops it. Returns the rounds that were acknowledged.
fn until_the_fault(disk: &SimDisk, signed: &Signed, then: Then) -> u64 {
    let Ok(mut log) = open(disk, signed) else {
        return 0;
    };
    let mut acknowledged = log.blobs;
    while acknowledged < ROUNDS {
        match log.round(acknowledged) {
            Ok(()) => {}
            Err(SealError::Ledger(LedgerError::Full { .. })) if then == Then::Retry => {
                disk.heal();
                retry(&mut log);
            }
            Err(_) => {
                // Whatever is asked of it now, it signs nothing that is not durable.
                let blob = (log.blobs + 1).to_le_bytes();
                let _ = log.sealer.sign_pending(&mut || blob.to_vec());
                return acknowledged;
            }
        }
        acknowledged = log.blobs;
        // Acknowledged means: it survives a power cut now.
        let survivor = open(&disk.durable(), &Arc::default()).unwrap();
        assert_eq!(survivor.blobs, acknowledged);
    }
    acknowledged
}

/// The round was kept, with its batch: it becomes durable, and is signed.
fn retry(log: &mut Log) {
    let blob = (log.blobs + 1).to_le_bytes();
    let mut snapshot = || blob.to_vec();
    log.sealer.commit(&blob, &mut snapshot).unwrap();
    log.sealer.sign_pending(&mut snapshot).unwrap();
    log.blobs += 1;
}

/// Every head that was ever signed, by whichever life of the sealer, is a head of this one history.
fn assert_one_history(log: &Log, signed: &Signed, case: &str) {
    let mut roots = vec![Frontier::default().root()];
    let mut frontier = Frontier::default();
    let mut reader = log.sealer.ledger().read(0).unwrap();
    while let Some(item) = reader.next_record().unwrap() {
        if item.kind == kind::ENTRY {
            frontier.push(leaf_hash(item.body));
            roots.push(frontier.root());
        }
    }
    let signed = signed.lock().unwrap();
    assert!(signed.len() as u64 >= ROUNDS / 2, "{case}");
    for (head, _) in signed.iter() {
        assert_eq!(
            roots.get(head.size as usize),
            Some(&head.root),
            "{case}: a head at {} was signed and is not of this history",
            head.size
        );
    }
}

#[test]
fn whatever_fails_at_whatever_step_nothing_acknowledged_is_lost_and_there_is_one_history() {
    let clean = SimDisk::new();
    work(&clean, &Arc::default()).unwrap();
    let steps = clean.steps();
    let cases = [
        (Fault::SyncError, Then::Reopen),
        (Fault::SyncError, Then::PowerCut),
        (Fault::Killed, Then::Reopen),
        (Fault::Killed, Then::PowerCut),
        (Fault::ReadOnly, Then::Reopen),
        (Fault::ReadOnly, Then::PowerCut),
        (Fault::Full, Then::Reopen),
        (Fault::Full, Then::PowerCut),
        (Fault::Full, Then::Retry),
        (Fault::FullForGood, Then::Reopen),
        (Fault::FullForGood, Then::PowerCut),
        (Fault::FullForGood, Then::Retry),
    ];
    let mut stopped = [0; 12];
    for (index, (fault, then)) in cases.into_iter().enumerate() {
        for step in 0..steps {
            let case = format!("{fault:?} at step {step} of {steps}, then {then:?}");
            let disk = SimDisk::new();
            let signed = Signed::default();
            disk.fail_at(step, fault);
            let acknowledged = until_the_fault(&disk, &signed, then);
            stopped[index] += u64::from(acknowledged < ROUNDS);
            if matches!(fault, Fault::ReadOnly | Fault::Killed) && acknowledged < ROUNDS {
                // As long as nothing can be written, nothing more is signed.
                let before = signed.lock().unwrap().len();
                assert!(work(&disk, &signed).is_err(), "{case}");
                assert_eq!(signed.lock().unwrap().len(), before, "{case}");
            }
            disk.heal();
            if then == Then::PowerCut {
                disk.crash(&Repeatable::new(step));
            }
            let resumed = open(&disk, &signed).unwrap_or_else(|error| panic!("{case}: {error}"));
            assert!(
                resumed.blobs >= acknowledged,
                "{case}: {} lost",
                resumed.blobs
            );
            drop(resumed);
            let ended = work(&disk, &signed).map_err(|(_, error)| format!("{case}: {error}"));
            assert_eq!(ended, Ok(ROUNDS));
            // A last power cut: what looks whole in memory is so on the disk.
            disk.crash(&Repeatable::new(step + 1));
            let log = open(&disk, &signed).unwrap();
            let (size, last, filtered) = log.verify();
            let whole = 1 + 3 * ROUNDS + ROUNDS / 2;
            assert_eq!((size, last, log.blobs), (whole, whole, ROUNDS), "{case}");
            assert_eq!(filtered["progress"], ROUNDS, "{case}");
            assert_one_history(&log, &signed, &case);
        }
    }
    for ((fault, then), stopped) in cases.iter().zip(stopped) {
        // The faults did happen; a full disk that has room again stops nobody, except at the opening.
        assert!(
            stopped > 0,
            "{fault:?} never stopped the work, then {then:?}"
        );
    }
}
