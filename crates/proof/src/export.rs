//! Writing a bundle of a log, of a range of it, or of a session, from its records.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::ops::{ControlFlow, Range};

use crate::bundle::write_prefix;
use crate::verify::write_later;
use crate::{
    BundleWriter, Chain, Checkpoint, Digest, EntryError, EntryView, Front, Frontier, LEAVES_MAX,
    Manifest, Note, Passing, Record, consistency_ranges, leaf_hash,
};

/// What is wanted of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// Everything up to the newest head.
    #[default]
    All,
    /// These leaves.
    Range(Range<u64>),
    /// The leaves of this session, and those of no session: what the log says about itself.
    Session(String),
    /// What was sealed at this time (RFC 3339 in UTC) or later.
    Since(String),
}

/// What is left out of a bundle; it verifies without, and says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Withhold {
    /// Every payload.
    pub all_payloads: bool,
    /// The payloads of these leaves.
    pub payloads: BTreeSet<u64>,
}

/// Why no bundle could be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError<E: std::error::Error + 'static> {
    /// The records could not be read.
    #[error(transparent)]
    Source(#[from] E),
    /// A record that is not one of a log.
    #[error("leaf {seq} cannot be read")]
    Entry {
        /// Its place.
        seq: u64,
        /// What is wrong.
        #[source]
        source: EntryError,
    },
    /// Nothing is signed yet.
    #[error("there is no signed checkpoint yet")]
    Unsigned,
    /// The first leaves are not there.
    #[error("the records begin at leaf {first}")]
    Begins {
        /// The first leaf that is there.
        first: u64,
    },
    /// The range is empty, or not under a head.
    #[error("there are {size} leaves under a checkpoint, and none of {wanted} among them")]
    Nothing {
        /// What was asked for.
        wanted: String,
        /// Leaves under the newest head.
        size: u64,
    },
    /// The bundle could not be written.
    #[error("writing the bundle")]
    Write(#[source] io::Error),
}

/// What a bundle holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The first leaf.
    pub from: u64,
    /// The leaf after the last one.
    pub to: u64,
    /// Leaves of which only the hash is there.
    pub withheld: u64,
    /// Whether the collector's receipt is in it.
    pub has_receipt: bool,
}

/// The receipt of a log's enrolment, and what its TPM said of the keys, where there are such.
#[derive(Clone, Debug, Default)]
pub struct Enrolled {
    /// The receipt: a C2SP `tlog-proof` of the leaf `device.enrolled` in the collector's log.
    pub receipt: Option<Vec<u8>>,
    /// What the TPM said (`docs/formats/attestation.md`).
    pub evidence: Option<Vec<u8>>,
}

/// Gives the receipt of the head of this size, where there is one.
pub type Receipts<'a> = &'a mut dyn FnMut(u64) -> Option<Vec<u8>>;

/// Gives records in order, until it is told to break.
type Give<'a> = &'a mut dyn FnMut(Record<'_>) -> ControlFlow<()>;

/// Writes a bundle of what is wanted.
///
/// `records` gives all records of the log in order from leaf 0: entries, payloads, leaf hashes, and each
/// checkpoint at its place. It is called up to three times. What is wanted is widened to cosigned heads,
/// so that the exposure of every event in it is known; when none was cosigned it ends in the newest head.
///
/// # Errors
/// [`ExportError`]; what was written then is no bundle.
pub fn export<E: std::error::Error + 'static>(
    records: &mut dyn FnMut(Give<'_>) -> Result<(), E>,
    wanted: &Selection,
    withhold: &Withhold,
    receipt: Receipts<'_>,
    enrolled: Enrolled,
    out: impl Write,
) -> Result<Exported, ExportError<E>> {
    let found = find(records, wanted)?;
    let (from, size) = (found.from, found.head.size);
    let mut front = Front::whole(&found.head.origin, size, &found.note);
    front.manifest = Manifest::new(&found.head.origin, from, size);
    if let Selection::Session(session) = wanted {
        front.manifest.session = Some(session.clone());
    }
    let later = found.newest.filter(|(newest, _)| newest.size > size);
    if from > 0 || later.is_some() {
        let newest = later.as_ref().map(|(newest, _)| newest.size);
        let (prefix, proof) = around(records, &found.head, from, newest)?;
        front.prefix = prefix;
        front.later = later.map(|(_, note)| write_later(&proof, &note));
    }
    front.receipt = receipt(size);
    front.enrolment = enrolled.receipt;
    front.attestation = enrolled.evidence;
    let has_receipt = front.receipt.is_some();
    let bundle = BundleWriter::new(out, &front).map_err(ExportError::Write)?;
    let withheld = write(records, wanted, withhold, from..size, bundle)?;
    Ok(Exported {
        from,
        to: size,
        withheld,
        has_receipt,
    })
}

/// Where the wanted range begins and ends.
struct Found {
    from: u64,
    head: Checkpoint,
    note: Vec<u8>,
    newest: Option<(Checkpoint, Vec<u8>)>,
}

/// Counts leaves, and refuses records that do not begin at leaf 0.
#[derive(Default)]
struct Place(u64);

impl Place {
    /// The leaves of a record; none for payloads and checkpoints.
    fn pass<E: std::error::Error>(
        &mut self,
        record: &Record<'_>,
    ) -> Result<Range<u64>, ExportError<E>> {
        let at = self.0;
        let first = match record {
            Record::Entry(entry) if at == 0 => view(at, entry)?.seq,
            Record::Leaves { from, .. } => *from,
            _ => at,
        };
        if first != at {
            return Err(ExportError::Begins { first });
        }
        self.0 += match record {
            Record::Entry(_) => 1,
            Record::Leaves { hashes, .. } => hashes.len() as u64,
            Record::Payload { .. } | Record::Checkpoint(_) => 0,
        };
        Ok(at..self.0)
    }
}

fn view<E: std::error::Error>(seq: u64, entry: &[u8]) -> Result<EntryView<'_>, ExportError<E>> {
    EntryView::parse(entry).map_err(|source| ExportError::Entry { seq, source })
}

