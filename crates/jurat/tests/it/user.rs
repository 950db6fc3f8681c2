//! What a user sees.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::fleet::{Fleet, JURAT, wait_for};

fn jurat(args: &[&str]) -> (i32, String, String) {
    let out = Command::new(JURAT)
        .args(args)
        .env("COLUMNS", "110")
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        out.status.code().unwrap(),
        text(out.stdout),
        text(out.stderr),
    )
}

#[test]
fn the_demo_catches_every_act_and_leaves_no_secret_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let keep = dir.path().join("kept");
    let (code, out, err) = jurat(&["demo", "--json", "--keep", keep.to_str().unwrap()]);
    assert_eq!(code, 0, "{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["sessions"], 3);
    assert_eq!(
        report["lines_in"],
        report["records_sealed"].as_u64().unwrap() + report["records_filtered"].as_u64().unwrap()
    );
    let verdict = &report["verdict"];
    assert_eq!(verdict["witness"], "collector (same host, not independent)");
    assert_eq!(
        (&verdict["integrity"], &verdict["key"], &verdict["complete"]),
        (&"signed".into(), &"software".into(), &true.into())
    );
    for act in report["acts"].as_array().unwrap() {
        assert_eq!(act["detected"], true, "{act}");
    }
    assert_eq!(report["acts"].as_array().unwrap().len(), 3);
    assert!(report["redactions"].as_u64().unwrap() >= 20);

    // Nothing of a planted secret outside of the agent's own files.
    let planted = fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../samples/planted.json"
    ))
    .unwrap();
    let planted: Value = serde_json::from_str(&planted).unwrap();
    fs::remove_dir_all(keep.join("agent")).unwrap();
    let mut files = Vec::new();
    collect(&keep, &mut files);
    assert!(files.len() > 10);
    for file in files {
        let bytes = fs::read(&file).unwrap();
        // The archive's records are compressed; its SIEM file and bundle hold the same in clear.
        for secret in planted["secrets"].as_array().unwrap() {
            let value = secret["value"].as_str().unwrap().as_bytes();
            let found = bytes.windows(value.len()).any(|window| window == value);
            assert!(!found, "{} holds a {}", file.display(), secret["kind"]);
        }
    }
    assert_eq!(
        jurat(&["demo", "--keep", keep.to_str().unwrap()]).0,
        1,
        "an existing folder is not touched"
    );
}

#[test]
fn the_demo_with_a_tpm_says_what_holds_the_key_and_catches_a_changed_machine() {
    let test = "user::the_demo_with_a_tpm";
    // A real one is its owner's: no test makes keys in it.
    if std::path::Path::new("/dev/tpmrm0").exists() {
        return jurat_testkit::need::skip(test, "this machine has a TPM of its own");
    }
    if jurat_testkit::need::program(test, "swtpm", "swtpm").is_none() {
        return;
    }
    let (code, out, err) = jurat(&["demo", "--tpm", "--json"]);
    assert_eq!(code, 0, "{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["verdict"]["key"], "tpm-pinned");
    let acts = report["acts"].as_array().unwrap();
    assert_eq!(acts.len(), 4);
    for act in acts {
        assert_eq!(act["detected"], true, "{act}");
    }
}

fn collect(dir: &std::path::Path, out: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, out)
        } else {
            out.push(path)
        }
    }
}

#[test]
fn help_teaches() {
    insta::assert_snapshot!(jurat(&["--help"]).1);
    let (code, out, _) = jurat(&["run", "--help"]);
    assert_eq!(code, 0);
    assert!(out.contains("SIGTERM"));
    assert!(jurat(&["man"]).1.starts_with(".ie"));
    assert!(jurat(&["completions", "bash"]).1.contains("complete"));
}

