//! The real Claude Code CLI against a scripted API, while `jurat run` follows it.

use std::fs;

use jurat_testkit::{MessagesApi, Turn, claude_cli, need};
use serde_json::json;

use crate::fleet::{Fleet, lines, wait_for};

#[test]
fn a_live_session_of_the_real_cli_arrives_whole() {
    let name = "a_live_session_of_the_real_cli_arrives_whole";
    let Some(claude) = claude_cli::find() else {
        need::skip(
            name,
            "needs Claude Code: npm install @anthropic-ai/claude-code, and JURAT_TOOLS for its folder",
        );
        return;
    };
    let mut fleet = Fleet::start("[seal]\nbatch_s = 1\nscan_s = 1");
    fleet.start_run();
    let bash = |command: &str| Turn::ToolUse {
        name: "Bash".into(),
        input: json!({ "command": command }),
    };
    let api = MessagesApi::start(vec![
        bash("echo one"),
        bash("echo two; false"),
        Turn::Text("done".into()),
    ])
    .unwrap();
    let (home, work) = (fleet.path("home"), fleet.path("work"));
    fs::create_dir_all(&home).unwrap();
    fs::create_dir_all(&work).unwrap();
    let out = claude_cli::run(
        &claude,
        &home,
        &fleet.path("agent"),
        &work,
        &api.base_url(),
        "run two commands",
        &[],
    )
    .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let written = lines(&fleet.path("agent/projects")).len();
    assert!(written >= 6, "{written}");
    wait_for("every record was sealed", || {
        fleet.status()["records_sealed"] == written
    });
    fleet.kill_run();
    fleet.run_once();
    let verdict = fleet.verify("case.jurat");
    assert_eq!(
        (&verdict["verdict"], &verdict["complete"]),
        (&"verified".into(), &true.into())
    );
    fleet.wait_for_siem(verdict["size"].as_u64().unwrap());
    let records = fleet
        .siem()
        .iter()
        .filter(|line| line.get("full_context").is_some())
        .count();
    assert_eq!(
        records, written,
        "every record arrived, and nothing that is not there"
    );
    assert_eq!(verdict["events"]["tool.call"], 2);
    let failed = fleet
        .siem()
        .iter()
        .filter(|line| line["kind"] == "tool.result" && line["outcome"] == "failure")
        .count();
    assert_eq!(failed, 1);
}
