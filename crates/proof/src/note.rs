//! C2SP signed notes: text, signatures, verifier keys.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ED25519, ParsedPublicKey, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::rotation::reenrolment_message;
use crate::sha256;

/// The most bytes of a note; room for 16 signatures of ML-DSA-87, the largest of its kind.
pub(crate) const NOTE_BYTES_MAX: usize = 128 * 1024;
/// The most signature lines that are looked at.
pub(crate) const SIGNATURES_MAX: usize = 64;

/// Signature type of a plain Ed25519 signature (C2SP signed-note).
pub(crate) const ALG_ED25519: u8 = 0x01;
/// Signature type of ECDSA over SHA-256 (C2SP signed-note, as transparency-dev/formats does it).
pub(crate) const ALG_ECDSA: u8 = 0x02;
/// Signature type of a timestamped Ed25519 cosignature (C2SP tlog-cosignature).
pub(crate) const ALG_COSIGNATURE: u8 = 0x04;

/// Why bytes are not a note, or not one signed by a known key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoteError {
    /// Not a signed note at all.
    #[error("not a signed note: {0}")]
    Malformed(&'static str),
    /// A signature by a known key does not verify: the note is to be refused.
    #[error("the signature of the known key {0} does not verify")]
    BadSignature(String),
    /// A verifier key that cannot be used.
    #[error("not a usable verifier key: {0}")]
    Key(&'static str),
}

/// One signature line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The name of the key.
    pub name: String,
    /// The first four bytes of the key's digest.
    pub key_id: [u8; 4],
    /// The signature itself.
    pub bytes: Vec<u8>,
}

impl Signature {
    /// The signature as the line that stands in a note, with its line end.
    pub fn line(&self) -> String {
        let mut blob = self.key_id.to_vec();
        blob.extend_from_slice(&self.bytes);
        format!("\u{2014} {} {}\n", self.name, BASE64.encode(blob))
    }
}

/// A signed note: the text that is signed, and the signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The signed text, with its last line end.
    pub text: String,
    /// The signatures, in order.
    pub signatures: Vec<Signature>,
}

impl Note {
    /// Reads a note. Signatures of unknown types and keys are kept and mean nothing.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        if bytes.len() > NOTE_BYTES_MAX {
            return Err(NoteError::Malformed("too long"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| NoteError::Malformed("not UTF-8"))?;
        if text.chars().any(|c| c < ' ' && c != '\n') {
            return Err(NoteError::Malformed("a control character"));
        }
        let split = text
            .rfind("\n\n")
            .ok_or(NoteError::Malformed("no blank line before the signatures"))?;
        let (body, lines) = (&text[..=split], &text[split + 2..]);
        if !lines.ends_with('\n') || body.len() < 2 {
            return Err(NoteError::Malformed(
                "no text, or no line end after the last signature",
            ));
        }
        let mut signatures = Vec::new();
        for line in lines.lines() {
            if signatures.len() == SIGNATURES_MAX {
                return Err(NoteError::Malformed("too many signatures"));
            }
            signatures.push(parse_signature(line).ok_or(NoteError::Malformed("a signature line"))?);
        }
        Ok(Self {
            text: body.to_owned(),
            signatures,
        })
    }

    /// The note as it stands on the wire.
    pub fn encode(&self) -> String {
        let mut out = format!("{}\n", self.text);
        self.signatures
            .iter()
            .for_each(|signature| out.push_str(&signature.line()));
        out
    }

    /// Whether this key signed the text.
    ///
    /// # Errors
    /// [`NoteError::BadSignature`] when a line bears the key's name and id and does not verify.
    pub fn is_signed_by(&self, key: &VerifierKey) -> Result<bool, NoteError> {
        let mut found = false;
        for signature in self
            .signatures
            .iter()
            .filter(|signature| key.made(signature))
        {
            if !key.verify(self.text.as_bytes(), &signature.bytes) {
                return Err(NoteError::BadSignature(key.name.clone()));
            }
            found = true;
        }
        Ok(found)
    }
}

fn parse_signature(line: &str) -> Option<Signature> {
    let (name, blob) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
    let blob = BASE64.decode(blob).ok()?;
    let (key_id, bytes) = blob.split_first_chunk::<4>()?;
    if !is_name(name) || bytes.is_empty() {
        return None;
    }
    Some(Signature {
        name: name.to_owned(),
        key_id: *key_id,
        bytes: bytes.to_vec(),
    })
}

/// What a key may be called: not empty, without plus sign and Unicode spaces.
fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains('+') && !name.contains(char::is_whitespace)
}

