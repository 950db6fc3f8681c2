//! What an auditor and a collector read.

use std::collections::BTreeSet;
use std::io::Read;

use jurat_collector::fuzzing::first_upload;
use jurat_proof::{
    Chain, Checkpoint, Content, Cosignature, Digest, EntryView, Frontier, Hashed, Leaf, Note,
    Quorum, Record, RecordReader, Replay, Reveal, Signer as _, TilePath, Trust, Verdict,
    VerifierKey, hash_records, leaf_hash, parse_entries, push_entry, verify, write_record,
};
use jurat_sink::line::{self, Audit, Proof};

use crate::{ORIGIN, log_key, p256_key, two};

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
    line_of(data, view.seq);
}

/// The end of a batch, as an entry that follows the one before this number.
fn sealed(seq: u64) -> String {
    format!(
        r#"{{"v":1,"salt":"c2FsdHNhbHRzYWx0c2FsdA","seq":{seq},"boot":"b","time":"t","kind":"batch.sealed"}}"#
    )
}

/// The lines of a sink for a log of these entries, every one of the last batch.
pub fn lines_of(entries: &[(&[u8], Option<&[u8]>)], audit: &mut Audit) -> Vec<u8> {
    let mut chain = Chain::new(ORIGIN);
    let (mut text, mut line) = (Vec::new(), Vec::new());
    // A line's number is its entry's own.
    let first = entries.first();
    let first = first.and_then(|(entry, _)| EntryView::parse(entry).ok());
    let first = first.map_or(0, |view| view.seq);
    for (seq, (entry, payload)) in (first..).zip(entries) {
        let (hash, prev_chain) = (leaf_hash(entry), chain.0);
        let content = Content {
            entry,
            payload: *payload,
            chain: chain.push(&hash),
            prev_chain,
        };
        let leaf = Leaf {
            origin: ORIGIN,
            seq,
            hash,
            content: Some(content),
        };
        audit.leaf(&leaf);
        let proof = Proof {
            device: ORIGIN.into(),
            leaf_hash: hash,
            chain_hash: Some(content.chain),
            prev_chain_hash: Some(prev_chain),
            sink_seq: seq - first,
            batch: first + entries.len() as u64,
            judged: "verified".into(),
        };
        line::write(&proof, entry, *payload, &mut line);
        text.extend_from_slice(&line);
        text.push(b'\n');
    }
    text
}

/// A line that was written for this entry is found unaltered, whatever stands in entry and payload.
fn line_of(entry: &[u8], seq: u64) {
    // No log has as many leaves.
    if seq > 1 << 62 {
        return;
    }
    let sealed = sealed(seq + 1);
    for payload in [None, Some(entry), Some(&b"{\"full_context\":2}"[..])] {
        let mut audit = Audit::default();
        let text = lines_of(&[(entry, payload), (sealed.as_bytes(), None)], &mut audit);
        let lines = text.strip_suffix(b"\n").expect("each line has its end");
        lines
            .split(|byte| *byte == b'\n')
            .for_each(|line| audit.line(line));
        let report = audit.finish();
        assert!(
            report.is_clean(),
            "{report:?} of {}",
            String::from_utf8_lossy(entry)
        );
    }
}

/// A path below a log, and the entries of a bundle: what was read is written as it was.
pub fn tile(data: &[u8]) {
    if let Some(path) = std::str::from_utf8(data).ok().and_then(TilePath::parse) {
        assert_eq!(path.to_string().as_bytes(), data);
    }
    // The first byte says how many entries are expected.
    let Some((width, bytes)) = data.split_first() else {
        return;
    };
    if let Ok(entries) = parse_entries(bytes, u16::from(*width)) {
        let mut again = Vec::new();
        for entry in entries {
            push_entry(&mut again, entry).expect("it was read from a bundle");
        }
        assert_eq!(again, bytes);
    }
}

/// The framing of records, and a replay of what is in it.
pub fn records(data: &[u8]) {
    let mut replay = Replay::new(ORIGIN);
    let mut again = Vec::new();
    let (mut leaves, mut held, mut read) = (0, true, 0);
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
            Record::Checkpoint(bytes) => drop(Note::parse(bytes)),
            Record::Leaves { from, hashes } if held => {
                held = replay.leaves(from, hashes).is_ok();
                leaves += hashes.len() as u64 * u64::from(held);
            }
            _ => {}
        }
    }
    // Many at once gives what one by one gives.
    let (hashed, _) = hash_records(data);
    assert_eq!(hashed.len(), read);
    for Hashed { record, digest } in hashed {
        if let Record::Entry(entry) = record {
            assert_eq!(digest, leaf_hash(entry));
        }
    }
    assert_eq!(again, &data[..again.len()], "framing is one to one");
    assert!(read <= data.len() / 5 && reader.next().is_none());
    if held {
        let (frontier, _, summary) = replay.finish();
        assert_eq!(frontier.size(), leaves);
        assert_eq!(
            summary.events.values().sum::<u64>() + summary.leaves_withheld,
            leaves
        );
    }
}

