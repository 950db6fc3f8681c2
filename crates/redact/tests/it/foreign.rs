//! Rule sets of others over the same sessions: what they find and we do not has to be explained.
#![expect(clippy::print_stdout, reason = "what does not compile is listed")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use jurat_testkit::need;
use regex::bytes::{Regex, RegexBuilder};
use serde::Deserialize;

use crate::rules::{BUILTIN, redactor};
use crate::template::{Draw, expand};

#[derive(Deserialize)]
struct Set {
    rules: Vec<Rule>,
}

/// What both tools have in common.
#[derive(Deserialize)]
struct Rule {
    id: String,
    regex: Option<String>,
    #[serde(default)]
    keywords: Vec<String>,
    entropy: Option<f64>,
    filter: Option<String>,
    #[serde(default, rename = "secretGroup")]
    secret_group: usize,
}

impl Rule {
    /// The entropy that a secret must exceed: a field in the one set, an expression in the other.
    fn entropy(&self) -> f64 {
        let written = self.filter.as_deref().and_then(|filter| {
            let (_, rest) = filter.split_once("entropy(finding[\"secret\"]) <= ")?;
            let number = rest
                .split(|c: char| !c.is_ascii_digit() && c != '.')
                .next()?;
            number.parse().ok()
        });
        self.entropy.or(written).unwrap_or(0.0)
    }
}

struct Compiled {
    id: String,
    keywords: Vec<String>,
    entropy: f64,
    group: usize,
    pattern: Regex,
}

/// The rules of a set, and the names of those whose pattern does not compile here.
fn compiled(path: &Path) -> (Vec<Compiled>, Vec<String>) {
    let set: Set = toml::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for rule in set.rules {
        // A rule about the names of files.
        let Some(regex) = &rule.regex else { continue };
        let built = RegexBuilder::new(regex)
            .unicode(false)
            .size_limit(64 * 1024 * 1024)
            .build();
        match built {
            Ok(pattern) => good.push(Compiled {
                entropy: rule.entropy(),
                keywords: rule
                    .keywords
                    .iter()
                    .map(|word| word.to_lowercase())
                    .collect(),
                group: rule.secret_group,
                id: rule.id,
                pattern,
            }),
            Err(_) => bad.push(rule.id),
        }
    }
    (good, bad)
}

fn sessions(shared: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for project in fs::read_dir(shared.join("corpus/claude-code/projects")).unwrap() {
        files.extend(
            fs::read_dir(project.unwrap().path())
                .unwrap()
                .map(|file| file.unwrap().path()),
        );
    }
    files.sort();
    files
}

pub(crate) fn entropy(bytes: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    bytes
        .iter()
        .for_each(|byte| counts[usize::from(*byte)] += 1);
    let share = |count: u32| f64::from(count) / bytes.len() as f64;
    counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| -share(*count) * share(*count).log2())
        .sum()
}

/// What a set finds in these lines: how much, and what of it our rules leave there.
fn findings(rules: &[Compiled], lines: &[&[u8]]) -> (usize, BTreeMap<String, Vec<String>>) {
    let mut missed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut total = 0;
    let mut ours = redactor();
    // As those tools do: a rule is tried where one of its keywords stands.
    let has = |rule: &Compiled, lower: &[u8]| {
        rule.keywords
            .iter()
            .any(|word| memchr::memmem::find(lower, word.as_bytes()).is_some())
    };
    let all = lines.concat().to_ascii_lowercase();
    let rules: Vec<&Compiled> = rules.iter().filter(|rule| has(rule, &all)).collect();
    for line in lines {
        let lower = line.to_ascii_lowercase();
        let mut clean = None;
        for rule in rules.iter().filter(|rule| has(rule, &lower)) {
            for captures in rule.pattern.captures_iter(line) {
                let first = || {
                    captures
                        .iter()
                        .skip(1)
                        .flatten()
                        .find(|group| !group.is_empty())
                };
                let secret = match rule.group {
                    0 => first().or(captures.get(0)),
                    group => captures.get(group),
                };
                let Some(secret) =
                    secret.filter(|secret| entropy(secret.as_bytes()) > rule.entropy)
                else {
                    continue;
                };
                total += 1;
                let clean = clean.get_or_insert_with(|| {
                    ours.json(line).map_or(line.to_vec(), |(clean, _)| clean)
                });
                if memchr::memmem::find(clean, secret.as_bytes()).is_some() {
                    let secret = String::from_utf8_lossy(secret.as_bytes()).into_owned();
                    missed.entry(rule.id.clone()).or_default().push(secret);
                }
            }
        }
    }
    (total, missed)
}

