//! Planted secrets in recorded sessions, and what must not change.

use std::fs;
use std::path::Path;

use jurat_event::{Event, Kind};
use jurat_redact::{Mode, Redactor};
use proptest::prelude::*;

use crate::rules::redactor;

fn samples() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples")
}

#[test]
fn no_planted_secret_of_the_samples_survives() {
    let planted: serde_json::Value =
        serde_json::from_slice(&fs::read(samples().join("planted.json")).unwrap()).unwrap();
    let mut redactor = redactor();
    let mut survived = Vec::new();
    for secret in planted["secrets"].as_array().unwrap() {
        let value = secret["value"].as_str().unwrap();
        let file = samples().join(secret["file"].as_str().unwrap());
        let bytes = fs::read(&file).unwrap();
        for line in bytes
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            let clean = redactor
                .json(line)
                .map_or(line.to_vec(), |(clean, _)| clean);
            let parsed: serde_json::Value = serde_json::from_slice(&clean).unwrap();
            if parsed.to_string().contains(value) || String::from_utf8_lossy(&clean).contains(value)
            {
                survived.push((
                    secret["kind"].as_str().unwrap(),
                    value,
                    file.file_name().unwrap().to_owned(),
                ));
            }
        }
    }
    assert!(survived.is_empty(), "{survived:#?}");
}

#[test]
fn equal_secrets_look_equal_under_one_key_and_different_under_another() {
    let text = format!("token ghp_{}", "aB3dE5gH1jK2mN4pQ6rS8tU0vW7xY9zA1bC2");
    let (mut one, mut two) = (redactor(), redactor());
    let mut other = Redactor::new(Mode::Redact, &[8; 32], &[]).unwrap();
    assert_eq!(
        one.text(&text),
        two.text(&format!("{text} "))
            .map(|text| text.trim_end().to_owned())
    );
    assert_ne!(one.text(&text), other.text(&text));
}

#[test]
fn secrets_under_secret_names_and_in_headers_go_whole() {
    let mut redactor = redactor();
    let json = br#"{"dbPassword":"hunter2 is mine","max_tokens":"4096","headers":{"Authorization":"Bearer abc"},"key":"plain"}"#;
    let (clean, count) = redactor.json(json).unwrap();
    let clean = String::from_utf8(clean).unwrap();
    assert_eq!(count, 2, "{clean}");
    assert!(
        !clean.contains("hunter2")
            && !clean.contains("abc\"")
            && clean.contains("4096")
            && clean.contains("plain")
    );
}

#[test]
fn everything_under_a_secret_name_goes_and_counters_and_schemas_stay() {
    let gone = r#"{"passwords":["alpha-1",["beta-22"],{"k":"gamma-3"}],"credentials" : {"x":{"y":-123456.5},"type":"basic","z":"delta-4"},"password":77777}"#;
    let kept = r#"{"usage":{"input_tokens":123456,"output_tokens":98765},"max_tokens":32000,"tokens":["alpha","beta"],"properties":{"password":{"type":"string","description":"The password of the user","minLength":12000},"required":["password"]},"secrets":{"required":["first","second"],"on":true,"off":null}}"#;
    let mut redactor = redactor();
    assert_eq!(redactor.json(kept.as_bytes()), None);
    let (clean, count) = redactor.json(gone.as_bytes()).unwrap();
    assert_eq!(redactor.json(&clean), None, "twice changes something");
    let before: serde_json::Value = serde_json::from_str(gone).unwrap();
    let after: serde_json::Value = serde_json::from_slice(&clean).unwrap();
    let mut leaves = (Vec::new(), Vec::new());
    let mut fields = [before.as_object().unwrap(), after.as_object().unwrap()];
    // A header's detail is a tree, and comes to the same.
    let mut event = Event::new(Kind::Other);
    event.detail = serde_json::from_str(gone).unwrap();
    let detail = redactor.redact(event).event().detail.clone();
    assert_eq!(serde_json::to_value(detail).unwrap(), after);
    for (fields, leaves) in fields.iter_mut().zip([&mut leaves.0, &mut leaves.1]) {
        for (path, leaf) in fields
            .iter()
            .flat_map(|(name, value)| walk(name.clone(), value))
        {
            leaves.push((path, leaf));
        }
    }
    assert_eq!(count, 6);
    for ((path, before), (same, after)) in leaves.0.iter().zip(&leaves.1) {
        assert_eq!(path, same);
        let stays = path.ends_with("type");
        assert_eq!(stays, before == after, "{path}: {after}");
        assert!(
            stays || after.starts_with("\"[redacted:named-secret:"),
            "{path}: {after}"
        );
    }
    assert_eq!((leaves.0.len(), leaves.1.len()), (7, 7));
}

