//! What the log says about its sources.

use std::fs;

use super::{Device, prompt};

#[cfg(unix)]
#[test]
fn a_file_that_cannot_be_read_stands_in_the_log_and_in_the_status() {
    let device = Device::enrolled();
    device.append("a.jsonl", &prompt("one"));
    let link = device.path("b.jsonl");
    std::os::unix::fs::symlink("b.jsonl", &link).unwrap();
    let status = device.run();
    assert_eq!((status.records_sealed, status.unreadable), (1, 1));
    assert!(
        status.unreadable_examples[0].contains("b.jsonl: reading: Too many"),
        "{status:?}"
    );
    let failed = device.sealed("source.failed");
    assert_eq!(failed.len(), 1);
    let (source, detail) = (&failed[0]["source"], &failed[0]["detail"]);
    assert_eq!(source["path"], link.to_str().unwrap());
    assert_eq!(source["name"], "claude-code");
    assert_eq!(detail["doing"], "reading");
    assert_eq!(detail["read_bytes"], 0);
    assert!(detail["error"].as_str().unwrap().contains("symbolic links"));

    fs::remove_file(&link).unwrap();
    device.append("b.jsonl", &prompt("two"));
    let status = device.run();
    assert_eq!((status.records_sealed, status.unreadable), (1, 0));
    assert_eq!(device.sealed("source.failed").len(), 1);
}

/// A process that did not run when it happened says it at its start, and seals nothing twice.
#[test]
fn a_change_in_the_middle_of_a_transcript_stands_in_the_log() {
    let device = Device::enrolled();
    let texts: Vec<String> = (0..200).map(|index| format!("prompt-{index:03}")).collect();
    let whole: String = texts.iter().map(|text| prompt(text)).collect();
    device.append("a.jsonl", &whole);
    assert_eq!(device.run().records_sealed, 200);
    let forged = whole.replace("prompt-100", "forged-100");
    assert_eq!(forged.len(), whole.len());
    fs::write(device.path("a.jsonl"), &forged).unwrap();
    let status = device.run();
    assert_eq!(status.records_filtered["duplicate"], 199);
    assert_eq!(status.records_sealed, 1);
    let rewritten = device.sealed("transcript.rewritten");
    assert_eq!(rewritten.len(), 1);
    let detail = &rewritten[0]["detail"];
    assert_eq!(detail["read_bytes"], whole.len());
    assert_eq!(detail["read_lines"], 200);
    assert_eq!(detail["len"], whole.len());
    // What was there before is in the log, and stays.
    let sealed = device.sealed("prompt.submitted");
    assert_eq!(sealed.len(), 201);
    assert_eq!(device.run().records_sealed, 0);
    assert_eq!(device.sealed("transcript.rewritten").len(), 1);
}