/// What others find in the sessions and we do not: set, rule, how often, how it is told, and why it is
/// no secret.
const EXPLAINED: [(&str, &str, usize, fn(&str) -> bool, &str); 3] = [
    (
        "gitleaks",
        "generic-api-key",
        83,
        is_dotted_name,
        DOTTED_NAME,
    ),
    (
        "betterleaks",
        "generic-api-key",
        83,
        is_dotted_name,
        DOTTED_NAME,
    ),
    (
        "betterleaks",
        "brave-search-api-key",
        1,
        |found| found.len() == 39,
        "39 characters out of the \
     base64 signature of a block of thinking, behind a plus sign: a key stands behind a delimiter",
    ),
];
const DOTTED_NAME: &str = "names of fields in source code, without a digit";

fn is_dotted_name(found: &str) -> bool {
    found.contains('.')
        && found
            .split(['.', '-', '_'])
            .all(|word| word.bytes().all(|byte| byte.is_ascii_alphabetic()))
}

fn sets(test: &str) -> Option<(PathBuf, Vec<(&'static str, Vec<Compiled>)>)> {
    let shared = need::shared(test)?;
    let mut sets = Vec::new();
    for name in ["gitleaks", "betterleaks"] {
        let path = shared.join("rules").join(name).with_extension("toml");
        if !path.is_file() {
            need::skip(test, "needs the folder rules/ in JURAT_SHARED");
            return None;
        }
        let (good, bad) = compiled(&path);
        println!(
            "{name}: {} patterns compile, {} do not: {bad:?}",
            good.len(),
            bad.len()
        );
        assert!(bad.is_empty() && good.len() > 200);
        sets.push((name, good));
    }
    Some((shared, sets))
}

#[test]
fn what_others_find_in_the_sessions_and_we_do_not_is_no_secret() {
    let Some((shared, sets)) = sets("what_others_find_in_the_sessions_and_we_do_not_is_no_secret")
    else {
        return;
    };
    let mut missed = BTreeMap::new();
    for file in sessions(&shared) {
        let content = fs::read(file).unwrap();
        let lines: Vec<&[u8]> = content.split(|byte| *byte == b'\n').collect();
        for (set, rules) in &sets {
            for (rule, found) in findings(rules, &lines).1 {
                missed
                    .entry((*set, rule))
                    .or_insert_with(Vec::new)
                    .extend(found);
            }
        }
        // And these sessions have no secret that we would see where there is none.
        for line in lines {
            assert_eq!(redactor().json(line), None);
        }
    }
    for ((set, rule), found) in &missed {
        let explained = EXPLAINED
            .iter()
            .find(|(of, id, ..)| of == set && id == rule)
            .is_some_and(|(_, _, count, is_none, _)| {
                found.len() == *count && found.iter().all(|found| is_none(found))
            });
        assert!(
            explained,
            "{set} {rule} finds {} times: {found:#?}",
            found.len()
        );
    }
    assert_eq!(missed.len(), EXPLAINED.len(), "an explanation of nothing");
}

/// The sets carry no example secrets of their own, so they are given ours.
#[test]
fn what_others_find_in_planted_secrets_we_take_too() {
    let Some((_, sets)) = sets("what_others_find_in_planted_secrets_we_take_too") else {
        return;
    };
    let mut draw = Draw::new(3);
    let mut lines = Vec::new();
    for rule in BUILTIN.rules() {
        for template in &rule.example {
            let text = expand(template, &mut draw);
            lines.push(serde_json::to_vec(&serde_json::json!({ "text": text })).unwrap());
        }
    }
    let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
    for (set, rules) in sets {
        let (total, missed) = findings(&rules, &lines);
        println!("{set}: {total} findings");
        assert!(total > 300, "{set} finds {total}");
        assert!(missed.is_empty(), "{set}: {missed:#?}");
    }
}
