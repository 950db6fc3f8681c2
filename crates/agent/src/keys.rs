//! The keys of an epoch: where they are, and who uses them.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jurat_disk::{Host, read, replace};
use jurat_key::external::{External, ExternalConfig, TIMEOUT};
use jurat_key::tls::{self, CHAIN_BYTES_MAX, DeviceCertificate};
use jurat_key::tpm::{Address, Challenge, Chip, ChipError, ChipKey, Role};
use jurat_key::{HeldKey, HeldSigner, KeyError, LogKey, P256Key, Secret, Signer, SignerError};
use jurat_seal::Enrolled;
use jurat_sink::{Challenged, no_tpm};
use serde::{Deserialize, Serialize};

use crate::enrol::{EnrolError, Enrolment};
use crate::rotate::KeyFiles;
use crate::uploader::describe;

/// Where the keys of a device are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyPlace {
    /// In a file: who can read it can sign. Said to be `software` everywhere.
    #[default]
    Software,
    /// In the TPM at this address: `/dev/tpmrm0`, `swtpm:/SOCKET`, `swtpm:HOST:PORT`, `tbs`.
    Tpm(String),
    /// In the token that this PKCS #11 URI names (RFC 7512); `docs/guides/keys.md`.
    Pkcs11(String),
    /// Behind this program, with its arguments; `docs/formats/signer.md`.
    External(Vec<String>),
}

/// The resource manager of Linux' TPM driver, and the base services of Windows.
const SYSTEM_TPM: &str = if cfg!(windows) { "tbs" } else { "/dev/tpmrm0" };

impl KeyPlace {
    /// This machine's TPM.
    pub fn system_tpm() -> Self {
        Self::Tpm(SYSTEM_TPM.into())
    }

    /// This machine's TPM where there is one that may be used, else a file; and why not, where there is one.
    pub fn best() -> (Self, Option<String>) {
        let opened = SYSTEM_TPM.parse::<Address>().map(|address| address.open());
        match opened {
            Ok(Ok(_)) => (Self::system_tpm(), None),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                let why = format!("there is a TPM at {SYSTEM_TPM} that this account may not use");
                (Self::Software, Some(why))
            }
            _ => (Self::Software, None),
        }
    }
}

impl FromStr for KeyPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':').unwrap_or((text, "")) {
            ("software", "") => Ok(Self::Software),
            ("tpm", "") => Ok(Self::system_tpm()),
            ("tpm", at) => {
                let address: Address = at.parse().map_err(|error| format!("{error}"))?;
                Ok(Self::Tpm(address.to_string()))
            }
            ("pkcs11", _) => {
                token::check(text)?;
                Ok(Self::Pkcs11(text.to_owned()))
            }
            ("external", command) if !command.trim().is_empty() => Ok(Self::External(
                command.split_whitespace().map(str::to_owned).collect(),
            )),
            _ => Err(
                "expected software, tpm, tpm:ADDRESS, a PKCS #11 URI, or external:COMMAND".into(),
            ),
        }
    }
}

impl fmt::Display for KeyPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Software => f.write_str("a file"),
            Self::Tpm(at) => write!(f, "the TPM at {at}"),
            Self::Pkcs11(uri) => write!(f, "the token of {uri}"),
            // Its arguments may be nobody's business.
            Self::External(command) => {
                let program = command.first().map_or("", String::as_str);
                write!(f, "the program {program}")
            }
        }
    }
}

/// Keys in PKCS #11 tokens, in builds that have them: the log's, and beside it that of the connections.
#[cfg(feature = "pkcs11")]
mod token {
    use jurat_key::pkcs11::{Pkcs11Config, Pkcs11Key};

    use super::{Arc, HeldKey, Host, KeyError, Points};

    /// What stands at the end of the label of the connections' key.
    const TLS: &str = "-tls";

    pub(super) fn check(uri: &str) -> Result<(), String> {
        Pkcs11Config::parse(uri).map(drop)
    }

    fn config(uri: &str) -> Result<Pkcs11Config, KeyError> {
        Pkcs11Config::parse(uri).map_err(|what| KeyError::Held {
            place: uri.to_owned(),
            what,
        })
    }

    pub(super) fn make(host: &Host, uri: &str) -> Result<[Arc<dyn HeldKey>; 2], KeyError> {
        let log = config(uri)?;
        let made = |config: &Pkcs11Config| Pkcs11Key::open_or_create(host, config);
        Ok([Arc::new(made(&log)?), Arc::new(made(&log.beside(TLS))?)])
    }

