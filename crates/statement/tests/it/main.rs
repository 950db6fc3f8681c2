//! What is signed was recomputed, and reads as the specifications say.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use coset::cbor::value::Value;
use coset::{CoseSign1, TaggedCborSerializable as _};
use jurat_key::{HeldSigner, P256Key, Secret, SoftwareKey};
use jurat_proof::{
    Checkpoint, Digest, Note, Signature, Signer, inclusion_proof, leaf_hash, root_of, sha256,
};
use jurat_statement::{
    InclusionBuilder, Session, SessionBuilder, StatementError, envelope, receipt,
};
use proptest::prelude::*;
use serde_json::json;

const ORIGIN: &str = "example.org/jurat/d/0";

fn ed25519() -> SoftwareKey {
    SoftwareKey::log(&Secret::from_bytes([1; 32]), ORIGIN).unwrap()
}

fn p256() -> HeldSigner {
    P256Key::log(&Secret::from_bytes([2; 32]), ORIGIN).unwrap()
}

fn head(leaves: &[Digest]) -> Checkpoint {
    Checkpoint {
        origin: ORIGIN.into(),
        size: leaves.len() as u64,
        root: root_of(leaves),
    }
}

fn leaves(count: usize) -> Vec<Digest> {
    (0..count).map(|at| leaf_hash(&at.to_le_bytes())).collect()
}

proptest! {
    #[test]
    fn the_path_of_leaves_that_pass_by_is_that_of_rfc_6962(size in 1..700_usize, at in 0..700_usize, more in 0..3_usize) {
        let all = leaves(size + more);
        let (under, index) = (&all[..size], at % size);
        let mut builder = InclusionBuilder::new(head(under), index as u64).unwrap();
        all.iter().for_each(|leaf| builder.push(*leaf));
        prop_assert_eq!(Some(builder.finish().unwrap().path), inclusion_proof(under, index));
    }
}

#[test]
fn nothing_is_signed_that_the_leaves_do_not_give() {
    let all = leaves(9);
    let beyond = InclusionBuilder::new(head(&all), 9);
    assert!(matches!(
        beyond,
        Err(StatementError::Beyond { index: 9, size: 9 })
    ));
    let finish = |leaves: &[Digest], head: Checkpoint| {
        let mut builder = InclusionBuilder::new(head, 3).unwrap();
        leaves.iter().for_each(|leaf| builder.push(*leaf));
        builder.finish()
    };
    assert!(finish(&all, head(&all)).is_ok());
    let mut changed = all.clone();
    changed[8].0[0] ^= 1;
    for (leaves, head) in [
        (&changed[..], head(&all)),
        (&all[..8], head(&all)),
        (&all[..], head(&changed)),
    ] {
        let done = finish(leaves, head);
        assert!(matches!(done, Err(StatementError::Root { .. })), "{done:?}");
    }
}

#[test]
fn a_receipt_has_the_labels_of_rfc_9942_and_no_payload() {
    let all = leaves(11);
    let mut builder = InclusionBuilder::new(head(&all), 10).unwrap();
    all.iter().for_each(|leaf| builder.push(*leaf));
    let inclusion = builder.finish().unwrap();
    // Many signatures: the numbers of ECDSA are now and then shorter than 32 bytes.
    for _ in 0..600 {
        for (signer, alg, algorithm) in [
            (
                &ed25519() as &dyn Signer,
                -8,
                &ED25519 as &dyn VerificationAlgorithm,
            ),
            (&p256(), -7, &ECDSA_P256_SHA256_FIXED),
        ] {
            let key = &signer.verifier_key().key;
            let bytes = receipt(signer, &inclusion).unwrap();
            let read = CoseSign1::from_tagged_slice(&bytes).unwrap();
            assert_eq!(read.payload, None);
            read.verify_detached_signature(&head(&all).root.0, &[], |signature, message| {
                UnparsedPublicKey::new(algorithm, key.bytes()).verify(message, signature)
            })
            .unwrap();
            let protected = read.protected.original_data.unwrap();
            let claims = vec![
                (1.into(), ORIGIN.into()),
                (2.into(), format!("{ORIGIN}#10").into()),
            ];
            assert_eq!(
                coset::cbor::de::from_reader::<Value, _>(protected.as_slice()).unwrap(),
                Value::Map(vec![
                    (1.into(), alg.into()),
                    (4.into(), Value::Bytes(sha256(&[&key.spki()]).0.to_vec())),
                    (15.into(), Value::Map(claims)),
                    (395.into(), 1.into()),
                ])
            );
            let path = inclusion.path.iter();
            let path = path.map(|hash| Value::Bytes(hash.0.to_vec())).collect();
            let proof = vec![11.into(), 10.into(), Value::Array(path)];
            let mut blob = Vec::new();
            coset::cbor::ser::into_writer(&Value::Array(proof), &mut blob).unwrap();
            let proofs = Value::Array(vec![Value::Bytes(blob)]);
            assert_eq!(
                read.unprotected.rest,
                [(
                    coset::Label::Int(396),
                    Value::Map(vec![((-1).into(), proofs)])
                )]
            );
        }
    }
}

