//! Public areas of keys (Part 2, 12.2.4 `TPMT_PUBLIC`), their names, and what they must be.

use std::fmt;

use aws_lc_rs::rsa::PublicKeyComponents;

use super::wire::{Hash, Malformed, Reader};

const ALG_NULL: u16 = 0x0010;
const TYPE_RSA: u16 = 0x0001;
const TYPE_KEYEDHASH: u16 = 0x0008;
const TYPE_ECC: u16 = 0x0023;
const TYPE_SYMCIPHER: u16 = 0x0025;
pub(super) const CURVE_P256: u16 = 0x0003;
pub(super) const CURVE_P384: u16 = 0x0004;
const ALG_AES: u16 = 0x0006;
const MODE_CFB: u16 = 0x0043;
const SCHEME_HMAC: u16 = 0x0005;
const SCHEME_RSAES: u16 = 0x0015;
/// RSASSA, RSAPSS, OAEP, ECDSA: each has a hash.
const SCHEMES: [u16; 4] = [0x0014, 0x0016, 0x0017, 0x0018];

/// One bit of an object's attributes (Part 2, 8.3 `TPMA_OBJECT`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// Cannot leave this TPM.
    FixedTpm = 1,
    /// Cannot leave its parent.
    FixedParent = 4,
    /// The TPM made the private part.
    SensitiveDataOrigin = 5,
    /// Its auth value lets use it.
    UserWithAuth = 6,
    /// Failures with it count against nobody.
    NoDa = 10,
    /// Signs only what the TPM itself made, or decrypts only what the TPM understands.
    Restricted = 16,
    /// Decrypts.
    Decrypt = 17,
    /// Signs.
    Sign = 18,
}

/// The attributes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes(pub u32);

impl Attributes {
    /// Those that are named, no other.
    pub fn of(attributes: &[Attribute]) -> Self {
        Self(
            attributes
                .iter()
                .fold(0, |bits, attribute| bits | 1 << *attribute as u32),
        )
    }

    /// Whether it is set.
    pub fn has(self, attribute: Attribute) -> bool {
        self.0 >> attribute as u32 & 1 == 1
    }
}

/// What kind of object, and its public part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parameters {
    /// An RSA key.
    Rsa {
        /// Of its own symmetric algorithm, for parents: key bits.
        symmetric: Option<u16>,
        /// Scheme and its hash, where it is fixed to one.
        scheme: Option<(u16, Option<Hash>)>,
        /// Bits of the modulus.
        bits: u16,
        /// The exponent; 65,537 where the area says 0.
        exponent: u32,
        /// The modulus.
        modulus: Vec<u8>,
    },
    /// A key on a curve.
    Ecc {
        /// Of its own symmetric algorithm, for parents: key bits.
        symmetric: Option<u16>,
        /// Scheme and its hash, where it is fixed to one.
        scheme: Option<(u16, Option<Hash>)>,
        /// `TPM_ECC_CURVE`.
        curve: u16,
        /// The point, as the TPM writes it: leading zeros may be missing.
        x: Vec<u8>,
        /// See `x`.
        y: Vec<u8>,
    },
    /// Something that signs nothing: sealed data, HMAC and symmetric keys.
    Other,
}

/// The name of an object or an index: the algorithm and the digest of its public area (Part 1, 16).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(pub Vec<u8>);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The public area of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Public {
    /// The area as it was read: its name is over these bytes.
    area: Vec<u8>,
    /// The hash of its name.
    pub name_alg: Hash,
    /// What it may be used for.
    pub attributes: Attributes,
    /// The policy that authorises its use; may be empty.
    pub policy: Vec<u8>,
    /// Kind and public part.
    pub parameters: Parameters,
}

impl Public {
    /// Reads a `TPMT_PUBLIC`.
    ///
    /// # Errors
    /// [`Malformed`]: cut, something left over, or an algorithm that no TPM key of ours or of a vendor has.
    pub fn parse(area: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(area, "public area");
        let kind = reader.u16()?;
        let name_alg = Hash::from_alg(reader.u16()?).ok_or(reader.malformed())?;
        let attributes = Attributes(reader.u32()?);
        let policy = reader.sized()?.to_vec();
        let parameters = parameters(&mut reader, kind)?;
        reader.end()?;
        Ok(Self {
            area: area.to_vec(),
            name_alg,
            attributes,
            policy,
            parameters,
        })
    }

