//! Quorum policies and fork proofs: what a stranger is given and may be given wrongly.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use jurat_proof::{
    Checkpoint, Cosignature, Digest, ForkError, ForkProof, Note, Policy, ProofError, Signer,
    SignerError, VerifierKey, consistency_proof, leaf_hash, root_of,
};

const ORIGIN: &str = "example.org/log";

struct Key(Ed25519KeyPair, VerifierKey);

impl Key {
    fn new(seed: u8, name: &str, cosigner: bool) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let public = pair.public_key().as_ref().try_into().unwrap();
        let make = if cosigner {
            VerifierKey::cosigner
        } else {
            VerifierKey::ed25519
        };
        Self(pair, make(name, public).unwrap())
    }
}

impl Signer for Key {
    fn verifier_key(&self) -> &VerifierKey {
        &self.1
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignerError> {
        Ok(self.0.sign(message).as_ref().to_vec())
    }
}

fn log() -> Key {
    Key::new(1, ORIGIN, false)
}

fn witness(number: u8) -> Key {
    Key::new(10 + number, &format!("witness.example/{number}"), true)
}

fn vkey(number: u8) -> String {
    witness(number).1.to_string()
}

/// The leaves of a log that was rewritten from this leaf on.
fn leaves(count: u64, rewritten_from: u64) -> Vec<Digest> {
    let leaf = |number: u64| format!("{number} {}", number >= rewritten_from);
    (0..count)
        .map(|number| leaf_hash(leaf(number).as_bytes()))
        .collect()
}

fn head(leaves: &[Digest]) -> Note {
    let checkpoint = Checkpoint {
        origin: ORIGIN.into(),
        size: leaves.len() as u64,
        root: root_of(leaves),
    };
    checkpoint.sign(&log()).unwrap()
}

fn cosigned(by: &[u8]) -> Note {
    let mut note = head(&leaves(5, 5));
    for number in by {
        let cosignature = Cosignature::sign(&witness(*number), 1_790_000_000, &note.text);
        note.signatures.push(cosignature.unwrap());
    }
    note
}

/// Two organisations, as in the specification's example.
fn two_organisations() -> String {
    let mut text = format!("# who counts\n\nlog {} https://log.example\n", log().1);
    for number in 1..=5 {
        let url = if number == 1 {
            " https://w1.example/"
        } else {
            ""
        };
        text += &format!(" witness\tW{number} {}{url}\n", vkey(number));
    }
    text + "group X 2 W1 W2 W3\ngroup Y any W4 W5\ngroup X-and-Y all X Y\nquorum X-and-Y\n"
}

#[test]
fn a_quorum_is_met_by_the_right_witnesses_and_not_by_as_many_wrong_ones() {
    let policy = Policy::parse(two_organisations().as_bytes()).unwrap();
    assert_eq!(
        policy.witnesses[0].url.as_deref(),
        Some("https://w1.example/")
    );
    for (by, met) in [
        (&[1, 2, 4][..], true),
        (&[2, 3, 5], true),
        (&[1, 2, 3, 4, 5], true),
        (&[1, 2, 3], false),
        (&[1, 4, 5], false),
        (&[4, 5], false),
        // Known to nobody here.
        (&[1, 2, 9], false),
        (&[], false),
    ] {
        let holding = policy.holds(&cosigned(by)).unwrap();
        assert_eq!((holding.signed, holding.quorum), (true, met), "{by:?}");
        let known: Vec<String> = by
            .iter()
            .filter(|number| **number < 9)
            .map(|number| format!("W{number}"))
            .collect();
        let found: Vec<&str> = holding
            .cosigned
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(found, known);
    }
    let mut altered = cosigned(&[1, 2, 4]);
    altered.text = altered.text.replace("\n5\n", "\n6\n");
    assert!(policy.holds(&altered).is_err());
    let none = Policy::parse(b"quorum none\n").unwrap();
    let holding = none.holds(&cosigned(&[])).unwrap();
    assert!(holding.quorum && !holding.signed);
}

#[test]
fn a_policy_that_is_cut_doubled_or_loose_is_refused_with_its_line() {
    let (one, two) = (vkey(1), vkey(2));
    let same_key = Key::new(11, "another.example/name", true).1;
    for (text, line) in [
        (String::new(), 0),
        ("quorum none".into(), 1),
        (format!("witness a {one}\n"), 1),
        ("quorum a\n".into(), 1),
        ("quorum none\nquorum none\n".into(), 2),
        (format!("witness none {one}\nquorum none\n"), 1),
        (format!("witness a {one}\nwitness a {two}\nquorum a\n"), 2),
        (
            format!("witness a {one}\nwitness b {same_key}\nquorum a\n"),
            2,
        ),
        (format!("witness a {}\nquorum a\n", log().1), 1),
        (format!("log {one}\nquorum none\n"), 1),
        (format!("log {0}\nlog {0}\nquorum none\n", log().1), 2),
        (format!("witness a {one}\ngroup g 2 a\nquorum g\n"), 2),
        (format!("witness a {one}\ngroup g 0 a\nquorum g\n"), 2),
        (format!("witness a {one}\ngroup g 01 a\nquorum g\n"), 2),
        (format!("witness a {one}\ngroup g some a\nquorum g\n"), 2),
        (format!("witness a {one}\ngroup g any\nquorum g\n"), 2),
        (format!("witness a {one}\ngroup g all a b\nquorum g\n"), 2),
        (format!("witness a {one}\ngroup g any g\nquorum g\n"), 2),
        (format!("witness a {one}\ngroup g any none\nquorum g\n"), 2),
        (
            format!("witness a {one}\ngroup g any a\ngroup h any a\nquorum g\n"),
            3,
        ),
        (format!("witness a {one}\ngroup g any a a\nquorum g\n"), 2),
        (format!("witness a {one} # a comment\nquorum a\n"), 1),
        (format!("witness a {one}\r\nquorum a\r\n"), 1),
        ("witness a vkey\nquorum a\n".into(), 1),
        ("something else\nquorum none\n".into(), 1),
    ] {
        let error = Policy::parse(text.as_bytes()).expect_err(&text);
        assert_eq!(error.line, line, "{text:?}: {error}");
    }
    assert!(Policy::parse(&vec![b'\n'; 1 << 20]).is_err());
    // Names are octets, whatever they mean elsewhere.
    let text = [b"witness \xe2\xff ", one.as_bytes(), b"\nquorum \xe2\xff\n"].concat();
    assert_eq!(Policy::parse(&text).unwrap().witnesses.len(), 1);
}

#[test]
fn two_heads_that_contradict_each_other_convince_a_stranger_and_nothing_less_does() {
    let keys = [log().1];
    let honest = leaves(7, 100);
    let other = leaves(7, 3);
    // Equal size, another root.
    let fork = ForkProof::find(&head(&honest), &head(&other), &[]).unwrap();
    let [first, second] = fork.check(&keys).unwrap();
    assert_eq!((first.size, second.size), (7, 7));
    assert_eq!(ForkProof::parse(fork.encode().as_bytes()), Ok(fork.clone()));
    assert_eq!(ForkProof::find(&head(&honest), &head(&honest), &[]), None);
    // A longer head with the proof that the forger's own log gives.
    let longer = leaves(12, 3);
    let proof = consistency_proof(&longer, 7).unwrap();
    let linked = ForkProof::find(&head(&honest), &head(&longer), &proof).unwrap();
    assert!(linked.check(&keys).is_ok());
    assert_eq!(
        ForkProof::parse(linked.encode().as_bytes()),
        Ok(linked.clone())
    );
    // A proof that just fails is no evidence, and an honest one shows no fork.
    let mut broken = proof.clone();
    broken[1] = Digest([0; 32]);
    assert_eq!(
        ForkProof::find(&head(&honest), &head(&longer), &broken),
        None
    );
    let grown = leaves(12, 100);
    let proof = consistency_proof(&grown, 7).unwrap();
    assert_eq!(ForkProof::find(&head(&honest), &head(&grown), &proof), None);
    let honest_link = ForkProof {
        second: head(&grown),
        link: Some((root_of(&honest), proof.clone())),
        ..linked.clone()
    };
    assert_eq!(honest_link.check(&keys), Err(ForkError::Agree));
    // A made-up root needs a proof that leads from it.
    let invented = ForkProof {
        second: head(&grown),
        link: Some((Digest([9; 32]), proof)),
        ..linked.clone()
    };
    assert_eq!(
        invented.check(&keys),
        Err(ForkError::Proof(ProofError::Root))
    );
    let without = ForkProof {
        link: None,
        ..linked.clone()
    };
    assert_eq!(without.check(&keys), Err(ForkError::Agree));
    // Anyone can write notes; only the log's signature makes them evidence.
    assert_eq!(fork.check(&[]), Err(ForkError::Unsigned(7)));
    let stranger = [Key::new(2, ORIGIN, false).1];
    assert_eq!(fork.check(&stranger), Err(ForkError::Unsigned(7)));
    let mut forged = fork.clone();
    forged.second.text = head(&leaves(7, 1)).text;
    assert!(matches!(forged.check(&keys), Err(ForkError::Note(_))));
}

#[test]
fn a_file_that_is_no_fork_proof_is_refused() {
    let fork = ForkProof::find(&head(&leaves(7, 9)), &head(&leaves(7, 3)), &[]).unwrap();
    let text = fork.encode();
    for cut in 0..text.len() {
        if text.is_char_boundary(cut) {
            assert!(ForkProof::parse(&text.as_bytes()[..cut]).is_err(), "{cut}");
        }
    }
    for wrong in [
        text.replace("/v1\n", "/v2\n"),
        text.replace("/v1\n", "/v1\nother AAAA\n"),
        text.replace("/v1\n", "/v1\nelse\n"),
        format!("{text}\n"),
        format!("{text}{text}"),
        text.replace("/v1\n", &format!("/v1\nother {}", hash().repeat(66))),
    ] {
        assert!(ForkProof::parse(wrong.as_bytes()).is_err(), "{wrong}");
    }
}

fn hash() -> String {
    format!("{}=\n", "A".repeat(43))
}