/// A public key that notes can be verified with. Only the one canonical form of each can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublicKey {
    /// An Ed25519 point: canonical, not of small order.
    Ed25519([u8; 32]),
    /// A P-256 point on the curve: 0x04, x, y.
    P256([u8; 65]),
}

/// All that stands before the point in the SubjectPublicKeyInfo of an uncompressed P-256 key.
const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// The same for Ed25519 (RFC 8410).
const ED25519_SPKI: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

impl PublicKey {
    fn ed25519(key: [u8; 32]) -> Result<Self, NoteError> {
        if is_canonical_ed25519(&key) {
            Ok(Self::Ed25519(key))
        } else {
            Err(NoteError::Key("not canonical, or of small order"))
        }
    }

    fn p256(point: [u8; 65]) -> Result<Self, NoteError> {
        if point[0] != 0x04 || ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).is_err() {
            return Err(NoteError::Key("not an uncompressed point of P-256"));
        }
        Ok(Self::P256(point))
    }

    /// The point as it is encoded: 32 or 65 bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Ed25519(key) => key,
            Self::P256(point) => point,
        }
    }

    /// The key as DER (SubjectPublicKeyInfo), which other tools read.
    pub fn spki(&self) -> Vec<u8> {
        let head: &[u8] = match self {
            Self::Ed25519(_) => &ED25519_SPKI,
            Self::P256(_) => &P256_SPKI,
        };
        [head, self.bytes()].concat()
    }

    /// Verifies one signature. aws-lc-rs decides, one signature at a time, never a batch.
    fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &'static dyn VerificationAlgorithm = match self {
            Self::Ed25519(_) => &ED25519,
            Self::P256(_) => &ECDSA_P256_SHA256_ASN1,
        };
        UnparsedPublicKey::new(algorithm, self.bytes())
            .verify(message, signature)
            .is_ok()
    }
}

/// A public key with its name: `<name>+<hex key id>+<base64 of type and key>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    /// The name, for a log its origin.
    pub name: String,
    /// The signature type: 0x01, 0x02 or 0x04.
    pub alg: u8,
    /// The public key, of the kind that belongs to the type.
    pub key: PublicKey,
}

impl VerifierKey {
    /// A plain Ed25519 key.
    ///
    /// # Errors
    /// [`NoteError::Key`] when the name cannot stand in a note, or the point is not canonical or
    /// of small order.
    pub fn ed25519(name: &str, key: [u8; 32]) -> Result<Self, NoteError> {
        Self::new(name, ALG_ED25519, PublicKey::ed25519(key)?)
    }

    /// A key that makes timestamped cosignatures.
    ///
    /// # Errors
    /// As [`VerifierKey::ed25519`].
    pub fn cosigner(name: &str, key: [u8; 32]) -> Result<Self, NoteError> {
        Self::new(name, ALG_COSIGNATURE, PublicKey::ed25519(key)?)
    }

    /// A P-256 key, given as its uncompressed point.
    ///
    /// # Errors
    /// [`NoteError::Key`] when the name cannot stand in a note, or the point is compressed or not
    /// on the curve.
    pub fn p256(name: &str, point: [u8; 65]) -> Result<Self, NoteError> {
        Self::new(name, ALG_ECDSA, PublicKey::p256(point)?)
    }

