//! What a witness is sent, and what it leaves to strangers.

use jurat_key::{Secret, SoftwareKey};
use jurat_proof::{Checkpoint, ForkProof, Note, Policy, Signer as _, leaf_hash, root_of};
use jurat_witness::{Answer, Decision, Request, Seen, judge};

use crate::{ORIGIN, log_key};

/// A request to a witness that saw nothing, and to one that saw seven leaves.
pub fn witness(data: &[u8]) {
    let Ok(request) = Request::parse(data) else {
        return;
    };
    let again = Request::encode(request.old, &request.proof, &request.note);
    assert_eq!(again.as_bytes(), data, "one text for one request");
    let witness = SoftwareKey::cosigner(&Secret::from_bytes([6; 32]), "w")
        .expect("a plain name can name a key");
    let keys = [log_key().verifier_key().clone()];
    let leaves: Vec<_> = (0_u64..7)
        .map(|number| leaf_hash(&number.to_le_bytes()))
        .collect();
    let head = Checkpoint {
        origin: ORIGIN.into(),
        size: 7,
        root: root_of(&leaves),
    };
    let seen = Seen {
        size: 7,
        root: head.root,
        time: 1_790_000_000,
        note: head
            .sign(&log_key())
            .expect("a software key signs")
            .encode(),
        fork: None,
    };
    for before in [None, Some(&seen)] {
        let judged = judge(before, &keys, &request, &witness, 1).expect("a software key signs");
        let Decision::Store { seen: now, answer } = judged else {
            continue;
        };
        if let Some(fork) = &now.fork {
            // What is kept convinces a stranger, and the log is not cosigned.
            let fork = ForkProof::parse(fork.as_bytes()).expect("what was written can be read");
            assert!(fork.check(&keys).is_ok() && !matches!(answer, Answer::Cosigned(_)));
            continue;
        }
        assert!(matches!(answer, Answer::Cosigned(_)));
        assert!(now.size >= before.map_or(0, |seen| seen.size));
        assert!(now.time >= before.map_or(1, |seen| seen.time));
        assert_eq!(request.note.is_signed_by(&keys[0]), Ok(true));
    }
}

/// A fork proof.
pub fn fork(data: &[u8]) {
    let Ok(fork) = ForkProof::parse(data) else {
        return;
    };
    assert_eq!(fork.encode().as_bytes(), data, "one text for one proof");
    let keys = [log_key().verifier_key().clone()];
    if let Ok([first, second]) = fork.check(&keys) {
        assert!(first != second && first.size <= second.size);
        assert_eq!(fork.first.is_signed_by(&keys[0]), Ok(true));
        assert_eq!(fork.second.is_signed_by(&keys[0]), Ok(true));
    }
}

/// A quorum policy: with no cosignature nothing but `quorum none` is met.
pub fn policy(data: &[u8]) {
    let Ok(policy) = Policy::parse(data) else {
        return;
    };
    let head = Checkpoint {
        origin: ORIGIN.into(),
        size: 0,
        root: root_of(&[]),
    };
    let note = head.sign(&log_key()).expect("a software key signs");
    let note = Note::parse(note.encode().as_bytes()).expect("what was written can be read");
    let holding = policy.holds(&note).expect("it bears one good signature");
    let words = data.split(u8::is_ascii_whitespace);
    let words: Vec<&[u8]> = words.filter(|word| !word.is_empty()).collect();
    let none = words
        .windows(2)
        .any(|pair| pair == [b"quorum", &b"none"[..]]);
    assert!(holding.cosigned.is_empty() && (!holding.quorum || none));
}