/// A signed note, the checkpoint in it, its cosignatures; or a verifier key.
pub fn note(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(key) = VerifierKey::parse(&text) {
        assert_eq!(key.to_string(), text.trim(), "one text for one key");
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
    let _ = note.is_signed_by(p256_key().verifier_key());
    for cosigner in ["witness", "archive"] {
        if let Ok(key) = VerifierKey::cosigner(cosigner, key.public_key()) {
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
    let none = verify(tar.as_slice(), None, None, &mut |_| {});
    assert_eq!(none.exit_code(), 2, "without trust nothing is said");
    let Ok(trust) = Trust::parse(&trust) else {
        return;
    };
    let (mut first, mut leaves) = (None, Vec::new());
    let mut input = Counted(&tar, 0);
    let verdict = verify(&mut input, Some(&trust), None, &mut |leaf| {
        first.get_or_insert(leaf.seq);
        let next = first.unwrap_or(0) + leaves.len() as u64;
        assert_eq!(leaf.seq, next, "leaves come in order");
        leaves.push(leaf.hash);
    });
    assert!(input.1 <= tar.len() as u64 / 64 + 64, "{} reads", input.1);
    if let Verdict::Verified(report) = verdict {
        assert_eq!(report.size - report.from, leaves.len() as u64);
        assert!(report.from > 0 || report.root == jurat_proof::root_of(&leaves));
        assert!(trust.keys_of(&report.origin).next().is_some());
        if let Quorum::Count(needed) = trust.quorum {
            assert!(report.axes.witness.names.len() >= needed);
        }
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
    let mut frontier = Frontier::default();
    let mut last = None;
    for record in RecordReader::new(raw) {
        match record.expect("accepted") {
            Record::Entry(entry) => {
                frontier.push(leaf_hash(entry));
                last = None;
            }
            Record::Payload { .. } => {}
            Record::Leaves { hashes, .. } => {
                for hash in hashes {
                    frontier.push(Digest(*hash));
                }
                last = None;
            }
            Record::Checkpoint(note) => last = Some(note.to_vec()),
        }
    }
    assert_eq!(frontier.size(), size);
    let note = Note::parse(&last.expect("it ends in a checkpoint")).expect("accepted");
    let checkpoint = Checkpoint::parse(&note.text).expect("accepted");
    assert_eq!((checkpoint.size, checkpoint.root), (size, frontier.root()));
}

/// Three leaves that a sink should hold, the last of them ends their batch.
pub const SINK: &[(&[u8], Option<&[u8]>)] = &[
    (
        br#"{"v":1,"salt":"c2FsdHNhbHRzYWx0c2FsdA","seq":0,"boot":"b","time":"t","kind":"other","object":"a,\"full_context\":b"}"#,
        None,
    ),
    (
        br#"{"v":1,"salt":"c2FsdHNhbHRzYWx0c2FsdA","seq":1,"boot":"b","time":"t","kind":"other"}"#,
        Some(br#"{"full_context":1}"#),
    ),
    (
        br#"{"v":1,"salt":"c2FsdHNhbHRzYWx0c2FsdA","seq":2,"boot":"b","time":"t","kind":"batch.sealed"}"#,
        None,
    ),
];

/// Lines of a SIEM, as `verify --siem` looks at them. A clean sink holds the lines that were written.
pub fn siem(data: &[u8]) {
    let mut audit = Audit::default();
    let honest = lines_of(SINK, &mut audit);
    let lines: BTreeSet<&[u8]> = data.split(|byte| *byte == b'\n').collect();
    let mut count = 0;
    let mut numbers = BTreeSet::new();
    for line in data.split(|byte| *byte == b'\n') {
        count += 1;
        numbers.extend(line::sink_seq(line));
        audit.line(line);
    }
    let report = audit.finish();
    assert_eq!(report.lines, count);
    assert!(report.foreign <= count);
    assert!(
        report
            .missing
            .iter()
            .all(|number| !numbers.contains(number))
    );
    assert!(report.unwritten.len() <= SINK.len());
    if report.is_clean() {
        // A number of its own is all that a sink gives a line.
        let rest = |line: &[u8]| {
            let text = String::from_utf8_lossy(line).into_owned();
            let (before, after) = text.split_once("\"sink_seq\":").unwrap_or_default();
            let after = after.trim_start_matches(|c: char| c.is_ascii_digit());
            format!("{before}{after}")
        };
        let found: BTreeSet<String> = lines.iter().map(|line| rest(line)).collect();
        for line in honest.split(|byte| *byte == b'\n') {
            assert!(line.is_empty() || found.contains(&rest(line)));
        }
    }
}

/// An entry, and what somebody says it commits to: `<entry> NUL <reveal>`.
pub fn reveal(data: &[u8]) {
    let (entry, text) = two(data, b"\0");
    let Ok(reveal) = Reveal::parse(&text) else {
        return;
    };
    let again = Reveal::parse(reveal.encode().as_bytes());
    assert_eq!(again.as_ref(), Ok(&reveal));
    let Ok(view) = EntryView::parse(entry.as_bytes()) else {
        return;
    };
    if reveal.holds(&view).is_ok() {
        assert_eq!(reveal.seq, view.seq);
        let mut other = reveal;
        other.salt[0] ^= 1;
        assert!(other.holds(&view).is_err(), "one salt opens a commitment");
    }
}
