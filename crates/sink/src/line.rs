//! A line in a SIEM: `device, leaf_hash, chain_hash, prev_chain_hash, sink_seq, batch, judged`,
//! then the entry's own fields as they were sealed, then `full_context`.
//!
//! The entry's bytes stand in the line unchanged, so the line alone is enough to compute its leaf
//! hash again (`docs/formats/siem-line.md`).

use std::collections::BTreeSet;

use jurat_proof::{Content, Digest, EntryView, Leaf, leaf_hash, sha256};
use serde::{Deserialize, Serialize};

/// The proof that every line carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The log.
    pub device: String,
    /// The leaf's hash; its number is the entry's own `seq`.
    pub leaf_hash: Digest,
    /// The chain after it; absent for a leaf of the collector's own log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain_hash: Option<Digest>,
    /// The chain before it; likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev_chain_hash: Option<Digest>,
    /// The number of this line in this sink; contiguous.
    pub sink_seq: u64,
    /// The size of the checkpoint that covers it.
    pub batch: u64,
    /// What the sender could check: `verified` or `sealed`.
    pub judged: String,
}

/// Where the entry's own fields begin.
const ENTRY_FIELDS: &str = ",\"v\":";
/// Where the payload begins.
const FULL_CONTEXT: &[u8] = b",\"full_context\":";

/// Writes a line, without its line end.
pub fn write(proof: &Proof, entry: &[u8], payload: Option<&[u8]>, out: &mut Vec<u8>) {
    out.clear();
    // Writing to memory does not fail.
    let _ = serde_json::to_writer(&mut *out, proof);
    out.pop();
    out.push(b',');
    write_body(entry, payload, out);
}

/// Everything from the entry's first field on.
fn write_body(entry: &[u8], payload: Option<&[u8]>, out: &mut Vec<u8>) {
    out.extend_from_slice(
        entry
            .get(1..entry.len().saturating_sub(1))
            .unwrap_or_default(),
    );
    if let Some(payload) = payload {
        out.extend_from_slice(FULL_CONTEXT);
        // A payload that is one JSON object stays one; anything else becomes a string.
        let line = !payload.contains(&b'\n')
            && payload.first() == Some(&b'{')
            && std::str::from_utf8(payload).is_ok();
        if line && serde_json::from_slice::<serde::de::IgnoredAny>(payload).is_ok() {
            out.extend_from_slice(payload);
        } else {
            let _ = serde_json::to_writer(&mut *out, &String::from_utf8_lossy(payload));
        }
    }
    out.push(b'}');
}

/// A line taken apart: what it claims, and everything from the entry's first field on. `None` when it
/// is not a line of ours.
fn split(line: &[u8]) -> Option<(Proof, &[u8])> {
    let text = std::str::from_utf8(line).ok()?;
    let at = text.find(ENTRY_FIELDS)?;
    let head = format!("{}}}", &text[..at]);
    let proof: Proof = serde_json::from_str(&head).ok()?;
    // Written as we write it: a field more, or twice, would be read by a SIEM and not by us.
    (serde_json::to_string(&proof).ok()? == head).then_some((proof, &line[at + 1..]))
}

/// The number that a line of ours bears.
pub fn sink_seq(line: &[u8]) -> Option<u64> {
    split(line).map(|(proof, _)| proof.sink_seq)
}

/// Compares the lines of a sink with the verified log they claim to come from: first every leaf, then
/// every line, then [`Audit::finish`].
#[derive(Debug, Default)]
pub struct Audit {
    origin: String,
    /// The first leaf that was given.
    from: u64,
    expected: Vec<Expected>,
    /// Sizes at which a batch ends.
    ends: BTreeSet<u64>,
    body: Vec<u8>,
    lines: u64,
    foreign: u64,
    altered: BTreeSet<u64>,
    duplicated: BTreeSet<u64>,
    /// Numbers seen.
    seen: BTreeSet<u64>,
    written: Vec<bool>,
}

/// What is known of a leaf's line.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// The digest of everything that the log determines in it.
    Line(Digest),
    /// The same of a line without its payload: that is not here any more, and what the line holds of it cannot
    /// be judged.
    Bare(Digest),
    /// Only the leaf hash: the leaf is withheld, and its line need not be there.
    Hash(Digest),
}

/// What an audit found. Numbers are `sink_seq` unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AuditReport {
    /// Lines read.
    pub lines: u64,
    /// Lines that are not ours.
    pub foreign: u64,
    /// Lines that should be there and are not.
    pub missing: Vec<u64>,
    /// Lines that differ in any field from what the log says they must be.
    pub altered: Vec<u64>,
    /// Lines that stand twice.
    pub duplicated: Vec<u64>,
    /// Leaves of the log (by `seq`) that have no line.
    pub unwritten: Vec<u64>,
}

