use jurat_attest::ima::{Accepted, ImaError, List, PCR};
use jurat_attest::tpm::{
    Attest, Attested, Expected, Hash, PcrSelection, QuoteError, Signature, Since, check_quote,
    is_ak, is_log_key, make_credential,
};
use jurat_key::tpm::{Address, Auth, Endorsement, NvKind, Tpm, TpmError, TpmKey, Use};
use jurat_testkit::ima::{measured, old, violated};
use jurat_testkit::swtpm::Swtpm;

const SELECTION: [PcrSelection; 1] = [PcrSelection {
    bank: Hash::Sha256,
    pcrs: 0x00ff_ffff,
}];
const VALUE: &[u8] = b"only the service account knows";

fn open(swtpm: &Swtpm) -> Tpm {
    let address: Address = swtpm.address().parse().unwrap();
    Tpm::new(address.open().unwrap())
}

/// The TPM with an attestation key and a log key in it.
fn ready(tpm: &mut Tpm) -> (Endorsement, TpmKey, TpmKey) {
    let ek = tpm.endorsement().unwrap();
    let keys = [Use::Attest, Use::Sign].map(|what| {
        let blob = tpm.make_key(&ek, what, VALUE).unwrap();
        tpm.load_key(&ek, what, &blob, VALUE).unwrap()
    });
    let [ak, log] = keys;
    (ek, ak, log)
}

#[test]
fn from_the_vendors_key_to_a_signature_every_step_convinces_a_stranger() {
    let dir = tempfile::tempdir().unwrap();
    let Some(swtpm) = Swtpm::start("swtpm::from_the_vendors_key", dir.path()) else {
        return;
    };
    let mut tpm = open(&swtpm);
    let (ek, ak, log) = ready(&mut tpm);
    assert!(ek.certificate.as_ref().unwrap().len() > 500);
    is_ak(&ak.public).unwrap();
    is_log_key(&log.public).unwrap();

    // The vendor's key and the attestation key are in one TPM.
    let secret = [7; 32];
    let challenge = make_credential(&ek.public, &ak.public.name(), &secret).unwrap();
    assert_eq!(tpm.answer(&ek, &ak, &challenge).unwrap(), secret);
    // A challenge for another key is not answered, however often it is tried: nothing is left loaded.
    let other = make_credential(&ek.public, &log.public.name(), &secret).unwrap();
    for _ in 0..10 {
        let refused = tpm.answer(&ek, &ak, &other).unwrap_err();
        assert!(matches!(refused, TpmError::Refused { .. }), "{refused}");
    }

    // So is the key that signs heads.
    let (attest, signature) = tpm.certify_with(&ak, &log, &[9; 32]).unwrap();
    let signature = Signature::parse(&signature).unwrap();
    signature.verify(&ak.public, &attest).unwrap();
    let attest = Attest::parse(&attest).unwrap();
    assert_eq!(attest.extra, [9; 32]);
    let Attested::Certify(certified) = attest.attested else {
        panic!("{attest:?}");
    };
    assert_eq!(certified.name, log.public.name());

    let digest: [u8; 32] = Hash::Sha256.digest(&[b"a head"]).try_into().unwrap();
    let signature = tpm.sign_with(&log, &digest).unwrap();
    let signature = Signature::parse(&signature).unwrap();
    signature.verify(&log.public, b"a head").unwrap();
    assert!(signature.verify(&log.public, b"another").is_err());
    // A restricted key signs nothing for anybody.
    let refused = tpm.sign_with(&ak, &digest).unwrap_err();
    assert!(matches!(refused, TpmError::Refused { .. }), "{refused}");
}

