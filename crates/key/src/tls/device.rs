//! A device's side: the key that it opens connections with, and the certificate for it.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{CertificateParams, DnType, PublicKeyData, SignatureAlgorithm as Algorithm};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{Error, SignatureAlgorithm, SignatureScheme};
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::held::is_point;
use crate::{HeldKey, KeyError};

/// The longest request for a certificate, in DER.
pub const REQUEST_BYTES_MAX: usize = 8 * 1024;
/// The longest chain of a device's certificate, in PEM.
pub const CHAIN_BYTES_MAX: usize = 32 * 1024;
/// The most certificates of a chain, and the most bytes of all of them: a server keeps what a client shows for as long as
/// the connection lives.
pub(super) const CHAIN_MAX: usize = 4;
pub(super) const CHAIN_DER_BYTES_MAX: usize = 16 * 1024;

/// `id-ecPublicKey` and `prime256v1` (RFC 5480, 2.1.1).
const EC_KEY: &str = "1.2.840.10045.2.1";
const P256: &str = "1.2.840.10045.3.1.7";
/// `ecdsa-with-SHA256` (RFC 5758, 3.2).
const ECDSA_SHA256: &str = "1.2.840.10045.4.3.2";

/// Why a certificate, or a request for one, cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateProblem {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Malformed(String),
    /// It is not about a key of P-256.
    #[error("its key is none of P-256")]
    Key,
    /// Who asks does not have the key.
    #[error("it is not signed with its own key")]
    Signature,
    /// It asks for another name than the device's id, or for more.
    #[error("it asks for more than a certificate of this device")]
    Wish,
    /// Its time has not begun.
    #[error("it is not valid yet")]
    NotYet,
    /// Its time is over.
    #[error("it has expired")]
    Expired,
    /// No authority that counts here issued it.
    #[error("no authority that counts here issued it: {0}")]
    Unknown(String),
}

fn malformed(what: impl ToString) -> CertificateProblem {
    CertificateProblem::Malformed(what.to_string())
}

/// The point of a key of P-256.
pub(super) fn point_of(key: &SubjectPublicKeyInfo<'_>) -> Result<[u8; 65], CertificateProblem> {
    let algorithm = &key.algorithm;
    let curve = algorithm.parameters.as_ref();
    let curve = curve.and_then(|parameters| parameters.as_oid().ok());
    let named = algorithm.algorithm.to_id_string() == EC_KEY
        && curve.is_some_and(|curve| curve.to_id_string() == P256);
    let point: Option<[u8; 65]> = key.subject_public_key.data.as_ref().try_into().ok();
    match point.filter(|point| named && is_point(point)) {
        Some(point) => Ok(point),
        None => Err(CertificateProblem::Key),
    }
}

/// A chain that says for how long a device may open connections with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceCertificate {
    chain: Vec<CertificateDer<'static>>,
    /// The key that it is about: an uncompressed point.
    pub point: [u8; 65],
    /// When its time begins, seconds since 1970: that of the whole chain.
    pub from_s: u64,
    /// When it ends, likewise.
    pub to_s: u64,
}

impl DeviceCertificate {
    /// Reads a chain in PEM, the device's own certificate first.
    ///
    /// # Errors
    /// [`CertificateProblem::Malformed`], [`CertificateProblem::Key`].
    pub fn parse(pem: &[u8]) -> Result<Self, CertificateProblem> {
        if pem.len() > CHAIN_BYTES_MAX {
            return Err(malformed(format!("more than {CHAIN_BYTES_MAX} bytes")));
        }
        let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
        Self::of(chain.map_err(malformed)?)
    }

    /// The chain in these certificates.
    pub(super) fn of(chain: Vec<CertificateDer<'static>>) -> Result<Self, CertificateProblem> {
        if !is_short(chain.iter()) {
            return Err(malformed("too long a chain"));
        }
        let (mut point, mut from_s, mut to_s) = (None, 0, u64::MAX);
        for der in &chain {
            let (_, certificate) = X509Certificate::from_der(der).map_err(malformed)?;
            if point.is_none() {
                point = Some(point_of(certificate.public_key())?);
            }
            let second = |at: i64| u64::try_from(at).unwrap_or(0);
            let validity = certificate.validity();
            from_s = from_s.max(second(validity.not_before.timestamp()));
            to_s = to_s.min(second(validity.not_after.timestamp()));
        }
        Ok(Self {
            point: point.ok_or_else(|| malformed("no certificate"))?,
            from_s,
            to_s,
            chain,
        })
    }

