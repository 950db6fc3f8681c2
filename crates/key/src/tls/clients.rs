//! A collector's side: whose certificate a connection shows.
//!
//! Every connection may be opened, also without a certificate: who enrols has none yet, and who let one expire asks
//! for the next. That the client *has* the key of the certificate it shows, TLS finds out. Whether the certificate counts is
//! judged request by request, and refused by name: a connection, or the resumption of one, outlives a certificate.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};

use super::device::{CertificateProblem, DeviceCertificate, is_short};
use super::{provider, wrong};
use crate::KeyError;

/// The certificates that a client showed when its connection was opened; none, if none.
#[derive(Clone, Debug, Default)]
pub struct Presented(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    chain: Vec<CertificateDer<'static>>,
    judged: RwLock<Option<Judged>>,
}

/// What was found of a chain, and by which set of authorities.
#[derive(Clone, Copy, Debug)]
struct Judged {
    generation: u64,
    point: [u8; 65],
    from_s: u64,
    to_s: u64,
}

impl Presented {
    /// What this connection showed.
    pub fn of(connection: &rustls::ServerConnection) -> Self {
        let chain = connection.peer_certificates().unwrap_or_default().to_vec();
        Self(Arc::new(Inner {
            chain: chain.into_iter().map(CertificateDer::into_owned).collect(),
            judged: RwLock::default(),
        }))
    }

    /// Whether there was none.
    pub fn is_empty(&self) -> bool {
        self.0.chain.is_empty()
    }
}

struct Authorities {
    generation: u64,
    verifier: Arc<dyn ClientCertVerifier>,
}

/// The authorities that may say which key is a device's.
pub struct Clients(RwLock<Authorities>);

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clients(..)")
    }
}

impl Clients {
    /// These authorities, each in DER.
    ///
    /// # Errors
    /// [`KeyError::Tls`] when one cannot be an authority.
    pub fn new(authorities: &[Vec<u8>]) -> Result<Self, KeyError> {
        Ok(Self(RwLock::new(Authorities {
            generation: 0,
            verifier: verifier(authorities)?,
        })))
    }

    /// From now on these.
    ///
    /// # Errors
    /// As [`Clients::new`]; then those of before go on.
    pub fn replace(&self, authorities: &[Vec<u8>]) -> Result<(), KeyError> {
        let verifier = verifier(authorities)?;
        let mut now = self.0.write().unwrap_or_else(PoisonError::into_inner);
        now.generation += 1;
        now.verifier = verifier;
        Ok(())
    }

    /// The key of the certificate of a connection, when that counts now.
    ///
    /// # Errors
    /// [`CertificateProblem`].
    pub fn judge(&self, presented: &Presented, now_s: u64) -> Result<[u8; 65], CertificateProblem> {
        let (generation, verifier) = {
            let now = self.0.read().unwrap_or_else(PoisonError::into_inner);
            (now.generation, now.verifier.clone())
        };
        let known = &presented.0.judged;
        let before = *known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(judged) = before.filter(|judged| judged.generation == generation) {
            return match now_s {
                now_s if now_s < judged.from_s => Err(CertificateProblem::NotYet),
                now_s if now_s > judged.to_s => Err(CertificateProblem::Expired),
                _ => Ok(judged.point),
            };
        }
        let certificate = judge(&*verifier, &presented.0.chain, now_s)?;
        let DeviceCertificate {
            point,
            from_s,
            to_s,
            ..
        } = certificate;
        *known.write().unwrap_or_else(PoisonError::into_inner) = Some(Judged {
            generation,
            point,
            from_s,
            to_s,
        });
        Ok(point)
    }

    /// A chain in PEM, when it counts now: what somebody else's authority issued.
    ///
    /// # Errors
    /// [`CertificateProblem`].
    pub fn check(&self, pem: &[u8], now_s: u64) -> Result<DeviceCertificate, CertificateProblem> {
        let certificate = DeviceCertificate::parse(pem)?;
        let verifier = {
            let now = self.0.read().unwrap_or_else(PoisonError::into_inner);
            now.verifier.clone()
        };
        judge(&*verifier, certificate.chain(), now_s)
    }
}

fn verifier(authorities: &[Vec<u8>]) -> Result<Arc<dyn ClientCertVerifier>, KeyError> {
    let fail = |what: &dyn ToString| wrong("the authorities of devices".as_ref(), what.to_string());
    let mut roots = RootCertStore::empty();
    for der in authorities {
        let added = roots.add(CertificateDer::from(der.as_slice()));
        added.map_err(|error| fail(&error))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    let verifier = verifier.build().map_err(|error| fail(&error))?;
    Ok(verifier)
}

fn judge(
    verifier: &dyn ClientCertVerifier,
    chain: &[CertificateDer<'static>],
    now_s: u64,
) -> Result<DeviceCertificate, CertificateProblem> {
    let certificate = DeviceCertificate::of(chain.to_vec())?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now_s));
    let verified = verifier.verify_client_cert(&chain[0], &chain[1..], now);
    match verified {
        Ok(_) => Ok(certificate),
        Err(Error::InvalidCertificate(why)) => Err(match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                CertificateProblem::Expired
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                CertificateProblem::NotYet
            }
            why => CertificateProblem::Unknown(format!("{why:?}")),
        }),
        Err(error) => Err(CertificateProblem::Unknown(error.to_string())),
    }
}

/// Asks every client for a certificate, and has it show that it has the key.
#[derive(Debug)]
pub(super) struct Asking(pub(super) Arc<CryptoProvider>);

impl ClientCertVerifier for Asking {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain: Vec<_> = std::iter::once(leaf).chain(others).collect();
        if !is_short(chain.into_iter()) {
            return Err(CertificateError::BadEncoding.into());
        }
        // Judged with each request: see above.
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
