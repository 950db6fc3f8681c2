//! Judging one upload. Pure but for what it is given: nothing is stored here.

use jurat_event::{Kind, Ranges};
use jurat_proof::{
    Chain, Checkpoint, Digest, EntryView, Frontier, Hashed, Note, ROTATIONS_MAX, Record,
    RecordReader, Replay, Rotation, VerifierKey, hash_records,
};
use jurat_sink::{Refusal, UPLOAD_BYTES_MAX};
use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, get_error_name};

use crate::attested::{BOOT_LOGS_MAX, QUOTES_MAX, Said};
use crate::machine::KnownLog;

/// Why an upload is refused, with its HTTP status. Nothing of it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The HTTP status.
    pub status: u16,
    /// The answer.
    pub refusal: Refusal,
    /// The signed head that contradicts what was witnessed, where there is one. Of `root_mismatch` and
    /// `inconsistent`: the head that was signed, of which only the log's own heads say whether it
    /// contradicts them.
    pub fork: Option<String>,
}

impl Refused {
    pub(crate) fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        let refusal = Refusal {
            code: code.into(),
            message: message.into(),
            size: None,
        };
        Self {
            status,
            refusal,
            fork: None,
        }
    }

    /// Whether a head that came with it shows no fork by itself: the entries may be the wrong ones.
    pub(crate) fn only_disputes(&self) -> bool {
        [ROOT_MISMATCH, INCONSISTENT].contains(&self.refusal.code.as_str())
    }

    pub(crate) fn busy(message: &str) -> Self {
        Self::new(429, "busy", message)
    }

    pub(crate) fn epoch_closed() -> Self {
        let message = "another epoch of this device goes on in place of this log";
        Self::new(409, "epoch_closed", message)
    }

    pub(crate) fn archive_failed() -> Self {
        let message = "the archive failed; nothing was stored or signed";
        Self::new(503, "archive_failed", message)
    }

    pub(crate) fn conflict(size: u64) -> Self {
        let message = format!("this log has {size} leaves here; an upload starts at the next one");
        let refusal = Refusal {
            code: "size_conflict".into(),
            message,
            size: Some(size),
        };
        Self {
            status: 409,
            refusal,
            fork: None,
        }
    }
}

/// An upload that holds together and extends what is known.
pub(crate) struct Judged {
    pub(crate) from: u64,
    pub(crate) frontier: Frontier,
    pub(crate) chain: Chain,
    pub(crate) note: Note,
    pub(crate) root: Digest,
    /// The leaves whose payload did not come.
    pub(crate) missing: Ranges,
    /// The leaves whose payloads the device erased, as `payload.erased` leaves in it say: all of them stand
    /// before those.
    pub(crate) erased: Ranges,
    /// Leaves of which only the hash came.
    pub(crate) leaves_withheld: u64,
    /// The key that signed `note`.
    pub(crate) signed_by: VerifierKey,
    /// The key that signs the next head.
    pub(crate) key: VerifierKey,
    /// Rotations, each with the size of the head over it.
    pub(crate) rotations: Vec<(Rotation, u64)>,
    /// The boots that sealed the entries, in order, without repetition.
    pub(crate) boots: Vec<String>,
    /// Heads and quotes, in order.
    pub(crate) said: Vec<Said>,
}

/// What is known of a log.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) frontier: Frontier,
    pub(crate) chain: Chain,
    /// The key that signs the next head.
    pub(crate) key: VerifierKey,
    /// The key that signed the known head, when it was rotated there.
    pub(crate) before: Option<VerifierKey>,
    /// The keys that were rotated away.
    pub(crate) retired: Vec<VerifierKey>,
}

/// The code of a refusal whose entries do not give the root that was signed: no fork by itself.
const ROOT_MISMATCH: &str = "root_mismatch";
/// The code of a refusal whose entries do not go on from what is known: none either.
pub(crate) const INCONSISTENT: &str = "inconsistent";

/// The most changes of the boot, and of the key, in one upload that are looked at.
const CHANGES_MAX: usize = 64;

/// The most heads, and as many quotes, of one upload that are kept for who judges quotes.
const SAID_MAX: usize = 16 * 1024;

/// The longest name of a boot that is looked at.
pub(crate) const BOOT_BYTES_MAX: usize = 64;

/// A frame's window may not need more memory than this many bits say: 8 MiB.
const WINDOW_LOG_MAX: u32 = 23;

