//! Erasing payloads on request: a leaf says which, why and by whom; what they were committed to stays.

use jurat_event::{EraseRequest, Event, Kind, Ranges, Severity};
use jurat_ledger::{LedgerError, Reader};
use jurat_proof::{Choice, EntryView};
use serde_json::json;

use crate::{SealError, kind};

/// What can be erased of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Erasable {
    /// The leaves: between two payloads of a range there stands no other one.
    pub ranges: Ranges,
    /// How many payloads they have.
    pub count: u64,
    /// Payloads that were asked for and are gone already: erased or pruned.
    pub gone: u64,
    /// How many each range has.
    counts: Vec<u64>,
}

/// Why it cannot be erased.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EraseError {
    /// The ledger failed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// There are no such leaves.
    #[error("leaf {last} does not exist: the log has {size} leaves, the last one is {}", size.saturating_sub(1))]
    Beyond {
        /// The last leaf that was asked for.
        last: u64,
        /// How many there are.
        size: u64,
    },
    /// There is no such session in this ledger.
    #[error("no leaf of session {0:?} is in this ledger")]
    Session(String),
}

impl From<LedgerError> for EraseError {
    fn from(error: LedgerError) -> Self {
        Self::Seal(error.into())
    }
}

/// The most ranges that one leaf names: with them and its words it stays below the limit of an entry.
const RANGES_MAX: usize = 256;

/// Finds what can be erased, in a ledger of a log of `size` leaves.
pub(crate) fn find(
    mut reader: Reader,
    request: &EraseRequest,
    size: u64,
) -> Result<Erasable, EraseError> {
    if let Some((_, to)) = request.ranges.pairs().last()
        && *to > size
    {
        return Err(EraseError::Beyond { last: to - 1, size });
    }
    let mut choice = Choice::new(request);
    let mut found = Erasable::default();
    // The leaf that a payload belongs to, and whether it is wanted.
    let mut leaf = (0, false);
    // Where a range may go on: since then no payload stood that stays.
    let mut open = None;
    while let Some(item) = reader.next_record()? {
        match item.kind {
            kind::ENTRY => {
                let view = EntryView::parse(item.body).map_err(|source| SealError::Entry {
                    seq: leaf.0 + 1,
                    source,
                })?;
                leaf = (view.seq, choice.takes(&view));
            }
            kind::PAYLOAD if item.erased => {
                found.gone += u64::from(leaf.1);
                open = open.filter(|_| leaf.1);
            }
            kind::PAYLOAD if leaf.1 => {
                let from = open.unwrap_or_else(|| {
                    found.counts.push(0);
                    leaf.0
                });
                found.ranges.push((from, leaf.0 + 1));
                found.count += 1;
                *found.counts.last_mut().expect("a range was begun") += 1;
                open = Some(leaf.0);
            }
            kind::PAYLOAD | kind::LEAVES => open = None,
            _ => {}
        }
    }
    if let Some(name) = choice.unknown_session() {
        return Err(EraseError::Session(name.to_owned()));
    }
    Ok(found)
}

/// The places of the payloads of these leaves, those that are marked as erased, too: a crash may have come
/// between the mark and the work.
pub(crate) fn places(mut reader: Reader, ranges: &Ranges) -> Result<Vec<(u64, u32)>, SealError> {
    let mut places = Vec::new();
    let mut next = 0;
    let mut wanted = false;
    while let Some(item) = reader.next_record()? {
        if item.kind == kind::ENTRY {
            let view = EntryView::parse(item.body)
                .map_err(|source| SealError::Entry { seq: next, source })?;
            next = view.seq + 1;
            wanted = ranges.contains(view.seq);
        } else if item.kind == kind::PAYLOAD && wanted && !item.body.is_empty() {
            places.push((item.position, 0));
        }
    }
    Ok(places)
}

impl Erasable {
    /// The leaves that say so, each with its ranges and their number of payloads.
    pub(crate) fn leaves(&self, who: &str, reason: &str) -> Vec<(Event, Ranges, u64)> {
        let ranges = self.ranges.pairs().chunks(RANGES_MAX);
        let counts = self.counts.chunks(RANGES_MAX);
        ranges
            .zip(counts)
            .map(|(ranges, counts)| {
                let count = counts.iter().sum::<u64>();
                let event = Event::own(Kind::PayloadErased)
                    .severity(Severity::Medium)
                    .detail("ranges", json!(ranges))
                    .detail("count", count)
                    .detail("who", who)
                    .detail("reason", reason);
                (event, ranges.to_vec().into(), count)
            })
            .collect()
    }
}