    /// The certificates, its own first.
    pub(super) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// Whether it is time for the next one: when between a third and a quarter of its time is left. Each key has a moment of
    /// its own there, so that a fleet that was enrolled in an hour does not come back in one.
    pub fn is_due(&self, now_s: u64) -> bool {
        let lifetime = self.to_s.saturating_sub(self.from_s);
        let (third, twelfth) = (lifetime / 3, lifetime / 12);
        let later = twelfth * u64::from(self.point[64]) / 256;
        now_s >= self.to_s.saturating_sub(third - later)
    }
}

/// Asks for a certificate for this key (PKCS #10, RFC 2986), in DER: signed with the key, so that nobody asks for another's.
///
/// # Errors
/// [`KeyError`] when the key cannot be used now.
pub fn request(key: &Arc<dyn HeldKey>, device: &str) -> Result<Vec<u8>, KeyError> {
    let refused = |error: rcgen::Error| KeyError::Held {
        place: key.place(),
        what: error.to_string(),
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, device);
    let request = params.serialize_request(&Held(&**key)).map_err(refused)?;
    Ok(request.der().to_vec())
}

/// A request in PEM (RFC 7468, 7).
pub fn request_pem(der: &[u8]) -> String {
    let lines = BASE64.encode(der);
    let lines = lines.as_bytes().chunks(64).map(String::from_utf8_lossy);
    let lines: Vec<_> = lines.collect();
    let lines = lines.join("\n");
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{lines}\n-----END CERTIFICATE REQUEST-----\n")
}

/// The key that a request is about, when that key signed it, it names this device, and nothing else: an operator's authority
/// may write into a certificate whatever a request asks for.
///
/// # Errors
/// [`CertificateProblem`].
pub fn check_request(der: &[u8], device: &str) -> Result<[u8; 65], CertificateProblem> {
    if der.len() > REQUEST_BYTES_MAX {
        return Err(malformed(format!("more than {REQUEST_BYTES_MAX} bytes")));
    }
    let (behind, request) = X509CertificationRequest::from_der(der).map_err(malformed)?;
    if !behind.is_empty() {
        return Err(malformed("something stands behind it"));
    }
    let info = &request.certification_request_info;
    let point = point_of(&info.subject_pki)?;
    let algorithm = request.signature_algorithm.algorithm.to_id_string();
    let signature = &request.signature_value.data;
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point);
    if algorithm != ECDSA_SHA256 || key.verify(info.raw, signature).is_err() {
        return Err(CertificateProblem::Signature);
    }
    let subject = &info.subject;
    let mut names = subject.iter_common_name();
    let is_named = names.next().and_then(|name| name.as_str().ok()) == Some(device);
    if !is_named || subject.iter_attributes().count() != 1 || !info.attributes().is_empty() {
        return Err(CertificateProblem::Wish);
    }
    Ok(point)
}

/// Whether a chain is no longer than what is kept of one.
pub(super) fn is_short<'a>(chain: impl ExactSizeIterator<Item = &'a CertificateDer<'a>>) -> bool {
    chain.len() <= CHAIN_MAX && chain.map(|der| der.len()).sum::<usize>() <= CHAIN_DER_BYTES_MAX
}

/// A held key as the maker of certificates wants it.
pub(super) struct Held<'a>(pub(super) &'a dyn HeldKey);

impl PublicKeyData for Held<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.point()
    }

    fn algorithm(&self) -> &'static Algorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Held<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signed = self.0.sign_message(message);
        signed.map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

/// Shows one certificate to whoever asks for one.
#[derive(Debug)]
pub(super) struct Shown(Arc<CertifiedKey>);

impl Shown {
    pub(super) fn new(certificate: DeviceCertificate, key: Arc<dyn HeldKey>) -> Self {
        let key = Arc::new(TlsKey(key));
        Self(Arc::new(CertifiedKey::new(certificate.chain, key)))
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], offered: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.key.choose_scheme(offered).map(|_| self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A held key as TLS wants it. It signs while the handshake waits: as slow as whatever holds it.
#[derive(Clone)]
struct TlsKey(Arc<dyn HeldKey>);

impl fmt::Debug for TlsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl SigningKey for TlsKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let offered = offered.contains(&SignatureScheme::ECDSA_NISTP256_SHA256);
        offered.then(|| Box::new(self.clone()) as _)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for TlsKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signed = self.0.sign_message(message);
        signed.map_err(|error| Error::General(error.to_string()))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}
