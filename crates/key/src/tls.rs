//! TLS configurations: aws-lc-rs, TLS 1.2 and 1.3, HTTP/2 first, certificates on both sides.

mod authority;
mod clients;
mod device;
mod pin;
mod server;

pub use authority::Authority;
pub use clients::{Clients, Presented};
pub use device::{
    CHAIN_BYTES_MAX, CertificateProblem, DeviceCertificate, REQUEST_BYTES_MAX, check_request,
    request, request_pem,
};
pub use pin::Pin;
pub use server::{Ask, Server, server};

use std::path::Path;
use std::sync::Arc;

use pin::Pinned;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::ResolvesServerCertUsingSni;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::{HeldKey, KeyError, fips};

fn wrong(path: &Path, what: impl ToString) -> KeyError {
    KeyError::Tls {
        path: path.to_path_buf(),
        what: what.to_string(),
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Whether what this room builds, for a client and for a server, is all FIPS.
pub(crate) fn are_fips() -> (bool, bool) {
    let client =
        ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let server =
        ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    (
        client.is_ok_and(|config| {
            let config = config.with_root_certificates(RootCertStore::empty());
            config.with_no_client_auth().fips()
        }),
        server.is_ok_and(|config| {
            let nobody = Arc::new(ResolvesServerCertUsingSni::new());
            let config = config.with_no_client_auth();
            config.with_cert_resolver(nobody).fips()
        }),
    )
}

/// Whatever a configuration was made of: a build with feature `fips` uses none that is not FIPS.
fn check_fips(is_fips: bool) -> Result<(), KeyError> {
    if fips::IS_BUILT && !is_fips {
        return Err(wrong(Path::new("TLS"), "this configuration is not FIPS"));
    }
    Ok(())
}

/// HTTP/2 first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Whom a client believes: these certificates alone when given, else the system's store.
///
/// # Errors
/// [`KeyError::Tls`] when no usable certificate is found.
pub fn client(ca_pem: Option<&[u8]>) -> Result<ClientConfig, KeyError> {
    device(ca_pem, &[], None)
}

/// As [`client`], for a device: the server's key must also be one of these, where any are named, and this certificate is
/// shown, with the key that it is about.
///
/// Sessions are resumed. A new certificate needs a new configuration: a session of before goes on with the old one.
///
/// # Errors
/// As [`client`].
pub fn device(
    ca_pem: Option<&[u8]>,
    pins: &[Pin],
    shown: Option<(DeviceCertificate, Arc<dyn HeldKey>)>,
) -> Result<ClientConfig, KeyError> {
    let mut roots = RootCertStore::empty();
    if let Some(pem) = ca_pem {
        let path = Path::new("pinned certificate");
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots
                .add(certificate.map_err(|error| wrong(path, error))?)
                .map_err(|error| wrong(path, error))?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if roots.is_empty() {
        return Err(wrong(
            Path::new("trusted certificates"),
            "none found; name one with --ca FILE",
        ));
    }
    let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider());
    let chains = chains
        .build()
        .map_err(|error| wrong(Path::new("trusted certificates"), error))?;
    let verifier: Arc<dyn ServerCertVerifier> = match pins {
        [] => chains,
        pins => Arc::new(Pinned {
            chains,
            pins: pins.to_vec(),
        }),
    };
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(Path::new("TLS"), error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match shown {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            config.with_client_cert_resolver(Arc::new(device::Shown::new(certificate, key)))
        }
    };
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    check_fips(config.fips())?;
    Ok(config)
}

/// As [`client`], for a receiver of others: this certificate is shown, with this key, both PEM files.
///
/// # Errors
/// As [`client`], or [`KeyError::Tls`] that names a file.
pub fn sender(
    ca_pem: Option<&[u8]>,
    shown: Option<(&Path, &Path)>,
) -> Result<ClientConfig, KeyError> {
    let mut config = client(ca_pem)?;
    config.alpn_protocols = Vec::new();
    if let Some((certificate, key)) = shown {
        let shown = server::load(certificate, key)?.1;
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(shown));
    }
    Ok(config)
}

/// The certificates in a PEM file, in DER.
///
/// # Errors
/// [`KeyError::Tls`] names the file.
pub fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<Vec<u8>>, KeyError> {
    let found = CertificateDer::pem_slice_iter(pem);
    let found = found.map(|der| der.map(|der| der.to_vec()));
    let found = found.collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| wrong(path, error))?;
    if found.is_empty() {
        return Err(wrong(path, "no certificate in it"));
    }
    Ok(found)
}

/// A certificate authority and a server certificate made by it, all PEM.
pub struct Generated {
    /// The authority's certificate: what a client pins.
    pub ca: String,
    /// The server's certificate.
    pub certificate: String,
    /// The server's key.
    pub key: String,
}

/// Makes a small authority and one server certificate for these names. For trying things out and
/// for home labs: the authority's own key is thrown away at once.
///
/// # Errors
/// [`KeyError::Tls`] when a name cannot stand in a certificate.
pub fn generate(names: &[String]) -> Result<Generated, KeyError> {
    let subject = Path::new("generated certificate");
    let fail = |error: rcgen::Error| wrong(subject, error);
    let mut authority = CertificateParams::new(Vec::new()).map_err(fail)?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority
        .distinguished_name
        .push(DnType::CommonName, "Jurat generated authority");
    let authority_key = KeyPair::generate().map_err(fail)?;
    let ca = authority.self_signed(&authority_key).map_err(fail)?;
    let issuer = Issuer::new(authority, authority_key);
    let mut server = CertificateParams::new(names.to_vec()).map_err(fail)?;
    server
        .distinguished_name
        .push(DnType::CommonName, "Jurat collector");
    server
        .extended_key_usages
        .push(ExtendedKeyUsagePurpose::ServerAuth);
    server.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().map_err(fail)?;
    let certificate = server.signed_by(&key, &issuer).map_err(fail)?;
    Ok(Generated {
        ca: ca.pem(),
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}
