//! Enrolling again: the next epoch of a device, with a new key, in a folder of its own.
//!
//! Promise: the old log stays where it is and readable. What it holds beyond the archive is delivered
//! first; what cannot be is named in leaf 0 of the new log, and everything is read again. `enrolment.json`
//! is replaced last: until then the old epoch goes on, and trying again uses the same new key.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jurat_disk::{Host, read, replace};
use jurat_key::{HeldKey, Secret, Signer, tls};
use jurat_ledger::{LedgerError, Options, Reader};
use jurat_seal::{SealError, Sealer, Settings, last_signed};
use jurat_sink::{Collector, CollectorError, Predecessor, SetUp, Take, read_batch};
use serde_json::{Map, Value, json};

use crate::enrol::{
    EnrolError, EnrolOptions, Enrolment, fetch_receipt, home_of, store_enrolment, store_secrets,
};
use crate::keys::{Keys, Made};
use crate::marks::Marks;
use crate::state::{apply, snapshot};
use crate::uplink::Uplink;
use crate::uploader::{Cursor, describe, load_cursor};

/// What became of the epoch before.
#[derive(Clone, Debug)]
pub struct Again {
    /// The new enrolment.
    pub enrolment: Enrolment,
    /// The origin of the log before.
    pub predecessor: String,
    /// Its leaves that the collector does not have.
    pub undelivered: u64,
    /// Why they could not be delivered.
    pub why: Option<String>,
}

/// What the epoch before leaves to the next one: facts for leaf 0, and the state to begin with.
#[derive(Default)]
pub(crate) struct Before {
    pub(crate) opening: Map<String, Value>,
    pub(crate) state: Vec<u8>,
}

/// The most bytes of a state that is carried over.
const STATE_BYTES_MAX: u64 = 64 * 1024 * 1024;

impl Before {
    /// Reads what was left for the epoch in this folder; nothing for a first one.
    pub(crate) fn load(host: &Host, home: &Path) -> Result<Self, EnrolError> {
        let file = |name: &str, max| {
            let path = home.join(name);
            match read(&*host.disk, &path, max) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
                done => {
                    done.map_err(|source| io(&path, "reading what the last epoch left", source))
                }
            }
        };
        let opening = file("opening.json", 64 * 1024)?;
        Ok(Self {
            opening: serde_json::from_slice(&opening).unwrap_or_default(),
            state: file("beginning", STATE_BYTES_MAX)?,
        })
    }
}

fn io(path: &Path, doing: &'static str, source: std::io::Error) -> EnrolError {
    EnrolError::Io {
        path: path.to_path_buf(),
        doing,
        source,
    }
}

/// The log that ends: open, so that nobody else writes it, as far as it can be opened.
struct Old {
    sealer: Option<Sealer>,
    state: Vec<u8>,
    keys: Vec<Arc<dyn Signer>>,
    /// `None`: the keys cannot be read.
    tls: Option<Arc<dyn HeldKey>>,
}

impl Old {
    fn open(host: &Host, home: &Path, known: &Enrolment) -> Result<Self, EnrolError> {
        let keys = Keys::load(host, home, known).ok();
        let tls = keys.as_ref().map(|keys| keys.tls.clone());
        let keys = keys.map(|keys| keys.signers).unwrap_or_default();
        let reveal = Secret::load(host, &home.join("keys/reveal.key"))?;
        let mut files = BTreeMap::new();
        let mut marks = Marks::new(*reveal.expose());
        let opened = Sealer::open(
            host.clone(),
            &home.join("ledger"),
            Settings {
                origin: known.origin.clone(),
                boot: jurat_disk::boot_id(&*host.rng),
                reveal_key: *reveal.expose(),
                opening: Map::new(),
                beginning: Vec::new(),
                policy: String::new(),
                ledger: Options::default(),
            },
            &keys,
            &mut |whole, blob| apply(whole, blob, &mut files, &mut marks),
        );
        match opened {
            Ok(sealer) => Ok(Self {
                sealer: Some(sealer),
                state: snapshot(&files, &marks),
                keys,
                tls,
            }),
            Err(SealError::Ledger(LedgerError::Locked { .. })) => Err(EnrolError::Running),
            // Damaged: this is the way out of it, and nothing of its state can be relied on.
            Err(error) => {
                tracing::warn!(%error, "the ledger of the epoch before cannot be opened");
                Ok(Self {
                    sealer: None,
                    state: Vec::new(),
                    keys,
                    tls,
                })
            }
        }
    }

