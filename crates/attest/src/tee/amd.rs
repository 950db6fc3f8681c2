//! SEV-SNP, by AMD's reports and the certificates of its chips.
//!
//! Known gap: AMD's revocation list is not consulted. Reports under a key of a cloud's operator (VLEK) are refused.

use sev::certs::snp::{Certificate, Chain, Verifiable as _, builtin, ca};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer as _;

use super::{TeeError, in_window};
use crate::ek::CERTIFICATE_BYTES_MAX;

/// What AMD puts into the certificate of a chip (Versioned Chip Endorsement Key specification, table 9): versions of
/// firmware, below this prefix, and the chip.
const VERSIONS: &str = "1.3.6.1.4.1.3704.1.3";
const CHIP: &str = "1.3.6.1.4.1.3704.1.4";

/// Bytes of a report that are signed; the signature comes behind.
const SIGNED: usize = 0x2a0;
/// Bytes of a number of the signature, and of its place.
const NUMBER: usize = 48;
const PLACE: usize = 72;

/// Versions of the firmware of a platform.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AmdTcb {
    /// The boot loader of the security processor.
    pub bootloader: u8,
    /// Its system.
    pub tee: u8,
    /// The firmware of SEV-SNP.
    pub snp: u8,
    /// The microcode.
    pub microcode: u8,
}

/// What is asked of a platform and a guest. Debugging and migration agents are always refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AmdPolicy {
    /// The lowest versions.
    pub tcb_min: AmdTcb,
    /// The guest may run where two threads share a core.
    pub smt: bool,
    /// The highest privilege level that asked for the report: 0 is the most privileged.
    pub vmpl_max: u32,
    /// The measurement of the guest as it was started.
    pub measurement: [u8; 48],
}

/// What a report shows, beyond that the policy holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AmdReport {
    /// The versions that the signing key stands for.
    pub tcb: AmdTcb,
    /// The chip.
    pub chip: [u8; 64],
    /// What the host added when it started the guest. A claim of the host.
    pub host_data: [u8; 32],
}

/// Checks a report with the certificate of its chip, as of a time.
///
/// # Errors
/// [`TeeError`]: the first thing that does not hold.
pub fn check_amd_report(
    report: &[u8],
    certificate: &[u8],
    at_s: u64,
    report_data: &[u8; 64],
    policy: &AmdPolicy,
) -> Result<AmdReport, TeeError> {
    if certificate.len() > CERTIFICATE_BYTES_MAX {
        return Err(TeeError::TooLong("certificate"));
    }
    let malformed = TeeError::Malformed("report");
    let parsed = AttestationReport::from_bytes(report).map_err(|_| malformed.clone())?;
    // The library signs off what it would write: that must be what stands here.
    let again = parsed.to_bytes().map_err(|_| malformed.clone())?;
    if again.as_slice() != report {
        return Err(malformed);
    }
    if !is_padded_with_zeros(report) {
        return Err(malformed);
    }
    let chain = chain(certificate, at_s)?;
    (&chain, &parsed)
        .verify()
        .map_err(|error| TeeError::Unproven(error.to_string()))?;
    is_of_chip(certificate, &parsed)?;
    if parsed.policy.debug_allowed() {
        return Err(TeeError::Debug);
    }
    for (what, is, allowed) in [
        (
            "a migration agent",
            parsed.policy.migrate_ma_allowed(),
            false,
        ),
        ("SMT", parsed.policy.smt_allowed(), policy.smt),
        ("this privilege level", parsed.vmpl > policy.vmpl_max, false),
    ] {
        if is && !allowed {
            return Err(TeeError::Platform(what));
        }
    }
    let tcb = AmdTcb {
        bootloader: parsed.reported_tcb.bootloader,
        tee: parsed.reported_tcb.tee,
        snp: parsed.reported_tcb.snp,
        microcode: parsed.reported_tcb.microcode,
    };
    let least = policy.tcb_min;
    for (part, found, least) in [
        ("the boot loader", tcb.bootloader, least.bootloader),
        ("the security processor", tcb.tee, least.tee),
        ("SEV-SNP", tcb.snp, least.snp),
        ("the microcode", tcb.microcode, least.microcode),
    ] {
        if found < least {
            return Err(TeeError::Firmware { part, found, least });
        }
    }
    if parsed.report_data != *report_data {
        return Err(TeeError::ReportData);
    }
    if parsed.measurement != policy.measurement {
        return Err(TeeError::Code("measurement"));
    }
    Ok(AmdReport {
        tcb,
        chip: parsed.chip_id,
        host_data: parsed.host_data,
    })
}

