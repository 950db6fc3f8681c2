//! Makes logs and bundles, right and wrong ones: nothing here checks what it writes.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jurat_key::{HeldSigner, Secret, SoftwareKey};
use jurat_proof::{
    Chain, Checkpoint, Cosignature, Digest, Frontier, Note, Receipt, Record, Rotation, Signer,
    consistency_proof, context_hasher, inclusion_proof, leaf_hash, root_of, sha256, write_record,
};
use serde_json::{Map, Value, json};

pub(super) const ORIGIN: &str = "vectors.example/jurat/device/0";
pub(super) const LOG_OF_LOGS: &str = "vectors.example/jurat/collector/0";
/// 2026-09-21T00:00:00Z, the time of leaf 0; each leaf is a second later.
pub(super) const T0: u64 = 1_789_948_800;

/// The keys of all vectors. Their seeds are numbers: they protect nothing.
pub(super) struct Keys {
    pub(super) device: SoftwareKey,
    pub(super) next: SoftwareKey,
    pub(super) third: SoftwareKey,
    pub(super) stranger: SoftwareKey,
    pub(super) hardware: HeldSigner,
    pub(super) elsewhere: SoftwareKey,
    pub(super) witnesses: [SoftwareKey; 3],
    pub(super) archive: SoftwareKey,
    pub(super) collector: SoftwareKey,
}

pub(super) static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let seed = |seed: u8| Secret::from_bytes([seed; 32]);
    let log = |number, name: &str| SoftwareKey::log(&seed(number), name).unwrap();
    let cosigner = |number, name: &str| SoftwareKey::cosigner(&seed(number), name).unwrap();
    Keys {
        device: log(1, ORIGIN),
        next: log(2, ORIGIN),
        third: log(3, ORIGIN),
        stranger: log(4, ORIGIN),
        hardware: super::kept::key(5, ORIGIN),
        elsewhere: log(1, "vectors.example/jurat/other/0"),
        witnesses: [
            cosigner(6, "w1.example/witness"),
            cosigner(7, "w2.example/witness"),
            cosigner(8, "w3.example/witness"),
        ],
        archive: cosigner(9, "vectors.example/jurat/archive"),
        collector: log(10, LOG_OF_LOGS),
    }
});

