//! What an auditor and a collector read.

use std::collections::BTreeSet;
use std::io::Read;

use jurat_collector::fuzzing::first_upload;
use jurat_proof::{
    Chain, Checkpoint, Content, Cosignature, Digest, EntryView, Frontier, Leaf, Note, Record,
    RecordReader, Replay, Signer as _, Trust, Verdict, VerifierKey, hash_records, leaf_hash,
    verify, write_record,
};
use jurat_sink::line::{self, Audit, Proof};

use crate::{ORIGIN, log_key, two};

/// An entry. What our reader takes, a reader of plain JSON takes, too, and reads the same in it.
pub fn entry(data: &[u8]) {
    let Ok(view) = EntryView::parse(data) else {
        return;
    };
    let _ = view.detail_map();
    // A lone surrogate in a field that we pass over is the one thing that a plain reader refuses.
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(data) else {
        assert!(data.windows(2).any(|window| window == b"\\u"));
        return;
    };
    assert_eq!(value["seq"], view.seq);
    assert_eq!(value["kind"], *view.kind);
    assert_eq!(value["v"], 1);
    assert_eq!(value["session"].as_str(), view.session.as_deref());
    assert!(!data.contains(&b'\n'));
    line_of(data);
}

const BATCH_SEALED: &[u8] = br#""kind":"batch.sealed""#;

/// A line made of this entry gives its leaf hash back, whatever stands in entry and payload.
fn line_of(entry: &[u8]) {
    let proof = Proof {
        device: ORIGIN.into(),
        seq: 0,
        leaf_hash: leaf_hash(entry),
        chain_hash: Digest::default(),
        prev_chain_hash: Digest::default(),
        sink_seq: 0,
        batch: 1,
        judged: "verified".into(),
    };
    for payload in [
        None,
        Some(entry),
        Some(&b"{\"a\":1,\"full_context\":2}"[..]),
    ] {
        let mut out = Vec::new();
        line::write(&proof, entry, payload, &mut out);
        assert_eq!(line::sink_seq(&out), Some(0));
        let mut audit = Audit::default();
        audit.leaf(&Leaf {
            origin: ORIGIN,
            seq: 0,
            hash: proof.leaf_hash,
            content: Some(Content {
                entry,
                payload,
                chain: proof.chain_hash,
                prev_chain: proof.prev_chain_hash,
            }),
        });
        audit.line(&out);
        let report = audit.finish();
        // `batch` is right only where the entry itself ends one.
        let ends = entry
            .windows(BATCH_SEALED.len())
            .any(|part| part == BATCH_SEALED);
        assert_eq!(report.is_clean(), ends, "{report:?}");
    }
}

/// The framing of records, and a replay of what is in it.
pub fn records(data: &[u8]) {
    let mut replay = Replay::new(ORIGIN);
    let mut again = Vec::new();
    let (mut leaves, mut withheld, mut held, mut read) = (0, 0, true, 0);
    let mut reader = RecordReader::new(data);
    for record in reader.by_ref() {
        let Ok(record) = record else { break };
        read += 1;
        write_record(&mut again, &record);
        match record {
            Record::Entry(bytes) if held => {
                held = replay.entry(bytes).is_ok();
                leaves += u64::from(held);
            }
            Record::Payload { salt, bytes } if held => held = replay.payload(salt, bytes).is_ok(),
            Record::Leaves { from, hashes } if held => {
                held = replay.leaves(from, hashes).is_ok();
                withheld += if held { hashes.len() as u64 } else { 0 };
            }
            Record::Checkpoint(bytes) => drop(Note::parse(bytes)),
            _ => {}
        }
    }
    assert_eq!(again, &data[..again.len()], "framing is one to one");
    assert!(read <= data.len() / 5 && reader.next().is_none());
    if held {
        let (frontier, _, summary) = replay.finish();
        assert_eq!(frontier.size(), leaves + withheld);
        assert_eq!(summary.events.values().sum::<u64>(), leaves);
        assert_eq!(summary.leaves_withheld, withheld);
    }
    // Hashed many at a time, it is the same.
    let (hashed, failed) = hash_records(data);
    assert_eq!(
        (hashed.len(), failed.is_some()),
        (read, again.len() < data.len())
    );
    for hashed in hashed {
        if let Record::Entry(entry) = hashed.record {
            assert_eq!(hashed.digest, leaf_hash(entry));
        }
    }
}

