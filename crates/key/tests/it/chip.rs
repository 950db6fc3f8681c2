//! The device's keys in a TPM, behind its thread.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jurat_attest::ek::{EkError, check_certificate};
use jurat_attest::tpm::{Attribute, Hash, KeyError, make_credential};
use jurat_attest::{
    Base64, Evidence, EvidenceError, Finding, Heads, History, Judge, QuoteLeaf, SELECTION, Shown,
    Signed, quote_binding, write_pcrs,
};
use jurat_disk::Host;
use jurat_key::tpm::{Address, Chip, ChipError, ChipKey, Role};
use jurat_key::{HeldSigner, Signer};
use jurat_proof::{Checkpoint, Digest, Note};
use jurat_testkit::swtpm::{Slow, Swtpm};
use serde_json::{Map, Value};

const DEVICE: &str = "0b6d5f3e-0000-4000-8000-000000000001";
const ORIGIN: &str = "example.org/jurat/0b6d5f3e-0000-4000-8000-000000000001/0";
const LONG: Duration = Duration::from_secs(60);

fn head(size: u64) -> Checkpoint {
    Checkpoint {
        origin: ORIGIN.into(),
        size,
        root: Digest([size as u8; 32]),
    }
}

fn quote(chip: &Chip, head: &Checkpoint, count: bool) -> Map<String, Value> {
    let binding = quote_binding(head, &[0; 32]);
    let (quote, counter) = chip.quote(binding, &SELECTION, count, LONG).unwrap();
    let leaf = QuoteLeaf {
        size: head.size,
        root: head.root,
        after: None,
        attest: Base64(quote.attest),
        signature: Base64(quote.signature),
        pcrs: write_pcrs(&quote.values),
        counter: counter.map(|(attest, signature)| Signed {
            attest: Base64(attest),
            signature: Base64(signature),
        }),
    };
    match serde_json::to_value(leaf).unwrap() {
        Value::Object(detail) => detail,
        other => panic!("{other}"),
    }
}

/// What a stranger finds of the quotes of one device.
struct Stranger {
    shown: Shown,
    history: History,
    heads: Heads,
}

impl Stranger {
    fn new(evidence: &Evidence) -> Self {
        let json = serde_json::to_vec(evidence).unwrap();
        Self {
            shown: Evidence::parse(&json).unwrap().check(DEVICE).unwrap(),
            history: History::default(),
            heads: Heads::default(),
        }
    }

    fn judge(&mut self, detail: &Map<String, Value>) -> (bool, Vec<Finding>) {
        let judge = Judge {
            origin: ORIGIN,
            ak: &self.shown.ak,
            cosigners: &[],
        };
        let (good, findings) = judge.quote(&mut self.history, &self.heads, detail);
        (good.is_some(), findings)
    }
}