#[test]
fn a_quote_shows_a_changed_pcr_and_a_reboot() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut swtpm) = Swtpm::start("swtpm::a_quote_shows", dir.path()) else {
        return;
    };
    let mut tpm = open(&swtpm);
    let ek = tpm.endorsement().unwrap();
    let blob = tpm.make_key(&ek, Use::Attest, VALUE).unwrap();
    let ak = tpm.load_key(&ek, Use::Attest, &blob, VALUE).unwrap();
    let quote = |tpm: &mut Tpm, ak: &TpmKey| tpm.quote_with(ak, &[1; 32], &SELECTION).unwrap();
    let first = quote(&mut tpm, &ak);
    assert_eq!(first.values.0.len(), 24, "more than one answer holds");
    let expected = Expected {
        qualifying: &[1; 32],
        selection: &SELECTION,
        values: &first.values,
    };
    let before = check_quote(&first.attest, &first.signature, &ak.public, &expected).unwrap();
    tpm.extend_pcr(10, &[3; 32]).unwrap();
    let second = quote(&mut tpm, &ak);
    assert_eq!(
        check_quote(&second.attest, &second.signature, &ak.public, &expected),
        Err(QuoteError::Digest)
    );
    drop(tpm);

    swtpm.power_off();
    swtpm.power_on();
    let mut tpm = open(&swtpm);
    let wrong = tpm.load_key(&ek, Use::Attest, &blob, b"guessed").unwrap();
    let refused = tpm.quote_with(&wrong, &[1; 32], &SELECTION).unwrap_err();
    assert!(matches!(refused, TpmError::Refused { .. }), "{refused}");
    tpm.unload(&wrong).unwrap();
    let ak = tpm.load_key(&ek, Use::Attest, &blob, VALUE).unwrap();
    let third = quote(&mut tpm, &ak);
    let expected = Expected {
        values: &third.values,
        ..expected
    };
    let after = check_quote(&third.attest, &third.signature, &ak.public, &expected).unwrap();
    assert_eq!(after.since(&before), Ok(Since::Rebooted(1)));
}

#[test]
fn a_measurement_list_counts_as_far_as_the_tpm_quotes_it() {
    let dir = tempfile::tempdir().unwrap();
    let Some(swtpm) = Swtpm::start("swtpm::a_measurement_list", dir.path()) else {
        return;
    };
    let mut tpm = open(&swtpm);
    let ek = tpm.endorsement().unwrap();
    let blob = tpm.make_key(&ek, Use::Attest, VALUE).unwrap();
    let ak = tpm.load_key(&ek, Use::Attest, &blob, VALUE).unwrap();
    let selection = [PcrSelection {
        bank: Hash::Sha256,
        pcrs: 1 << PCR,
    }];
    let qualifying = [1; 32];
    let quoted = |tpm: &mut Tpm| {
        let quote = tpm.quote_with(&ak, &qualifying, &selection).unwrap();
        let expected = Expected {
            qualifying: &qualifying,
            selection: &selection,
            values: &quote.values,
        };
        check_quote(&quote.attest, &quote.signature, &ak.public, &expected).unwrap();
        quote.values.0[&(Hash::Sha256, PCR)].clone()
    };
    let lines = [
        measured(&[1; 32], "boot_aggregate", None),
        measured(&[2; 32], "/usr/bin/sh", Some(b"signed")),
        violated("/var/log/wtmp"),
        old(&[3; 20], "/usr/bin/env"),
    ];
    let bytes = lines.each_ref().map(|line| line.bytes.clone()).concat();
    let list = List::parse(&bytes, 0).unwrap();
    let mut accepted = Accepted::nothing(Hash::Sha256, PCR);
    for (count, line) in (1..).zip(&lines) {
        tpm.extend_pcr(PCR, &line.extended).unwrap();
        accepted = accepted.advance(&list, &quoted(&mut tpm)).unwrap();
        assert_eq!(accepted.entries, count);
    }
    // Something was extended that the list does not tell.
    tpm.extend_pcr(PCR, &[9; 32]).unwrap();
    let hidden = accepted.advance(&list, &quoted(&mut tpm));
    assert_eq!(hidden, Err(ImaError::Quoted));
}

#[test]
fn a_key_of_another_tpm_is_not_loaded() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let test = "swtpm::a_key_of_another_tpm";
    let Some((swtpm, other)) = Swtpm::start(test, dir.path()).zip(Swtpm::start(test, other.path()))
    else {
        return;
    };
    let (mut tpm, mut other) = (open(&swtpm), open(&other));
    let ek = tpm.endorsement().unwrap();
    let theirs = other.endorsement().unwrap();
    for what in [Use::Attest, Use::Sign] {
        let blob = tpm.make_key(&ek, what, VALUE).unwrap();
        let refused = other.load_key(&theirs, what, &blob, VALUE).unwrap_err();
        let said = refused.to_string();
        assert!(said.contains("another TPM"), "{said}");
    }
    // Nothing of it stays: three objects are all that a TPM must hold.
    for _ in 0..5 {
        let blob = other.make_key(&theirs, Use::Sign, VALUE).unwrap();
        let key = other.load_key(&theirs, Use::Sign, &blob, VALUE).unwrap();
        other.unload(&key).unwrap();
    }
}

