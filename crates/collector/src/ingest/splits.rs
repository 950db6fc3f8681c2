//! The same leaves give the same root, however they are cut into seals and uploads.

use std::collections::BTreeSet;

use jurat_key::{Secret, SoftwareKey};
use jurat_proof::Signer as _;
use jurat_proof::{Context, context_hasher, leaf_hash, root_of, write_record};
use proptest::prelude::*;
use serde_json::json;

use super::*;

const ORIGIN: &str = "example.org/jurat/d/0";

struct Made {
    entry: Vec<u8>,
    payload: Option<Vec<u8>>,
}

/// A log of these leaves: every third with a payload, two sessions in turns, a batch ended now and then.
fn made(count: usize, ends: &BTreeSet<usize>) -> Vec<Made> {
    let mut chain = Chain::new(ORIGIN);
    let mut in_batch = 0;
    let mut numbers = [0_u64; 2];
    let mut log = Vec::new();
    for seq in 0..count {
        let mut entry = json!({ "salt": "c2FsdHNhbHRzYWx0c2FsdA", "seq": seq, "boot": "b", "time": "t", "kind": "other" });
        let mut payload = None;
        if seq == 0 {
            entry["kind"] = "log.opened".into();
            entry["detail"] = json!({ "origin": ORIGIN });
        } else if ends.contains(&seq) {
            entry["kind"] = "batch.sealed".into();
            entry["detail"] = json!({ "count": in_batch, "chain": chain.0.to_string() });
        } else {
            entry["session"] = format!("s{}", seq % 2).into();
            entry["session_seq"] = numbers[seq % 2].into();
            numbers[seq % 2] += 1;
            if seq % 3 == 0 {
                let bytes = vec![b'x'; seq * 7];
                let mut hasher = context_hasher(&[4; 32]);
                hasher.update(&bytes);
                let (sha256, len) = (hasher.finish(), bytes.len() as u64);
                entry["context"] = json!(Context {
                    sha256,
                    len,
                    redactions: 0
                });
                payload = Some(bytes);
            }
        }
        in_batch = if entry["kind"] == "batch.sealed" {
            0
        } else {
            in_batch + 1
        };
        let entry = format!("{{\"v\":1,{}", &entry.to_string()[1..]).into_bytes();
        chain.push(&leaf_hash(&entry));
        log.push(Made { entry, payload });
    }
    log
}

/// Uploads that hold the log up to each of these sizes, with a checkpoint at every size in `heads`, and
/// with only the hashes of the leaves in `withheld`.
fn uploads(
    log: &[Made],
    sizes: &BTreeSet<usize>,
    heads: &BTreeSet<usize>,
    withheld: &BTreeSet<usize>,
    key: &SoftwareKey,
) -> Vec<Vec<u8>> {
    let mut frontier = Frontier::default();
    let (mut out, mut raw) = (Vec::new(), Vec::new());
    for (seq, made) in log.iter().enumerate() {
        let hash = leaf_hash(&made.entry);
        frontier.push(hash);
        if withheld.contains(&seq) {
            let (from, hashes) = (seq as u64, &[hash.0]);
            write_record(&mut raw, &Record::Leaves { from, hashes });
        } else {
            write_record(&mut raw, &Record::Entry(&made.entry));
            if let Some(bytes) = &made.payload {
                let salt = &[4; 32];
                write_record(&mut raw, &Record::Payload { salt, bytes });
            }
        }
        let size = seq + 1;
        if heads.contains(&size) || sizes.contains(&size) {
            let checkpoint = Checkpoint {
                origin: ORIGIN.into(),
                size: frontier.size(),
                root: frontier.root(),
            };
            let note = checkpoint.sign(key).unwrap().encode();
            write_record(&mut raw, &Record::Checkpoint(note.as_bytes()));
        }
        if sizes.contains(&size) {
            out.push(std::mem::take(&mut raw));
        }
    }
    out
}

fn places(count: usize) -> impl Strategy<Value = BTreeSet<usize>> {
    proptest::collection::btree_set(1..=count, 0..10)
}

proptest! {
    #[test]
    fn however_a_log_is_cut_into_uploads_each_is_taken_and_the_root_is_the_same(
        (count, ends, mut sizes, heads) in (2..60_usize).prop_flat_map(|count| (Just(count), places(count - 1), places(count), places(count))),
        withheld in places(59),
    ) {
        let log = made(count, &ends);
        let key = SoftwareKey::log(&Secret::from_bytes([5; 32]), ORIGIN).unwrap();
        sizes.insert(count);
        let leaves: Vec<Digest> = log.iter().map(|made| leaf_hash(&made.entry)).collect();
        let mut chain = Chain::new(ORIGIN);
        for leaf in &leaves {
            chain.push(leaf);
        }
        for withheld in [BTreeSet::new(), withheld] {
            let signer = key.verifier_key();
            let mut known = Known { frontier: Frontier::default(), chain: Chain::new(ORIGIN), key: signer.clone(), before: None, retired: Vec::new() };
            let mut missing = 0;
            let cut = uploads(&log, &sizes, &heads, &withheld, &key);
            prop_assert_eq!(cut.len(), sizes.len());
            for (raw, size) in cut.iter().zip(&sizes) {
                let judged = judge(raw, ORIGIN, &known);
                let Ok(Some(judged)) = judged else {
                    return Err(TestCaseError::fail(format!("up to {size}: {:?}", judged.err())));
                };
                prop_assert_eq!(judged.frontier.size(), *size as u64);
                prop_assert_eq!(judged.root, root_of(&leaves[..*size]));
                prop_assert_eq!(judged.missing.leaves(), 0);
                missing += judged.leaves_withheld;
                known = Known { frontier: judged.frontier, chain: judged.chain, key: judged.key, before: None, retired: Vec::new() };
                // The same again, or an earlier one, is not taken twice.
                let again = judge(raw, ORIGIN, &known);
                prop_assert!(!matches!(again, Ok(Some(_))));
            }
            prop_assert_eq!(missing as usize, withheld.iter().filter(|seq| **seq < count).count());
            prop_assert_eq!((known.frontier.root(), known.chain), (root_of(&leaves), chain));
        }
    }
}
