//! SGX and TDX, by Intel's attestation (DCAP).

use aws_lc_rs::digest::{SHA256, SHA384, digest};
use dcap_qvl::config::{Config, CryptoProvider};
use dcap_qvl::quote::{Quote, Report};
use dcap_qvl::signature::DerSigEncoder;
use dcap_qvl::verify::QuoteVerifier;
use dcap_qvl::x509::X509CertBackend;
use dcap_qvl::{
    PckCertFlag, Policy, QeIdentity, QuoteClaims, QuoteCollateralV3, QuotePolicy, TcbInfo,
};
use rustls_pki_types::SignatureVerificationAlgorithm;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

pub use dcap_qvl::TcbStatus;

use super::{QUOTE_BYTES_MAX, TeeError, in_window};

/// The longest collateral.
pub const COLLATERAL_BYTES_MAX: usize = 1024 * 1024;
/// SHA-256 of Intel's SGX Root CA, which signs everything that Intel says of SGX and TDX. The certificate itself comes
/// with the collateral.
const ROOT: [u8; 32] = [
    0x44, 0xa0, 0x19, 0x6b, 0x2b, 0x99, 0xf8, 0x89, 0xb8, 0xe1, 0x49, 0xe9, 0x5b, 0x80, 0x7a, 0x35,
    0x0e, 0x74, 0x24, 0x96, 0x43, 0x99, 0xe8, 0x85, 0xa7, 0xcb, 0xb8, 0xcc, 0xfa, 0xb6, 0x74, 0xd3,
];
/// `DEBUG` of an enclave's attributes, and of a trust domain's.
const SGX_DEBUG: u8 = 0x02;
const TD_DEBUG: u8 = 0x01;

/// What is asked of a platform. Whatever it does not name is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntelPolicy {
    /// Statuses that are allowed beside `UpToDate`. What is out of date or revoked is refused all the same.
    pub statuses: Vec<TcbStatus>,
    /// Advisories that are allowed, such as `INTEL-SA-00289`.
    pub advisories: Vec<String>,
    /// Packages may be added to the machine without a new registration: servers that are sold are so.
    pub dynamic_platform: bool,
    /// Intel keeps the keys of the platform.
    pub cached_keys: bool,
    /// Two threads share a core.
    pub smt: bool,
    /// The code.
    pub code: IntelCode,
}

/// Which code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IntelCode {
    /// This very enclave.
    Enclave {
        /// MRENCLAVE.
        mr_enclave: [u8; 32],
    },
    /// Enclaves of a signer.
    Signer {
        /// MRSIGNER.
        mr_signer: [u8; 32],
        /// ISVPRODID.
        product: u16,
        /// The lowest ISVSVN.
        version_min: u16,
    },
    /// A trust domain.
    Domain {
        /// MRTD: its firmware.
        mr_td: [u8; 48],
        /// RTMR0 to RTMR3, those that count: what the firmware measured, kernel and system.
        rtmrs: [Option<[u8; 48]>; 4],
    },
}

/// What a quote shows, beyond that the policy holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntelQuote {
    /// What Intel said of the platform.
    pub status: TcbStatus,
    /// The advisories that it named.
    pub advisories: Vec<String>,
    /// The first moment at which the collateral says nothing any more, in seconds since 1970.
    pub expires_s: u64,
}

/// The one crypto library of this program, in the place of another.
struct Crypto;

impl CryptoProvider for Crypto {
    fn sig_algo() -> &'static dyn SignatureVerificationAlgorithm {
        webpki::aws_lc_rs::ECDSA_P256_SHA256
    }

    fn sha256(data: &[u8]) -> [u8; 32] {
        let digest = digest(&SHA256, data);
        digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    fn sha384(data: &[u8]) -> [u8; 48] {
        let digest = digest(&SHA384, data);
        digest.as_ref().try_into().expect("SHA-384 has 48 bytes")
    }
}

impl Config for Crypto {
    type X509 = X509CertBackend;
    type SigEncoder = DerSigEncoder;
    type Crypto = Self;
}

/// Checks a quote of SGX or TDX with Intel's collateral (the JSON of `QuoteCollateralV3`), as of a time.
///
/// # Errors
/// [`TeeError`]: the first thing that does not hold.
pub fn check_intel_quote(
    quote: &[u8],
    collateral: &[u8],
    at_s: u64,
    report_data: &[u8; 64],
    policy: &IntelPolicy,
) -> Result<IntelQuote, TeeError> {
    if quote.len() > QUOTE_BYTES_MAX {
        return Err(TeeError::TooLong("quote"));
    }
    if collateral.len() > COLLATERAL_BYTES_MAX {
        return Err(TeeError::TooLong("collateral"));
    }
    let parsed = Quote::parse(quote).map_err(|_| TeeError::Malformed("quote"))?;
    let collateral: QuoteCollateralV3 =
        serde_json::from_slice(collateral).map_err(|_| TeeError::Malformed("collateral"))?;
    // Refused by name before it is proven; what is accepted is proven below.
    is_current(&collateral, at_s)?;
    if is_debug(&parsed.report) {
        return Err(TeeError::Debug);
    }
    let root = root(&collateral)?;
    let claims = QuoteVerifier::<Crypto>::new_with_config(root)
        .verify_with_policy(quote, collateral, at_s, &QuotePolicy::claims_only(at_s))
        .map_err(|error| TeeError::Unproven(format!("{error:#}")))?;
    is_allowed(&claims, at_s, policy)?;
    if report_data_of(&claims.report) != report_data {
        return Err(TeeError::ReportData);
    }
    is_code(&claims.report, &policy.code)?;
    Ok(IntelQuote {
        status: claims.tcb.status,
        advisories: claims.tcb.advisory_ids,
        expires_s: claims.earliest_expiration_date,
    })
}

