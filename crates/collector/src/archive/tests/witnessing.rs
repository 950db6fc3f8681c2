//! The witness in the archive: its frontier runs ahead, and no crash lets it speak twice.

use jurat_proof::consistency_proof;
use jurat_witness::{Answer, Logs, Request};

use super::*;

/// The leaves of what a device sends.
fn leaves() -> Vec<Digest> {
    let mut leaves = Vec::new();
    for (_, body) in uploads(&key()) {
        let raw = zstd::stream::decode_all(body.as_slice()).unwrap();
        for record in RecordReader::new(&raw).flatten() {
            if let Record::Entry(entry) = record {
                leaves.push(leaf_hash(entry));
            }
        }
    }
    leaves
}

/// The same log, written anew from this leaf on.
fn rewritten(from: usize) -> Vec<Digest> {
    let mut leaves = leaves();
    leaves[from..].fill(leaf_hash(b"another story"));
    leaves
}

fn head(origin: &str, leaves: &[Digest], key: &SoftwareKey) -> Note {
    let head = Checkpoint {
        origin: origin.into(),
        size: leaves.len() as u64,
        root: jurat_proof::root_of(leaves),
    };
    head.sign(key).unwrap()
}

fn request(leaves: &[Digest], old: usize, size: usize) -> String {
    let proof = consistency_proof(&leaves[..size], old).filter(|_| old < size);
    let note = head(ORIGIN, &leaves[..size], &key());
    Request::encode(old as u64, &proof.unwrap_or_default(), &note)
}

const FOREIGN: &str = "elsewhere.example/log";

fn foreign_key() -> SoftwareKey {
    SoftwareKey::log(&Secret::from_bytes([9; 32]), FOREIGN).unwrap()
}

fn logs() -> Logs {
    let mut logs = Logs::default();
    for key in [key(), foreign_key()] {
        logs.add(key.verifier_key().clone()).unwrap();
    }
    logs
}

impl Open {
    fn show(&mut self, body: &str) -> Result<Answer, ArchiveError> {
        match self.archive.judge_checkpoint(&logs(), body.as_bytes())? {
            Witnessing::Answer(answer) => Ok(answer),
            Witnessing::Store(ask) => match self.writer.commit(vec![Ask::Witness(ask)])?.pop() {
                Some(Done::Witnessed(answer)) => Ok(answer),
                _ => panic!("nothing came between"),
            },
        }
    }

    pub(super) fn is_witnessed(&self, note: &str) -> [bool; 2] {
        let note = Note::parse(note.as_bytes()).unwrap();
        let [witness, archive, _] = self.archive.verifier_keys();
        [witness, archive].map(|key| Cosignature::find(&note, &key).unwrap().is_some())
    }
}

#[test]
fn a_head_below_the_witnessed_one_is_archived_and_gets_no_fresh_statement_of_the_witness() {
    let disk = SimDisk::new();
    let mut opened = open(&disk).unwrap();
    let all = leaves();
    // Before a leaf came.
    assert!(matches!(
        opened.show(&request(&all, 0, 4)).unwrap(),
        Answer::Cosigned(_)
    ));
    assert!(opened.archive.frontier(ORIGIN).unwrap().note.is_none());
    assert_eq!(opened.archive.stats().logs, 0);
    let accepted = opened.accept(0).unwrap();
    assert_eq!((accepted.size, accepted.witnessed), (2, 4));
    assert_eq!(opened.is_witnessed(&accepted.note), [false, true]);
    assert_eq!(opened.show(&request(&all, 2, 6)).unwrap(), Answer::Size(4));
    assert!(matches!(
        opened.show(&request(&all, 4, 8)).unwrap(),
        Answer::Cosigned(_)
    ));
    for (index, witnessed) in [(1, 8), (2, 8), (3, 0), (4, 0)] {
        let accepted = opened.accept(index).unwrap();
        assert_eq!(accepted.witnessed, witnessed);
        assert_eq!(opened.is_witnessed(&accepted.note), [witnessed == 0, true]);
    }
    // The archived head again: its archive cosignature stays.
    assert!(matches!(
        opened.show(&request(&all, 10, 10)).unwrap(),
        Answer::Cosigned(_)
    ));
    let note = opened.archive.frontier(ORIGIN).unwrap().note.unwrap();
    assert_eq!(opened.is_witnessed(&note), [true, true]);
    assert_eq!(opened.archive.stats().logs, 1);
    drop(opened);
    let mut opened = open(&disk).unwrap();
    assert_eq!(
        opened.show(&request(&all, 8, 10)).unwrap(),
        Answer::Size(10)
    );
}

