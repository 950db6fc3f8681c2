//! A collector's own authority, which says which key is a device's, and for how long.

use std::io::ErrorKind;
use std::path::Path;

use jurat_disk::{Host, read, replace};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, SanType, SerialNumber,
};
use time::{Duration, OffsetDateTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::device::Held;
use super::{CHAIN_BYTES_MAX, wrong};
use crate::p256::P256Key;
use crate::{HeldKey, KeyError};

/// The authority's key is a file beside the collector's other keys, and lives as long as the collector.
const YEARS: i64 = 20;
/// A certificate is valid from a little before it was issued: clocks differ.
const EARLIER_S: u64 = 3_600;

/// Issues the certificates of devices.
pub struct Authority {
    key: P256Key,
    params: CertificateParams,
    pem: String,
}

impl Authority {
    /// The authority in this folder, made when there is none: `clients.key`, and `clients.pem`, which others may be
    /// given who are to believe it.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn load_or_create(host: &Host, dir: &Path, domain: &str) -> Result<Self, KeyError> {
        let key = P256Key::load_or_create(host, &dir.join("clients.key"))?;
        let path = dir.join("clients.pem");
        let fail = |error: rcgen::Error| wrong(&path, error);
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = rcgen::DistinguishedName::new();
        let name = format!("Jurat devices of {domain}");
        params
            .distinguished_name
            .push(DnType::CommonName, name.as_str());
        let before = match read(&*host.disk, &path, CHAIN_BYTES_MAX as u64) {
            Ok(pem) => Some(String::from_utf8_lossy(&pem).into_owned()),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(source) => {
                return Err(KeyError::Io {
                    path,
                    doing: "reading the authority of devices",
                    source,
                });
            }
        };
        // One of another key or name would make all that it issues worthless.
        let before = before.filter(|pem| is_of(pem, key.point(), &name));
        let pem = if let Some(pem) = before {
            pem
        } else {
            let now = OffsetDateTime::from_unix_timestamp(host.clock.now().unix_s().cast_signed());
            let now = now.unwrap_or(OffsetDateTime::UNIX_EPOCH);
            params.not_before = now - Duration::seconds(EARLIER_S.cast_signed());
            params.not_after = now + Duration::days(365 * YEARS);
            params.serial_number = Some(serial(host));
            let pem = params.self_signed(&Held(&key)).map_err(fail)?.pem();
            replace(&*host.disk, &path, pem.as_bytes()).map_err(|source| KeyError::Io {
                path: path.clone(),
                doing: "writing the authority of devices",
                source,
            })?;
            pem
        };
        Ok(Self { key, params, pem })
    }

    /// Its own certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for this key of this device, valid for so many seconds from now: a chain in PEM.
    ///
    /// # Errors
    /// [`KeyError::Tls`] when the device's name cannot stand in one.
    pub fn issue(
        &self,
        host: &Host,
        device: &str,
        point: &[u8; 65],
        lifetime_s: u64,
    ) -> Result<String, KeyError> {
        let fail = |error: rcgen::Error| wrong(Path::new("a device's certificate"), error);
        let now_s = host.clock.now().unix_s();
        let late = || wrong(Path::new("a device's certificate"), "it would end too late");
        let at = |second: u64| {
            let second = i64::try_from(second).ok();
            let at = second.and_then(|second| OffsetDateTime::from_unix_timestamp(second).ok());
            at.ok_or_else(late)
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, device);
        let name = format!("urn:uuid:{device}").try_into().map_err(fail)?;
        params.subject_alt_names = vec![SanType::URI(name)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = at(now_s.saturating_sub(EARLIER_S.min(lifetime_s)))?;
        params.not_after = at(now_s.saturating_add(lifetime_s))?;
        params.serial_number = Some(serial(host));
        let issuer = Issuer::from_params(&self.params, Held(&self.key));
        let certificate = params.signed_by(&Point(point), &issuer).map_err(fail)?;
        Ok(certificate.pem())
    }
}

/// 16 random bytes, the first of which is positive (RFC 5280, 4.1.2.2).
fn serial(host: &Host) -> SerialNumber {
    let mut bytes = [0; 16];
    host.rng.fill(&mut bytes);
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn is_of(pem: &str, point: &[u8; 65], name: &str) -> bool {
    let Ok(certificate) = super::DeviceCertificate::parse(pem.as_bytes()) else {
        return false;
    };
    let named = certificate.chain().first().and_then(|der| {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        let mut names = parsed.subject().iter_common_name();
        Some(names.next()?.as_str().ok()? == name)
    });
    certificate.point == *point && named == Some(true)
}

/// The public half alone.
struct Point<'a>(&'a [u8; 65]);

impl rcgen::PublicKeyData for Point<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}
