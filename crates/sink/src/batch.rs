//! Cutting a ledger into uploads.

use std::io::Read as _;

use jurat_event::{Kind, Ranges};
use jurat_ledger::{LedgerError, Reader};
use jurat_proof::{
    Checkpoint, EntryView, LEAVES_MAX, Note, Record, RecordReader, leaf_hash, parse_leaves,
    write_record,
};

/// The most raw bytes of one upload, checkpoint included.
pub const UPLOAD_BYTES_MAX: usize = 8 * 1024 * 1024;
/// An upload is compressed in independent frames of this many raw bytes.
const FRAME_BYTES: usize = 256 * 1024;
const LEVEL: i32 = 1;

// The endpoint's ledger kinds that are evidence (`jurat_seal::kind`).
const ENTRY: u8 = 1;
const PAYLOAD: u8 = 2;
const CHECKPOINT: u8 = 3;
const TO_SIGN: u8 = 4;
const LEAVES: u8 = 6;

/// How much goes into an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// As many seals as fit.
    Many,
    /// One seal: what is found wrong with it is not wrong with its neighbours.
    One,
    /// One seal, however large: to keep it, not to send it.
    Oversized,
    /// One seal, of which only the leaf hashes and the checkpoint are sent: the tree goes on.
    Hashes,
}

/// Whole seals, from one size to another, as records.
#[derive(Clone, Debug)]
pub struct Seals {
    /// The size before them.
    pub from: u64,
    /// The size of the last checkpoint.
    pub to: u64,
    /// Where the ledger goes on after them.
    pub next: u64,
    /// The records.
    pub raw: Vec<u8>,
    /// As in [`Batch`].
    pub leaves_withheld: u64,
    /// As in [`Batch`].
    pub payloads_missing: u64,
    /// As in [`Batch`].
    pub more: bool,
    /// As in [`Batch`].
    pub rotates: bool,
}

/// An upload: whole seals, compressed.
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
    /// Leaves of which it holds only the hash.
    pub leaves_withheld: u64,
    /// Payloads that were erased or pruned here.
    pub payloads_missing: u64,
    /// Whether another whole seal waits already.
    pub more: bool,
    /// Whether it names the next key of the log, which must not be set aside: no later head would be
    /// believed. Known only when it was taken alone.
    pub rotates: bool,
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
    /// A stored record cannot be read.
    #[error("a stored record cannot be read")]
    Record,
    /// The records could not be compressed.
    #[error("compressing an upload")]
    Compress(#[source] std::io::Error),
}

/// What an upload has so far.
#[derive(Clone, Copy, Default)]
struct Draft {
    len: usize,
    /// Leaf hashes that are not written yet.
    hashes: usize,
    withheld: u64,
    missing: u64,
}

/// Where a head stands, signed or not: its note may come behind later leaves.
struct Place {
    size: u64,
    draft: Draft,
    next: u64,
}

/// Reads the next upload; `None` when no sealed checkpoint lies ahead.
///
/// What stands before leaf `from` is passed over: a reader whose place was removed begins earlier.
///
/// # Errors
/// [`BatchError`].
pub fn read_batch(reader: &mut Reader, from: u64, take: Take) -> Result<Option<Batch>, BatchError> {
    let Some(seals) = read_seals(reader, from, take)? else {
        return Ok(None);
    };
    Ok(Some(Batch {
        from,
        to: seals.to,
        next: seals.next,
        body: compress(&seals.raw)?,
        raw_len: seals.raw.len(),
        leaves_withheld: seals.leaves_withheld,
        payloads_missing: seals.payloads_missing,
        more: seals.more,
        rotates: seals.rotates,
    }))
}