/// Decompresses an upload, up to the limit, straight into `out`.
pub(crate) fn decompress(body: &[u8], out: &mut Vec<u8>) -> Result<(), Refused> {
    let bad = |what: &str| Refused::new(400, "bad_encoding", format!("not zstd: {what}"));
    out.clear();
    // Address space; only what is written to is memory.
    out.reserve(UPLOAD_BYTES_MAX + 1);
    let mut context = DCtx::create();
    context
        .set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))
        .map_err(|code| bad(get_error_name(code)))?;
    let mut input = InBuffer::around(body);
    let mut missing = 0;
    while input.pos() < body.len() && out.len() <= UPLOAD_BYTES_MAX {
        let at = out.len();
        let before = input.pos();
        let mut output = OutBuffer::around_pos(out, at);
        missing = context
            .decompress_stream(&mut output, &mut input)
            .map_err(|code| bad(get_error_name(code)))?;
        if input.pos() == before && out.len() == at {
            return Err(bad("no progress"));
        }
    }
    if out.len() > UPLOAD_BYTES_MAX {
        let message = format!("more than {UPLOAD_BYTES_MAX} bytes after decompression");
        return Err(Refused::new(413, "too_large", message));
    }
    if missing > 0 {
        return Err(bad("incomplete frame"));
    }
    Ok(())
}

/// The leaf at which an upload begins, when it begins with one.
pub(crate) fn begins_at(raw: &[u8]) -> Result<Option<u64>, Refused> {
    match RecordReader::new(raw).next() {
        Some(Ok(Record::Entry(entry))) => match EntryView::parse(entry) {
            Ok(view) => Ok(Some(view.seq)),
            Err(error) => Err(Refused::new(422, "malformed_entry", error.to_string())),
        },
        Some(Ok(Record::Leaves { from, .. })) => Ok(Some(from)),
        _ => Ok(None),
    }
}

