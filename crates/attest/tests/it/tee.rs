//! Real quotes of others: one in the shared folder, the others inside of the packages that judge them.

use std::path::{Path, PathBuf};
use std::process::Command;

use jurat_attest::tee::{
    AmdPolicy, AmdTcb, COLLATERAL_BYTES_MAX, IntelCode, IntelPolicy, QUOTE_BYTES_MAX, TcbStatus,
    TeeError, check_amd_report, check_intel_quote,
};
use jurat_testkit::need;
use serde_json::Value;

/// Where the sources of a dependency lie.
fn package(name: &str) -> PathBuf {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline"])
        .args(["--features", "tee"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&out.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages.iter().find(|package| package["name"] == name);
    let manifest = package.unwrap()["manifest_path"].as_str().unwrap();
    Path::new(manifest).parent().unwrap().to_owned()
}

/// A quote, its collateral and a time at which it was current.
struct Sample {
    quote: Vec<u8>,
    collateral: Vec<u8>,
    then: u64,
}

impl Sample {
    fn read(dir: &Path, name: &str, then: u64) -> Self {
        Self {
            quote: std::fs::read(dir.join(name)).unwrap(),
            collateral: std::fs::read(dir.join(format!("{name}_collateral.json"))).unwrap(),
            then,
        }
    }

    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        self.quote[at..at + N].try_into().unwrap()
    }

    /// The report begins behind the header, and in version 5 behind its type and length.
    fn report(&self) -> usize {
        if self.quote[0] == 5 { 54 } else { 48 }
    }

    fn is_sgx(&self) -> bool {
        self.quote[0] == 3
    }

    /// A policy that allows nothing beyond the code of this quote.
    fn strict(&self) -> IntelPolicy {
        let report = self.report();
        let code = if self.is_sgx() {
            IntelCode::Enclave {
                mr_enclave: self.bytes(report + 64),
            }
        } else {
            IntelCode::Domain {
                mr_td: self.bytes(report + 136),
                rtmrs: [0, 1, 2, 3].map(|at| Some(self.bytes(report + 328 + 48 * at))),
            }
        };
        IntelPolicy {
            statuses: Vec::new(),
            advisories: Vec::new(),
            dynamic_platform: false,
            cached_keys: false,
            smt: false,
            code,
        }
    }

    /// A policy that allows what the platform of this quote needs.
    fn lenient(&self) -> IntelPolicy {
        IntelPolicy {
            statuses: vec![TcbStatus::ConfigurationAndSWHardeningNeeded],
            advisories: vec!["INTEL-SA-00289".into(), "INTEL-SA-00615".into()],
            dynamic_platform: !self.is_sgx(),
            cached_keys: !self.is_sgx(),
            smt: !self.is_sgx(),
            ..self.strict()
        }
    }

    fn report_data(&self) -> [u8; 64] {
        let at = if self.is_sgx() { 320 } else { 520 };
        self.bytes(self.report() + at)
    }

    fn judge_at(&self, at_s: u64, policy: &IntelPolicy) -> Result<TcbStatus, TeeError> {
        let data = self.report_data();
        let judged = check_intel_quote(&self.quote, &self.collateral, at_s, &data, policy);
        judged.map(|quote| {
            assert!(quote.expires_s > at_s);
            quote.status
        })
    }

    fn judge(&self, policy: &IntelPolicy) -> Result<TcbStatus, TeeError> {
        self.judge_at(self.then, policy)
    }
}

/// `None`: the folder is not there, and the test is skipped.
fn sgx(test: &str) -> Option<Sample> {
    let dir = need::shared(test)?.join("vectors/quotes");
    Some(Sample::read(&dir, "sgx_quote", 1_751_328_000))
}

fn domains() -> [Sample; 2] {
    let dir = package("dcap-qvl").join("sample");
    [
        ("tdx_quote", 1_751_328_000),
        ("tdx_quote_td15ex", 1_792_454_400),
    ]
    .map(|(name, then)| Sample::read(&dir, name, then))
}

#[test]
fn an_enclave_is_taken_only_when_the_policy_names_its_status_and_each_advisory() {
    let Some(sample) = sgx("tee::an_enclave_is_taken") else {
        return;
    };
    let status = TcbStatus::ConfigurationAndSWHardeningNeeded;
    let mut policy = sample.strict();
    assert_eq!(sample.judge(&policy), Err(TeeError::Status(status)));
    policy.statuses = vec![status];
    let advisory = |id: &str| Err(TeeError::Advisory(id.into()));
    assert_eq!(sample.judge(&policy), advisory("INTEL-SA-00289"));
    policy.advisories = vec!["INTEL-SA-00289".into()];
    assert_eq!(sample.judge(&policy), advisory("INTEL-SA-00615"));
    assert_eq!(sample.judge(&sample.lenient()), Ok(status));
}

#[test]
fn a_trust_domain_is_taken_only_on_a_platform_that_the_policy_allows() {
    for sample in domains() {
        let mut policy = sample.strict();
        let refused = |what| Err(TeeError::Platform(what));
        assert_eq!(sample.judge(&policy), refused("a dynamic platform"));
        policy.dynamic_platform = true;
        assert_eq!(sample.judge(&policy), refused("cached keys"));
        policy.cached_keys = true;
        assert_eq!(sample.judge(&policy), refused("SMT"));
        policy.smt = true;
        assert_eq!(sample.judge(&policy), Ok(TcbStatus::UpToDate));
    }
}

#[test]
fn a_platform_of_which_the_vendor_says_nothing_is_not_proven() {
    let dir = package("dcap-qvl").join("sample");
    let sample = Sample::read(&dir, "tdx_quote_outdated", 1_772_323_200);
    let refused = sample.judge(&sample.lenient());
    assert!(matches!(refused, Err(TeeError::Unproven(_))), "{refused:?}");
}

#[test]
fn collateral_counts_in_its_time_only() {
    let Some(sgx) = sgx("tee::collateral_counts") else {
        return;
    };
    let [td, td15] = domains();
    for sample in [sgx, td, td15] {
        let month = 31 * 24 * 3600;
        let early = sample.judge_at(sample.then - month, &sample.lenient());
        assert!(matches!(early, Err(TeeError::NotYet { .. })), "{early:?}");
        let late = sample.judge_at(sample.then + month, &sample.lenient());
        assert!(matches!(late, Err(TeeError::Expired { .. })), "{late:?}");
    }
}

#[test]
fn collateral_with_other_dates_content_or_root_is_not_believed() {
    let Some(mut sample) = sgx("tee::collateral_with_other_dates") else {
        return;
    };
    let late = sample.then + 31 * 24 * 3600;
    let policy = sample.lenient();
    let good = String::from_utf8(sample.collateral.clone()).unwrap();
    // Both documents say that they are good for another year. The lists do not.
    sample.collateral = good.replace("\\\"2025-07-", "\\\"2026-07-").into_bytes();
    assert_ne!(sample.collateral, good.as_bytes());
    let expired = sample.judge_at(late, &policy);
    assert!(
        matches!(expired, Err(TeeError::Expired { what, .. }) if what.contains("list")),
        "{expired:?}"
    );
    let then = sample.judge(&policy);
    assert!(matches!(then, Err(TeeError::Unproven(_))), "{then:?}");
    sample.collateral = good.replace("UpToDate", "UpTodate").into_bytes();
    let unknown = sample.judge(&policy);
    assert_eq!(unknown, Err(TeeError::Malformed("QE identity")));
    // Another root in its place: the leaf of the same chain.
    let mut collateral: Value = serde_json::from_str(&good).unwrap();
    let chain = collateral["tcb_info_issuer_chain"].as_str().unwrap();
    let leaf = chain.split_inclusive("-----END CERTIFICATE-----\n").next();
    collateral["tcb_info_issuer_chain"] = leaf.unwrap().into();
    sample.collateral = collateral.to_string().into_bytes();
    assert_eq!(sample.judge(&policy), Err(TeeError::Root("Intel")));
}

#[test]
fn a_quote_with_any_byte_of_what_is_signed_changed_says_nothing() {
    let Some(sgx) = sgx("tee::a_quote_with_any_byte") else {
        return;
    };
    let policy = sgx.lenient();
    assert!(sgx.judge(&policy).is_ok());
    let data = sgx.report_data();
    let judge = |quote: &[u8]| check_intel_quote(quote, &sgx.collateral, sgx.then, &data, &policy);
    // Header and report; length; signature, key, report of the quoting enclave and its signature.
    for at in 0..48 + 384 + 4 + 64 + 64 + 384 + 64 {
        let mut changed = sgx.quote.clone();
        changed[at] ^= 1;
        assert!(judge(&changed).is_err(), "{at}");
    }
    let report_data = sgx.report() + 320;
    let mut changed = sgx.quote.clone();
    changed[report_data] ^= 1;
    let refused = judge(&changed);
    assert!(matches!(refused, Err(TeeError::Unproven(_))), "{refused:?}");
    for len in (0..sgx.quote.len()).step_by(61) {
        assert!(judge(&sgx.quote[..len]).is_err(), "{len}");
    }
    // DEBUG of the attributes, which stand 48 bytes into the report.
    let mut debug = sgx.quote.clone();
    debug[sgx.report() + 48] |= 2;
    assert_eq!(judge(&debug).unwrap_err(), TeeError::Debug);
}

#[test]
fn a_quote_of_another_head_or_of_other_code_is_refused_by_name() {
    let Some(sgx) = sgx("tee::a_quote_of_another_head") else {
        return;
    };
    let policy = sgx.lenient();
    let other = check_intel_quote(&sgx.quote, &sgx.collateral, sgx.then, &[7; 64], &policy);
    assert_eq!(other, Err(TeeError::ReportData));
    let with = |code: IntelCode| {
        sgx.judge(&IntelPolicy {
            code,
            ..policy.clone()
        })
    };
    let mr_enclave = [7; 32];
    let other = with(IntelCode::Enclave { mr_enclave });
    assert_eq!(other, Err(TeeError::Code("MRENCLAVE")));
    let (report, mr_signer) = (sgx.report(), sgx.bytes(sgx.report() + 128));
    let product = u16::from_le_bytes(sgx.bytes(report + 256));
    let version_min = u16::from_le_bytes(sgx.bytes(report + 258));
    let signed = |mr_signer, product, version_min| {
        with(IntelCode::Signer {
            mr_signer,
            product,
            version_min,
        })
    };
    assert!(signed(mr_signer, product, version_min).is_ok());
    for (result, what) in [
        (signed([7; 32], product, version_min), "MRSIGNER"),
        (signed(mr_signer, product + 1, version_min), "ISVPRODID"),
        (signed(mr_signer, product, version_min + 1), "ISVSVN"),
    ] {
        assert_eq!(result, Err(TeeError::Code(what)));
    }
    for td in domains() {
        let mut policy = td.lenient();
        let IntelCode::Domain { mr_td, rtmrs } = policy.code.clone() else {
            panic!("a trust domain")
        };
        policy.code = IntelCode::Domain {
            mr_td: [7; 48],
            rtmrs,
        };
        assert_eq!(td.judge(&policy), Err(TeeError::Code("MRTD")));
        for (at, name) in ["RTMR0", "RTMR1", "RTMR2", "RTMR3"].into_iter().enumerate() {
            let mut rtmrs = [None; 4];
            policy.code = IntelCode::Domain { mr_td, rtmrs };
            assert!(td.judge(&policy).is_ok());
            rtmrs[at] = Some([7; 48]);
            policy.code = IntelCode::Domain { mr_td, rtmrs };
            assert_eq!(td.judge(&policy), Err(TeeError::Code(name)));
        }
        policy.code = IntelCode::Enclave { mr_enclave };
        let other = td.judge(&policy);
        assert_eq!(other, Err(TeeError::Code("kind of hardware")));
    }
}

#[test]
fn what_is_too_long_is_not_read() {
    let policy = IntelPolicy {
        statuses: Vec::new(),
        advisories: Vec::new(),
        dynamic_platform: false,
        cached_keys: false,
        smt: false,
        code: IntelCode::Enclave {
            mr_enclave: [0; 32],
        },
    };
    let judge = |quote: usize, collateral: usize| {
        let (quote, collateral) = (vec![0; quote], vec![b' '; collateral]);
        check_intel_quote(&quote, &collateral, 0, &[0; 64], &policy)
    };
    let long = judge(QUOTE_BYTES_MAX + 1, 0);
    assert_eq!(long, Err(TeeError::TooLong("quote")));
    let long = judge(0, COLLATERAL_BYTES_MAX + 1);
    assert_eq!(long, Err(TeeError::TooLong("collateral")));
}

/// A report of a Milan machine, and the certificate of its chip.
fn milan() -> (Vec<u8>, Vec<u8>) {
    let dir = package("sev").join("tests/certs_data");
    let hex = std::fs::read(dir.join("report_milan.hex")).unwrap();
    let digit = |digit: u8| (digit as char).to_digit(16).unwrap() as u8;
    let report = hex.chunks_exact(2);
    let report = report.map(|pair| digit(pair[0]) << 4 | digit(pair[1]));
    let certificate = std::fs::read(dir.join("vcek_milan.der")).unwrap();
    (report.collect(), certificate)
}

/// A time at which the certificate of the chip was valid.
const AMD_THEN: u64 = 1_700_000_000;

fn guest(report: &[u8]) -> (AmdPolicy, [u8; 64]) {
    let policy = AmdPolicy {
        tcb_min: AmdTcb::default(),
        smt: true,
        vmpl_max: 0,
        measurement: report[0x90..0xc0].try_into().unwrap(),
    };
    (policy, report[0x50..0x90].try_into().unwrap())
}

#[test]
fn a_guest_is_taken_in_the_time_of_its_chips_certificate_and_as_the_policy_allows() {
    let (report, certificate) = milan();
    let (policy, data) = guest(&report);
    let judge = |at_s: u64, policy: &AmdPolicy| {
        check_amd_report(&report, &certificate, at_s, &data, policy)
    };
    let good = judge(AMD_THEN, &policy).unwrap();
    assert_eq!(good.chip, report[0x1a0..0x1e0]);
    let strict = AmdPolicy {
        smt: false,
        ..policy.clone()
    };
    assert_eq!(judge(AMD_THEN, &strict), Err(TeeError::Platform("SMT")));
    let least = good.tcb.microcode + 1;
    let newer = AmdPolicy {
        tcb_min: AmdTcb {
            microcode: least,
            ..good.tcb
        },
        ..policy.clone()
    };
    let (part, found) = ("the microcode", good.tcb.microcode);
    let old = Err(TeeError::Firmware { part, found, least });
    assert_eq!(judge(AMD_THEN, &newer), old);
    let other = AmdPolicy {
        measurement: [7; 48],
        ..policy.clone()
    };
    assert_eq!(judge(AMD_THEN, &other), Err(TeeError::Code("measurement")));
    let other = check_amd_report(&report, &certificate, AMD_THEN, &[7; 64], &policy);
    assert_eq!(other, Err(TeeError::ReportData));
    let early = judge(1_500_000_000, &policy);
    assert!(matches!(early, Err(TeeError::NotYet { .. })), "{early:?}");
    let late = judge(2_500_000_000, &policy);
    assert!(matches!(late, Err(TeeError::Expired { .. })), "{late:?}");
}

#[test]
fn a_report_or_a_certificate_with_any_byte_changed_says_nothing() {
    let (report, certificate) = milan();
    let (policy, data) = guest(&report);
    let judge = |report: &[u8], certificate: &[u8]| {
        check_amd_report(report, certificate, AMD_THEN, &data, &policy)
    };
    assert!(judge(&report, &certificate).is_ok());
    for at in (0..report.len()).step_by(7) {
        let mut changed = report.clone();
        changed[at] ^= 1;
        assert!(judge(&changed, &certificate).is_err(), "{at}");
    }
    let mut changed = report.clone();
    changed[0x50] ^= 1;
    let unproven = judge(&changed, &certificate);
    assert!(
        matches!(unproven, Err(TeeError::Unproven(_))),
        "{unproven:?}"
    );
    for at in (0..certificate.len()).step_by(17) {
        let mut changed = certificate.clone();
        changed[at] ^= 1;
        assert!(judge(&report, &changed).is_err(), "{at}");
    }
    for len in (0..report.len()).step_by(37) {
        let cut = judge(&report[..len], &certificate);
        assert_eq!(cut, Err(TeeError::Malformed("report")), "{len}");
    }
    // The certificate of another chip.
    let dir = package("sev").join("tests/certs_data");
    let turin = std::fs::read(dir.join("vcek_turin.der")).unwrap();
    let other = judge(&report, &turin);
    assert!(
        matches!(
            other,
            Err(TeeError::Unproven(_) | TeeError::Expired { .. } | TeeError::NotYet { .. })
        ),
        "{other:?}"
    );
}

/// Entries are hashed as they are written, and a feature of a library is one of the whole program's.
#[test]
fn judging_enclaves_leaves_the_order_of_keys_as_it_is() {
    let value = serde_json::json!({ "b": 1, "a": 2 });
    assert_eq!(value.to_string(), r#"{"a":2,"b":1}"#);
}