#[test]
fn a_chip_shows_its_keys_signs_heads_and_quotes_through_restarts_and_a_state_set_back() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut swtpm) = Swtpm::start("chip::a_chip_shows_its_keys", dir.path()) else {
        return;
    };
    let host = Host::real();
    let address: Address = swtpm.address().parse().unwrap();
    let keys = dir.path().join("keys");
    std::fs::create_dir(&keys).unwrap();
    let chip = Arc::new(Chip::create(&host, &address, &keys).unwrap());
    let evidence = chip.evidence(DEVICE, LONG).unwrap();
    let mut stranger = Stranger::new(&evidence);
    let other = evidence.check("0b6d5f3e-0000-4000-8000-000000000002");
    assert!(
        matches!(
            other,
            Err(EvidenceError::Certify {
                what: "another device",
                ..
            })
        ),
        "{other:?}"
    );
    let mut swapped = evidence.clone();
    std::mem::swap(&mut swapped.log, &mut swapped.tls);
    swapped.log.public = evidence.log.public.clone();
    assert!(matches!(
        swapped.check(DEVICE),
        Err(EvidenceError::Certify {
            what: "another key",
            ..
        })
    ));

    let secret = [5; 32];
    let challenge = make_credential(&stranger.shown.ek, &stranger.shown.ak.name(), &secret);
    assert_eq!(chip.activate(challenge.unwrap(), LONG).unwrap(), secret);

    let signer = HeldSigner::new(Arc::new(ChipKey::new(&chip, Role::Log)), ORIGIN).unwrap();
    assert!(signer.is_slow());
    let note = head(7).sign(&signer).unwrap();
    let read = Note::parse(note.encode().as_bytes()).unwrap();
    assert_eq!(read.is_signed_by(signer.verifier_key()), Ok(true));
    assert_eq!(
        stranger.shown.log,
        *jurat_key::HeldKey::point(&ChipKey::new(&chip, Role::Log))
    );

    for size in 7..9 {
        stranger.heads.push(size, head(size).root);
        let detail = quote(&chip, &head(size), size == 7);
        assert_eq!(stranger.judge(&detail), (true, vec![]));
    }
    // The same again is not forward; over a head that this log does not have, it is nothing.
    let detail = quote(&chip, &head(9), false);
    assert_eq!(stranger.judge(&detail), (false, vec![Finding::Head]));
    let mut spoilt = quote(&chip, &head(8), false);
    spoilt["pcrs"]["sha256"]["0"] = Digest([1; 32]).to_string().into();
    assert_eq!(stranger.judge(&spoilt), (false, vec![Finding::Values]));

    // It loses its power: the first command notices, the next one finds it again.
    swtpm.power_off();
    swtpm.power_on();
    let lost = chip.quote([1; 32], &SELECTION, false, LONG).unwrap_err();
    assert!(matches!(lost, ChipError::Tpm(_)), "{lost}");
    let detail = quote(&chip, &head(8), true);
    assert_eq!(stranger.judge(&detail), (true, vec![]), "a start");
    // One start that the log does not have.
    quote(&chip, &head(8), true);
    let detail = quote(&chip, &head(8), true);
    assert_eq!(stranger.judge(&detail), (true, vec![Finding::Missed]));

    // Its state is set back to before: every later start is one that it has had.
    swtpm.power_off();
    let state = swtpm.state().join("tpm2-00.permall");
    let old = std::fs::read(&state).unwrap();
    swtpm.power_on();
    let _ = chip.quote([1; 32], &SELECTION, false, LONG);
    let detail = quote(&chip, &head(8), true);
    assert_eq!(stranger.judge(&detail), (true, vec![]));
    swtpm.power_off();
    std::fs::write(&state, old).unwrap();
    swtpm.power_on();
    let _ = chip.quote([1; 32], &SELECTION, false, LONG);
    let detail = quote(&chip, &head(8), true);
    let (good, findings) = stranger.judge(&detail);
    assert!(!good);
    assert!(
        findings == [Finding::Counter] || findings == [Finding::Clock],
        "{findings:?}"
    );
}

#[test]
fn what_is_not_this_machines_word_on_this_head_is_refused_by_name() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let test = "chip::what_is_not_this_machines_word";
    let started = Swtpm::start(test, dir.path()).zip(Swtpm::start(test, other.path()));
    let Some((swtpm, others)) = started else {
        return;
    };
    let host = Host::real();
    let open = |swtpm: &Swtpm, dir: &std::path::Path| {
        Chip::create(&host, &swtpm.address().parse().unwrap(), dir).unwrap()
    };
    let (chip, theirs) = (open(&swtpm, dir.path()), open(&others, other.path()));
    let evidence = chip.evidence(DEVICE, LONG).unwrap();
    let mut stranger = Stranger::new(&evidence);
    stranger.heads.push(3, head(3).root);
    let good = quote(&chip, &head(3), false);
    assert_eq!(stranger.judge(&good), (true, vec![]));
    assert_eq!(
        stranger.judge(&good),
        (false, vec![Finding::Clock]),
        "once more"
    );
    let foreign = quote(&theirs, &head(3), false);
    assert_eq!(stranger.judge(&foreign), (false, vec![Finding::Signature]));
    let mut moved = quote(&chip, &head(3), false);
    moved["size"] = 2.into();
    assert_eq!(stranger.judge(&moved), (false, vec![Finding::Qualifying]));

    // An attestation key that signs what it is given is none.
    let mut loose = evidence.clone();
    loose.ak = evidence.log.public.clone();
    let refused = loose.check(DEVICE);
    assert!(
        matches!(
            refused,
            Err(EvidenceError::Ak(KeyError::Lacks(Attribute::Restricted)))
        ),
        "{refused:?}"
    );
    // Another device's keys under this device's attestation key.
    let mut mixed = evidence.clone();
    mixed.log = theirs.evidence(DEVICE, LONG).unwrap().log;
    let refused = mixed.check(DEVICE);
    assert!(matches!(
        refused,
        Err(EvidenceError::Signature { which: "log", .. })
    ));

    // A maker whom nobody named, and a certificate that is not valid yet.
    let pem = |path: std::path::PathBuf| {
        let bytes = std::fs::read(&path).unwrap();
        jurat_key::tls::certificates(&path, &bytes).unwrap()
    };
    let ours = [pem(swtpm.root()), pem(swtpm.issuer())].concat();
    let foreign = [pem(others.root()), pem(others.issuer())].concat();
    let check = |roots: &[Vec<u8>], at_s| {
        let leaf = &evidence.ek_certificates[0];
        check_certificate(leaf, roots, roots, at_s, &stranger.shown.ek)
    };
    let now_s = host.clock.now().unix_s();
    check(&ours, now_s).unwrap();
    for (roots, at_s) in [(&foreign, now_s), (&ours, 1_000_000)] {
        let refused = check(roots, at_s);
        assert!(matches!(refused, Err(EkError::Chain(_))), "{refused:?}");
    }
}