/// A key and, for a cosigner, the time.
pub(super) type By = (&'static dyn Signer, u64);

pub(super) fn device() -> By {
    (&KEYS.device, 0)
}

/// Witness `number`, `after` seconds after leaf 0.
pub(super) fn witness(number: usize, after: u64) -> By {
    (&KEYS.witnesses[number - 1], T0 + after)
}

pub(super) fn archive(after: u64) -> By {
    (&KEYS.archive, T0 + after)
}

/// A signed head.
pub(super) fn note(origin: &str, size: u64, root: Digest, signers: &[By]) -> Note {
    let origin = origin.to_owned();
    let head = Checkpoint { origin, size, root };
    sign(&head.body(), signers)
}

pub(super) fn sign(text: &str, signers: &[By]) -> Note {
    let line = |(key, time): &By| match key.verifier_key().alg {
        4 => Cosignature::sign(*key, *time, text).unwrap(),
        _ => key.sign_note(text).unwrap(),
    };
    Note {
        text: text.to_owned(),
        signatures: signers.iter().map(line).collect(),
    }
}

/// The note with its signature `line` spoilt.
pub(super) fn spoilt(mut note: Note, line: usize) -> Note {
    *note.signatures[line].bytes.last_mut().unwrap() ^= 1;
    note
}

/// The text form of an entry: `v` stands first.
pub(super) fn entry_of(fields: &Value) -> Vec<u8> {
    format!("{{\"v\":1,{}", &fields.to_string()[1..]).into_bytes()
}

fn time_of(seq: u64) -> String {
    let (hour, minute, second) = (seq / 3_600, seq / 60 % 60, seq % 60);
    format!("2026-09-21T{hour:02}:{minute:02}:{second:02}.000000000Z")
}

/// A log that is being written.
#[derive(Clone, Default)]
pub(super) struct Log {
    /// Records in order, framed, with the number of leaves before each and in it.
    records: Vec<(u64, u64, Vec<u8>)>,
    pub(super) leaves: Vec<Digest>,
    batch_from: u64,
}

impl Log {
    pub(super) fn size(&self) -> u64 {
        self.leaves.len() as u64
    }

    pub(super) fn root(&self) -> Digest {
        root_of(&self.leaves)
    }

    pub(super) fn chain_before(&self, seq: u64) -> Chain {
        let mut chain = Chain::new(ORIGIN);
        for leaf in &self.leaves[..seq as usize] {
            chain.push(leaf);
        }
        chain
    }

    /// Any record, with the leaves that it holds.
    pub(super) fn record(mut self, record: &Record<'_>) -> Self {
        let before = self.size();
        match record {
            Record::Entry(entry) => self.leaves.push(leaf_hash(entry)),
            Record::Leaves { hashes, .. } => {
                self.leaves.extend(hashes.iter().map(|hash| Digest(*hash)));
            }
            Record::Payload { .. } | Record::Checkpoint(_) => {}
        }
        let mut framed = Vec::new();
        write_record(&mut framed, record);
        self.records.push((before, self.size() - before, framed));
        self
    }

    /// Bytes among the records.
    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.records.push((self.size(), 0, bytes.to_vec()));
        self
    }

    /// The fields of the next entry.
    pub(super) fn fields(&self, kind: &str, more: Value) -> Value {
        let seq = self.size();
        let mut fields = json!({
            "salt": format!("{seq:022}"), "seq": seq, "boot": "0123456789abcdef0123456789abcdef",
            "time": time_of(seq), "kind": kind,
        });
        let Value::Object(more) = more else {
            unreachable!("fields are an object");
        };
        fields.as_object_mut().unwrap().extend(more);
        fields
    }

    pub(super) fn entry(self, kind: &str, more: Value) -> Self {
        let entry = entry_of(&self.fields(kind, more));
        self.record(&Record::Entry(&entry))
    }

    pub(super) fn opened(self) -> Self {
        let detail = json!({ "origin": ORIGIN, "isolation": "separate", "custody": false });
        self.entry("log.opened", json!({ "detail": detail }))
    }

    /// A leaf of a session.
    pub(super) fn said(self, session: &str, number: u64) -> Self {
        self.entry(
            "tool.call",
            json!({ "session": session, "session_seq": number }),
        )
    }

    /// Likewise, of the run with this number.
    pub(super) fn said_in(self, session: &str, number: u64, run: u64) -> Self {
        self.entry(
            "tool.call",
            json!({ "session": session, "session_seq": number, "session_run": run }),
        )
    }

    pub(super) fn ended(self, session: &str, number: u64) -> Self {
        let detail = json!({ "count": number + 1 });
        self.entry(
            "session.ended",
            json!({ "session": session, "session_seq": number, "detail": detail }),
        )
    }

    pub(super) fn ended_in(self, session: &str, number: u64, run: u64) -> Self {
        let detail = json!({ "count": number + 1 });
        self.entry(
            "session.ended",
            json!({ "session": session, "session_seq": number, "session_run": run, "detail": detail }),
        )
    }

    /// An entry that commits to a payload, without the payload.
    pub(super) fn commits(self, session: &str, number: u64, payload: &[u8]) -> Self {
        let sha256 = context_hasher(&self.salt())
            .update(payload)
            .clone()
            .finish();
        let context = json!({ "sha256": sha256, "len": payload.len(), "redactions": 2 });
        self.entry(
            "prompt.submitted",
            json!({ "session": session, "session_seq": number, "context": context }),
        )
    }

    /// The salt of the next leaf's payload.
    fn salt(&self) -> [u8; 32] {
        sha256(&[b"salt", &self.size().to_le_bytes()]).0
    }

    /// The payload of the entry before.
    pub(super) fn payload(self, bytes: &[u8]) -> Self {
        let salt = sha256(&[b"salt", &(self.size() - 1).to_le_bytes()]).0;
        let record = Record::Payload { salt: &salt, bytes };
        self.record(&record)
    }

    pub(super) fn batch(self) -> Self {
        self.batch_with(json!({}))
    }

    /// A `batch.sealed` whose detail has these fields instead.
    pub(super) fn batch_with(self, changed: Value) -> Self {
        let at = self.size();
        let mut detail = json!({
            "count": at - self.batch_from, "chain": self.chain_before(at).0, "isolation": "separate",
            "policy": "p", "filtered": { "duplicate": 3 },
        });
        let Value::Object(changed) = changed else {
            unreachable!("a detail is an object");
        };
        detail.as_object_mut().unwrap().extend(changed);
        let mut log = self.entry("batch.sealed", json!({ "detail": detail }));
        log.batch_from = at + 1;
        log
    }

    /// Leaves of which only the hash is there, at the place that they say.
    pub(super) fn hidden_at(self, from: u64, count: u8) -> Self {
        let hash = |number| sha256(&[b"hidden", &[number]]).0;
        let hashes: Vec<[u8; 32]> = (0..count).map(hash).collect();
        self.record(&Record::Leaves {
            from,
            hashes: &hashes,
        })
    }

    pub(super) fn hidden(self, count: u8) -> Self {
        let from = self.size();
        self.hidden_at(from, count)
    }

    /// A head over all leaves so far.
    pub(super) fn head(self, signers: &[By]) -> Self {
        let note = note(ORIGIN, self.size(), self.root(), signers);
        self.noted(&note)
    }

    pub(super) fn noted(self, note: &Note) -> Self {
        let note = note.encode();
        self.record(&Record::Checkpoint(note.as_bytes()))
    }

    pub(super) fn rotated(self, from: &dyn Signer, to: &dyn Signer) -> Self {
        let detail = Rotation::detail(from.verifier_key(), to).unwrap();
        self.rotated_as(detail)
    }

    pub(super) fn rotated_as(self, detail: Map<String, Value>) -> Self {
        self.entry("key.rotated", json!({ "detail": detail }))
    }

    /// The head with the signatures that most vectors have.
    pub(super) fn signed(&self) -> Note {
        self.signed_by(&[device(), witness(1, 60), archive(61)])
    }

    pub(super) fn signed_by(&self, signers: &[By]) -> Note {
        note(ORIGIN, self.size(), self.root(), signers)
    }

    /// `later`: so many leaves more, signed by these.
    pub(super) fn later(&self, more: u8, origin: &str, signers: &[By]) -> Vec<u8> {
        let mut leaves = self.leaves.clone();
        leaves.extend((0..more).map(|number| sha256(&[b"later", &[number]])));
        let proof = consistency_proof(&leaves, self.leaves.len()).unwrap();
        let head = note(origin, leaves.len() as u64, root_of(&leaves), signers);
        later_of(&proof, &head)
    }

    /// What the collector's log says of this head.
    pub(super) fn accepted(&self, seq: u64) -> Value {
        let detail = json!({ "origin": ORIGIN, "size": self.size(), "root": self.root() });
        let mut fields = Self::default().fields("frontier.accepted", json!({ "detail": detail }));
        fields["seq"] = seq.into();
        fields
    }

    pub(super) fn receipt(&self) -> Receipt {
        receipt_of(
            entry_of(&self.accepted(2)),
            LOG_OF_LOGS,
            &[(&KEYS.collector, 0), witness(2, 70)],
        )
    }

    /// A bundle of the leaves from `from` on.
    pub(super) fn bundle(&self, from: u64) -> Bundle {
        self.bundle_under(from, &self.signed())
    }

    pub(super) fn bundle_under(&self, from: u64, head: &Note) -> Bundle {
        self.split(from, u64::MAX, head)
    }

    /// Likewise, with a second part from leaf `second` on.
    pub(super) fn split(&self, from: u64, second: u64, head: &Note) -> Bundle {
        let manifest = json!({
            "format": "jurat-bundle", "v": 2, "origin": ORIGIN, "from": from, "size": self.size(),
        });
        let mut members = vec![
            ("jurat.json".to_owned(), manifest.to_string().into_bytes()),
            ("README.md".to_owned(), b"A vector of Jurat.\n".to_vec()),
            ("checkpoint".to_owned(), head.encode().into_bytes()),
        ];
        if from > 0 {
            let mut before = Frontier::default();
            before.extend(&self.leaves[..from as usize]);
            let mut prefix = self.chain_before(from).0.0.to_vec();
            for root in before.roots() {
                prefix.extend_from_slice(&root.0);
            }
            members.push(("prefix".to_owned(), prefix));
        }
        let mut parts = vec![(Vec::new(), Vec::new())];
        for (before, count, record) in &self.records {
            // What stands at the very begin of a range is a head, or its first leaf.
            let is_first_payload = *count == 0 && record.first() == Some(&2) && *before == from;
            if *before < from || (from > 0 && is_first_payload) {
                continue;
            }
            if *before >= second && *count > 0 && parts.len() == 1 {
                parts.push((Vec::new(), Vec::new()));
            }
            let (hashes, records) = parts.last_mut().unwrap();
            let leaves = *before as usize..(before + count) as usize;
            for leaf in &self.leaves[leaves] {
                hashes.extend_from_slice(&leaf.0);
            }
            records.extend_from_slice(record);
        }
        for (number, (hashes, records)) in parts.into_iter().enumerate() {
            members.push((format!("hashes/{number:06}"), hashes));
            members.push((format!("records/{number:06}"), records));
        }
        Bundle { members }
    }
}

