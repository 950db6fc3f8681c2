//! Leaves of which only the hash came, and what comes late in their place.

use jurat_collector::{Archive, export};
use jurat_proof::{
    Cosignature, Digest, Note, Record, RecordReader, Report, Selection, Signer, Trust, Verdict,
    VerifierKey, Withhold, leaf_hash, verify, write_record,
};
use jurat_sink::{Accepted, CollectorError, check_accepted};

use crate::{Bench, Log};

/// The same upload without its entries.
pub(crate) fn only_hashes(raw: &[u8], from: u64) -> Vec<u8> {
    let mut hashes = Vec::new();
    let mut out = Vec::new();
    for record in RecordReader::new(raw) {
        match record.unwrap() {
            Record::Entry(entry) => hashes.push(leaf_hash(entry).0),
            Record::Checkpoint(note) => {
                write_record(
                    &mut out,
                    &Record::Leaves {
                        from,
                        hashes: &hashes,
                    },
                );
                write_record(&mut out, &Record::Checkpoint(note));
            }
            Record::Payload { .. } | Record::Leaves { .. } => {}
        }
    }
    out
}

impl Bench {
    pub(crate) fn report(&self) -> Report {
        let mut bundle = Vec::new();
        self.running
            .with_archive(|archive| {
                export(
                    archive,
                    &self.enrolled.origin,
                    &Selection::All,
                    &Withhold::default(),
                    &mut bundle,
                )
            })
            .unwrap();
        let trust = format!(
            "log {}\nwitness w {}\narchive a {}\nquorum 1\n",
            self.log.key.verifier_key(),
            self.enrolled.witness,
            self.enrolled.archive
        );
        match verify(
            bundle.as_slice(),
            Some(&Trust::parse(&trust).unwrap()),
            None,
            &mut |_| {},
        ) {
            Verdict::Verified(report) => *report,
            verdict => panic!("{verdict:?}"),
        }
    }