#[test]
fn errors_name_the_thing_and_the_fix() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("none");
    let state = state.to_str().unwrap();
    let check = |args: &[&str], code: i32, words: &[&str]| {
        let (found, _, err) = jurat(args);
        assert_eq!(found, code, "{args:?}: {err}");
        for word in words {
            assert!(
                err.contains(word),
                "{args:?}: {err:?} does not say {word:?}"
            );
        }
    };
    check(&["nonsense"], 64, &["nonsense"]);
    check(
        &["run", "--state-dir", state],
        1,
        &["not enrolled", "jurat enroll"],
    );
    check(
        &["status", "--state-dir", state],
        2,
        &["never ran", "jurat enroll", "jurat run"],
    );
    check(
        &["log", "--state-dir", state],
        2,
        &["nothing was recorded", "jurat enroll"],
    );
    let out = dir.path().join("out.jurat");
    let out = out.to_str().unwrap();
    check(
        &["export", "--state-dir", state, "-o", out],
        1,
        &["nothing was recorded", "jurat enroll"],
    );
    for url in ["http://localhost:1", "localhost:1", "https://"] {
        check(&["enroll", url, "--token-file", "x"], 64, &["https://HOST"]);
    }
    for time in ["yesterday", "2026-11-31", "2026", ""] {
        check(&["log", "--since", time], 64, &["2026-11-01T10:00:00Z"]);
        check(&["export", "-o", out, "--since", time], 64, &["7d"]);
    }
    check(&["verify", "/nowhere/x.jurat"], 2, &["/nowhere/x.jurat"]);
    check(&["serve"], 64, &["--dev", "--config"]);
    check(&["witness", "--dir", state], 64, &["needs a name"]);
    let config = dir.path().join("bad.toml");
    fs::write(&config, "[seal]\nbatch_evnts = 3\n").unwrap();
    check(
        &["run", "--config", config.to_str().unwrap()],
        64,
        &["bad.toml", "batch_evnts", "line 2"],
    );
    let said = jurat(&["run", "--config", config.to_str().unwrap()]).2;
    assert_eq!(said.matches("line 2").count(), 1, "{said}");
    fs::write(&config, "[redact]\npersonal = [\"shoe-size\"]\n").unwrap();
    check(
        &["run", "--config", config.to_str().unwrap()],
        64,
        &["shoe-size", "email"],
    );
    let trust = dir.path().join("trust");
    fs::write(&trust, "log nonsense\n").unwrap();
    let bundle = dir.path().join("b");
    fs::write(&bundle, "x").unwrap();
    check(
        &[
            "verify",
            bundle.to_str().unwrap(),
            "--trust",
            trust.to_str().unwrap(),
        ],
        2,
        &["line 1"],
    );
}

#[test]
fn a_bundle_that_is_none_or_is_cut_is_neither_verified_nor_tampered() {
    let dir = tempfile::tempdir().unwrap();
    let (bundle, trust) = (dir.path().join("b"), dir.path().join("t"));
    fs::write(&trust, "").unwrap();
    for content in [&b""[..], b"not a tar", &[0; 2048]] {
        fs::write(&bundle, content).unwrap();
        let (code, out, _) = jurat(&[
            "verify",
            bundle.to_str().unwrap(),
            "--trust",
            trust.to_str().unwrap(),
        ]);
        assert_eq!(code, 2, "{out}");
        assert!(out.contains("not a bundle"), "{out}");
    }
}

#[test]
fn a_dry_run_says_what_would_be_done_and_changes_nothing() {
    let fleet = Fleet::start("[filter]\nignore_types = [\"progress\"]");
    fleet.append("p/a.jsonl", "{\"type\":\"user\",\"timestamp\":\"2026-11-01T10:00:00Z\",\"message\":{\"content\":\"x\"}}\n{\"type\":\"progress\"}\n");
    let out = fleet.jurat(&["run", "--test", "--json"]);
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["lines_in"], 2);
    assert_eq!(report["records_sealed"], 1);
    assert_eq!(report["records_filtered"]["type:progress"], 1);
    assert_eq!(report["days"]["2026-11-01"][0], 1);
    assert!(!fleet.path("device/ledger").exists());
}

