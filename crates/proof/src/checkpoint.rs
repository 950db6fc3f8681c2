//! C2SP checkpoints and timestamped cosignatures.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::note::ALG_COSIGNATURE;
use crate::text::{decimal, hash_line};
use crate::{Digest, Note, NoteError, Signature, Signer, SignerError, VerifierKey};

/// The first size that no checkpoint may have.
const SIZE_END: u64 = 1 << 63;

/// A tree head: origin, size, root. Extension lines are never written, and accepted only from the logs
/// of others ([`Checkpoint::parse_foreign`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name.
    pub origin: String,
    /// The number of leaves.
    pub size: u64,
    /// The root over them.
    pub root: Digest,
}

impl Checkpoint {
    /// The signed text: three lines.
    pub fn body(&self) -> String {
        format!(
            "{}\n{}\n{}\n",
            self.origin,
            self.size,
            BASE64.encode(self.root.0)
        )
    }

    /// Reads a note's text.
    ///
    /// # Errors
    /// [`NoteError::Malformed`] names what is wrong.
    pub fn parse(body: &str) -> Result<Self, NoteError> {
        let mut lines = body.split('\n');
        let (Some(origin), Some(size), Some(root), Some(""), None) = (
            lines.next(),
            lines.next(),
            lines.next(),
            lines.next(),
            lines.next(),
        ) else {
            return Err(NoteError::Malformed("a checkpoint has exactly three lines"));
        };
        if origin.is_empty() {
            return Err(NoteError::Malformed("origin"));
        }
        // No log has as many leaves, and sums of sizes stay numbers.
        let size = decimal(size).filter(|size| *size < SIZE_END);
        let size = size.ok_or(NoteError::Malformed("size"))?;
        let root = hash_line(root).map_err(NoteError::Malformed)?;
        Ok(Self {
            origin: origin.to_owned(),
            size,
            root,
        })
    }

    /// Reads the text of a note of any log: extension lines may follow, and mean nothing here.
    ///
    /// # Errors
    /// As [`Checkpoint::parse`].
    pub fn parse_foreign(text: &str) -> Result<Self, NoteError> {
        let mut ends = text.match_indices('\n').map(|(at, _)| at + 1);
        let (head, extensions) = text.split_at(ends.nth(2).unwrap_or(text.len()));
        //= C2SP tlog-checkpoint: extension lines are non-empty
        if extensions.starts_with('\n') || extensions.contains("\n\n") {
            return Err(NoteError::Malformed("an empty extension line"));
        }
        if !text.ends_with('\n') {
            return Err(NoteError::Malformed("a line without its end"));
        }
        Self::parse(head)
    }

    /// Signs the checkpoint.
    ///
    /// # Errors
    /// [`SignerError`] when the key cannot sign now.
    pub fn sign(&self, signer: &dyn Signer) -> Result<Note, SignerError> {
        let text = self.body();
        let signature = signer.sign_note(&text)?;
        Ok(Note {
            text,
            signatures: vec![signature],
        })
    }
}

/// What a cosigner signs. `//= C2SP tlog-cosignature: cosignature/v1, time, note body`
pub fn cosignature_message(time_s: u64, body: &str) -> String {
    format!("cosignature/v1\ntime {time_s}\n{body}")
}

/// A cosignature with its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cosignature {
    /// When the cosigner saw the checkpoint, in seconds since 1970.
    pub time_s: u64,
}

impl Cosignature {
    /// Cosigns a checkpoint body at this time.
    ///
    /// # Errors
    /// [`SignerError`] when the key cannot sign now.
    pub fn sign(signer: &dyn Signer, time_s: u64, body: &str) -> Result<Signature, SignerError> {
        let key = signer.verifier_key();
        let mut bytes = time_s.to_be_bytes().to_vec();
        bytes.extend_from_slice(&signer.sign(cosignature_message(time_s, body).as_bytes())?);
        Ok(Signature {
            name: key.name.clone(),
            key_id: key.id(),
            bytes,
        })
    }

    /// The newest cosignature by this key; `None` when it made none.
    ///
    /// # Errors
    /// [`NoteError::BadSignature`] when a line bears the key's name and id and does not verify.
    pub fn find(note: &Note, key: &VerifierKey) -> Result<Option<Self>, NoteError> {
        let mut newest: Option<u64> = None;
        for signature in note
            .signatures
            .iter()
            .filter(|signature| key.made(signature))
        {
            let bad = || NoteError::BadSignature(key.name.clone());
            if key.alg != ALG_COSIGNATURE {
                return Err(bad());
            }
            let (time, bytes) = signature.bytes.split_first_chunk::<8>().ok_or_else(bad)?;
            let time_s = u64::from_be_bytes(*time);
            //= C2SP tlog-cosignature: a time is at most 2^63 - 1
            if i64::try_from(time_s).is_err()
                || !key.verify_raw(cosignature_message(time_s, &note.text).as_bytes(), bytes)
            {
                return Err(bad());
            }
            newest = newest.max(Some(time_s));
        }
        Ok(newest.map(|time_s| Self { time_s }))
    }
}