/// An entry: kind, session with its number, redactions.
fn entry(seq: usize, kind: &str, session: Option<(&str, u64)>) -> String {
    let mut entry = json!({
        "v": 1, "salt": "AAAAAAAAAAAAAAAAAAAAAA", "seq": seq, "boot": "b", "kind": kind,
        "time": format!("2026-11-01T00:00:{seq:02}Z"),
    });
    if let Some((name, number)) = session {
        entry["session"] = name.into();
        entry["session_seq"] = number.into();
        entry["context"] = json!({"sha256": "00".repeat(32), "len": 1, "redactions": 2});
        if kind == "session.ended" {
            entry["detail"] = json!({"count": number + 1});
        }
    }
    // Entries begin with their version.
    let text = entry
        .to_string()
        .replace(r#","v":1"#, "")
        .replace(r#""v":1,"#, "");
    format!(r#"{{"v":1,{}"#, &text[1..])
}

/// What is said of session `s` in a log of these entries; of `None` only the hash is here.
fn said(entries: &[(String, bool)]) -> Result<Session, StatementError> {
    let hashes: Vec<Digest> = entries
        .iter()
        .map(|(entry, _)| leaf_hash(entry.as_bytes()))
        .collect();
    let mut builder = SessionBuilder::new(head(&hashes), "s");
    for ((entry, here), hash) in entries.iter().zip(&hashes) {
        if *here {
            builder.entry(entry.as_bytes())?;
        } else {
            builder.withheld(&[hash.0]);
        }
    }
    // What comes after the head is not under it.
    builder.entry(entry(0, "tool.call", Some(("s", 77))).as_bytes())?;
    builder.finish()
}

#[test]
fn a_session_is_complete_only_without_gap_from_its_begin_to_its_end() {
    let log = |numbers: &[(&str, u64)]| -> Vec<(String, bool)> {
        let mut log = vec![(entry(0, "log.opened", None), true)];
        for (kind, number) in numbers {
            log.push((entry(log.len(), "tool.call", Some(("other", 5))), true));
            log.push((entry(log.len(), kind, Some(("s", *number))), true));
        }
        log
    };
    let whole = log(&[("tool.call", 0), ("tool.result", 1), ("session.ended", 2)]);
    let session = said(&whole).unwrap();
    let own: Vec<u8> = [2, 4, 6]
        .iter()
        .flat_map(|at| leaf_hash(whole[*at].0.as_bytes()).0)
        .collect();
    assert_eq!(
        session,
        Session {
            origin: ORIGIN.into(),
            size: 7,
            root: session.root,
            session: "s".into(),
            first: 2,
            last: 6,
            count: 3,
            leaves_sha256: sha256(&[&own]),
            complete: true,
            ended: true,
            leaves_withheld: 0,
            redactions: 6,
            first_time: "2026-11-01T00:00:02Z".into(),
            last_time: "2026-11-01T00:00:06Z".into(),
        }
    );
    // It may go on after its end, from number 0.
    let twice = log(&[("session.ended", 0), ("tool.call", 0), ("session.ended", 1)]);
    assert!(said(&twice).unwrap().complete);
    let mut without_one = whole.clone();
    without_one[1].1 = false;
    for (why, log) in [
        (
            "it begins in the middle",
            log(&[("tool.call", 1), ("session.ended", 2)]),
        ),
        (
            "a number is missing",
            log(&[("tool.call", 0), ("session.ended", 2)]),
        ),
        (
            "a number stands twice",
            log(&[("tool.call", 0), ("tool.call", 0), ("session.ended", 1)]),
        ),
        ("it has no end", log(&[("tool.call", 0), ("tool.call", 1)])),
        (
            "it goes on after its end",
            log(&[("session.ended", 0), ("tool.call", 0)]),
        ),
        ("a leaf that may be its own is not here", without_one),
    ] {
        let session = said(&log).unwrap();
        assert!(!session.complete, "{why}: {session:?}");
    }
    let mut wrong_count = whole.clone();
    wrong_count[6].0 = wrong_count[6].0.replace(r#""count":3"#, r#""count":4"#);
    assert!(!said(&wrong_count).unwrap().complete);
    let none = said(&whole[..2]);
    assert!(
        matches!(none, Err(StatementError::NoSession(_))),
        "{none:?}"
    );
}

#[test]
fn an_envelope_is_signed_over_its_type_and_its_very_bytes() {
    let log = [(entry(0, "session.ended", Some(("s", 0))), true)];
    let session = said(&log).unwrap();
    for signer in [&ed25519() as &dyn Signer, &p256()] {
        let key = signer.verifier_key();
        let text = envelope(signer, &session).unwrap();
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        let decode = |value: &serde_json::Value| BASE64.decode(value.as_str().unwrap()).unwrap();
        let payload = String::from_utf8(decode(&read["payload"])).unwrap();
        // A note reader judges any text: the envelope's is no note, and only its type differs.
        let signed = |kind: &str| {
            let line = Signature {
                name: key.name.clone(),
                key_id: key.id(),
                bytes: decode(&read["signatures"][0]["sig"]),
            };
            let text = format!("DSSEv1 {} {kind} {} {payload}", kind.len(), payload.len());
            let signatures = vec![line];
            Note { text, signatures }.is_signed_by(key) == Ok(true)
        };
        assert!(signed("application/vnd.in-toto+json"));
        assert!(!signed("application/vnd.in-toto+jsoN"));
        let id = sha256(&[&key.key.spki()]);
        assert_eq!(read["signatures"][0]["keyid"], id.to_string());
        let statement: serde_json::Value = serde_json::from_str(&payload).unwrap();
        assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
        assert_eq!(statement["predicateType"], jurat_statement::PREDICATE_TYPE);
        let subject = json!([{
            "name": format!("{ORIGIN}#s"),
            "digest": {"sha256": session.leaves_sha256.to_string()},
        }]);
        assert_eq!(statement["subject"], subject);
        assert_eq!(statement["predicate"]["root"], session.root.to_string());
    }
}
