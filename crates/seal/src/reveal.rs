//! Revealing from the local ledger: the payload as it stands there, the original as it still stands in its
//! file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::hmac;
use jurat_disk::Disk;
use jurat_ledger::{LedgerError, Reader};
use jurat_proof::{EntryError, EntryView, Reveal, RevealError, Revealed};
use serde::Deserialize;

use crate::kind;
use crate::sealer::raw_salt;

/// Why nothing can be revealed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RevealFailed {
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The leaf is not in this ledger.
    #[error(
        "leaf {0} is not in this ledger: it was pruned, removed after it was archived, or never was"
    )]
    Leaf(u64),
    /// The ledger holds an entry that cannot be read.
    #[error("leaf {seq} of the local ledger cannot be read")]
    Entry {
        /// Its place.
        seq: u64,
        /// What is wrong.
        #[source]
        source: EntryError,
    },
    /// The payload is gone.
    #[error("the payload of leaf {0} is not here any more: it was erased or pruned")]
    Gone(u64),
    /// The leaf does not say where its original stood.
    #[error("leaf {0} does not say where its original stood")]
    Nowhere(u64),
    /// The original cannot be read.
    #[error("{path}: reading the original")]
    Original {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file holds something else now.
    #[error(
        "{path}: what stands at byte {offset} now is not what was sealed: the file was changed"
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// Where the record stood.
        offset: u64,
    },
    /// The leaf has no such commitment, or the ledger holds another payload.
    #[error(transparent)]
    Reveal(#[from] RevealError),
}

/// Reveals what a leaf of this ledger commits to. `original` reads bytes of a file: path, offset, length.
/// Checked against the leaf before it is given.
///
/// # Errors
/// [`RevealFailed`].
pub fn reveal(
    disk: Arc<dyn Disk>,
    dir: &Path,
    (origin, reveal_key): (&str, &[u8; 32]),
    (seq, of): (u64, Revealed),
    original: &mut dyn FnMut(&Path, u64, u64) -> std::io::Result<Vec<u8>>,
) -> Result<Reveal, RevealFailed> {
    let mut reader = Reader::open(disk, dir, 0)?;
    let mut entry: Option<Vec<u8>> = None;
    let mut payload = None;
    while let Some(item) = reader.next_record()? {
        match item.kind {
            kind::ENTRY if entry.is_some() => break,
            kind::ENTRY => {
                let view = EntryView::parse(item.body)
                    .map_err(|source| RevealFailed::Entry { seq, source })?;
                if view.seq > seq {
                    break;
                }
                entry = (view.seq == seq).then(|| item.body.to_vec());
            }
            kind::PAYLOAD if entry.is_some() && !item.erased => payload = Some(item.body.to_vec()),
            _ => {}
        }
    }
    let entry = entry.ok_or(RevealFailed::Leaf(seq))?;
    let view = EntryView::parse(&entry).map_err(|source| RevealFailed::Entry { seq, source })?;
    if of == Revealed::Context {
        if view.context.is_none() {
            return Err(RevealError::NoCommitment { seq, of }.into());
        }
        let payload = payload.ok_or(RevealFailed::Gone(seq))?;
        let (salt, bytes) = payload
            .split_first_chunk::<32>()
            .ok_or(RevealFailed::Gone(seq))?;
        let (salt, bytes) = (*salt, bytes.to_vec());
        let reveal = Reveal {
            seq,
            of,
            salt,
            bytes,
        };
        reveal.holds(&view)?;
        return Ok(reveal);
    }
    let raw = view.raw.ok_or(RevealError::NoCommitment { seq, of })?;
    let Ok(Placed {
        source: Some(source),
    }) = serde_json::from_slice(&entry)
    else {
        return Err(RevealFailed::Nowhere(seq));
    };
    let (path, offset) = (source.path, source.offset);
    let bytes = match original(&path, offset, raw.len) {
        Ok(bytes) => bytes,
        Err(source) => return Err(RevealFailed::Original { path, source }),
    };
    let key = hmac::Key::new(hmac::HMAC_SHA256, reveal_key);
    let salt = raw_salt(&key, origin, seq);
    let reveal = Reveal {
        seq,
        of,
        salt,
        bytes,
    };
    match reveal.holds(&view) {
        Ok(()) => Ok(reveal),
        Err(_) => Err(RevealFailed::Changed { path, offset }),
    }
}

/// Where a record stood, as its entry says.
#[derive(Deserialize)]
struct Placed {
    source: Option<Stood>,
}

#[derive(Deserialize)]
struct Stood {
    path: PathBuf,
    offset: u64,
}
