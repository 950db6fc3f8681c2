//! Signed notes: which keys, which signatures, what is ignored and what is refused.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jurat_key::{HeldSigner, P256Key, Secret, SoftwareKey};
use jurat_proof::{
    BundleWriter, Checkpoint, Cosignature, Digest, Front, Note, NoteError, PublicKey, Record,
    Signature, Signer, Trust, Verdict, VerifierKey, leaf_hash, verify,
};

pub(crate) const ORIGIN: &str = "example.org/jurat/d/0";

pub(crate) fn checkpoint() -> Checkpoint {
    Checkpoint {
        origin: ORIGIN.into(),
        size: 7,
        root: Digest([9; 32]),
    }
}

pub(crate) fn ed25519() -> SoftwareKey {
    SoftwareKey::log(&Secret::from_bytes([1; 32]), ORIGIN).unwrap()
}

pub(crate) fn p256() -> HeldSigner {
    P256Key::log(&Secret::from_bytes([2; 32]), ORIGIN).unwrap()
}

pub(crate) fn witness() -> SoftwareKey {
    SoftwareKey::cosigner(&Secret::from_bytes([3; 32]), "example.org/witness").unwrap()
}

/// The note as a reader of its bytes sees it.
fn read(note: &Note) -> Note {
    Note::parse(note.encode().as_bytes()).unwrap()
}

fn bad(key: &VerifierKey) -> Result<bool, NoteError> {
    Err(NoteError::BadSignature(key.name.clone()))
}

/// Two checkpoints that logs of others published: Rekor's and that of the Pixel 6 images, as
/// transparency-dev/formats keeps them for its tests.
#[test]
fn checkpoints_that_strangers_signed_with_p256_are_verified() {
    let logs = [
        (
            "rekor.sigstore.dev+c0d23d6a+AjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABNhtmPtrWm3U1eQXBogSMdGvXwBcK5AW5i0hrZLOC96l+smGNM7nwZ4QvFK/4sueRoVj//QP22Ni4Qt9DPfkWLc=",
            "Rekor\n798034\nf+7CoKgXKE/tNys9TTXcr/ad6U/K3xvznmzew9y6SP0=\n\n\u{2014} rekor.sigstore.dev wNI9ajBEAiARInWIWyCdyG27CO6LPnPekyw20qO0YJfoaPaowGp/XgIgc+qEHS3+GKVClgqq20uDLet7MCoTURUCRdxwWBHHufk=\n",
        ),
        (
            "pixel6_transparency_log+91c16e30+AjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABN+4x0Jk1yTwvLFI9A4NDdGZcX0aiWVdWM5XJVy0M4VWD3AvyW5Q6Hs9A0mcDkpUoYgn+KKPNzFC0H3nN3q6JQ8=",
            "DEFAULT\n10\nbsWRucJU5xJPHb5eBdOm6+DM+VelCZBuvtI3sHERJ9Y=\n\n\u{2014} pixel6_transparency_log kcFuMDBFAiEAhqMAP8P6qf6QxtUJhzMhbN+MbZ9dwfUHzGQJmffJHtoCIGD0cNe47dHWBoPwYdgBCepB06/+g5O1FmYjXl06owL4\n",
        ),
    ];
    for (vkey, text) in logs {
        let key = VerifierKey::parse(vkey).unwrap();
        assert_eq!(key.to_string(), vkey);
        assert_eq!(key.alg, 2);
        let mut note = Note::parse(text.as_bytes()).unwrap();
        assert_eq!(note.is_signed_by(&key), Ok(true));
        assert!(Checkpoint::parse(&note.text).is_ok());
        note.text = note.text.replacen('0', "1", 1);
        assert_eq!(note.is_signed_by(&key), bad(&key));
    }
}

#[test]
fn a_changed_note_of_a_p256_log_is_refused() {
    let key = p256();
    let note = checkpoint().sign(&key).unwrap();
    let mut read = read(&note);
    assert_eq!(read, note);
    assert_eq!(read.is_signed_by(key.verifier_key()), Ok(true));
    assert_eq!(read.is_signed_by(ed25519().verifier_key()), Ok(false));
    read.text = read.text.replace("\n7\n", "\n8\n");
    assert_eq!(
        read.is_signed_by(key.verifier_key()),
        bad(key.verifier_key())
    );
}

