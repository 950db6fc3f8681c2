//! COSE receipts and in-toto statements before verifiers that nobody here wrote.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jurat_key::{P256Key, Secret, SoftwareKey};
use jurat_proof::{Checkpoint, Digest, Signer, leaf_hash, root_of, sha256};
use jurat_statement::{InclusionBuilder, SessionBuilder};
use jurat_testkit::need;
use serde_json::Value;

use crate::fleet::{Fleet, wait_for};

const JUDGE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../interop/statements/judge.py"
);
const SESSION: &str = "402d7924-cb6a-47ae-8ca7-6fe2d6cd58ce";
const SAMPLE: &str = include_str!(
    "../../../../samples/claude-code/projects/-home-dev-demo-b/402d7924-cb6a-47ae-8ca7-6fe2d6cd58ce.jsonl"
);

/// What the foreign verifiers say: the statement, or why it is refused.
fn judge(mut python: Command, kind: &str, files: &[&Path]) -> Result<Value, String> {
    let out = python.arg(JUDGE).arg(kind).args(files).output().unwrap();
    if out.status.success() {
        return Ok(serde_json::from_slice(&out.stdout).unwrap());
    }
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    // A judge that breaks down has refused nothing.
    assert!(said.starts_with("refused: "), "{said}");
    Err(said)
}

struct Judged<'a> {
    fleet: &'a Fleet,
    test: &'static str,
}

impl Judged<'_> {
    fn judge(&self, kind: &str, names: &[&str]) -> Result<Value, String> {
        let files: Vec<PathBuf> = names.iter().map(|name| self.fleet.path(name)).collect();
        let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
        judge(need::python(self.test).unwrap(), kind, &files)
    }

    fn export(&self, flag: &str, what: &str, name: &str) {
        let file = self.fleet.path(name);
        let key = self.fleet.path(&format!("{name}.pem"));
        let key = key.to_str().unwrap();
        let out = self.fleet.jurat(&[
            "export",
            flag,
            what,
            "-o",
            file.to_str().unwrap(),
            "--public-key",
            key,
        ]);
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{said}");
    }
}