    /// The keys that the collector may know the log by, the likeliest first.
    fn consents(&self, new: &[u8]) -> Vec<Option<String>> {
        let current = self.sealer.as_ref().map(|sealer| sealer.key().to_string());
        let mut keys: Vec<&Arc<dyn Signer>> = self.keys.iter().collect();
        keys.sort_by_key(|key| Some(key.verifier_key().to_string()) != current);
        let consents = keys.into_iter();
        let consents = consents.filter_map(|key| key.consent_to(new).ok());
        let mut consents: Vec<_> = consents.map(Some).collect();
        if consents.is_empty() {
            consents.push(None);
        }
        consents
    }
}

/// Delivers what the collector does not have yet. Returns its size, and why it is not all.
async fn deliver_rest(host: &Host, home: &Path, uplink: &Uplink) -> (u64, Option<String>) {
    let path = home.join("cursors/collector.json");
    let mut cursor = load_cursor(host, &path);
    match uplink.frontier(host).await {
        Ok(known) if known.size != cursor.size => {
            let position = 0;
            let size = known.size;
            cursor = Cursor { position, size };
        }
        Ok(_) => {}
        Err(error) => return (cursor.size, Some(describe(&error))),
    }
    loop {
        // Of a damaged ledger, what stands before the damage.
        let batch = Reader::salvage(host.disk.clone(), &home.join("ledger"), cursor.position)
            .map_err(|error| describe(&error))
            .and_then(|mut reader| {
                read_batch(&mut reader, cursor.size, Take::Many).map_err(|error| describe(&error))
            });
        let batch = match batch {
            Ok(Some(batch)) => batch,
            Ok(None) => return (cursor.size, None),
            Err(why) => return (cursor.size, Some(why)),
        };
        let (to, next) = (batch.to, batch.next);
        match uplink.send(host, batch.body).await {
            Ok(accepted) if accepted.size == to => {
                cursor = Cursor {
                    position: next,
                    size: to,
                };
                let json = serde_json::to_vec(&cursor).unwrap_or_default();
                // Behind is safe.
                let _ = replace(&*host.disk, &path, &json);
            }
            Ok(accepted) => {
                let why = format!("the collector answered with size {}", accepted.size);
                return (cursor.size, Some(why));
            }
            // An upload that the endpoint sent when it ended may have arrived meanwhile.
            Err(CollectorError::Conflict { size }) if size > cursor.size => {
                cursor = Cursor { position: 0, size };
            }
            Err(error) => return (cursor.size, Some(describe(&error))),
        }
    }
}

