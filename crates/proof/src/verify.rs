//! From a bundle and a trust policy to a verdict, in the order of `docs/formats/verdict.md`.

use std::io::Read;

use jurat_event::Kind;
use serde_json::{Map, Value};

use crate::bundle::read_prefix;
use crate::receipt::Enrolment;
use crate::text::{read_proof, write_proof};
use crate::trust::Quorum;
use crate::verdict::{
    ArchiveAxis, Axes, Cosigned, Integrity, Isolation, KeyAxis, KeySpan, Later, Leaves, Logged,
    NotProven, Payloads, Reason, Report, Signed, Verdict, WitnessAxis,
};
use crate::{
    Attestation, Attestations, BundleError, BundleReader, Chain, Check, Checkpoint, Cosignature,
    Digest, EntryView, Front, Frontier, Hashed, Note, Part, PublicKey, ROTATIONS_MAX, Receipt,
    ReceiptError, Record, Replay, Rotation, Trust, Unattested, VerifierKey, hash_records, sha256,
    verify_consistency,
};

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

/// Verifies a bundle against a trust policy, at a time in seconds since 1970 when one is given.
///
/// Reads the bundle once, as a stream, and holds one part of it. Keys inside the bundle are never
/// looked at; without `trust` the verdict is [`Verdict::Unverifiable`]. `leaves` is told every leaf
/// in order, so that a caller can compare lines kept elsewhere; what it was told counts only when
/// the verdict is [`Verdict::Verified`].
pub fn verify(
    bundle: impl Read,
    trust: Option<&Trust>,
    now_s: Option<u64>,
    leaves: &mut dyn FnMut(&Leaf<'_>),
) -> Verdict {
    verify_with(bundle, trust, now_s, &mut Unattested, leaves)
}

/// Likewise, with somebody who judges what hardware said.
pub fn verify_with(
    bundle: impl Read,
    trust: Option<&Trust>,
    now_s: Option<u64>,
    attestations: &mut dyn Attestations,
    leaves: &mut dyn FnMut(&Leaf<'_>),
) -> Verdict {
    match try_verify(bundle, trust, now_s, attestations, leaves) {
        Ok(report) => Verdict::Verified(Box::new(report)),
        Err(verdict) => verdict,
    }
}

/// How far a cosigner's clock may be ahead of the verifier's.
const FUTURE_S: u64 = 300;
/// The most hashes of a proof between heads of 64-bit sizes.
const PROOF_MAX: usize = 64;
/// The most runs of missing payloads, and of ranges of erased ones, that are remembered.
const RUNS_MAX: usize = 100_000;

fn not_a_bundle(error: &BundleError) -> Verdict {
    let mut what = error.to_string();
    if let BundleError::Read(source) = error {
        what = format!("{what}: {source}");
    }
    let check = error.check();
    Verdict::unverifiable(Reason::NotABundle { check, what })
}

/// A check that says `Tampered` without a place.
fn ensure(check: Check, holds: bool) -> Result<(), Verdict> {
    if check.holds(holds) {
        Ok(())
    } else {
        Err(Verdict::tampered(None, check))
    }
}

fn try_verify(
    bundle: impl Read,
    trust: Option<&Trust>,
    now_s: Option<u64>,
    attestations: &mut dyn Attestations,
    leaves: &mut dyn FnMut(&Leaf<'_>),
) -> Result<Report, Verdict> {
    let nobody = Trust::default();
    if Check::Trust.fails(trust.is_none()) {
        return Err(Verdict::unverifiable(Reason::NoTrust));
    }
    let trust = trust.unwrap_or(&nobody);
    let (mut reader, front) = BundleReader::open(bundle).map_err(|error| not_a_bundle(&error))?;
    let (note, head) = head(&front.checkpoint)?;
    let origin = head.origin.clone();
    if Check::Origin.fails(trust.keys_of(&origin).next().is_none()) {
        return Err(Verdict::unverifiable(Reason::UnknownOrigin { origin }));
    }
    let mut keys = Keys::new(trust, &origin, front.manifest.from);
    ensure(Check::CheckpointSignature, keys.signer(&note).is_ok())?;
    let manifest = &front.manifest;
    let same = manifest.origin == origin && manifest.size == head.size;
    ensure(Check::ManifestHead, same)?;
    ensure(Check::ManifestRange, manifest.from < head.size)?;
    let (before, chain) = match manifest.from {
        0 => (Frontier::default(), Chain::new(&origin)),
        from => match read_prefix(from, &front.prefix) {
            Some(prefix) => prefix,
            None => {
                ensure(Check::PrefixLength, false)?;
                (Frontier::default(), Chain::new(&origin))
            }
        },
    };

    let cosigners_of_all = trust.witnesses.iter().chain(&trust.archives);
    let cosigners_of_all: Vec<VerifierKey> = cosigners_of_all.map(|(_, key)| key.clone()).collect();
    let shown = front.attestation.as_ref();
    let shown = shown.and_then(|bytes| attestations.evidence(&origin, &cosigners_of_all, bytes));
    let mut stream = Stream::new(trust, &origin, before, chain, &mut keys, attestations);
    while let Some(part) = reader.next_part().map_err(|error| not_a_bundle(&error))? {
        stream.part(&part, leaves);
    }
    let read = stream.finish();
    let signer = keys.final_signer(&note, head.size)?;
    read.places(&head)?;
    let later = later(&front, &head, trust, &keys)?;
    seen_before(trust, &head, front.manifest.from, later.as_ref())?;
    let later = later.map(|(later, _)| later);
    let mut latest = read.latest;

    let witnessed = cosigners(&note, &trust.witnesses)
        .and_then(|witnessed| Ok((witnessed, cosigners(&note, &trust.archives)?)));
    ensure(Check::CosignatureSignature, witnessed.is_ok())?;
    let (witnessed, archived) = witnessed.unwrap_or_default();
    let mut watches = read.watches;
    ensure(Check::CosignatureOrder, watch(&mut watches, &witnessed))?;
    attestations.head(
        head.size,
        head.root,
        witnessed.iter().flatten().min().copied(),
    );
    let logged = logged(&front, &head, trust, &mut latest)?;
    let enrolled = enrolled(&front, &origin, trust, shown.as_ref(), &mut latest)?;
    revocation(trust, &keys.chain(trust, &signer), logged.as_ref())?;
    let witnesses = names(&witnessed, &trust.witnesses);
    quorum(trust, &trust.quorum, Signed::Head, &witnesses)?;
    let outside = logged.as_ref().map_or(&[][..], |logged| &logged.names);
    quorum(trust, &trust.outside, Signed::Receipt, outside)?;
    for time in witnessed.iter().chain(&archived).flatten() {
        latest = latest.max(*time);
    }
    let soon = now_s.is_none_or(|now| latest <= now.saturating_add(FUTURE_S));
    if Check::Future.fails(!soon) {
        return Err(Verdict::unverifiable(Reason::Future { time: latest }));
    }

    let summary = read.summary;
    let exposure_s = watches
        .iter()
        .zip(&witnessed)
        // Only a witness that saw the end can have seen everything before it.
        .filter(|(_, time)| time.is_some())
        .filter_map(|(watch, _)| watch.begun.then_some(watch.longest))
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
    let archives = names(&archived, &trust.archives);
    let complete = summary.payloads_missing == 0
        && summary.leaves_withheld == 0
        && !archives.is_empty()
        && read.ends_a_batch;
    let keys_here = keys.spans(&signer);
    // Of a log whose key was rotated nothing is known of the next one.
    let enrolled = enrolled.filter(|(of, ..)| of.key == signer && keys_here.len() == 1);
    let (key, attestation) = match enrolled {
        Some((of, key, mut attestation)) => {
            attestation.quotes = attestations.finish().filter(|_| of.evidence.is_some());
            (key, Some(attestation))
        }
        None => (KeyAxis::Software, None),
    };
    let axes = Axes {
        integrity: Integrity::Signed,
        key,
        isolation,
        witness: WitnessAxis {
            names: witnesses,
            same_host,
        },
        archive: ArchiveAxis { names: archives },
        complete,
    };
    let from = front.manifest.from;
    let runs = summary.runs_unseen;
    let mut report = Report {
        origin,
        from,
        size: head.size,
        root: head.root,
        chain: read.chain,
        keys: keys_here,
        axes,
        attestation,
        logged,
        later,
        cosignatures: trust
            .witnesses
            .iter()
            .zip(&watches)
            .filter(|(_, watch)| watch.cosigned.heads > 0)
            .map(|((name, _), watch)| (name.clone(), watch.cosigned))
            .collect(),
        exposure_s,
        witnessed_at: witnessed.iter().flatten().copied().max(),
        leaves: Leaves {
            here: head.size - from - summary.leaves_withheld.min(head.size - from),
            withheld: summary.leaves_withheld,
        },
        payloads: Payloads {
            here: read.payloads_here,
            withheld: summary.payloads_missing - read.erased.min(summary.payloads_missing),
            erased: read.erased,
        },
        events: summary.events,
        sessions: summary.sessions,
        sessions_more: summary.sessions_more,
        redactions: summary.redactions,
        filtered: summary.filtered,
        custody: summary.custody,
        gaps: summary.gaps,
        not_proven: Vec::new(),
    };
    let unseen = trust
        .seen_of(&report.origin)
        .any(|(_, size, _)| *size < from || *size > report.size);
    report.not_proven = not_proven(&report, unseen, runs, read.erasures_full);
    Ok(report)
}

/// The signed head that a bundle ends in.
fn head(checkpoint: &[u8]) -> Result<(Note, Checkpoint), Verdict> {
    let bad = |check: Check, what: String| {
        let what = format!("checkpoint: {what}");
        Verdict::unverifiable(Reason::NotABundle { check, what })
    };
    let malformed = |error: crate::NoteError| bad(Check::NoteMalformed, error.to_string());
    let note = Note::parse(checkpoint).map_err(malformed)?;
    let read = if Check::NoteMalformed.holds(false) {
        Checkpoint::parse_foreign
    } else {
        Checkpoint::parse
    };
    let head = read(&note.text).map_err(malformed)?;
    if Check::CheckpointEmpty.fails(head.size == 0) {
        return Err(bad(
            Check::CheckpointEmpty,
            "a tree of size 0 proves nothing".into(),
        ));
    }
    Ok((note, head))
}

/// The keys of one log: accepted by the trust file or by a rotation, or rotated away.
struct Keys {
    origin: String,
    /// The first leaf of the bundle.
    from: u64,
    /// The trust file's in their order, then those that came by rotation.
    accepted: Vec<VerifierKey>,
    /// Rotations in order; a key that was rotated away never comes back.
    rotated: Vec<Rotated>,
}

/// A rotation that counts.
struct Rotated {
    from: VerifierKey,
    to: VerifierKey,
    /// The size whose later heads the new key signs.
    size: u64,
    leaf: u64,
    /// Where the old key stood among the accepted ones.
    place: usize,
}

impl Keys {
    fn new(trust: &Trust, origin: &str, from: u64) -> Self {
        Self {
            origin: origin.to_owned(),
            from,
            accepted: trust.keys_of(origin).cloned().collect(),
            rotated: Vec::new(),
        }
    }

    /// The first accepted key that signed; an error when a signature of one of them is bad.
    fn signer(&self, note: &Note) -> Result<Option<VerifierKey>, ()> {
        first_signer(self.accepted.iter(), note)
    }

    /// Those that may sign a head of this size. The head that makes a rotation count is the old key's last one,
    /// also where it stands twice.
    fn at(&self, size: u64) -> Vec<&VerifierKey> {
        let mut accepted: Vec<&VerifierKey> = self.accepted.iter().collect();
        // Records may go on behind the head: each rotation that was not yet is taken back.
        let later = self.rotated.iter().rev();
        for rotated in later.take_while(|rotated| rotated.size >= size) {
            accepted.insert(rotated.place, &rotated.from);
        }
        accepted
    }

    fn rotate(&mut self, rotation: Rotation, size: u64, leaf: u64) {
        let Rotation { from, key: to } = rotation;
        if !self.accepted.contains(&to) {
            self.accepted.push(to.clone());
        }
        let Some(place) = self.accepted.iter().position(|key| *key == from) else {
            return;
        };
        self.accepted.remove(place);
        self.rotated.push(Rotated {
            from,
            to,
            size,
            leaf,
            place,
        });
    }

    /// Whose signature makes the bundle's head, of this size, count.
    fn final_signer(&self, note: &Note, size: u64) -> Result<VerifierKey, Verdict> {
        let bad = |()| ensure(Check::CheckpointSignature, false).map(|()| None);
        if let Some(key) = first_signer(self.at(size).into_iter(), note).or_else(bad)? {
            return Ok(key);
        }
        let retired = self.rotated.iter().filter(|rotated| rotated.size < size);
        let retired = first_signer(retired.map(|rotated| &rotated.from), note).or_else(bad)?;
        if let Some(key) = &retired
            && Check::CheckpointRetired.holds(false)
        {
            return Ok(key.clone());
        }
        ensure(Check::CheckpointRetired, retired.is_none())?;
        let origin = self.origin.clone();
        // A head that nobody signed: in the name of the first key, when this check is taken away.
        match self.at(size).first().copied() {
            Some(key) if Check::Key.holds(false) => Ok(key.clone()),
            _ => Err(Verdict::unverifiable(Reason::UnknownKey { origin })),
        }
    }

    /// The signing key and, unless the trust file names it, those on whose word it counts: back to the first
    /// that the trust file names.
    fn chain(&self, trust: &Trust, signer: &VerifierKey) -> Vec<VerifierKey> {
        let named = |key: &VerifierKey| trust.keys_of(&self.origin).any(|named| named == key);
        let mut chain = vec![signer.clone()];
        let mut last = signer;
        for Rotated { from, to, .. } in self.rotated.iter().rev() {
            if named(last) {
                break;
            }
            if to == last {
                chain.push(from.clone());
                last = from;
            }
        }
        chain
    }

    /// How the signing key came to be, as far as it is here.
    fn spans(&self, signer: &VerifierKey) -> Vec<KeySpan> {
        let mut spans = Vec::new();
        let mut key = signer;
        for rotated in self.rotated.iter().rev() {
            if rotated.to == *key {
                spans.push(KeySpan {
                    key: rotated.to.to_string(),
                    from: rotated.size,
                    leaf: Some(rotated.leaf),
                });
                key = &rotated.from;
            }
        }
        spans.push(KeySpan {
            key: key.to_string(),
            from: self.from,
            leaf: None,
        });
        spans.reverse();
        spans
    }
}

fn first_signer<'a>(
    keys: impl Iterator<Item = &'a VerifierKey>,
    note: &Note,
) -> Result<Option<VerifierKey>, ()> {
    let mut signer = None;
    for key in keys {
        if note.is_signed_by(key).map_err(drop)? && signer.is_none() {
            signer = Some(key.clone());
        }
    }
    Ok(signer)
}

/// A rotation that its checkpoint has not made count yet.
struct Pending {
    rotation: Rotation,
    leaf: u64,
}

/// The records, as they are read.
struct Stream<'a> {
    trust: &'a Trust,
    origin: &'a str,
    keys: &'a mut Keys,
    attestations: &'a mut dyn Attestations,
    replay: Replay,
    /// Leaf hashes as listed; they count only once their own tree has the signed root.
    listed: Frontier,
    /// The first leaf whose listed hash is another than its own.
    changed: Option<u64>,
    /// The first failure. After it only the listed hashes are read on, to name the place.
    broken: Option<(u64, Check)>,
    watches: Vec<Watch>,
    /// The heads that the trust file says were seen are heads of the listed leaves.
    seen: bool,
    /// Nothing was read yet.
    first: bool,
    pending: Option<Pending>,
    /// The entry whose payload has not come.
    awaited: Option<u64>,
    payloads_here: u64,
    missing: Runs,
    erased: Runs,
    latest: u64,
}

/// What was read.
struct Streamed {
    seen: bool,
    listed: (u64, Digest),
    changed: Option<u64>,
    broken: Option<(u64, Check)>,
    watches: Vec<Watch>,
    size: u64,
    root: Digest,
    chain: Option<Digest>,
    ends_a_batch: bool,
    summary: crate::Summary,
    payloads_here: u64,
    erased: u64,
    erasures_full: bool,
    latest: u64,
}

impl<'a> Stream<'a> {
    fn new(
        trust: &'a Trust,
        origin: &'a str,
        before: Frontier,
        chain: Chain,
        keys: &'a mut Keys,
        attestations: &'a mut dyn Attestations,
    ) -> Self {
        let is_head = |(_, size, root): &(String, u64, Digest)| {
            *size != before.size() || *root == before.root()
        };
        Self {
            seen: trust.seen_of(origin).all(is_head),
            trust,
            origin,
            keys,
            attestations,
            listed: before.clone(),
            replay: Replay::resume(origin, before, chain),
            changed: None,
            broken: None,
            watches: vec![Watch::default(); trust.witnesses.len()],
            first: true,
            pending: None,
            awaited: None,
            payloads_here: 0,
            missing: Runs::default(),
            erased: Runs::default(),
            latest: 0,
        }
    }

    /// Keeps the first failure; whether the check holds.
    fn check(&mut self, seq: u64, check: Check, holds: bool) -> bool {
        let holds = check.holds(holds);
        if !holds {
            self.broken = self.broken.or(Some((seq, check)));
        }
        holds
    }

    fn part(&mut self, part: &Part, leaves: &mut dyn FnMut(&Leaf<'_>)) {
        let mut hashes = part.hashes.iter();
        // The leaf whose payload may follow.
        let mut open: Option<Leaf<'_>> = None;
        let origin = self.origin;
        let (records, failed) = hash_records(&part.records);
        for Hashed { record, digest } in records {
            if matches!(record, Record::Entry(_) | Record::Leaves { .. })
                && let Some(leaf) = open.take()
            {
                leaves(&leaf);
            }
            match record {
                Record::Entry(entry) => {
                    let seq = self.replay.size();
                    self.list(hashes.next(), &digest);
                    if self.broken.is_none() {
                        let prev_chain = self.replay.chain().0;
                        self.entry(entry, digest);
                        open = Some(Leaf {
                            origin,
                            seq,
                            hash: digest,
                            content: Some(Content {
                                entry,
                                payload: None,
                                chain: self.replay.chain().0,
                                prev_chain,
                            }),
                        });
                    }
                }
                Record::Payload { bytes, .. } if self.broken.is_none() => {
                    let content = open.as_mut().and_then(|leaf| leaf.content.as_mut());
                    let follows = content.is_some();
                    if let Some(content) = content {
                        content.payload = Some(bytes);
                    }
                    self.payload(follows, bytes.len(), digest);
                }
                Record::Leaves {
                    from,
                    hashes: withheld,
                } => {
                    let first = self.replay.size();
                    self.leaves(from, withheld, &mut hashes);
                    for (seq, hash) in (first..).zip(withheld) {
                        if self.broken.is_none() {
                            let (hash, content) = (Digest(*hash), None);
                            leaves(&Leaf {
                                origin,
                                seq,
                                hash,
                                content,
                            });
                        }
                    }
                }
                Record::Checkpoint(bytes) if self.broken.is_none() => self.earlier(bytes),
                Record::Payload { .. } | Record::Checkpoint(_) => {}
            }
        }
        if let Some(leaf) = open {
            leaves(&leaf);
        }
        if failed.is_some() && self.broken.is_none() {
            self.check(self.replay.size(), Check::RecordFraming, false);
        }
        for hash in hashes {
            self.push_listed(*hash);
        }
    }

    /// Compares a leaf with the listed hash of its place.
    fn list(&mut self, listed: Option<&Digest>, leaf: &Digest) {
        let Some(listed) = listed else {
            if self.broken.is_none() {
                self.check(self.replay.size(), Check::LeafUnlisted, false);
            }
            return;
        };
        let first = self.changed.is_none() && self.broken.is_none();
        if first && Check::LeafChanged.fails(listed != leaf) {
            self.changed = Some(self.listed.size());
        }
        self.push_listed(*listed);
    }

    fn push_listed(&mut self, hash: Digest) {
        self.listed.push(hash);
        let size = self.listed.size();
        for (_, _, root) in self
            .trust
            .seen_of(self.origin)
            .filter(|seen| seen.1 == size)
        {
            self.seen &= *root == self.listed.root();
        }
    }

    fn entry(&mut self, entry: &[u8], leaf: Digest) {
        let seq = self.replay.size();
        self.missing_unless_here();
        match self.replay.hashed_entry(entry, leaf) {
            Ok(view) => {
                if std::mem::take(&mut self.first) {
                    let time = unix_seconds(&view.time).unwrap_or(0);
                    self.watches.iter_mut().for_each(|watch| watch.begin(time));
                }
                self.awaited = view.context.map(|_| seq);
                self.rotation(seq, &view);
                if view.is(Kind::PayloadErased) {
                    let detail = view.detail_map();
                    self.erased.take(detail.get("ranges"));
                }
                if view.is(Kind::AttestationQuote) {
                    let detail = view.detail_map().into_iter().collect();
                    self.attestations.quote(seq, &detail);
                }
            }
            Err(error) => {
                if self.check(error.seq(), error.check(), false) {
                    self.replay.pass_over(leaf);
                }
            }
        }
    }

    fn missing_unless_here(&mut self) {
        if let Some(seq) = self.awaited.take() {
            self.missing.add(seq);
        }
    }

    /// A change of key stands at the end of its batch, whose checkpoint makes it count.
    fn rotation(&mut self, seq: u64, view: &EntryView<'_>) {
        if !view.is(Kind::KeyRotated) {
            return;
        }
        self.check(seq, Check::RotationPending, self.pending.is_none());
        let detail: Map<String, Value> = view.detail_map().into_iter().collect();
        let from = detail.get("from").and_then(Value::as_str);
        let from = from.and_then(|from| VerifierKey::parse(from).ok());
        let accepted = &self.keys.accepted;
        let current = from.and_then(|from| accepted.iter().find(|key| **key == from));
        let retired = self.keys.rotated.iter().map(|rotated| &rotated.from);
        let parsed = current.and_then(|key| {
            let rotation = Rotation::parse(self.origin, key, &detail).ok()?;
            rotation.unless_back_to(retired).ok()
        });
        self.check(seq, Check::Rotation, parsed.is_some());
        let few = self.keys.rotated.len() < ROTATIONS_MAX;
        self.check(seq, Check::RotationMany, few);
        self.pending = parsed.map(|rotation| Pending {
            rotation,
            leaf: seq,
        });
    }

    fn payload(&mut self, follows: bool, len: usize, digest: Digest) {
        let seq = self.replay.size().saturating_sub(1);
        if !self.check(seq, Check::PayloadStray, follows) {
            return;
        }
        match self.replay.hashed_payload(len, digest) {
            Ok(()) => {
                self.awaited = None;
                self.payloads_here += 1;
            }
            Err(error) => {
                self.check(error.seq(), error.check(), false);
            }
        }
    }

    fn leaves(
        &mut self,
        from: u64,
        withheld: &[[u8; 32]],
        hashes: &mut std::slice::Iter<'_, Digest>,
    ) {
        for hash in withheld {
            self.list(hashes.next(), &Digest(*hash));
        }
        if self.broken.is_some() {
            return;
        }
        self.missing_unless_here();
        self.first = false;
        if let Err(error) = self.replay.leaves(from, withheld) {
            self.check(error.seq(), error.check(), false);
        }
    }

    /// A checkpoint among the records: a head that witnesses saw.
    fn earlier(&mut self, bytes: &[u8]) {
        let size = self.replay.size();
        let parsed = Note::parse(bytes).and_then(|note| {
            let head = Checkpoint::parse(&note.text)?;
            Ok((note, head))
        });
        let Ok((note, head)) = parsed else {
            self.check(size, Check::HeadMalformed, false);
            return;
        };
        if !self.check(size, Check::HeadOrigin, head.origin == self.origin) {
            return;
        }
        let same = head.size == size && head.root == self.replay.frontier().root();
        if !self.check(size, Check::HeadRoot, same) {
            return;
        }
        let signer = first_signer(self.keys.at(size).into_iter(), &note);
        if !self.check(size, Check::HeadSignature, signer.is_ok()) {
            return;
        }
        let signed = matches!(signer, Ok(Some(_)));
        if !self.check(size, Check::HeadKey, signed) {
            return;
        }
        if let Some(pending) = self.pending.take() {
            self.keys.rotate(pending.rotation, size, pending.leaf);
        }
        let times = cosigners(&note, &self.trust.witnesses);
        if !self.check(size, Check::HeadCosignature, times.is_ok()) {
            return;
        }
        let times = times.unwrap_or_default();
        let first = times.iter().flatten().min().copied();
        self.attestations.head(size, head.root, first);
        for (watch, time) in self.watches.iter_mut().zip(&times) {
            if let Some(time) = time {
                self.latest = self.latest.max(*time);
                if self.first {
                    watch.begin(*time);
                }
            }
        }
        let ordered = watch(&mut self.watches, &times);
        self.check(size, Check::HeadOrder, ordered);
    }

    fn finish(mut self) -> Streamed {
        self.missing_unless_here();
        let chain = self
            .replay
            .is_chain_confirmed()
            .then(|| self.replay.chain().0);
        let ends_a_batch = self.replay.ends_a_batch();
        let (frontier, _, summary) = self.replay.finish();
        Streamed {
            seen: self.seen,
            listed: (self.listed.size(), self.listed.root()),
            changed: self.changed,
            broken: self.broken,
            watches: self.watches,
            size: frontier.size(),
            root: frontier.root(),
            chain,
            ends_a_batch,
            summary,
            payloads_here: self.payloads_here,
            erased: self.missing.within(&mut self.erased),
            erasures_full: self.missing.full || self.erased.full,
            latest: self.latest,
        }
    }
}

impl Streamed {
    /// Whether the leaves are those of the signed head, and if not, where.
    fn places(&self, head: &Checkpoint) -> Result<(), Verdict> {
        let listed_is_signed = self.listed == (head.size, head.root);
        if let Some(seq) = self.changed.filter(|_| listed_is_signed) {
            return Err(Verdict::tampered(Some(seq), Check::LeafChanged));
        }
        if let Some((seq, check)) = self.broken {
            return Err(Verdict::tampered(Some(seq), check));
        }
        if Check::Tail.fails(self.size != head.size) {
            let seq = self.size.min(head.size);
            return Err(Verdict::tampered(Some(seq), Check::Tail));
        }
        ensure(Check::Root, self.root == head.root)?;
        ensure(Check::LeafList, listed_is_signed)?;
        ensure(Check::SeenRoot, self.seen)
    }
}

/// A later head with the consistency proof to it.
fn later(
    front: &Front,
    head: &Checkpoint,
    trust: &Trust,
    keys: &Keys,
) -> Result<Option<(Later, Digest)>, Verdict> {
    let Some(bytes) = &front.later else {
        return Ok(None);
    };
    let Some((proof, note, after)) = read_later(bytes) else {
        return ensure(Check::LaterMalformed, false).map(|()| None);
    };
    ensure(Check::LaterOrigin, after.origin == head.origin)?;
    ensure(Check::LaterSize, after.size >= head.size)?;
    let (signer, times) = (keys.signer(&note), cosigners(&note, &trust.witnesses));
    ensure(Check::LaterSignature, signer.is_ok() && times.is_ok())?;
    if matches!(signer, Ok(None)) {
        return Ok(None);
    }
    let goes_on = verify_consistency(head.size, after.size, &head.root, &after.root, &proof);
    ensure(Check::LaterConsistency, goes_on.is_ok())?;
    let names = names(&times.unwrap_or_default(), &trust.witnesses);
    let size = after.size;
    Ok(Some((Later { size, names }, after.root)))
}

/// The text of `later`.
pub(crate) fn write_later(proof: &[Digest], note: &[u8]) -> Vec<u8> {
    let mut out = (write_proof(proof) + "\n").into_bytes();
    out.extend_from_slice(note);
    out
}

fn read_later(bytes: &[u8]) -> Option<(Vec<Digest>, Note, Checkpoint)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (lines, note) = match text.strip_prefix('\n') {
        Some(note) => ("", note),
        None => text.split_once("\n\n")?,
    };
    let lines = lines.split('\n').filter(|_| !lines.is_empty());
    let proof = read_proof(lines, PROOF_MAX).ok()?;
    let note = Note::parse(note.as_bytes()).ok()?;
    let head = Checkpoint::parse(&note.text).ok()?;
    Some((proof, note, head))
}

/// Where the collector's log holds this head.
fn logged(
    front: &Front,
    head: &Checkpoint,
    trust: &Trust,
    latest: &mut u64,
) -> Result<Option<Logged>, Verdict> {
    let (Some(bytes), Some(collector)) = (&front.receipt, &trust.collector) else {
        return Ok(None);
    };
    let parsed = Receipt::parse(bytes).and_then(|receipt| {
        let log = receipt.head()?;
        EntryView::parse(&receipt.entry)?;
        Ok((receipt, log))
    });
    let Some((receipt, log)) = parsed
        .ok()
        .filter(|(receipt, log)| receipt.index < log.size)
    else {
        return ensure(Check::ReceiptMalformed, false).map(|()| None);
    };
    let signed = receipt.note.is_signed_by(collector);
    if matches!(signed, Ok(false)) {
        return Ok(None);
    }
    ensure(Check::ReceiptOrigin, log.origin == collector.name)?;
    let times = cosigners(&receipt.note, &trust.witnesses);
    ensure(Check::ReceiptSignature, signed.is_ok() && times.is_ok())?;
    let of = receipt.is_of(&head.origin, head.size, &head.root);
    ensure(
        Check::ReceiptHead,
        !matches!(of, Err(ReceiptError::OtherHead(_))),
    )?;
    ensure(Check::ReceiptInclusion, receipt.is_under(&log).is_ok())?;
    let times = times.unwrap_or_default();
    *latest = times
        .iter()
        .flatten()
        .fold(*latest, |latest, time| latest.max(*time));
    Ok(Some(Logged {
        leaf: receipt.index,
        size: log.size,
        names: names(&times, &trust.witnesses),
    }))
}

/// What the collector's log says of the key's enrolment, and what that says of the key.
fn enrolled(
    front: &Front,
    origin: &str,
    trust: &Trust,
    shown: Option<&PublicKey>,
    latest: &mut u64,
) -> Result<Option<(Enrolment, KeyAxis, Attestation)>, Verdict> {
    let (Some(bytes), Some(collector)) = (&front.enrolment, &trust.collector) else {
        return Ok(None);
    };
    let parsed = Receipt::parse(bytes).and_then(|receipt| {
        let log = receipt.head()?;
        EntryView::parse(&receipt.entry)?;
        Ok((receipt, log))
    });
    let parsed = parsed
        .ok()
        .filter(|(receipt, log)| receipt.index < log.size);
    let Some((receipt, log)) = parsed else {
        return ensure(Check::EnrolmentMalformed, false).map(|()| None);
    };
    let signed = receipt.note.is_signed_by(collector);
    if matches!(signed, Ok(false)) {
        return Ok(None);
    }
    ensure(Check::EnrolmentOrigin, log.origin == collector.name)?;
    let times = cosigners(&receipt.note, &trust.witnesses);
    ensure(Check::EnrolmentSignature, signed.is_ok() && times.is_ok())?;
    let Ok(of) = receipt.enrolment(origin) else {
        return ensure(Check::EnrolmentLeaf, false).map(|()| None);
    };
    ensure(Check::EnrolmentInclusion, receipt.is_under(&log).is_ok())?;
    if let Some(evidence) = &front.attestation {
        let digest = sha256(&[evidence]).to_string();
        ensure(
            Check::AttestationEvidence,
            of.evidence.as_ref() == Some(&digest),
        )?;
        ensure(Check::AttestationKey, shown == Some(&of.key.key))?;
    }
    let times = times.unwrap_or_default();
    *latest = times
        .iter()
        .flatten()
        .fold(*latest, |latest, time| latest.max(*time));
    let attestation = Attestation {
        by: collector.name.clone(),
        leaf: receipt.index,
        size: log.size,
        names: names(&times, &trust.witnesses),
        ek: of.ek.clone(),
        tpm: of.tpm.clone(),
        quotes: None,
    };
    let key = KeyAxis::from_kind(&of.kind);
    Ok(Some((of, key, attestation)))
}

/// A head that was seen is this log's own, and this bundle, or a later head that was witnessed, reaches it.
fn seen_before(
    trust: &Trust,
    head: &Checkpoint,
    from: u64,
    later: Option<&(Later, Digest)>,
) -> Result<(), Verdict> {
    // What its key alone signed, a log that was rewritten can have as well.
    let asked = trust.quorum != Quorum::None;
    let witnessed = |later: &Later| asked && trust.is_met(&trust.quorum, &later.names);
    for (_, size, root) in trust.seen_of(&head.origin) {
        let same_size = later.filter(|(later, _)| later.size == *size);
        ensure(
            Check::SeenRoot,
            same_size.is_none_or(|(_, found)| found == root),
        )?;
        let reached = later.is_some_and(|(later, _)| later.size > *size && witnessed(later));
        let ahead = *size > head.size && same_size.is_none() && !reached;
        let before = *size < from && !asked;
        if Check::Behind.fails(ahead || before) {
            return Err(Verdict::unverifiable(Reason::Behind { size: *size }));
        }
    }
    Ok(())
}

/// A key that was revoked gives its word to no other, either.
fn revocation(
    trust: &Trust,
    chain: &[VerifierKey],
    logged: Option<&Logged>,
) -> Result<(), Verdict> {
    for key in chain {
        for (revoked, leaf) in &trust.revoked {
            let before = logged.is_some_and(|logged| logged.leaf < *leaf);
            if revoked == key && Check::Revoked.fails(!before) {
                let key = key.to_string();
                return Err(Verdict::unverifiable(Reason::Revoked { key }));
            }
        }
    }
    Ok(())
}

fn quorum(trust: &Trust, quorum: &Quorum, of: Signed, names: &[String]) -> Result<(), Verdict> {
    if Check::Quorum.holds(trust.is_met(quorum, names)) {
        return Ok(());
    }
    let mut found = names.to_vec();
    found.sort();
    Err(Verdict::unverifiable(Reason::Quorum { of, found }))
}

/// When each of the trusted cosigners signed a note, if it did.
fn cosigners(note: &Note, trusted: &[(String, VerifierKey)]) -> Result<Vec<Option<u64>>, ()> {
    let find = |(_, key): &(String, VerifierKey)| match Cosignature::find(note, key) {
        Ok(found) => Ok(found.map(|cosignature| cosignature.time_s)),
        Err(_) => Err(()),
    };
    trusted.iter().map(find).collect()
}

fn names(times: &[Option<u64>], trusted: &[(String, VerifierKey)]) -> Vec<String> {
    let pairs = trusted.iter().zip(times);
    pairs
        .filter(|(_, time)| time.is_some())
        .map(|((name, _), _)| name.clone())
        .collect()
}

/// What one witness saw of the log over time.
#[derive(Clone, Copy, Default)]
struct Watch {
    /// The time of its last cosignature, or of the first leaf here: a claim of the device, but bound
    /// by the tree, so that leaving out an early statement of a witness never makes the exposure look
    /// shorter.
    last: u64,
    /// There is such a time.
    begun: bool,
    longest: u64,
    cosigned: Cosigned,
}

impl Watch {
    fn begin(&mut self, time: u64) {
        if !self.begun {
            (self.last, self.begun) = (time, true);
        }
    }
}

/// Takes note of cosignature times; `false` when a witness goes back in time.
fn watch(watches: &mut [Watch], times: &[Option<u64>]) -> bool {
    let mut ordered = true;
    for (watch, time) in watches.iter_mut().zip(times) {
        let Some(time) = *time else { continue };
        ordered &= watch.cosigned.heads == 0 || time >= watch.cosigned.last;
        if watch.begun {
            watch.longest = watch.longest.max(time.saturating_sub(watch.last));
        }
        if watch.cosigned.heads == 0 {
            watch.cosigned.first = time;
        }
        watch.cosigned.heads += 1;
        watch.cosigned.last = time;
        if watch.begun {
            watch.last = time;
        }
    }
    ordered
}

/// Runs of leaves, from and up to.
#[derive(Default)]
struct Runs {
    runs: Vec<(u64, u64)>,
    full: bool,
}

impl Runs {
    /// Adds a leaf after all that were added before.
    fn add(&mut self, seq: u64) {
        match self.runs.last_mut() {
            Some((_, to)) if *to == seq => *to += 1,
            _ => self.push(seq, seq.saturating_add(1)),
        }
    }

    fn push(&mut self, from: u64, to: u64) {
        if self.runs.len() < RUNS_MAX {
            self.runs.push((from, to));
        } else {
            self.full = true;
        }
    }

    /// Adds the ranges of a `payload.erased`.
    fn take(&mut self, ranges: Option<&Value>) {
        for range in ranges.and_then(Value::as_array).into_iter().flatten() {
            let number = |at: usize| range.get(at).and_then(Value::as_u64);
            if let (Some(from), Some(to)) = (number(0), number(1))
                && range.as_array().is_some_and(|pair| pair.len() == 2)
                && from < to
            {
                self.push(from, to);
            }
        }
    }

    /// How many leaves of these runs are in others.
    fn within(&self, others: &mut Runs) -> u64 {
        others.runs.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::new();
        for (from, to) in &others.runs {
            match merged.last_mut() {
                Some((_, end)) if *end >= *from => *end = (*end).max(*to),
                _ => merged.push((*from, *to)),
            }
        }
        let mut count = 0;
        let mut at = 0;
        for (from, to) in &self.runs {
            while merged.get(at).is_some_and(|(_, end)| end <= from) {
                at += 1;
            }
            for (start, end) in merged.iter().skip(at).take_while(|(start, _)| start < to) {
                count += to.min(end) - from.max(start);
            }
        }
        count
    }
}

/// The seconds since 1970 of an RFC 3339 time in UTC, as entries have it.
fn unix_seconds(time: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| {
        let digits = time.get(range)?;
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| digits.parse::<u64>().ok()).flatten()
    };
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let between = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    let formed = between
        .iter()
        .all(|(at, mark)| time.as_bytes()[*at] == *mark);
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match month {
        2 => 28 + u64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    let on_the_clock = hour < 24 && minute < 60 && second < 60;
    if year < 1970 || !(1..=days).contains(&day) || !on_the_clock || !formed || !time.ends_with('Z')
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

fn not_proven(report: &Report, unseen: bool, runs: bool, erasures_full: bool) -> Vec<NotProven> {
    let axes = &report.axes;
    let witness = if axes.witness.names.is_empty() {
        NotProven::NoWitness
    } else if axes.witness.names.len() == axes.witness.same_host.len() {
        NotProven::SameHost
    } else {
        NotProven::Collusion
    };
    let quotes = report.attestation.as_ref();
    let quotes = quotes.and_then(|attestation| attestation.quotes.as_ref());
    let affirmed = quotes.is_some_and(|quotes| quotes.status == "affirming");
    let exposed = report.exposure_s.is_none() && !axes.witness.names.is_empty();
    [
        (NotProven::Truth, true),
        (NotProven::Unseen, true),
        (NotProven::Withheld, report.leaves.withheld > 0),
        (NotProven::SoftwareKey, axes.key == KeyAxis::Software),
        (
            NotProven::HeldKey,
            matches!(axes.key, KeyAxis::Hsm | KeyAxis::External),
        ),
        (NotProven::Activation, axes.key.is_tpm()),
        (NotProven::Quotes, axes.key.is_tpm() && !affirmed),
        (NotProven::Shared, axes.isolation == Isolation::Shared),
        (witness, true),
        (NotProven::NotLogged, report.logged.is_none()),
        (NotProven::Runs, runs),
        (NotProven::Chain, report.chain.is_none()),
        (NotProven::Exposure, exposed),
        (NotProven::Seen, unseen),
        (NotProven::Erasures, erasures_full),
    ]
    .into_iter()
    .filter_map(|(what, holds)| holds.then_some(what))
    .collect()
}

#[cfg(test)]
mod tests;
