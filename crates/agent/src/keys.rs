//! The keys of an epoch: where they are, and who uses them.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jurat_disk::{Host, read, replace};
use jurat_key::tpm::{Address, Challenge, Chip, ChipError, ChipKey, Role};
use jurat_key::{HeldKey as _, HeldSigner, KeyError, Secret, Signer, SoftwareKey};
use jurat_seal::Enrolled;
use jurat_sink::{Challenged, no_tpm};
use serde::{Deserialize, Serialize};

use crate::enrol::{EnrolError, Enrolment};
use crate::rotate::KeyFiles;

/// Where the keys of a device are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyPlace {
    /// In a file: who can read it can sign. Said to be `software` everywhere.
    #[default]
    Software,
    /// In the TPM at this address: `/dev/tpmrm0`, `swtpm:/SOCKET`, `swtpm:HOST:PORT`, `tbs`.
    Tpm(String),
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
        match text {
            "software" => Ok(Self::Software),
            "tpm" => Ok(Self::system_tpm()),
            _ => {
                let at = text
                    .strip_prefix("tpm:")
                    .ok_or("expected software, tpm or tpm:ADDRESS")?;
                let address: Address = at.parse().map_err(|error| format!("{error}"))?;
                Ok(Self::Tpm(address.to_string()))
            }
        }
    }
}

impl fmt::Display for KeyPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Software => f.write_str("a file"),
            Self::Tpm(at) => write!(f, "the TPM at {at}"),
        }
    }
}

/// How long a TPM may take for what an enrolment asks of it: some make a key in a minute.
const MAKING: Duration = Duration::from_secs(300);
/// The longest evidence and receipt that are read back.
const EVIDENCE_BYTES_MAX: u64 = 1024 * 1024;
/// What stands in the keys' folder of a device with a TPM.
pub(crate) const EVIDENCE: &str = "evidence.json";
pub(crate) const ENROLMENT_RECEIPT: &str = "enrolment.receipt";

/// Opens the TPM at this address.
pub(crate) fn address(text: &str) -> Result<Address, EnrolError> {
    text.parse()
        .map_err(|error| EnrolError::Answer(format!("{error}")))
}

/// Keys for a new epoch: made, durable, and in nobody's table yet.
pub(crate) struct Made {
    kind: &'static str,
    public: Vec<u8>,
    chip: Option<Arc<Chip>>,
    evidence: Option<Vec<u8>>,
    seed: Option<Secret>,
}

impl Made {
    /// Makes them in this folder; those that are there are taken.
    pub(crate) fn new(
        host: &Host,
        place: &KeyPlace,
        keys: &Path,
        device: &str,
    ) -> Result<Self, EnrolError> {
        let KeyPlace::Tpm(at) = place else {
            let seed = Secret::load_or_create(host, &keys.join("log.key"))?;
            let public = SoftwareKey::log(&seed, "unnamed")?.public_key().to_vec();
            return Ok(Self {
                kind: "software",
                public,
                chip: None,
                evidence: None,
                seed: Some(seed),
            });
        };
        let chip = Arc::new(Chip::create(host, &address(at)?, keys)?);
        let log = ChipKey::new(&chip, Role::Log);
        // What was sent and may have been taken is sent again, byte for byte: the collector's log names its digest.
        let path = keys.join(EVIDENCE);
        let before = read(&*host.disk, &path, EVIDENCE_BYTES_MAX).ok();
        let before = before.filter(|json| chip.is_shown_by(json, device));
        let evidence = match before {
            Some(json) => json,
            None => serde_json::to_vec(&chip.evidence(device, MAKING)?).unwrap_or_default(),
        };
        Ok(Self {
            kind: "tpm",
            public: log.point().to_vec(),
            evidence: Some(evidence),
            chip: Some(chip),
            seed: None,
        })
    }

    pub(crate) fn kind(&self) -> &'static str {
        self.kind
    }

    pub(crate) fn public(&self) -> &[u8] {
        &self.public
    }

    pub(crate) fn evidence(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(self.evidence.as_ref()?).ok()
    }

    /// The verifier key under this name.
    pub(crate) fn verifier_text(&self, origin: &str) -> Result<String, KeyError> {
        match (&self.chip, &self.seed) {
            (Some(chip), _) => {
                let key = Arc::new(ChipKey::new(chip, Role::Log));
                Ok(HeldSigner::new(key, origin)?.verifier_key().to_string())
            }
            (None, Some(seed)) => Ok(SoftwareKey::log(seed, origin)?.verifier_text()),
            (None, None) => Err(KeyError::Malformed {
                path: origin.into(),
                what: "key",
            }),
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

    /// Keeps the evidence beside the keys.
    pub(crate) fn store(&self, host: &Host, keys: &Path) -> Result<(), EnrolError> {
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
    /// The TPM, where one holds them.
    pub(crate) chip: Option<Arc<Chip>>,
}

impl Keys {
    pub(crate) fn load(
        host: &Host,
        home: &Path,
        enrolment: &Enrolment,
    ) -> Result<Self, EnrolError> {
        match &enrolment.key {
            KeyPlace::Software => {
                let signers = KeyFiles::new(home).load(host, &enrolment.origin)?;
                let signers = signers.into_iter().map(|key| Arc::new(key) as _);
                Ok(Self {
                    signers: signers.collect(),
                    chip: None,
                })
            }
            KeyPlace::Tpm(at) => {
                let chip = Chip::load(host, &address(at)?, &home.join("keys"))?;
                let chip = Arc::new(chip);
                let key = Arc::new(ChipKey::new(&chip, Role::Log));
                let signer = HeldSigner::new(key, &enrolment.origin)?;
                Ok(Self {
                    signers: vec![Arc::new(signer)],
                    chip: Some(chip),
                })
            }
        }
    }
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
