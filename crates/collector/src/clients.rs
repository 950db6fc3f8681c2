//! Certificates of devices: who issues them, and which of them a request needs.

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jurat_disk::{Host, read};
use jurat_key::tls::{
    Authority, CHAIN_BYTES_MAX, CertificateProblem, Clients, DeviceCertificate, Presented,
    certificates, check_request,
};
use jurat_key::{KeyError, tls};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::sync::Semaphore;

use crate::Refused;
use crate::devices::Device;
use crate::settings::{DeviceCertificates, Settings};

/// How often the file of the operator's authorities is looked at.
const RELOAD_S: u64 = 2;
/// The most certificates that are being issued at a time.
const ISSUING_MAX: usize = 8;
/// How long the operator's command may take.
const COMMAND_S: u64 = 30;
/// The longest file of authorities.
const AUTHORITIES_BYTES_MAX: u64 = 1024 * 1024;

/// Who certifies devices, and whose certificates count.
pub(crate) struct Certificates {
    authority: Authority,
    command: Vec<String>,
    clients: Clients,
    /// Those that count now.
    believed: Mutex<Vec<Vec<u8>>>,
    lifetime_s: u64,
    /// Certificates that are being issued.
    issuing: Semaphore,
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
            believed: Mutex::new(believed),
            authority,
            command: settings.csr_command.clone(),
            lifetime_s: settings.device_certificate_s,
            issuing: Semaphore::new(ISSUING_MAX),
        }))
    }

    /// Takes the operator's authorities over whenever their file changes; one that cannot be used leaves things as they are.
    pub(crate) async fn follow(self: &Arc<Self>, host: &Host, settings: &Settings) {
        let mut complained = false;
        loop {
            tokio::time::sleep(Duration::from_secs(RELOAD_S)).await;
            let (this, host, settings) = (self.clone(), host.clone(), settings.clone());
            let taken = tokio::task::spawn_blocking(move || this.reload(&host, &settings));
            match taken.await.unwrap_or(Ok(())) {
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

    fn reload(&self, host: &Host, settings: &Settings) -> Result<(), KeyError> {
        let read = authorities(host, settings, &self.authority)?;
        let mut now = self.believed.lock().unwrap_or_else(PoisonError::into_inner);
        if *now != read {
            self.clients.replace(&read)?;
            *now = read;
            tracing::info!("the authorities of devices were read again");
        }
        Ok(())
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
        if shown != device.tls {
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
        let Ok(_issuing) = self.issuing.try_acquire() else {
            return Err(Refused::busy("too many certificates are being issued"));
        };
        let failed = |what: String| {
            tracing::error!(what, device, "no certificate");
            let message = "no certificate can be issued now; try again later";
            Refused::new(503, "no_certificate", message)
        };
        let chain = if let Some(program) = self.command.first() {
            let asked = self.ask(device, key_kind, request);
            match tokio::time::timeout(Duration::from_secs(COMMAND_S), asked).await {
                Ok(Ok(chain)) => chain,
                Ok(Err(what)) => return Err(failed(format!("{program}: {what}"))),
                Err(_) => {
                    let what = format!("{program}: no answer within {COMMAND_S} s");
                    return Err(failed(what));
                }
            }
        } else {
            let issued = self.authority.issue(host, device, point, self.lifetime_s);
            issued.map_err(|error| failed(error.to_string()))?
        };
        let now_s = host.clock.now().unix_s();
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

/// The key that this device's request for a certificate is about.
pub(crate) fn requested(request: &[u8], device: &str) -> Result<[u8; 65], Refused> {
    check_request(request, device).map_err(|problem| {
        let message = format!("the request for a certificate: {problem}");
        Refused::new(400, "bad_csr", message)
    })
}
