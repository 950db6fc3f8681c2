//! Revealing a leaf: what was committed, from where it still stands, or a clear no.

use jurat_agent::{EraseRequest, Query, RevealLeafError};
use jurat_proof::{EntryView, Reveal, RevealError, Revealed};
use jurat_seal::RevealFailed;

use crate::Device;

const SECRET: &str = "not-a-real-one-0123456789";

/// A prompt that holds something to take out, as a line.
fn telling(text: &str) -> String {
    let input = format!("{{\"password\":\"{SECRET}\",\"note\":\"{text}\"}}");
    let block = format!(
        "{{\"type\":\"tool_use\",\"id\":\"t-{text}\",\"name\":\"Bash\",\"input\":{input}}}"
    );
    format!(
        "{{\"type\":\"assistant\",\"uuid\":\"u-{text}\",\"sessionId\":\"s\",\"message\":{{\"content\":[{block}]}}}}\n"
    )
}

/// The entries that commit to an original, with their leaf.
fn redacted(device: &Device) -> Vec<(u64, Vec<u8>)> {
    let mut found = Vec::new();
    let (disk, state) = (device.host.disk.clone(), device.dir.path().join("device"));
    jurat_agent::query(disk, &state, &Query::default(), &mut |bytes, entry, _| {
        if entry["raw"].is_object() && entry["context"].is_object() {
            found.push((entry["seq"].as_u64().unwrap(), bytes.to_vec()));
        }
        true
    })
    .unwrap();
    found
}

#[test]
fn a_leaf_is_revealed_as_it_was_committed_and_not_when_its_file_changed_or_it_was_erased() {
    let device = Device::enrolled();
    let state = device.dir.path().join("device");
    device.append("a.jsonl", &telling("first"));
    device.append("a.jsonl", &telling("second"));
    device.run();
    let reveal = |seq, raw| jurat_agent::reveal(&device.host, &state, None, seq, raw);
    let leaves = redacted(&device);
    assert_eq!(leaves.len(), 2);
    let mut salts = Vec::new();
    for ((seq, entry), text) in leaves.iter().zip(["first", "second"]) {
        let view = EntryView::parse(entry).unwrap();
        let raw = Reveal::parse(reveal(*seq, true).unwrap().as_bytes()).unwrap();
        assert_eq!((raw.of, raw.holds(&view)), (Revealed::Raw, Ok(())));
        assert_eq!(raw.bytes, telling(text).trim_end().as_bytes());
        let payload = Reveal::parse(reveal(*seq, false).unwrap().as_bytes()).unwrap();
        assert_eq!(
            (payload.of, payload.holds(&view)),
            (Revealed::Context, Ok(()))
        );
        let payload = String::from_utf8(payload.bytes).unwrap();
        assert!(payload.contains("[redacted:") && !payload.contains(SECRET));
        salts.push(raw.salt);
    }
    assert_ne!(salts[0], salts[1]);

    // What is not committed, or not there.
    let none = RevealError::NoCommitment {
        seq: 0,
        of: Revealed::Raw,
    };
    let said = reveal(0, true);
    assert!(
        matches!(&said, Err(RevealLeafError::Reveal(RevealFailed::Reveal(error))) if *error == none),
        "{said:?}"
    );
    let said = reveal(1_000_000, false);
    assert!(
        matches!(
            said,
            Err(RevealLeafError::Reveal(RevealFailed::Leaf(1_000_000)))
        ),
        "{said:?}"
    );

    // The first record is changed in its file, its length is not.
    let text = std::fs::read_to_string(device.path("a.jsonl")).unwrap();
    std::fs::write(device.path("a.jsonl"), text.replace("first", "other")).unwrap();
    let said = reveal(leaves[0].0, true);
    assert!(
        matches!(
            said,
            Err(RevealLeafError::Reveal(RevealFailed::Changed { .. }))
        ),
        "{said:?}"
    );
    assert!(reveal(leaves[1].0, true).is_ok());
    std::fs::remove_file(device.path("a.jsonl")).unwrap();
    let said = reveal(leaves[1].0, true);
    assert!(
        matches!(
            said,
            Err(RevealLeafError::Reveal(RevealFailed::Original { .. }))
        ),
        "{said:?}"
    );

    // The payload is in the ledger, until it is erased.
    let seq = leaves[0].0;
    assert!(reveal(seq, false).is_ok());
    let request = EraseRequest {
        ranges: vec![(seq, seq + 1)].into(),
        who: "somebody".into(),
        reason: "asked for".into(),
        ..EraseRequest::default()
    };
    let patience = std::time::Duration::from_secs(60);
    jurat_agent::erase(&device.host, &device.config, &state, &request, patience).unwrap();
    let said = reveal(seq, false);
    assert!(
        matches!(said, Err(RevealLeafError::Reveal(RevealFailed::Gone(gone))) if gone == seq),
        "{said:?}"
    );
}
