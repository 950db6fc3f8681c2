//! `TPM2_MakeCredential` in software (Part 1, 24): a secret that only the TPM with this endorsement key can
//! give back, and only while it holds the key of this name.

use aws_lc_rs::agreement::{self, EphemeralPrivateKey};
use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{
    OAEP_SHA256_MGF1SHA256, OAEP_SHA384_MGF1SHA384, OAEP_SHA512_MGF1SHA512,
    OaepPublicEncryptingKey, PublicEncryptingKey,
};
use aws_lc_rs::{hmac, rand};

use super::public::{Attribute, CURVE_P256, CURVE_P384, Name, Parameters, Public, coordinate};
use super::wire::{Hash, put_sized};

/// What a collector sends to a device: `TPM2_ActivateCredential`'s two parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// A `TPM2B_ID_OBJECT`, with its length.
    pub id_object: Vec<u8>,
    /// A `TPM2B_ENCRYPTED_SECRET`, with its length.
    pub secret: Vec<u8>,
}

/// Why no challenge can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// Not an RSA or elliptic-curve key that decrypts for its TPM alone.
    #[error("not an endorsement key")]
    NotAnEk,
    /// The key's numbers are no key.
    #[error("the endorsement key is not a key")]
    Key,
    /// The secret is longer than the name's hash.
    #[error("a secret of {0} bytes is too long")]
    Secret(usize),
}

/// Encrypts a secret for the TPM of this endorsement key and the key of this name.
///
/// # Errors
/// [`CredentialError`].
pub fn make_credential(
    ek: &Public,
    name: &Name,
    secret: &[u8],
) -> Result<Challenge, CredentialError> {
    let needed = [
        Attribute::FixedTpm,
        Attribute::FixedParent,
        Attribute::Restricted,
        Attribute::Decrypt,
    ];
    let hash = ek.name_alg;
    if hash == Hash::Sha1 || !needed.into_iter().all(|bit| ek.attributes.has(bit)) {
        return Err(CredentialError::NotAnEk);
    }
    if secret.len() > hash.size() {
        return Err(CredentialError::Secret(secret.len()));
    }
    let (seed, encrypted, bits) = seed(ek)?;
    let key = kdfa(hash, &seed, "STORAGE", &name.0, usize::from(bits) / 8);
    let mut identity = Vec::new();
    put_sized(&mut identity, secret);
    let algorithm = if bits == 256 { &AES_256 } else { &AES_128 };
    let cipher = UnboundCipherKey::new(algorithm, &key).and_then(EncryptingKey::cfb128);
    let zeros = EncryptionContext::Iv128(FixedLength::from([0; 16]));
    // A key of its own for each secret: the vector need not be random.
    cipher
        .and_then(|cipher| cipher.less_safe_encrypt(&mut identity, zeros))
        .map_err(|_| CredentialError::Key)?;
    let key = kdfa(hash, &seed, "INTEGRITY", &[], hash.size());
    let mut outer = hmac::Context::with_key(&hmac::Key::new(hmac_of(hash), &key));
    outer.update(&identity);
    outer.update(&name.0);
    let mut id_object = Vec::new();
    put_sized(&mut id_object, outer.sign().as_ref());
    id_object.extend(identity);
    let sized = |bytes: &[u8]| {
        let mut out = Vec::new();
        put_sized(&mut out, bytes);
        out
    };
    Ok(Challenge {
        id_object: sized(&id_object),
        secret: sized(&encrypted),
    })
}

/// A fresh seed, the same encrypted for the key, and the bits of the key's symmetric algorithm.
fn seed(ek: &Public) -> Result<(Vec<u8>, Vec<u8>, u16), CredentialError> {
    let hash = ek.name_alg;
    match &ek.parameters {
        Parameters::Rsa {
            symmetric: Some(bits @ (128 | 256)),
            ..
        } => {
            let mut seed = vec![0; hash.size()];
            rand::fill(&mut seed).map_err(|_| CredentialError::Key)?;
            let oaep = match hash {
                Hash::Sha1 | Hash::Sha256 => &OAEP_SHA256_MGF1SHA256,
                Hash::Sha384 => &OAEP_SHA384_MGF1SHA384,
                Hash::Sha512 => &OAEP_SHA512_MGF1SHA512,
            };
            let key = ek.rsa().ok_or(CredentialError::NotAnEk)?;
            let key: PublicEncryptingKey = key.try_into().map_err(|_| CredentialError::Key)?;
            let key = OaepPublicEncryptingKey::new(key).map_err(|_| CredentialError::Key)?;
            let mut out = vec![0; key.ciphertext_size()];
            let encrypted = key
                .encrypt(oaep, &seed, &mut out, Some(b"IDENTITY\0"))
                .map_err(|_| CredentialError::Key)?;
            let encrypted = encrypted.to_vec();
            Ok((seed, encrypted, *bits))
        }
        Parameters::Ecc {
            symmetric: Some(bits @ (128 | 256)),
            curve,
            ..
        } => {
            let algorithm = match *curve {
                CURVE_P256 => &agreement::ECDH_P256,
                CURVE_P384 => &agreement::ECDH_P384,
                _ => return Err(CredentialError::NotAnEk),
            };
            let size = coordinate(*curve).ok_or(CredentialError::NotAnEk)?;
            let theirs = ek.point().ok_or(CredentialError::Key)?;
            let ours = EphemeralPrivateKey::generate(algorithm, &SystemRandom::new());
            let ours = ours.map_err(|_| CredentialError::Key)?;
            let point = ours
                .compute_public_key()
                .map_err(|_| CredentialError::Key)?;
            let x_of = |point: &[u8]| point.get(1..=size).map(<[u8]>::to_vec);
            let (us, them) = (x_of(point.as_ref()), x_of(&theirs));
            let (us, them) = us.zip(them).ok_or(CredentialError::Key)?;
            let peer = agreement::UnparsedPublicKey::new(algorithm, &theirs);
            let seed = agreement::agree_ephemeral(ours, peer, CredentialError::Key, |z| {
                Ok(kdfe(hash, z, &us, &them))
            })?;
            let mut encrypted = Vec::new();
            put_sized(&mut encrypted, &us);
            put_sized(&mut encrypted, &point.as_ref()[1 + size..]);
            Ok((seed, encrypted, *bits))
        }
        _ => Err(CredentialError::NotAnEk),
    }
}

fn hmac_of(hash: Hash) -> hmac::Algorithm {
    match hash {
        Hash::Sha1 | Hash::Sha256 => hmac::HMAC_SHA256,
        Hash::Sha384 => hmac::HMAC_SHA384,
        Hash::Sha512 => hmac::HMAC_SHA512,
    }
}

/// KDFa (Part 1, 11.4.10.2), for keys that are no longer than the hash.
fn kdfa(hash: Hash, key: &[u8], label: &str, context: &[u8], size: usize) -> Vec<u8> {
    let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac_of(hash), key));
    mac.update(&1_u32.to_be_bytes());
    mac.update(label.as_bytes());
    mac.update(&[0]);
    mac.update(context);
    mac.update(&(size as u32 * 8).to_be_bytes());
    let mut out = mac.sign().as_ref().to_vec();
    out.truncate(size);
    out
}

/// KDFe (Part 1, 11.4.10.3) for a seed as long as the hash.
fn kdfe(hash: Hash, z: &[u8], us: &[u8], them: &[u8]) -> Vec<u8> {
    hash.digest(&[&1_u32.to_be_bytes(), z, b"IDENTITY\0", us, them])
}