    pub(super) fn load(
        host: &Host,
        uri: &str,
        points: &Points,
    ) -> Result<[Arc<dyn HeldKey>; 2], KeyError> {
        let log = config(uri)?;
        let tls = log.beside(TLS);
        Ok([
            Arc::new(Pkcs11Key::known(host, &log, points.log)),
            Arc::new(Pkcs11Key::known(host, &tls, points.tls)),
        ])
    }
}

/// Builds without them.
#[cfg(not(feature = "pkcs11"))]
mod token {
    use super::{Arc, HeldKey, Host, KeyError, Points};

    const WITHOUT: &str =
        "this build has no PKCS #11; build it with: cargo build --release --features pkcs11";

    pub(super) fn check(_: &str) -> Result<(), String> {
        Err(WITHOUT.to_owned())
    }

    pub(super) fn make(_: &Host, uri: &str) -> Result<[Arc<dyn HeldKey>; 2], KeyError> {
        Err(KeyError::Held {
            place: uri.to_owned(),
            what: WITHOUT.to_owned(),
        })
    }

    pub(super) fn load(
        host: &Host,
        uri: &str,
        _: &Points,
    ) -> Result<[Arc<dyn HeldKey>; 2], KeyError> {
        make(host, uri)
    }
}

/// A program, as it is started and waited for.
fn program(command: &[String]) -> ExternalConfig {
    ExternalConfig {
        command: command.to_vec(),
        timeout: TIMEOUT,
    }
}

/// The public halves of keys that something else holds: known also while it cannot be asked.
struct Points {
    log: [u8; 65],
    tls: [u8; 65],
}

#[derive(Serialize, Deserialize)]
struct PointsFile {
    log: String,
    tls: String,
}

impl Points {
    fn load(host: &Host, keys: &Path) -> Result<Self, KeyError> {
        let path = keys.join(POINTS);
        let bytes = read(&*host.disk, &path, EVIDENCE_BYTES_MAX);
        let bytes = bytes.map_err(|source| KeyError::Io {
            path: path.clone(),
            doing: "reading the public keys",
            source,
        })?;
        let point = |text: &str| BASE64.decode(text).ok()?.try_into().ok();
        let file: Option<PointsFile> = serde_json::from_slice(&bytes).ok();
        let points = file.and_then(|file| {
            Some(Self {
                log: point(&file.log)?,
                tls: point(&file.tls)?,
            })
        });
        points.ok_or(KeyError::Malformed {
            path,
            what: "pair of public keys of P-256",
        })
    }

    fn store(&self, host: &Host, keys: &Path) -> Result<(), EnrolError> {
        let file = PointsFile {
            log: BASE64.encode(self.log),
            tls: BASE64.encode(self.tls),
        };
        let path = keys.join(POINTS);
        let json = serde_json::to_vec(&file).unwrap_or_default();
        replace(&*host.disk, &path, &json).map_err(|source| EnrolError::Io {
            path,
            doing: "writing the public keys",
            source,
        })
    }
}

/// How long a TPM may take for what an enrolment asks of it: some make a key in a minute.
const MAKING: Duration = Duration::from_secs(300);
/// The longest evidence and receipt that are read back.
const EVIDENCE_BYTES_MAX: u64 = 1024 * 1024;
/// What stands in the keys' folder of a device with a TPM.
pub(crate) const EVIDENCE: &str = "evidence.json";
pub(crate) const ENROLMENT_RECEIPT: &str = "enrolment.receipt";
/// The public halves of keys in a token or behind a program.
const POINTS: &str = "held.json";
/// The key of the connections, where it is a file; and the certificate for it, wherever it is.
const TLS_KEY: &str = "tls.key";
const CERTIFICATE: &str = "tls.pem";

/// Opens the TPM at this address.
pub(crate) fn address(text: &str) -> Result<Address, EnrolError> {
    text.parse()
        .map_err(|error| EnrolError::Answer(format!("{error}")))
}

/// Keys for a new epoch: made, durable, and in nobody's table yet.
pub(crate) struct Made {
    kind: &'static str,
    log: Log,
    /// The key of the connections.
    pub(crate) tls: Arc<dyn HeldKey>,
    chip: Option<Arc<Chip>>,
    evidence: Option<Vec<u8>>,
}

/// The key of a log that has no name yet.
enum Log {
    File(LogKey),
    Held(Arc<dyn HeldKey>),
}

/// The key of the connections, where it is a file; made when there is none yet.
fn make_tls_key(host: &Host, keys: &Path) -> Result<Arc<dyn HeldKey>, KeyError> {
    let made = P256Key::load_or_create(host, &keys.join(TLS_KEY))?;
    Ok(Arc::new(made))
}

