//! A line in a SIEM: `device, seq, leaf_hash, chain_hash, prev_chain_hash, sink_seq, batch, judged`,
//! then the entry's own fields as they were sealed, then `full_context`.
//!
//! The entry's bytes stand in the line unchanged, so the line alone is enough to compute its leaf
//! hash again (`docs/formats/siem-line.md`).

use std::collections::BTreeMap;

use jurat_proof::{Digest, leaf_hash};
use serde::{Deserialize, Serialize};

/// The proof that every line carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The log.
    pub device: String,
    /// The leaf.
    pub seq: u64,
    /// Its hash.
    pub leaf_hash: Digest,
    /// The chain after it.
    pub chain_hash: Digest,
    /// The chain before it.
    pub prev_chain_hash: Digest,
    /// The number of this line in this sink; contiguous.
    pub sink_seq: u64,
    /// The size of the checkpoint that covers it.
    pub batch: u64,
    /// What the sender could check: `verified` or `sealed`.
    pub judged: String,
}

/// Where the entry's own fields begin.
const ENTRY_FIELDS: &str = ",\"v\":";

/// Writes a line, without its line end.
pub fn write(proof: &Proof, entry: &[u8], payload: Option<&[u8]>, out: &mut Vec<u8>) {
    out.clear();
    // Writing to memory does not fail.
    let _ = serde_json::to_writer(&mut *out, proof);
    out.pop();
    out.push(b',');
    out.extend_from_slice(
        entry
            .get(1..entry.len().saturating_sub(1))
            .unwrap_or_default(),
    );
    if let Some(payload) = payload {
        out.extend_from_slice(b",\"full_context\":");
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

/// What a line says of itself, once its leaf hash was computed again from its own bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// The entry in the line has the leaf hash that the line names.
    Consistent(Proof),
    /// It has another: the line was altered.
    Altered(Proof),
    /// Not a line of ours.
    Foreign,
}

/// Reads a line and computes its leaf hash from its own bytes.
pub fn check(line: &[u8]) -> Checked {
    let Ok(text) = std::str::from_utf8(line) else {
        return Checked::Foreign;
    };
    let Some(split) = text.find(ENTRY_FIELDS) else {
        return Checked::Foreign;
    };
    let head = format!("{}}}", &text[..split]);
    let Ok(proof) = serde_json::from_str::<Proof>(&head) else {
        return Checked::Foreign;
    };
    let fields = &text[split + 1..];
    // The payload comes last; an entry's own strings cannot hold an unescaped quote.
    let end = fields
        .find(",\"full_context\":")
        .unwrap_or(fields.len().saturating_sub(1));
    let entry = format!("{{{}}}", fields.get(..end).unwrap_or_default());
    if leaf_hash(entry.as_bytes()) == proof.leaf_hash {
        Checked::Consistent(proof)
    } else {
        Checked::Altered(proof)
    }
}

/// Compares the lines of a sink with the log they claim to come from.
#[derive(Debug, Default)]
pub struct Audit {
    lines: u64,
    foreign: u64,
    altered: Vec<u64>,
    duplicated: Vec<u64>,
    seen: BTreeMap<u64, Proof>,
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
    /// Lines whose content is not what their leaf hash says, or whose leaf hash is not the log's.
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

/// The most missing numbers that are listed.
const MISSING_MAX: usize = 100_000;

impl Audit {
    /// Takes the next line, without its line end.
    pub fn line(&mut self, line: &[u8]) {
        self.lines += 1;
        match check(line) {
            Checked::Foreign => self.foreign += 1,
            Checked::Altered(proof) => {
                self.altered.push(proof.sink_seq);
                self.seen.insert(proof.sink_seq, proof);
            }
            Checked::Consistent(proof) => {
                let number = proof.sink_seq;
                if self.seen.insert(number, proof).is_some() {
                    self.duplicated.push(number);
                }
            }
        }
    }

    /// Compares with the verified leaves of one log.
    pub fn finish(mut self, origin: &str, leaves: &[Digest]) -> AuditReport {
        let mut missing = Vec::new();
        let mut next = 0;
        for number in self.seen.keys() {
            // A number made up by somebody must not fill the memory.
            missing.extend((next..*number).take(MISSING_MAX.saturating_sub(missing.len())));
            next = number.saturating_add(1);
        }
        let mut written = vec![false; leaves.len()];
        for (number, proof) in self.seen.iter().filter(|(_, proof)| proof.device == origin) {
            let Some(leaf) = leaves.get(proof.seq as usize) else {
                continue;
            };
            written[proof.seq as usize] = true;
            if *leaf != proof.leaf_hash && !self.altered.contains(number) {
                self.altered.push(*number);
            }
        }
        let unwritten = (0..leaves.len() as u64)
            .filter(|seq| !written[*seq as usize])
            .collect();
        AuditReport {
            lines: self.lines,
            foreign: self.foreign,
            missing,
            altered: self.altered,
            duplicated: self.duplicated,
            unwritten,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(entry: &[u8]) -> Proof {
        Proof {
            device: "o/jurat/d/0".into(),
            seq: 3,
            leaf_hash: leaf_hash(entry),
            chain_hash: Digest([1; 32]),
            prev_chain_hash: Digest([2; 32]),
            sink_seq: 9,
            batch: 12,
            judged: "verified".into(),
        }
    }

    #[test]
    fn a_line_gives_its_own_leaf_hash_back_and_an_altered_one_does_not() {
        let entry = br#"{"v":1,"salt":"s","seq":3,"object":"a,\"full_context\":b"}"#;
        for payload in [
            None,
            Some(&br#"{"full_context":1}"#[..]),
            Some(b"not json\n"),
        ] {
            let mut line = Vec::new();
            write(&proof(entry), entry, payload, &mut line);
            assert!(serde_json::from_slice::<serde_json::Value>(&line).is_ok());
            assert_eq!(check(&line), Checked::Consistent(proof(entry)));
            let altered = String::from_utf8(line)
                .unwrap()
                .replace("\"salt\":\"s\"", "\"salt\":\"t\"");
            assert_eq!(check(altered.as_bytes()), Checked::Altered(proof(entry)));
        }
        assert_eq!(check(b"{\"a\":1}"), Checked::Foreign);
    }
}
