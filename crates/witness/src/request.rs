//! The body of `add-checkpoint`, and its answers.

use jurat_proof::{Checkpoint, Digest, Note, NoteError, decimal, read_proof, write_proof};

/// The most bytes of a request: 63 hashes, and a note with 16 signatures of ML-DSA-44 size.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// The most hashes of a proof. `//= C2SP tlog-witness: not more than 63 consistency proof lines`
pub const PROOF_LINES_MAX: usize = 63;

/// A checkpoint that is submitted to a witness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The size that the client believes the witness to have cosigned last.
    pub old: u64,
    /// From there to the checkpoint.
    pub proof: Vec<Digest>,
    /// The checkpoint with its signatures.
    pub note: Note,
    /// What the note says.
    pub head: Checkpoint,
}

/// Why a body is no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The lines before the checkpoint.
    #[error("malformed: {0}")]
    Lines(&'static str),
    /// The checkpoint.
    #[error("malformed checkpoint: {0}")]
    Note(#[from] NoteError),
}

impl Request {
    /// Reads a body.
    ///
    /// # Errors
    /// [`RequestError`] names what is wrong.
    pub fn parse(body: &[u8]) -> Result<Self, RequestError> {
        if body.len() > REQUEST_BYTES_MAX {
            return Err(RequestError::Lines("too long"));
        }
        let text = std::str::from_utf8(body).map_err(|_| RequestError::Lines("not UTF-8"))?;
        let (lines, note) = text
            .split_once("\n\n")
            .ok_or(RequestError::Lines("no empty line before the checkpoint"))?;
        let mut lines = lines.split('\n');
        let old = lines.next().and_then(|line| line.strip_prefix("old "));
        let old = old.ok_or(RequestError::Lines("the first line is `old SIZE`"))?;
        let old = decimal(old).ok_or(RequestError::Lines("the old size"))?;
        let proof = read_proof(lines, PROOF_LINES_MAX).map_err(RequestError::Lines)?;
        let note = Note::parse(note.as_bytes())?;
        let head = Checkpoint::parse_foreign(&note.text)?;
        Ok(Self {
            old,
            proof,
            note,
            head,
        })
    }

    /// The body of a request.
    pub fn encode(old: u64, proof: &[Digest], note: &Note) -> String {
        format!("old {old}\n{}\n{}", write_proof(proof), note.encode())
    }
}

/// What a witness says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 200: these signature lines.
    Cosigned(String),
    /// 400: not a request, or an old size above the checkpoint's.
    Malformed(String),
    /// 404: nobody told this witness of this log.
    Unknown,
    /// 403: no known key of this log signed, or a signature of one does not verify.
    Unsigned(String),
    /// 409: this is the size that was cosigned last.
    Size(u64),
    /// 409 without a size: the log contradicts itself. A client that tries again finds the same.
    Forked,
    /// 422: the consistency proof does not hold.
    Unproven(String),
    /// 503: too much is under way, or nothing can be made durable now.
    Unavailable,
}

impl Answer {
    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Self::Cosigned(_) => 200,
            Self::Malformed(_) => 400,
            Self::Unsigned(_) => 403,
            Self::Unknown => 404,
            Self::Size(_) | Self::Forked => 409,
            Self::Unproven(_) => 422,
            Self::Unavailable => 503,
        }
    }

    /// The content type.
    pub fn content_type(&self) -> &'static str {
        match self {
            Self::Size(_) => SIZE_TYPE,
            _ => "text/plain; charset=utf-8",
        }
    }

    /// The body.
    pub fn body(&self) -> String {
        match self {
            Self::Cosigned(lines) => lines.clone(),
            Self::Size(size) => format!("{size}\n"),
            Self::Malformed(what) | Self::Unsigned(what) | Self::Unproven(what) => {
                format!("{what}\n")
            }
            Self::Unknown => "this witness was not told of a log of this origin\n".into(),
            Self::Forked => "this log contradicts itself and is not cosigned any more; the proof is at /<SHA-256 of the origin>/fork-proof\n".into(),
            Self::Unavailable => "too much is under way, or nothing can be made durable now\n".into(),
        }
    }
}

/// The content type of a size. `//= C2SP tlog-witness: text/x.tlog.size`
pub(crate) const SIZE_TYPE: &str = "text/x.tlog.size";
