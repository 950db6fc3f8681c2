//! `kill -9` at random moments, of both sides, while files grow.

use std::collections::BTreeMap;
use std::time::Duration;

use jurat_testkit::Repeatable;

use crate::fleet::{Fleet, wait_for};

#[test]
fn killing_both_sides_at_random_loses_nothing_and_doubles_nothing() {
    // 20 in every run; `cargo xtask test --slow` asks for more.
    let kills: u64 = std::env::var("JURAT_KILLS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(20);
    let mut fleet = Fleet::start("[seal]\nbatch_s = 1\nbatch_events = 50\nscan_s = 1");
    let rng = Repeatable::new(7);
    let mut written = 0_u64;
    for round in 0..kills {
        fleet.start_run();
        let moment = rng.below(400);
        let start = std::time::Instant::now();
        while (start.elapsed().as_millis() as u64) < moment {
            for _ in 0..20 {
                written += 1;
                // No uuid: nothing but the positions keeps a record from being sealed twice.
                let line = format!(
                    "{{\"type\":\"summary\",\"summary\":\"record {written} {}\"}}\n",
                    "x".repeat((written % 500) as usize)
                );
                fleet.append(&format!("p/{}.jsonl", written % 7), &line);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        fleet.kill_run();
        if round % 4 == 3 {
            fleet.kill_serve();
            if round % 8 == 7 {
                // For one round the device is on its own.
                fleet.start_run();
                std::thread::sleep(Duration::from_millis(150));
                fleet.kill_run();
            }
            fleet.start_serve();
        }
    }
    fleet.run_once();
    let verdict = fleet.verify("case.jurat");
    assert_eq!(
        (&verdict["verdict"], &verdict["complete"]),
        (&"verified".into(), &true.into()),
        "{verdict}"
    );
    fleet.wait_for_siem(verdict["size"].as_u64().unwrap());
    let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
    for line in fleet.siem() {
        if let Some(text) = line["full_context"]["summary"].as_str() {
            let number = text.split(' ').nth(1).unwrap().parse().unwrap();
            *seen.entry(number).or_default() += 1;
        }
    }
    assert!(written > 100, "{written}");
    assert_eq!(seen.len() as u64, written, "records lost");
    assert!(seen.values().all(|count| *count == 1), "records doubled");
    let again = fleet.verify("again.jurat");
    assert_eq!(
        again["siem"]["missing"],
        serde_json::json!([]),
        "{}",
        again["siem"]
    );
    wait_for("nothing waits", || fleet.status()["queue"]["len"] == 0);
}
