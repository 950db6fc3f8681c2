//! The verdict: what is proven, how strongly on each axis, and what is not.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;

use serde::Serialize;

use crate::{
    BundleError, BundleReader, Checkpoint, Cosignature, Digest, Hashed, Note, NoteError, Part,
    Record, Replay, Trust, VerifierKey, hash_records,
};

/// The outcome of a verification. Never a bool: what could not be checked must look neither like
/// success nor like tampering.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "verdict", rename_all = "lowercase")]
pub enum Verdict {
    /// Everything that was claimed holds; the report says how much that is.
    Verified(Box<Report>),
    /// Nothing is wrong as far as could be seen, but trust or evidence is missing.
    Unverifiable {
        /// What is missing.
        reason: Reason,
    },
    /// Something is not what was committed to.
    Tampered {
        /// Where.
        place: Place,
    },
}

/// Why a verdict could not be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// No trust policy was given.
    NoTrust,
    /// Not a bundle, or one that is cut.
    NotABundle {
        /// What was found.
        what: String,
    },
    /// The log is not named in the trust policy.
    UnknownOrigin {
        /// The log's origin.
        origin: String,
    },
    /// The log is named, but none of its accepted keys signed.
    UnknownKey {
        /// The log's origin.
        origin: String,
    },
    /// Fewer witnesses cosigned than the policy asks for.
    Quorum {
        /// How many did.
        found: usize,
        /// How many are needed.
        needed: usize,
    },
}

/// Where the evidence does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The leaf, where one can be named.
    pub seq: Option<u64>,
    /// What is wrong there.
    pub what: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// How the entries are bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Integrity {
    /// Durable on the endpoint, under no signature.
    Committed,
    /// Under a checkpoint signed by the log key.
    Signed,
}

/// What holds the log key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyAxis {
    /// No key signed.
    None,
    /// A file. Whoever can read it can sign.
    Software,
}

/// Whether the agent's user could have signed this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// The agent's user could have.
    Shared,
    /// The daemon ran under an account of its own; the endpoint says so itself.
    Separate,
}

/// Who saw the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WitnessAxis {
    /// The names of the trusted witnesses that cosigned.
    pub names: Vec<String>,
    /// Those among them that run on the endpoint's own host.
    pub same_host: Vec<String>,
}

impl fmt::Display for WitnessAxis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.names.is_empty() {
            return f.write_str("none");
        }
        let named = self.names.iter().map(|name| {
            if self.same_host.contains(name) {
                format!("{name} (same host, not independent)")
            } else {
                name.clone()
            }
        });
        f.write_str(&named.collect::<Vec<_>>().join(", "))
    }
}

/// Who says that entries and payloads are durable elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ArchiveAxis {
    /// The names of the trusted archives that cosigned.
    pub names: Vec<String>,
}

impl fmt::Display for ArchiveAxis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.names.is_empty() {
            f.write_str("none")
        } else {
            f.write_str(&self.names.join(", "))
        }
    }
}

/// The axes: independent statements, each the minimum over the range, never one number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Axes {
    /// How the entries are bound.
    pub integrity: Integrity,
    /// What holds the key.
    pub key: KeyAxis,
    /// Whether the agent's user could have signed.
    pub isolation: Isolation,
    /// Who saw it.
    pub witness: WitnessAxis,
    /// Who keeps it.
    pub archive: ArchiveAxis,
    /// Whether every leaf from 0 and every payload is here, archived, in whole batches.
    pub complete: bool,
}

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The log.
    pub origin: String,
    /// The number of leaves.
    pub size: u64,
    /// The root over them.
    pub root: Digest,
    /// The head of the chain.
    pub chain: Digest,
    /// The key that signed.
    pub key: String,
    /// The axes.
    #[serde(flatten)]
    pub axes: Axes,
    /// Leaves by kind.
    pub events: BTreeMap<String, u64>,
    /// Values redacted.
    pub redactions: u64,
    /// Records filtered before sealing, by reason.
    pub filtered: BTreeMap<String, u64>,
    /// Payloads that are not in the bundle.
    pub payloads_missing: u64,
    /// Leaves of which only the hash is in the bundle: refused by the collector, or pruned by a full disk.
    pub leaves_withheld: u64,
    /// Recorded in custody mode, without redaction.
    pub custody: bool,
    /// The longest time between two checkpoints cosigned by one witness, in seconds, for the witness
    /// with the shortest: an event could have been changed unnoticed for at most this long after it
    /// was sealed. Counted from the opening of the log, whose time is the device's own claim. `None`
    /// without a witness.
    pub exposure_s: Option<u64>,
    /// When the last checkpoint was cosigned, in seconds since 1970.
    pub witnessed_at: Option<u64>,
    /// Restarts, cut transcripts and other blindness, with the leaf that says so.
    pub gaps: Vec<(u64, String)>,
    /// What this verdict does not say.
    pub not_proven: Vec<String>,
}

