//! Commands (TCG TPM 2.0 Library Specification, Part 3), as few as are needed.

use std::io;
use std::thread;
use std::time::Duration;

use jurat_attest::tpm::{
    Challenge, Malformed, Name, PcrSelection, PcrValues, Public, Reader, put_sized,
};

use super::transport::Transport;

/// The password session (`TPM_RS_PW`).
const RS_PW: u32 = 0x4000_0009;
/// No handle (`TPM_RH_NULL`).
const RH_NULL: u32 = 0x4000_0007;
/// The owner's hierarchy.
pub(super) const RH_OWNER: u32 = 0x4000_0001;
/// The vendor's hierarchy.
pub(super) const RH_ENDORSEMENT: u32 = 0x4000_000b;
const ALG_SHA256: u16 = 0x000b;
const ALG_NULL: u16 = 0x0010;
/// How often a TPM that asks for patience is asked again, and how long the first wait is.
const PATIENCE: u32 = 8;
const FIRST_WAIT: Duration = Duration::from_millis(5);

/// Why a TPM did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TpmError {
    /// It could not be reached; what came of the command is not known.
    #[error("{command}: the TPM does not answer")]
    Io {
        /// The command.
        command: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It answered what no TPM answers.
    #[error("{command}: {source}")]
    Malformed {
        /// The command.
        command: &'static str,
        /// What could not be read.
        source: Malformed,
    },
    /// It refused.
    #[error("{command}: the TPM refuses ({code:#05x}{})", meaning(*code))]
    Refused {
        /// The command.
        command: &'static str,
        /// The response code.
        code: u32,
    },
}

/// What the code of a refusal means, where operators meet it.
fn meaning(code: u32) -> &'static str {
    // Format-one codes carry the number of a handle, session or parameter.
    let base = if code & 0x80 == 0 { code } else { code & 0xbf };
    match base {
        0x902 => ", no room for objects: use /dev/tpmrm0 and not /dev/tpm0",
        0x903 => ", no room for sessions",
        0x907 => ", not from this locality",
        0x921 => ", locked out after failed authorisations",
        0x922 | 0x908 | 0x90a => ", still busy",
        0x8b => ", no such handle",
        0x8e | 0x9f => {
            ", the integrity of a blob or a credential does not hold: another TPM, or cleared since"
        }
        0x9d => ", a policy does not hold",
        0xa2 | 0x98e => ", a wrong authorisation value",
        0x120 => ", disabled",
        0x14b => ", the index is not there",
        _ => "",
    }
}

/// How the use of an object is authorised.
#[derive(Clone, Copy, Debug)]
pub enum Auth<'a> {
    /// By its value; an empty one stands for none.
    Value(&'a [u8]),
    /// By a policy session, which the TPM ends with the command.
    Policy(u32),
}

/// A key as its TPM hands it out: only that TPM can load it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// The public area.
    pub public: Public,
    /// The private part, encrypted by the TPM.
    pub private: Vec<u8>,
}

/// An index that only goes forward. The owner can remove it and make it anew: whoever relies on it compares
/// its name, which is over its attributes, and its value, which does not begin where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NvKind {
    /// A counter of eight bytes.
    Counter,
    /// 32 bytes that can only be extended.
    Extend,
}

impl NvKind {
    /// AUTHWRITE, AUTHREAD, OWNERREAD, NO_DA, and the kind (Part 2, 13.4 `TPMA_NV`).
    fn attributes(self) -> u32 {
        let kind = match self {
            Self::Counter => 1,
            Self::Extend => 4,
        };
        1 << 2 | 1 << 18 | 1 << 17 | 1 << 25 | kind << 4
    }

    /// Bytes of its value.
    pub fn size(self) -> u16 {
        match self {
            Self::Counter => 8,
            Self::Extend => 32,
        }
    }
}

/// A TPM.
pub struct Tpm {
    transport: Box<dyn Transport>,
}

