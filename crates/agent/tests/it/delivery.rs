//! A collector that misbehaves in every way one can: nothing is lost, nobody asks without end, and the
//! operator sees it.

use std::sync::{Arc, Mutex};

use jurat_agent::{Config, DeadLetters, Finish, read_status};
use jurat_disk::Host;
use jurat_testkit::Answer;

use crate::site::{Site, patient, quick};

struct Case {
    name: &'static str,
    /// A word of the problem that the operator reads.
    says: &'static str,
    answer: fn() -> Answer,
}

fn refusal(status: u16) -> Answer {
    let body = br#"{"code":"scripted","message":"not today"}"#;
    Answer::status(status, "content-type: application/json\r\n", body)
}

/// The collector's own answer with one field of its JSON changed.
fn with(change: impl Fn(&mut serde_json::Value) + Send + 'static) -> Answer {
    Answer::Change(Box::new(move |body| {
        let mut value = serde_json::from_slice(&body).unwrap();
        change(&mut value);
        value.to_string().into_bytes()
    }))
}

fn without_last_signature() -> Answer {
    with(|value| {
        let note = value["note"].as_str().unwrap().trim_end().to_owned();
        let (rest, last) = note.rsplit_once('\n').unwrap();
        assert!(last.contains("archive"), "{last}");
        value["note"] = format!("{rest}\n").into();
    })
}

fn cases() -> Vec<Case> {
    let case = |name, says, answer| Case { name, says, answer };
    vec![
        case("401", "not today", || refusal(401)),
        case("403", "not today", || refusal(403)),
        case("408", "408", || refusal(408)),
        case("429", "429", || {
            Answer::status(429, "retry-after: 1\r\n", b"")
        }),
        case("500", "500", || Answer::status(500, "", b"oh")),
        case("503", "503", || Answer::status(503, "", b"")),
        case("a body that is not JSON", "not understood", || {
            Answer::status(200, "", b"<html>welcome to the hotel</html>")
        }),
        case("a body of 10 MB", "more than", || {
            Answer::status(200, "", &vec![b' '; 10_000_000])
        }),
        case(
            "a note that one key cosigned",
            "archive key",
            without_last_signature,
        ),
        case("a note of another size", "does not count", || {
            with(|value| value["size"] = (value["size"].as_u64().unwrap() + 1).into())
        }),
        case("no answer, ever", "did not answer", || Answer::Silence),
        case("a head, and the end", "did not answer", || {
            Answer::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n".to_vec())
        }),
        case("half a body, and the end", "did not answer", || {
            Answer::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{\"size\":4,".to_vec())
        }),
        case("no head, and the end", "did not answer", || {
            Answer::Raw(Vec::new())
        }),
        case(
            "a reset in the middle of the upload",
            "did not answer",
            || Answer::Reset,
        ),
        case("an answer that was lost", "did not answer", || Answer::Lose),
    ]
}

#[test]
fn whatever_the_collector_answers_nothing_is_lost_or_doubled_once_it_is_well() {
    const BAD: usize = 3;
    let mut site = Site::start(quick());
    for case in cases() {
        site.write(120);
        let accepted = site
            .running
            .with_archive(|archive| archive.stats().accepted);
        let conflicts = site.refused("size_conflict");
        let answer = case.answer;
        site.peer.script(Box::new(
            move |number| {
                if number < BAD { answer() } else { Answer::Pass }
            },
        ));
        let mut seen = None;
        let status = site
            .run(Finish::WhenDelivered, |status| {
                seen = seen.take().or_else(|| status.problem.clone());
                false
            })
            .unwrap();
        assert_eq!(status.delivered, status.size, "{}", case.name);
        assert_eq!(status.problem, None, "{}: it is well again", case.name);
        // Every request is one of the bad ones, or one that the collector took or told where to go on.
        let accepted = site
            .running
            .with_archive(|archive| archive.stats().accepted)
            - accepted;
        let conflicts = site.refused("size_conflict") - conflicts;
        let uploads = site.peer.uploads().len();
        assert!(
            uploads as u64 <= BAD as u64 + accepted + conflicts && conflicts <= BAD as u64 + 1,
            "{}: {uploads} uploads, {accepted} taken, {conflicts} told where to go on",
            case.name
        );
        assert!(uploads > 1, "{}: the script was not played", case.name);
        // Refused for good as too large: set aside, its hashes delivered in its place, and taken late.
        let letters = site.retry_dead_letters();
        assert_eq!(letters > 0, case.name == "413", "{}", case.name);
        if letters > 0 {
            site.run(Finish::WhenDelivered, |_| false).unwrap();
        }
        site.assert_whole(case.name);
    }
}