#[test]
fn an_upload_that_does_not_lead_through_the_witnessed_head_is_a_fork_and_is_archived_thereafter() {
    for (size, shown) in [(4, 2), (8, 6)] {
        let disk = SimDisk::new();
        let mut opened = open(&disk).unwrap();
        // Somebody with the device's key showed the witness another story.
        let other = rewritten(shown);
        assert!(matches!(
            opened.show(&request(&other, 0, size)).unwrap(),
            Answer::Cosigned(_)
        ));
        let mut refused = 0;
        for index in 0..UPLOADS {
            let judged = opened.judge(index).unwrap();
            if let Judgement::Store(Ask::Fork { .. }) = &judged {
                refused += 1;
                let Judgement::Store(ask) = judged else {
                    unreachable!()
                };
                let done = opened.writer.commit(vec![ask]).unwrap().pop();
                assert!(matches!(done, Some(Done::Refused(refused)) if refused.status == 422));
            }
            // From then on it is archived as it comes, without any cosignature.
            let accepted = opened.accept(index).unwrap();
            let forked = opened.archive.stats().forks == 1;
            assert_eq!(forked, accepted.size >= size as u64);
            assert_eq!(opened.is_witnessed(&accepted.note), [false, !forked]);
        }
        assert_eq!(refused, 1);
        // Both heads are of one size: anyone can check it.
        let seen = opened.archive.seen(&origin_hash(ORIGIN)).unwrap();
        let proof = jurat_proof::ForkProof::parse(seen.fork.as_ref().unwrap().as_bytes()).unwrap();
        assert!(proof.check(&[key().verifier_key().clone()]).is_ok());
        let leaf = fork_leaf(&opened.archive);
        assert_eq!(leaf["detail"]["transferable"], true);
        assert_eq!(
            opened.show(&request(&other, size, size)).unwrap(),
            Answer::Forked
        );
    }
}

#[test]
fn a_head_that_contradicts_the_witnessed_one_is_a_fork_whatever_entries_it_comes_with() {
    for (leaves, forks) in [(rewritten(3), 1), (leaves(), 0)] {
        let disk = SimDisk::new();
        let mut opened = open(&disk).unwrap();
        opened.show(&request(&self::leaves(), 0, 4)).unwrap();
        opened.accept(0).unwrap();
        // The last entry is that of neither head.
        let raw = zstd::stream::decode_all(uploads(&key())[1].1.as_slice()).unwrap();
        let mut wrong = Vec::new();
        for record in RecordReader::new(&raw).flatten() {
            if let Record::Entry(entry) = record {
                let entry = String::from_utf8(entry.to_vec()).unwrap();
                let entry = entry.replace("\"count\":1", "\"count\": 1");
                write_record(&mut wrong, &Record::Entry(entry.as_bytes()));
            }
        }
        let note = head(ORIGIN, &leaves[..4], &key()).encode();
        write_record(&mut wrong, &Record::Checkpoint(note.as_bytes()));
        let body = Bytes::from(zstd::bulk::compress(&wrong, 1).unwrap());
        let nonce = ("d/nonce-nonce-nonce".into(), 1_790_000_000);
        let judged = opened
            .archive
            .judge(ORIGIN, key().verifier_key(), &nonce, &body)
            .unwrap();
        let Judgement::Store(ask) = judged else {
            panic!("it leaves a trace either way")
        };
        let done = opened.writer.commit(vec![ask]).unwrap().pop();
        assert!(matches!(done, Some(Done::Refused(_))));
        // What the witness cosigned itself contradicts nothing: only the entries are wrong.
        let detail = &fork_leaf(&opened.archive)["detail"];
        assert_eq!(detail["transferable"], forks == 1);
        assert_eq!(detail["goes_on"].is_null(), forks == 1);
        assert_eq!(opened.archive.stats().forks, forks);
    }
}