impl Verdict {
    fn tampered(seq: Option<u64>, what: impl Into<String>) -> Self {
        Self::Tampered {
            place: Place {
                seq,
                what: what.into(),
            },
        }
    }

    /// The exit code: 0 verified, 1 tampered, 2 could not tell.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Verified(_) => 0,
            Self::Tampered { .. } => 1,
            Self::Unverifiable { .. } => 2,
        }
    }
}

/// A leaf of a bundle that is being verified.
#[derive(Clone, Copy, Debug)]
pub struct Leaf<'a> {
    /// The log.
    pub origin: &'a str,
    /// Its place.
    pub seq: u64,
    /// Its hash.
    pub hash: Digest,
    /// What it holds; `None` when only the hash is there.
    pub content: Option<Content<'a>>,
}

/// What a leaf holds.
#[derive(Clone, Copy, Debug)]
pub struct Content<'a> {
    /// Its entry.
    pub entry: &'a [u8],
    /// Its payload, when it has one and it is there.
    pub payload: Option<&'a [u8]>,
    /// The chain after it.
    pub chain: Digest,
    /// The chain before it.
    pub prev_chain: Digest,
}

/// Verifies a bundle against a trust policy.
///
/// Reads the bundle once, as a stream, and holds one part of it. Keys inside the bundle are never
/// looked at; without `trust` the verdict is [`Verdict::Unverifiable`]. `leaves` is told every leaf
/// in order, so that a caller can compare lines kept elsewhere; what it was told counts only when
/// the verdict is [`Verdict::Verified`].
pub fn verify(
    bundle: impl Read,
    trust: Option<&Trust>,
    leaves: &mut dyn FnMut(&Leaf<'_>),
) -> Verdict {
    match try_verify(bundle, trust, leaves) {
        Ok(verdict) | Err(verdict) => verdict,
    }
}

fn try_verify(
    bundle: impl Read,
    trust: Option<&Trust>,
    leaves: &mut dyn FnMut(&Leaf<'_>),
) -> Result<Verdict, Verdict> {
    let not_a_bundle = |error: BundleError| {
        let what = match &error {
            BundleError::Read(source) => format!("{error}: {source}"),
            BundleError::Layout(_) => error.to_string(),
        };
        Verdict::Unverifiable {
            reason: Reason::NotABundle { what },
        }
    };
    let Some(trust) = trust else {
        return Err(Verdict::Unverifiable {
            reason: Reason::NoTrust,
        });
    };
    let (mut reader, manifest, note) = BundleReader::open(bundle).map_err(not_a_bundle)?;

    // The final checkpoint: only its signature makes anything else in the bundle mean something.
    let malformed = |error: NoteError| {
        let what = format!("checkpoint: {error}");
        Verdict::Unverifiable {
            reason: Reason::NotABundle { what },
        }
    };
    let note = Note::parse(&note).map_err(malformed)?;
    let checkpoint = Checkpoint::parse(&note.text).map_err(malformed)?;
    let origin = checkpoint.origin.clone();
    if checkpoint.size == 0 {
        return Err(malformed(NoteError::Malformed(
            "a tree of size 0 proves nothing",
        )));
    }
    if trust.keys_of(&origin).next().is_none() {
        return Err(Verdict::Unverifiable {
            reason: Reason::UnknownOrigin { origin },
        });
    }
    let Some(key) = signed_by(&note, trust, &origin, "checkpoint")? else {
        return Err(Verdict::Unverifiable {
            reason: Reason::UnknownKey { origin },
        });
    };
    if manifest.origin != origin || manifest.size != checkpoint.size {
        return Err(Verdict::tampered(
            None,
            "jurat.json names another log or size than the signed checkpoint",
        ));
    }

    let mut replay = Replay::new(&origin);
    // Leaf hashes as listed; only trusted once their own tree has the signed root.
    let mut listed = crate::Frontier::default();
    let mut first_differing: Option<(u64, String)> = None;
    let mut broken: Option<(u64, String)> = None;
    let mut watches: Vec<Watch> = vec![Watch::default(); trust.witnesses.len()];
    while let Some(Part { hashes, records }) = reader.next_part().map_err(not_a_bundle)? {
        let mut hashes = hashes.into_iter();
        // The leaf whose payload may follow.
        let mut open: Option<(u64, Digest, Content<'_>)> = None;
        let mut give = |(seq, hash, content): (u64, Digest, Option<Content<'_>>)| {
            leaves(&Leaf {
                origin: &origin,
                seq,
                hash,
                content,
            });
        };
        let (records, failed) = hash_records(&records);
        for Hashed { record, digest } in records {
            let next = replay.size();
            match record {
                Record::Entry(entry) => {
                    if let Some((seq, hash, content)) = open.take() {
                        give((seq, hash, Some(content)));
                    }
                    let prev_chain = replay.chain().0;
                    let at = listed.size();
                    match hashes.next() {
                        Some(hash) => {
                            listed.push(hash);
                            if hash != digest && first_differing.is_none() {
                                first_differing = Some((at, format!("leaf {at} was changed")));
                            }
                        }
                        None => {
                            broken = broken.or(Some((at, format!("leaf {at} has no leaf hash"))));
                        }
                    }
                    // After the first break only the listed hashes are read on, to name the place.
                    if broken.is_none() {
                        match replay.hashed_entry(entry, digest) {
                            Ok(view) => {
                                if at == 0 {
                                    let opened = unix_seconds(&view.time).unwrap_or(0);
                                    watches.iter_mut().for_each(|watch| watch.opened(opened));
                                }
                                open = Some((
                                    at,
                                    digest,
                                    Content {
                                        entry,
                                        payload: None,
                                        chain: replay.chain().0,
                                        prev_chain,
                                    },
                                ));
                            }
                            Err(error) => broken = Some((error.seq(), error.to_string())),
                        }
                    }
                }
                Record::Payload { bytes, .. } if broken.is_none() => {
                    match &mut open {
                        Some((_, _, content)) => content.payload = Some(bytes),
                        None => {
                            broken = Some((
                                next,
                                format!("before leaf {next} stands a payload of no entry"),
                            ))
                        }
                    }
                    if let Err(error) = replay.hashed_payload(bytes.len(), digest) {
                        broken = Some((error.seq(), error.to_string()));
                    }
                }
                Record::Leaves {
                    from,
                    hashes: withheld,
                } => {
                    if let Some((seq, hash, content)) = open.take() {
                        give((seq, hash, Some(content)));
                    }
                    for hash in withheld {
                        let at = listed.size();
                        let Some(given) = hashes.next() else {
                            broken = broken.or(Some((at, format!("leaf {at} has no leaf hash"))));
                            break;
                        };
                        listed.push(given);
                        if given.0 != *hash && first_differing.is_none() {
                            first_differing = Some((at, format!("leaf {at} was changed")));
                        }
                        if broken.is_none() {
                            give((at, given, None));
                        }
                    }
                    if broken.is_none()
                        && let Err(error) = replay.leaves(from, withheld)
                    {
                        broken = Some((error.seq(), error.to_string()));
                    }
                }
                Record::Checkpoint(bytes) if broken.is_none() && first_differing.is_none() => {
                    earlier(bytes, trust, &mut replay, &origin, &mut watches)?;
                }
                Record::Payload { .. } | Record::Checkpoint(_) => {}
            }
        }
        if let Some((seq, hash, content)) = open {
            give((seq, hash, Some(content)));
        }
        if let Some(error) = failed {
            let next = replay.size();
            broken = broken.or(Some((next, format!("after leaf {next}: {error}"))));
        }
        for hash in hashes {
            listed.push(hash);
        }
    }
    let listed_is_signed = listed.size() == checkpoint.size && listed.root() == checkpoint.root;
    if listed_is_signed && let Some((seq, what)) = first_differing {
        return Err(Verdict::tampered(Some(seq), what));
    }
    if let Some((seq, what)) = broken {
        return Err(Verdict::tampered(Some(seq), what));
    }
    let ends_a_batch = replay.ends_a_batch();
    let (frontier, chain, summary) = replay.finish();
    if frontier.size() != checkpoint.size {
        let what = format!(
            "the checkpoint is over {} leaves, the bundle holds {}",
            checkpoint.size,
            frontier.size()
        );
        return Err(Verdict::tampered(
            Some(frontier.size().min(checkpoint.size)),
            what,
        ));
    }
    if frontier.root() != checkpoint.root {
        return Err(Verdict::tampered(
            None,
            "the entries do not have the signed root, and neither do the leaf hashes",
        ));
    }
    if !listed_is_signed {
        return Err(Verdict::tampered(
            None,
            "the list of leaf hashes was changed; the entries are as signed",
        ));
    }

    let witnessed = cosigners(&note, &trust.witnesses)?;
    watch(&mut watches, &witnessed)?;
    let names = |times: &[Option<u64>], trusted: &[(String, VerifierKey)]| -> Vec<String> {
        let pairs = trusted.iter().zip(times);
        pairs
            .filter(|(_, time)| time.is_some())
            .map(|((name, _), _)| name.clone())
            .collect()
    };
    let witnesses = names(&witnessed, &trust.witnesses);
    let archives = names(&cosigners(&note, &trust.archives)?, &trust.archives);
    if witnesses.len() < trust.quorum {
        let reason = Reason::Quorum {
            found: witnesses.len(),
            needed: trust.quorum,
        };
        return Err(Verdict::Unverifiable { reason });
    }
    let last = witnessed.iter().copied().flatten().max();
    // Only a witness that saw the end can have seen everything before it.
    let exposure_s = watches
        .iter()
        .zip(&witnessed)
        .filter(|(_, time)| time.is_some())
        .map(|(watch, _)| watch.longest)
        .min();
    let isolation = match summary.isolation.as_deref() {
        // A withheld leaf may be the one that said otherwise.
        Some("separate") if summary.leaves_withheld == 0 => Isolation::Separate,
        _ => Isolation::Shared,
    };
    let same_host = witnesses
        .iter()
        .filter(|name| trust.same_host.contains(name))
        .cloned()
        .collect();
    let complete = summary.payloads_missing == 0
        && summary.leaves_withheld == 0
        && !archives.is_empty()
        && ends_a_batch;
    let axes = Axes {
        integrity: Integrity::Signed,
        key: KeyAxis::Software,
        isolation,
        witness: WitnessAxis {
            names: witnesses,
            same_host,
        },
        archive: ArchiveAxis { names: archives },
        complete,
    };
    let not_proven = not_proven(&axes, summary.leaves_withheld);
    Ok(Verdict::Verified(Box::new(Report {
        origin,
        size: checkpoint.size,
        root: checkpoint.root,
        chain: chain.0,
        key: key.to_string(),
        axes,
        events: summary.events,
        redactions: summary.redactions,
        filtered: summary.filtered,
        payloads_missing: summary.payloads_missing,
        leaves_withheld: summary.leaves_withheld,
        custody: summary.custody,
        exposure_s,
        witnessed_at: last,
        gaps: summary.gaps,
        not_proven,
    })))
}

/// The accepted key that signed this note.
fn signed_by<'a>(
    note: &Note,
    trust: &'a Trust,
    origin: &str,
    what: &str,
) -> Result<Option<&'a VerifierKey>, Verdict> {
    let mut signed = None;
    for key in trust.logs.iter().filter(|key| key.name == origin) {
        let good = note
            .is_signed_by(key)
            .map_err(|error| Verdict::tampered(None, format!("{what}: {error}")))?;
        if good {
            signed = Some(key);
        }
    }
    Ok(signed)
}

/// Checks a checkpoint that stands among the records and notes when it was witnessed.
fn earlier(
    bytes: &[u8],
    trust: &Trust,
    replay: &mut Replay,
    origin: &str,
    watches: &mut [Watch],
) -> Result<(), Verdict> {
    let size = replay.frontier().size();
    let wrong =
        |what: &str| Verdict::tampered(Some(size), format!("checkpoint after leaf {size}: {what}"));
    let note = Note::parse(bytes).map_err(|error| wrong(&error.to_string()))?;
    let checkpoint = Checkpoint::parse(&note.text).map_err(|error| wrong(&error.to_string()))?;
    if checkpoint.origin != origin {
        return Err(wrong("of another log"));
    }
    if checkpoint.size != size || checkpoint.root != replay.frontier().root() {
        return Err(wrong("not the head of the entries before it"));
    }
    if signed_by(&note, trust, origin, "earlier checkpoint")?.is_none() {
        return Err(wrong("not signed by an accepted key"));
    }
    watch(watches, &cosigners(&note, &trust.witnesses)?)
}

/// When each of the trusted cosigners signed a note, if it did.
fn cosigners(note: &Note, trusted: &[(String, VerifierKey)]) -> Result<Vec<Option<u64>>, Verdict> {
    let find = |(_, key): &(String, VerifierKey)| match Cosignature::find(note, key) {
        Ok(found) => Ok(found.map(|cosignature| cosignature.time_s)),
        Err(error) => Err(Verdict::tampered(None, error.to_string())),
    };
    trusted.iter().map(find).collect()
}

/// What one witness saw of the log over time.
#[derive(Clone, Copy, Default)]
struct Watch {
    /// The time of its last cosignature. The series begins with leaf 0's own time: a claim of the
    /// device, but bound by the tree, so that leaving out an early statement of a witness never makes
    /// the exposure look shorter.
    last: u64,
    /// Whether `last` is the witness's own statement.
    seen: bool,
    longest: u64,
}

impl Watch {
    fn opened(&mut self, time: u64) {
        self.last = time;
    }
}

/// Takes note of cosignature times; a witness never goes back in time.
fn watch(watches: &mut [Watch], times: &[Option<u64>]) -> Result<(), Verdict> {
    for (watch, time) in watches.iter_mut().zip(times) {
        let Some(time) = *time else { continue };
        if watch.seen && time < watch.last {
            let what = "the cosignature times run backwards";
            return Err(Verdict::tampered(None, what));
        }
        watch.longest = watch.longest.max(time.saturating_sub(watch.last));
        (watch.last, watch.seen) = (time, true);
    }
    Ok(())
}

/// The seconds since 1970 of an RFC 3339 time in UTC, as entries have it.
fn unix_seconds(time: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| time.get(range)?.parse::<u64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) || !time.ends_with('Z')
    {
        return None;
    }
    // Days from 1970-01-01, with the year beginning in March.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    let days = days.checked_sub(719_468)?;
    Some(days * 86_400 + hour * 3_600 + minute * 60 + second)
}

