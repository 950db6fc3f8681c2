//! Finding secrets in one decoded text.

use std::ops::Range;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::Rules;
use crate::prefilter::KEYWORD_BYTES_MAX;

/// A found secret: where it stands and which rule found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Found {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) rule: u16,
    /// Where the pattern's own match of it ended, when the secret may go on after the end of the
    /// window: whether it is one is decided when its end is seen.
    open: Option<usize>,
}

/// How far before its secret a keyword may stand.
const KEYWORD_REACH: usize = 40;
/// How much of a match may stand before its keyword: names and delimiters, never the secret itself
/// but for rules that are shorter than this.
const BEFORE_KEYWORD: usize = 512;
/// What a window has beyond a rule's longest match, so that its end is never taken for a text's.
const WINDOW_MARGIN: usize = 8;
/// No match that is still to come begins so far before the keywords that were looked at.
const BEHIND: usize = BEFORE_KEYWORD + 2 * KEYWORD_BYTES_MAX + 8;

/// What a scan works with; reused from text to text.
#[derive(Default)]
pub(crate) struct Scan {
    line: Vec<u8>,
    search: Search,
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
        self.search.restart();
        self.exhausted = !self.search.run(rules, &self.line, true);
        self.found = self.search.take_found(usize::MAX);
        for found in &mut self.found {
            found.start = found.start.saturating_sub(1);
            found.end -= 1;
        }
    }
}

/// A rare huge text must not hold its memory for ever.
const LINE_BYTES_KEPT: usize = 1024 * 1024;

/// A search through one text, which it may be given window by window.
///
/// The text begins with a byte that stands before it and is no part of it: a line feed, and in a later
/// window the last byte of the one before.
pub(crate) struct Search {
    /// The next position to look for a keyword.
    at: usize,
    /// Up to where each rule has looked already; few rules fire in one text, so a short list.
    looked: Vec<(u16, usize)>,
    /// How much work may still be done.
    budget: usize,
    /// How much of the window counted for the budget already.
    paid: usize,
    /// What was found and not yet taken.
    found: Vec<Found>,
}

impl Default for Search {
    fn default() -> Self {
        Self {
            at: 0,
            looked: Vec::new(),
            budget: WORK_BASE,
            paid: 0,
            found: Vec::new(),
        }
    }
}

impl Search {
    /// Makes ready for a new text, with the lists of the old one.
    fn restart(&mut self) {
        self.at = 0;
        self.looked.clear();
        self.budget = WORK_BASE;
        self.paid = 0;
        self.found.clear();
    }

    /// Looks for what the rules find, as far as matches end inside this window, or to its end when it
    /// is the text's (`last`). `false` when the work budget was spent before.
    pub(crate) fn run(&mut self, rules: &Rules, text: &[u8], last: bool) -> bool {
        // An honest text has some ten keywords in a kilobyte and windows of some hundred bytes.
        self.budget += (text.len() - self.paid) * WORK_PER_BYTE;
        self.paid = text.len();
        let mut found = std::mem::take(&mut self.found);
        found.retain_mut(|found| {
            let Some(matched) = found.open else {
                return true;
            };
            let rule = rules.rule(found.rule);
            let secret = found.start..matched;
            let Some((end, open)) = extent(rule, text, secret, last, &mut self.budget) else {
                return false;
            };
            found.end = end;
            found.open = open.then_some(matched);
            let secret = open || is_secret(rule, &text[found.start..end]);
            *found = widen_to_characters(text, *found);
            secret
        });
        self.found = found;
        let limit = self.limit(rules, text, last);
        while let Some(at) = rules.prefilter().next(text, self.at..limit) {
            self.at = at + 1;
            for (keyword, range) in rules.prefilter().keywords(text, at) {
                for owner in rules.owners(keyword) {
                    if self.rule(rules, *owner, text, &range, last).is_none() {
                        self.sort();
                        return false;
                    }
                }
            }
        }
        self.at = self.at.max(limit);
        self.sort();
        true
    }

    fn sort(&mut self) {
        self.found
            .sort_by_key(|found| (found.start, std::cmp::Reverse(found.end)));
    }

    /// Before where keywords can be looked at in this window.
    fn limit(&self, rules: &Rules, text: &[u8], last: bool) -> usize {
        let ahead = rules.match_bytes_max() + KEYWORD_BYTES_MAX + KEYWORD_REACH + WINDOW_MARGIN;
        let limit = if last {
            text.len()
        } else {
            text.len().saturating_sub(ahead)
        };
        limit.max(self.at)
    }