#[test]
fn a_collector_that_stays_ill_is_asked_once_a_pause_and_the_operator_sees_why() {
    for case in cases() {
        let mut site = Site::start(patient());
        site.write(120);
        let answer = case.answer;
        site.peer.script(Box::new(move |_| answer()));
        site.run(Finish::WhenDelivered, |status| status.problem.is_some())
            .unwrap();
        // It read, sealed and stopped in the meantime, and asked once. What is refused for good is
        // tried whole, alone and as hashes.
        let once = if case.name == "413" { 3 } else { 1 };
        assert_eq!(site.peer.uploads().len(), once, "{}", case.name);
        let status = read_status(&*Host::real().disk, &site.state())
            .unwrap()
            .unwrap();
        let problem = status.problem.unwrap_or_default();
        assert!(problem.contains(case.says), "{}: {problem}", case.name);
        assert!(
            status.queue.len > 0 && status.delivered == 0,
            "{}",
            case.name
        );
        // The next start, with a collector that is well.
        site.peer.script(Box::new(|_| Answer::Pass));
        site.config.delivery = quick();
        site.run(Finish::WhenDelivered, |_| false).unwrap();
        if site.retry_dead_letters() > 0 {
            site.run(Finish::WhenDelivered, |_| false).unwrap();
        }
        site.assert_whole(case.name);
    }
}

#[test]
fn an_old_answer_given_again_is_not_asked_for_without_end() {
    let mut site = Site::start(quick());
    let first: Arc<Mutex<Vec<u8>>> = Arc::default();
    let kept = first.clone();
    site.write(3);
    site.peer.script(Box::new(move |_| {
        let kept = kept.clone();
        Answer::Change(Box::new(move |body| {
            kept.lock().unwrap().clone_from(&body);
            body
        }))
    }));
    site.run(Finish::WhenDelivered, |_| false).unwrap();
    site.write(3);
    site.config.delivery = patient();
    let body = first.lock().unwrap().clone();
    site.peer
        .script(Box::new(move |_| Answer::status(200, "", &body)));
    site.run(Finish::WhenDelivered, |status| status.problem.is_some())
        .unwrap();
    assert_eq!(site.peer.uploads().len(), 1);
    site.peer.script(Box::new(|_| Answer::Pass));
    site.config.delivery = quick();
    site.run(Finish::WhenDelivered, |_| false).unwrap();
    site.assert_whole("an old answer");
}

#[test]
fn an_interval_that_no_clock_can_show_is_refused_when_it_is_read() {
    for name in [
        "seal]\nbatch_s",
        "seal]\nscan_s",
        "seal]\nheartbeat_s",
        "delivery]\ntimeout_s",
    ] {
        let text = format!("[{name} = {}", i64::MAX);
        let refused = Config::parse("c".into(), &text, []).unwrap_err();
        assert!(refused.to_string().contains("at most"), "{name}: {refused}");
    }
}

#[test]
fn what_is_refused_for_good_is_set_aside_its_hashes_go_on_and_it_may_come_late() {
    // Refused with its neighbours, refused alone; then its hashes are taken and the answer is lost.
    let mut site = Site::start(quick());
    site.write(120);
    site.peer.script(Box::new(|number| match number {
        0 | 1 => refusal(413),
        2 => Answer::Lose,
        _ => Answer::Pass,
    }));
    let status = site.run(Finish::WhenDelivered, |_| false).unwrap();
    assert_eq!((status.delivered, status.dead_letters), (status.size, 1));
    let report = site.report();
    assert!(
        report.leaves.withheld > 0 && !report.axes.complete,
        "{report:?}"
    );
    assert!(report.events["dead.letter"] == 1, "a leaf says so");
    let letters = DeadLetters::new(&site.state()).list(&Host::real()).unwrap();
    let [letter] = letters.as_slice() else {
        panic!("{letters:?}")
    };
    assert_eq!(
        (letter.status, letter.noted, letter.delivered),
        (413, true, false)
    );
    assert_eq!(letter.to - letter.from, report.leaves.withheld);

    // The collector still does not want it: it stays.
    site.peer.script(Box::new(|_| refusal(413)));
    assert!(site.retry(letter.from).is_err());
    assert!(
        site.retry(letter.from + 1).is_err(),
        "no letter begins there"
    );
    // Now it does, and its answer is lost; sent once more, it was taken before.
    site.peer.script(Box::new(|number| {
        if number == 0 {
            Answer::Lose
        } else {
            Answer::Pass
        }
    }));
    assert!(site.retry(letter.from).is_err());
    site.retry(letter.from).unwrap();
    site.write(10);
    let status = site.run(Finish::WhenDelivered, |_| false).unwrap();
    assert_eq!((status.delivered, status.dead_letters), (status.size, 0));
    assert_eq!(
        site.report().events["dead.letter"],
        2,
        "and a leaf says that it came"
    );
    site.assert_whole("late");
}

#[test]
fn a_cursor_that_is_ahead_of_the_collector_hides_nothing() {
    let mut site = Site::start(quick());
    site.write(10);
    site.run(Finish::WhenDelivered, |_| false).unwrap();
    let path = site.state().join("cursors/collector.json");
    assert!(path.exists());
    std::fs::write(&path, r#"{"position":1000000000000,"size":1000000000}"#).unwrap();
    site.write(10);
    let status = site.run(Finish::WhenDelivered, |_| false).unwrap();
    assert!(status.delivered < 1_000, "{status:?}");
    site.assert_whole("the cursor was edited");
}
