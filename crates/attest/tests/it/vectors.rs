use std::path::Path;

use jurat_attest::tpm::{
    Attest, Attested, Attribute, Attributes, ClockError, Expected, Hash, KeyError, Malformed, Name,
    PcrSelection, PcrValues, Public, QuoteError, Signature, SignatureError, Since, check_quote,
    is_ak, is_log_key,
};

pub(crate) fn read(name: &str) -> Vec<u8> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors/tpm");
    std::fs::read(dir.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub(crate) fn public(name: &str) -> Public {
    Public::parse_sized(&read(&format!("{name}.tpm2b_public"))).unwrap()
}

const SELECTION: [PcrSelection; 1] = [PcrSelection {
    bank: Hash::Sha256,
    pcrs: 1 | 1 << 7 | 1 << 23,
}];

fn values() -> PcrValues {
    let bytes = read("pcrs-sha256-0-7-23.bin");
    let values = [0, 7, 23].into_iter().zip(bytes.chunks(32));
    PcrValues(
        values
            .map(|(pcr, value)| ((Hash::Sha256, pcr), value.to_vec()))
            .collect(),
    )
}

fn check(attest: &[u8], signature: &[u8], ak: &Public) -> Result<(), QuoteError> {
    let qualifying: [u8; 32] = read("qualifying.bin").try_into().unwrap();
    let expected = Expected {
        qualifying: &qualifying,
        selection: &SELECTION,
        values: &values(),
    };
    check_quote(attest, signature, ak, &expected).map(drop)
}

fn ecc() -> (Vec<u8>, Vec<u8>, Public) {
    (
        read("quote-ecc.attest"),
        read("quote-ecc.tpmt_signature"),
        public("ak-ecc"),
    )
}

#[test]
fn every_public_area_has_the_name_that_its_tpm_gave_it() {
    for name in ["ek-rsa2048", "ek-ecp384", "ak-ecc", "ak-rsa", "dev-ecc"] {
        let key = public(name);
        assert_eq!(key.name(), Name(read(&format!("{name}.name"))), "{name}");
    }
    public("sealed");
    public("nvextend-key");
}

#[test]
fn every_statement_of_the_tpm_is_read_and_its_signature_holds() {
    for (statement, signer) in [
        ("quote-ecc", "ak-ecc"),
        ("quote-rsa", "ak-rsa"),
        ("certify-dev-by-ak-ecc", "ak-ecc"),
        ("nvcertify", "ak-ecc"),
        ("gettime", "ak-ecc"),
        ("nvextend-certify", "nvextend-key"),
    ] {
        let attest = read(&format!("{statement}.attest"));
        let signature = Signature::parse(&read(&format!("{statement}.tpmt_signature"))).unwrap();
        signature.verify(&public(signer), &attest).unwrap();
        Attest::parse(&attest).unwrap();
        let mut longer = attest.clone();
        longer.push(0);
        assert!(Attest::parse(&longer).is_err(), "{statement}: left over");
        for len in 0..attest.len() {
            assert!(Attest::parse(&attest[..len]).is_err(), "{statement}: cut");
        }
    }
    let certify = Attest::parse(&read("certify-dev-by-ak-ecc.attest")).unwrap();
    let Attested::Certify(certified) = certify.attested else {
        panic!("{certify:?}");
    };
    assert_eq!(certified.name, public("dev-ecc").name());
    let counter = Attest::parse(&read("nvcertify.attest")).unwrap();
    let Attested::Nv(counter) = counter.attested else {
        panic!("{counter:?}");
    };
    assert_eq!(counter.contents, read("nvcounter.bin"));
}

#[test]
fn the_quotes_of_a_tpm_are_taken() {
    for kind in ["ecc", "rsa"] {
        let attest = read(&format!("quote-{kind}.attest"));
        let signature = read(&format!("quote-{kind}.tpmt_signature"));
        check(&attest, &signature, &public(&format!("ak-{kind}"))).unwrap();
    }
}

#[test]
fn a_quote_with_any_bit_changed_says_nothing() {
    let (attest, signature, ak) = ecc();
    for bit in 0..attest.len() * 8 {
        let mut changed = attest.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let error = check(&changed, &signature, &ak).unwrap_err();
        assert_eq!(error, QuoteError::Signature(SignatureError::Bad), "{bit}");
    }
}

#[test]
fn a_quote_of_something_else_is_refused_by_name() {
    let (attest, signature, ak) = ecc();
    let qualifying: [u8; 32] = read("qualifying.bin").try_into().unwrap();
    let values = values();
    let good = Expected {
        qualifying: &qualifying,
        selection: &SELECTION,
        values: &values,
    };
    let judge = |expected: &Expected<'_>| check_quote(&attest, &signature, &ak, expected);
    let clock = judge(&good).unwrap();
    assert_eq!((clock.resets, clock.safe), (3, true));

    let qualifying = &[7; 32];
    let other = Expected { qualifying, ..good };
    assert_eq!(judge(&other), Err(QuoteError::Qualifying));
    let selection = &[PcrSelection {
        bank: Hash::Sha256,
        pcrs: 1,
    }];
    let other = Expected { selection, ..good };
    assert_eq!(judge(&other), Err(QuoteError::Selection));
    let other = Expected {
        selection: &[],
        ..good
    };
    assert_eq!(judge(&other), Err(QuoteError::Selection));
    let mut changed = values.clone();
    changed.0.get_mut(&(Hash::Sha256, 7)).unwrap()[0] ^= 1;
    let other = Expected {
        values: &changed,
        ..good
    };
    assert_eq!(judge(&other), Err(QuoteError::Digest));
    changed.0.remove(&(Hash::Sha256, 7));
    let other = Expected {
        values: &changed,
        ..good
    };
    let (bank, pcr) = (Hash::Sha256, 7);
    assert_eq!(judge(&other), Err(QuoteError::Value { bank, pcr }));
    // Another key of the same TPM, and one that is no attestation key.
    let rsa = public("ak-rsa");
    assert_eq!(
        check(&attest, &signature, &rsa),
        Err(QuoteError::Signature(SignatureError::Scheme))
    );
    assert_eq!(
        check(&attest, &signature, &public("dev-ecc")),
        Err(QuoteError::Key(KeyError::Lacks(Attribute::Restricted)))
    );
    // Another statement, rightly signed.
    let certify = read("certify-dev-by-ak-ecc.attest");
    let signature = read("certify-dev-by-ak-ecc.tpmt_signature");
    assert_eq!(check(&certify, &signature, &ak), Err(QuoteError::Type));
}

#[test]
fn a_key_is_what_its_attributes_say_and_nothing_else() {
    is_ak(&public("ak-ecc")).unwrap();
    is_ak(&public("ak-rsa")).unwrap();
    is_log_key(&public("dev-ecc")).unwrap();
    assert_eq!(
        is_log_key(&public("ak-ecc")),
        Err(KeyError::Has(Attribute::Restricted))
    );
    assert_eq!(
        is_ak(&public("ek-rsa2048")),
        Err(KeyError::Lacks(Attribute::Sign))
    );
    // The attributes stand after the two algorithms.
    for lost in [
        Attribute::FixedTpm,
        Attribute::FixedParent,
        Attribute::SensitiveDataOrigin,
        Attribute::Restricted,
        Attribute::Sign,
    ] {
        let ak = public("ak-ecc");
        let mut area = ak.area().to_vec();
        let bits = ak.attributes.0 & !Attributes::of(&[lost]).0;
        area[4..8].copy_from_slice(&bits.to_be_bytes());
        let changed = Public::parse(&area).unwrap();
        assert_eq!(is_ak(&changed), Err(KeyError::Lacks(lost)));
        assert_ne!(changed.name(), ak.name(), "the name is over them");
    }
}

#[test]
fn another_magic_is_no_statement_of_a_tpm() {
    let mut attest = read("quote-ecc.attest");
    attest[0] ^= 1;
    assert_eq!(
        Attest::parse(&attest),
        Err(Malformed("attestation: its magic is not that of a TPM"))
    );
}

#[test]
fn the_counters_of_a_tpm_only_go_forward() {
    let clock = Attest::parse(&read("quote-ecc.attest")).unwrap().clock;
    let later = |change: &dyn Fn(&mut jurat_attest::tpm::Clock)| {
        let mut later = clock;
        change(&mut later);
        later.since(&clock)
    };
    assert_eq!(later(&|clock| clock.clock_ms += 1), Ok(Since::SameBoot));
    assert_eq!(later(&|clock| clock.restarts += 1), Ok(Since::Resumed));
    assert_eq!(later(&|clock| clock.resets += 2), Ok(Since::Rebooted(2)));
    let rebooted = later(&|clock| {
        clock.resets += 1;
        clock.restarts = 0;
        clock.clock_ms += 5;
    });
    assert_eq!(rebooted, Ok(Since::Rebooted(1)));
    assert!(matches!(
        later(&|clock| clock.clock_ms -= 1),
        Err(ClockError::Clock { .. })
    ));
    assert!(matches!(
        later(&|clock| clock.resets -= 1),
        Err(ClockError::Resets { .. })
    ));
    let lost_power = later(&|clock| {
        clock.resets += 1;
        clock.clock_ms -= 1;
        clock.safe = false;
    });
    assert_eq!(lost_power, Ok(Since::Rebooted(1)));
}
