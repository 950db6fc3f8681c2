//! The configuration of a collector.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use jurat_disk::{Host, replace};
use jurat_key::Secret;
use jurat_key::tls::generate;
use jurat_proof::sha256;
use serde::{Deserialize, Serialize};

use crate::enrol::EkTrust;

/// How a collector is run (`docs/guides/collector.md`).
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where it listens. Default `0.0.0.0:8443`.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// Where everything is kept.
    pub dir: PathBuf,
    /// The organisation's domain: the first part of every origin.
    pub domain: String,
    /// The server's certificate chain, PEM.
    pub certificate: PathBuf,
    /// The server's key, PEM.
    pub key: PathBuf,
    /// The file that holds the enrolment token.
    pub token_file: PathBuf,
    /// The file that the SIEM reads: one JSON line an event. None when absent.
    #[serde(default)]
    pub siem_file: Option<PathBuf>,
    /// How often a device should upload, in seconds. Default 10.
    #[serde(default = "default_upload")]
    pub next_upload_s: u64,
    /// Whether anyone may read the devices' logs below `/logs/`. Default: who has the token in
    /// `read.token`.
    #[serde(default)]
    pub public_logs: bool,
    /// Logs of others whose checkpoints the witness cosigns: a file of lines `log VKEY`.
    #[serde(default)]
    pub foreign_logs: Option<PathBuf>,
    /// Who cosigns the collector's own log: a file in the format of C2SP `tlog-policy`, with the witnesses' URLs.
    #[serde(default)]
    pub witness_policy: Option<PathBuf>,
    /// Believe only these certificates (PEM) of witnesses. Default: the system's.
    #[serde(default)]
    pub witness_ca: Option<PathBuf>,
    /// Whose endorsement certificates are believed: the authorities of TPM makers, PEM. None: no TPM is `tpm-verified`.
    #[serde(default)]
    pub ek_roots: Option<PathBuf>,
    /// Endorsement keys that the operator approved: a file with their names in hex, one a line.
    #[serde(default)]
    pub ek_pins: Option<PathBuf>,
    /// What a TPM's endorsement key must be: `untrusted` (any), `pinned` or `verified`. Default `untrusted`: it
    /// is taken, and labelled.
    #[serde(default)]
    pub ek_needed: EkTrust,
    /// Which states of machines are accepted: a file (`docs/formats/quotes.md`). It is read again when it changes.
    /// None: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_policy: Option<PathBuf>,
    /// Whether devices show a certificate with every connection: `required`, or `off` where a proxy in front ends TLS.
    /// Default `required`.
    #[serde(default)]
    pub device_certificates: DeviceCertificates,
    /// For how long a device's certificate is issued, in seconds; it asks for the next when a third is left. Default
    /// 604800: a week. From 60 to 315360000.
    #[serde(default = "default_certificate")]
    pub device_certificate_s: u64,
    /// Other authorities whose certificates of devices count, PEM. Needed with `csr_command`. Read again when it changes.
    #[serde(default)]
    pub device_ca: Option<PathBuf>,
    /// Who issues the certificates of devices in place of the collector: a program and its arguments. It reads a request
    /// (PKCS #10, PEM) and writes the chain (PEM), within 30 s.
    #[serde(default)]
    pub csr_command: Vec<String>,
    /// A device that is not heard of for this many seconds is said to be silent. Default 900; 0: never.
    #[serde(default = "default_silent")]
    pub silent_after_s: u64,
}

/// Whether devices show certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceCertificates {
    /// Each request of a device comes over a connection that it opened with its own key.
    #[default]
    Required,
    /// Its token and its HMAC key are all that tells it.
    Off,
}

/// Ten years.
const LIFETIME_S_MAX: u64 = 315_360_000;

fn default_certificate() -> u64 {
    7 * 24 * 3_600
}

fn default_silent() -> u64 {
    900
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 8443))
}

