//! Evidence records: the one framing that ledgers' readers, uploads, archives and bundles share.
//!
//! `type u8 | length u32 little-endian | body`. See `docs/formats/records.md`.

/// The longest record body: a payload of 1 MiB with its salt, and room.
pub(crate) const RECORD_BYTES_MAX: usize = 1024 * 1024 + 4096;

/// A piece of evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// An entry: one compact JSON line.
    Entry(&'a [u8]),
    /// The payload of the entry just before.
    Payload {
        /// Its salt.
        salt: &'a [u8; 32],
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// A checkpoint over all entries so far, as a signed note, with whatever cosignatures it has.
    Checkpoint(&'a [u8]),
    /// Leaves whose entries are not here: only their hashes, so that the root stays computable.
    Leaves {
        /// The place of the first one.
        from: u64,
        /// Their leaf hashes; never empty.
        hashes: &'a [[u8; 32]],
    },
}

/// The most leaf hashes of one [`Record::Leaves`].
pub const LEAVES_MAX: usize = 32_768;

const ENTRY: u8 = 1;
const PAYLOAD: u8 = 2;
const CHECKPOINT: u8 = 3;
const LEAVES: u8 = 4;

/// Why bytes are not records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// A record of a type this program does not know.
    #[error("a record of unknown type {kind} at byte {at}")]
    Unknown {
        /// The type.
        kind: u8,
        /// Where it stands.
        at: usize,
    },
    /// A record longer than one may be.
    #[error("a record of {len} bytes at byte {at}, the limit is {RECORD_BYTES_MAX}")]
    TooLong {
        /// Its length.
        len: usize,
        /// Where it stands.
        at: usize,
    },
    /// The bytes end inside a record.
    #[error("the bytes end inside a record at byte {at}")]
    Cut {
        /// Where the record begins.
        at: usize,
    },
    /// Leaf hashes that are none, or not a sequence of digests.
    #[error("a record of leaf hashes at byte {at} that is not one")]
    Leaves {
        /// Where the record begins.
        at: usize,
    },
}

/// Appends a record.
pub fn write_record(out: &mut Vec<u8>, record: &Record<'_>) {
    let place;
    let (kind, first, second): (u8, &[u8], &[u8]) = match record {
        Record::Entry(bytes) => (ENTRY, bytes, &[]),
        Record::Payload { salt, bytes } => (PAYLOAD, &salt[..], bytes),
        Record::Checkpoint(bytes) => (CHECKPOINT, bytes, &[]),
        Record::Leaves { from, hashes } => {
            place = from.to_le_bytes();
            (LEAVES, &place, hashes.as_flattened())
        }
    };
    out.push(kind);
    out.extend_from_slice(
        &u32::try_from(first.len() + second.len())
            .unwrap_or(u32::MAX)
            .to_le_bytes(),
    );
    out.extend_from_slice(first);
    out.extend_from_slice(second);
}

/// The body of a record of leaf hashes, as ledgers hold it, too.
pub fn parse_leaves(body: &[u8]) -> Option<Record<'_>> {
    let (from, rest) = body.split_first_chunk::<8>()?;
    let (hashes, rest) = rest.as_chunks::<32>();
    let good = rest.is_empty() && !hashes.is_empty() && hashes.len() <= LEAVES_MAX;
    good.then_some(Record::Leaves {
        from: u64::from_le_bytes(*from),
        hashes,
    })
}

/// Reads records one after the other.
#[derive(Clone, Debug)]
pub struct RecordReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> RecordReader<'a> {
    /// A reader over these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// How many bytes were read as whole records.
    pub fn position(&self) -> usize {
        self.at
    }

    fn read(&mut self) -> Result<Record<'a>, RecordError> {
        let at = self.at;
        let cut = RecordError::Cut { at };
        let rest = self.bytes.get(at..).ok_or(cut)?;
        let (&[kind, a, b, c, d], rest) = rest.split_first_chunk::<5>().ok_or(cut)?;
        let len = u32::from_le_bytes([a, b, c, d]) as usize;
        if len > RECORD_BYTES_MAX {
            return Err(RecordError::TooLong { len, at });
        }
        let body = rest.get(..len).ok_or(cut)?;
        let record = match kind {
            ENTRY => Record::Entry(body),
            PAYLOAD => {
                let (salt, bytes) = body.split_first_chunk::<32>().ok_or(cut)?;
                Record::Payload { salt, bytes }
            }
            CHECKPOINT => Record::Checkpoint(body),
            LEAVES => parse_leaves(body).ok_or(RecordError::Leaves { at })?,
            _ => return Err(RecordError::Unknown { kind, at }),
        };
        self.at = at + 5 + len;
        Ok(record)
    }
}

impl<'a> Iterator for RecordReader<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let read = self.read();
        if read.is_err() {
            self.bytes = &[];
        }
        Some(read)
    }
}