/// Likewise, as records: what a sink projects.
///
/// # Errors
/// [`BatchError`].
pub fn read_seals(reader: &mut Reader, from: u64, take: Take) -> Result<Option<Seals>, BatchError> {
    let mut draft = Draft::default();
    // Up to the last whole seal, the checkpoint's size and the place after it.
    let mut whole: Option<(Draft, u64, u64)> = None;
    let mut places: Vec<Place> = Vec::new();
    let mut raw = Vec::new();
    let mut hashes: Vec<[u8; 32]> = Vec::new();
    let mut behind = true;
    let mut full = false;
    let mut more = false;
    let mut rotates = false;
    let mut key_id: Option<[u8; 4]> = None;
    while let Some(item) = reader.next_record()? {
        if behind {
            let first = match item.kind {
                ENTRY => EntryView::parse(item.body).map_or(from, |view| view.seq),
                LEAVES => match parse_leaves(item.body) {
                    Some(Record::Leaves { from, .. }) => from,
                    _ => return Err(BatchError::Record),
                },
                _ => continue,
            };
            if first < from {
                continue;
            }
            behind = false;
        }
        if full && item.kind != CHECKPOINT {
            continue;
        }
        if item.kind == ENTRY && take != Take::Many {
            let view = EntryView::parse(item.body).ok();
            rotates |= view.is_some_and(|view| view.is(Kind::KeyRotated));
        }
        match item.kind {
            ENTRY if take == Take::Hashes => {
                draft.withheld += 1;
                hashes.push(leaf_hash(item.body).0);
            }
            ENTRY => write_record(&mut raw, &Record::Entry(item.body)),
            PAYLOAD if item.erased => draft.missing += 1,
            PAYLOAD if take == Take::Hashes => {}
            PAYLOAD => {
                let (salt, bytes) = item
                    .body
                    .split_first_chunk::<32>()
                    .ok_or(BatchError::Record)?;
                write_record(&mut raw, &Record::Payload { salt, bytes });
            }
            LEAVES => {
                let Some(Record::Leaves { from, hashes: here }) = parse_leaves(item.body) else {
                    return Err(BatchError::Record);
                };
                draft.withheld += here.len() as u64;
                if take == Take::Hashes {
                    hashes.extend_from_slice(here);
                } else {
                    write_record(&mut raw, &Record::Leaves { from, hashes: here });
                }
            }
            TO_SIGN => {
                let size = item.body.first_chunk::<8>().ok_or(BatchError::Record)?;
                (draft.len, draft.hashes) = (raw.len(), hashes.len());
                places.push(Place {
                    size: u64::from_le_bytes(*size),
                    draft,
                    next: item.next,
                });
            }
            CHECKPOINT => {
                let note = Note::parse(item.body).map_err(|_| BatchError::Record)?;
                let checkpoint = Checkpoint::parse(&note.text).map_err(|_| BatchError::Record)?;
                if checkpoint.size <= from {
                    continue;
                }
                let place = places.iter().position(|at| at.size == checkpoint.size);
                let Some(place) = place else {
                    // The head that was signed lies beyond what an upload holds.
                    if whole.is_none() {
                        return Err(BatchError::TooLarge { from });
                    }
                    more = true;
                    break;
                };
                // The last head of a key ends an upload: so it comes back cosigned.
                let signed_by = note.signatures.first().map(|signature| signature.key_id);
                if key_id.is_some() && signed_by != key_id {
                    more = true;
                    break;
                }
                key_id = signed_by;
                let Place {
                    draft: mut here,
                    mut next,
                    ..
                } = places.swap_remove(place);
                places.retain(|at| at.size > checkpoint.size);
                // What came while it was being signed goes behind it, and is read again from its place.
                let after = raw.split_off(here.len);
                if after.is_empty() && here.hashes == hashes.len() {
                    next = item.next;
                }
                let mut first = checkpoint.size.saturating_sub(here.hashes as u64);
                for hashes in hashes[..here.hashes].chunks(LEAVES_MAX) {
                    write_record(
                        &mut raw,
                        &Record::Leaves {
                            from: first,
                            hashes,
                        },
                    );
                    first += hashes.len() as u64;
                }
                hashes.drain(..here.hashes);
                write_record(&mut raw, &Record::Checkpoint(item.body));
                let grown = raw.len() - here.len;
                let gone = std::mem::take(&mut here.hashes);
                here.len = raw.len();
                for at in &mut places {
                    at.draft.len += grown;
                    at.draft.hashes -= gone;
                }
                raw.extend(after);
                if here.len <= UPLOAD_BYTES_MAX || take == Take::Oversized {
                    whole = Some((here, checkpoint.size, next));
                    if take != Take::Many {
                        more = true;
                        break;
                    }
                }
            }
            _ => {}
        }
        if raw.len() > UPLOAD_BYTES_MAX && take != Take::Oversized {
            if whole.is_some() {
                more = true;
                break;
            }
            // A note for what is held may still come.
            full = true;
        }
    }
    let Some((draft, to, next)) = whole else {
        return Ok(None);
    };
    raw.truncate(draft.len);
    Ok(Some(Seals {
        from,
        to,
        next,
        raw,
        leaves_withheld: draft.withheld,
        payloads_missing: draft.missing,
        more,
        rotates,
    }))
}

fn compress(raw: &[u8]) -> Result<Vec<u8>, BatchError> {
    let mut body = Vec::with_capacity(raw.len() / 3);
    for frame in raw.chunks(FRAME_BYTES) {
        body.extend_from_slice(&zstd::bulk::compress(frame, LEVEL).map_err(BatchError::Compress)?);
    }
    Ok(body)
}

/// An upload without some payloads.
#[derive(Clone, Debug)]
pub struct Thinned {
    /// Records, compressed.
    pub body: Vec<u8>,
    /// The leaves whose payload it held.
    pub gone: Ranges,
}

/// Writes an upload anew without the payloads of the leaves that `erased` names; `None` when it holds none
/// of them.
///
/// # Errors
/// [`BatchError::Record`] when it is not an upload, or one of more than [`THINNED_BYTES_MAX`].
pub fn without_payloads(
    body: &[u8],
    erased: &mut dyn FnMut(&EntryView<'_>) -> bool,
) -> Result<Option<Thinned>, BatchError> {
    let mut raw = Vec::new();
    let mut decoder = zstd::stream::read::Decoder::new(body).map_err(|_| BatchError::Record)?;
    decoder
        .window_log_max(WINDOW_LOG_MAX)
        .map_err(|_| BatchError::Record)?;
    let read = decoder.take(THINNED_BYTES_MAX + 1).read_to_end(&mut raw);
    if read.map_err(|_| BatchError::Record)? as u64 > THINNED_BYTES_MAX {
        return Err(BatchError::Record);
    }
    let mut kept = Vec::with_capacity(raw.len());
    let mut gone = Ranges::default();
    let mut leaf = None;
    for record in RecordReader::new(&raw) {
        let record = record.map_err(|_| BatchError::Record)?;
        match record {
            Record::Entry(entry) => {
                let view = EntryView::parse(entry).map_err(|_| BatchError::Record)?;
                leaf = erased(&view).then_some(view.seq);
            }
            Record::Payload { .. } => {
                if let Some(seq) = leaf {
                    gone.push((seq, seq + 1));
                    continue;
                }
            }
            Record::Leaves { .. } | Record::Checkpoint(_) => leaf = None,
        }
        write_record(&mut kept, &record);
    }
    if gone.is_empty() {
        return Ok(None);
    }
    let body = compress(&kept)?;
    Ok(Some(Thinned { body, gone }))
}

/// The longest upload that is written anew, uncompressed: one that was set aside may hold more than is sent.
pub const THINNED_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// A frame's window may not need more memory than this many bits say: 8 MiB.
const WINDOW_LOG_MAX: u32 = 23;