fn default_upload() -> u64 {
    10
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The file could not be read.
    #[error("{path}: reading the configuration")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the disk said.
        #[source]
        source: std::io::Error,
    },
    /// It is not a configuration.
    #[error("{path}: not a configuration")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A folder for trying out could not be set up.
    #[error("{path}: setting up")]
    SetUp {
        /// The file or folder.
        path: PathBuf,
        /// What the disk said.
        #[source]
        source: std::io::Error,
    },
    /// A certificate could not be made.
    #[error(transparent)]
    Key(#[from] jurat_key::KeyError),
    /// A value that cannot be.
    #[error("{path}: device_certificate_s is {value}, and may be from 60 to {LIFETIME_S_MAX}")]
    Lifetime {
        /// The file.
        path: PathBuf,
        /// What it says.
        value: u64,
    },
    /// Nothing that the command issues would count.
    #[error("{path}: csr_command needs device_ca, the authority that it issues for")]
    Authority {
        /// The file.
        path: PathBuf,
    },
}

impl Settings {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// [`SettingsError`] names the file and the line.
    pub fn load(path: &Path) -> Result<Self, SettingsError> {
        let text = fs::read_to_string(path).map_err(|source| SettingsError::Read {
            path: path.to_path_buf(),
            source,
        })?;
        let settings: Self = toml::from_str(&text).map_err(|source| SettingsError::Syntax {
            path: path.to_path_buf(),
            source: Box::new(source),
        })?;
        let value = settings.device_certificate_s;
        if !(60..=LIFETIME_S_MAX).contains(&value) {
            let path = path.to_path_buf();
            return Err(SettingsError::Lifetime { path, value });
        }
        if !settings.csr_command.is_empty() && settings.device_ca.is_none() {
            let path = path.to_path_buf();
            return Err(SettingsError::Authority { path });
        }
        Ok(settings)
    }

    /// The digest of everything that is set: a leaf of the collector's log names it.
    pub(crate) fn digest(&self) -> String {
        let text = serde_json::to_vec(self).unwrap_or_default();
        sha256(&[&text]).to_string()
    }

    /// Everything in one folder, for trying things out: a generated certificate for loopback names,
    /// an enrolment token, a SIEM file. What exists is kept.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn dev(host: &Host, dir: &Path, listen: SocketAddr) -> Result<Self, SettingsError> {
        let fail = |path: &Path| {
            let path = path.to_path_buf();
            move |source| SettingsError::SetUp { path, source }
        };
        host.disk.create_dir_all(dir).map_err(fail(dir))?;
        let (certificate, key, ca) = (
            dir.join("server.pem"),
            dir.join("server.key"),
            dir.join("ca.pem"),
        );
        if !certificate.exists() || !key.exists() {
            let made = generate(&["localhost".into(), "127.0.0.1".into(), "::1".into()])?;
            for (path, text) in [
                (&ca, &made.ca),
                (&key, &made.key),
                (&certificate, &made.certificate),
            ] {
                replace(&*host.disk, path, text.as_bytes()).map_err(fail(path))?;
            }
        }
        let token_file = dir.join("enroll.token");
        Secret::load_or_create(host, &token_file)?;
        Ok(Self {
            listen,
            dir: dir.to_path_buf(),
            domain: "dev.invalid".into(),
            certificate,
            key,
            token_file,
            siem_file: Some(dir.join("siem.jsonl")),
            next_upload_s: 2,
            silent_after_s: default_silent(),
            device_certificates: DeviceCertificates::Required,
            device_certificate_s: default_certificate(),
            device_ca: None,
            csr_command: Vec::new(),
            public_logs: false,
            foreign_logs: None,
            witness_policy: None,
            witness_ca: None,
            ek_roots: None,
            ek_pins: None,
            ek_needed: EkTrust::Untrusted,
            // What `jurat attest baseline` wrote before the start.
            machine_policy: Some(dir.join("machines.toml")).filter(|path| path.exists()),
        })
    }
}
