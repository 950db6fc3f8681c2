//! A TPM with this device's keys in it, on a thread of its own.
//!
//! Promise: a TPM that is slow, stuck or gone holds up only who asks, and for no longer than they say. A TPM
//! that comes back is opened anew and its keys are loaded again. No more than two keys are loaded at a time, so that
//! a TPM without a resource manager has room for a third object and its parent.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jurat_attest::tpm::{Attest, Challenge, PcrSelection, Public, Signature};
use jurat_attest::{
    After, Base64, Certified, Evidence, QuoteLeaf, SELECTION, Signed, certify_binding,
    quote_binding, write_pcrs,
};
use jurat_disk::{Host, read, replace};
use jurat_proof::{Checkpoint, Digest, Note, SignerError, VerifierKey};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Address, Auth, Blob, Endorsement, NvKind, Quote, Tpm, TpmError, TpmKey, Use};
use crate::held::is_signed;
use crate::{HeldKey, KeyError, Secret, der_signature};

/// The counter of starts: an index of the owner's, outside of those that vendors and operating systems use
/// (TCG Registry of Reserved TPM 2.0 Handles and Localities 1.2).
const COUNTER: u32 = 0x0180_4a00;
/// How many may wait for the TPM.
const WAITING_MAX: usize = 8;
/// How long who signs waits for it: longer than the slowest command of a slow chip.
const SIGN_TIMEOUT: Duration = Duration::from_secs(150);
/// The longest file of a key.
const BLOB_BYTES_MAX: u64 = 8 * 1024;

/// Which of the device's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Says what the TPM says.
    Attest,
    /// Signs heads.
    Log,
    /// Opens connections.
    Tls,
}

impl Role {
    const ALL: [Self; 3] = [Self::Attest, Self::Log, Self::Tls];

    fn file(self) -> &'static str {
        match self {
            Self::Attest => "ak.tpm",
            Self::Log => "log.tpm",
            Self::Tls => "tls.tpm",
        }
    }

    fn what(self) -> Use {
        match self {
            Self::Attest => Use::Attest,
            Self::Log | Self::Tls => Use::Sign,
        }
    }
}

/// Why a TPM did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChipError {
    /// It refused, or could not be reached.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// It cannot be opened.
    #[error("{address}: the TPM cannot be opened")]
    Open {
        /// Where.
        address: Address,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It did not answer in time, or too many wait for it.
    #[error("the TPM did not answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// A key's file.
    #[error(transparent)]
    Key(#[from] KeyError),
}

#[derive(Serialize, Deserialize)]
struct BlobFile {
    public: Base64,
    private: Base64,
}

/// The files of a device's keys in a TPM. They are of no use without that TPM, and without `tpm.key`, the value
/// that authorises them.
#[derive(Clone, Debug)]
struct ChipFiles {
    dir: PathBuf,
}

impl ChipFiles {
    /// Those in this folder.
    fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_path_buf(),
        }
    }

    fn load(&self, host: &Host, role: Role) -> Result<Blob, KeyError> {
        let path = self.dir.join(role.file());
        let bytes = read(&*host.disk, &path, BLOB_BYTES_MAX);
        let bytes = bytes.map_err(|source| KeyError::Io {
            path: path.clone(),
            doing: "reading a key of the TPM",
            source,
        })?;
        let blob = serde_json::from_slice::<BlobFile>(&bytes).ok();
        let blob = blob.and_then(|file| {
            let public = Public::parse(&file.public).ok()?;
            let private = file.private.0;
            Some(Blob { public, private })
        });
        blob.ok_or(KeyError::Malformed {
            path,
            what: "key of a TPM",
        })
    }

    fn store(&self, host: &Host, role: Role, blob: &Blob) -> Result<(), KeyError> {
        let path = self.dir.join(role.file());
        let file = BlobFile {
            public: Base64(blob.public.area().to_vec()),
            private: Base64(blob.private.clone()),
        };
        let json = serde_json::to_vec(&file).unwrap_or_default();
        replace(&*host.disk, &path, &json).map_err(|source| KeyError::Io {
            path,
            doing: "writing a key of the TPM",
            source,
        })
    }
}

