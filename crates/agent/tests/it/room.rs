//! A disk without room.

use jurat_proof::{Selection, Withhold};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use jurat_agent::{Config, Finish, Inputs, Status};
use jurat_disk::{Disk, Host, Mode, SystemClock, replace};
use jurat_ledger::Reader;
use jurat_seal::kind;
use jurat_testkit::{Repeatable, SimDisk};
use serde_json::{Value, json};

const LINES: usize = 2_000;

fn line(number: usize) -> String {
    json!({
        "type": "user", "sessionId": "11111111-1111-4111-8111-111111111111",
        "uuid": format!("00000000-0000-4000-8000-{number:012}"),
        "timestamp": "2026-01-01T00:00:00.000Z",
        "message": {"role": "user", "content": format!("number {number} {}", "x".repeat(400))},
    })
    .to_string()
}

/// An enrolled endpoint on a simulated disk, its collector out of reach.
fn endpoint(disk: &SimDisk, state: &Path) -> Host {
    let host = Host {
        disk: Arc::new(disk.clone()),
        clock: Arc::new(SystemClock),
        rng: Arc::new(Repeatable::new(4)),
    };
    let keys = state.join("keys");
    for name in ["log", "reveal", "hmac", "fingerprint", "tls", "token"] {
        let secret = jurat_key::Secret::random(&host);
        secret
            .store(&host, &keys.join(format!("{name}.key")))
            .unwrap();
    }
    let cosigner = |name: &str| {
        let seed = jurat_key::Secret::from_bytes([9; 32]);
        let key = jurat_key::SoftwareKey::cosigner(&seed, name).unwrap();
        key.verifier_text()
    };
    let enrolment = json!({
        "device": "d", "origin": "test.invalid/jurat/d/0", "url": "https://localhost:1",
        "ca": jurat_key::tls::generate(&["localhost".into()]).unwrap().ca,
        "witness": cosigner("w"), "archive": cosigner("a"), "log": cosigner("l"),
    });
    let path = state.join("enrolment.json");
    replace(disk, &path, enrolment.to_string().as_bytes()).unwrap();
    host
}

fn config(agent: &Path, more: &str) -> Config {
    let text = format!("[[source]]\nname = \"claude-code\"\ndir = {agent:?}\n{more}");
    Config::parse("jurat.toml".into(), &text, []).unwrap()
}

fn entries(disk: &SimDisk, state: &Path) -> Vec<Value> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut reader = Reader::open(disk, &state.join("ledger"), 0).unwrap();
    let mut found = Vec::new();
    while let Some(item) = reader.next_record().unwrap() {
        if item.kind == kind::ENTRY {
            found.push(serde_json::from_slice(item.body).unwrap());
        }
    }
    found
}

/// Reads the lines while the disk has room for a part of them; gives more room when asked to.
fn run(
    more: &str,
    mut look: impl FnMut(&SimDisk, &Status),
) -> (SimDisk, tempfile::TempDir, Status) {
    let dir = tempfile::tempdir().unwrap();
    let (agent, state) = (dir.path().join("agent"), dir.path().join("state"));
    fs::create_dir_all(agent.join("projects/p")).unwrap();
    fs::create_dir_all(&state).unwrap();
    let text: String = (0..LINES).map(|number| line(number) + "\n").collect();
    fs::write(agent.join("projects/p/s.jsonl"), text).unwrap();
    let disk = SimDisk::new();
    let host = endpoint(&disk, &state);
    let config = config(&agent, more);
    let inputs = Inputs::default();
    let status = jurat_agent::run(
        &host,
        &config,
        &state,
        &inputs,
        Finish::WhenSealed,
        &mut |status| look(&disk, status),
    )
    .unwrap();
    (disk, dir, status)
}

#[test]
fn a_full_disk_pauses_reading_says_so_and_loses_no_line() {
    let mut paused = false;
    let mut limited = false;
    let (disk, dir, status) = run("", |disk, status| {
        if !limited {
            // Room for the reserve and about a third of the lines.
            limited = true;
            disk.limit(Some(disk.used() + 800_000));
        }
        if status.state.contains("the disk is full") {
            paused = true;
            disk.limit(None);
        }
    });
    assert!(paused, "it never said so: {status:?}");
    assert_eq!(
        (status.lines_in, status.records_sealed),
        (LINES as u64, LINES as u64)
    );
    let entries = entries(&disk, &dir.path().join("state"));
    let full = entries.iter().find(|entry| entry["kind"] == "ledger.full");
    assert_eq!(full.unwrap()["detail"]["why"], "the disk is full");
    let prompts = entries
        .iter()
        .filter(|entry| entry["kind"] == "prompt.submitted");
    assert_eq!(
        prompts.count(),
        LINES,
        "every line once, the pause notwithstanding"
    );
    let file = disk
        .open(&dir.path().join("state/ledger/reserve"), Mode::Read)
        .unwrap();
    assert_eq!(
        file.len().unwrap(),
        4 * 1024 * 1024,
        "the reserve is there again"
    );
}

#[test]
fn a_ledger_that_may_prune_goes_on_and_every_loss_is_a_leaf() {
    let more = "[ledger]\nbytes_max = 1_000_000\nwhen_full = \"prune\"\n";
    let (disk, dir, status) = run(more, |_, _| {});
    assert_eq!(
        (status.lines_in, status.records_sealed),
        (LINES as u64, LINES as u64)
    );
    assert!(status.shed > 0);
    let state = dir.path().join("state");
    let entries = entries(&disk, &state);
    let said: u64 = entries
        .iter()
        .filter(|entry| entry["kind"] == "ledger.pruned")
        .map(|entry| {
            let number = |name: &str| entry["detail"][name].as_u64().unwrap();
            number("payloads").max(number("entries"))
        })
        .sum();
    assert_eq!(said, status.shed);
    // The tree is whole: the bundle has the signed root although content is missing.
    let mut bundle = Vec::new();
    let reader: Arc<dyn Disk> = Arc::new(disk.clone());
    let size = jurat_seal::export(
        reader,
        &state.join("ledger"),
        &Selection::All,
        &Withhold::default(),
        jurat_seal::Enrolled::default(),
        &mut bundle,
    )
    .unwrap()
    .to;
    assert_eq!(size, status.size);
}
