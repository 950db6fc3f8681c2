use jurat_attest::tpm::{
    Attest, Attested, Expected, Hash, PcrSelection, QuoteError, Signature, Since, check_quote,
    is_ak, is_log_key, make_credential,
};
use jurat_key::tpm::{Address, Endorsement, Tpm, TpmError, TpmKey, Use};
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