/// The TPM as its thread sees it.
struct Seat {
    address: Address,
    value: Secret,
    blobs: Vec<(Role, Blob)>,
    open: Option<Open>,
}

struct Open {
    tpm: Tpm,
    ek: Endorsement,
    loaded: Vec<(Role, TpmKey)>,
}

impl Open {
    fn new(address: &Address) -> Result<Self, ChipError> {
        let transport = address.open().map_err(|source| ChipError::Open {
            address: address.clone(),
            source,
        })?;
        let mut tpm = Tpm::new(transport);
        if address.is_software() {
            tpm.startup()?;
            // What a connection before this one left.
            tpm.flush_all()?;
        }
        let ek = tpm.endorsement()?;
        Ok(Self {
            tpm,
            ek,
            loaded: Vec::new(),
        })
    }

    fn make(&mut self, role: Role, value: &Secret) -> Result<Blob, TpmError> {
        self.tpm.make_key(&self.ek, role.what(), value.expose())
    }
}

impl Seat {
    fn open(&mut self) -> Result<&mut Open, ChipError> {
        if self.open.is_none() {
            self.open = Some(Open::new(&self.address)?);
        }
        Ok(self.open.as_mut().expect("opened just now"))
    }

    /// A loaded key. Another one than those named gives way to it.
    fn key(&mut self, role: Role, keep: &[Role]) -> Result<TpmKey, ChipError> {
        let blob = self.blobs.iter().find(|(of, _)| *of == role);
        let blob = blob.expect("each role has its key").1.clone();
        let value = self.value.clone();
        let open = self.open()?;
        if let Some((_, key)) = open.loaded.iter().find(|(of, _)| *of == role) {
            return Ok(key.clone());
        }
        while open.loaded.len() > 1 {
            let other = open.loaded.iter().position(|(of, _)| !keep.contains(of));
            let (_, key) = open.loaded.remove(other.unwrap_or(0));
            open.tpm.unload(&key)?;
        }
        let key = open
            .tpm
            .load_key(&open.ek, role.what(), &blob, value.expose())?;
        open.loaded.push((role, key.clone()));
        Ok(key)
    }

    fn certify(&mut self, role: Role, binding: &[u8; 32]) -> Result<Certified, ChipError> {
        let ak = self.key(Role::Attest, &[])?;
        let key = self.key(role, &[Role::Attest])?;
        let (attest, signature) = self.open()?.tpm.certify_with(&ak, &key, binding)?;
        Ok(Certified {
            public: Base64(key.public.area().to_vec()),
            attest: Base64(attest),
            signature: Base64(signature),
        })
    }

    /// Does something; after a failure the TPM is opened anew, and its keys are loaded anew: a handle may be gone.
    fn attempt<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, ChipError>,
    ) -> Result<T, ChipError> {
        let done = work(self);
        if done.is_err() {
            self.open = None;
        }
        done
    }
}

type Job = Box<dyn FnOnce(&mut Seat) + Send>;

/// A TPM with this device's keys in it.
pub struct Chip {
    ask: SyncSender<Job>,
    address: Address,
    points: Vec<(Role, [u8; 65])>,
    took: Arc<Mutex<Duration>>,
}

fn serve(mut seat: Seat, jobs: &Receiver<Job>) {
    for job in jobs {
        job(&mut seat);
    }
}

