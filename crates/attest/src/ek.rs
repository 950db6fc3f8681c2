//! Endorsement certificates: a vendor says that a key is in a TPM of its making (TCG EK Credential Profile 2.6).
//!
//! The roots are the operator's choice. Which vendors exist, and which of their roots are good, is nothing that
//! a program can know.

use std::time::Duration;

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, aws_lc_rs};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;

use crate::tpm::{Parameters, Public};

/// `tcg-kp-EKCertificate`, 2.23.133.8.1, as it is encoded.
const EK_CERTIFICATE: &[u8] = &[0x67, 0x81, 0x05, 0x08, 0x01];
/// `tcg-at-tpmManufacturer`, `-Model` and `-Version`.
const MANUFACTURER: &str = "2.23.133.2.1";
const MODEL: &str = "2.23.133.2.2";
const VERSION: &str = "2.23.133.2.3";
/// Vendors whose TPMs are programs: their certificates say so by the manufacturer's number (TCG Vendor ID Registry
/// 1.06): IBM's and Google's, Microsoft's, Amazon's.
const PROGRAMS: [&str; 4] = ["id:00001014", "id:474F4F47", "id:4D534654", "id:414D5A4E"];
/// Signatures of certificates that count. SHA-1 does not.
const ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    aws_lc_rs::ECDSA_P256_SHA256,
    aws_lc_rs::ECDSA_P256_SHA384,
    aws_lc_rs::ECDSA_P384_SHA256,
    aws_lc_rs::ECDSA_P384_SHA384,
    aws_lc_rs::RSA_PKCS1_2048_8192_SHA256,
    aws_lc_rs::RSA_PKCS1_2048_8192_SHA384,
    aws_lc_rs::RSA_PKCS1_2048_8192_SHA512,
];

/// The longest certificate, and the most of a chain.
pub const CERTIFICATE_BYTES_MAX: usize = 8 * 1024;
/// See [`CERTIFICATE_BYTES_MAX`].
pub const CHAIN_MAX: usize = 8;

/// What a certificate says of a TPM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The manufacturer's number, such as `id:494E5443`.
    pub manufacturer: String,
    /// The model, as the manufacturer writes it.
    pub model: String,
    /// The version of its firmware.
    pub version: String,
}

impl Identity {
    /// Whether this TPM is a program on somebody's machine.
    pub fn is_virtual(&self) -> bool {
        let manufacturer = self.manufacturer.to_ascii_uppercase();
        PROGRAMS
            .iter()
            .any(|program| program.to_ascii_uppercase() == manufacturer)
    }
}

/// Why an endorsement certificate says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EkError {
    /// Not a certificate.
    #[error("the endorsement certificate cannot be read: {0}")]
    Malformed(String),
    /// A root that cannot be one.
    #[error("root {0} is no certificate of an authority")]
    Root(usize),
    /// No chain of valid certificates leads to a root that the operator trusts.
    #[error("the endorsement certificate does not lead to a trusted root: {0}")]
    Chain(String),
    /// It is for something else.
    #[error("the certificate is not for an endorsement key")]
    Usage,
    /// It is for another key.
    #[error("the certificate is for another key than the TPM's")]
    Key,
}

/// Whether each of these can be the root of a chain.
///
/// # Errors
/// [`EkError::Root`] names the first that cannot, counted from 0.
pub fn check_roots(roots: &[Vec<u8>]) -> Result<(), EkError> {
    roots.iter().enumerate().try_for_each(|(index, root)| {
        let der = CertificateDer::from(root.as_slice());
        let anchor = anchor_from_trusted_cert(&der);
        anchor.map(drop).map_err(|_| EkError::Root(index))
    })
}

/// Checks that a vendor says, under one of these roots and at this time, that the key is in a TPM of its making.
///
/// Behind the certificate other bytes may stand: an index of a TPM is often longer than what is in it.
///
/// # Errors
/// [`EkError`].
pub fn check_certificate(
    certificate: &[u8],
    intermediates: &[Vec<u8>],
    roots: &[Vec<u8>],
    at_s: u64,
    ek: &Public,
) -> Result<Identity, EkError> {
    let malformed = |what: String| EkError::Malformed(what);
    if certificate.len() > CERTIFICATE_BYTES_MAX || intermediates.len() > CHAIN_MAX {
        return Err(malformed("too long".into()));
    }
    let (behind, parsed) =
        X509Certificate::from_der(certificate).map_err(|error| malformed(error.to_string()))?;
    let der = CertificateDer::from(&certificate[..certificate.len() - behind.len()]);
    let leaf = EndEntityCert::try_from(&der).map_err(|error| malformed(error.to_string()))?;
    let roots: Vec<CertificateDer<'_>> = roots
        .iter()
        .map(|root| CertificateDer::from(root.as_slice()))
        .collect();
    let mut anchors = Vec::new();
    for (index, root) in roots.iter().enumerate() {
        anchors.push(anchor_from_trusted_cert(root).map_err(|_| EkError::Root(index))?);
    }
    let chain: Vec<CertificateDer<'_>> = intermediates
        .iter()
        .map(|der| CertificateDer::from(der.as_slice()))
        .collect();
    let time = UnixTime::since_unix_epoch(Duration::from_secs(at_s));
    // Authorities below the root need not name the usage; that the leaf does is checked below.
    let usage = KeyUsage::required_if_present(EK_CERTIFICATE);
    leaf.verify_for_usage(ALGORITHMS, &anchors, &chain, time, usage, None, None)
        .map_err(|error| EkError::Chain(error.to_string()))?;
    let named = parsed
        .extended_key_usage()
        .ok()
        .flatten()
        .is_some_and(|usage| {
            let mut others = usage.value.other.iter();
            others.any(|oid| oid.as_bytes() == EK_CERTIFICATE)
        });
    if !named || parsed.is_ca() {
        return Err(EkError::Usage);
    }
    if !is_of(&parsed, ek) {
        return Err(EkError::Key);
    }
    Ok(identity(&parsed))
}

/// Whether the certificate is for this very key.
fn is_of(certificate: &X509Certificate<'_>, ek: &Public) -> bool {
    let Ok(key) = certificate.public_key().parsed() else {
        return false;
    };
    match (key, &ek.parameters) {
        (
            PublicKey::RSA(key),
            Parameters::Rsa {
                modulus, exponent, ..
            },
        ) => {
            let zeros = key.modulus.iter().take_while(|byte| **byte == 0).count();
            key.modulus[zeros..] == modulus[..] && key.try_exponent() == Ok(u64::from(*exponent))
        }
        (PublicKey::EC(point), Parameters::Ecc { .. }) => {
            ek.point().is_some_and(|ours| ours == point.data())
        }
        _ => false,
    }
}

fn identity(certificate: &X509Certificate<'_>) -> Identity {
    let mut found = [String::new(), String::new(), String::new()];
    for extension in certificate.extensions() {
        let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
            continue;
        };
        for name in &names.general_names {
            let GeneralName::DirectoryName(name) = name else {
                continue;
            };
            for attribute in name.iter_attributes() {
                let oid = attribute.attr_type().to_id_string();
                let at = [MANUFACTURER, MODEL, VERSION]
                    .iter()
                    .position(|known| *known == oid);
                if let (Some(at), Ok(text)) = (at, attribute.as_str()) {
                    text.clone_into(&mut found[at]);
                }
            }
        }
    }
    let [manufacturer, model, version] = found;
    Identity {
        manufacturer,
        model,
        version,
    }
}