    /// Reads a `TPM2B_PUBLIC`: the same with two bytes of length in front.
    ///
    /// # Errors
    /// As [`Public::parse`].
    pub fn parse_sized(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes, "public area");
        let area = reader.sized()?;
        reader.end()?;
        Self::parse(area)
    }

    /// The bytes of the area.
    pub fn area(&self) -> &[u8] {
        &self.area
    }

    /// The name of the object.
    pub fn name(&self) -> Name {
        let mut name = self.name_alg.alg().to_be_bytes().to_vec();
        name.extend(self.name_alg.digest(&[&self.area]));
        Name(name)
    }

    /// The point of a key on P-256 or P-384 in uncompressed form (SEC 1, 2.3.3).
    pub fn point(&self) -> Option<Vec<u8>> {
        let Parameters::Ecc { curve, x, y, .. } = &self.parameters else {
            return None;
        };
        let size = coordinate(*curve)?;
        let mut point = vec![4];
        for coordinate in [x, y] {
            point.resize(point.len() + size.checked_sub(coordinate.len())?, 0);
            point.extend_from_slice(coordinate);
        }
        Some(point)
    }

    /// The numbers of an RSA key.
    pub(super) fn rsa(&self) -> Option<PublicKeyComponents<Vec<u8>>> {
        let Parameters::Rsa {
            exponent, modulus, ..
        } = &self.parameters
        else {
            return None;
        };
        let start = exponent.leading_zeros() as usize / 8;
        Some(PublicKeyComponents {
            n: modulus.clone(),
            e: exponent.to_be_bytes()[start.min(3)..].to_vec(),
        })
    }
}

/// Bytes of a coordinate.
pub(super) fn coordinate(curve: u16) -> Option<usize> {
    match curve {
        CURVE_P256 => Some(32),
        CURVE_P384 => Some(48),
        _ => None,
    }
}

fn parameters(reader: &mut Reader<'_>, kind: u16) -> Result<Parameters, Malformed> {
    match kind {
        TYPE_RSA => {
            let symmetric = symmetric(reader)?;
            let scheme = scheme(reader)?;
            let bits = reader.u16()?;
            let exponent = match reader.u32()? {
                0 => 65_537,
                exponent => exponent,
            };
            let modulus = reader.sized()?;
            if modulus.len() * 8 != usize::from(bits) || !(2048..=4096).contains(&bits) {
                return Err(reader.malformed());
            }
            Ok(Parameters::Rsa {
                symmetric,
                scheme,
                bits,
                exponent,
                modulus: modulus.to_vec(),
            })
        }
        TYPE_ECC => {
            let symmetric = symmetric(reader)?;
            let scheme = scheme(reader)?;
            let curve = reader.u16()?;
            // No command uses the key derivation of a key.
            if reader.u16()? != ALG_NULL {
                return Err(reader.malformed());
            }
            let (x, y) = (reader.sized()?, reader.sized()?);
            let size = coordinate(curve).ok_or(reader.malformed())?;
            if x.len() > size || y.len() > size {
                return Err(reader.malformed());
            }
            Ok(Parameters::Ecc {
                symmetric,
                scheme,
                curve,
                x: x.to_vec(),
                y: y.to_vec(),
            })
        }
        TYPE_KEYEDHASH => {
            match reader.u16()? {
                ALG_NULL => {}
                SCHEME_HMAC => {
                    Hash::from_alg(reader.u16()?).ok_or(reader.malformed())?;
                }
                _ => return Err(reader.malformed()),
            }
            reader.sized()?;
            Ok(Parameters::Other)
        }
        TYPE_SYMCIPHER => {
            symmetric(reader)?;
            reader.sized()?;
            Ok(Parameters::Other)
        }
        _ => Err(reader.malformed()),
    }
}

