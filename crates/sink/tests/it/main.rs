//! Messages as receivers of others take them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod formats;
mod rsyslog;

use jurat_proof::{Record, write_record};
use jurat_sink::Seals;
use jurat_sink::format::{Facility, Format, Header, StructuredData};
use jurat_sink::project::{Chosen, Cursor, Projector};
use serde_json::{Value, json};

const ORIGIN: &str = "example.org/jurat/11111111-2222-4333-8444-555555555555/0";

/// Words that have broken a receiver somewhere.
const HOSTILE: &[&str] = &[
    "rm -rf / | tee out",
    "a=b cs1=forged act=denied",
    "line\nCEF:0|Evil|Evil|1|1|x|10|act=forged",
    "carriage\r\nreturn",
    "tab\tdevTime=0\tsev=1",
    "back\\slash \\n \\= \\|",
    "nul\0byte",
    "\u{feff}<0>1 - forged",
    "right\u{202e}to left",
    "escape \u{1b}[31mred",
    "]\" ] [jurat@0 seq=\"1\"]",
    "trailing space ",
    "{\"json\":\"inside\"}",
    "\u{85}\u{2028}unicode lines\u{2029}",
    "",
];

/// One entry with these fields, and its payload.
fn entry(seq: u64, fields: &Value, payload: Option<&[u8]>, raw: &mut Vec<u8>) {
    let mut entry = json!({
        "salt": "c2FsdHNhbHRzYWx0c2FsdA", "seq": seq, "boot": "b",
        "time": "2026-10-29T00:00:00.123456789Z", "kind": "tool.call", "kind_id": 1001,
    });
    for (name, value) in fields.as_object().unwrap() {
        entry[name] = value.clone();
    }
    let bytes = format!("{{\"v\":1,{}", &entry.to_string()[1..]).into_bytes();
    write_record(raw, &Record::Entry(&bytes));
    if let Some(bytes) = payload {
        write_record(
            raw,
            &Record::Payload {
                salt: &[0; 32],
                bytes,
            },
        );
    }
}

/// So many entries, each with another hostile word, and a payload.
fn seals(count: u64) -> Seals {
    let mut raw = Vec::new();
    for seq in 0..count {
        let word = HOSTILE[seq as usize % HOSTILE.len()];
        let fields = json!({
            "action": "Bash", "object": format!("{word} {seq}"), "session": format!("s-{}", seq % 7),
            "severity": (["info", "low", "medium", "high", "critical"][seq as usize % 5]),
            "agent": {"product": "claude-code"}, "labels": [word],
        });
        let payload = json!({ "n": seq, "command": word.repeat(20) }).to_string();
        entry(seq, &fields, Some(payload.as_bytes()), &mut raw);
    }
    Seals {
        from: 0,
        to: count,
        next: 0,
        raw,
        leaves_withheld: 0,
        payloads_missing: 0,
        more: false,
        rotates: false,
    }
}

fn header() -> Header {
    Header {
        facility: Facility::default(),
        hostname: "laptop-7".into(),
        app_name: "jurat".into(),
        structured: StructuredData {
            enterprise: Some(32_473),
        },
    }
}

fn projector(format: Format) -> Projector {
    Projector {
        origin: ORIGIN.into(),
        format,
        header: Some(header()),
        max_bytes: 8_000,
        chosen: Chosen::default(),
    }
}

fn messages(format: Format, count: u64) -> Vec<Vec<u8>> {
    let (projected, _) = projector(format)
        .project(Cursor::default(), &seals(count))
        .unwrap();
    assert_eq!(projected.messages.len() as u64, count);
    projected.messages
}
