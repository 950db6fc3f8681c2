use jurat_attest::ima::{Accepted, ImaError, LIST_BYTES_MAX, List, Measured, PCR};
use jurat_attest::tpm::Hash;
use jurat_testkit::ima::{Line, measured, old, violated};

use crate::eventlog::hex;

fn lines() -> Vec<Line> {
    vec![
        measured(&[1; 32], "boot_aggregate", None),
        measured(&[2; 32], "/usr/bin/sh", Some(b"\x03\x02\x04sig")),
        violated("/var/log/wtmp"),
        old(&[3; 20], "/usr/bin/env"),
        measured(&[4; 32], "/opt/a b\nc", Some(b"")),
    ]
}

fn bytes(lines: &[Line]) -> Vec<u8> {
    lines.iter().flat_map(|line| line.bytes.clone()).collect()
}

/// What a TPM holds after these.
fn held(lines: &[Line]) -> Vec<u8> {
    lines.iter().fold(vec![0; 32], |value, line| {
        Hash::Sha256.digest(&[&value, &line.extended])
    })
}

fn nothing() -> Accepted {
    Accepted::nothing(Hash::Sha256, PCR)
}

/// The expected digests are those of Python's hashlib over what `ima_crypto.c` hashes.
#[test]
fn an_entry_leads_to_the_digest_that_a_kernel_extends() {
    let lines = lines();
    let list = bytes(&lines);
    let list = List::parse(&list, 0).unwrap();
    let digests = [1, 3].map(|at: usize| hex(&list.entries[at].digest(Hash::Sha384)));
    assert_eq!(digests, [SIGNED_SHA384, OLD_SHA384]);
    assert_eq!(list.entries[2].digest(Hash::Sha384), [0xff; 48]);
    for (entry, line) in list.entries.iter().zip(&lines) {
        assert_eq!(entry.digest(Hash::Sha256), line.extended);
    }
    let signed = list.entries[1].measured().unwrap();
    let expected = Measured {
        algorithm: "sha256",
        digest: &[2; 32],
        name: b"/usr/bin/sh",
        signature: b"\x03\x02\x04sig",
    };
    assert_eq!(signed, expected);
    let old = list.entries[3].measured().unwrap();
    assert_eq!((old.algorithm, old.name), ("sha1", &b"/usr/bin/env"[..]));
    assert_eq!(list.entries[4].measured().unwrap().name, b"/opt/a b\nc");
}

const SIGNED_SHA384: &str = "5422db9a0de2d5bd3bc73218587d122723993975091a75880196f0fb09af51dfa822235520e78610f7a6d7ade5039bdb";
const OLD_SHA384: &str = "b49fe4ff842e0d546273ddb65828e0bfb218f67956cc62f04af86e3804f50ea8aa9d19e2b402ec6d7d37e4d864539e4e";

#[test]
fn a_quote_may_be_of_any_beginning_that_is_not_shorter_than_the_last() {
    let lines = lines();
    let all = bytes(&lines);
    let whole = List::parse(&all, 0).unwrap();
    for before in 0..=lines.len() {
        let accepted = nothing().advance(&whole, &held(&lines[..before])).unwrap();
        assert_eq!(accepted.entries, before as u64);
        let behind = bytes(&lines[before..]);
        let behind = List::parse(&behind, before as u64).unwrap();
        for now in 0..=lines.len() {
            let quoted = held(&lines[..now]);
            for list in [&whole, &behind] {
                let next = accepted.advance(list, &quoted);
                if now < before {
                    assert_eq!(next, Err(ImaError::Quoted), "{before} {now}");
                } else {
                    let next = next.unwrap();
                    assert_eq!((next.entries, next.value), (now as u64, quoted.clone()));
                }
            }
        }
    }
}

#[test]
fn an_entry_that_was_changed_taken_out_or_put_elsewhere_leads_nowhere() {
    let lines = lines();
    let quoted = held(&lines);
    let good = bytes(&lines);
    let judge = |bytes: &[u8]| {
        let list = List::parse(bytes, 0)?;
        nothing().advance(&list, &quoted)
    };
    assert_eq!(judge(&good).unwrap().entries, 5);
    for at in 0..good.len() {
        let mut changed = good.clone();
        changed[at] ^= 1;
        match judge(&changed) {
            Err(_) => {}
            // Under no digest are the name of a template and what a violation says.
            Ok(accepted) => {
                let (list, before) = (List::parse(&changed, 0).unwrap(), &good);
                let before = List::parse(before, 0).unwrap();
                assert_eq!(accepted.entries, 5);
                for (entry, before) in list.entries.iter().zip(&before.entries) {
                    let same = entry.measured() == before.measured();
                    assert!(
                        same || entry.violation || entry.measured().is_none(),
                        "{at}"
                    );
                }
            }
        }
    }
    for cut in 0..good.len() {
        assert!(judge(&good[..cut]).is_err(), "{cut}");
    }
    for at in 0..lines.len() {
        let mut without = lines.clone();
        without.remove(at);
        assert_eq!(judge(&bytes(&without)), Err(ImaError::Quoted));
        let mut moved = lines.clone();
        moved.swap(at, (at + 1) % lines.len());
        assert_eq!(judge(&bytes(&moved)), Err(ImaError::Quoted));
    }
}

#[test]
fn what_was_accepted_is_not_rewritten_and_nothing_is_left_out_between() {
    let lines = lines();
    let all = bytes(&lines);
    let list = List::parse(&all, 0).unwrap();
    let accepted = nothing().advance(&list, &held(&lines[..2])).unwrap();

    let mut other = lines.clone();
    other[0] = measured(&[9; 32], "boot_aggregate", None);
    let others = bytes(&other);
    let others = List::parse(&others, 0).unwrap();
    let rewritten = accepted.advance(&others, &held(&other));
    assert_eq!(rewritten, Err(ImaError::Rewritten(2)));

    let behind = bytes(&lines[3..]);
    let behind = List::parse(&behind, 3).unwrap();
    let gap = accepted.advance(&behind, &held(&lines));
    let (first, entries) = (3, 1);
    let expected = ImaError::Gap { first, accepted: 2 };
    assert_eq!(gap, Err(expected));

    let one = bytes(&lines[..1]);
    let one = List::parse(&one, 0).unwrap();
    let shrunk = accepted.advance(&one, &held(&lines[..1]));
    let expected = ImaError::Shrunk {
        entries,
        accepted: 2,
    };
    assert_eq!(shrunk, Err(expected));
}

#[test]
fn another_pcr_a_weak_bank_and_a_list_without_end_are_refused_by_name() {
    let mut line = measured(&[1; 32], "/a", None);
    line.bytes[0] = 11;
    let list = List::parse(&line.bytes, 0).unwrap();
    let (entry, expected, found) = (0, 10, 11);
    let pcr = ImaError::Pcr {
        entry,
        expected,
        found,
    };
    assert_eq!(nothing().advance(&list, &[1; 32]), Err(pcr));
    let bank = Accepted::nothing(Hash::Sha1, PCR).advance(&list, &[0; 20]);
    assert_eq!(bank, Err(ImaError::Bank));
    let long = vec![0; LIST_BYTES_MAX + 1];
    assert_eq!(List::parse(&long, 0), Err(ImaError::TooLong));
    line.bytes[0] = 24;
    let no_pcr = List::parse(&line.bytes, 7);
    assert_eq!(no_pcr, Err(ImaError::Entry(7, "a PCR that does not exist")));
    line.bytes[0] = 10;
    line.bytes[4] ^= 1;
    assert_eq!(List::parse(&line.bytes, 7), Err(ImaError::TemplateHash(7)));
}