/// Runs through all records; an error ends it.
fn each<E: std::error::Error>(
    records: &mut dyn FnMut(Give<'_>) -> Result<(), E>,
    take: &mut dyn FnMut(Record<'_>) -> Result<ControlFlow<()>, ExportError<E>>,
) -> Result<(), ExportError<E>> {
    let mut failed = None;
    records(&mut |record| match take(record) {
        Ok(flow) => flow,
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    })?;
    failed.map_or(Ok(()), Err)
}

fn find<E: std::error::Error>(
    records: &mut dyn FnMut(Give<'_>) -> Result<(), E>,
    wanted: &Selection,
) -> Result<Found, ExportError<E>> {
    let mut place = Place::default();
    // The last head so far; the one that the range begins after; the first that covers what was found.
    let mut last = 0;
    let mut from = None;
    let mut head: Option<(Checkpoint, Vec<u8>)> = None;
    let mut newest: Option<(Checkpoint, Vec<u8>)> = None;
    let mut signed: Option<(Checkpoint, Vec<u8>)> = None;
    each(records, &mut |record| {
        let leaves = place.pass(&record)?;
        let is_wanted = match (&record, wanted) {
            (Record::Entry(_), Selection::All) => true,
            (Record::Entry(_) | Record::Leaves { .. }, Selection::Range(range)) => {
                leaves.start < range.end && range.start < leaves.end
            }
            (Record::Entry(entry), Selection::Session(session)) => {
                view(leaves.start, entry)?.session.as_deref() == Some(session)
            }
            (Record::Entry(entry), Selection::Since(since)) => {
                from.is_some() || *view(leaves.start, entry)?.time >= **since
            }
            _ => false,
        };
        if is_wanted {
            from.get_or_insert(last);
            head = None;
        }
        if let Record::Checkpoint(bytes) = record
            && let Some((checkpoint, cosigned)) = parse(bytes)
            && checkpoint.size == place.0
            && checkpoint.size > 0
        {
            if !cosigned {
                signed = Some((checkpoint, bytes.to_vec()));
                return Ok(ControlFlow::Continue(()));
            }
            last = checkpoint.size;
            let same = head.as_ref().is_none_or(|(head, _)| head.size == last);
            if from.is_some() && same {
                head = Some((checkpoint.clone(), bytes.to_vec()));
            }
            newest = Some((checkpoint, bytes.to_vec()));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let Some((newest_head, newest_note)) = newest.or(signed) else {
        return Err(ExportError::Unsigned);
    };
    let size = newest_head.size;
    let from = match wanted {
        Selection::All => Some(0),
        _ => from,
    };
    // The end of what was wanted may not be under a head yet: up to the newest one, then.
    let (head, note) = head.unwrap_or((newest_head.clone(), newest_note.clone()));
    match from {
        Some(from) if from < head.size => Ok(Found {
            from,
            head,
            note,
            newest: Some((newest_head, newest_note)),
        }),
        _ => {
            let wanted = match wanted {
                Selection::All => "all".to_owned(),
                Selection::Range(range) => format!("{}..{}", range.start, range.end),
                Selection::Session(session) => format!("session {session}"),
                Selection::Since(time) => format!("those since {time}"),
            };
            Err(ExportError::Nothing { wanted, size })
        }
    }
}

/// A head, and whether somebody else than the log itself signed it.
fn parse(note: &[u8]) -> Option<(Checkpoint, bool)> {
    let note = Note::parse(note).ok()?;
    let head = Checkpoint::parse(&note.text).ok()?;
    let cosigned = note.signatures.iter().any(|line| line.name != head.origin);
    Some((head, cosigned))
}

/// An entry's own texts cannot hold an unescaped quote.
const ROTATED: &[u8] = br#""kind":"key.rotated""#;

/// What stands before a range, and the proof from its head to a later one.
fn around<E: std::error::Error>(
    records: &mut dyn FnMut(Give<'_>) -> Result<(), E>,
    head: &Checkpoint,
    from: u64,
    newest: Option<u64>,
) -> Result<(Vec<u8>, Vec<Digest>), ExportError<E>> {
    let ranges = newest.map_or_else(Vec::new, |newest| consistency_ranges(head.size, newest));
    let mut proof = Passing::new(ranges);
    let (mut before, mut chain) = (Frontier::default(), Chain::new(&head.origin));
    let until = newest.unwrap_or(0).max(from);
    let mut place = Place::default();
    each(records, &mut |record| {
        let leaves = place.pass(&record)?;
        let hashes: Vec<Digest> = match record {
            Record::Entry(entry) => vec![leaf_hash(entry)],
            Record::Leaves { hashes, .. } => hashes.iter().map(|hash| Digest(*hash)).collect(),
            Record::Payload { .. } | Record::Checkpoint(_) => Vec::new(),
        };
        for (seq, hash) in leaves.zip(hashes) {
            if seq < from {
                before.push(hash);
                chain.push(&hash);
            }
            proof.push(hash);
        }
        Ok(if place.0 < until {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        })
    })?;
    let prefix = write_prefix(&before, &chain);
    Ok((prefix, proof.finish()))
}

fn write<E: std::error::Error>(
    records: &mut dyn FnMut(Give<'_>) -> Result<(), E>,
    wanted: &Selection,
    withhold: &Withhold,
    range: Range<u64>,
    mut bundle: BundleWriter<impl Write>,
) -> Result<u64, ExportError<E>> {
    let mut place = Place::default();
    let mut hidden = Hidden::default();
    let mut withheld = 0;
    // The entry before is here, and its payload is wanted.
    let mut open = false;
    // A key was changed, and the head that makes it count has not come.
    let mut rotated = false;
    each(records, &mut |record| {
        let leaves = place.pass(&record)?;
        if leaves.start >= range.end && !leaves.is_empty() {
            return Ok(ControlFlow::Break(()));
        }
        let fail = ExportError::Write;
        match record {
            Record::Entry(entry) if range.contains(&leaves.start) => {
                let other = match wanted {
                    Selection::Session(session) => {
                        let view = view::<E>(leaves.start, entry)?;
                        view.session.is_some_and(|other| other != **session)
                    }
                    _ => false,
                };
                open =
                    !other && !withhold.all_payloads && !withhold.payloads.contains(&leaves.start);
                if other {
                    withheld += 1;
                    hidden
                        .push(leaves.start, leaf_hash(entry).0, &mut bundle)
                        .map_err(fail)?;
                } else {
                    rotated |= entry.windows(ROTATED.len()).any(|part| part == ROTATED);
                    hidden.flush(&mut bundle).map_err(fail)?;
                    bundle.record(&record).map_err(fail)?;
                }
            }
            Record::Payload { .. } if open => bundle.record(&record).map_err(fail)?,
            Record::Leaves { hashes, .. } => {
                for (seq, hash) in leaves.zip(hashes) {
                    if range.contains(&seq) {
                        withheld += 1;
                        hidden.push(seq, *hash, &mut bundle).map_err(fail)?;
                    }
                }
                open = false;
            }
            // Heads that nobody cosigned say nothing more, but for the one that makes a new key count.
            Record::Checkpoint(note)
                if place.0 >= range.start
                    && place.0 < range.end
                    && (rotated || parse(note).is_some_and(|(_, cosigned)| cosigned)) =>
            {
                rotated = false;
                hidden.flush(&mut bundle).map_err(fail)?;
                bundle.record(&record).map_err(fail)?;
            }
            Record::Entry(_) | Record::Payload { .. } | Record::Checkpoint(_) => open = false,
        }
        Ok(ControlFlow::Continue(()))
    })?;
    hidden.flush(&mut bundle).map_err(ExportError::Write)?;
    let mut out = bundle.finish().map_err(ExportError::Write)?;
    out.flush().map_err(ExportError::Write)?;
    Ok(withheld)
}

/// Leaves that follow each other and are not to be shown.
#[derive(Default)]
struct Hidden {
    from: u64,
    hashes: Vec<[u8; 32]>,
}

impl Hidden {
    fn push(
        &mut self,
        seq: u64,
        hash: [u8; 32],
        bundle: &mut BundleWriter<impl Write>,
    ) -> io::Result<()> {
        if self.hashes.len() >= LEAVES_MAX {
            self.flush(bundle)?;
        }
        if self.hashes.is_empty() {
            self.from = seq;
        }
        self.hashes.push(hash);
        Ok(())
    }

    fn flush(&mut self, bundle: &mut BundleWriter<impl Write>) -> io::Result<()> {
        if self.hashes.is_empty() {
            return Ok(());
        }
        let hashes = std::mem::take(&mut self.hashes);
        bundle.record(&Record::Leaves {
            from: self.from,
            hashes: &hashes,
        })
    }
}