    /// Before where nothing more will be found, and nothing that was found goes on, after a run that
    /// was not the last.
    pub(crate) fn settled(&self) -> usize {
        let mut settled = self.at.saturating_sub(BEHIND);
        for found in self.found.iter().rev() {
            if found.start < settled && (found.end > settled || found.open.is_some()) {
                settled = found.start;
            }
        }
        settled
    }

    /// Takes what was found before here, sorted, without overlaps.
    pub(crate) fn take_found(&mut self, before: usize) -> Vec<Found> {
        let count = self.found.partition_point(|found| found.start < before);
        let mut to: Vec<Found> = Vec::with_capacity(count);
        for next in self.found.drain(..count) {
            match to.last_mut() {
                Some(last) if next.start < last.end => last.end = last.end.max(next.end),
                _ => to.push(next),
            }
        }
        to
    }

    /// Goes on in a window that begins `by` later.
    pub(crate) fn advance(&mut self, by: usize) {
        self.at -= by;
        self.paid -= by;
        self.looked
            .iter_mut()
            .for_each(|(_, at)| *at = at.saturating_sub(by));
        for found in &mut self.found {
            found.start -= by;
            found.end -= by;
            found.open = found.open.map(|matched| matched - by);
        }
    }

    /// Looks at one keyword for one rule; `None` when the budget is spent.
    fn rule(
        &mut self,
        rules: &Rules,
        owner: u16,
        text: &[u8],
        keyword: &Range<usize>,
        last: bool,
    ) -> Option<()> {
        let rule = rules.rule(owner);
        let Some(pattern) = rules.pattern(owner) else {
            return Some(());
        };
        let known = self.looked.iter().position(|(rule, _)| *rule == owner);
        let seen = known.map_or(0, |at| self.looked[at].1);
        // A match begins at most so far before its keyword, and where a window was searched in vain
        // for this rule before, no match can begin. Keywords come in the order of their rarest bytes,
        // so one may begin a little before the one before it.
        let reach = rule.max.min(BEFORE_KEYWORD) + KEYWORD_BYTES_MAX;
        let mut start = keyword.start.saturating_sub(reach).max(seen);
        let end = (keyword.end + rule.max + KEYWORD_REACH + WINDOW_MARGIN).min(text.len());
        // A long bounded repetition costs by the state as well as by the byte.
        let cost = end.saturating_sub(start) * (1 + rule.max / 256);
        self.budget = self.budget.checked_sub(cost)?;
        while start < end
            && let Some(captures) = pattern.captures_at(&text[..end], start)
        {
            let Some(whole) = captures.get(0) else { break };
            // A match that begins after the keyword belongs to a later one.
            if whole.start() > keyword.end + KEYWORD_REACH {
                break;
            }
            let secret = if rule.check.as_deref() == Some("pem") {
                whole.end()..whole.end()
            } else {
                captures.get(1).unwrap_or(whole).range()
            };
            start = whole.end().max(start + 1);
            if let Some((end, open)) = extent(rule, text, secret.clone(), last, &mut self.budget)
                && (open || is_secret(rule, &text[secret.start..end]))
            {
                // What is covered needs no second look; what is open may turn out not to be.
                start = if open { start } else { start.max(end) };
                self.found.push(widen_to_characters(
                    text,
                    Found {
                        start: secret.start,
                        end,
                        rule: owner,
                        open: open.then_some(secret.end),
                    },
                ));
            }
            if self.budget == 0 {
                return None;
            }
        }
        let next = start.max(keyword.start);
        match known {
            Some(at) => self.looked[at].1 = next.max(seen),
            None => self.looked.push((owner, next)),
        }
        Some(())
    }
}

/// Rules for secrets of this length may see only the beginning of a longer one.
const LONG: usize = 500;
/// How much work a text may cost, in bytes searched, weighted by the length of the rule.
const WORK_PER_BYTE: usize = 64;
const WORK_BASE: usize = 4 * 1024 * 1024;
/// The longest private key that is looked for its end.
const PEM_BYTES_MAX: usize = 16 * 1024;
/// The longest header of a token: some carry a chain of certificates.
const HEADER_BYTES_MAX: usize = 64 * 1024;
/// The least lengths of the parts of a JWS and of a JWE in compact form.
const JWS: &[usize] = &[13, 6, 20];
const JWE: &[usize] = &[13, 0, 16, 16, 16];

