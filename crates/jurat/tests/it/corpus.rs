//! Every line of real sessions is accounted for.

use std::collections::BTreeMap;
use std::io::Write as _;

use jurat_testkit::need;

use crate::fleet::{Fleet, copy, lines, wait_for};

#[test]
fn every_line_of_real_sessions_is_sealed_or_counted_and_comes_back_byte_for_byte() {
    let Some(shared) = need::shared("every_line_of_real_sessions") else {
        return;
    };
    let fleet = Fleet::start("[redact]\nmode = \"custody\"");
    copy(
        &shared.join("corpus/claude-code/projects"),
        &fleet.path("agent/projects"),
    );
    copy(
        &shared.join("corpus/claude-code-edge"),
        &fleet.path("agent/projects/edge"),
    );
    end_last_lines(&fleet.path("agent/projects"));
    fleet.run_once();

    let status = fleet.status();
    let filtered: u64 = status["records_filtered"]
        .as_object()
        .unwrap()
        .values()
        .filter_map(serde_json::Value::as_u64)
        .sum();
    let lines = lines(&fleet.path("agent/projects"));
    assert_eq!(status["lines_in"], lines.len());
    assert_eq!(
        status["records_sealed"].as_u64().unwrap() + filtered,
        lines.len() as u64
    );

    let verdict = fleet.verify("case.jurat");
    assert_eq!(verdict["verdict"], "verified");
    assert_eq!(verdict["integrity"], "signed");
    assert_eq!(verdict["key"], "software");
    assert_eq!(verdict["complete"], true);
    assert_eq!(verdict["witness"]["names"][0], "collector");
    assert_eq!(verdict["archive"]["names"][0], "collector");
    assert_eq!(verdict["custody"], true);
    let said: u64 = verdict["filtered"]
        .as_object()
        .unwrap()
        .values()
        .filter_map(serde_json::Value::as_u64)
        .sum();
    assert_eq!(said, filtered, "what was filtered stands in the sealed log");

    // From the archive, through the SIEM file's full_context: the very same bytes.
    fleet.wait_for_siem(verdict["size"].as_u64().unwrap());
    let mut wanted: BTreeMap<Vec<u8>, i64> = BTreeMap::new();
    for line in lines {
        *wanted.entry(line).or_default() += 1;
    }
    let text = std::fs::read(fleet.path("collector/siem.jsonl")).unwrap();
    let mut found = 0_u64;
    for line in text.split(|byte| *byte == b'\n') {
        let Some(at) = line
            .windows(16)
            .position(|window| window == b",\"full_context\":")
        else {
            continue;
        };
        let payload = &line[at + 16..line.len() - 1];
        let bytes = if payload.first() == Some(&b'"') {
            serde_json::from_slice::<String>(payload)
                .unwrap()
                .into_bytes()
        } else {
            payload.to_vec()
        };
        *wanted
            .get_mut(&bytes)
            .unwrap_or_else(|| panic!("made up: {}", String::from_utf8_lossy(&bytes))) -= 1;
        found += 1;
    }
    assert_eq!(found, status["records_sealed"].as_u64().unwrap());
    let missing: i64 = wanted.values().filter(|count| **count > 0).sum();
    assert_eq!(
        missing as u64, filtered,
        "what did not come back was filtered"
    );
}

/// Most of these files end without a line end, and an unfinished line is held back: here they end.
fn end_last_lines(dir: &std::path::Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            end_last_lines(&path);
        } else {
            let mut bytes = std::fs::read(&path).unwrap();
            if bytes.last() != Some(&b'\n') {
                bytes.push(b'\n');
                std::fs::write(&path, bytes).unwrap();
            }
        }
    }
}

#[test]
fn files_that_grow_shrink_vanish_and_come_back_while_it_runs_give_the_right_events() {
    let mut fleet = Fleet::start("[seal]\nbatch_s = 1\nscan_s = 1");
    let record = |n: u32| {
        format!(
            "{{\"type\":\"user\",\"uuid\":\"u{n}\",\"sessionId\":\"s\",\"message\":{{\"content\":\"m{n}\"}}}}\n"
        )
    };
    fleet.append("p/a.jsonl", &record(1));
    fleet.start_run();
    let sealed = |fleet: &Fleet, wanted: &str| {
        fleet
            .siem()
            .iter()
            .filter(|line| line["kind"] == wanted)
            .count()
    };
    wait_for("the first record", || {
        sealed(&fleet, "prompt.submitted") == 1
    });
    fleet.append("p/a.jsonl", &record(2));
    fleet.append("p/s/subagents/agent-1.jsonl", &record(3));
    wait_for("a grown and a new file", || {
        sealed(&fleet, "prompt.submitted") == 3
    });
    // Rewritten: what was there before is recognised, what is new is sealed.
    let path = fleet.path("agent/projects/p/a.jsonl");
    // In one write: a file that is emptied first is truncated, when someone looks in between.
    std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .write_all(format!("{}{}", record(9), record(1)).as_bytes())
        .unwrap();
    wait_for("a rewritten file", || {
        sealed(&fleet, "transcript.rewritten") == 1
    });
    wait_for("its new record", || sealed(&fleet, "prompt.submitted") == 4);
    std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(5)
        .unwrap();
    wait_for("a truncated file", || {
        sealed(&fleet, "transcript.truncated") == 1
    });
    std::fs::remove_file(&path).unwrap();
    wait_for("a deleted file", || {
        sealed(&fleet, "transcript.deleted") == 1
    });
    fleet.append("p/a.jsonl", &record(10));
    wait_for("a file that came back", || {
        sealed(&fleet, "prompt.submitted") == 5
    });
    fleet.kill_run();
    fleet.run_once();
    let verdict = fleet.verify("case.jurat");
    assert_eq!(
        (&verdict["verdict"], &verdict["complete"]),
        (&"verified".into(), &true.into())
    );
}