impl AuditReport {
    /// Whether every leaf has its one unaltered line.
    pub fn is_clean(&self) -> bool {
        self.missing.is_empty()
            && self.altered.is_empty()
            && self.duplicated.is_empty()
            && self.unwritten.is_empty()
    }
}

const BATCH_SEALED: &[u8] = br#""kind":"batch.sealed""#;

/// The most missing numbers that are listed.
const MISSING_MAX: usize = 100_000;

impl Audit {
    /// Takes the next leaf of the verified log.
    pub fn leaf(&mut self, leaf: &Leaf<'_>) {
        if self.expected.is_empty() {
            leaf.origin.clone_into(&mut self.origin);
            self.from = leaf.seq;
        }
        // An entry's own texts cannot hold an unescaped quote.
        let ends = |content: &Content<'_>| {
            content
                .entry
                .windows(BATCH_SEALED.len())
                .any(|part| part == BATCH_SEALED)
        };
        // What a withheld leaf says is not known: it may end a batch.
        if leaf.content.as_ref().is_none_or(ends) {
            self.ends.insert(leaf.seq + 1);
        }
        let line = leaf.content.map(|content| {
            self.body.clear();
            write_body(content.entry, content.payload, &mut self.body);
            let says = says(&leaf.hash, &content.chain, &content.prev_chain, &self.body);
            let commits =
                || EntryView::parse(content.entry).is_ok_and(|view| view.context.is_some());
            if content.payload.is_none() && commits() {
                Expected::Bare(says)
            } else {
                Expected::Line(says)
            }
        });
        self.expected
            .push(line.unwrap_or(Expected::Hash(leaf.hash)));
    }

    /// Takes the next line, without its line end.
    pub fn line(&mut self, line: &[u8]) {
        self.lines += 1;
        let Some((proof, body)) = split(line) else {
            self.foreign += 1;
            return;
        };
        let number = proof.sink_seq;
        if !self.seen.insert(number) {
            self.duplicated.insert(number);
        }
        if proof.device != self.origin {
            return;
        }
        let Some(seq) = seq(body) else {
            self.altered.insert(number);
            return;
        };
        // A line of a leaf outside of what was verified cannot be judged.
        let at = seq.checked_sub(self.from).map(|at| at as usize);
        let Some((at, expected)) = at.and_then(|at| Some((at, self.expected.get(at)?))) else {
            return;
        };
        self.written.resize(self.expected.len(), false);
        self.written[at] = true;
        let says = |body: &[u8]| {
            let Proof {
                leaf_hash,
                chain_hash,
                prev_chain_hash,
                ..
            } = &proof;
            // Every leaf of a device has them.
            let (chain, prev) = (chain_hash.as_ref()?, prev_chain_hash.as_ref()?);
            Some(says(leaf_hash, chain, prev, body))
        };
        let covered =
            proof.batch > seq && self.ends.contains(&proof.batch) && proof.judged == "verified";
        let as_sent = match expected {
            Expected::Line(digest) => Some(*digest) == says(body),
            Expected::Bare(digest) => Some(*digest) == says(&[bare(body), b"}"].concat()),
            Expected::Hash(hash) => *hash == proof.leaf_hash && entry_hash(body) == *hash,
        };
        if !as_sent || !covered {
            self.altered.insert(number);
        }
    }

    /// What was found.
    pub fn finish(mut self) -> AuditReport {
        let mut missing = Vec::new();
        let mut next = 0;
        for number in &self.seen {
            // A number made up by somebody must not fill the memory.
            missing.extend((next..*number).take(MISSING_MAX.saturating_sub(missing.len())));
            next = number.saturating_add(1);
        }
        self.written.resize(self.expected.len(), false);
        let leaves = self.expected.iter().zip(&self.written).enumerate();
        let unwritten = leaves
            .filter(|(_, (expected, written))| !matches!(expected, Expected::Hash(_)) && !**written)
            .map(|(at, _)| self.from + at as u64)
            .collect();
        AuditReport {
            lines: self.lines,
            foreign: self.foreign,
            missing,
            altered: self.altered.into_iter().collect(),
            duplicated: self.duplicated.into_iter().collect(),
            unwritten,
        }
    }
}

/// The leaf that the entry in a line says it is.
fn seq(body: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Place {
        seq: u64,
    }
    let place: Place = serde_json::from_slice(&entry(body)).ok()?;
    Some(place.seq)
}

/// The leaf hash of the entry that stands in a line.
fn entry_hash(body: &[u8]) -> Digest {
    leaf_hash(&entry(body))
}

/// The entry that stands in a line.
fn entry(body: &[u8]) -> Vec<u8> {
    [b"{", bare(body), b"}"].concat()
}