/// A DER INTEGER of these bytes, as short as DER wants it.
fn integer(value: &[u8]) -> Vec<u8> {
    let zeros = value.iter().take_while(|byte| **byte == 0).count();
    let value = &value[zeros..];
    let sign: &[u8] = if value[0] >= 0x80 { &[0] } else { &[] };
    let len = u8::try_from(sign.len() + value.len()).unwrap();
    [&[2, len], sign, value].concat()
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [&[0x30, u8::try_from(body.len()).unwrap()], body.as_slice()].concat()
}

/// The order of P-256 minus this number.
fn negated(number: &[u8]) -> Vec<u8> {
    const ORDER: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc,
        0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let mut out = vec![0; 32];
    let mut borrow = 0;
    for at in (0..32).rev() {
        let digit = 256 + i32::from(ORDER[at]) - i32::from(number[at]) - borrow;
        borrow = i32::from(digit < 256);
        out[at] = u8::try_from(digit % 256).unwrap();
    }
    out
}

/// Which forms of a P-256 signature count is part of the format: DER and nothing else, both
/// halves of the range for s (hardware makes either).
#[test]
fn only_der_signatures_count_and_s_may_be_high_or_low() {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let point = pair.public_key().as_ref().try_into().unwrap();
    let key = VerifierKey::p256(ORIGIN, point).unwrap();
    let text = checkpoint().body();
    let rng = aws_lc_rs::rand::SystemRandom::new();
    let fixed = pair.sign(&rng, text.as_bytes()).unwrap();
    let (r, s) = fixed.as_ref().split_at(32);
    let (r_der, s_der) = (integer(r), integer(s));
    let good = sequence(&[&r_der, &s_der]);
    let other_half = sequence(&[&r_der, &integer(&negated(s))]);
    let padded = |value: &[u8]| {
        let mut out = vec![2, value[1] + 1, 0];
        out.extend_from_slice(&value[2..]);
        out
    };
    let mut long_length = good.clone();
    long_length.insert(1, 0x81);
    let mut indefinite = good.clone();
    indefinite[1] = 0x80;
    indefinite.extend([0, 0]);
    let forms: [(&str, Vec<u8>, bool); 13] = [
        ("DER", good.clone(), true),
        ("the other half of s", other_half, true),
        ("r and s of 32 bytes each", fixed.as_ref().to_vec(), false),
        ("a byte behind it", [good.as_slice(), &[0]].concat(), false),
        ("a byte too few", good[..good.len() - 1].to_vec(), false),
        ("a length in long form", long_length, false),
        ("an indefinite length", indefinite, false),
        (
            "a zero before r",
            sequence(&[&padded(&r_der), &s_der]),
            false,
        ),
        (
            "a zero before s",
            sequence(&[&r_der, &padded(&s_der)]),
            false,
        ),
        (
            "a third number",
            sequence(&[&r_der, &s_der, &[2, 1, 1]]),
            false,
        ),
        ("r and s swapped", sequence(&[&s_der, &r_der]), false),
        ("s is zero", sequence(&[&r_der, &[2, 1, 0]]), false),
        (
            "r and s are zero",
            sequence(&[&[2, 1, 0], &[2, 1, 0]]),
            false,
        ),
    ];
    for (name, bytes, accepted) in forms {
        let signature = Signature {
            name: key.name.clone(),
            key_id: key.id(),
            bytes,
        };
        let note = Note {
            text: text.clone(),
            signatures: vec![signature],
        };
        let expected = if accepted { Ok(true) } else { bad(&key) };
        assert_eq!(read(&note).is_signed_by(&key), expected, "{name}");
    }
}