/// What a command sends.
#[derive(Default)]
struct Command<'a> {
    handles: Vec<u32>,
    auths: Vec<Auth<'a>>,
    parameters: Vec<u8>,
}

impl Tpm {
    /// A TPM behind this transport.
    pub fn new(transport: Box<dyn Transport>) -> Self {
        Self { transport }
    }

    /// Sends one command. Gives the handle, where one comes back, and the parameters.
    fn call(
        &mut self,
        (name, code): (&'static str, u32),
        command: &Command<'_>,
        gives_handle: bool,
    ) -> Result<(u32, Vec<u8>), TpmError> {
        let tag: u16 = if command.auths.is_empty() {
            0x8001
        } else {
            0x8002
        };
        let mut body: Vec<u8> = Vec::new();
        for handle in &command.handles {
            body.extend(handle.to_be_bytes());
        }
        if !command.auths.is_empty() {
            let mut area = Vec::new();
            for auth in &command.auths {
                let (session, attributes, value) = match auth {
                    Auth::Value(value) => (RS_PW, 1, *value),
                    Auth::Policy(session) => (*session, 0, &[][..]),
                };
                area.extend(session.to_be_bytes());
                put_sized(&mut area, &[]);
                area.push(attributes);
                put_sized(&mut area, value);
            }
            body.extend((area.len() as u32).to_be_bytes());
            body.extend(area);
        }
        body.extend(&command.parameters);
        let mut bytes = tag.to_be_bytes().to_vec();
        bytes.extend((10 + body.len() as u32).to_be_bytes());
        bytes.extend(code.to_be_bytes());
        bytes.extend(body);
        let mut wait = FIRST_WAIT;
        for attempt in 0.. {
            let response = self.transport.transmit(&bytes);
            let response = response.map_err(|source| TpmError::Io {
                command: name,
                source,
            })?;
            match read_response(&response, tag, gives_handle) {
                Ok(Ok(read)) => return Ok(read),
                // RETRY, YIELDED, TESTING: nothing was done.
                Ok(Err(0x922 | 0x908 | 0x90a)) if attempt < PATIENCE => {
                    thread::sleep(wait);
                    wait *= 2;
                }
                Ok(Err(code)) => {
                    return Err(TpmError::Refused {
                        command: name,
                        code,
                    });
                }
                Err(source) => {
                    return Err(TpmError::Malformed {
                        command: name,
                        source,
                    });
                }
            }
        }
        unreachable!("the loop ends by itself")
    }

    /// `TPM2_Startup(CLEAR)`, for a TPM that no firmware started. Started already is as good.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn startup(&mut self) -> Result<(), TpmError> {
        let command = Command {
            parameters: 0_u16.to_be_bytes().to_vec(),
            ..Command::default()
        };
        match self.call(("Startup", 0x144), &command, false) {
            Err(TpmError::Refused { code: 0x100, .. }) => Ok(()),
            other => other.map(drop),
        }
    }