    fn new(name: &str, alg: u8, key: PublicKey) -> Result<Self, NoteError> {
        if !is_name(name) || name.len() > 512 {
            return Err(NoteError::Key(
                "the name is empty, too long, or has a space or plus sign",
            ));
        }
        Ok(Self {
            name: name.to_owned(),
            alg,
            key,
        })
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// [`NoteError::Key`] when it is not one, its id does not belong to the key, or the type is
    /// none of Ed25519, ECDSA and the timestamped Ed25519 cosignature.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(id), Some(blob)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::Key("not of the form name+id+key"));
        };
        let blob = BASE64
            .decode(blob)
            .map_err(|_| NoteError::Key("the key is not base64"))?;
        let Some((&alg, key)) = blob.split_first() else {
            return Err(NoteError::Key("empty"));
        };
        let public = match alg {
            ALG_ED25519 | ALG_COSIGNATURE => {
                let key = key.try_into();
                PublicKey::ed25519(key.map_err(|_| NoteError::Key("an Ed25519 key has 32 bytes"))?)?
            }
            ALG_ECDSA => {
                let point = key.strip_prefix(P256_SPKI.as_slice());
                let point = point.and_then(|point| point.try_into().ok());
                PublicKey::p256(point.ok_or(NoteError::Key("not the SPKI of a P-256 key"))?)?
            }
            _ => return Err(NoteError::Key("the key is of an unknown type")),
        };
        let key = Self::new(name, alg, public)?;
        if id != hex4(key.id()) {
            return Err(NoteError::Key("the id does not belong to the key"));
        }
        Ok(key)
    }

    /// The key as it stands in the text form, behind its type.
    fn encoded(&self) -> Vec<u8> {
        match &self.key {
            PublicKey::Ed25519(key) => key.to_vec(),
            PublicKey::P256(_) => self.key.spki(),
        }
    }

    /// The key id: the first four bytes of `SHA-256(name || LF || type || key)`; for ECDSA of
    /// `SHA-256(SPKI)`, without name and type.
    pub fn id(&self) -> [u8; 4] {
        let key = self.encoded();
        let digest = match self.alg {
            ALG_ECDSA => sha256(&[&key]),
            alg => sha256(&[self.name.as_bytes(), b"\n", &[alg], &key]),
        };
        [digest.0[0], digest.0[1], digest.0[2], digest.0[3]]
    }

    /// Whether a line bears this key's name and id.
    pub fn made(&self, signature: &Signature) -> bool {
        signature.name == self.name && signature.key_id == self.id()
    }

    /// Verifies a plain signature over a note's text.
    pub(crate) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        self.alg != ALG_COSIGNATURE && self.verify_raw(message, signature)
    }

    pub(crate) fn verify_raw(&self, message: &[u8], signature: &[u8]) -> bool {
        self.key.verify(message, signature)
    }
}

impl std::fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let blob = [&[self.alg], self.encoded().as_slice()].concat();
        write!(
            f,
            "{}+{}+{}",
            self.name,
            hex4(self.id()),
            BASE64.encode(blob)
        )
    }
}

fn hex4(id: [u8; 4]) -> String {
    format!("{:08x}", u32::from_be_bytes(id))
}

/// Whether these 32 bytes are the one canonical form of an Ed25519 point that is not of small order.
///
/// Libraries disagree on other encodings; refusing them keeps two verifiers from disagreeing.
fn is_canonical_ed25519(key: &[u8; 32]) -> bool {
    let mut y = *key;
    let sign = y[31] >> 7;
    y[31] &= 0x7f;
    // p = 2^255 - 19, little-endian: ed ff .. ff 7f. Canonical means y < p.
    let below_p = y[31] != 0x7f || y[1..31].iter().any(|byte| *byte != 0xff) || y[0] < 0xed;
    // The y coordinates of the eight points of small order: 0, 1, -1 and the two of order 8.
    let small = SMALL_ORDER_Y.contains(&y);
    // x = 0 has no negative form.
    below_p && !small && !(sign == 1 && (y == SMALL_ORDER_Y[1] || y == SMALL_ORDER_Y[2]))
}

const SMALL_ORDER_Y: [[u8; 32]; 5] = [
    [0; 32],
    {
        let mut one = [0; 32];
        one[0] = 1;
        one
    },
    {
        let mut minus_one = [0xff; 32];
        minus_one[0] = 0xec;
        minus_one[31] = 0x7f;
        minus_one
    },
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
        0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
        0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67,
        0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac,
        0x03, 0x7a,
    ],
];

/// Why a signer could not sign.
#[derive(Debug, thiserror::Error)]
#[error("the signing key {key} could not sign: {reason}")]
pub struct SignerError {
    /// The name of the key.
    pub key: String,
    /// What it said.
    pub reason: String,
}

/// Something that signs for one key.
pub trait Signer: Send + Sync {
    /// The public half.
    fn verifier_key(&self) -> &VerifierKey;
    /// Signs these bytes.
    ///
    /// # Errors
    /// [`SignerError`] when the key cannot be used now; nothing was signed.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignerError>;

    /// Whether that may take longer than a moment: then nothing should wait for it.
    fn is_slow(&self) -> bool {
        false
    }

    /// A log key's consent to a public key that opens the log's next epoch (`docs/formats/upload.md`).
    ///
    /// # Errors
    /// As [`Signer::sign`].
    fn consent_to(&self, next: &[u8]) -> Result<String, SignerError> {
        let message = reenrolment_message(&self.verifier_key().name, next);
        Ok(BASE64.encode(self.sign(message.as_bytes())?))
    }

    /// Signs a note's text and returns the signature line.
    ///
    /// # Errors
    /// As [`Signer::sign`].
    fn sign_note(&self, text: &str) -> Result<Signature, SignerError> {
        let key = self.verifier_key();
        Ok(Signature {
            name: key.name.clone(),
            key_id: key.id(),
            bytes: self.sign(text.as_bytes())?,
        })
    }
}