fn not_proven(axes: &Axes, leaves_withheld: u64) -> Vec<String> {
    let mut list = vec![
        "that what the agent wrote is true: the events are the agent's own transcript".to_owned(),
        "anything that no source saw, and anything sealed after the last checkpoint here"
            .to_owned(),
    ];
    if leaves_withheld > 0 {
        list.push(format!(
            "what {leaves_withheld} leaves said, isolation and custody among it: only their hashes are here"
        ));
    }
    if axes.key == KeyAxis::Software {
        list.push("that only this device could sign: the key is a file (software)".to_owned());
    }
    if axes.isolation == Isolation::Shared {
        list.push("that the agent could not sign: it runs as the same user (shared)".to_owned());
    }
    if axes.witness.names.is_empty() {
        list.push("that history was not rewritten and signed anew: no witness cosigned".to_owned());
    } else if axes.witness.names.len() == axes.witness.same_host.len() {
        list.push(
            "that history was not rewritten by this host: its only witness runs on it".to_owned(),
        );
    } else {
        list.push("that the witnesses did not collude with the device".to_owned());
    }
    list
}

#[cfg(test)]
mod tests {
    use super::unix_seconds;

    #[test]
    fn times_become_seconds() {
        assert_eq!(unix_seconds("1970-01-01T00:00:00.000000000Z"), Some(0));
        assert_eq!(unix_seconds("2000-02-29T12:00:01Z"), Some(951_825_601));
        assert_eq!(
            unix_seconds("2026-10-29T00:00:00.000000007Z"),
            Some(1_793_232_000)
        );
        for wrong in [
            "",
            "yesterday",
            "2026-13-01T00:00:00Z",
            "2026-10-29T00:00:00+02:00",
        ] {
            assert_eq!(unix_seconds(wrong), None, "{wrong}");
        }
    }
}
