//! `cargo xtask vectors`: writes `vectors/`, the bundles that every verifier must judge alike.
//!
//! Keys, salts and times are fixed, so that a second run writes the same bytes. Each case names what must
//! be said of it; the whole verdict is the verifier's, and the tests hold the second verifier to it.
#![allow(clippy::unwrap_used, reason = "a tool that cannot go on ends")]

mod cases;
mod maker;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use jurat_proof::{BundleReader, Note, Signature, Signer as _, Trust, Verdict, verify};
use serde_json::Value;

use cases::Case;
use maker::KEYS;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../vectors")
}

/// Writes all of them anew. The README stays: it is written by hand.
pub(crate) fn vectors() -> Result<()> {
    let root = folder();
    let files = files(&root)?;
    for old in ["v2", "trust"] {
        if root.join(old).exists() {
            fs::remove_dir_all(root.join(old)).with_context(|| format!("removing {old}"))?;
        }
    }
    let mut bytes = 0;
    for (name, content) in &files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap())?;
        fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        bytes += content.len();
    }
    println!("{} files, {bytes} bytes", files.len());
    Ok(())
}

/// Every file by its name, and its content.
fn files(old: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let line = |name: &str, text: &str| {
        kept_line(&old.join("v2").join(name).join("bundle.jurat"), text)
            .unwrap_or_else(|| KEYS.hardware.sign_note(text).unwrap())
    };
    let mut wrong = Vec::new();
    for case in cases::all(&line) {
        let expected = judge(&case).unwrap_or_else(|error| {
            wrong.push(format!("{error:#}"));
            Vec::new()
        });
        let Case {
            name,
            bundle,
            trust,
            now,
            ..
        } = case;
        let mut put = |file: &str, content: Vec<u8>| {
            let twice = files.insert(format!("v2/{name}/{file}"), content);
            assert!(twice.is_none(), "two vectors are called {name}");
        };
        put("bundle.jurat", bundle);
        put("now", format!("{now}\n").into_bytes());
        put("expected.json", expected);
        if let Some(trust) = trust {
            put("trust.txt", trust.into_bytes());
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (name, text, line) in cases::refused() {
        let error = Trust::parse(&text).err();
        let found = error.with_context(|| format!("trust/{name} is not refused"))?;
        ensure!(found.line == line, "trust/{name}: {found}");
        let twice = files.insert(format!("trust/{name}.line-{line}.txt"), text.into_bytes());
        assert!(twice.is_none(), "two trust files are called {name}");
    }
    Ok(files)
}

/// The signature line of the run before, when it is still one of this text: ECDSA signs with randomness.
fn kept_line(bundle: &Path, text: &str) -> Option<Signature> {
    let (_, front) = BundleReader::open(fs::File::open(bundle).ok()?).ok()?;
    let note = Note::parse(&front.checkpoint).ok()?;
    let mut kept = Note {
        text: text.to_owned(),
        signatures: note.signatures,
    };
    let signed = kept.is_signed_by(KEYS.hardware.verifier_key());
    signed.ok()?.then(|| kept.signatures.pop()).flatten()
}

/// The verdict as JSON, when it is what the case says.
fn judge(case: &Case) -> Result<Vec<u8>> {
    let name = &case.name;
    let trust = case.trust.as_deref().map(Trust::parse).transpose();
    let trust = trust.with_context(|| name.clone())?;
    let verdict = verify(
        case.bundle.as_slice(),
        trust.as_ref(),
        Some(case.now),
        &mut |_| {},
    );
    let json = serde_json::to_value(&verdict)?;
    let word = |name: &str| match &json[name] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let says = match &verdict {
        Verdict::Verified(_) => "verified".to_owned(),
        Verdict::Tampered { .. } => format!("tampered {} {}", word("seq"), word("check")),
        Verdict::Unverifiable { .. } => format!("{} - {}", word("reason"), word("check")),
    };
    let wanted = &case.says;
    ensure!(says == *wanted, "{name}: {says}, and not {wanted}: {json}");
    let mut text = serde_json::to_vec_pretty(&json)?;
    text.push(b'\n');
    Ok(text)
}

#[test]
fn the_vectors_are_what_this_program_writes_and_nothing_else() {
    let root = folder();
    let made = files(&root).unwrap();
    let mut found = BTreeMap::new();
    let mut folders = vec![root.join("v2"), root.join("trust")];
    while let Some(dir) = folders.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap();
            found.insert(name.replace('\\', "/"), fs::read(&path).unwrap());
        }
    }
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&made), names(&found), "run cargo xtask vectors");
    for (name, content) in made {
        assert!(
            found[&name] == content,
            "{name} differs: run cargo xtask vectors"
        );
    }
}
