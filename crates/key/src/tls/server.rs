//! A server's certificate, which may change while it runs.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::clients::Asking;
use super::{PROTOCOLS, Pin, check_fips, provider, wrong};
use crate::KeyError;

/// As much of a file is read: no chain is as long.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A server's configuration, and the files that it comes from.
#[derive(Clone, Debug)]
pub struct Server {
    /// The configuration. It stays the same when the files change.
    pub config: Arc<ServerConfig>,
    files: Arc<Files>,
}

#[derive(Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    now: RwLock<(Vec<Vec<u8>>, Arc<CertifiedKey>)>,
}

/// Whether a server asks its clients for certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// It does, and takes those without one: [`Clients`](super::Clients) judges them.
    Clients,
    /// It does not.
    Nobody,
}

/// A server's configuration from its certificate chain and key, both PEM.
///
/// Sessions are resumed by tickets, which only this process reads: a client that comes back within hours signs nothing.
///
/// # Errors
/// [`KeyError::Tls`] names the file and what is wrong with it.
pub fn server(certificate: &Path, key: &Path, ask: Ask) -> Result<Server, KeyError> {
    let files = Arc::new(Files {
        certificate: certificate.to_path_buf(),
        key: key.to_path_buf(),
        now: RwLock::new(load(certificate, key)?),
    });
    let provider = provider();
    let config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(certificate, error))?;
    let config = match ask {
        Ask::Clients => config.with_client_cert_verifier(Arc::new(Asking(provider))),
        Ask::Nobody => config.with_no_client_auth(),
    };
    let mut config = config.with_cert_resolver(files.clone());
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()
        .map_err(|error| wrong(Path::new("TLS tickets"), error))?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    check_fips(config.fips())?;
    Ok(Server {
        config: Arc::new(config),
        files,
    })
}

/// The bytes of both files, and what they are.
pub(super) fn load(
    certificate: &Path,
    key: &Path,
) -> Result<(Vec<Vec<u8>>, Arc<CertifiedKey>), KeyError> {
    let read = |path: &Path| {
        let mut bytes = Vec::new();
        let file =
            File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
        file.map(|_| bytes).map_err(|error| wrong(path, error))
    };
    let bytes = vec![read(certificate)?, read(key)?];
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&bytes[0])
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(certificate, error))?;
    let der = PrivateKeyDer::from_pem_slice(&bytes[1]).map_err(|error| wrong(key, error))?;
    let certified = CertifiedKey::from_der(chain, der, &provider());
    let certified = certified.map_err(|error| wrong(certificate, error))?;
    Ok((bytes, Arc::new(certified)))
}

impl Server {
    /// Looks at the files again. What they hold now counts from the next connection on: `true` when it is something new.
    ///
    /// # Errors
    /// [`KeyError::Tls`], also while one of them is new and the other is not yet; what was there before goes on.
    pub fn reload(&self) -> Result<bool, KeyError> {
        let loaded = load(&self.files.certificate, &self.files.key)?;
        let mut now = self
            .files
            .now
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let is_new = loaded.0 != now.0;
        *now = loaded;
        Ok(is_new)
    }

    /// What a client can pin of it.
    pub fn pin(&self) -> Option<Pin> {
        let now = self
            .files
            .now
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        Pin::of(now.1.cert.first()?)
    }
}

impl ResolvesServerCert for Files {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
        Some(now.1.clone())
    }
}
