//! Transcripts of every kind, good and mad.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use jurat_dialect::{Hint, claude_code};
use jurat_event::{Decoded, Kind};
use proptest::prelude::*;

fn decode(line: &str) -> Decoded {
    claude_code::decode(
        line.as_bytes(),
        Hint {
            file_stem: "0cf3db51-1c73-43bb-8d05-dc02739514a5",
        },
    )
}

fn transcripts(dir: &Path, out: &mut Vec<PathBuf>) {
    let mut paths: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            transcripts(&path, out);
        } else if path
            .extension()
            .is_some_and(|extension| extension == "jsonl")
        {
            out.push(path);
        }
    }
}

fn kinds(root: &Path) -> (usize, BTreeMap<&'static str, usize>) {
    let mut paths = Vec::new();
    transcripts(root, &mut paths);
    let (mut lines, mut kinds) = (0, BTreeMap::new());
    for path in paths {
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        for line in fs::read(&path)
            .unwrap()
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            lines += 1;
            let decoded = claude_code::decode(line, Hint { file_stem: &stem });
            assert_eq!(decoded.record.context.as_deref(), Some(line));
            *kinds.entry(decoded.record.kind.name()).or_default() += 1;
            for block in decoded.blocks {
                assert!(block.context.is_none());
                *kinds.entry(block.kind.name()).or_default() += 1;
            }
        }
    }
    (lines, kinds)
}

#[test]
fn a_tool_call_says_what_is_done_to_what() {
    let decoded = decode(
        r#"{"type":"assistant","uuid":"b1","sessionId":"5e","timestamp":"2026-11-01T10:00:00.000Z","cwd":"/w","version":"2.1.300","isSidechain":false,"message":{"id":"msg_x","model":"m","content":[{"type":"text","text":"x"},{"type":"tool_use","id":"toolu_x","name":"Bash","input":{"command":"id"}},{"type":"tool_use","id":"t2","name":"mcp__git__log","input":{"n":1}}],"usage":{"input_tokens":3,"output_tokens":9}}}"#,
    );
    assert_eq!(decoded.record.kind, Kind::ModelCompleted);
    assert_eq!(decoded.identity.as_deref(), Some("5e/b1"));
    let (id, usage) = decoded.usage.unwrap();
    assert_eq!((id.as_str(), usage.output_tokens), ("msg_x", 9));
    let [bash, mcp] = decoded.blocks.as_slice() else {
        panic!("{:?}", decoded.blocks)
    };
    assert_eq!(
        (bash.kind, bash.action.as_deref(), bash.object.as_deref()),
        (Kind::ToolCall, Some("Bash"), Some("id"))
    );
    assert_eq!(
        (mcp.kind, mcp.labels["mcp_server"].as_str()),
        (Kind::McpCall, "git")
    );
}

#[test]
fn kinds_follow_the_record_types() {
    let check = |line: &str, kind: Kind| assert_eq!(decode(line).record.kind, kind, "{line}");
    check(
        r#"{"type":"user","message":{"role":"user","content":"hi"}}"#,
        Kind::PromptSubmitted,
    );
    check(
        r#"{"type":"user","isMeta":true,"message":{"role":"user","content":"hi"}}"#,
        Kind::TranscriptRecord,
    );
    check(
        r#"{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t","is_error":null}]}}"#,
        Kind::TranscriptRecord,
    );
    check(
        r#"{"type":"system","subtype":"compact_boundary"}"#,
        Kind::SessionCompacted,
    );
    check(
        r#"{"type":"system","subtype":"api_error"}"#,
        Kind::ModelFailed,
    );
    check(
        r#"{"type":"permission-mode","permissionMode":"bypassPermissions"}"#,
        Kind::PermissionMode,
    );
    check(r#"{"type":"file-history-snapshot"}"#, Kind::FileSnapshot);
    check(r#"{"type":"of-tomorrow"}"#, Kind::TranscriptRecord);
    check(
        r#"{"display":"ls","timestamp":1793232000000,"project":"/w","sessionId":"s"}"#,
        Kind::PromptHistory,
    );
    check(r#"{"type":"user","sessionId":7}"#, Kind::TranscriptRecord);
    check(r#"{"type":"user","type":"user"}"#, Kind::TranscriptRecord);
    for line in ["", "x", "[1]", "\"text\"", "{", "null", "{\"a\":1}}"] {
        check(line, Kind::TranscriptUnreadable);
    }
}

#[test]
fn bytes_that_are_not_utf8_in_a_skipped_field_are_noticed() {
    let decoded = claude_code::decode(b"{\"type\":\"user\",\"skipped\":\"\xff\"}", Hint::default());
    assert_eq!(decoded.record.kind, Kind::TranscriptUnreadable);
}

#[test]
fn our_own_samples_have_no_unreadable_line() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/claude-code");
    let (lines, kinds) = kinds(&root);
    assert!(
        lines > 30 && !kinds.contains_key("transcript.unreadable"),
        "{lines} {kinds:?}"
    );
    assert!(
        kinds["tool.call"] >= 5 && kinds["tool.call"] == kinds["tool.result"],
        "{kinds:?}"
    );
}

#[test]
fn every_line_of_real_sessions_becomes_one_record() {
    let Some(shared) =
        jurat_testkit::need::shared("every_line_of_real_sessions_becomes_one_record")
    else {
        return;
    };
    let (lines, kinds) = kinds(&shared.join("corpus"));
    assert!(lines > 5_000, "{lines}");
    assert!(
        kinds["tool.call"] > 1_000 && kinds["prompt.submitted"] > 50,
        "{kinds:?}"
    );
}

proptest! {
    #[test]
    fn any_bytes_become_one_record_that_owns_them(line in proptest::collection::vec(any::<u8>(), 0..200)) {
        let decoded = claude_code::decode(&line, Hint::default());
        prop_assert_eq!(decoded.record.context.as_deref(), Some(line.as_slice()));
    }
}