/// `TPMT_SYM_DEF_OBJECT`: AES in CFB mode, the only one that a parent may have.
fn symmetric(reader: &mut Reader<'_>) -> Result<Option<u16>, Malformed> {
    match reader.u16()? {
        ALG_NULL => Ok(None),
        ALG_AES => {
            let (bits, mode) = (reader.u16()?, reader.u16()?);
            if mode != MODE_CFB {
                return Err(reader.malformed());
            }
            Ok(Some(bits))
        }
        _ => Err(reader.malformed()),
    }
}

/// `TPMT_RSA_SCHEME` and `TPMT_ECC_SCHEME`.
fn scheme(reader: &mut Reader<'_>) -> Result<Option<(u16, Option<Hash>)>, Malformed> {
    match reader.u16()? {
        ALG_NULL => Ok(None),
        scheme @ SCHEME_RSAES => Ok(Some((scheme, None))),
        scheme if SCHEMES.contains(&scheme) => {
            let hash = Hash::from_alg(reader.u16()?).ok_or(reader.malformed())?;
            Ok(Some((scheme, Some(hash))))
        }
        _ => Err(reader.malformed()),
    }
}

/// Why a key is not what it is said to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Its name is over a hash that is not accepted.
    #[error("the name of the key is a {} digest", .0.name())]
    NameAlg(Hash),
    /// It lacks an attribute.
    #[error("the key is not {0:?}")]
    Lacks(Attribute),
    /// It has an attribute that it must not have.
    #[error("the key is {0:?}")]
    Has(Attribute),
    /// Neither ECDSA on P-256 or P-384 nor RSASSA, with SHA-256 or better.
    #[error("the key signs with a scheme that is not accepted")]
    Scheme,
}

/// Whether a key can be an attestation key: the TPM made it, it never leaves it, and it signs nothing
/// but what the TPM itself says.
///
/// # Errors
/// [`KeyError`] names what is missing.
pub fn is_ak(key: &Public) -> Result<(), KeyError> {
    made_and_kept(key)?;
    has(key, Attribute::Restricted)?;
    signs(key)?;
    let fixed = match &key.parameters {
        Parameters::Rsa { scheme, .. } | Parameters::Ecc { scheme, .. } => *scheme,
        Parameters::Other => None,
    };
    match fixed {
        Some((0x0014 | 0x0018, Some(Hash::Sha256 | Hash::Sha384 | Hash::Sha512))) => Ok(()),
        _ => Err(KeyError::Scheme),
    }
}

/// Whether a key can sign heads of a log, or open connections: the TPM made it, it never leaves it, and it
/// signs what it is given.
///
/// # Errors
/// [`KeyError`] names what is missing.
pub fn is_log_key(key: &Public) -> Result<(), KeyError> {
    made_and_kept(key)?;
    if key.attributes.has(Attribute::Restricted) {
        return Err(KeyError::Has(Attribute::Restricted));
    }
    signs(key)?;
    match &key.parameters {
        Parameters::Ecc { curve, scheme, .. }
            if *curve == CURVE_P256
                && matches!(scheme, None | Some((0x0018, Some(Hash::Sha256)))) =>
        {
            Ok(())
        }
        _ => Err(KeyError::Scheme),
    }
}

fn has(key: &Public, attribute: Attribute) -> Result<(), KeyError> {
    if key.attributes.has(attribute) {
        Ok(())
    } else {
        Err(KeyError::Lacks(attribute))
    }
}

fn made_and_kept(key: &Public) -> Result<(), KeyError> {
    if key.name_alg == Hash::Sha1 {
        return Err(KeyError::NameAlg(key.name_alg));
    }
    has(key, Attribute::FixedTpm)?;
    has(key, Attribute::FixedParent)?;
    has(key, Attribute::SensitiveDataOrigin)
}

fn signs(key: &Public) -> Result<(), KeyError> {
    has(key, Attribute::Sign)?;
    if key.attributes.has(Attribute::Decrypt) {
        return Err(KeyError::Has(Attribute::Decrypt));
    }
    Ok(())
}