#[test]
fn a_pcr_that_changes_without_a_start_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let Some(swtpm) = Swtpm::start("chip::a_pcr_that_changes", dir.path()) else {
        return;
    };
    let host = Host::real();
    let address: Address = swtpm.address().parse().unwrap();
    let chip = Chip::create(&host, &address, dir.path()).unwrap();
    let mut stranger = Stranger::new(&chip.evidence(DEVICE, LONG).unwrap());
    stranger.heads.push(1, head(1).root);
    assert_eq!(
        stranger.judge(&quote(&chip, &head(1), true)),
        (true, vec![])
    );
    drop(chip);
    let mut tpm = jurat_key::tpm::Tpm::new(address.open().unwrap());
    tpm.extend_pcr(
        4,
        &Hash::Sha256
            .digest(&[b"another loader"])
            .try_into()
            .unwrap(),
    )
    .unwrap();
    drop(tpm);
    let chip = Chip::load(&host, &address, dir.path()).unwrap();
    let found = stranger.judge(&quote(&chip, &head(1), false));
    assert_eq!(found, (true, vec![Finding::Pcrs]));
}

#[test]
fn a_chip_that_does_not_answer_holds_up_who_asks_for_no_longer_than_they_say() {
    let dir = tempfile::tempdir().unwrap();
    let Some(swtpm) = Swtpm::start("chip::a_chip_that_does_not_answer", dir.path()) else {
        return;
    };
    let host = Host::real();
    let slow = Slow::before(&swtpm, dir.path(), Duration::ZERO);
    let chip = Chip::create(&host, &slow.address().parse().unwrap(), dir.path()).unwrap();
    chip.quote([1; 32], &SELECTION, false, LONG).unwrap();
    slow.set(Duration::from_secs(3_600));
    let asked = chip.quote([2; 32], &SELECTION, false, Duration::from_millis(50));
    assert!(matches!(asked, Err(ChipError::Silent(_))));
    // However many ask meanwhile, what waits is bounded.
    for _ in 0..20 {
        let asked = chip.quote([3; 32], &SELECTION, false, Duration::from_millis(1));
        assert!(matches!(asked, Err(ChipError::Silent(_))));
    }
    slow.set(Duration::ZERO);
    let since = Instant::now();
    while chip.quote([4; 32], &SELECTION, false, LONG).is_err() {
        assert!(since.elapsed() < LONG, "it is not back");
        std::thread::yield_now();
    }
}

#[test]
fn keys_of_a_tpm_that_was_cleared_are_made_anew_and_a_damaged_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let test = "chip::keys_of_a_tpm_that_was_cleared";
    let tpm = |name: &str| Swtpm::start(test, &dir.path().join(name));
    let (Some(one), Some(other)) = (tpm("one"), tpm("other")) else {
        return;
    };
    let keys = dir.path().join("keys");
    std::fs::create_dir(&keys).unwrap();
    let host = Host::real();
    let create = |tpm: &Swtpm| {
        let address: Address = tpm.address().parse().unwrap();
        let chip = Chip::create(&host, &address, &keys)?;
        chip.evidence(DEVICE, LONG)
    };
    let first = create(&one).unwrap();
    assert_eq!(create(&one).unwrap().ak, first.ak);
    // Another TPM under the same files: as one that was cleared.
    let second = create(&other).unwrap();
    assert_ne!(second.ak, first.ak);
    assert_ne!(
        second.check(DEVICE).unwrap().log,
        first.check(DEVICE).unwrap().log
    );
    std::fs::write(keys.join("log.tpm"), "{}").unwrap();
    let refused = create(&other).unwrap_err().to_string();
    assert!(refused.contains("log.tpm"), "{refused}");
}
