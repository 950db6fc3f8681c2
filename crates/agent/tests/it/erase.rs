//! Payloads that were erased on request: nowhere on the device, not delivered, and the proofs stand.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jurat_agent::{EraseRequest, EraseRequestError, Erased, Finish, Query, Status, read_status};
use jurat_disk::Host;
use jurat_testkit::{Answer, files_with, holds};
use serde_json::Value;

use crate::site::{Site, quick};

const PATIENCE: Duration = Duration::from_secs(60);

fn ask(site: &Site, request: &EraseRequest) -> Result<Erased, EraseRequestError> {
    jurat_agent::erase(
        &Host::real(),
        &site.config,
        &site.state(),
        request,
        PATIENCE,
    )
}

fn request(ranges: Vec<(u64, u64)>) -> EraseRequest {
    EraseRequest {
        ranges: ranges.into(),
        sessions: Vec::new(),
        who: "somebody".into(),
        reason: "asked for".into(),
    }
}

/// The leaf of a line that was sealed.
fn leaf(site: &Site, line: usize) -> u64 {
    let mut found = None;
    jurat_agent::query(
        Host::real().disk,
        &site.state(),
        &Query::default(),
        &mut |_, entry, payload| {
            if payload == Some(site.lines[line].as_bytes()) {
                found = entry["seq"].as_u64();
            }
            true
        },
    )
    .unwrap();
    found.unwrap()
}

fn said(site: &Site) -> Vec<Value> {
    let mut said = Vec::new();
    let kind = Some("payload.erased".into());
    let query = Query {
        kind,
        ..Query::default()
    };
    jurat_agent::query(
        Host::real().disk,
        &site.state(),
        &query,
        &mut |_, entry, _| {
            said.push(entry.clone());
            true
        },
    )
    .unwrap();
    said
}

fn status(site: &Site) -> Status {
    let read = read_status(&*Host::real().disk, &site.state());
    read.unwrap().unwrap()
}

fn unavailable() -> Answer {
    Answer::status(503, "", b"")
}

#[test]
fn what_was_erased_before_delivery_is_not_delivered_and_the_archive_cosigns_all_the_same() {
    let mut site = Site::start(quick());
    site.peer.script(Box::new(|_| unavailable()));
    site.write(10);
    site.run(Finish::WhenSealed, |_| false).unwrap();
    let leaf = leaf(&site, 3);
    let gone = site.lines[3].clone();
    assert!(!files_with(&site.state(), gone.as_bytes()).is_empty());
    let sent_before = site.peer.uploads().len();

    let erased = ask(&site, &request(vec![(leaf, leaf + 1)])).unwrap();
    assert_eq!((erased.count, erased.gone_before), (1, 0));
    assert_eq!(erased.ranges.pairs(), [(leaf, leaf + 1)]);
    assert_eq!(
        files_with(&site.state(), gone.as_bytes()),
        Vec::<std::path::PathBuf>::new()
    );
    let said = said(&site);
    assert_eq!(said.len(), 1);
    assert_eq!(said[0]["seq"], erased.leaves[0]);
    let detail = &said[0]["detail"];
    assert_eq!(detail["ranges"], serde_json::json!([[leaf, leaf + 1]]));
    assert_eq!(
        (&detail["who"], &detail["reason"]),
        (&"somebody".into(), &"asked for".into())
    );
    assert_eq!(
        (said[0]["severity"].as_str(), &detail["count"]),
        (Some("medium"), &1.into())
    );
    assert_eq!(status(&site).erased, 1);
    // Asked again, it is gone already, and nothing more is sealed.
    let again = ask(&site, &request(vec![(leaf, leaf + 1)])).unwrap();
    assert_eq!(
        (again.count, again.gone_before, again.leaves.len()),
        (0, 1, 0)
    );

    site.peer.script(Box::new(|_| Answer::Pass));
    site.run(Finish::WhenDelivered, |_| false).unwrap();
    for sent in &site.peer.uploads()[sent_before..] {
        assert!(!holds(&sent.body, gone.as_bytes()));
    }
    let report = site.report();
    assert_eq!((report.payloads.erased, report.payloads.withheld), (1, 0));
    assert!(!report.axes.complete);
    assert_eq!(report.axes.archive.names.len(), 1, "the archive cosigned");
    let known = status(&site);
    assert_eq!(known.delivered, known.size);
    assert_eq!(report.root.to_string(), known.root);
}

#[test]
fn what_was_set_aside_loses_it_too_and_may_still_come_late() {
    let mut site = Site::start(quick());
    let refusal = br#"{"code":"too_large","message":"not today"}"#;
    site.peer.script(Box::new(|number| match number {
        0 | 1 => Answer::status(413, "content-type: application/json\r\n", refusal),
        _ => Answer::Pass,
    }));
    site.write(10);
    site.run(Finish::WhenDelivered, |_| false).unwrap();
    let leaf = leaf(&site, 3);
    let gone = site.lines[3].clone();
    let held = files_with(&site.state(), gone.as_bytes());
    assert!(
        held.iter()
            .any(|path| path.extension().is_some_and(|kind| kind == "zst"))
    );
    assert_eq!(site.report().axes.archive.names.len(), 0);

    ask(&site, &request(vec![(leaf, leaf + 1)])).unwrap();
    assert_eq!(
        files_with(&site.state(), gone.as_bytes()),
        Vec::<std::path::PathBuf>::new()
    );
    site.run(Finish::WhenDelivered, |_| false).unwrap();
    assert_eq!(site.retry_dead_letters(), 1);
    site.run(Finish::WhenDelivered, |_| false).unwrap();
    let report = site.report();
    assert_eq!((report.payloads.erased, report.payloads.withheld), (1, 0));
    assert_eq!(report.axes.archive.names.len(), 1, "the archive cosigned");
    assert_eq!(
        files_with(&site.dir.path().join("collector"), gone.as_bytes()),
        Vec::<std::path::PathBuf>::new()
    );
}

#[test]
fn a_running_endpoint_does_what_is_asked_and_says_why_not() {
    let mut site = Site::start(quick());
    site.write(10);
    site.run(Finish::WhenDelivered, |_| false).unwrap();
    let leaf = leaf(&site, 3);
    let (started, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            site.run(Finish::Never, |_| {
                started.store(true, Ordering::Release);
                stop.load(Ordering::Acquire)
            })
        });
        while !started.load(Ordering::Acquire) && !running.is_finished() {
            std::thread::yield_now();
        }
        let erased = ask(&site, &request(vec![(leaf, leaf + 1)]));
        let refused = [
            request(vec![(0, 1_000_000)]),
            EraseRequest {
                sessions: vec!["nobody's".into()],
                ..request(Vec::new())
            },
            request(Vec::new()),
            EraseRequest {
                reason: " ".into(),
                ..request(vec![(leaf, leaf + 1)])
            },
        ]
        .map(|request| ask(&site, &request));
        stop.store(true, Ordering::Release);
        running.join().unwrap().unwrap();
        assert_eq!(erased.unwrap().count, 1);
        for (refused, why) in refused.into_iter().zip([
            "does not exist",
            "no leaf of session",
            "no leaf and no session",
            "reason is empty",
        ]) {
            let Err(EraseRequestError::Refused(said)) = refused else {
                panic!("{why}: {refused:?}");
            };
            assert!(said.contains(why), "{said}");
        }
    });
    assert_eq!(said(&site).len(), 1);
    let gone = site.lines[3].as_bytes();
    assert_eq!(
        files_with(&site.state(), gone),
        Vec::<std::path::PathBuf>::new()
    );
}