/// Judges the records of an upload against what is known of the log.
///
/// A resubmission of the known head is not an error: it gives `Ok(None)`.
pub(crate) fn judge(raw: &[u8], origin: &str, known: &Known) -> Result<Option<Judged>, Refused> {
    let size = known.frontier.size();
    let mut key = known.key.clone();
    let mut rotations = Vec::new();
    let mut retired = known.retired.clone();
    // Under no head yet.
    let mut rotating: Option<Rotation> = None;
    let mut boots: Vec<String> = Vec::new();
    let (mut said, mut quotes, mut boot_logs) = (Vec::new(), 0, 0);
    // The boot log whose payload may follow.
    let mut boot_log: Option<u64> = None;
    let mut replay = Replay::resume(origin, known.frontier.clone(), known.chain);
    let mut last: Option<(Note, Checkpoint, VerifierKey)> = None;
    if let Some(from) = begins_at(raw)?
        && from != size
    {
        check_resubmission(raw, origin, known)?;
        return Err(Refused::conflict(size));
    }
    let (records, malformed) = hash_records(raw);
    if let Some(error) = malformed {
        return Err(Refused::new(400, "malformed", error.to_string()));
    }
    let (mut missing, mut erased) = (Ranges::default(), Ranges::default());
    // The leaf whose payload may follow.
    let mut open: Option<u64> = None;
    for Hashed { record, digest } in records {
        if !matches!(record, Record::Payload { .. } | Record::Checkpoint(_))
            && let Some(seq) = open.take()
        {
            missing.push((seq, seq + 1));
        }
        match record {
            Record::Entry(entry) => {
                last = None;
                let view = replay
                    .hashed_entry(entry, digest)
                    .map_err(|error| Refused::new(422, INCONSISTENT, error.to_string()))?;
                open = view.context.map(|_| view.seq);
                boot_log = None;
                // Without a payload it only says why there is none.
                if view.is(Kind::AttestationBootLog)
                    && view.context.is_some()
                    && said.len() < 2 * SAID_MAX
                {
                    boot_logs += 1;
                    // Another one than before, whatever becomes of its payload.
                    said.push(Said::BootLog(None));
                    boot_log = Some(view.seq).filter(|_| boot_logs <= BOOT_LOGS_MAX);
                }
                if boots.last().is_none_or(|boot| *boot != *view.boot)
                    && boots.len() < CHANGES_MAX
                    && view.boot.len() <= BOOT_BYTES_MAX
                {
                    boots.push(view.boot.clone().into_owned());
                }
                if view.is(Kind::KeyRotated) {
                    let bad = |what: String| Refused::new(422, "bad_rotation", what);
                    if rotating.is_some() || rotations.len() >= CHANGES_MAX {
                        return Err(bad("no head between two rotations, or too many".into()));
                    }
                    if retired.len() >= ROTATIONS_MAX {
                        return Err(bad("too many rotations; begin another epoch".into()));
                    }
                    let detail = view.detail_map().into_iter().collect();
                    let rotation = Rotation::parse(origin, &key, &detail)
                        .and_then(|rotation| rotation.unless_back_to(retired.iter()))
                        .map_err(|error| bad(format!("leaf {}: {error}", view.seq)))?;
                    rotating = Some(rotation);
                }
                if view.is(Kind::PayloadErased) {
                    erased = erased.union(&erased_by(&view));
                }
                if view.is(Kind::AttestationQuote) && said.len() < 2 * SAID_MAX {
                    quotes += 1;
                    // Those beyond are not looked at.
                    let detail = if quotes <= QUOTES_MAX {
                        view.detail_map().into_iter().collect()
                    } else {
                        serde_json::Map::new()
                    };
                    said.push(Said::Quote(view.seq, detail));
                }
            }
            Record::Payload { bytes, .. } => {
                open = None;
                if let (Some(seq), Some(Said::BootLog(log))) = (boot_log.take(), said.last_mut()) {
                    *log = Some(Box::new(KnownLog::read(seq, bytes)));
                }
                replay
                    .hashed_payload(bytes.len(), digest)
                    .map_err(|error| Refused::new(422, "payload_mismatch", error.to_string()))?;
            }
            Record::Leaves { from, hashes } => {
                last = None;
                replay
                    .leaves(from, hashes)
                    .map_err(|error| Refused::new(422, INCONSISTENT, error.to_string()))?;
            }
            Record::Checkpoint(bytes) => {
                let (note, checkpoint) = signed(bytes, origin, &key)?;
                let (found, root) = (replay.frontier().size(), replay.frontier().root());
                if checkpoint.size == found && checkpoint.root != root {
                    if found == size && size > 0 {
                        return Err(another_root(note.encode(), size));
                    }
                    let message =
                        format!("the entries do not give the signed root at size {found}");
                    return Err(Refused {
                        fork: Some(note.encode()),
                        ..Refused::new(422, ROOT_MISMATCH, message)
                    });
                }
                if checkpoint.size != found {
                    check_resubmission(raw, origin, known)?;
                    let message = format!(
                        "the checkpoint is over {} leaves, the upload reaches {found}",
                        checkpoint.size
                    );
                    return Err(Refused::new(422, "size_mismatch", message));
                }
                if said.len() < SAID_MAX {
                    said.push(Said::Head(checkpoint.size, checkpoint.root));
                }
                last = Some((note, checkpoint, key.clone()));
                // The head over the leaf is the last of the old key.
                if let Some(rotation) = rotating.take() {
                    key = rotation.key.clone();
                    retired.push(rotation.from.clone());
                    rotations.push((rotation, found));
                }
            }
        }
    }
    let Some((note, checkpoint, signed_by)) = last else {
        return Err(Refused::new(
            422,
            "unsigned",
            "the upload does not end in a checkpoint",
        ));
    };
    if checkpoint.size == size {
        return Ok(None);
    }
    missing.push(open.map_or((0, 0), |seq| (seq, seq + 1)));
    let (frontier, chain, summary) = replay.finish();
    Ok(Some(Judged {
        from: size,
        frontier,
        chain,
        note,
        root: checkpoint.root,
        missing,
        erased,
        leaves_withheld: summary.leaves_withheld,
        signed_by,
        key,
        rotations,
        boots,
        said,
    }))
}

/// The leaves whose payloads were erased, as this leaf says: nothing that comes after it.
fn erased_by(view: &EntryView<'_>) -> Ranges {
    let named = view.detail_map().remove("ranges");
    let named = named.and_then(|ranges| serde_json::from_value::<Ranges>(ranges).ok());
    let before = Ranges::from(vec![(0, view.seq)]);
    named.unwrap_or_default().intersection(&before)
}