/// The entry's fields of a line, without what closes them.
fn bare(body: &[u8]) -> &[u8] {
    // The payload comes last; an entry's own texts cannot hold an unescaped quote.
    let payload = body
        .windows(FULL_CONTEXT.len())
        .position(|part| part == FULL_CONTEXT);
    let end = payload.unwrap_or(body.len().saturating_sub(1));
    body.get(..end).unwrap_or_default()
}

/// The digest of everything in a line that the log determines.
fn says(leaf: &Digest, chain: &Digest, prev: &Digest, body: &[u8]) -> Digest {
    sha256(&[&leaf.0, &chain.0, &prev.0, body])
}

#[cfg(test)]
mod tests {
    use jurat_proof::Chain;

    use super::*;

    const ENTRY: &[u8] =
        br#"{"v":1,"salt":"s","seq":0,"kind":"batch.sealed","object":"a,\"full_context\":b"}"#;

    /// The names of an object, in order.
    struct Names(Vec<String>);

    impl<'de> Deserialize<'de> for Names {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Visitor;
            impl<'de> serde::de::Visitor<'de> for Visitor {
                type Value = Names;
                fn expecting(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    to.write_str("an object")
                }
                fn visit_map<A: serde::de::MapAccess<'de>>(
                    self,
                    mut map: A,
                ) -> Result<Names, A::Error> {
                    let mut names = Vec::new();
                    while let Some((name, _)) = map.next_entry::<_, serde::de::IgnoredAny>()? {
                        names.push(name);
                    }
                    Ok(Names(names))
                }
            }
            deserializer.deserialize_map(Visitor)
        }
    }

    fn audited(change: impl Fn(&str) -> String, payload: Option<&[u8]>) -> AuditReport {
        let origin = "o/jurat/d/0";
        let mut chain = Chain::new(origin);
        let prev_chain = chain.0;
        let hash = leaf_hash(ENTRY);
        let leaf = Leaf {
            origin,
            seq: 0,
            hash,
            content: Some(Content {
                entry: ENTRY,
                payload,
                chain: chain.push(&hash),
                prev_chain,
            }),
        };
        let proof = Proof {
            device: origin.into(),
            leaf_hash: hash,
            chain_hash: Some(chain.0),
            prev_chain_hash: Some(prev_chain),
            sink_seq: 0,
            batch: 1,
            judged: "verified".into(),
        };
        let mut line = Vec::new();
        write(&proof, ENTRY, payload, &mut line);
        let Names(names) = serde_json::from_slice(&line).unwrap();
        let once: BTreeSet<_> = names.iter().collect();
        assert_eq!(once.len(), names.len(), "a name stands twice: {names:?}");
        let mut audit = Audit::default();
        audit.leaf(&leaf);
        audit.line(change(&String::from_utf8(line).unwrap()).as_bytes());
        audit.finish()
    }

    #[test]
    fn a_line_of_a_device_without_its_chain_is_altered_and_one_of_the_collectors_own_log_is_nobody_elses()
     {
        let bare = |line: &str| {
            let (from, to) = (
                line.find(",\"chain_hash\"").unwrap(),
                line.find(",\"sink_seq\"").unwrap(),
            );
            line[..from].to_owned() + &line[to..]
        };
        let report = audited(bare, None);
        assert_eq!((report.foreign, report.altered), (0, vec![0]));
        let own = audited(
            |line| bare(line).replace("o/jurat/d/0", "o/jurat/collector/0"),
            None,
        );
        assert_eq!(
            (own.foreign, own.altered.len(), own.missing.len()),
            (0, 0, 0)
        );
    }

    #[test]
    fn a_line_as_written_is_clean_without_a_name_twice_and_one_with_any_byte_changed_is_not() {
        for payload in [
            None,
            Some(&br#"{"full_context":1}"#[..]),
            Some(b"not json\n"),
        ] {
            assert!(audited(str::to_owned, payload).is_clean());
            let mut at = 0;
            while at < 2_000 {
                let inside = std::cell::Cell::new(true);
                let report = audited(
                    |line| {
                        let mut bytes = line.as_bytes().to_vec();
                        inside.set(at < bytes.len());
                        if let Some(byte) = bytes.get_mut(at) {
                            // Stays ASCII, changes the byte.
                            *byte = if *byte == b'7' { b'8' } else { b'7' };
                        }
                        String::from_utf8(bytes).unwrap()
                    },
                    payload,
                );
                if !inside.get() {
                    break;
                }
                assert!(
                    !report.is_clean(),
                    "byte {at} changed unnoticed: {report:?}"
                );
                at += 1;
            }
            assert!(at > 200, "every byte was tried: {at}");
        }
    }
}
