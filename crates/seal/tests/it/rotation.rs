//! Rotation: whenever the power goes, exactly one key signs each head, and the ledger says which.

use std::path::Path;
use std::sync::{Arc, Mutex};

use jurat_event::{Event, Kind};
use jurat_key::{Secret, SoftwareKey};
use jurat_ledger::LedgerError;
use jurat_proof::{
    Checkpoint, EntryView, Frontier, Note, Rotation, Signer, SignerError, VerifierKey, leaf_hash,
};
use jurat_seal::{Prune, ROTATIONS_MAX, SealError, Sealer, kind};
use jurat_testkit::{Fault, Repeatable, SimDisk};
use serde_json::Map;

use crate::{ORIGIN, faults, host, redacted, settings};

/// The keys of the log's life, in order.
const SEEDS: [u8; 3] = [5, 6, 7];
const ROUNDS: u64 = 9;

fn key(seed: u8) -> SoftwareKey {
    SoftwareKey::log(&Secret::from_bytes([seed; 32]), ORIGIN).unwrap()
}

/// Every signature that was ever made: the head, and the key.
type Signed = Arc<Mutex<Vec<(Checkpoint, VerifierKey)>>>;

struct Watched {
    key: SoftwareKey,
    disk: SimDisk,
    signed: Signed,
}

