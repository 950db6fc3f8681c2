//! Finding secrets in one decoded text.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::Rules;

/// A found secret: where it stands and which rule found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Found {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) rule: u16,
}

/// How far before its secret a keyword may stand.
const KEYWORD_REACH: usize = 40;
/// How much of a match may stand before its keyword: names and delimiters, never the secret itself
/// but for rules that are shorter than this.
const BEFORE_KEYWORD: usize = 512;
/// What a window has beyond a rule's longest match, so that its end is never taken for a text's.
const WINDOW_MARGIN: usize = 8;

/// What a scan works with; reused from text to text.
#[derive(Default)]
pub(crate) struct Scan {
    line: Vec<u8>,
    /// The text was made to be slow, and was not looked at to its end: it must be withheld.
    pub(crate) exhausted: bool,
    pub(crate) found: Vec<Found>,
}

impl Scan {
    /// Finds what the rules find in this text: [`Scan::found`], sorted, without overlaps.
    pub(crate) fn run(&mut self, rules: &Rules, text: &[u8]) {
        // Some rules want a delimiter before a token; the beginning of a text counts as a new line.
        self.line.clear();
        self.line.shrink_to(LINE_BYTES_KEPT);
        self.line.push(b'\n');
        self.line.extend_from_slice(text);
        self.exhausted = !scan(rules, &self.line, &mut self.found);
        for found in &mut self.found {
            found.start = found.start.saturating_sub(1);
            found.end -= 1;
        }
    }
}

/// A rare huge text must not hold its memory for ever.
const LINE_BYTES_KEPT: usize = 1024 * 1024;

/// `false` when the work budget was spent before the end.
fn scan(rules: &Rules, text: &[u8], found: &mut Vec<Found>) -> bool {
    found.clear();
    // An honest text has some ten keywords in a kilobyte and windows of some hundred bytes.
    let mut budget = text.len() * WORK_PER_BYTE + WORK_BASE;
    // Up to where each rule has looked already; few rules fire in one text, so a short list.
    let mut looked: Vec<(u16, usize)> = Vec::new();
    for hit in rules.prefilter().find_overlapping_iter(text) {
        for owner in rules.owners(hit.pattern().as_usize()) {
            let rule = rules.rule(*owner);
            let Some(pattern) = rules.pattern(*owner) else {
                continue;
            };
            let known = looked.iter().position(|(rule, _)| rule == owner);
            let seen = known.map_or(0, |at| looked[at].1);
            // A match begins at most so far before its keyword, and where a window was searched in
            // vain for this rule before, no match can begin.
            let reach = rule.max.min(BEFORE_KEYWORD);
            let mut start = hit.start().saturating_sub(reach).max(seen);
            let end = (hit.end() + rule.max + KEYWORD_REACH + WINDOW_MARGIN).min(text.len());
            // A long bounded repetition costs by the state as well as by the byte.
            let cost = end.saturating_sub(start) * (1 + rule.max / 256);
            let Some(left) = budget.checked_sub(cost) else {
                return false;
            };
            budget = left;
            while start < end
                && let Some(captures) = pattern.captures_at(&text[..end], start)
            {
                let Some(whole) = captures.get(0) else { break };
                // A match that begins after the keyword belongs to a later one.
                if whole.start() > hit.end() + KEYWORD_REACH {
                    break;
                }
                let secret = captures.get(1).unwrap_or(whole);
                start = whole.end().max(start + 1);
                let span = if rule.check.as_deref() == Some("pem") {
                    whole.end()..pem_end(text, whole.end())
                } else if rule.max >= LONG {
                    secret.start()..run_end(text, secret.end())
                } else {
                    secret.range()
                };
                if text
                    .get(span.clone())
                    .is_some_and(|secret| is_secret(rule, secret))
                {
                    found.push(Found {
                        start: span.start,
                        end: span.end,
                        rule: *owner,
                    });
                }
            }
            let next = start.max(hit.start());
            match known {
                Some(at) => looked[at].1 = next.max(seen),
                None => looked.push((*owner, next)),
            }
        }
    }
    if found.len() > 1 {
        found.sort_by_key(|found| (found.start, std::cmp::Reverse(found.end)));
        let mut kept: Vec<Found> = Vec::with_capacity(found.len());
        for next in found.iter() {
            match kept.last_mut() {
                Some(last) if next.start < last.end => last.end = last.end.max(next.end),
                _ => kept.push(*next),
            }
        }
        *found = kept;
    }
    widen_to_characters(text, found);
    true
}