pub(super) fn later_of(proof: &[Digest], head: &Note) -> Vec<u8> {
    let mut text = String::new();
    for hash in proof {
        text.push_str(&BASE64.encode(hash.0));
        text.push('\n');
    }
    format!("{text}\n{}", head.encode()).into_bytes()
}

/// A receipt for this entry at place 2 of a log of five leaves.
pub(super) fn receipt_of(entry: Vec<u8>, origin: &str, signers: &[By]) -> Receipt {
    let mut leaves: Vec<Digest> = (0..5_u8).map(|leaf| leaf_hash(&[leaf])).collect();
    leaves[2] = leaf_hash(&entry);
    Receipt {
        entry,
        index: 2,
        proof: inclusion_proof(&leaves, 2).unwrap(),
        note: note(origin, 5, root_of(&leaves), signers),
    }
}

/// The members of a bundle, in order.
#[derive(Clone)]
pub(super) struct Bundle {
    pub(super) members: Vec<(String, Vec<u8>)>,
}

impl Bundle {
    fn at(&self, name: &str) -> usize {
        let mut members = self.members.iter();
        members.position(|(other, _)| other == name).unwrap()
    }

    pub(super) fn get(&self, name: &str) -> &[u8] {
        &self.members[self.at(name)].1
    }

    pub(super) fn set(mut self, name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        let at = self.at(name);
        self.members[at].1 = bytes.into();
        self
    }