#[test]
fn a_verifier_key_has_one_text_and_the_id_of_its_type() {
    let key = p256();
    let key = key.verifier_key();
    let spki = key.key.spki();
    let PublicKey::P256(point) = key.key else {
        panic!("not P-256: {key}")
    };
    let text = |alg: u8, id: [u8; 4], body: &[u8]| {
        let id = u32::from_be_bytes(id);
        let blob = BASE64.encode([&[alg], body].concat());
        format!("{ORIGIN}+{id:08x}+{blob}")
    };
    // The id that a body would have: then only the body can be what is refused.
    let with_id = |alg: u8, body: &[u8]| {
        let digest = match alg {
            2 => jurat_proof::sha256(&[body]),
            _ => jurat_proof::sha256(&[ORIGIN.as_bytes(), b"\n", &[alg], body]),
        };
        text(alg, digest.0[..4].try_into().unwrap(), body)
    };
    assert_eq!(with_id(2, &spki), key.to_string());
    assert_eq!(VerifierKey::parse(&with_id(2, &spki)), Ok(key.clone()));

    let mut off_curve = spki.clone();
    off_curve[90] ^= 1;
    let mut compressed = spki.clone();
    compressed.truncate(26 + 33);
    compressed[1] = 0x39;
    compressed[24] = 0x22;
    compressed[26] = 0x02 | (point[64] & 1);
    let mut hybrid = spki.clone();
    hybrid[26] = 0x06 | (point[64] & 1);
    let mut other_curve = spki.clone();
    // 1.2.840.10045.3.1.1 is P-192.
    other_curve[22] = 0x01;
    let ed25519 = ed25519();
    let ed25519 = ed25519.public_key();
    let refused: [(&str, String); 12] = [
        ("a point off the curve", with_id(2, &off_curve)),
        ("a compressed point", with_id(2, &compressed)),
        ("a hybrid point", with_id(2, &hybrid)),
        ("the point alone", with_id(2, &point)),
        ("another curve", with_id(2, &other_curve)),
        (
            "a byte behind it",
            with_id(2, &[spki.as_slice(), &[0]].concat()),
        ),
        ("an Ed25519 key as ECDSA", with_id(2, &ed25519)),
        ("a P-256 key as Ed25519", with_id(1, &spki)),
        ("a P-256 key as cosigner", with_id(4, &spki)),
        ("ML-DSA-44", with_id(6, &[7; 1312])),
        ("a small Ed25519 point", with_id(1, &[0; 32])),
        ("the id of another type", {
            let digest = jurat_proof::sha256(&[ORIGIN.as_bytes(), b"\n", &[2], &spki]);
            text(2, digest.0[..4].try_into().unwrap(), &spki)
        }),
    ];
    for (name, text) in refused {
        let read = VerifierKey::parse(&text);
        assert!(matches!(read, Err(NoteError::Key(_))), "{name}: {read:?}");
    }
    for alg in [1, 4] {
        let text = with_id(alg, &ed25519);
        assert_eq!(VerifierKey::parse(&text).unwrap().to_string(), text);
    }
}

/// Signatures of others that stand in a note: post-quantum ones of ML-DSA-44 size.
fn strangers(count: usize, len: usize) -> impl Iterator<Item = Signature> {
    (0..count).map(move |at| Signature {
        name: format!("stranger.example/{at}"),
        key_id: [6, 6, 6, u8::try_from(at).unwrap()],
        bytes: vec![0x66; len],
    })
}

#[test]
fn sixteen_post_quantum_signatures_do_not_hide_ours_and_are_ignored() {
    let key = ed25519();
    let witness = witness();
    // ML-DSA-44 makes 2,420 bytes and ML-DSA-87, the largest, 4,627; a time of 8 bytes goes before.
    for len in [2_420 + 8, 4_627 + 8] {
        let mut note = checkpoint().sign(&key).unwrap();
        let ours = note.signatures.pop().unwrap();
        note.signatures = strangers(16, len).collect();
        note.signatures.push(ours);
        let cosignature = Cosignature::sign(&witness, 1_700_000_000, &note.text).unwrap();
        note.signatures.push(cosignature);
        let read = read(&note);
        assert_eq!(read, note);
        assert_eq!(read.is_signed_by(key.verifier_key()), Ok(true));
        let found = Cosignature::find(&read, witness.verifier_key()).unwrap();
        assert_eq!(found.map(|found| found.time_s), Some(1_700_000_000));
    }
    // The stated limits: 64 signatures and 128 KiB.
    let note = |count, len| {
        let mut note = checkpoint().sign(&key).unwrap();
        note.signatures.extend(strangers(count, len));
        Note::parse(note.encode().as_bytes()).map(|note| note.signatures.len())
    };
    assert_eq!(note(63, 72), Ok(64));
    assert_eq!(
        note(64, 72),
        Err(NoteError::Malformed("too many signatures"))
    );
    assert_eq!(note(41, 2_428), Err(NoteError::Malformed("too long")));
}

