//! Making room without breaking a proof: payloads go first, then entries, of which the hash stays.

use jurat_event::Kind;
use jurat_ledger::{Group, Prepared, Reader};
use jurat_proof::{Digest, EntryView, LEAVES_MAX, leaf_hash};

use crate::{SealError, kind};

/// What may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prune {
    /// Payloads: what happened stays, its content does not.
    Payloads,
    /// Entries, too: only their leaf hashes stay.
    Entries,
}

/// A segment as it will be after pruning: written beside the old one, and not in its place yet.
pub struct Pruned {
    pub(crate) prepared: Prepared,
    /// The first leaf in the segment.
    pub from: u64,
    /// The leaf after its last one.
    pub to: u64,
    /// Payloads that will be gone.
    pub payloads: u64,
    /// Entries that will be gone.
    pub entries: u64,
    /// Bytes that will be free.
    pub bytes: u64,
}

/// What is left of a segment.
pub(crate) struct Rest {
    pub(crate) group: Group,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) payloads: u64,
    pub(crate) entries: u64,
}

#[derive(Default)]
struct Run {
    from: u64,
    hashes: Vec<Digest>,
}

impl Run {
    fn flush(&mut self, group: &mut Group) -> Result<(), SealError> {
        for hashes in self.hashes.chunks(LEAVES_MAX) {
            let mut body = self.from.to_le_bytes().to_vec();
            body.extend(hashes.iter().flat_map(|hash| hash.0));
            group.push(kind::LEAVES, &[&body])?;
            self.from += hashes.len() as u64;
        }
        self.hashes.clear();
        Ok(())
    }
}

pub(crate) fn prune(mut reader: Reader, what: Prune) -> Result<Rest, SealError> {
    let mut pruned = Rest {
        group: Group::new(),
        from: u64::MAX,
        to: 0,
        payloads: 0,
        entries: 0,
    };
    let mut run = Run::default();
    let mut next = 0;
    while let Some(item) = reader.next_record()? {
        let group = &mut pruned.group;
        match item.kind {
            kind::ENTRY => {
                let view = EntryView::parse(item.body)
                    .map_err(|source| SealError::Entry { seq: next, source })?;
                next = view.seq + 1;
                pruned.from = pruned.from.min(view.seq);
                pruned.to = next;
                // Without a rotation's leaf nobody can follow the key history to the heads after it.
                if what == Prune::Payloads || view.is(Kind::KeyRotated) {
                    run.flush(group)?;
                    group.push(kind::ENTRY, &[item.body])?;
                } else {
                    if run.hashes.is_empty() {
                        run.from = view.seq;
                    }
                    run.hashes.push(leaf_hash(item.body));
                    pruned.entries += 1;
                }
            }
            kind::PAYLOAD => {
                pruned.payloads += u64::from(!item.erased);
                if what == Prune::Payloads {
                    group.push_erased(kind::PAYLOAD)?;
                }
            }
            // Heads stay: what was witnessed is compared with them at every start.
            kind::CHECKPOINT | kind::COSIGNED | kind::LEAVES | kind::TO_SIGN => {
                run.flush(group)?;
                group.push(item.kind, &[item.body])?;
            }
            _ => {}
        }
    }
    run.flush(&mut pruned.group)?;
    Ok(pruned)
}