    /// `TPM2_GetCapability(TPM_PROPERTIES)`: one property, where the TPM has it.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn property(&mut self, property: u32) -> Result<Option<u32>, TpmError> {
        let mut parameters = 6_u32.to_be_bytes().to_vec();
        parameters.extend(property.to_be_bytes());
        parameters.extend(1_u32.to_be_bytes());
        let command = Command {
            parameters,
            ..Command::default()
        };
        let (_, out) = self.call(("GetCapability", 0x17a), &command, false)?;
        read("GetCapability", &out, |reader| {
            reader.take(5)?;
            if reader.u32()? == 0 {
                return Ok(None);
            }
            let found = reader.u32()?;
            let value = reader.u32()?;
            reader.end()?;
            Ok((found == property).then_some(value))
        })
    }

    /// `TPM2_GetCapability(TPM_CAP_HANDLES)`: the first handles from this one on.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn handles(&mut self, first: u32) -> Result<Vec<u32>, TpmError> {
        let mut parameters = 1_u32.to_be_bytes().to_vec();
        parameters.extend(first.to_be_bytes());
        parameters.extend(64_u32.to_be_bytes());
        let command = Command {
            parameters,
            ..Command::default()
        };
        let (_, out) = self.call(("GetCapability", 0x17a), &command, false)?;
        read("GetCapability", &out, |reader| {
            reader.take(5)?;
            let count = reader.u32()?;
            let handles = (0..count.min(64)).map(|_| reader.u32());
            let handles = handles.collect::<Result<Vec<_>, _>>()?;
            reader.end()?;
            Ok(handles)
        })
    }

    /// Flushes every object and session that is loaded. Where no resource manager keeps those of others apart, and
    /// nobody else uses the TPM.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn flush_all(&mut self) -> Result<(), TpmError> {
        /// Objects, HMAC sessions and policy sessions (Part 2, 7.4).
        const KINDS: [u8; 3] = [0x80, 0x02, 0x03];
        for kind in KINDS {
            for handle in self.handles(u32::from(kind) << 24)? {
                if handle >> 24 == u32::from(kind) {
                    self.flush(handle)?;
                }
            }
        }
        Ok(())
    }

    /// `TPM2_GetRandom`: at most 32 bytes at a time.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn random(&mut self, len: u8) -> Result<Vec<u8>, TpmError> {
        let command = Command {
            parameters: u16::from(len.min(32)).to_be_bytes().to_vec(),
            ..Command::default()
        };
        let (_, out) = self.call(("GetRandom", 0x17b), &command, false)?;
        read("GetRandom", &out, |reader| Ok(reader.sized()?.to_vec()))
    }

    /// `TPM2_CreatePrimary`: a key that follows from the hierarchy's seed and the template.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn create_primary(
        &mut self,
        hierarchy: u32,
        template: &[u8],
    ) -> Result<(u32, Public), TpmError> {
        let mut parameters = Vec::new();
        sensitive(&mut parameters, &[]);
        put_sized(&mut parameters, template);
        put_sized(&mut parameters, &[]);
        parameters.extend(0_u32.to_be_bytes());
        let command = Command {
            handles: vec![hierarchy],
            auths: vec![Auth::Value(&[])],
            parameters,
        };
        let (handle, out) = self.call(("CreatePrimary", 0x131), &command, true)?;
        let public = read("CreatePrimary", &out, |reader| {
            Public::parse(reader.sized()?)
        });
        match public {
            Ok(public) => Ok((handle, public)),
            Err(error) => {
                self.flush(handle)?;
                Err(error)
            }
        }
    }

    /// `TPM2_Create`: a new key below a parent, with its authorisation value.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn create(
        &mut self,
        parent: u32,
        auth: Auth<'_>,
        value: &[u8],
        template: &[u8],
    ) -> Result<Blob, TpmError> {
        let mut parameters = Vec::new();
        sensitive(&mut parameters, value);
        put_sized(&mut parameters, template);
        put_sized(&mut parameters, &[]);
        parameters.extend(0_u32.to_be_bytes());
        let command = Command {
            handles: vec![parent],
            auths: vec![auth],
            parameters,
        };
        let (_, out) = self.call(("Create", 0x153), &command, false)?;
        read("Create", &out, |reader| {
            let private = reader.sized()?.to_vec();
            let public = Public::parse(reader.sized()?)?;
            Ok(Blob { public, private })
        })
    }

    /// `TPM2_Load`.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn load(&mut self, parent: u32, auth: Auth<'_>, blob: &Blob) -> Result<u32, TpmError> {
        let mut parameters = Vec::new();
        put_sized(&mut parameters, &blob.private);
        put_sized(&mut parameters, blob.public.area());
        let command = Command {
            handles: vec![parent],
            auths: vec![auth],
            parameters,
        };
        self.call(("Load", 0x157), &command, true)
            .map(|(handle, _)| handle)
    }

    /// `TPM2_FlushContext`.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn flush(&mut self, handle: u32) -> Result<(), TpmError> {
        // The handle is a parameter of this command, not in its handle area.
        let command = Command {
            parameters: handle.to_be_bytes().to_vec(),
            ..Command::default()
        };
        self.call(("FlushContext", 0x165), &command, false)
            .map(drop)
    }

    /// Does something with a loaded object or session, and flushes it whatever comes of it.
    ///
    /// # Errors
    /// The first error of both.
    pub fn holding<T>(
        &mut self,
        handle: u32,
        work: impl FnOnce(&mut Self, u32) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        let done = work(self, handle);
        let flushed = match self.flush(handle) {
            // A policy session ends with the command that used it.
            Err(TpmError::Refused { .. }) if handle >> 24 == 3 => Ok(()),
            flushed => flushed,
        };
        let done = done?;
        flushed.map(|()| done)
    }

    /// `TPM2_ReadPublic`, where there is such an object.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn read_public(&mut self, handle: u32) -> Result<Option<Public>, TpmError> {
        let command = Command {
            handles: vec![handle],
            ..Command::default()
        };
        match self.call(("ReadPublic", 0x173), &command, false) {
            Ok((_, out)) => {
                read("ReadPublic", &out, |reader| Public::parse(reader.sized()?)).map(Some)
            }
            Err(TpmError::Refused { code: 0x18b, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `TPM2_Sign` over a SHA-256 digest, by a key that signs what it is given: the `TPMT_SIGNATURE`.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn sign(
        &mut self,
        key: u32,
        auth: Auth<'_>,
        digest: &[u8; 32],
    ) -> Result<Vec<u8>, TpmError> {
        let mut parameters = Vec::new();
        put_sized(&mut parameters, digest);
        parameters.extend(0x0018_u16.to_be_bytes());
        parameters.extend(ALG_SHA256.to_be_bytes());
        // No ticket: the digest was not made by the TPM.
        parameters.extend(0x8024_u16.to_be_bytes());
        parameters.extend(RH_NULL.to_be_bytes());
        put_sized(&mut parameters, &[]);
        let command = Command {
            handles: vec![key],
            auths: vec![auth],
            parameters,
        };
        self.call(("Sign", 0x15d), &command, false)
            .map(|(_, out)| out)
    }

    /// `TPM2_Quote`: the `TPMS_ATTEST` and the `TPMT_SIGNATURE`.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn quote(
        &mut self,
        ak: u32,
        auth: Auth<'_>,
        qualifying: &[u8; 32],
        selection: &[PcrSelection],
    ) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
        let mut parameters = Vec::new();
        put_sized(&mut parameters, qualifying);
        parameters.extend(ALG_NULL.to_be_bytes());
        PcrSelection::write(selection, &mut parameters);
        let command = Command {
            handles: vec![ak],
            auths: vec![auth],
            parameters,
        };
        let (_, out) = self.call(("Quote", 0x158), &command, false)?;
        attestation("Quote", &out)
    }

    /// `TPM2_Certify`: the attestation key says that the TPM holds another key.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn certify(
        &mut self,
        (object, object_auth): (u32, Auth<'_>),
        (ak, ak_auth): (u32, Auth<'_>),
        qualifying: &[u8; 32],
    ) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
        let mut parameters = Vec::new();
        put_sized(&mut parameters, qualifying);
        parameters.extend(ALG_NULL.to_be_bytes());
        let command = Command {
            handles: vec![object, ak],
            auths: vec![object_auth, ak_auth],
            parameters,
        };
        let (_, out) = self.call(("Certify", 0x148), &command, false)?;
        attestation("Certify", &out)
    }

    /// `TPM2_PCR_Read`, as often as it takes: a TPM gives at most eight values at a time.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn read_pcrs(&mut self, selection: &[PcrSelection]) -> Result<PcrValues, TpmError> {
        let mut values = PcrValues::default();
        let mut left = selection.to_vec();
        while left.iter().any(|bank| bank.pcrs != 0) {
            let mut parameters = Vec::new();
            PcrSelection::write(&left, &mut parameters);
            let command = Command {
                parameters,
                ..Command::default()
            };
            let (_, out) = self.call(("PCR_Read", 0x17e), &command, false)?;
            let given = read("PCR_Read", &out, |reader| {
                reader.u32()?;
                let given = PcrSelection::read(reader)?;
                let mut count = reader.u32()?;
                for bank in &given {
                    for pcr in bank.indices() {
                        count = count.checked_sub(1).ok_or(reader.malformed())?;
                        values.0.insert((bank.bank, pcr), reader.sized()?.to_vec());
                    }
                }
                reader.end()?;
                Ok(given)
            })?;
            // A bank that the TPM does not have gives nothing, however often it is asked.
            if given.iter().all(|bank| bank.pcrs == 0) {
                break;
            }
            for bank in &mut left {
                for given in given.iter().filter(|given| given.bank == bank.bank) {
                    bank.pcrs &= !given.pcrs;
                }
            }
        }
        Ok(values)
    }

    /// `TPM2_PCR_Extend` of one bank.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn extend_pcr(&mut self, pcr: u8, digest: &[u8; 32]) -> Result<(), TpmError> {
        let mut parameters = 1_u32.to_be_bytes().to_vec();
        parameters.extend(ALG_SHA256.to_be_bytes());
        parameters.extend(digest);
        let command = Command {
            handles: vec![u32::from(pcr)],
            auths: vec![Auth::Value(&[])],
            parameters,
        };
        self.call(("PCR_Extend", 0x182), &command, false).map(drop)
    }

    /// `TPM2_StartAuthSession` of a policy, unbound and unsalted.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn start_policy(&mut self) -> Result<u32, TpmError> {
        let mut parameters = Vec::new();
        put_sized(&mut parameters, &[0; 16]);
        put_sized(&mut parameters, &[]);
        parameters.push(1);
        parameters.extend(ALG_NULL.to_be_bytes());
        parameters.extend(ALG_SHA256.to_be_bytes());
        let command = Command {
            handles: vec![RH_NULL, RH_NULL],
            parameters,
            ..Command::default()
        };
        self.call(("StartAuthSession", 0x176), &command, true)
            .map(|(session, _)| session)
    }

    /// `TPM2_PolicySecret`: the session knows the value of a hierarchy.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn policy_secret(&mut self, session: u32, hierarchy: u32) -> Result<(), TpmError> {
        let mut parameters = Vec::new();
        for _ in 0..3 {
            put_sized(&mut parameters, &[]);
        }
        parameters.extend(0_i32.to_be_bytes());
        let command = Command {
            handles: vec![hierarchy, session],
            auths: vec![Auth::Value(&[])],
            parameters,
        };
        self.call(("PolicySecret", 0x151), &command, false)
            .map(drop)
    }

    /// `TPM2_ActivateCredential`: the secret of a challenge.
    ///
    /// # Errors
    /// [`TpmError::Refused`] also when the challenge is for another TPM or another key.
    pub fn activate(
        &mut self,
        (object, object_auth): (u32, Auth<'_>),
        (ek, ek_auth): (u32, Auth<'_>),
        challenge: &Challenge,
    ) -> Result<Vec<u8>, TpmError> {
        let mut parameters = challenge.id_object.clone();
        parameters.extend(&challenge.secret);
        let command = Command {
            handles: vec![object, ek],
            auths: vec![object_auth, ek_auth],
            parameters,
        };
        let (_, out) = self.call(("ActivateCredential", 0x147), &command, false)?;
        read("ActivateCredential", &out, |reader| {
            Ok(reader.sized()?.to_vec())
        })
    }

    /// `TPM2_NV_ReadPublic`: the length of an index and its name, where there is such an index.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn nv_public(&mut self, index: u32) -> Result<Option<(u16, Name)>, TpmError> {
        let command = Command {
            handles: vec![index],
            ..Command::default()
        };
        match self.call(("NV_ReadPublic", 0x169), &command, false) {
            Ok((_, out)) => read("NV_ReadPublic", &out, |reader| {
                let mut area = Reader::new(reader.sized()?, "public area of an index");
                // Index, hash of the name, attributes, policy, length.
                area.take(10)?;
                area.sized()?;
                let len = area.u16()?;
                area.end()?;
                let name = Name(reader.sized()?.to_vec());
                Ok(Some((len, name)))
            }),
            Err(TpmError::Refused { code: 0x18b, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `TPM2_NV_DefineSpace` in the owner's hierarchy; there already is as good.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn nv_define(&mut self, index: u32, kind: NvKind, value: &[u8]) -> Result<(), TpmError> {
        let mut area = index.to_be_bytes().to_vec();
        area.extend(ALG_SHA256.to_be_bytes());
        area.extend(kind.attributes().to_be_bytes());
        put_sized(&mut area, &[]);
        area.extend(kind.size().to_be_bytes());
        let mut parameters = Vec::new();
        put_sized(&mut parameters, value);
        put_sized(&mut parameters, &area);
        let command = Command {
            handles: vec![RH_OWNER],
            auths: vec![Auth::Value(&[])],
            parameters,
        };
        match self.call(("NV_DefineSpace", 0x12a), &command, false) {
            Err(TpmError::Refused { code: 0x14c, .. }) => Ok(()),
            other => other.map(drop),
        }
    }

    /// `TPM2_NV_UndefineSpace` in the owner's hierarchy.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn nv_undefine(&mut self, index: u32) -> Result<(), TpmError> {
        let command = Command {
            handles: vec![RH_OWNER, index],
            auths: vec![Auth::Value(&[])],
            ..Command::default()
        };
        self.call(("NV_UndefineSpace", 0x122), &command, false)
            .map(drop)
    }

    /// `TPM2_NV_Increment`.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn nv_increment(&mut self, index: u32, auth: Auth<'_>) -> Result<(), TpmError> {
        let command = Command {
            handles: vec![index, index],
            auths: vec![auth],
            ..Command::default()
        };
        self.call(("NV_Increment", 0x134), &command, false)
            .map(drop)
    }

    /// `TPM2_NV_Extend`.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn nv_extend(&mut self, index: u32, auth: Auth<'_>, data: &[u8]) -> Result<(), TpmError> {
        let mut parameters = Vec::new();
        put_sized(&mut parameters, data);
        let command = Command {
            handles: vec![index, index],
            auths: vec![auth],
            parameters,
        };
        self.call(("NV_Extend", 0x136), &command, false).map(drop)
    }

    /// `TPM2_NV_Certify` of a whole index.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn nv_certify(
        &mut self,
        (ak, ak_auth): (u32, Auth<'_>),
        (index, index_auth, size): (u32, Auth<'_>, u16),
        qualifying: &[u8; 32],
    ) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
        let mut parameters = Vec::new();
        put_sized(&mut parameters, qualifying);
        parameters.extend(ALG_NULL.to_be_bytes());
        parameters.extend(size.to_be_bytes());
        parameters.extend(0_u16.to_be_bytes());
        let command = Command {
            handles: vec![ak, index, index],
            auths: vec![ak_auth, index_auth],
            parameters,
        };
        let (_, out) = self.call(("NV_Certify", 0x184), &command, false)?;
        attestation("NV_Certify", &out)
    }

    /// `TPM2_GetTime`.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn get_time(
        &mut self,
        ak: u32,
        auth: Auth<'_>,
        qualifying: &[u8; 32],
    ) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
        let mut parameters = Vec::new();
        put_sized(&mut parameters, qualifying);
        parameters.extend(ALG_NULL.to_be_bytes());
        let command = Command {
            handles: vec![RH_ENDORSEMENT, ak],
            auths: vec![Auth::Value(&[]), auth],
            parameters,
        };
        let (_, out) = self.call(("GetTime", 0x14c), &command, false)?;
        attestation("GetTime", &out)
    }

    /// `TPM2_PolicyPCR`: the session holds only while these PCRs have the values that they have now.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn policy_pcr(&mut self, session: u32, selection: &[PcrSelection]) -> Result<(), TpmError> {
        let mut parameters = Vec::new();
        put_sized(&mut parameters, &[]);
        PcrSelection::write(selection, &mut parameters);
        let command = Command {
            handles: vec![session],
            parameters,
            ..Command::default()
        };
        self.call(("PolicyPCR", 0x17f), &command, false).map(drop)
    }

    /// `TPM2_NV_Read` of a whole index, in pieces that every TPM can give; `None` where there is none.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn nv_read(&mut self, index: u32, auth: Auth<'_>) -> Result<Option<Vec<u8>>, TpmError> {
        /// `TPM_PT_NV_BUFFER_MAX` is at least this everywhere.
        const PIECE: u16 = 512;
        let Some((len, _)) = self.nv_public(index)? else {
            return Ok(None);
        };
        let mut content = Vec::new();
        let mut at = 0;
        while at < len {
            let piece = PIECE.min(len - at);
            let mut parameters = piece.to_be_bytes().to_vec();
            parameters.extend(at.to_be_bytes());
            let command = Command {
                handles: vec![index, index],
                auths: vec![auth],
                parameters,
            };
            let (_, out) = self.call(("NV_Read", 0x14e), &command, false)?;
            content.extend(read("NV_Read", &out, |reader| {
                Ok(reader.sized()?.to_vec())
            })?);
            at += piece;
        }
        Ok(Some(content))
    }
}

