//! Signatures of a TPM (Part 2, 11.3.4 `TPMT_SIGNATURE`).

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};

use super::public::{CURVE_P256, CURVE_P384, Parameters, Public, coordinate};
use super::wire::{Hash, Malformed, Reader};

const RSASSA: u16 = 0x0014;
const ECDSA: u16 = 0x0018;

/// A signature of a TPM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signature {
    /// RSASSA-PKCS1-v1_5.
    Rsa {
        /// Its hash.
        hash: Hash,
        /// The signature.
        signature: Vec<u8>,
    },
    /// ECDSA.
    Ecdsa {
        /// Its hash.
        hash: Hash,
        /// As the TPM writes it: leading zeros may be missing.
        r: Vec<u8>,
        /// See `r`.
        s: Vec<u8>,
    },
}

/// Why a signature of a TPM does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Another algorithm than its key's, or a hash that is not accepted.
    #[error("the signature has a scheme that is not accepted")]
    Scheme,
    /// It does not verify.
    #[error("the signature does not verify")]
    Bad,
}

impl Signature {
    /// Reads a `TPMT_SIGNATURE`.
    ///
    /// # Errors
    /// [`Malformed`]: cut, something left over, or neither RSASSA nor ECDSA.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes, "signature");
        let scheme = reader.u16()?;
        let hash = Hash::from_alg(reader.u16()?).ok_or(reader.malformed())?;
        let signature = match scheme {
            RSASSA => Self::Rsa {
                hash,
                signature: reader.sized()?.to_vec(),
            },
            ECDSA => Self::Ecdsa {
                hash,
                r: reader.sized()?.to_vec(),
                s: reader.sized()?.to_vec(),
            },
            _ => return Err(Malformed("signature: neither RSASSA nor ECDSA")),
        };
        reader.end()?;
        Ok(signature)
    }

    /// Its hash.
    pub fn hash(&self) -> Hash {
        match self {
            Self::Rsa { hash, .. } | Self::Ecdsa { hash, .. } => *hash,
        }
    }

    /// Whether this key signed this message.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn verify(&self, key: &Public, message: &[u8]) -> Result<(), SignatureError> {
        match (self, &key.parameters) {
            (Self::Rsa { hash, signature }, Parameters::Rsa { .. }) => {
                let parameters = match hash {
                    Hash::Sha1 => return Err(SignatureError::Scheme),
                    Hash::Sha256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                    Hash::Sha384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    Hash::Sha512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                };
                let key = key.rsa().ok_or(SignatureError::Scheme)?;
                key.verify(parameters, message, signature)
                    .map_err(|_| SignatureError::Bad)
            }
            (Self::Ecdsa { hash, r, s }, Parameters::Ecc { curve, .. }) => {
                let algorithm: &dyn VerificationAlgorithm = match (*curve, hash) {
                    (CURVE_P256, Hash::Sha256) => &signature::ECDSA_P256_SHA256_FIXED,
                    (CURVE_P384, Hash::Sha384) => &signature::ECDSA_P384_SHA384_FIXED,
                    _ => return Err(SignatureError::Scheme),
                };
                let size = coordinate(*curve).ok_or(SignatureError::Scheme)?;
                let mut fixed = Vec::with_capacity(2 * size);
                for number in [r, s] {
                    let zeros = size.checked_sub(number.len()).ok_or(SignatureError::Bad)?;
                    fixed.resize(fixed.len() + zeros, 0);
                    fixed.extend_from_slice(number);
                }
                let point = key.point().ok_or(SignatureError::Scheme)?;
                UnparsedPublicKey::new(algorithm, point)
                    .verify(message, &fixed)
                    .map_err(|_| SignatureError::Bad)
            }
            _ => Err(SignatureError::Scheme),
        }
    }
}
