//! The real order of system calls, under strace.

use std::fs;
use std::process::Command;

use jurat_testkit::need;

use crate::fleet::{Fleet, JURAT};

#[test]
fn the_ledger_is_synced_before_anything_is_sent() {
    let Some(strace) = need::program(
        "the_ledger_is_synced_before_anything_is_sent",
        "strace",
        "the Debian package strace",
    ) else {
        return;
    };
    let fleet = Fleet::start("");
    fleet.append(
        "p/a.jsonl",
        "{\"type\":\"summary\",\"summary\":\"unmistakable\"}\n",
    );
    let trace = fleet.path("trace");
    let out = Command::new(strace)
        .args([
            "-f",
            "-y",
            "-s",
            "64",
            "-e",
            "trace=fdatasync,pwrite64,sendto,write,writev",
            "-o",
        ])
        .arg(&trace)
        .arg(JURAT)
        .args(["--config", fleet.path("jurat.toml").to_str().unwrap()])
        .args([
            "--state-dir",
            fleet.path("device").to_str().unwrap(),
            "run",
            "--once",
        ])
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let trace = fs::read_to_string(trace).unwrap();
    // Between a write to the ledger and the next bytes to the collector there is always a sync.
    // (The uploader only ever sees what was synced; its first request, the frontier, carries none.)
    let mut dirty = false;
    let (mut writes, mut syncs, mut sends) = (0, 0, 0);
    for line in trace.lines() {
        let ledger = line.contains("/device/ledger/") && line.contains(".jl>");
        let socket = line.contains("TCP") || line.contains("socket:");
        if ledger && line.contains("pwrite64(") {
            dirty = true;
            writes += 1;
        } else if ledger && line.contains("fdatasync(") {
            assert!(
                line.contains("= 0") || line.contains("unfinished"),
                "{line}"
            );
            dirty = false;
            syncs += 1;
        } else if socket && writes > 0 && !dirty {
            sends += 1;
        }
    }
    assert!(
        writes >= 2 && syncs >= writes && sends >= 1,
        "{writes} writes, {syncs} syncs, {sends} sends"
    );
    assert!(!dirty, "the last write to the ledger was not synced");
}