#[test]
fn a_signature_is_ignored_unless_name_and_id_are_those_of_a_known_key() {
    let (key, mldsa_id) = (ed25519(), [6; 4]);
    let good = checkpoint().sign(&key).unwrap();
    let known = key.verifier_key();
    let line = |name: &str, key_id: [u8; 4]| Signature {
        name: name.into(),
        key_id,
        bytes: vec![0; 64],
    };
    for stranger in [
        line(ORIGIN, [0; 4]),
        line("example.org/other", known.id()),
        line(ORIGIN, mldsa_id),
        line(ORIGIN, p256().verifier_key().id()),
    ] {
        let mut note = good.clone();
        note.signatures.insert(0, stranger.clone());
        assert_eq!(read(&note).is_signed_by(known), Ok(true), "{stranger:?}");
        note.signatures.truncate(1);
        assert_eq!(read(&note).is_signed_by(known), Ok(false), "{stranger:?}");
    }
    // One bad line of a known key refuses the note, whatever else stands in it.
    for at in [0, 1] {
        let mut note = good.clone();
        note.signatures.insert(at, line(ORIGIN, known.id()));
        assert_eq!(read(&note).is_signed_by(known), bad(known));
    }
}

#[test]
fn a_cosignature_never_passes_for_a_signature_nor_the_other_way_round() {
    let seed = Secret::from_bytes([4; 32]);
    let log = SoftwareKey::log(&seed, ORIGIN).unwrap();
    let cosigner = SoftwareKey::cosigner(&seed, ORIGIN).unwrap();
    let (log_key, cosigner_key) = (log.verifier_key(), cosigner.verifier_key());
    assert_eq!(log_key.key, cosigner_key.key);
    assert_ne!(log_key.id(), cosigner_key.id());
    let mut note = checkpoint().sign(&log).unwrap();
    assert_eq!(Cosignature::find(&note, cosigner_key), Ok(None));
    // Even under the id of the other type it does not verify.
    note.signatures[0].key_id = cosigner_key.id();
    assert!(Cosignature::find(&note, cosigner_key).is_err());
    assert_eq!(note.is_signed_by(cosigner_key), bad(cosigner_key));
    note.signatures = vec![Cosignature::sign(&cosigner, 1, &note.text).unwrap()];
    assert_eq!(note.is_signed_by(log_key), Ok(false));
    note.signatures[0].key_id = log_key.id();
    assert_eq!(note.is_signed_by(log_key), bad(log_key));
}

#[test]
fn a_key_name_with_a_space_of_any_script_or_a_plus_sign_is_no_name() {
    for name in ["", "a b", "a+b", "a\u{a0}b", "a\u{3000}b", "a\u{2028}b"] {
        assert!(VerifierKey::ed25519(name, ed25519().public_key()).is_err());
        let mut note = checkpoint().sign(&ed25519()).unwrap();
        note.signatures[0].name = name.into();
        let read = Note::parse(note.encode().as_bytes());
        assert_eq!(
            read,
            Err(NoteError::Malformed("a signature line")),
            "{name:?}"
        );
    }
}

#[test]
fn a_bundle_of_a_log_with_a_p256_key_is_verified_and_not_under_another_key() {
    let key = p256();
    let entry = format!(
        r#"{{"v":1,"salt":"AAAAAAAAAAAAAAAAAAAAAA","seq":0,"boot":"b","time":"2026-11-01T00:00:00Z","kind":"log.opened","detail":{{"origin":"{ORIGIN}"}}}}"#
    );
    let checkpoint = Checkpoint {
        origin: ORIGIN.into(),
        size: 1,
        root: leaf_hash(entry.as_bytes()),
    };
    let note = checkpoint.sign(&key).unwrap().encode();
    let front = Front::whole(ORIGIN, 1, note.as_bytes());
    let mut bundle = BundleWriter::new(Vec::new(), &front).unwrap();
    bundle.record(&Record::Entry(entry.as_bytes())).unwrap();
    let bundle = bundle.finish().unwrap();
    let verdict = |key: &VerifierKey| {
        let trust = Trust::parse(&format!("log {key}\n")).unwrap();
        verify(bundle.as_slice(), Some(&trust), None, &mut |_| {})
    };
    let verified = verdict(key.verifier_key());
    assert!(matches!(verified, Verdict::Verified(_)), "{verified:?}");
    let other = P256Key::log(&Secret::from_bytes([9; 32]), ORIGIN).unwrap();
    let other = verdict(other.verifier_key());
    assert!(matches!(other, Verdict::Unverifiable { .. }), "{other:?}");
}