/// The entries as they were sealed, in order.
fn entries(fleet: &Fleet) -> Vec<String> {
    let out = fleet.jurat(&["log", "--json"]);
    let text = String::from_utf8(out.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn strangers_accept_what_a_device_exports_and_refuse_it_changed() {
    let test = "COSE receipts and in-toto statements before foreign verifiers";
    if need::python(test).is_none() {
        return;
    }
    let mut fleet = Fleet::start("[seal]\nsession_idle_s = 1");
    fleet.append(&format!("p/{SESSION}.jsonl"), SAMPLE);
    fleet.append(
        "p/other.jsonl",
        "{\"type\":\"summary\",\"summary\":\"other\"}\n",
    );
    fleet.start_run();
    let ended = ["log", "--kind", "session.ended", "--session", SESSION];
    wait_for("the session ends", || fleet.jurat(&ended).status.success());
    fleet.kill_run();
    fleet.run_once();
    let fleet = &fleet;
    let judged = Judged { fleet, test };
    let entries = entries(fleet);
    let hashes: Vec<Digest> = entries
        .iter()
        .map(|entry| leaf_hash(entry.as_bytes()))
        .collect();
    let status = fleet.status();
    let origin = status["origin"].as_str().unwrap();

    // A receipt for every seventh leaf, the first and the last one among them.
    let last = entries.len() - 1;
    for seq in (0..last).step_by(7).chain([last]) {
        let name = format!("receipt-{seq}");
        judged.export("--cose", &seq.to_string(), &name);
        fs::write(fleet.path("entry"), &entries[seq]).unwrap();
        let key = format!("{name}.pem");
        let said = judged.judge("cose", &[&name, "entry", &key]).unwrap();
        assert_eq!(said["index"], seq);
        assert_eq!(said["root"], root_of(&hashes).to_string());
        assert_eq!(said["issuer"], origin);
        assert_eq!(said["subject"], format!("{origin}#{seq}"));
    }
    let (key, good) = ("receipt-7.pem", fs::read(fleet.path("receipt-7")).unwrap());
    let refused = |receipt: &[u8], entry: &str| {
        fs::write(fleet.path("changed"), receipt).unwrap();
        fs::write(fleet.path("entry"), entry).unwrap();
        judged.judge("cose", &["changed", "entry", key]).is_err()
    };
    assert!(!refused(&good, &entries[7]));
    assert!(refused(&good, &entries[8]));
    assert!(refused(
        &good,
        &entries[7].replace("\"seq\":7,", "\"seq\":8,")
    ));
    // A byte of the protected header, of the proof and of the signature.
    for at in [30, good.len() - 100, good.len() - 1] {
        let mut changed = good.clone();
        changed[at] ^= 1;
        assert!(refused(&changed, &entries[7]), "byte {at}");
    }

    judged.export("--dsse", SESSION, "envelope");
    let said = judged.judge("dsse", &["envelope", "envelope.pem"]).unwrap();
    let own: Vec<usize> = (0..entries.len())
        .filter(|at| entries[*at].contains(&format!("\"session\":\"{SESSION}\"")))
        .collect();
    let predicate = &said["predicate"];
    assert!(own.len() > 30, "{own:?}");
    assert_eq!(predicate["count"], own.len());
    assert_eq!(
        (&predicate["first"], &predicate["last"]),
        (&own[0].into(), &own[own.len() - 1].into())
    );
    assert_eq!(
        (&predicate["complete"], &predicate["ended"]),
        (&true.into(), &true.into())
    );
    assert_eq!(predicate["root"], root_of(&hashes).to_string());
    assert_eq!(predicate["size"], entries.len());
    assert!(predicate["redactions"].as_u64().unwrap() > 0);
    let leaves: Vec<u8> = own.iter().flat_map(|at| hashes[*at].0).collect();
    assert_eq!(
        said["subject"][0]["digest"]["sha256"],
        sha256(&[&leaves]).to_string()
    );

    let good: Value = serde_json::from_slice(&fs::read(fleet.path("envelope")).unwrap()).unwrap();
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut changed = good.clone();
        change(&mut changed);
        fs::write(fleet.path("changed"), changed.to_string()).unwrap();
        judged.judge("dsse", &["changed", "envelope.pem"]).is_err()
    };
    assert!(!refused(&|_| {}));
    let payload = BASE64.decode(good["payload"].as_str().unwrap()).unwrap();
    let payload = String::from_utf8(payload).unwrap();
    assert!(payload.contains("\"complete\":true"));
    let lie = BASE64.encode(payload.replace("\"complete\":true", "\"complete\":false"));
    assert!(refused(
        &|envelope| envelope["payload"] = lie.as_str().into()
    ));
    assert!(refused(
        &|envelope| envelope["payloadType"] = "application/json".into()
    ));
    let other = BASE64.encode([7; 64]);
    assert!(refused(
        &|envelope| envelope["signatures"][0]["sig"] = other.as_str().into()
    ));
    // The key of another log.
    let stranger = SoftwareKey::log(&Secret::from_bytes([9; 32]), "log").unwrap();
    let pem = jurat_statement::public_key_pem(&stranger.verifier_key().key);
    fs::write(fleet.path("stranger.pem"), pem).unwrap();
    assert!(judged.judge("dsse", &["envelope", "stranger.pem"]).is_err());
    fs::write(fleet.path("entry"), &entries[7]).unwrap();
    assert!(
        judged
            .judge("cose", &["receipt-7", "entry", "stranger.pem"])
            .is_err()
    );
}

#[test]
fn strangers_accept_statements_that_a_p256_key_signed() {
    let test = "statements of a P-256 key before foreign verifiers";
    if need::python(test).is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let key = P256Key::log(&Secret::from_bytes([2; 32]), "example.org/jurat/d/0").unwrap();
    let entries: Vec<String> = (0..5)
        .map(|seq| format!(
            r#"{{"v":1,"salt":"AAAAAAAAAAAAAAAAAAAAAA","seq":{seq},"boot":"b","time":"2026-11-01T00:00:00Z","kind":"tool.call","session":"s","session_seq":{seq}}}"#
        ))
        .collect();
    let hashes: Vec<Digest> = entries
        .iter()
        .map(|entry| leaf_hash(entry.as_bytes()))
        .collect();
    let head = Checkpoint {
        origin: key.verifier_key().name.clone(),
        size: 5,
        root: root_of(&hashes),
    };
    let mut inclusion = InclusionBuilder::new(head.clone(), 3).unwrap();
    let mut session = SessionBuilder::new(head, "s");
    for (entry, hash) in entries.iter().zip(&hashes) {
        inclusion.push(*hash);
        session.entry(entry.as_bytes()).unwrap();
    }
    let receipt = jurat_statement::receipt(&key, &inclusion.finish().unwrap()).unwrap();
    let envelope = jurat_statement::envelope(&key, &session.finish().unwrap()).unwrap();
    let pem = jurat_statement::public_key_pem(&key.verifier_key().key);
    fs::write(path("receipt"), &receipt).unwrap();
    fs::write(path("entry"), &entries[3]).unwrap();
    fs::write(path("other"), &entries[2]).unwrap();
    fs::write(path("envelope"), &envelope).unwrap();
    fs::write(path("key.pem"), &pem).unwrap();
    let judge = |kind: &str, names: &[&str]| {
        let files: Vec<PathBuf> = names.iter().map(|name| path(name)).collect();
        let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
        judge(need::python(test).unwrap(), kind, &files)
    };
    assert_eq!(
        judge("cose", &["receipt", "entry", "key.pem"]).unwrap()["index"],
        3
    );
    assert!(judge("cose", &["receipt", "other", "key.pem"]).is_err());
    assert_eq!(
        judge("dsse", &["envelope", "key.pem"]).unwrap()["predicate"]["count"],
        5
    );
    let text = fs::read_to_string(path("envelope")).unwrap();
    let mut changed: Value = serde_json::from_str(&text).unwrap();
    changed["payload"] = BASE64.encode("{}").into();
    fs::write(path("envelope"), changed.to_string()).unwrap();
    assert!(judge("dsse", &["envelope", "key.pem"]).is_err());
}

#[test]
fn no_statement_is_left_behind_when_there_is_nothing_to_say() {
    let fleet = Fleet::start("");
    let out = fleet.path("statement");
    let out = out.to_str().unwrap();
    let export = |args: &[&str]| {
        let done = fleet.jurat(&[&["export", "-o", out], args].concat());
        let said = String::from_utf8(done.stderr).unwrap();
        (done.status.code(), said, fs::exists(out).unwrap())
    };
    let refused = |args: &[&str], why: &str| {
        let (code, said, left) = export(args);
        assert_eq!((code, left), (Some(1), false), "{args:?}: {said}");
        assert!(said.contains(why), "{args:?}: {said}");
    };
    // Enrolled, and nothing sealed yet.
    refused(&["--cose", "0"], "ledger");
    fleet.append("p/a.jsonl", "{\"type\":\"summary\",\"summary\":\"one\"}\n");
    fleet.run_once();
    refused(&["--cose", "1000"], "leaf 1000 is not under the head of");
    refused(
        &["--dsse", "nobody"],
        "no entry of the session nobody is here",
    );
    refused(
        &["--public-key", out],
        "--public-key goes with --cose or --dsse",
    );
    // What is there is not written over.
    fs::write(out, "mine").unwrap();
    let (code, said, _) = export(&["--cose", "0"]);
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(fs::read_to_string(out).unwrap(), "mine");
}
