//! One thing is changed in a bundle and everything that can be repaired is repaired: what each
//! region yields (`docs/formats/bundle.md` has the same table).

use std::collections::BTreeMap;
use std::fs;
use std::io::BufReader;

use jurat_attest::Offline;
use jurat_disk::Host;
use jurat_key::{Secret, SoftwareKey};
use jurat_proof::{
    BundleReader, BundleWriter, Chain, Checkpoint, Front, Frontier, Note, Reason, Record,
    RecordReader, Trust, Verdict, leaf_hash, verify, verify_with,
};
use serde_json::Value;

use crate::fleet::Fleet;

/// A log taken apart: what stands before its leaves, and the records.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) front: Front,
    pub(crate) records: Vec<Owned>,
}

#[derive(Clone)]
pub(crate) enum Owned {
    Entry(Vec<u8>),
    Payload([u8; 32], Vec<u8>),
    Note(Vec<u8>),
}

pub(crate) fn load(bytes: &[u8]) -> Case {
    let (mut reader, front) = BundleReader::open(BufReader::new(bytes)).unwrap();
    let mut records = Vec::new();
    while let Some(part) = reader.next_part().unwrap() {
        for record in RecordReader::new(&part.records) {
            records.push(match record.unwrap() {
                Record::Entry(entry) => Owned::Entry(entry.to_vec()),
                Record::Payload { salt, bytes } => Owned::Payload(*salt, bytes.to_vec()),
                Record::Checkpoint(note) => Owned::Note(note.to_vec()),
                Record::Leaves { .. } => unreachable!("no leaf was withheld"),
            });
        }
    }
    Case { front, records }
}

/// An entry begins with its version, whatever order a map has.
pub(crate) fn entry_of(mut value: Value) -> Vec<u8> {
    value.as_object_mut().unwrap().remove("v");
    format!("{{\"v\":1,{}", &value.to_string()[1..]).into_bytes()
}

impl Case {
    /// Writes the bundle; leaf hashes are computed from the entries as they now are.
    pub(crate) fn store(&self) -> Vec<u8> {
        let mut writer = BundleWriter::new(Vec::new(), &self.front).unwrap();
        for record in &self.records {
            match record {
                Owned::Entry(entry) => writer.record(&Record::Entry(entry)).unwrap(),
                Owned::Payload(salt, bytes) => {
                    writer.record(&Record::Payload { salt, bytes }).unwrap();
                }
                Owned::Note(note) => writer.record(&Record::Checkpoint(note)).unwrap(),
            }
        }
        writer.finish().unwrap()
    }

    /// Repairs everything that can be computed, and signs every head anew with the stolen key.
    pub(crate) fn resign(&mut self, key: &SoftwareKey) {
        let origin = self.front.manifest.origin.clone();
        let mut chain = Chain::new(&origin);
        let mut frontier = Frontier::default();
        let mut count = 0_u64;
        let mut sessions: BTreeMap<String, u64> = BTreeMap::new();
        let mut records = Vec::new();
        let head = |frontier: &Frontier| {
            let head = Checkpoint {
                origin: origin.clone(),
                size: frontier.size(),
                root: frontier.root(),
            };
            head.sign(key).unwrap().encode().into_bytes()
        };
        for record in self.records.drain(..) {
            let entry = match record {
                Owned::Entry(entry) => entry,
                Owned::Payload(..) => {
                    records.push(record);
                    continue;
                }
                Owned::Note(_) => continue,
            };
            let as_it_was: Value = serde_json::from_slice(&entry).unwrap();
            let mut value = as_it_was.clone();
            value["seq"] = frontier.size().into();
            if let Some(session) = value["session"].as_str().map(str::to_owned) {
                let number = sessions.entry(session.clone()).or_default();
                value["session_seq"] = (*number).into();
                *number += 1;
                if value["kind"] == "session.ended" {
                    value["detail"]["count"] = (*number).into();
                    sessions.remove(&session);
                }
            }
            let sealed = value["kind"] == "batch.sealed";
            if sealed {
                value["detail"]["chain"] = chain.0.to_string().into();
                value["detail"]["count"] = count.into();
                count = 0;
            } else {
                count += 1;
            }
            // What needs no repair keeps its bytes: it is the leaf that was witnessed.
            let entry = if value == as_it_was {
                entry
            } else {
                entry_of(value)
            };
            let leaf = leaf_hash(&entry);
            chain.push(&leaf);
            frontier.push(leaf);
            records.push(Owned::Entry(entry));
            if sealed {
                records.push(Owned::Note(head(&frontier)));
            }
        }
        self.records = records;
        self.front = Front::whole(&origin, frontier.size(), &head(&frontier));
    }