#[test]
fn a_fork_that_was_shown_to_the_witness_stands_in_the_own_log_and_stops_both_cosigners() {
    let disk = SimDisk::new();
    let mut opened = open(&disk).unwrap();
    opened.accept(0).unwrap();
    opened.accept(1).unwrap();
    let other = rewritten(3);
    assert_eq!(opened.show(&request(&other, 4, 4)).unwrap(), Answer::Forked);
    let leaf = fork_leaf(&opened.archive);
    assert_eq!(leaf["detail"]["origin"], ORIGIN);
    assert_eq!(leaf["detail"]["transferable"], true);
    let accepted = opened.accept(2).unwrap();
    assert_eq!(opened.is_witnessed(&accepted.note), [false, false]);
    assert_eq!(opened.archive.stats().forks, 1);
    assert!(matches!(
        opened.show("old 0\n").unwrap(),
        Answer::Malformed(_)
    ));
}

fn fork_leaf(archive: &Archive) -> Value {
    let mut reader = archive.reader(0, archive.end()).unwrap();
    let mut found = Vec::new();
    while let Some(item) = reader.next_record().unwrap() {
        if item.kind == kind::OWN_ENTRY {
            let entry: Value = serde_json::from_slice(item.body).unwrap();
            found.extend((entry["kind"] == "fork.proof").then_some(entry));
        }
    }
    assert_eq!(found.len(), 1, "one leaf for one fork");
    found.remove(0)
}

#[test]
fn an_upload_and_a_request_that_race_are_one_winner_and_one_that_is_judged_again() {
    for upload_first in [true, false] {
        let disk = SimDisk::new();
        let mut opened = open(&disk).unwrap();
        let Judgement::Store(upload) = opened.judge(0).unwrap() else {
            panic!()
        };
        let body = request(&leaves(), 0, 4);
        let judged = opened.archive.judge_checkpoint(&logs(), body.as_bytes());
        let Witnessing::Store(shown) = judged.unwrap() else {
            panic!()
        };
        let mut asked = vec![upload, Ask::Witness(shown)];
        if !upload_first {
            asked.reverse();
        }
        let done = opened.writer.commit(asked).unwrap();
        let stale = matches!(done[1], Done::Stale);
        assert!(stale && !matches!(done[0], Done::Stale));
        // Both go on from what won.
        opened.accept(usize::from(upload_first)).unwrap();
        assert!(matches!(
            opened.show(&request(&leaves(), 4, 6)).unwrap(),
            Answer::Cosigned(_)
        ));
    }
}