#[test]
fn status_log_and_fsck_tell_what_is_there() {
    let mut fleet = Fleet::start("[seal]\nbatch_s = 1\nscan_s = 1");
    fleet.append("p/a.jsonl", "{\"type\":\"assistant\",\"uuid\":\"u\",\"sessionId\":\"s1\",\"message\":{\"id\":\"m\",\"content\":[{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"Bash\",\"input\":{\"command\":\"make world\"}}]}}\n");
    fleet.start_run();
    wait_for("delivery", || {
        let status = fleet.status();
        status["alive"] == true
            && status["delivered"].as_u64().unwrap_or(0) >= 5
            && status["queue"]["len"] == 0
    });
    let text = String::from_utf8(fleet.jurat(&["status"]).stdout).unwrap();
    for word in [
        "state      running",
        "queue",
        "exposure",
        "shed 0",
        "archived",
    ] {
        assert!(text.contains(word), "{text}");
    }
    let log = String::from_utf8(
        fleet
            .jurat(&["log", "--kind", "tool.", "--session", "s1"])
            .stdout,
    )
    .unwrap();
    assert!(
        log.contains("make world") && log.lines().count() == 1,
        "{log}"
    );
    let json = fleet
        .jurat(&["log", "--json", "--context", "--kind", "model.completed"])
        .stdout;
    let line: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(line["full_context"]["uuid"], "u");
    assert_eq!(
        fleet.jurat(&["log", "--since", "2999-01-01"]).status.code(),
        Some(1)
    );
    // The same instant in another offset, and a length of time.
    let since = |time: &str| {
        let log = fleet.jurat(&["log", "--kind", "tool.", "--since", time]);
        String::from_utf8(log.stdout).unwrap().lines().count()
    };
    let entry = fleet.jurat(&["log", "--json", "--kind", "tool."]).stdout;
    let entry: Value = serde_json::from_slice(&entry).unwrap();
    let time = entry["time"].as_str().unwrap();
    let same = format!("{}+00:00", time.strip_suffix('Z').unwrap());
    assert_eq!([since(time), since(&same), since("1d")], [1, 1, 1]);
    fleet.kill_run();
    assert_eq!(
        fleet.jurat(&["status"]).status.code(),
        Some(1),
        "not running is not good"
    );
    let fsck = fleet.jurat(&["ledger", "fsck", "--json"]);
    assert_eq!(fsck.status.code(), Some(0));
    let report: Value = serde_json::from_slice(&fsck.stdout).unwrap();
    assert_eq!(report["clean"], true);
}

#[test]
fn a_damaged_ledger_is_not_listed_as_if_it_ended_there() {
    let fleet = Fleet::start("");
    for index in 0..3 {
        fleet.append(
            "p/a.jsonl",
            &format!("{{\"type\":\"summary\",\"n\":{index}}}\n"),
        );
        fleet.run_once();
    }
    let whole = fleet.jurat(&["log"]).stdout;
    let segment = fleet.path("device/ledger/0000000000000000.jl");
    let good = fs::read(&segment).unwrap();
    let bundle = fleet.path("b.jurat");
    let mut listed = Vec::new();
    for at in [80, good.len() / 2] {
        let mut bytes = good.clone();
        bytes[at..at + 8].fill(0xa5);
        fs::write(&segment, bytes).unwrap();
        let log = fleet.jurat(&["log"]);
        let said = String::from_utf8(log.stderr).unwrap();
        assert_eq!(log.status.code(), Some(2), "{said}");
        assert!(said.contains("damaged at byte"), "{said}");
        assert!(said.contains("jurat ledger fsck"), "{said}");
        assert!(whole.starts_with(&log.stdout) && whole != log.stdout);
        listed.push(log.stdout.len());
        let export = fleet.jurat(&["export", "-o", bundle.to_str().unwrap()]);
        let said = String::from_utf8(export.stderr).unwrap();
        assert_eq!(export.status.code(), Some(1), "{said}");
        assert!(said.contains("damaged at byte"), "{said}");
        assert!(!bundle.exists());
    }
    assert!(listed[0] == 0 && listed[1] > 0, "{listed:?}");
}