/// Adds the first signed head beyond what is known to a refusal of entries that cannot lead there.
pub(crate) fn with_head(mut refused: Refused, raw: &[u8], origin: &str, known: &Known) -> Refused {
    if refused.refusal.code == INCONSISTENT {
        let mut records = RecordReader::new(raw).flatten();
        refused.fork = records.find_map(|record| {
            let Record::Checkpoint(bytes) = record else {
                return None;
            };
            let (note, head) = signed(bytes, origin, &known.key).ok()?;
            (head.size > known.frontier.size()).then(|| note.encode())
        });
    }
    refused
}

/// A signed head at the known size with another root is a fork, whatever else was sent.
fn check_resubmission(raw: &[u8], origin: &str, known: &Known) -> Result<(), Refused> {
    let keys = || [&known.key].into_iter().chain(&known.before);
    for record in RecordReader::new(raw).flatten() {
        if let Record::Checkpoint(bytes) = record
            && let Some((note, checkpoint)) = keys().find_map(|key| signed(bytes, origin, key).ok())
            && checkpoint.size == known.frontier.size()
            && checkpoint.root != known.frontier.root()
        {
            return Err(another_root(note.encode(), checkpoint.size));
        }
    }
    Ok(())
}

/// A signed head that contradicts the one that was witnessed at its size.
pub(crate) fn another_root(note: String, size: u64) -> Refused {
    let message = format!("another root was witnessed at size {size}");
    Refused {
        fork: Some(note),
        ..Refused::new(422, "fork", message)
    }
}

fn signed(bytes: &[u8], origin: &str, key: &VerifierKey) -> Result<(Note, Checkpoint), Refused> {
    let malformed = |error: jurat_proof::NoteError| {
        Refused::new(422, "malformed_checkpoint", error.to_string())
    };
    let note = Note::parse(bytes).map_err(malformed)?;
    let checkpoint = Checkpoint::parse(&note.text).map_err(malformed)?;
    if checkpoint.origin != origin {
        let message = format!(
            "a checkpoint of {}, this device's log is {origin}",
            checkpoint.origin
        );
        return Err(Refused::new(422, "wrong_origin", message));
    }
    match note.is_signed_by(key) {
        Ok(true) => Ok((note, checkpoint)),
        Ok(false) => Err(Refused::new(
            403,
            "unknown_key",
            "the checkpoint is not signed by the key that signs this log now",
        )),
        Err(error) => Err(Refused::new(403, "bad_signature", error.to_string())),
    }
}

#[cfg(test)]
mod splits;
#[cfg(test)]
mod tests {
    use super::*;

    fn code(body: &[u8]) -> Result<usize, (u16, String)> {
        let mut out = Vec::new();
        let done = decompress(body, &mut out).map(|()| out.len());
        done.map_err(|refused| (refused.status, refused.refusal.code))
    }

    #[test]
    fn frames_give_what_was_compressed_and_a_cut_or_foreign_one_is_refused() {
        let parts = [vec![1; 300_000], b"second".to_vec(), Vec::new()];
        let frames = parts
            .clone()
            .map(|part| zstd::bulk::compress(&part, 1).unwrap());
        let body = frames.concat();
        let mut out = vec![9; 3];
        decompress(&body, &mut out).unwrap();
        assert_eq!(out, parts.concat());
        // A frame that does not say its length, as a streaming encoder writes it.
        let streamed = zstd::stream::encode_all(&out[..], 1).unwrap();
        assert_eq!(code(&streamed), Ok(out.len()));
        for cut in 1..body.len() {
            let whole = cut == frames[0].len() || cut == frames[0].len() + frames[1].len();
            assert_eq!(code(&body[..cut]).is_ok(), whole, "cut at {cut}");
        }
        let foreign = [&body[..], b"tail"].concat();
        assert_eq!(code(&foreign), Err((400, "bad_encoding".into())));
    }

    #[test]
    fn the_limit_holds_for_frames_with_and_without_their_length() {
        let most = vec![0; UPLOAD_BYTES_MAX];
        let more = vec![0; UPLOAD_BYTES_MAX + 1];
        let refused = Err((413, "too_large".into()));
        assert_eq!(
            code(&zstd::bulk::compress(&most, 1).unwrap()),
            Ok(UPLOAD_BYTES_MAX)
        );
        assert_eq!(code(&zstd::bulk::compress(&more, 1).unwrap()), refused);
        assert_eq!(
            code(&zstd::stream::encode_all(&more[..], 1).unwrap()),
            refused
        );
    }
}
