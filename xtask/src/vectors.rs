//! `cargo xtask vectors`: writes `vectors/`, the bundles that every verifier must judge alike.
//!
//! Keys, salts and times are fixed, so that a second run writes the same bytes. Each case names what must
//! be said of it; the whole verdict is the verifier's, and the tests hold the second verifier to it.
#![allow(clippy::unwrap_used, reason = "a tool that cannot go on ends")]

mod attested;
mod cases;
mod kept;
mod maker;
mod tpm;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use jurat_attest::Offline;
use jurat_proof::{Trust, Verdict, verify_with};
use serde_json::Value;

use cases::Case;
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../vectors")
}

/// Writes all of them anew. The README stays: it is written by hand.
pub(crate) fn vectors() -> Result<()> {
    let root = folder();
    let files = files()?;
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
fn files() -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut wrong = Vec::new();
    for case in cases::all() {
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
    files.insert(kept::FILE.into(), kept::text().into_bytes());
    Ok(files)
}

/// The verdict as JSON, when it is what the case says.
fn judge(case: &Case) -> Result<Vec<u8>> {
    let name = &case.name;
    let trust = case.trust.as_deref().map(Trust::parse).transpose();
    let trust = trust.with_context(|| name.clone())?;
    let verdict = verify_with(
        case.bundle.as_slice(),
        trust.as_ref(),
        Some(case.now),
        &mut Offline::default(),
        &mut |_| {},
    );
    let json = serde_json::to_value(&verdict)?;
    let word = |name: &str| match &json[name] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let says = match &verdict {
        Verdict::Verified(report) => {
            let of = report.attestation.as_ref();
            let quotes = of.and_then(|attestation| attestation.quotes.as_ref());
            let mut said = "verified".to_owned();
            if let Some(quotes) = quotes {
                said += &format!(" {}", quotes.status);
                for (seq, code) in &quotes.findings {
                    said += &format!(" {seq} {code}");
                }
            }
            said
        }
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
    let made = files().unwrap();
    let kept = fs::read(root.join(kept::FILE)).unwrap();
    let mut found = BTreeMap::from([(kept::FILE.to_owned(), kept)]);
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