#[cfg(unix)]
#[test]
fn run_once_does_not_claim_to_have_read_what_it_could_not() {
    let fleet = Fleet::start("[seal]\nscan_s = 1");
    fleet.append("p/a.jsonl", "{\"type\":\"summary\"}\n");
    let link = fleet.path("agent/projects/p/b.jsonl");
    std::os::unix::fs::symlink("b.jsonl", &link).unwrap();
    let done = fleet.jurat(&["run", "--once"]);
    assert_eq!(done.status.code(), Some(2));
    let said = String::from_utf8(done.stderr).unwrap();
    let not_read = format!("not read: {}: reading: Too many", link.display());
    assert!(said.contains(&not_read), "{said}");
    let status = String::from_utf8(fleet.jurat(&["status"]).stdout).unwrap();
    assert!(
        status.contains("unreadable 1, for example") && status.contains("b.jsonl"),
        "{status}"
    );
    assert_eq!(fleet.status()["records_sealed"], 1, "the rest was read");
    fs::remove_file(&link).unwrap();
    fleet.run_once();
}

/// A running endpoint says it when a file fails and when it works again.
#[cfg(unix)]
#[test]
fn a_failing_file_is_sealed_once_and_so_is_its_recovery() {
    let mut fleet = Fleet::start("[seal]\nbatch_s = 1\nscan_s = 1");
    let link = fleet.path("agent/projects/p/b.jsonl");
    std::os::unix::fs::symlink("b.jsonl", &link).unwrap();
    fleet.start_run();
    wait_for("the failure", || fleet.status()["unreadable"] == 1);
    // In one step: a link that is removed first is gone, when someone looks in between.
    fleet.append("p/b.new", "{\"type\":\"summary\"}\n");
    fs::rename(fleet.path("agent/projects/p/b.new"), &link).unwrap();
    wait_for("the recovery", || {
        let status = fleet.status();
        status["unreadable"] == 0 && status["records_sealed"] == 1
    });
    fleet.kill_run();
    fleet.run_once();
    let log = fleet.jurat(&["log", "--kind", "source."]);
    let log = String::from_utf8(log.stdout).unwrap();
    let kinds: Vec<_> = log
        .split_whitespace()
        .filter(|word| word.starts_with("source."))
        .collect();
    assert_eq!(kinds, ["source.failed", "source.recovered"], "{log}");
}

#[cfg(unix)]
#[test]
fn sigterm_ends_it_in_an_orderly_way_with_a_sealed_goodbye() {
    let mut fleet = Fleet::start("[seal]\nscan_s = 1");
    fleet.append("p/a.jsonl", "{\"type\":\"summary\"}\n");
    fleet.start_run();
    wait_for("it runs", || fleet.status()["alive"] == true);
    let pid = fleet.status()["pid"].to_string();
    // Twice, as `timeout` does it: once to the process and once to its group.
    for _ in 0..2 {
        let _ = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    }
    wait_for("it stopped", || {
        fleet.status()["state"] == "stopped" && fleet.status()["alive"] == false
    });
    // The goodbye, too, and the last status knows.
    let status = fleet.status();
    assert_eq!(status["delivered"], status["size"], "{status}");
    assert_eq!(status["queue"]["len"], 0);
    assert_eq!(
        fleet
            .jurat(&["log", "--kind", "agent.stopped"])
            .status
            .code(),
        Some(0)
    );
    fleet.kill_run();
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_program_and_is_told_nothing() {
    let mut child = Command::new(JURAT)
        .args(["demo", "--help"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait_with_output().unwrap().stderr, b"");
    let fleet = Fleet::start("");
    let state = fleet.path("device");
    let mut child = Command::new(JURAT)
        .arg("--config")
        .arg(fleet.path("jurat.toml"))
        .arg("--state-dir")
        .arg(&state)
        .args(["run", "--once"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!said.contains("panicked"), "{said}");
    assert!(matches!(ended.status.code(), Some(0 | 141)), "{ended:?}");
}

#[test]
fn a_single_run_says_which_sink_it_could_not_reach_and_that_it_is_not_done() {
    // Nobody listens on the port of `discard`.
    let fleet = Fleet::start("[[sink]]\nname = \"siem\"\nto = \"relp://127.0.0.1:9\"\n");
    fleet.append("p/a.jsonl", "{\"type\":\"summary\",\"summary\":\"x\"}\n");
    let out = fleet.jurat(&["run", "--once", "--wait", "2"]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    let named = said.lines().find(|line| line.contains("not done")).unwrap();
    assert!(named.contains("the sink siem"), "{said}");
    assert!(
        said.contains("sink       siem (relp://127.0.0.1:9, accepted): 0 sent"),
        "{said}"
    );
}