/// `TPM2B_SENSITIVE_CREATE`: an authorisation value, and no data.
fn sensitive(out: &mut Vec<u8>, value: &[u8]) {
    let mut inner = Vec::new();
    put_sized(&mut inner, value);
    put_sized(&mut inner, &[]);
    put_sized(out, &inner);
}

fn attestation(command: &'static str, out: &[u8]) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
    read(command, out, |reader| {
        let attest = reader.sized()?.to_vec();
        Ok((attest, reader.rest().to_vec()))
    })
}

fn read<T>(
    command: &'static str,
    bytes: &[u8],
    parse: impl FnOnce(&mut Reader<'_>) -> Result<T, Malformed>,
) -> Result<T, TpmError> {
    let mut reader = Reader::new(bytes, "response");
    parse(&mut reader).map_err(|source| TpmError::Malformed { command, source })
}

/// The handle and the parameters of a response, or its code.
fn read_response(
    response: &[u8],
    tag: u16,
    gives_handle: bool,
) -> Result<Result<(u32, Vec<u8>), u32>, Malformed> {
    let mut reader = Reader::new(response, "response");
    let found = reader.u16()?;
    let len = reader.u32()?;
    let code = reader.u32()?;
    if usize::try_from(len).ok() != Some(response.len()) {
        return Err(Malformed("response: its length is another one"));
    }
    if code != 0 {
        return Ok(Err(code));
    }
    if found != tag {
        return Err(Malformed("response: another tag than the command's"));
    }
    let handle = if gives_handle { reader.u32()? } else { 0 };
    if tag == 0x8001 {
        return Ok(Ok((handle, reader.rest().to_vec())));
    }
    let len = usize::try_from(reader.u32()?).map_err(|_| reader.malformed())?;
    Ok(Ok((handle, reader.take(len)?.to_vec())))
}