    pub(super) fn edit(mut self, name: &str, edit: impl FnOnce(&mut Vec<u8>)) -> Self {
        let at = self.at(name);
        edit(&mut self.members[at].1);
        self
    }

    /// Replaces a text of the same or another length in a member.
    pub(super) fn replace(self, name: &str, from: &str, to: &str) -> Self {
        self.edit(name, |bytes| {
            let (from, to) = (from.as_bytes(), to.as_bytes());
            let mut windows = bytes.windows(from.len());
            let at = windows.position(|part| part == from).unwrap();
            bytes.splice(at..at + from.len(), to.iter().copied());
        })
    }

    /// Another `jurat.json` field.
    pub(super) fn manifest(self, field: &str, value: Value) -> Self {
        let mut manifest: Value = serde_json::from_slice(self.get("jurat.json")).unwrap();
        manifest[field] = value;
        self.set("jurat.json", manifest.to_string())
    }

    /// Adds a member before this one.
    pub(super) fn before(mut self, other: &str, name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        let at = self.at(other);
        self.members.insert(at, (name.to_owned(), bytes.into()));
        self
    }

    pub(super) fn later(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.before("hashes/000000", "later", bytes)
    }

    pub(super) fn receipt(self, receipt: &Receipt) -> Self {
        self.before("hashes/000000", "receipt", receipt.encode())
    }

    pub(super) fn without(mut self, name: &str) -> Self {
        let at = self.at(name);
        self.members.remove(at);
        self
    }

    pub(super) fn tar(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, bytes) in &self.members {
            out.extend_from_slice(&header(name, bytes.len() as u64));
            out.extend_from_slice(bytes);
            out.resize(out.len().next_multiple_of(512), 0);
        }
        out.resize(out.len() + 1024, 0);
        out
    }

    /// The tar with bytes of the header of one member changed, and its checksum repaired.
    pub(super) fn with_header(&self, name: &str, at: usize, bytes: &[u8]) -> Vec<u8> {
        let before = Self {
            members: self.members[..self.at(name)].to_vec(),
        };
        let start = before.tar().len() - 1024;
        let mut tar = self.tar();
        let header = &mut tar[start..start + 512];
        header[at..at + bytes.len()].copy_from_slice(bytes);
        check(header);
        tar
    }
}

fn header(name: &str, size: u64) -> [u8; 512] {
    let mut header = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(156, b"0");
    put(257, b"ustar\x0000");
    check(&mut header);
    header
}

/// Writes a header's checksum.
fn check(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}
