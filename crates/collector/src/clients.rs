//! Certificates of devices: who issues them, and which of them a request needs.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use jurat_disk::{Host, read};
use jurat_key::tls::{
    Authority, CHAIN_BYTES_MAX, CertificateProblem, Clients, DeviceCertificate, Presented,
    certificates, check_request,
};
use jurat_key::{KeyError, tls};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use crate::Refused;
use crate::devices::Device;
use crate::settings::{DeviceCertificates, Settings};

/// How often the file of the operator's authorities is looked at.
const RELOAD_S: u64 = 2;
/// How long the operator's command may take.
const COMMAND_S: u64 = 30;
/// The longest file of authorities.
const AUTHORITIES_BYTES_MAX: u64 = 1024 * 1024;

/// Who certifies devices, and whose certificates count.
pub(crate) struct Certificates {
    authority: Authority,
    command: Vec<String>,
    clients: Clients,
    lifetime_s: u64,
}

impl Certificates {
    /// As the settings say; `None` where no certificate is asked for.
    pub(crate) fn open(host: &Host, settings: &Settings) -> Result<Option<Self>, KeyError> {
        if settings.device_certificates == DeviceCertificates::Off {
            return Ok(None);
        }
        let keys = settings.dir.join("keys");
        let authority = Authority::load_or_create(host, &keys, &settings.domain)?;
        let believed = authorities(host, settings, &authority)?;
        Ok(Some(Self {
            clients: Clients::new(&believed)?,
            authority,
            command: settings.csr_command.clone(),
            lifetime_s: settings.device_certificate_s.max(60),
        }))
    }

    /// Takes the operator's authorities over whenever their file changes; one that cannot be used leaves things as they are.
    pub(crate) async fn follow(&self, host: &Host, settings: &Settings) {
        let mut now = authorities(host, settings, &self.authority).unwrap_or_default();
        let mut complained = false;
        loop {
            tokio::time::sleep(Duration::from_secs(RELOAD_S)).await;
            let read = authorities(host, settings, &self.authority);
            let taken = read.and_then(|read| {
                if read != now {
                    self.clients.replace(&read)?;
                    tracing::info!("the authorities of devices were read again");
                    now = read;
                }
                Ok(())
            });
            match taken {
                Ok(()) => complained = false,
                Err(error) => {
                    if !complained {
                        tracing::warn!(%error, "the authorities of devices stay as they were");
                    }
                    complained = true;
                }
            }
        }
    }

    /// Checks that a request came over a connection that this very device opened.
    pub(crate) fn check(
        &self,
        presented: &Presented,
        device: &Device,
        now_s: u64,
    ) -> Result<(), Refused> {
        let refused = |code, what: String| Refused::new(401, code, what);
        if presented.is_empty() {
            let message =
                "this connection shows no certificate of a device; ask for one at /v1/certificate";
            return Err(refused("certificate_needed", message.into()));
        }
        let shown = self.clients.judge(presented, now_s).map_err(|problem| {
            let code = match problem {
                CertificateProblem::Expired => "certificate_expired",
                CertificateProblem::NotYet => "certificate_not_yet",
                _ => "certificate_unknown",
            };
            refused(
                code,
                format!("the certificate of this connection: {problem}"),
            )
        })?;
        if shown.point != device.tls {
            let message = "the certificate of this connection is not this device's";
            return Err(Refused::new(403, "certificate_of_another", message));
        }
        Ok(())
    }

    /// A certificate for the key of this request.
    pub(crate) async fn issue(
        &self,
        host: &Host,
        (device, key_kind): (&str, &str),
        point: &[u8; 65],
        request: &[u8],
    ) -> Result<String, Refused> {
        let failed = |what: String| {
            tracing::error!(what, device, "no certificate");
            let message = "no certificate can be issued now; try again later";
            Refused::new(503, "no_certificate", message)
        };
        if self.command.is_empty() {
            let issued = self.authority.issue(host, device, point, self.lifetime_s);
            return issued.map_err(|error| failed(error.to_string()));
        }
        let now_s = host.clock.now().unix_s();
        let asked = self.ask(device, key_kind, request);
        let chain = match tokio::time::timeout(Duration::from_secs(COMMAND_S), asked).await {
            Ok(Ok(chain)) => chain,
            Ok(Err(what)) => return Err(failed(format!("{}: {what}", self.command[0]))),
            Err(_) => {
                let what = format!("{}: no answer within {COMMAND_S} s", self.command[0]);
                return Err(failed(what));
            }
        };
        let checked = self.clients.check(chain.as_bytes(), now_s);
        match checked {
            Ok(DeviceCertificate { point: of, .. }) if of == *point => Ok(chain),
            Ok(_) => Err(failed("the certificate is about another key".into())),
            Err(problem) => Err(failed(format!("the certificate: {problem}"))),
        }
    }

    /// The operator's command: the request in PEM on its standard input, the chain in PEM on its standard output.
    async fn ask(&self, device: &str, key_kind: &str, request: &[u8]) -> Result<String, String> {
        let words = |error: std::io::Error| error.to_string();
        let mut child = Command::new(&self.command[0])
            .args(&self.command[1..])
            .env("JURAT_DEVICE", device)
            .env("JURAT_KEY_KIND", key_kind)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(words)?;
        let mut input = child.stdin.take().ok_or("no standard input")?;
        let output = child.stdout.take().ok_or("no standard output")?;
        // A request is shorter than what a pipe takes; a command that does not read it says so by what it answers.
        let _ = input.write_all(tls::request_pem(request).as_bytes()).await;
        drop(input);
        let mut chain = String::new();
        let mut output = output.take(CHAIN_BYTES_MAX as u64 + 1);
        output.read_to_string(&mut chain).await.map_err(words)?;
        let status = child.wait().await.map_err(words)?;
        if !status.success() {
            return Err(format!("it ended with {status}"));
        }
        Ok(chain)
    }
}

/// Our own authority, and the operator's.
fn authorities(
    host: &Host,
    settings: &Settings,
    own: &Authority,
) -> Result<Vec<Vec<u8>>, KeyError> {
    let mut found = certificates(Path::new("clients.pem"), own.pem().as_bytes())?;
    if let Some(path) = &settings.device_ca {
        let pem = read(&*host.disk, path, AUTHORITIES_BYTES_MAX);
        let pem = pem.map_err(|source| KeyError::Io {
            path: path.clone(),
            doing: "reading the authorities of devices",
            source,
        })?;
        found.extend(certificates(path, &pem)?);
    }
    Ok(found)
}

/// The key that a request for a certificate is about.
pub(crate) fn requested(request: &[u8]) -> Result<[u8; 65], Refused> {
    check_request(request).map_err(|problem| {
        let message = format!("the request for a certificate: {problem}");
        Refused::new(400, "bad_csr", message)
    })
}