/// A signed note, the checkpoint in it, its cosignatures; or a verifier key.
pub fn note(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(key) = VerifierKey::parse(&text) {
        assert_eq!(VerifierKey::parse(&key.to_string()), Ok(key));
    }
    if let Ok(checkpoint) = Checkpoint::parse(&text) {
        assert_eq!(checkpoint.body(), text);
    }
    let Ok(note) = Note::parse(data) else { return };
    assert_eq!(note.encode().as_bytes(), data, "one text for one note");
    let key = log_key();
    let signed = note.is_signed_by(key.verifier_key());
    if let Ok(checkpoint) = Checkpoint::parse(&note.text) {
        assert_eq!(checkpoint.body(), note.text);
        if signed == Ok(true) {
            // Ed25519 is deterministic: there is one signature of ours for a text.
            let ours = checkpoint.sign(&key).expect("a software key signs");
            assert!(note.signatures.contains(&ours.signatures[0]));
        }
    }
    for cosigner in ["witness", "archive"] {
        if let Ok(key) = VerifierKey::cosigner(cosigner, key.verifier_key().key) {
            let _ = Cosignature::find(&note, &key);
        }
    }
}

/// A reader that counts, so that no header can make the verifier read more than there is.
struct Counted<'a>(&'a [u8], u64);

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.1 += 1;
        self.0.read(buffer)
    }
}

/// A bundle under a trust text, both from a stranger: `<trust text> NUL <tar>`.
pub fn bundle(data: &[u8]) {
    let (trust, tar) = two(data, b"\0");
    let none = verify(tar.as_slice(), None, &mut |_| {});
    assert_eq!(none.exit_code(), 2, "without trust nothing is said");
    let Ok(trust) = Trust::parse(&trust) else {
        return;
    };
    let mut leaves = Vec::new();
    let mut input = Counted(&tar, 0);
    let verdict = verify(&mut input, Some(&trust), &mut |leaf| {
        assert_eq!(leaf.seq, leaves.len() as u64, "leaves come in order");
        leaves.push(leaf.hash);
    });
    assert!(input.1 <= tar.len() as u64 / 64 + 64, "{} reads", input.1);
    if let Verdict::Verified(report) = verdict {
        assert_eq!(report.size, leaves.len() as u64);
        assert_eq!(report.root, jurat_proof::root_of(&leaves));
        assert!(trust.keys_of(&report.origin).next().is_some());
        assert!(report.axes.witness.names.len() >= trust.quorum);
    }
}

/// An upload: as it is sent, or (first byte 1) its records, which are compressed here.
pub fn upload(data: &[u8]) {
    let key = log_key();
    let key = key.verifier_key();
    let Some((1, raw)) = data.split_first() else {
        let _ = first_upload(data, ORIGIN, key);
        return;
    };
    let body = zstd::bulk::compress(raw, 1).expect("memory can be compressed");
    let Ok(size) = first_upload(&body, ORIGIN, key) else {
        return;
    };
    // What was accepted holds together as anybody would count it.
    let (mut frontier, mut chain) = (Frontier::default(), Chain::new(ORIGIN));
    let mut last = None;
    for record in RecordReader::new(raw) {
        match record.expect("accepted") {
            Record::Entry(entry) => {
                frontier.push(leaf_hash(entry));
                chain.push(&leaf_hash(entry));
                last = None;
            }
            Record::Leaves { hashes, .. } => {
                for hash in hashes {
                    frontier.push(Digest(*hash));
                    chain.push(&Digest(*hash));
                }
                last = None;
            }
            Record::Payload { .. } => {}
            Record::Checkpoint(note) => last = Some(note.to_vec()),
        }
    }
    assert_eq!(frontier.size(), size);
    let note = Note::parse(&last.expect("it ends in a checkpoint")).expect("accepted");
    let checkpoint = Checkpoint::parse(&note.text).expect("accepted");
    assert_eq!((checkpoint.size, checkpoint.root), (size, frontier.root()));
}

/// Lines of a SIEM, as `verify --siem` looks at them.
pub fn siem(data: &[u8]) {
    let mut audit = Audit::default();
    let entry = br#"{"v":1,"kind":"batch.sealed"}"#;
    let hash = leaf_hash(entry);
    audit.leaf(&Leaf {
        origin: ORIGIN,
        seq: 0,
        hash,
        content: Some(Content {
            entry,
            payload: None,
            chain: hash,
            prev_chain: hash,
        }),
    });
    let (mut lines, mut foreign, mut numbers) = (0, 0, BTreeSet::new());
    for line in data.split(|byte| *byte == b'\n') {
        lines += 1;
        match line::sink_seq(line) {
            None => foreign += 1,
            Some(number) => drop(numbers.insert(number)),
        }
        audit.line(line);
    }
    let report = audit.finish();
    assert_eq!((report.lines, report.foreign), (lines, foreign));
    assert!(
        report
            .missing
            .iter()
            .all(|number| !numbers.contains(number))
    );
    assert!(report.unwritten.len() <= 1);
    if lines == foreign {
        assert!(!report.is_clean(), "no line is no clean sink");
    }
}