/// A device's uploads, its heads shown ahead of them, a foreign log, cosignatures of the own log.
fn witness_work(disk: &SimDisk, said: &mut Said) -> Result<(), ArchiveError> {
    let mut opened = open(disk)?;
    let all = leaves();
    for (index, shown) in [(0, 6), (1, 6), (2, 6), (3, 8), (4, 10)] {
        let size = |opened: &Open| {
            let seen = opened.archive.seen(&origin_hash(ORIGIN));
            seen.map_or(0, |seen| seen.size as usize)
        };
        if size(&opened) < shown {
            let body = request(&all, size(&opened), shown);
            match opened.show(&body)? {
                Answer::Cosigned(_) => said.witness(&head(ORIGIN, &all[..shown], &key())),
                other => panic!("{other:?}"),
            }
        }
        let archived = opened.archive.frontier(ORIGIN)?.size;
        if archived < 2 * (index as u64 + 1) {
            let accepted = opened.accept(index)?;
            said.archived = accepted.size;
            if opened.is_witnessed(&accepted.note)[0] {
                said.witness(&Note::parse(accepted.note.as_bytes()).unwrap());
            }
        }
        opened.writer.seal_own_log()?;
        let mut own = Note::parse(opened.archive.own_checkpoint().unwrap().as_bytes()).unwrap();
        let outside = SoftwareKey::cosigner(&Secret::from_bytes([8; 32]), "outside").unwrap();
        let line = Cosignature::sign(&outside, 1_790_000_000, &own.text).unwrap();
        own.signatures.push(line);
        let kept = opened.writer.commit(vec![Ask::OwnCosigned {
            note: own.encode(),
            quorum: true,
        }])?;
        assert!(matches!(kept[..], [Done::Kept]));
        said.own = own.encode();
        assert_eq!(opened.archive.own_checkpoint(), Some(said.own.clone()));
    }
    let foreign = head(FOREIGN, &all[..3], &foreign_key());
    let seen = opened.archive.seen(&origin_hash(FOREIGN));
    if seen.is_none() {
        let answer = opened.show(&Request::encode(0, &[], &foreign))?;
        assert!(matches!(answer, Answer::Cosigned(_)));
        said.foreign = true;
    }
    Ok(())
}

/// What left the collector.
#[derive(Default)]
struct Said {
    archived: u64,
    witnessed: u64,
    roots: BTreeMap<u64, Digest>,
    own: String,
    foreign: bool,
}

impl Said {
    fn witness(&mut self, note: &Note) {
        let head = Checkpoint::parse(&note.text).unwrap();
        assert!(head.size >= self.witnessed, "the witness ran backwards");
        self.witnessed = head.size;
        let root = *self.roots.entry(head.size).or_insert(head.root);
        assert_eq!(root, head.root, "two roots at {}", head.size);
    }
}

fn witness_check(disk: &SimDisk, said: &mut Said, what: &str) {
    let opened = open(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    let archive = &opened.archive;
    let seen = archive.seen(&origin_hash(ORIGIN));
    let seen = seen.map_or(0, |seen| seen.size);
    assert!(
        seen >= said.witnessed,
        "{what}: a cosigned size is forgotten"
    );
    assert!(
        archive.frontier(ORIGIN).unwrap().size >= said.archived,
        "{what}"
    );
    let foreign = archive.seen(&origin_hash(FOREIGN)).is_some();
    assert!(
        foreign || !said.foreign,
        "{what}: a foreign log is forgotten"
    );
    if !said.own.is_empty() {
        assert!(
            archive.own_cosigned().is_some(),
            "{what}: cosignatures are forgotten"
        );
    }
    drop(opened);
    witness_work(disk, said).unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut opened = open(disk).unwrap();
    assert_eq!(
        opened.archive.own_cosigned(),
        Some(said.own.clone()),
        "{what}"
    );
    assert_eq!(opened.archive.frontier(ORIGIN).unwrap().size, 10, "{what}");
    assert_eq!(opened.archive.stats().forks, 0, "{what}");
    // Another story at the newest size is found out.
    let other = opened.show(&request(&rewritten(7), 10, 10)).unwrap();
    assert_eq!(other, Answer::Forked, "{what}");
}

#[test]
fn at_any_power_cut_or_failure_of_the_disk_the_witness_in_the_archive_takes_nothing_back() {
    let disk = SimDisk::new();
    witness_work(&disk, &mut Said::default()).unwrap();
    let steps = disk.steps();
    for fault in [Fault::Crash, Fault::Full, Fault::SyncError, Fault::Killed] {
        for step in 0..steps {
            let disk = SimDisk::new();
            let mut said = Said::default();
            disk.fail_at(step, fault);
            let _ = witness_work(&disk, &mut said);
            match fault {
                Fault::Crash => disk.crash(&Repeatable::new(step)),
                _ => disk.heal(),
            }
            witness_check(&disk, &mut said, &format!("{fault:?} at step {step}"));
        }
    }
}