/// An index of the owner's, outside of those that vendors and systemd use.
const INDEX: u32 = 0x0180_4a00;

#[test]
fn an_index_only_goes_forward_and_the_tpm_says_so_to_strangers() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut swtpm) = Swtpm::start("swtpm::an_index_only_goes_forward", dir.path()) else {
        return;
    };
    let mut tpm = open(&swtpm);
    let ek = tpm.endorsement().unwrap();
    let blob = tpm.make_key(&ek, Use::Attest, VALUE).unwrap();
    let ak = tpm.load_key(&ek, Use::Attest, &blob, VALUE).unwrap();
    let auth = Auth::Value(VALUE);
    for (index, kind) in [(INDEX, NvKind::Counter), (INDEX + 1, NvKind::Extend)] {
        tpm.nv_define(index, kind, VALUE).unwrap();
        tpm.nv_define(index, kind, VALUE).unwrap();
    }
    tpm.nv_increment(INDEX, auth).unwrap();
    tpm.nv_extend(INDEX + 1, auth, b"a head").unwrap();
    let says = |tpm: &mut Tpm, ak: &TpmKey, index: u32, kind: NvKind| {
        let what = (index, kind, VALUE);
        let (attest, signature) = tpm.certify_index(ak, what, &[5; 32]).unwrap();
        let signature = Signature::parse(&signature).unwrap();
        signature.verify(&ak.public, &attest).unwrap();
        match Attest::parse(&attest).unwrap().attested {
            Attested::Nv(content) => content,
            other => panic!("{other:?}"),
        }
    };
    let first = says(&mut tpm, &ak, INDEX, NvKind::Counter);
    let extended = says(&mut tpm, &ak, INDEX + 1, NvKind::Extend);
    assert_eq!(
        extended.contents,
        Hash::Sha256.digest(&[&[0; 32], b"a head"])
    );
    tpm.nv_increment(INDEX, auth).unwrap();
    let second = says(&mut tpm, &ak, INDEX, NvKind::Counter);
    assert!(second.contents > first.contents);
    assert_eq!(second.index, first.index);
    assert_eq!(tpm.nv_public(INDEX).unwrap().unwrap().1, first.index);
    // Nobody without its value moves it.
    assert!(tpm.nv_increment(INDEX, Auth::Value(b"guessed")).is_err());

    let (attest, signature) = tpm.time_with(&ak, &[6; 32]).unwrap();
    let signature = Signature::parse(&signature).unwrap();
    signature.verify(&ak.public, &attest).unwrap();
    let attest = Attest::parse(&attest).unwrap();
    assert!(matches!(attest.attested, Attested::Time(_)), "{attest:?}");

    // Its state set back: the counter is the one of then.
    drop(tpm);
    swtpm.power_off();
    let state = swtpm.state().join("tpm2-00.permall");
    let old = std::fs::read(&state).unwrap();
    swtpm.power_on();
    let mut tpm = open(&swtpm);
    tpm.nv_increment(INDEX, auth).unwrap();
    let ak = tpm.load_key(&ek, Use::Attest, &blob, VALUE).unwrap();
    let third = says(&mut tpm, &ak, INDEX, NvKind::Counter);
    assert!(third.contents > second.contents);
    drop(tpm);
    swtpm.power_off();
    std::fs::write(&state, old).unwrap();
    swtpm.power_on();
    let mut tpm = open(&swtpm);
    let ak = tpm.load_key(&ek, Use::Attest, &blob, VALUE).unwrap();
    let back = says(&mut tpm, &ak, INDEX, NvKind::Counter);
    assert!(back.contents < third.contents, "and this shows it");
}

#[test]
fn a_policy_over_pcrs_is_taken_and_random_bytes_and_properties_come() {
    let dir = tempfile::tempdir().unwrap();
    let Some(swtpm) = Swtpm::start("swtpm::a_policy_over_pcrs", dir.path()) else {
        return;
    };
    let mut tpm = open(&swtpm);
    let session = tpm.start_policy().unwrap();
    tpm.holding(session, |tpm, session| tpm.policy_pcr(session, &SELECTION))
        .unwrap();
    let (one, two) = (tpm.random(32).unwrap(), tpm.random(32).unwrap());
    assert_eq!((one.len(), two.len()), (32, 32));
    assert_ne!(one, two);
    // TPM_PT_FAMILY_INDICATOR is "2.0".
    assert_eq!(tpm.property(0x100).unwrap(), Some(0x322e_3000));
    tpm.startup().unwrap();
}