impl Chip {
    /// Makes a device's keys in this TPM, and keeps them in this folder. Those that are there are used again, unless the
    /// TPM says that they are not its own: another one, or cleared since.
    ///
    /// # Errors
    /// [`ChipError`].
    pub fn create(host: &Host, address: &Address, dir: &Path) -> Result<Self, ChipError> {
        let value = Secret::load_or_create(host, &dir.join("tpm.key"))?;
        let files = ChipFiles::new(dir);
        let mut open = Open::new(address)?;
        for role in Role::ALL {
            let loaded = match files.load(host, role) {
                Ok(blob) => open
                    .tpm
                    .load_key(&open.ek, role.what(), &blob, value.expose()),
                Err(KeyError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                    files.store(host, role, &open.make(role, &value)?)?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            match loaded {
                Ok(key) => open.tpm.unload(&key)?,
                Err(TpmError::Refused { code, .. }) if is_of_another(code) => {
                    files.store(host, role, &open.make(role, &value)?)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        drop(open);
        Self::load(host, address, dir)
    }

    /// The device's keys in this folder. Whether the TPM is there shows when it is asked.
    ///
    /// # Errors
    /// [`ChipError::Key`].
    pub fn load(host: &Host, address: &Address, dir: &Path) -> Result<Self, ChipError> {
        let files = ChipFiles::new(dir);
        let mut blobs = Vec::new();
        let mut points = Vec::new();
        for role in Role::ALL {
            let blob = files.load(host, role)?;
            let point = blob.public.point().and_then(|point| point.try_into().ok());
            let point = point.ok_or_else(|| KeyError::Malformed {
                path: dir.join(role.file()),
                what: "key of P-256",
            })?;
            points.push((role, point));
            blobs.push((role, blob));
        }
        let seat = Seat {
            address: address.clone(),
            value: Secret::load(host, &dir.join("tpm.key"))?,
            blobs,
            open: None,
        };
        let (ask, jobs) = sync_channel(WAITING_MAX);
        let thread = std::thread::Builder::new().name("tpm".into());
        let started = thread.spawn(move || serve(seat, &jobs));
        started.map_err(|source| KeyError::Io {
            path: dir.to_path_buf(),
            doing: "starting the thread of the TPM",
            source,
        })?;
        Ok(Self {
            ask,
            address: address.clone(),
            points,
            took: Arc::default(),
        })
    }

    /// Where the TPM is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// How long it took for what it was asked last.
    pub fn took(&self) -> Duration {
        *self.took.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the thread do something, and waits for it no longer than this.
    fn ask<T: Send + 'static>(
        &self,
        within: Duration,
        work: impl FnOnce(&mut Seat) -> Result<T, ChipError> + Send + 'static,
    ) -> Result<T, ChipError> {
        let (answer, answers) = channel();
        let deadline = Instant::now() + within;
        let took = self.took.clone();
        let job: Job = Box::new(move |seat| {
            // Who asked has gone.
            if Instant::now() >= deadline {
                return;
            }
            let begun = Instant::now();
            let done = seat.attempt(work);
            *took.lock().unwrap_or_else(PoisonError::into_inner) = begun.elapsed();
            let _ = answer.send(done);
        });
        match self.ask.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                return Err(ChipError::Silent(within));
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        answers
            .recv_timeout(left)
            .unwrap_or(Err(ChipError::Silent(within)))
    }

    /// What the device shows of its keys when it enrols.
    ///
    /// # Errors
    /// [`ChipError`].
    pub fn evidence(&self, device: &str, within: Duration) -> Result<Evidence, ChipError> {
        let binding = certify_binding(device);
        self.ask(within, move |seat| {
            let log = seat.certify(Role::Log, &binding)?;
            let tls = seat.certify(Role::Tls, &binding)?;
            let ak = seat.key(Role::Attest, &[])?;
            let ek = &seat.open()?.ek;
            Ok(Evidence {
                ek: Base64(ek.public.area().to_vec()),
                ek_certificates: ek.certificate.iter().cloned().map(Base64).collect(),
                ak: Base64(ak.public.area().to_vec()),
                log,
                tls,
            })
        })
    }

    /// Whether this is evidence of these very keys, for this device.
    pub fn is_shown_by(&self, evidence: &[u8], device: &str) -> bool {
        let shown = Evidence::parse(evidence).and_then(|evidence| evidence.check(device));
        let point = |role: Role| self.points.iter().find(|(of, _)| *of == role);
        shown.is_ok_and(|shown| {
            point(Role::Log).is_some_and(|(_, point)| *point == shown.log)
                && point(Role::Tls).is_some_and(|(_, point)| *point == shown.tls)
        })
    }

    /// The secret of a challenge that was made for this TPM and its attestation key.
    ///
    /// # Errors
    /// [`ChipError`]: also when it was made for another.
    pub fn activate(&self, challenge: Challenge, within: Duration) -> Result<Vec<u8>, ChipError> {
        self.ask(within, move |seat| {
            // Parent, session and key: no room for another one.
            let ak = seat.key(Role::Attest, &[])?;
            let open = seat.open()?;
            while let Some(at) = open.loaded.iter().position(|(of, _)| *of != Role::Attest) {
                let (_, key) = open.loaded.remove(at);
                open.tpm.unload(&key)?;
            }
            Ok(open.tpm.answer(&open.ek, &ak, &challenge)?)
        })
    }

    /// A quote of these PCRs, and, when asked, the next value of the counter of starts, both bound to this.
    ///
    /// # Errors
    /// [`ChipError`].
    pub fn quote(
        &self,
        binding: [u8; 32],
        selection: &'static [PcrSelection],
        count: bool,
        within: Duration,
    ) -> Result<(Quote, Option<(Vec<u8>, Vec<u8>)>), ChipError> {
        self.ask(within, move |seat| {
            let value = seat.value.clone();
            let ak = seat.key(Role::Attest, &[])?;
            let tpm = &mut seat.open()?.tpm;
            let counter = match count.then(|| counted(tpm, &ak, &value, &binding)) {
                None => None,
                Some(Ok(counter)) => Some(counter),
                // No room for an index, or it is somebody else's: a quote without it says less, and is one.
                Some(Err(TpmError::Refused { .. })) => None,
                Some(Err(error)) => return Err(error.into()),
            };
            let quote = tpm.quote_with(&ak, &binding, selection)?;
            Ok((quote, counter))
        })
    }
}

/// The next value of the counter of starts, and the attestation key's word on it.
fn counted(
    tpm: &mut Tpm,
    ak: &TpmKey,
    value: &Secret,
    binding: &[u8; 32],
) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
    let auth = Auth::Value(value.expose());
    tpm.nv_define(COUNTER, NvKind::Counter, value.expose())?;
    match tpm.nv_increment(COUNTER, auth) {
        // An installation before this one made it, and its value is gone. A counter that is made anew begins
        // above all that the TPM ever had (Part 3, 31.3.1).
        Err(TpmError::Refused { code, .. }) if is_wrong_value(code) => {
            tpm.nv_undefine(COUNTER)?;
            tpm.nv_define(COUNTER, NvKind::Counter, value.expose())?;
            tpm.nv_increment(COUNTER, auth)?;
        }
        done => done?,
    }
    let index = (COUNTER, NvKind::Counter, &value.expose()[..]);
    tpm.certify_index(ak, index, binding)
}

/// `TPM_RC_AUTH_FAIL` and `TPM_RC_BAD_AUTH` of the first session.
fn is_wrong_value(code: u32) -> bool {
    matches!(code, 0x98e | 0x9a2)
}

/// `TPM_RC_INTEGRITY` of a parameter.
fn is_of_another(code: u32) -> bool {
    code & 0xbf == 0x9f
}

/// Who has the TPM quoted for one log.
pub struct Quoter {
    chip: Arc<Chip>,
    origin: String,
    cosigners: Vec<VerifierKey>,
}

impl Quoter {
    /// A quoter for this log; the cosignatures of these keys say after what a quote was made.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] when a text is no verifier key.
    pub fn new(chip: &Arc<Chip>, origin: &str, cosigners: &[&str]) -> Result<Self, KeyError> {
        let keys = cosigners.iter().map(|text| VerifierKey::parse(text));
        let keys = keys.collect::<Result<_, _>>();
        Ok(Self {
            chip: chip.clone(),
            origin: origin.to_owned(),
            cosigners: keys.map_err(|_| KeyError::Malformed {
                path: origin.into(),
                what: "verifier key",
            })?,
        })
    }

    /// The `detail` of a leaf that binds this head to the state of the machine, after the newest cosigned note that
    /// is known; with the next value of the counter of starts, when asked. And how often the machine was started, as
    /// it says.
    ///
    /// # Errors
    /// [`ChipError`].
    pub fn quote(
        &self,
        (size, root): (u64, Digest),
        note: Option<&str>,
        count: bool,
        within: Duration,
    ) -> Result<(Map<String, Value>, Option<u32>), ChipError> {
        let note = note.and_then(|note| Note::parse(note.as_bytes()).ok());
        let after = note.and_then(|note| {
            let mut keys = self.cosigners.iter();
            keys.find_map(|key| After::of(&note, key))
        });
        let head = Checkpoint {
            origin: self.origin.clone(),
            size,
            root,
        };
        let nonce = after.as_ref().map_or([0; 32], After::nonce);
        let binding = quote_binding(&head, &nonce);
        let (quote, counter) = self.chip.quote(binding, &SELECTION, count, within)?;
        let starts = Attest::parse(&quote.attest).ok();
        let starts = starts.map(|said| said.clock.resets);
        let leaf = QuoteLeaf {
            size,
            root,
            after,
            attest: Base64(quote.attest),
            signature: Base64(quote.signature),
            pcrs: write_pcrs(&quote.values),
            counter: counter.map(|(attest, signature)| Signed {
                attest: Base64(attest),
                signature: Base64(signature),
            }),
        };
        match serde_json::to_value(leaf) {
            Ok(Value::Object(detail)) => Ok((detail, starts)),
            _ => unreachable!("a structure is an object"),
        }
    }
}

/// One of the keys, as a signer.
pub struct ChipKey {
    chip: Arc<Chip>,
    role: Role,
    point: [u8; 65],
}

impl ChipKey {
    /// The key of this role. The attestation key signs nothing for anybody.
    pub fn new(chip: &Arc<Chip>, role: Role) -> Self {
        let point = chip.points.iter().find(|(of, _)| *of == role);
        Self {
            chip: chip.clone(),
            role,
            point: point.expect("each role has its key").1,
        }
    }
}

impl HeldKey for ChipKey {
    fn point(&self) -> &[u8; 65] {
        &self.point
    }

    fn place(&self) -> String {
        format!("the TPM at {}", self.chip.address)
    }

    fn sign_digest(&self, digest: &[u8; 32]) -> Result<Vec<u8>, SignerError> {
        let (role, digest) = (self.role, *digest);
        let signed = self.chip.ask(SIGN_TIMEOUT, move |seat| {
            let key = seat.key(role, &[Role::Attest])?;
            Ok(seat.open()?.tpm.sign_with(&key, &digest)?)
        });
        let failed = |reason: String| SignerError {
            key: self.place(),
            reason,
        };
        let signature = signed.map_err(|error| failed(chain(&error)))?;
        let signature = match Signature::parse(&signature) {
            Ok(Signature::Ecdsa { r, s, .. }) => der_signature(&r, &s),
            Ok(Signature::Rsa { .. }) => {
                return Err(failed("it signed with another algorithm".into()));
            }
            Err(error) => return Err(failed(error.to_string())),
        };
        if !is_signed(&self.point, &digest, &signature) {
            return Err(failed("its signature does not verify".into()));
        }
        Ok(signature)
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