impl Signer for Watched {
    fn verifier_key(&self) -> &VerifierKey {
        self.key.verifier_key()
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignerError> {
        // A proof of consent is no head.
        if let Ok(checkpoint) = Checkpoint::parse(std::str::from_utf8(message).unwrap()) {
            faults::assert_durable(&self.disk, &checkpoint);
            let key = self.key.verifier_key().clone();
            self.signed.lock().unwrap().push((checkpoint, key));
        }
        self.key.sign(message)
    }
}

fn open(disk: &SimDisk, seeds: &[u8], signed: &Signed) -> Result<(Sealer, u64), SealError> {
    let signers: Vec<Arc<dyn Signer>> = seeds
        .iter()
        .map(|seed| {
            let signer = Watched {
                key: key(*seed),
                disk: disk.clone(),
                signed: signed.clone(),
            };
            Arc::new(signer) as Arc<dyn Signer>
        })
        .collect();
    let mut rounds = 0;
    let sealer = Sealer::open(
        host(disk),
        Path::new("/l"),
        settings(),
        &signers,
        &mut |_, blob| rounds = u64::from_le_bytes(blob.try_into().unwrap()),
    )?;
    Ok((sealer, rounds))
}

/// Which of the keys has signed, or is about to, last.
fn newest(sealer: &Sealer) -> usize {
    let newest = sealer.rotating().unwrap_or(sealer.key());
    let place = |seed: &u8| key(*seed).verifier_key() == newest;
    SEEDS.iter().position(place).unwrap()
}

/// Three rounds with each key; a round is two leaves and a batch.
fn work(disk: &SimDisk, signed: &Signed) -> Result<(), SealError> {
    let (mut sealer, mut done) = open(disk, &SEEDS, signed)?;
    let blob = done.to_le_bytes();
    sealer.sign_pending(&mut || blob.to_vec())?;
    while done < ROUNDS {
        let wanted = (done / 3) as usize;
        let blob = done.to_le_bytes();
        if newest(&sealer) < wanted {
            let next = Watched {
                key: key(SEEDS[wanted]),
                disk: disk.clone(),
                signed: signed.clone(),
            };
            sealer.rotate_to(Arc::new(next))?;
            sealer.seal_batch(Map::new(), &blob, &mut || blob.to_vec())?;
            assert_eq!(sealer.key(), key(SEEDS[wanted]).verifier_key());
            assert!(sealer.rotating().is_none());
        }
        sealer.push(redacted(&format!("{{\"n\":{done}}}")), None)?;
        sealer.push_own(Event::own(Kind::Heartbeat))?;
        done += 1;
        let blob = done.to_le_bytes();
        sealer.seal_batch(Map::new(), &blob, &mut || blob.to_vec())?;
    }
    Ok(())
}

/// Reads the ledger as a stranger who knows the first key. Returns the keys in order of their first head.
fn history(sealer: &Sealer) -> Vec<VerifierKey> {
    let mut frontier = Frontier::default();
    let mut keys = vec![key(SEEDS[0]).verifier_key().clone()];
    let mut pending = None;
    let mut reader = sealer.ledger().read(0).unwrap();
    while let Some(item) = reader.next_record().unwrap() {
        match item.kind {
            kind::ENTRY => {
                frontier.push(leaf_hash(item.body));
                let view = EntryView::parse(item.body).unwrap();
                if view.is(Kind::KeyRotated) {
                    assert!(pending.is_none());
                    let detail = view.detail_map().into_iter().collect();
                    let rotation = Rotation::parse(ORIGIN, keys.last().unwrap(), &detail).unwrap();
                    pending = Some(rotation.key);
                }
            }
            kind::CHECKPOINT => {
                let note = Note::parse(item.body).unwrap();
                assert_eq!(note.is_signed_by(keys.last().unwrap()), Ok(true));
                let head = Checkpoint::parse(&note.text).unwrap();
                assert_eq!((head.size, head.root), (frontier.size(), frontier.root()));
                keys.extend(pending.take());
            }
            _ => {}
        }
    }
    assert!(pending.is_none());
    keys
}

fn all_keys() -> Vec<VerifierKey> {
    SEEDS.map(|seed| key(seed).verifier_key().clone()).to_vec()
}

#[test]
fn at_any_power_cut_or_failed_write_one_key_signs_each_head_and_each_rotation_happens_once() {
    let clean = SimDisk::new();
    work(&clean, &Signed::default()).unwrap();
    for fault in [
        Fault::Crash,
        Fault::SyncError,
        Fault::Full,
        Fault::FullForGood,
        Fault::Killed,
    ] {
        let mut stopped = 0;
        for step in 0..clean.steps() {
            let disk = SimDisk::new();
            let signed = Signed::default();
            disk.fail_at(step, fault);
            stopped += u64::from(work(&disk, &signed).is_err());
            disk.heal();
            disk.crash(&Repeatable::new(step));
            work(&disk, &signed).unwrap_or_else(|error| panic!("{fault:?} at {step}: {error}"));
            disk.crash(&Repeatable::new(step + 1));
            let (sealer, done) = open(&disk, &SEEDS, &signed).unwrap();
            assert_eq!(done, ROUNDS);
            assert_eq!(history(&sealer), all_keys(), "{fault:?} at {step}");
            // Nothing that was ever signed, by whichever life of the sealer, contradicts it.
            let mut signed = signed.lock().unwrap().clone();
            signed.sort_by_key(|(head, _)| head.size);
            for pair in signed.windows(2) {
                let same = pair[0].0.size == pair[1].0.size;
                assert!(!same || pair[0] == pair[1], "{fault:?} at {step}: {pair:?}");
            }
        }
        assert!(stopped > 0, "{fault:?} never stopped the work");
    }
}

#[test]
fn a_ledger_whose_key_is_not_here_is_refused_and_old_keys_are_not_needed() {
    let disk = SimDisk::new();
    work(&disk, &Signed::default()).unwrap();
    for seeds in [&[5_u8][..], &[6], &[5, 6]] {
        let refused = open(&disk, seeds, &Signed::default());
        assert!(matches!(refused, Err(SealError::Key { .. })), "{seeds:?}");
    }
    assert_eq!(
        history(&open(&disk, &[7], &Signed::default()).unwrap().0),
        all_keys()
    );
}

#[test]
fn a_second_rotation_waits_for_the_head_over_the_first() {
    let disk = SimDisk::new();
    let (mut sealer, _) = open(&disk, &SEEDS, &Signed::default()).unwrap();
    sealer.rotate_to(Arc::new(key(6))).unwrap();
    assert!(matches!(
        sealer.rotate_to(Arc::new(key(7))),
        Err(SealError::Rotating)
    ));
    // Its head was overtaken: the next one is the last that the old key signs.
    let blob = 0_u64.to_le_bytes();
    sealer.push_own(Event::own(Kind::Heartbeat)).unwrap();
    sealer
        .seal_batch(Map::new(), &blob, &mut || blob.to_vec())
        .unwrap();
    assert_eq!(history(&sealer), all_keys()[..2]);
}

#[test]
fn a_log_that_had_as_many_rotations_as_it_may_have_says_so_and_goes_on() {
    let disk = SimDisk::new();
    let (mut sealer, _) = open(&disk, &SEEDS, &Signed::default()).unwrap();
    let blob = 0_u64.to_le_bytes();
    let seal = |sealer: &mut Sealer| {
        sealer
            .seal_batch(Map::new(), &blob, &mut || blob.to_vec())
            .unwrap();
    };
    for round in 0..ROTATIONS_MAX {
        sealer
            .rotate_to(Arc::new(key(SEEDS[(round + 1) % 2])))
            .unwrap();
        seal(&mut sealer);
    }
    for reopened in [false, true] {
        let refused = sealer.rotate_to(Arc::new(key(SEEDS[1])));
        assert!(matches!(refused, Err(SealError::Rotations)), "{reopened}");
        sealer.push_own(Event::own(Kind::Heartbeat)).unwrap();
        seal(&mut sealer);
        drop(sealer);
        sealer = open(&disk, &SEEDS, &Signed::default()).unwrap().0;
    }
}

#[test]
fn a_rotation_that_the_new_key_did_not_agree_to_is_not_followed() {
    let disk = SimDisk::new();
    let (mut sealer, _) = open(&disk, &SEEDS, &Signed::default()).unwrap();
    let mut event = Event::own(Kind::KeyRotated);
    event.detail = Rotation::detail(sealer.key(), &key(6)).unwrap();
    let other = key(7).verifier_text();
    event.detail.insert("key".into(), other.into());
    sealer.push_own(event).unwrap();
    let blob = 0_u64.to_le_bytes();
    sealer.commit(&blob, &mut || blob.to_vec()).unwrap();
    drop(sealer);
    let refused = open(&disk, &SEEDS, &Signed::default());
    assert!(matches!(refused, Err(SealError::Rotation { .. })));
}

#[test]
fn pruning_keeps_the_leaf_that_names_the_next_key() {
    let disk = SimDisk::new();
    work(&disk, &Signed::default()).unwrap();
    let (mut sealer, _) = open(&disk, &SEEDS, &Signed::default()).unwrap();
    let closed = sealer.ledger().closed().unwrap();
    let mut removed = 0;
    for closed in closed {
        match sealer.prune(closed, Prune::Entries) {
            Ok(Some(pruned)) => {
                removed += pruned.entries;
                sealer.apply(pruned).unwrap();
            }
            Ok(None) | Err(SealError::Ledger(LedgerError::Full { .. })) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert!(removed > 10);
    let mut rotations = 0;
    let mut reader = sealer.ledger().read(0).unwrap();
    while let Some(item) = reader.next_record().unwrap() {
        let rotates = |body: &[u8]| EntryView::parse(body).unwrap().is(Kind::KeyRotated);
        rotations += u64::from(item.kind == kind::ENTRY && rotates(item.body));
    }
    assert_eq!(rotations, 2);
}