/// Begins the device's next epoch: a new key and a new log, whose leaf 0 names the last head of this one.
///
/// # Errors
/// [`EnrolError`]; the old epoch goes on as before, unless the collector has closed it: then try again.
pub async fn enroll_again(
    host: &Host,
    state_dir: &Path,
    options: &EnrolOptions,
) -> Result<Again, EnrolError> {
    let known = Enrolment::load(host, state_dir)?;
    let home = known.home(state_dir);
    let old = Old::open(host, &home, &known)?;
    let (delivered, why) = match &old.tls {
        Some(tls) => {
            let (tls, timeout) = (tls.clone(), Duration::from_secs(30));
            let uplink = Uplink::with(host, &home, known.clone(), tls, timeout)?;
            deliver_rest(host, &home, &uplink).await
        }
        None => {
            let cursor = load_cursor(host, &home.join("cursors/collector.json"));
            (cursor.size, Some("its keys cannot be read".into()))
        }
    };
    let ledger = home.join("ledger");
    let (size, root) =
        last_signed(host, &ledger).map_err(|error| EnrolError::Seal(SealError::Ledger(error)))?;
    let held = old
        .sealer
        .as_ref()
        .map_or(size, |sealer| sealer.head().size.max(size));
    // Unsigned leaves go with the rest: they are read again, and sealed in the new log.
    let undelivered = held.saturating_sub(delivered);
    let predecessor = Predecessor {
        origin: known.origin.clone(),
        size,
        root,
    };

    let epoch = known.epoch() + 1;
    let new_home = home_of(state_dir, epoch);
    let keys = new_home.join("keys");
    host.disk
        .create_dir_all(&keys)
        .map_err(|source| io(&keys, "creating the keys' folder", source))?;
    // The marks of what was sealed are keyed with it.
    Secret::load(host, &home.join("keys/reveal.key"))?.store(host, &keys.join("reveal.key"))?;
    // The value that authorises the TPM's counter stays the same.
    let value = home.join("keys/tpm.key");
    if let Ok(value) = Secret::load(host, &value) {
        value.store(host, &keys.join("tpm.key"))?;
    }
    let made = Made::new(host, &options.key, &keys, &known.device)?;
    let public = made.public()?;
    let is_known = |key: &Arc<dyn Signer>| key.verifier_key().key.bytes() == public;
    if old.keys.iter().any(is_known) {
        return Err(EnrolError::SameKey {
            place: options.key.to_string(),
        });
    }
    made.store(host, &keys)?;
    let ca = options.ca.clone().or_else(|| known.ca.clone());
    let pins = match &*options.pins {
        [] => known.pins.clone(),
        pins => pins.to_vec(),
    };
    let collector = Collector::new(SetUp {
        url: options.url.clone(),
        tls: tls::device(ca.as_deref().map(str::as_bytes), &pins, None)?,
        timeout: Duration::from_secs(30),
    })?;
    let mut answer = None;
    let csr = made.csr(&known.device)?;
    for proof in old.consents(&public) {
        let asked = jurat_sink::Enrolment {
            device: known.device.clone(),
            key: BASE64.encode(&public),
            csr: csr.clone(),
            key_kind: made.kind().into(),
            evidence: made.evidence(),
            machine: jurat_disk::machine_id(),
            hostname: Some(jurat_disk::hostname()),
            predecessor: Some(predecessor.clone()),
            proof,
        };
        let asked = collector
            .enroll(&options.token, &asked, |challenged| made.answer(challenged))
            .await;
        let refused =
            matches!(&asked, Err(CollectorError::Identity(why)) if why.code == "not_allowed");
        answer = Some(asked);
        if !refused {
            break;
        }
    }
    let answer = answer.expect("at least one request is made")?;
    let enrolment = Enrolment {
        device: known.device,
        origin: answer.origin.clone(),
        url: options.url.trim_end_matches('/').to_owned(),
        ca,
        pins,
        witness: answer.witness.clone(),
        archive: answer.archive.clone(),
        log: answer.log.clone(),
        key: options.key.clone(),
        key_kind: answer.key_kind.clone(),
    };
    if enrolment.home(state_dir) != new_home {
        let what = format!("the log {} is not epoch {epoch}", enrolment.origin);
        return Err(EnrolError::Answer(what));
    }
    store_secrets(host, &keys, &made, &answer)?;
    let mut opening = json!({ "predecessor": predecessor });
    if undelivered > 0 {
        opening["undelivered"] = undelivered.into();
    }
    // What was lost is read again: nothing is known to be sealed where anybody can see it.
    let state = if undelivered == 0 {
        old.state
    } else {
        Vec::new()
    };
    for (name, bytes) in [
        ("opening.json", opening.to_string().into_bytes()),
        ("beginning", state),
    ] {
        let path = new_home.join(name);
        replace(&*host.disk, &path, &bytes)
            .map_err(|source| io(&path, "writing what this epoch leaves", source))?;
    }
    store_enrolment(host, state_dir, &made, &enrolment)?;
    drop(old.sealer);
    fetch_receipt(host, state_dir, &made, &enrolment).await;
    Ok(Again {
        enrolment,
        predecessor: predecessor.origin,
        undelivered,
        why,
    })
}
