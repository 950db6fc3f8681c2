//! The keys that this product has in a TPM: the vendor's endorsement key, an attestation key below it, and
//! keys that sign heads and open connections below the owner's storage key.

use jurat_attest::tpm::{
    Attribute, Attributes, Challenge, PcrSelection, PcrValues, Public, put_sized,
};

use super::command::{Auth, Blob, NvKind, RH_ENDORSEMENT, RH_OWNER, Tpm, TpmError};

/// Where vendors keep the RSA endorsement key (TCG EK Credential Profile 2.6, 2.2.1.5.1).
pub const EK_RSA_HANDLE: u32 = 0x8101_0001;
const EK_RSA_CERTIFICATE: u32 = 0x01c0_0002;
const EK_P256_CERTIFICATE: u32 = 0x01c0_000a;
/// PolicySecret of the endorsement hierarchy (the same, B.3.3 and B.3.4).
const EK_POLICY: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24,
    0xfd, 0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];

/// The vendor's key and what the vendor says of it.
#[derive(Clone, Debug)]
pub struct Endorsement {
    /// The key.
    pub public: Public,
    /// Its certificate in DER, with whatever the vendor wrote behind it; some TPMs have none.
    pub certificate: Option<Vec<u8>>,
    /// The template that it follows from.
    template: Vec<u8>,
    /// Where it stays, if it does.
    handle: Option<u32>,
}

/// What a key of ours is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Says what the TPM says, below the endorsement key.
    Attest,
    /// Signs what it is given, below the owner's storage key.
    Sign,
}

/// A key of ours that is loaded.
#[derive(Clone, Debug)]
pub struct TpmKey {
    /// The key.
    pub public: Public,
    handle: u32,
    value: Vec<u8>,
}

/// A quote and the values under it.
#[derive(Clone, Debug)]
pub struct Quote {
    /// The `TPMS_ATTEST`.
    pub attest: Vec<u8>,
    /// The `TPMT_SIGNATURE`.
    pub signature: Vec<u8>,
    /// The values, read before; they may be others by now, and the quote then says so.
    pub values: PcrValues,
}

fn p256(attributes: &[Attribute], policy: &[u8], bits: Option<u16>, scheme: bool) -> Vec<u8> {
    let mut out = vec![0, 0x23, 0, 0x0b];
    out.extend(Attributes::of(attributes).0.to_be_bytes());
    put_sized(&mut out, policy);
    symmetric(&mut out, bits);
    if scheme {
        out.extend([0, 0x18, 0, 0x0b]);
    } else {
        out.extend([0, 0x10]);
    }
    out.extend([0, 3, 0, 0x10]);
    let unique: &[u8] = if bits.is_some() { &[0; 32] } else { &[] };
    put_sized(&mut out, unique);
    put_sized(&mut out, unique);
    out
}

/// AES in CFB mode for parents, nothing for others.
fn symmetric(out: &mut Vec<u8>, bits: Option<u16>) {
    match bits {
        Some(bits) => {
            out.extend([0, 6]);
            out.extend(bits.to_be_bytes());
            out.extend([0, 0x43]);
        }
        None => out.extend([0, 0x10]),
    }
}

const MADE_AND_KEPT: [Attribute; 3] = [
    Attribute::FixedTpm,
    Attribute::FixedParent,
    Attribute::SensitiveDataOrigin,
];

fn template(more: &[Attribute], bits: Option<u16>, scheme: bool) -> Vec<u8> {
    let all = [&MADE_AND_KEPT[..], more].concat();
    p256(&all, &[], bits, scheme)
}

/// A P-256 key that signs only what its TPM says.
pub fn ak_template() -> Vec<u8> {
    let more = [
        Attribute::UserWithAuth,
        Attribute::NoDa,
        Attribute::Restricted,
        Attribute::Sign,
    ];
    template(&more, None, true)
}

/// A P-256 key that signs what it is given.
pub fn log_key_template() -> Vec<u8> {
    let more = [Attribute::UserWithAuth, Attribute::NoDa, Attribute::Sign];
    template(&more, None, true)
}

/// The owner's storage key (TCG TPM v2.0 Provisioning Guidance, 7.5.1).
fn srk_template() -> Vec<u8> {
    let more = [
        Attribute::UserWithAuth,
        Attribute::NoDa,
        Attribute::Restricted,
        Attribute::Decrypt,
    ];
    template(&more, Some(128), false)
}

/// Templates L-1 and L-2 (TCG EK Credential Profile 2.6, B.3.3 and B.3.4).
fn ek_template(rsa: bool) -> Vec<u8> {
    let attributes = Attributes(0x0003_00b2);
    if !rsa {
        let mut out = p256(&[], &EK_POLICY, Some(128), false);
        out[4..8].copy_from_slice(&attributes.0.to_be_bytes());
        return out;
    }
    let mut out = vec![0, 1, 0, 0x0b];
    out.extend(attributes.0.to_be_bytes());
    put_sized(&mut out, &EK_POLICY);
    symmetric(&mut out, Some(128));
    out.extend([0, 0x10]);
    out.extend(2048_u16.to_be_bytes());
    out.extend(0_u32.to_be_bytes());
    put_sized(&mut out, &[0; 256]);
    out
}