/// Where a secret whose pattern matched here ends, and whether it may go on after this text; `None`
/// when it is none after all.
fn extent(
    rule: &crate::Rule,
    text: &[u8],
    matched: Range<usize>,
    last: bool,
    budget: &mut usize,
) -> Option<(usize, bool)> {
    let end = match rule.check.as_deref() {
        Some("pem") => {
            let (end, closed) = pem_end(text, matched.end);
            return Some((end, !closed && !last));
        }
        Some("jws") => return compact(JWS, text, matched.start, last, budget),
        Some("jwe") => return compact(JWE, text, matched.start, last, budget),
        _ if rule.max >= LONG => run_end(text, matched.end),
        _ => return Some((matched.end, false)),
    };
    *budget = budget.saturating_sub(end - matched.end);
    Some((end, end == text.len() && !last))
}

/// Where the body of a PEM block ends: before its end line, else where the text or the next block
/// does. A key whose end was cut off is a key, too. And whether that is its end for sure.
fn pem_end(text: &[u8], from: usize) -> (usize, bool) {
    let limit = text.len().min(from + PEM_BYTES_MAX);
    let rest = text.get(from..limit).unwrap_or_default();
    match memchr::memmem::find(rest, b"-----") {
        Some(len) => (from + len, true),
        None => (limit, limit < text.len()),
    }
}

/// Where a run of token characters ends.
fn run_end(text: &[u8], from: usize) -> usize {
    let is_token = |byte: &u8| is_base64url(*byte) || matches!(byte, b'+' | b'/' | b'=' | b'.');
    let rest = text.get(from..).unwrap_or_default();
    from + rest
        .iter()
        .position(|byte| !is_token(byte))
        .unwrap_or(rest.len())
}

fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

/// Where a token of parts with these least lengths ends, whatever their lengths are. Linear: parts
/// are only looked at behind a header that is one.
fn compact(
    parts: &[usize],
    text: &[u8],
    start: usize,
    last: bool,
    budget: &mut usize,
) -> Option<(usize, bool)> {
    //= RFC 7515 section 7.1, RFC 7516 section 7.1: parts in base64url, joined by periods
    let mut at = start;
    for (index, least) in parts.iter().enumerate() {
        let mut rest = text.get(at..)?;
        if index == 0 {
            rest = &rest[..rest.len().min(HEADER_BYTES_MAX)];
        }
        let len = rest
            .iter()
            .position(|byte| !is_base64url(*byte))
            .unwrap_or(rest.len());
        *budget = budget.saturating_sub(len);
        if at + len == text.len() && !last {
            return Some((text.len(), true));
        }
        if len < *least || (index == 0 && !is_token_header(&rest[..len])) {
            return None;
        }
        at += len;
        if index + 1 < parts.len() {
            text.get(at).filter(|byte| **byte == b'.')?;
            at += 1;
        }
    }
    Some((at, false))
}

/// A secret never ends inside a character: patterns look at bytes.
fn widen_to_characters(text: &[u8], mut found: Found) -> Found {
    let inside = |at: usize| text.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    while found.start > 0 && inside(found.start) {
        found.start -= 1;
    }
    while inside(found.end) {
        found.end += 1;
    }
    found
}

fn is_secret(rule: &crate::Rule, secret: &[u8]) -> bool {
    if secret.is_empty() || is_placeholder(secret) {
        return false;
    }
    if rule.entropy.is_some_and(|least| entropy(secret) < least) {
        return false;
    }
    match rule.check.as_deref() {
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

fn is_token_header(part: &[u8]) -> bool {
    let Ok(json) = URL_SAFE_NO_PAD.decode(part) else {
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

/// The text that stands for a secret; a secret may come in parts.
pub(crate) struct Fingerprint(hmac::Context);

impl Fingerprint {
    pub(crate) fn new(key: &hmac::Key) -> Self {
        let mut context = hmac::Context::with_key(key);
        context.update(b"jurat/fingerprint/v1\0");
        Self(context)
    }

    pub(crate) fn update(&mut self, part: &[u8]) {
        self.0.update(part);
    }

    pub(crate) fn placeholder(self, kind: &str) -> String {
        let tag = self.0.sign();
        let hex = tag
            .as_ref()
            .iter()
            .take(6)
            .fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        format!("[redacted:{kind}:{hex}]")
    }
}