/// Rules for secrets of this length may see only the beginning of a longer one.
const LONG: usize = 500;
/// How much work a text may cost, in bytes searched, weighted by the length of the rule.
const WORK_PER_BYTE: usize = 64;
const WORK_BASE: usize = 4 * 1024 * 1024;
/// The longest private key that is looked for its end.
const PEM_BYTES_MAX: usize = 16 * 1024;

/// Where the body of a PEM block ends: before its end line, else where the text or the next block
/// does. A key whose end was cut off is a key, too.
fn pem_end(text: &[u8], from: usize) -> usize {
    let limit = text.len().min(from + PEM_BYTES_MAX);
    let rest = text.get(from..limit).unwrap_or_default();
    from + memchr::memmem::find(rest, b"-----").unwrap_or(rest.len())
}

/// Where a run of token characters ends.
fn run_end(text: &[u8], from: usize) -> usize {
    let is_token = |byte: &u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'+' | b'/' | b'=' | b'.')
    };
    let rest = text.get(from..).unwrap_or_default();
    from + rest
        .iter()
        .position(|byte| !is_token(byte))
        .unwrap_or(rest.len())
}

/// A secret never ends inside a character: patterns look at bytes.
fn widen_to_characters(text: &[u8], found: &mut [Found]) {
    let inside = |at: usize| text.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    for found in found {
        while found.start > 0 && inside(found.start) {
            found.start -= 1;
        }
        while inside(found.end) {
            found.end += 1;
        }
    }
}

fn is_secret(rule: &crate::Rule, secret: &[u8]) -> bool {
    if secret.is_empty() || is_placeholder(secret) {
        return false;
    }
    if rule.entropy.is_some_and(|least| entropy(secret) < least) {
        return false;
    }
    match rule.check.as_deref() {
        Some("jwt") => is_jwt(secret),
        Some("luhn") => luhn(secret),
        // Words that stand in for a password in documentation have no digit.
        Some("digit") => secret.iter().any(u8::is_ascii_digit),
        Some("aws-base32") => secret.iter().all(u8::is_ascii_alphanumeric),
        // Other checks only ever narrow a match; an unknown one must not hide a secret.
        _ => true,
    }
}

/// What documentation writes in a secret's place, and what we wrote ourselves.
fn is_placeholder(secret: &[u8]) -> bool {
    let first = secret.first().copied().unwrap_or(0);
    secret.starts_with(b"[redacted:")
        || secret.starts_with(b"${")
        || secret.starts_with(b"$(")
        || secret.starts_with(b"{{")
        || (secret.first() == Some(&b'<') && secret.last() == Some(&b'>'))
        || secret.iter().all(|byte| *byte == first)
        || secret.ends_with(b"EXAMPLE")
        || secret.ends_with(b"EXAMPLEKEY")
}

/// Shannon entropy in bits a byte.
pub(crate) fn entropy(bytes: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    bytes
        .iter()
        .for_each(|byte| counts[usize::from(*byte)] += 1);
    let len = bytes.len() as f64;
    counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| {
            let share = f64::from(*count) / len;
            -share * share.log2()
        })
        .sum()
}

fn is_jwt(token: &[u8]) -> bool {
    let header = token.split(|byte| *byte == b'.').next().unwrap_or_default();
    let Ok(json) = URL_SAFE_NO_PAD.decode(header) else {
        return false;
    };
    serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&json)
        .is_ok_and(|header| header.contains_key("alg") || header.contains_key("enc"))
}

fn luhn(digits: &[u8]) -> bool {
    let digits = digits
        .iter()
        .filter(|byte| byte.is_ascii_digit())
        .map(|byte| u32::from(byte - b'0'));
    let sum: u32 = digits
        .rev()
        .enumerate()
        .map(|(at, digit)| match at % 2 {
            0 => digit,
            _ => digit * 2 - if digit > 4 { 9 } else { 0 },
        })
        .sum();
    sum.is_multiple_of(10)
}

/// The text that stands for a secret.
pub(crate) fn placeholder(key: &hmac::Key, kind: &str, secret: &[u8]) -> String {
    let mut context = hmac::Context::with_key(key);
    context.update(b"jurat/fingerprint/v1\0");
    context.update(secret);
    let tag = context.sign();
    let hex = tag
        .as_ref()
        .iter()
        .take(6)
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    format!("[redacted:{kind}:{hex}]")
}