/// A key that cannot be read: nothing is sent with it, and everything else goes on.
struct Unreadable(String);

impl HeldKey for Unreadable {
    fn point(&self) -> &[u8; 65] {
        &[0; 65]
    }

    fn place(&self) -> String {
        "the key of the connections".into()
    }

    fn sign_digest(&self, _: &[u8; 32]) -> Result<Vec<u8>, SignerError> {
        Err(SignerError {
            key: self.place(),
            reason: self.0.clone(),
        })
    }

    fn is_slow(&self) -> bool {
        false
    }
}

/// The key of the connections in its file: for capture it is not needed.
fn tls_file(host: &Host, keys: &Path) -> Arc<dyn HeldKey> {
    let key = Secret::load(host, &keys.join(TLS_KEY)).and_then(|seed| P256Key::new(&seed));
    let key = key.map(|key| Arc::new(key) as Arc<dyn HeldKey>);
    key.unwrap_or_else(|error| {
        tracing::error!(%error, "nothing can be sent");
        Arc::new(Unreadable(describe(&error)))
    })
}

impl Made {
    /// Makes them in this folder; those that are there are taken.
    pub(crate) fn new(
        host: &Host,
        place: &KeyPlace,
        keys: &Path,
        device: &str,
    ) -> Result<Self, EnrolError> {
        let held = |kind, log, tls| Self {
            kind,
            log: Log::Held(log),
            tls,
            chip: None,
            evidence: None,
        };
        match place {
            KeyPlace::Software => Ok(Self {
                kind: "software",
                log: Log::File(LogKey::load_or_create(host, &keys.join("log.key"))?),
                tls: make_tls_key(host, keys)?,
                chip: None,
                evidence: None,
            }),
            KeyPlace::Pkcs11(uri) => {
                let [log, tls] = token::make(host, uri)?;
                Ok(held("hsm", log, tls))
            }
            KeyPlace::External(command) => {
                let log = Arc::new(External::start(program(command))?);
                Ok(held("external", log, make_tls_key(host, keys)?))
            }
            KeyPlace::Tpm(at) => {
                let chip = Arc::new(Chip::create(host, &address(at)?, keys)?);
                // What was sent and may have been taken is sent again, byte for byte: the collector's log names its
                // digest.
                let path = keys.join(EVIDENCE);
                let before = read(&*host.disk, &path, EVIDENCE_BYTES_MAX).ok();
                let before = before.filter(|json| chip.is_shown_by(json, device));
                let evidence = match before {
                    Some(json) => json,
                    None => serde_json::to_vec(&chip.evidence(device, MAKING)?).unwrap_or_default(),
                };
                Ok(Self {
                    kind: "tpm",
                    log: Log::Held(Arc::new(ChipKey::new(&chip, Role::Log))),
                    tls: Arc::new(ChipKey::new(&chip, Role::Tls)),
                    evidence: Some(evidence),
                    chip: Some(chip),
                })
            }
        }
    }

    pub(crate) fn kind(&self) -> &'static str {
        self.kind
    }

    pub(crate) fn public(&self) -> Result<Vec<u8>, KeyError> {
        match &self.log {
            Log::File(key) => {
                let key = key.signer("unnamed")?;
                Ok(key.verifier_key().key.bytes().to_vec())
            }
            Log::Held(key) => Ok(key.point().to_vec()),
        }
    }

    /// A request for the certificate of the connections' key, base64.
    pub(crate) fn csr(&self, device: &str) -> Result<String, KeyError> {
        Ok(BASE64.encode(tls::request(&self.tls, device)?))
    }

    pub(crate) fn evidence(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(self.evidence.as_ref()?).ok()
    }

    /// The verifier key under this name.
    pub(crate) fn verifier_text(&self, origin: &str) -> Result<String, KeyError> {
        match &self.log {
            Log::File(key) => Ok(key.signer(origin)?.verifier_key().to_string()),
            Log::Held(key) => Ok(HeldSigner::new(key.clone(), origin)?
                .verifier_key()
                .to_string()),
        }
    }

    /// The secret of a challenge, which only the TPM with these keys can find.
    pub(crate) fn answer(&self, challenged: &Challenged) -> Result<Vec<u8>, String> {
        let Some(chip) = &self.chip else {
            return no_tpm(challenged);
        };
        let decode = |text: &String| BASE64.decode(text).map_err(|error| error.to_string());
        let challenge = Challenge {
            id_object: decode(&challenged.id_object)?,
            secret: decode(&challenged.secret)?,
        };
        chip.activate(challenge, MAKING)
            .map_err(|error: ChipError| error.to_string())
    }

    /// Keeps beside the keys what is public of them.
    pub(crate) fn store(&self, host: &Host, keys: &Path) -> Result<(), EnrolError> {
        if let (Log::Held(log), None) = (&self.log, &self.chip) {
            let (log, tls) = (*log.point(), *self.tls.point());
            Points { log, tls }.store(host, keys)?;
        }
        let Some(evidence) = &self.evidence else {
            return Ok(());
        };
        let path = keys.join(EVIDENCE);
        replace(&*host.disk, &path, evidence).map_err(|source| EnrolError::Io {
            path,
            doing: "writing what the TPM says of the keys",
            source,
        })
    }
}