/// Whether the policy allows what the vendor says of the platform.
fn is_allowed(claims: &QuoteClaims, at_s: u64, policy: &IntelPolicy) -> Result<(), TeeError> {
    let status = claims.tcb.status;
    if status != TcbStatus::UpToDate && !policy.statuses.contains(&status) {
        return Err(TeeError::Status(status));
    }
    let unknown = |id: &&String| !policy.advisories.contains(id);
    if let Some(id) = claims.tcb.advisory_ids.iter().find(unknown) {
        return Err(TeeError::Advisory(id.clone()));
    }
    let flags = &claims.platform.pck;
    for (what, flag, allowed) in [
        (
            "a dynamic platform",
            flags.dynamic_platform,
            policy.dynamic_platform,
        ),
        ("cached keys", flags.cached_keys, policy.cached_keys),
        ("SMT", flags.smt_enabled, policy.smt),
    ] {
        if flag == PckCertFlag::True && !allowed {
            return Err(TeeError::Platform(what));
        }
    }
    // What the library's own strict policy asks beyond this.
    let strict = QuotePolicy::strict(at_s)
        .allow_dynamic_platform(policy.dynamic_platform)
        .allow_cached_keys(policy.cached_keys)
        .allow_smt(policy.smt);
    let statuses = policy.statuses.iter();
    let strict = statuses.fold(strict, |strict, status| strict.allow_status(*status));
    strict
        .validate(claims)
        .map_err(|error| TeeError::Unproven(format!("{error:#}")))
}

/// Whether everything that Intel says is of this time: both documents and both revocation lists. The certificates are
/// judged with their chains.
fn is_current(collateral: &QuoteCollateralV3, at_s: u64) -> Result<(), TeeError> {
    let info: TcbInfo =
        serde_json::from_str(&collateral.tcb_info).map_err(|_| TeeError::Malformed("TCB info"))?;
    let identity: QeIdentity = serde_json::from_str(&collateral.qe_identity)
        .map_err(|_| TeeError::Malformed("QE identity"))?;
    let seconds = |what: &'static str, text: &str| {
        let time: Result<jiff::Timestamp, _> = text.parse();
        time.map(jiff::Timestamp::as_second)
            .map_err(|_| TeeError::Malformed(what))
    };
    for (what, from, until) in [
        ("TCB info", &info.issue_date, &info.next_update),
        ("QE identity", &identity.issue_date, &identity.next_update),
    ] {
        in_window(what, at_s, seconds(what, from)?, seconds(what, until)?)?;
    }
    for (what, der) in [
        ("root's revocation list", &collateral.root_ca_crl),
        ("revocation list", &collateral.pck_crl),
    ] {
        let (_, list) =
            CertificateRevocationList::from_der(der).map_err(|_| TeeError::Malformed(what))?;
        let until = list.next_update().ok_or(TeeError::Malformed(what))?;
        in_window(
            what,
            at_s,
            list.last_update().timestamp(),
            until.timestamp(),
        )?;
    }
    Ok(())
}

/// Intel's root, which comes last in the chain.
fn root(collateral: &QuoteCollateralV3) -> Result<Vec<u8>, TeeError> {
    let chain = Pem::iter_from_buffer(collateral.tcb_info_issuer_chain.as_bytes());
    let root = chain.last().and_then(Result::ok);
    let root = root.ok_or(TeeError::Malformed("chain"))?;
    if digest(&SHA256, &root.contents).as_ref() != ROOT {
        return Err(TeeError::Root("Intel"));
    }
    Ok(root.contents)
}

fn is_debug(report: &Report) -> bool {
    match (report.as_sgx(), report.as_td10()) {
        (Some(enclave), _) => enclave.attributes[0] & SGX_DEBUG != 0,
        (_, Some(domain)) => domain.td_attributes[0] & TD_DEBUG != 0,
        _ => false,
    }
}

fn report_data_of(report: &Report) -> &[u8; 64] {
    match report {
        Report::SgxEnclave(enclave) => &enclave.report_data,
        Report::TD10(domain) => &domain.report_data,
        Report::TD15(domain) => &domain.base.report_data,
        Report::TD15Ex(domain) => &domain.base.base.report_data,
    }
}

fn is_code(report: &Report, code: &IntelCode) -> Result<(), TeeError> {
    let same = |what: &'static str, is: bool| {
        if is {
            Ok(())
        } else {
            Err(TeeError::Code(what))
        }
    };
    match (code, report.as_sgx(), report.as_td10()) {
        (IntelCode::Enclave { mr_enclave }, Some(enclave), _) => {
            same("MRENCLAVE", enclave.mr_enclave == *mr_enclave)
        }
        (
            IntelCode::Signer {
                mr_signer,
                product,
                version_min,
            },
            Some(enclave),
            _,
        ) => {
            same("MRSIGNER", enclave.mr_signer == *mr_signer)?;
            same("ISVPRODID", enclave.isv_prod_id == *product)?;
            same("ISVSVN", enclave.isv_svn >= *version_min)
        }
        (IntelCode::Domain { mr_td, rtmrs }, _, Some(domain)) => {
            same("MRTD", domain.mr_td == *mr_td)?;
            let found = [
                ("RTMR0", domain.rt_mr0),
                ("RTMR1", domain.rt_mr1),
                ("RTMR2", domain.rt_mr2),
                ("RTMR3", domain.rt_mr3),
            ];
            found
                .into_iter()
                .zip(rtmrs)
                .try_for_each(|((name, found), expected)| {
                    same(name, expected.is_none_or(|expected| expected == found))
                })
        }
        _ => Err(TeeError::Code("kind of hardware")),
    }
}
