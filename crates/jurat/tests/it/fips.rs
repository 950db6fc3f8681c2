//! The build with feature `fips`: `cargo xtask test --slow` makes it and runs these.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jurat_key::fips::Library;
use jurat_testkit::contains;
use serde_json::Value;

use crate::fleet::{Fleet, JURAT, wait_for};

fn guide() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/guides/fips.md");
    fs::read_to_string(path).unwrap()
}

/// The signature type in a verifier key's text: `name+id+base64`.
fn alg(key: &str) -> u8 {
    let key = key.splitn(3, '+').nth(2).unwrap();
    BASE64.decode(key).unwrap()[0]
}

const ALG_P256: u8 = 0x02;

#[test]
fn the_module_is_named_and_signs_every_head_with_p256() {
    let fleet = Fleet::start("");
    let line = |text: &str| {
        format!(
            "{{\"type\":\"user\",\"uuid\":\"{text}\",\"sessionId\":\"f\",\"timestamp\":\"2026-11-21T10:00:00Z\",\
             \"message\":{{\"role\":\"user\",\"content\":\"{text}\"}}}}\n"
        )
    };
    fleet.append("p/f.jsonl", &line("one"));
    fleet.run_once();

    // Status and version say the same, and the guide says it as well.
    let linked = Library::linked();
    assert!(linked.fips_module.is_some());
    let status = fleet.status();
    assert_eq!(
        status["crypto"],
        serde_json::to_value(&linked).unwrap(),
        "{status}"
    );
    let said = fleet.jurat(&["status"]).stdout;
    let said = String::from_utf8(said).unwrap();
    let line_of_status = format!("crypto     {linked}\n");
    assert!(said.contains(&line_of_status), "{said}");
    assert!(
        guide().contains(&line_of_status),
        "the guide names another version than {linked}"
    );
    let version = String::from_utf8(fleet.jurat(&["--version"]).stdout).unwrap();
    assert!(version.contains(&linked.to_string()), "{version}");

    // The device's key, the collector's, and the next key of the device.
    let trust = fs::read_to_string(fleet.path("device/trust.txt")).unwrap();
    let keys = |word: &str| {
        let lines = trust.lines().filter(|line| line.starts_with(word));
        lines.map(alg).collect::<Vec<_>>()
    };
    assert_eq!(keys("log "), [ALG_P256], "{trust}");
    assert_eq!(keys("collector "), [ALG_P256], "{trust}");
    let rotated = fleet.jurat(&["rotate-key", "--json"]);
    let rotated: Value = serde_json::from_slice(&rotated.stdout).unwrap();
    assert_eq!(alg(rotated["key"].as_str().unwrap()), ALG_P256);
    fleet.append("p/f.jsonl", &line("two"));
    fleet.run_once();
    let verdict = fleet.verify("bundle.tar");
    assert_eq!(verdict["verdict"], "verified", "{verdict}");
    assert_eq!(verdict["key"], "software", "{verdict}");

    // The collector's word for what it took, under its own key of P-256: a receipt.
    let collector = fleet.path("collector");
    let origin = status["origin"].as_str().unwrap();
    let from = [
        "--collector",
        collector.to_str().unwrap(),
        "--device",
        origin,
    ];
    let mut tries = 0;
    wait_for("the collector's log has the head", || {
        tries += 1;
        let verdict = fleet.verify_from(&format!("received{tries}.tar"), &from);
        assert_eq!(verdict["verdict"], "verified", "{verdict}");
        !verdict["logged"].is_null()
    });
}

/// The first constants of ML-DSA's transform (FIPS 204, appendix B): in the module, and nothing that its start computes with.
const ZETAS: [i32; 3] = [25847, -2_608_894, -518_909];

#[test]
fn a_module_that_was_changed_ends_the_program_before_it_does_anything() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("jurat");
    let version = |program: &Path| -> Output {
        let mut command = Command::new(program);
        command.arg("--version").output().unwrap()
    };
    fs::copy(JURAT, &copy).unwrap();
    let good = version(&copy);
    assert!(good.status.success(), "{good:?}");

    let mut bytes = fs::read(&copy).unwrap();
    let pattern: Vec<u8> = ZETAS.iter().flat_map(|word| word.to_le_bytes()).collect();
    let places = bytes.windows(pattern.len()).enumerate();
    let found: Vec<usize> = places
        .filter(|(_, window)| *window == pattern)
        .map(|(at, _)| at)
        .collect();
    assert!(!found.is_empty(), "no such constants in the program");
    for at in found {
        bytes[at] ^= 1;
    }
    fs::write(&copy, bytes).unwrap();
    let changed = version(&copy);
    assert!(!changed.status.success(), "{changed:?}");
    assert!(changed.stdout.is_empty(), "{changed:?}");
    let said = String::from_utf8_lossy(&changed.stderr);
    assert!(said.contains("FIPS integrity test failed"), "{said}");
}

#[test]
fn no_other_library_and_no_hashing_of_our_own_is_in_the_program() {
    let bytes = fs::read(JURAT).unwrap();
    let has = |name: &str| contains(&bytes, name.as_bytes());
    // Symbols: the module's bear its crate's version, as those of the other library do.
    assert!(has("aws_lc_fips_0_"), "the module");
    assert!(has("jurat_proof"), "the program has its symbols");
    for other in ["aws_lc_0_", "4many3x86", "ed25519_dalek", "ring_core_"] {
        assert!(!has(other), "{other}");
    }
}