/// The keys of an epoch, for use.
pub(crate) struct Keys {
    /// Those that may sign heads.
    pub(crate) signers: Vec<Arc<dyn Signer>>,
    /// That of the connections.
    pub(crate) tls: Arc<dyn HeldKey>,
    /// The TPM, where one holds them.
    pub(crate) chip: Option<Arc<Chip>>,
}

impl Keys {
    pub(crate) fn load(
        host: &Host,
        home: &Path,
        enrolment: &Enrolment,
    ) -> Result<Self, EnrolError> {
        let keys = home.join("keys");
        let signer = |key: Arc<dyn HeldKey>| -> Result<Vec<Arc<dyn Signer>>, KeyError> {
            Ok(vec![Arc::new(HeldSigner::new(key, &enrolment.origin)?)])
        };
        match &enrolment.key {
            KeyPlace::Software => Ok(Self {
                signers: KeyFiles::new(home).load(host, &enrolment.origin)?,
                tls: tls_file(host, &keys),
                chip: None,
            }),
            KeyPlace::Tpm(at) => {
                let chip = Arc::new(Chip::load(host, &address(at)?, &keys)?);
                Ok(Self {
                    signers: signer(Arc::new(ChipKey::new(&chip, Role::Log)))?,
                    tls: Arc::new(ChipKey::new(&chip, Role::Tls)),
                    chip: Some(chip),
                })
            }
            KeyPlace::Pkcs11(uri) => {
                let points = Points::load(host, &keys)?;
                let [log, tls] = token::load(host, uri, &points)?;
                Ok(Self {
                    signers: signer(log)?,
                    tls,
                    chip: None,
                })
            }
            KeyPlace::External(command) => {
                let points = Points::load(host, &keys)?;
                let log = External::known(program(command), points.log);
                Ok(Self {
                    signers: signer(Arc::new(log))?,
                    tls: tls_file(host, &keys),
                    chip: None,
                })
            }
        }
    }
}

/// The certificate for the key of the connections, as the collector issued it last; `None` where there is none that can be
/// used with this key.
pub(crate) fn certificate(
    host: &Host,
    keys: &Path,
    key: &dyn HeldKey,
) -> Option<DeviceCertificate> {
    let pem = read(&*host.disk, &keys.join(CERTIFICATE), CHAIN_BYTES_MAX as u64).ok()?;
    let certificate = DeviceCertificate::parse(&pem).ok()?;
    (certificate.point == *key.point()).then_some(certificate)
}

/// Keeps a certificate for this key.
pub(crate) fn store_certificate(
    host: &Host,
    keys: &Path,
    key: &dyn HeldKey,
    pem: &str,
) -> Result<DeviceCertificate, EnrolError> {
    let unusable = |what: String| EnrolError::Answer(format!("its certificate: {what}"));
    let certificate = DeviceCertificate::parse(pem.as_bytes())
        .map_err(|problem| unusable(problem.to_string()))?;
    if certificate.point != *key.point() {
        return Err(unusable("it is about another key".into()));
    }
    let path = keys.join(CERTIFICATE);
    replace(&*host.disk, &path, pem.as_bytes()).map_err(|source| EnrolError::Io {
        path,
        doing: "writing the device's certificate",
        source,
    })?;
    Ok(certificate)
}

/// What a bundle of the epoch in this folder carries of its enrolment.
pub fn enrolled(host: &Host, home: &Path) -> Enrolled {
    let file = |name: &str| {
        let path = home.join("keys").join(name);
        read(&*host.disk, &path, EVIDENCE_BYTES_MAX).ok()
    };
    Enrolled {
        receipt: file(ENROLMENT_RECEIPT),
        evidence: file(EVIDENCE),
    }
}
