//! Rule by rule.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use jurat_redact::{Mode, Redactor, Rules};

use crate::foreign::entropy;
use crate::template::{Draw, expand};

const PERSONAL: [&str; 3] = ["email", "payment-card", "iban"];

fn rules() -> Rules {
    Rules::builtin(&PERSONAL.map(str::to_owned)).unwrap()
}

pub(crate) static BUILTIN: LazyLock<Arc<Rules>> =
    LazyLock::new(|| Arc::new(Rules::builtin(&[]).unwrap()));

pub(crate) fn redactor() -> Redactor {
    Redactor::with_rules(Mode::Redact, &[7; 32], BUILTIN.clone())
}

#[test]
fn every_pattern_compiles() {
    rules().check().unwrap();
}

#[test]
fn there_are_rules_for_at_least_150_providers_and_no_kind_stands_twice() {
    let rules = rules();
    let providers: BTreeSet<&str> = rules
        .rules()
        .iter()
        .map(|rule| rule.provider.as_str())
        .collect();
    let kinds: BTreeSet<&str> = rules
        .rules()
        .iter()
        .map(|rule| rule.kind.as_str())
        .collect();
    assert!(providers.len() >= 150, "{}", providers.len());
    assert_eq!(kinds.len(), rules.rules().len());
}

/// Which part of an example has to disappear: everything a template's placeholders filled in.
pub(crate) fn secret_pieces(template: &str, filled: &str) -> Vec<String> {
    // The literal parts of the template cut the filled text into the pieces that were drawn.
    let mut pieces = Vec::new();
    let mut rest = filled;
    let mut parts = template.split('{');
    rest = rest
        .strip_prefix(parts.next().unwrap_or_default())
        .unwrap_or(rest);
    for part in parts {
        let literal = part.split_once('}').map_or("", |(_, literal)| literal);
        let end = if literal.is_empty() {
            None
        } else {
            rest.find(literal)
        };
        let (piece, tail) = rest.split_at(end.unwrap_or(rest.len()));
        pieces.push(piece.to_owned());
        rest = tail.strip_prefix(literal).unwrap_or(tail);
    }
    pieces
}

#[test]
fn every_rule_finds_its_planted_secrets_in_plain_text_and_in_json() {
    let rules = rules();
    let mut draw = Draw::new(1);
    let mut missed = Vec::new();
    for rule in rules.rules() {
        let one = Arc::new(Rules::new(vec![rule.clone()]).unwrap());
        let mut alone = Redactor::with_rules(Mode::Redact, &[7; 32], one);
        let mut all = redactor();
        for template in &rule.example {
            for round in 0..20 {
                let secret = expand(template, &mut draw);
                let line = if round % 2 == 0 {
                    secret.clone()
                } else {
                    format!("run x # {secret} \n next")
                };
                // A drawn secret may be below its rule's entropy by chance; far more than that is a fault.
                if alone.text(&line).is_none() {
                    missed.push((rule.kind.clone(), round));
                }
                if PERSONAL.contains(&rule.kind.as_str()) {
                    continue;
                }
                let json =
                    serde_json::to_vec(&serde_json::json!({ "a": [1, { "b": line }] })).unwrap();
                let Some((clean, _)) = all.json(&json) else {
                    missed.push((rule.kind.clone(), round));
                    continue;
                };
                let clean: serde_json::Value = serde_json::from_slice(&clean).unwrap();
                let text = clean["a"][1]["b"].as_str().unwrap();
                let longest = secret_pieces(template, &secret)
                    .into_iter()
                    .max_by_key(String::len)
                    .unwrap();
                assert!(
                    longest.len() < 8 || !text.contains(&longest),
                    "{}: {text}",
                    rule.kind
                );
            }
        }
    }
    let of_one_rule = |kind: &str| missed.iter().filter(|(name, _)| name == kind).count();
    for (kind, _) in &missed {
        assert!(
            of_one_rule(kind) <= 2,
            "{kind} missed {} times",
            of_one_rule(kind)
        );
    }
}

#[test]
fn what_a_plain_search_with_every_pattern_finds_is_found_through_keywords_and_windows() {
    let mut draw = Draw::new(4);
    let mut text = String::new();
    for rule in BUILTIN.rules() {
        for template in &rule.example {
            // Neighbours, delimiters and case that the examples do not have.
            let gap = [" ", "\n", "\"", "\u{e9}=", ", the next: ", "\t'"][draw.below(6)];
            text.push_str(&expand(template, &mut draw));
            text.push_str(gap);
        }
    }
    for text in [&text, &text.to_lowercase(), &text.to_uppercase()] {
        let json = serde_json::to_vec(&serde_json::json!({ "a": text })).unwrap();
        let (clean, _) = redactor().json(&json).unwrap();
        let clean: serde_json::Value = serde_json::from_slice(&clean).unwrap();
        let clean = clean["a"].as_str().unwrap();
        assert_eq!(redactor().text(text).as_deref(), Some(clean));
        for rule in BUILTIN.rules().iter().filter(|rule| rule.check.is_none()) {
            let pattern = regex::bytes::RegexBuilder::new(&rule.pattern)
                .unicode(false)
                .build()
                .unwrap();
            for found in pattern.captures_iter(text.as_bytes()) {
                let secret = found.get(1).or(found.get(0)).unwrap().as_bytes();
                let secret = std::str::from_utf8(secret).unwrap();
                let taken = entropy(secret.as_bytes()) < rule.entropy.unwrap_or(0.0)
                    || secret.starts_with('<')
                    || !clean.contains(secret);
                assert!(taken, "{}: {secret}", rule.kind);
            }
        }
    }
}

#[test]
fn every_rule_leaves_its_counterexamples_alone() {
    let mut draw = Draw::new(2);
    for rule in rules().rules() {
        let mut alone = Redactor::with_rules(
            Mode::Redact,
            &[7; 32],
            Arc::new(Rules::new(vec![rule.clone()]).unwrap()),
        );
        for template in &rule.not {
            let text = expand(template, &mut draw);
            assert_eq!(alone.text(&text), None, "{}: {text}", rule.kind);
        }
    }
}

#[test]
fn no_match_is_longer_than_its_rule_says() {
    // A window is as long as the longest match; a longer one would be cut and survive.
    for rule in rules().rules() {
        let hir = regex_syntax::ParserBuilder::new()
            .unicode(false)
            .utf8(false)
            .build()
            .parse(&rule.pattern)
            .unwrap();
        let longest = hir.properties().maximum_len();
        assert!(
            longest.is_some_and(|longest| longest <= rule.max),
            "{}: {longest:?} > {}",
            rule.kind,
            rule.max
        );
    }
}

#[test]
fn no_rule_could_match_a_text_that_is_too_short_to_be_looked_at() {
    for rule in rules().rules() {
        let hir = regex_syntax::ParserBuilder::new()
            .unicode(false)
            .utf8(false)
            .build()
            .parse(&rule.pattern)
            .unwrap();
        let shortest = hir.properties().minimum_len().unwrap_or(0);
        // A delimiter may be the beginning of the text.
        assert!(
            shortest > 8 || PERSONAL.contains(&rule.kind.as_str()),
            "{}: {shortest}",
            rule.kind
        );
    }
}