    /// The first entry that holds this text.
    pub(crate) fn entry(&mut self, text: &str) -> &mut Vec<u8> {
        let found = self.records.iter_mut().find_map(|record| match record {
            Owned::Entry(entry)
                if entry
                    .windows(text.len())
                    .any(|window| window == text.as_bytes()) =>
            {
                Some(entry)
            }
            _ => None,
        });
        found.unwrap()
    }
}

pub(crate) fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    assert!(text.contains(from), "{from}");
    text.replacen(from, to, 1).into_bytes()
}

#[test]
fn no_single_change_reaches_the_pinned_verdict_whatever_is_repaired_after_it() {
    let fleet = Fleet::start("");
    for n in 0..5 {
        fleet.append(
            "p/a.jsonl",
            &format!(
                "{{\"type\":\"assistant\",\"uuid\":\"u{n}\",\"sessionId\":\"s\",\"message\":{{\"id\":\"m{n}\",\"content\":[{{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"Bash\",\"input\":{{\"command\":\"step {n}\"}}}}]}}}}\n"
            ),
        );
    }
    fleet.run_once();
    fleet.append("p/a.jsonl", "{\"type\":\"summary\",\"summary\":\"end\"}\n");
    fleet.run_once();
    assert_eq!(fleet.verify("case.jurat")["verdict"], "verified");
    let good = fs::read(fleet.path("case.jurat")).unwrap();
    let trust = Trust::parse(&fs::read_to_string(fleet.path("device/trust.txt")).unwrap()).unwrap();
    let host = Host::real();
    let seed = Secret::load(&host, &fleet.path("device/keys/log.key")).unwrap();
    let origin = load(&good).front.manifest.origin;
    let stolen = SoftwareKey::log(&seed, &origin).unwrap();
    let judge = |bytes: &[u8]| {
        verify_with(
            bytes,
            Some(&trust),
            None,
            &mut Offline::default(),
            &mut |_| {},
        )
    };
    assert!(matches!(judge(&good), Verdict::Verified(_)));
    assert!(
        matches!(judge(&load(&good).store()), Verdict::Verified(_)),
        "loading and storing changes nothing"
    );

    let tampered = |name: &str, seq: bool, change: &dyn Fn(&mut Case)| {
        let mut case = load(&good);
        change(&mut case);
        match judge(&case.store()) {
            Verdict::Tampered { place } => {
                assert!(!seq || place.seq.is_some(), "{name}: {place:?}")
            }
            other => panic!("{name}: {other:?}"),
        }
        // The same, repaired and signed with the stolen key: perfect but for the witness.
        let mut case = load(&good);
        change(&mut case);
        case.resign(&stolen);
        match judge(&case.store()) {
            Verdict::Unverifiable {
                reason: Reason::Quorum { .. } | Reason::UnknownOrigin { .. },
            }
            | Verdict::Tampered { .. } => {}
            other => panic!("{name}, signed anew: {other:?}"),
        }
    };
    tampered("an entry's field", false, &|case| {
        let entry = case.entry("\"object\":\"step 2\"");
        *entry = replaced(entry, "step 2", "step X");
    });
    tampered("a payload's byte", true, &|case| {
        for record in &mut case.records {
            if let Owned::Payload(_, bytes) = record {
                bytes[3] ^= 1;
                return;
            }
        }
    });
    tampered("a salt", true, &|case| {
        for record in &mut case.records {
            if let Owned::Payload(salt, _) = record {
                salt[0] ^= 1;
                return;
            }
        }
    });
    tampered("a dropped entry in the middle", true, &|case| {
        let at = case.records.len() / 2;
        let at = (at..)
            .find(|at| matches!(case.records[*at], Owned::Entry(_)))
            .unwrap();
        case.records.remove(at);
    });
    tampered("two entries swapped", true, &|case| {
        let places: Vec<_> = (0..case.records.len())
            .filter(|at| matches!(case.records[*at], Owned::Entry(_)))
            .collect();
        case.records.swap(places[1], places[2]);
    });
    tampered("an entry doubled", true, &|case| {
        let copy = case.records[0].clone();
        case.records.insert(1, copy);
    });
    tampered("a cut tail", true, &|case| {
        while !matches!(case.records.pop(), Some(Owned::Entry(_))) {}
    });
    tampered("the manifest's size", false, &|case| {
        case.front.manifest.size -= 1
    });
    tampered("another log's manifest", false, &|case| {
        case.front.manifest.origin.push('x')
    });

    // The note itself: a signature that does not fit its text is tampering, a missing one is not proof.
    let note = |change: &dyn Fn(&mut Note)| {
        let mut case = load(&good);
        let mut note = Note::parse(&case.front.checkpoint).unwrap();
        change(&mut note);
        case.front.checkpoint = note.encode().into_bytes();
        judge(&case.store())
    };
    assert!(matches!(
        note(&|note| note.text = replaced_text(&note.text)),
        Verdict::Tampered { .. }
    ));
    assert!(matches!(
        note(&|note| note.signatures[0].bytes[5] ^= 1),
        Verdict::Tampered { .. }
    ));
    assert!(matches!(
        note(&|note| note.signatures[1].bytes[20] ^= 1),
        Verdict::Tampered { .. }
    ));
    let without_witness = note(&|note| note.signatures.truncate(1));
    assert!(matches!(
        without_witness,
        Verdict::Unverifiable {
            reason: Reason::Quorum { .. }
        }
    ));
    let without_key = note(&|note| drop(note.signatures.remove(0)));
    assert!(matches!(
        without_key,
        Verdict::Unverifiable {
            reason: Reason::UnknownKey { .. }
        }
    ));

    // Trust decides: without it, or with somebody else's, nothing is said.
    assert!(matches!(
        verify(good.as_slice(), None, None, &mut |_| {}),
        Verdict::Unverifiable {
            reason: Reason::NoTrust
        }
    ));
    let other = Trust {
        logs: Vec::new(),
        ..trust.clone()
    };
    let verdict = verify(good.as_slice(), Some(&other), None, &mut |_| {});
    assert!(matches!(
        verdict,
        Verdict::Unverifiable {
            reason: Reason::UnknownOrigin { .. }
        }
    ));

    // Any single byte of the file, at a stride: verified only when nothing that is said has changed.
    let Verdict::Verified(honest) = judge(&good) else {
        panic!("the bundle verifies")
    };
    let mut words = BTreeMap::new();
    for at in (0..good.len()).step_by(101) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x20;
        let word = match judge(&bytes) {
            Verdict::Verified(mut found) => {
                // Evidence that was made unreadable, such as an earlier cosignature, can only weaken.
                assert!(
                    found.exposure_s >= honest.exposure_s,
                    "byte {at}: the exposure looks shorter"
                );
                found.exposure_s = honest.exposure_s;
                for (name, seen) in &mut found.cosignatures {
                    assert!(seen.heads <= honest.cosignatures[name].heads, "byte {at}");
                    *seen = honest.cosignatures[name];
                }
                assert_eq!(
                    found, honest,
                    "byte {at} was changed and the report with it"
                );
                "verified"
            }
            Verdict::Tampered { .. } => "tampered",
            Verdict::Unverifiable { .. } => "unverifiable",
        };
        *words.entry(word).or_insert(0) += 1;
    }
    assert!(words["tampered"] > 5, "{words:?}");
}

fn replaced_text(text: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines[1] = (lines[1].parse::<u64>().unwrap() + 1).to_string();
    lines.join("\n") + "\n"
}