/// Whether a report has one form only: behind the two numbers of its signature, of 48 bytes in places of 72, nobody looks.
fn is_padded_with_zeros(report: &[u8]) -> bool {
    let signature = report.get(SIGNED..).unwrap_or_default();
    let numbers = signature.chunks(PLACE).take(2);
    let behind = numbers.flat_map(|place| place.iter().skip(NUMBER));
    let rest = signature.iter().skip(2 * PLACE);
    behind.chain(rest).all(|byte| *byte == 0)
}

/// The chain from the chip to one of AMD's roots. That a root is AMD's is known from its bytes: the library would take any
/// that signs itself.
fn chain(certificate: &[u8], at_s: u64) -> Result<Chain, TeeError> {
    let malformed = |_| TeeError::Malformed("certificate");
    let vek = Certificate::from_der(certificate).map_err(malformed)?;
    if vek.to_der().map_err(malformed)? != certificate {
        return Err(TeeError::Malformed("certificate"));
    }
    for (ark, ask) in [
        (builtin::milan::ARK, builtin::milan::ASK),
        (builtin::genoa::ARK, builtin::genoa::ASK),
        (builtin::turin::ARK, builtin::turin::ASK),
    ] {
        let ca = ca::Chain::from_pem(ark, ask).map_err(malformed)?;
        let chain = Chain {
            ca,
            vek: vek.clone(),
        };
        if chain.verify().is_err() {
            continue;
        }
        is_current("chip's certificate", certificate, at_s)?;
        for (what, pem) in [("root", ark), ("signing certificate", ask)] {
            let pem = Pem::iter_from_buffer(pem).next().and_then(Result::ok);
            let pem = pem.ok_or(TeeError::Malformed("certificate"))?;
            is_current(what, &pem.contents, at_s)?;
        }
        return Ok(chain);
    }
    Err(TeeError::Root("AMD"))
}

fn is_current(what: &'static str, der: &[u8], at_s: u64) -> Result<(), TeeError> {
    let (_, parsed) =
        X509Certificate::from_der(der).map_err(|_| TeeError::Malformed("certificate"))?;
    // What the certificate says outside of its signature must be what it says inside.
    if parsed.signature_algorithm != parsed.tbs_certificate.signature {
        return Err(TeeError::Malformed("certificate"));
    }
    let validity = parsed.validity();
    let (from, until) = (validity.not_before, validity.not_after);
    in_window(what, at_s, from.timestamp(), until.timestamp())
}

/// Whether the certificate names this chip and these versions. The key is derived from both, so a report that is signed
/// with it is of them; AMD asks verifiers to compare all the same.
fn is_of_chip(certificate: &[u8], report: &AttestationReport) -> Result<(), TeeError> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|_| TeeError::Malformed("certificate"))?;
    let value = |oid: &str| {
        let mut extensions = parsed.extensions().iter();
        let found = extensions.find(|extension| extension.oid.to_id_string() == oid);
        found.map(|extension| extension.value)
    };
    // The bytes alone, or as an OCTET STRING of 64.
    let chip = value(CHIP).map(|chip| chip.strip_prefix(&[0x04, 0x40]).unwrap_or(chip));
    if chip != Some(report.chip_id.as_slice()) {
        return Err(TeeError::Chip("its number"));
    }
    let tcb = report.reported_tcb;
    for (what, arc, found) in [
        ("the boot loader", 1, Some(tcb.bootloader)),
        ("the security processor", 2, Some(tcb.tee)),
        ("SEV-SNP", 3, Some(tcb.snp)),
        ("the microcode", 8, Some(tcb.microcode)),
        ("the FMC", 9, tcb.fmc),
    ] {
        let Some(found) = found else { continue };
        // An INTEGER of one byte, or of two when its highest bit is set.
        let named = match value(&format!("{VERSIONS}.{arc}")) {
            Some([2, 1, named @ 0..=0x7f] | [2, 2, 0, named]) => *named,
            _ => return Err(TeeError::Chip(what)),
        };
        if named != found {
            return Err(TeeError::Chip(what));
        }
    }
    Ok(())
}
