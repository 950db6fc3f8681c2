//! A ledger too small for a collector that is away, from the transcript to the verdict.

use serde_json::{Value, json};

use crate::fleet::{Fleet, wait_for};

const LINES: usize = 3_000;

fn lines() -> String {
    let line = |number: usize| {
        json!({
            "type": "user", "sessionId": "22222222-2222-4222-8222-222222222222",
            "uuid": format!("00000000-0000-4000-8000-{number:012}"),
            "message": {"role": "user", "content": format!("n{number} {}", "words ".repeat(90))},
        })
    };
    let lines: Vec<String> = (0..LINES).map(|number| line(number).to_string()).collect();
    lines.join("\n") + "\n"
}

/// Reads more than fits while the collector is away, then delivers; gives the status and the verdict.
fn run(config: &str, full: impl Fn(&Value) -> bool) -> (Value, Value) {
    let mut fleet = Fleet::start(config);
    fleet.kill_serve();
    fleet.append("p/22222222-2222-4222-8222-222222222222.jsonl", &lines());
    fleet.start_run();
    wait_for("the ledger is full", || full(&fleet.status()));
    fleet.kill_run();
    fleet.start_serve();
    fleet.run_once();
    // Once more: what was witnessed, pruned or not, is this ledger's own past.
    fleet.run_once();
    let status = fleet.status();
    fleet.wait_for_siem(1);
    (
        status,
        fleet.verify_from(
            "full.jurat",
            &["--collector", fleet.path("collector").to_str().unwrap()],
        ),
    )
}

fn bytes(status: &Value) -> u64 {
    status["ledger_bytes"].as_u64().unwrap_or(0)
}

#[test]
fn a_full_ledger_pauses_and_everything_arrives_once_the_collector_is_back() {
    let (_, verdict) = run("[ledger]\nbytes_max = 1000000\n", |status| {
        let state = status["state"].as_str().unwrap_or_default();
        state.contains("has not archived") && bytes(status) > 1_000_000
    });
    assert_eq!(verdict["verdict"], "verified", "{verdict}");
    assert_eq!(verdict["complete"], true, "{verdict}");
    assert_eq!(verdict["events"]["prompt.submitted"], LINES);
    assert!(
        verdict["events"]["ledger.full"].as_u64() > Some(0),
        "{verdict}"
    );
}

#[test]
fn what_was_pruned_is_counted_by_collector_and_verdict_and_the_rest_is_proven() {
    let config = "[ledger]\nbytes_max = 1000000\nwhen_full = \"prune\"\n";
    let (status, verdict) = run(config, |status| {
        status["lines_in"] == LINES && status["unread_bytes"] == 0
    });
    assert_eq!(verdict["verdict"], "verified", "{verdict}");
    assert_eq!(verdict["complete"], false, "{verdict}");
    assert_eq!(verdict["size"], status["delivered"], "{verdict}");
    let count = |name: &str| verdict[name]["withheld"].as_u64().unwrap();
    assert!(count("payloads") + count("leaves") > 100, "{verdict}");
    assert!(
        verdict["events"]["ledger.pruned"].as_u64() > Some(0),
        "{verdict}"
    );
    assert!(verdict["witness"]["names"][0].is_string(), "{verdict}");
    assert_eq!(verdict["archive"]["names"], json!([]), "{verdict}");
}