fn walk(path: String, value: &serde_json::Value) -> Vec<(String, String)> {
    use serde_json::Value::{Array, Object};
    match value {
        Array(list) => list
            .iter()
            .enumerate()
            .flat_map(|(index, value)| walk(format!("{path}/{index}"), value))
            .collect(),
        Object(map) => map
            .iter()
            .flat_map(|(name, value)| walk(format!("{path}/{name}"), value))
            .collect(),
        leaf => vec![(path, leaf.to_string())],
    }
}

#[test]
fn custody_mode_keeps_every_byte_and_says_so() {
    let mut redactor = Redactor::new(Mode::Custody, &[7; 32], &[]).unwrap();
    let mut event = Event::new(Kind::Other);
    let line = b"{\"password\":\"hunter22\"}".to_vec();
    event.context = Some(line.clone());
    let redacted = redactor.redact(event);
    assert!(redacted.is_custody());
    assert_eq!(redacted.payload(), Some(line.as_slice()));
}

#[test]
fn a_secret_in_a_header_field_goes_too() {
    let mut event = Event::new(Kind::ToolCall);
    event.object = Some("mysql --password=Tr0ub4dor3x -e 'select 1'".into());
    event.labels.insert("cwd".into(), "/w".into());
    let redacted = redactor().redact(event);
    assert!(
        !redacted
            .event()
            .object
            .as_deref()
            .unwrap()
            .contains("Tr0ub4dor3x")
    );
    assert_eq!(redacted.event().labels["cwd"], "/w");
}

#[test]
fn a_text_made_to_be_slow_is_not() {
    // Keywords without end: work must grow with the text, not with its square.
    let mut redactor = redactor();
    for piece in [
        "-----BEGIN PRIVATE KEY-----xyz ",
        "authorization: bearer ",
        "://a:",
        "eyJ",
        "password = \"",
        "ghp_",
        "AKIA",
    ] {
        let text = piece.repeat(200_000 / piece.len());
        let start = std::time::Instant::now();
        let _ = redactor.text(&text);
        // Not a measurement: a quadratic scan of 200 kB takes many minutes.
        assert!(
            start.elapsed().as_secs() < 60,
            "{piece:?} took {:?}",
            start.elapsed()
        );
    }
}

#[test]
fn a_line_that_is_not_json_is_scanned_as_text_and_inside_its_quotes() {
    let mut redactor = redactor();
    let token = "ghp_aB3dE5gH1jK2mN4pQ6rS8tU0vW7xY9zA1bC2";
    let cut = format!("{{\"a\":\"\\u0067{}", &token[1..]);
    for line in [token.to_owned(), format!("{{\"x\": {token}"), cut] {
        let (clean, count) = redactor.json(line.as_bytes()).unwrap();
        assert!(
            count >= 1 && !String::from_utf8_lossy(&clean).contains(&token[4..]),
            "{line}"
        );
    }
}

proptest! {
    /// Words, numbers and punctuation without a keyword's neighbourhood come out untouched.
    #[test]
    fn clean_text_is_left_alone(words in proptest::collection::vec("[a-z]{1,9}|[0-9]{1,4}|[.,;()]", 0..40)) {
        let text = words.join(" ");
        prop_assert_eq!(redactor().text(&text), None);
    }

    #[test]
    fn redacting_twice_changes_nothing(text in "(ghp_[A-Za-z0-9]{36}| |password = \"[a-z0-9]{12}\"|https://u:[a-z0-9]{9}@h/|[a-z\"\\\\{}:]){0,12}") {
        let mut redactor = redactor();
        if let Some((once, _)) = redactor.json(text.as_bytes()) {
            prop_assert_eq!(redactor.json(&once), None, "{}", String::from_utf8_lossy(&once));
        }
    }

    #[test]
    fn json_stays_json_and_keeps_its_shape(value in "[ -~\n\u{e9}]{0,60}", key in "[a-z_]{0,12}") {
        let before = serde_json::json!({ key.clone(): [value, { "n": 1 }] });
        let bytes = serde_json::to_vec(&before).unwrap();
        let clean = redactor().json(&bytes).map_or(bytes, |(clean, _)| clean);
        let after: serde_json::Value = serde_json::from_slice(&clean).unwrap();
        prop_assert_eq!(&after[&key][1]["n"], &serde_json::json!(1));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = redactor().json(&bytes);
    }
}