impl Tpm {
    /// The vendor's key: the one that is there, or made again from its seed; RSA where it has a certificate,
    /// else P-256 where that has one, else what is there, else P-256.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn endorsement(&mut self) -> Result<Endorsement, TpmError> {
        let stays = self.read_public(EK_RSA_HANDLE)?;
        let mut certificate = self.nv_read(EK_RSA_CERTIFICATE, Auth::Value(&[]))?;
        let mut rsa = certificate.is_some() || stays.is_some();
        if certificate.is_none()
            && let Some(p256) = self.nv_read(EK_P256_CERTIFICATE, Auth::Value(&[]))?
        {
            (certificate, rsa) = (Some(p256), false);
        }
        let template = ek_template(rsa);
        let stays = stays.filter(|_| rsa);
        let (public, handle) = match stays {
            Some(public) => (public, Some(EK_RSA_HANDLE)),
            None => {
                let (handle, public) = self.create_primary(RH_ENDORSEMENT, &template)?;
                self.flush(handle)?;
                (public, None)
            }
        };
        Ok(Endorsement {
            public,
            certificate,
            template,
            handle,
        })
    }

    fn with_ek<T>(
        &mut self,
        ek: &Endorsement,
        work: impl FnOnce(&mut Self, u32) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        if let Some(handle) = ek.handle {
            return work(self, handle);
        }
        let (handle, _) = self.create_primary(RH_ENDORSEMENT, &ek.template)?;
        self.holding(handle, work)
    }

    /// One use of the endorsement key: its policy asks for the hierarchy's value.
    fn with_ek_policy<T>(
        &mut self,
        work: impl FnOnce(&mut Self, Auth<'_>) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        let session = self.start_policy()?;
        self.holding(session, |tpm, session| {
            tpm.policy_secret(session, RH_ENDORSEMENT)?;
            work(tpm, Auth::Policy(session))
        })
    }

    /// Makes a key; `value` authorises its use from now on.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn make_key(
        &mut self,
        ek: &Endorsement,
        what: Use,
        value: &[u8],
    ) -> Result<Blob, TpmError> {
        match what {
            Use::Attest => self.with_ek(ek, |tpm, parent| {
                tpm.with_ek_policy(|tpm, auth| tpm.create(parent, auth, value, &ak_template()))
            }),
            Use::Sign => {
                let (parent, _) = self.create_primary(RH_OWNER, &srk_template())?;
                self.holding(parent, |tpm, parent| {
                    tpm.create(parent, Auth::Value(&[]), value, &log_key_template())
                })
            }
        }
    }

    /// Loads a key. It stays loaded until [`Tpm::unload`], or as long as the way to the TPM is open.
    ///
    /// # Errors
    /// [`TpmError::Refused`] also when another TPM made it, or this one was cleared since.
    pub fn load_key(
        &mut self,
        ek: &Endorsement,
        what: Use,
        blob: &Blob,
        value: &[u8],
    ) -> Result<TpmKey, TpmError> {
        let handle = match what {
            Use::Attest => self.with_ek(ek, |tpm, parent| {
                tpm.with_ek_policy(|tpm, auth| tpm.load(parent, auth, blob))
            }),
            Use::Sign => {
                let (parent, _) = self.create_primary(RH_OWNER, &srk_template())?;
                self.holding(parent, |tpm, parent| {
                    tpm.load(parent, Auth::Value(&[]), blob)
                })
            }
        }?;
        Ok(TpmKey {
            public: blob.public.clone(),
            handle,
            value: value.to_vec(),
        })
    }

    /// Unloads a key.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn unload(&mut self, key: &TpmKey) -> Result<(), TpmError> {
        self.flush(key.handle)
    }

    /// Signs a SHA-256 digest: the `TPMT_SIGNATURE`.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn sign_with(&mut self, key: &TpmKey, digest: &[u8; 32]) -> Result<Vec<u8>, TpmError> {
        self.sign(key.handle, Auth::Value(&key.value), digest)
    }

    /// The attestation key says that this TPM holds a key: the `TPMS_ATTEST` and the `TPMT_SIGNATURE`.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn certify_with(
        &mut self,
        ak: &TpmKey,
        key: &TpmKey,
        qualifying: &[u8; 32],
    ) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
        self.certify(
            (key.handle, Auth::Value(&key.value)),
            (ak.handle, Auth::Value(&ak.value)),
            qualifying,
        )
    }

    /// Reads PCRs and has them quoted.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn quote_with(
        &mut self,
        ak: &TpmKey,
        qualifying: &[u8; 32],
        selection: &[PcrSelection],
    ) -> Result<Quote, TpmError> {
        let values = self.read_pcrs(selection)?;
        let (attest, signature) =
            self.quote(ak.handle, Auth::Value(&ak.value), qualifying, selection)?;
        Ok(Quote {
            attest,
            signature,
            values,
        })
    }

    /// The attestation key says what an index of this kind holds.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn certify_index(
        &mut self,
        ak: &TpmKey,
        (index, kind, value): (u32, NvKind, &[u8]),
        qualifying: &[u8; 32],
    ) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
        self.nv_certify(
            (ak.handle, Auth::Value(&ak.value)),
            (index, Auth::Value(value), kind.size()),
            qualifying,
        )
    }

    /// The attestation key says what time it is to the TPM.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn time_with(
        &mut self,
        ak: &TpmKey,
        qualifying: &[u8; 32],
    ) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
        self.get_time(ak.handle, Auth::Value(&ak.value), qualifying)
    }

    /// The secret of a challenge that was made for this TPM and this key.
    ///
    /// # Errors
    /// [`TpmError::Refused`] when it was made for another.
    pub fn answer(
        &mut self,
        ek: &Endorsement,
        ak: &TpmKey,
        challenge: &Challenge,
    ) -> Result<Vec<u8>, TpmError> {
        self.with_ek(ek, |tpm, parent| {
            tpm.with_ek_policy(|tpm, auth| {
                let object = (ak.handle, Auth::Value(&ak.value));
                tpm.activate(object, (parent, auth), challenge)
            })
        })
    }
}
