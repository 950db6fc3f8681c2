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
