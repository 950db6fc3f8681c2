//! Sessions that write at the same time: each has its own numbers, without a gap.

use std::collections::BTreeMap;
use std::sync::Arc;

use jurat_event::{Event, Kind};
use jurat_proof::EntryView;
use jurat_seal::kind;
use jurat_testkit::{Repeatable, SimDisk};
use proptest::prelude::*;

use crate::{Log, open};

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Step {
    Event(u8),
    End(u8),
    Commit,
    Seal,
    /// The process starts anew; what was not committed never happened.
    Restart,
    /// So does the machine.
    PowerCut(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..5_u8).prop_map(Step::Event),
        2 => (0..5_u8).prop_map(Step::End),
        3 => Just(Step::Commit),
        2 => Just(Step::Seal),
        1 => Just(Step::Restart),
        1 => any::<u8>().prop_map(Step::PowerCut),
    ]
}

/// The numbers of every session, in the order of the log, and where it ended.
fn numbers(log: &Log) -> BTreeMap<String, Vec<(u64, bool)>> {
    let mut found: BTreeMap<String, Vec<(u64, bool)>> = BTreeMap::new();
    let mut reader = log.sealer.ledger().read(0).unwrap();
    while let Some(item) = reader.next_record().unwrap() {
        if item.kind != kind::ENTRY {
            continue;
        }
        let view = EntryView::parse(item.body).unwrap();
        if let (Some(session), Some(number)) = (&view.session, view.session_seq) {
            let ended = view.is(Kind::SessionEnded);
            if ended {
                assert_eq!(view.detail_map()["count"], number + 1, "its final count");
            }
            let of_session = found.entry(session.to_string()).or_default();
            of_session.push((number, ended));
        }
    }
    found
}

proptest! {
    #[test]
    fn however_sessions_interleave_the_numbers_of_each_have_no_gap(steps in proptest::collection::vec(step(), 0..120)) {
        let disk = SimDisk::new();
        let blob = 0_u64.to_le_bytes();
        let mut snapshot = || blob.to_vec();
        let mut log = open(&disk, &Arc::default()).unwrap();
        // Events of each session that are durable, and those that wait.
        let (mut durable, mut waiting) = ([0_usize; 5], [0_usize; 5]);
        for step in steps {
            match step {
                Step::Event(session) => {
                    let mut event = Event::own(Kind::Other);
                    event.session = Some(format!("s{session}"));
                    log.sealer.push_own(event).unwrap();
                    waiting[usize::from(session)] += 1;
                }
                Step::End(session) => {
                    let name = format!("s{session}");
                    if log.sealer.knows_session(&name) {
                        log.sealer.end_session(&name, "idle").unwrap();
                        waiting[usize::from(session)] += 1;
                    }
                }
                Step::Commit | Step::Seal => {
                    if matches!(step, Step::Seal) {
                        log.sealer.seal_batch(serde_json::Map::new(), &blob, &mut snapshot).unwrap();
                    } else {
                        log.sealer.commit(&blob, &mut snapshot).unwrap();
                    }
                    for (durable, waiting) in durable.iter_mut().zip(&mut waiting) {
                        *durable += std::mem::take(waiting);
                    }
                }
                Step::Restart | Step::PowerCut(_) => {
                    drop(log);
                    if let Step::PowerCut(seed) = step {
                        disk.crash(&Repeatable::new(u64::from(seed)));
                    }
                    log = open(&disk, &Arc::default()).unwrap();
                    waiting = [0; 5];
                }
            }
        }
        log.sealer.seal_batch(serde_json::Map::new(), &blob, &mut snapshot).unwrap();
        let found = numbers(&log);
        for (session, (durable, waiting)) in durable.iter().zip(&waiting).enumerate() {
            let of_session = found.get(&format!("s{session}")).map_or(&[][..], Vec::as_slice);
            prop_assert_eq!(of_session.len(), durable + waiting);
            let mut next = 0;
            for (number, ended) in of_session {
                prop_assert_eq!(*number, next);
                next = if *ended { 0 } else { next + 1 };
            }
        }
        // And as a stranger checks it.
        log.verify();
    }
}
