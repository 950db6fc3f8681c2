use jurat_attest::ek::{EkError, check_certificate};
use jurat_attest::tpm::Public;

use crate::vectors::{public, read};

/// A time at which the vectors' certificates were valid.
const THEN: u64 = 1_800_000_000;

fn der(name: &str) -> Vec<u8> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(&read(name)).unwrap();
    pem.contents
}

fn judge(certificate: &[u8], roots: &[Vec<u8>], at: u64, ek: &Public) -> Result<String, EkError> {
    let chain = [der("ca-issuer.pem")];
    check_certificate(certificate, &chain, roots, at, ek).map(|identity| identity.manufacturer)
}

#[test]
fn a_vendors_certificate_counts_only_under_the_operators_root_for_its_key_and_in_its_time() {
    let root = [der("ca-root.pem")];
    for name in ["ek-rsa2048", "ek-ecp384"] {
        let certificate = read(&format!("{name}.nv.der"));
        let ek = public(name);
        assert_eq!(
            judge(&certificate, &root, THEN, &ek),
            Ok("id:00001014".into()),
            "{name}"
        );
        let mut longer = certificate.clone();
        longer.extend([0xff; 100]);
        assert!(
            judge(&longer, &root, THEN, &ek).is_ok(),
            "an index is longer"
        );

        let unknown = judge(&certificate, &[], THEN, &ek);
        assert!(matches!(unknown, Err(EkError::Chain(_))), "{unknown:?}");
        let alone = check_certificate(&certificate, &[], &root, THEN, &ek);
        assert!(matches!(alone, Err(EkError::Chain(_))), "{alone:?}");
        let early = judge(&certificate, &root, 1_000_000_000, &ek);
        assert!(matches!(early, Err(EkError::Chain(_))), "{early:?}");
        let other = public("ak-ecc");
        assert_eq!(judge(&certificate, &root, THEN, &other), Err(EkError::Key));
        let mut changed = certificate.clone();
        let at = changed.len() - 5;
        changed[at] ^= 1;
        let changed = judge(&changed, &root, THEN, &ek);
        assert!(matches!(changed, Err(EkError::Chain(_))), "{changed:?}");
        for len in 0..certificate.len() {
            let cut = judge(&certificate[..len], &root, THEN, &ek);
            assert!(matches!(cut, Err(EkError::Malformed(_))), "{len}: {cut:?}");
        }
    }
    // The issuer's own certificate is for no endorsement key.
    let issuer = der("ca-issuer.pem");
    let ek = public("ek-rsa2048");
    let issuer = check_certificate(&issuer, &[], &root, THEN, &ek);
    assert!(
        matches!(issuer, Err(EkError::Usage | EkError::Chain(_))),
        "{issuer:?}"
    );
}
