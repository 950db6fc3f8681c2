//! The house stands as `ARCHITECTURE.md` says: which crate may import which, and that each is named.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn architecture() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ARCHITECTURE.md");
    std::fs::read_to_string(path).unwrap()
}

/// The table of rooms: | `name` | one line | imports | never |
fn table() -> BTreeMap<String, BTreeSet<String>> {
    let mut rooms = BTreeMap::new();
    for line in architecture()
        .lines()
        .filter(|line| line.starts_with("| `"))
    {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, _, imports, _] = cells.as_slice() else {
            continue;
        };
        let words = imports
            .split(',')
            .map(|word| word.trim().trim_matches('`').to_owned());
        let imports = words
            .filter(|word| !word.is_empty() && word != "-")
            .collect();
        rooms.insert(name.trim_matches('`').to_owned(), imports);
    }
    rooms
}

#[test]
fn every_crate_stands_in_the_table_and_imports_only_what_it_may() {
    let out = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--offline",
        ])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&out.stdout).unwrap();
    let table = table();
    let short = |name: &str| name.strip_prefix("jurat-").unwrap_or(name).to_owned();
    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = short(package["name"].as_str().unwrap());
        if name == "xtask" || name == "fuzz" {
            continue;
        }
        let allowed = table
            .get(&name)
            .unwrap_or_else(|| panic!("{name} does not stand in ARCHITECTURE.md"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let import = dependency["name"].as_str().unwrap();
            if dependency["kind"] == "dev" || !import.starts_with("jurat-") {
                continue;
            }
            assert!(
                allowed.contains(&short(import)),
                "{name} must not import {import}: see ARCHITECTURE.md"
            );
        }
        seen.insert(name);
    }
    let named: BTreeSet<String> = table.into_keys().collect();
    assert_eq!(
        named, seen,
        "ARCHITECTURE.md and the workspace name different crates"
    );
}

#[test]
fn what_differs_between_systems_stands_in_an_os_module() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let mut sources = Vec::new();
    for room in std::fs::read_dir(crates).unwrap() {
        collect(&room.unwrap().path().join("src"), ".rs", &mut sources);
    }
    assert!(sources.len() > 50);
    for path in sources.iter().filter(|path| !path.ends_with("os.rs")) {
        let text = std::fs::read_to_string(path).unwrap();
        for word in ["std::os::", "rustix::", "libc::"] {
            assert!(
                !text.contains(word),
                "{} uses {word}: that belongs into its crate's os module",
                path.display()
            );
        }
    }
}

#[test]
fn every_link_between_the_documents_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut documents = Vec::new();
    collect(&root, ".md", &mut documents);
    assert!(documents.len() > 10);
    for path in documents {
        let text = std::fs::read_to_string(&path).unwrap();
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            let found = path.parent().unwrap().join(file);
            assert!(found.exists(), "{} links to {target}", path.display());
        }
    }
}

#[test]
fn every_test_that_a_document_names_stands_in_the_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut documents = Vec::new();
    collect(&root.join("docs"), ".md", &mut documents);
    let mut named = 0;
    for path in documents {
        let text = std::fs::read_to_string(&path).unwrap();
        // [`name`](file)
        for (before, after) in text.match_indices("`](").map(|(at, _)| text.split_at(at)) {
            let name = before.rsplit('`').next().unwrap_or_default();
            let file = after[3..].split(')').next().unwrap_or_default();
            if !file.ends_with(".rs") && !file.ends_with(".py") {
                continue;
            }
            let source = std::fs::read_to_string(path.parent().unwrap().join(file)).unwrap();
            let is_there = [format!("fn {name}("), format!("def {name}(")]
                .iter()
                .any(|words| source.contains(words));
            assert!(is_there, "{}: no {name} in {file}", path.display());
            named += 1;
        }
    }
    assert!(named > 20, "{named} tests are named");
}

#[test]
fn the_threat_model_names_a_test_for_whatever_it_calls_detected() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/threat-model.md");
    let text = std::fs::read_to_string(path).unwrap();
    let mut rows = text
        .lines()
        .filter(|line| line.starts_with("| "))
        .skip_while(|line| !line.starts_with("| other user"));
    let count = rows.by_ref().fold(0, |count, row| {
        let cells: Vec<&str> = row.split(" | ").collect();
        let [_, _, detected, _, _, test] = cells.as_slice() else {
            panic!("six cells: {row}")
        };
        let says_no = detected.contains("**no");
        assert!(
            test.contains(".rs)") || test.contains("no test yet") || says_no,
            "{row}"
        );
        count + 1
    });
    assert!(count > 20, "{count} rows");
}

#[test]
fn the_fips_guide_names_the_module_that_the_lock_file_builds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let (guide, lock) = (read("docs/guides/fips.md"), read("Cargo.lock"));
    for name in ["aws-lc-fips-sys", "aws-lc-rs"] {
        let version = lock
            .split("[[package]]")
            .find(|package| package.contains(&format!("\nname = \"{name}\"\n")))
            .and_then(|package| package.split("version = \"").nth(1)?.split('"').next())
            .unwrap();
        assert!(
            guide.contains(&format!("{name} {version}")),
            "docs/guides/fips.md does not say {name} {version}"
        );
    }
}

#[test]
fn nothing_says_of_our_program_what_only_a_laboratory_can() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut texts = Vec::new();
    collect(&root, ".md", &mut texts);
    for dir in ["crates/jurat/src", "crates/agent/src"] {
        collect(&root.join(dir), ".rs", &mut texts);
    }
    collect(&root.join("crates"), "fips.rs", &mut texts);
    assert!(texts.len() > 50, "{} texts", texts.len());
    for path in texts {
        let text = std::fs::read_to_string(&path).unwrap().to_lowercase();
        // Certificates, and who issues them, are another matter.
        for word in ["validated", "fips certified", "fips-certified"] {
            assert!(!text.contains(word), "{}: {word}", path.display());
        }
        let about_fips = text.lines().filter(|line| line.contains("fips"));
        for line in about_fips {
            assert!(!line.contains("certified"), "{}: {line}", path.display());
        }
    }
}

fn collect(dir: &Path, ending: &str, out: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            collect(&path, ending, out);
        } else if name.ends_with(ending) {
            out.push(path);
        }
    }
}