    fn is_archived(&self, accepted: &Accepted) -> bool {
        let note = Note::parse(accepted.note.as_bytes()).unwrap();
        let key = VerifierKey::parse(&self.enrolled.archive).unwrap();
        check_accepted(
            accepted,
            &self.enrolled.origin,
            &self.enrolled.witness,
            &self.enrolled.archive,
        )
        .unwrap();
        Cosignature::find(&note, &key).unwrap().is_some()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn withheld_leaves_do_not_jam_a_log_and_are_not_called_archived_until_they_came() {
    let mut bench = Bench::start().await;
    let first = bench.log.batch(3, "a");
    let second = bench.log.batch(2, "b");
    let third = bench.log.batch(1, "c");
    assert!(bench.is_archived(&bench.upload(&first).await.unwrap()));
    let accepted = bench.upload(&only_hashes(&second, 4)).await.unwrap();
    assert_eq!((accepted.size, accepted.leaves_withheld), (7, 3));
    assert!(
        !bench.is_archived(&accepted),
        "the archive does not hold them"
    );
    // The answer was lost and the hashes come again: as with any other upload.
    assert!(matches!(
        bench.upload(&only_hashes(&second, 4)).await,
        Err(CollectorError::Conflict { size: 7 })
    ));
    let accepted = bench.upload(&third).await.unwrap();
    assert_eq!((accepted.size, accepted.leaves_withheld), (9, 3));
    assert!(!bench.is_archived(&accepted), "they are missing still");

    let report = bench.report();
    assert_eq!((report.size, report.leaves.withheld), (9, 3));
    assert!(!report.axes.complete && report.axes.archive.names.is_empty());
    assert_eq!(report.axes.witness.names, ["w"]);
    assert_eq!(report.gaps, [(4, "3 leaves withheld".to_owned())]);
    bench.running.siem_caught_up().await.unwrap();
    assert_eq!(bench.siem_lines(), 6);

    // A part of them, or others in their place, are refused; nothing changes.
    let mut cut = second.clone();
    let end = RecordReader::new(&second).count();
    let mut reader = RecordReader::new(&second);
    for _ in 0..end - 2 {
        reader.next();
    }
    cut.truncate(reader.position());
    assert!(matches!(
        bench.upload(&cut).await,
        Err(CollectorError::Refused { status: 422, .. })
    ));
    // The accepted head around an entry that was changed: wrong, and no contradiction of the head.

    let at = second
        .windows(12)
        .position(|part| part == b"\"object\":\"b\"")
        .unwrap();
    let mut changed = second.clone();
    changed[at + 10] = b'c';
    match bench.upload(&changed).await {
        Err(CollectorError::Refused { refusal, .. }) => assert_eq!(refusal.code, "inconsistent"),
        answer => panic!("{answer:?}"),
    }
    assert_eq!(bench.running.with_archive(Archive::stats).forks, 0);
    let mut other = Log::new(&bench.enrolled.origin);
    other.batch(3, "a");
    let forged = other.batch(2, "x");
    // Whether with its own entries or not: it is the head that contradicts.
    let mut around_others = forged.clone();
    // In the last entry, over which no chain stands.
    let at = forged
        .windows(10)
        .rposition(|part| part == b"\"time\":\"t\"")
        .unwrap();
    around_others[at + 8] = b'u';
    for forged in [around_others, forged] {
        match bench.upload(&forged).await {
            Err(CollectorError::Refused { refusal, .. }) => assert_eq!(refusal.code, "fork"),
            answer => panic!("{answer:?}"),
        }
    }
    assert_eq!(bench.report().leaves.withheld, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_late_stands_in_its_place_in_bundle_and_siem() {
    let mut bench = Bench::start().await;
    let batches: Vec<Vec<u8>> = ["a", "b", "c"]
        .iter()
        .map(|text| bench.log.batch(2, text))
        .collect();
    bench.upload(&batches[0]).await.unwrap();
    bench.upload(&only_hashes(&batches[1], 3)).await.unwrap();
    bench.upload(&only_hashes(&batches[2], 6)).await.unwrap();

    let accepted = bench.upload(&batches[2]).await.unwrap();
    assert_eq!((accepted.size, accepted.leaves_withheld), (9, 3));
    assert!(!bench.is_archived(&accepted));
    let accepted = bench.upload(&batches[1]).await.unwrap();
    assert_eq!((accepted.size, accepted.leaves_withheld), (9, 0));
    assert!(bench.is_archived(&accepted), "now it holds everything");

    let check = |bench: &Bench| {
        let report = bench.report();
        assert_eq!((report.size, report.leaves.withheld), (9, 0));
        assert!(report.axes.complete, "{report:?}");
        assert!(report.gaps.is_empty(), "{:?}", report.gaps);
    };
    check(&bench);
    bench.running.siem_caught_up().await.unwrap();
    assert_eq!(bench.siem_lines(), 9);
    let mut bench = bench.restart().await;
    check(&bench);
    // Late twice is a conflict like any other resubmission.
    assert!(matches!(
        bench.upload(&batches[1]).await,
        Err(CollectorError::Conflict { size: 9 })
    ));
    let next = bench.log.batch(1, "d");
    let accepted = bench.upload(&next).await.unwrap();
    assert!(bench.is_archived(&accepted));
    assert_ne!(bench.report().root, Digest::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_of_entries_and_hashes_whose_answer_was_lost_is_a_resubmission() {
    let mut bench = Bench::start().await;
    let first = bench.log.batch(2, "a");
    let pruned = only_hashes(&bench.log.batch(2, "b"), 3);
    let mixed = [first, pruned].concat();
    assert_eq!(bench.upload(&mixed).await.unwrap().size, 6);
    assert!(matches!(
        bench.upload(&mixed).await,
        Err(CollectorError::Conflict { size: 6 })
    ));
    let more = [mixed, bench.log.batch(1, "c")].concat();
    assert!(matches!(
        bench.upload(&more).await,
        Err(CollectorError::Conflict { size: 6 })
    ));
}
