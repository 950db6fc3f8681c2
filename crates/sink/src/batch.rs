//! Cutting a ledger into uploads.

use jurat_ledger::{LedgerError, Reader};
use jurat_proof::{Checkpoint, Note, Record, write_record};

/// The most raw bytes of one upload, checkpoint included.
pub const UPLOAD_BYTES_MAX: usize = 8 * 1024 * 1024;
/// An upload is compressed in independent frames of this many raw bytes.
const FRAME_BYTES: usize = 256 * 1024;
const LEVEL: i32 = 1;

const ENTRY: u8 = 1;
const PAYLOAD: u8 = 2;
const CHECKPOINT: u8 = 3;

/// An upload: whole seals, from one size to another.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The size before it.
    pub from: u64,
    /// The size of its last checkpoint.
    pub to: u64,
    /// Where the ledger goes on after it.
    pub next: u64,
    /// Records, compressed.
    pub body: Vec<u8>,
    /// How many bytes they have uncompressed.
    pub raw_len: usize,
}

/// Why no upload could be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The ledger could not be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// One seal alone is larger than an upload may be: a bug of the sealer.
    #[error("the seal after size {from} has more than {UPLOAD_BYTES_MAX} bytes")]
    TooLarge {
        /// The size before it.
        from: u64,
    },
    /// A stored checkpoint cannot be read.
    #[error("a stored checkpoint cannot be read")]
    Checkpoint,
    /// The records could not be compressed.
    #[error("compressing an upload")]
    Compress(#[source] std::io::Error),
}

/// Reads the next upload; `None` when no sealed checkpoint lies ahead.
///
/// # Errors
/// [`BatchError`].
pub fn read_batch(reader: &mut Reader, from: u64) -> Result<Option<Batch>, BatchError> {
    let mut raw = Vec::new();
    // Up to the last whole seal: bytes, size, position.
    let mut whole: Option<(usize, u64, u64)> = None;
    while let Some(item) = reader.next_record()? {
        let before = raw.len();
        match item.kind {
            ENTRY => write_record(&mut raw, &Record::Entry(item.body)),
            PAYLOAD if item.erased => {}
            PAYLOAD => {
                let (salt, bytes) = item
                    .body
                    .split_first_chunk::<32>()
                    .ok_or(BatchError::Checkpoint)?;
                write_record(&mut raw, &Record::Payload { salt, bytes });
            }
            CHECKPOINT => {
                write_record(&mut raw, &Record::Checkpoint(item.body));
                let note = Note::parse(item.body).map_err(|_| BatchError::Checkpoint)?;
                let checkpoint =
                    Checkpoint::parse(&note.text).map_err(|_| BatchError::Checkpoint)?;
                if raw.len() <= UPLOAD_BYTES_MAX && checkpoint.size > from {
                    whole = Some((raw.len(), checkpoint.size, item.next));
                }
            }
            _ => {}
        }
        if raw.len() > UPLOAD_BYTES_MAX {
            if whole.is_none() {
                return Err(BatchError::TooLarge { from });
            }
            raw.truncate(before);
            break;
        }
    }
    let Some((len, to, next)) = whole else {
        return Ok(None);
    };
    raw.truncate(len);
    let mut body = Vec::with_capacity(len / 3);
    for frame in raw.chunks(FRAME_BYTES) {
        body.extend_from_slice(&zstd::bulk::compress(frame, LEVEL).map_err(BatchError::Compress)?);
    }
    Ok(Some(Batch {
        from,
        to,
        next,
        body,
        raw_len: len,
    }))
}
