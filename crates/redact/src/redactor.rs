//! The redactor: one event in, one redacted event out.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::hmac;
use jurat_event::Event;
use serde_json::Value;

use crate::json::Tokens;
use crate::scan::{Scan, placeholder};
use crate::{RuleError, Rules};

/// What is done to content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Secrets are taken out.
    Redact,
    /// Content is kept untouched. An explicit choice of the operator, visible in every event.
    Custody,
}

/// An event that may be sealed: its secrets are out, or it is in custody mode and says so.
///
/// Only a [`Redactor`] makes one.
#[derive(Clone, Debug)]
pub struct Redacted {
    event: Event,
    payload: Option<Vec<u8>>,
    original: Option<Vec<u8>>,
    redactions: u64,
    withheld: bool,
    custody: bool,
}

impl Redacted {
    /// The event; its `context` is empty, see [`Redacted::payload`].
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// The payload, without secrets.
    pub fn payload(&self) -> Option<&[u8]> {
        self.payload.as_deref()
    }

    /// The bytes before redaction, where something was changed or withheld. Only for the salted
    /// commitment; never to be stored.
    pub fn original(&self) -> Option<&[u8]> {
        self.original.as_deref()
    }

    /// How many values were replaced.
    pub fn redactions(&self) -> u64 {
        self.redactions
    }

    /// Whether the payload was withheld because it could not be scanned.
    pub fn is_withheld(&self) -> bool {
        self.withheld
    }

    /// Whether the content is kept untouched.
    pub fn is_custody(&self) -> bool {
        self.custody
    }
}

/// Takes secrets out of events.
pub struct Redactor {
    rules: Arc<Rules>,
    key: hmac::Key,
    mode: Mode,
    scan: Scan,
    counts: BTreeMap<String, u64>,
    /// A text of the current event could not be looked at to its end.
    exhausted: bool,
}

/// The longest string that is scanned; an event with a longer one is withheld.
const STRING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// No rule matches a shorter text; half of all strings in a transcript are shorter.
const TEXT_BYTES_MIN: usize = 8;
/// How much longer than its original a redacted record may be.
const GROWTH_BYTES_MAX: usize = 1024 * 1024;

impl Redactor {
    /// A redactor with the built-in rules, these categories of personal data, and the tenant's
    /// fingerprint key.
    ///
    /// # Errors
    /// [`RuleError`]: a bug in the shipped rules.
    pub fn new(mode: Mode, key: &[u8; 32], personal: &[String]) -> Result<Self, RuleError> {
        Ok(Self::with_rules(
            mode,
            key,
            Arc::new(Rules::builtin(personal)?),
        ))
    }

    /// A redactor with these rules.
    pub fn with_rules(mode: Mode, key: &[u8; 32], rules: Arc<Rules>) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        Self {
            rules,
            key,
            mode,
            scan: Scan::default(),
            counts: BTreeMap::new(),
            exhausted: false,
        }
    }

    /// What was found so far, by kind.
    pub fn counts(&self) -> &BTreeMap<String, u64> {
        &self.counts
    }

    /// Takes the secrets out of an event, header and payload.
    pub fn redact(&mut self, mut event: Event) -> Redacted {
        let context = event.context.take();
        if self.mode == Mode::Custody {
            return Redacted {
                event,
                payload: context,
                original: None,
                redactions: 0,
                withheld: false,
                custody: true,
            };
        }
        let (payload, original, redactions, withheld) = match context {
            None => (None, None, 0, false),
            Some(bytes) if bytes.len() > STRING_BYTES_MAX => (None, Some(bytes), 0, true),
            Some(bytes) => match self.json(&bytes) {
                _ if std::mem::take(&mut self.exhausted) => (None, Some(bytes), 0, true),
                None => (Some(bytes), None, 0, false),
                // Replacements can be longer than what they replace; a record made of nothing else
                // must not outgrow an upload.
                Some((clean, _)) if clean.len() > bytes.len() + GROWTH_BYTES_MAX => {
                    (None, Some(bytes), 0, true)
                }
                Some((clean, count)) => (Some(clean), Some(bytes), count, false),
            },
        };
        self.header(&mut event);
        Redacted {
            event,
            payload,
            original,
            redactions,
            withheld,
            custody: false,
        }
    }

    /// Withholds an event's content without looking at it: only its length and salted digest stay.
    /// For content that cannot be scanned as a whole. In custody mode it is kept.
    pub fn withhold(&mut self, mut event: Event) -> Redacted {
        if self.mode == Mode::Custody {
            return self.redact(event);
        }
        let original = event.context.take();
        self.header(&mut event);
        Redacted {
            event,
            payload: None,
            original,
            redactions: 0,
            withheld: true,
            custody: false,
        }
    }

    fn header(&mut self, event: &mut Event) {
        let mut texts: Vec<&mut String> = [
            &mut event.action,
            &mut event.object,
            &mut event.claimed_time,
            &mut event.session,
        ]
        .into_iter()
        .flatten()
        .collect();
        texts.extend(event.labels.values_mut());
        if let Some(agent) = &mut event.agent {
            texts.push(&mut agent.product);
            texts.extend(&mut agent.version);
            texts.extend(&mut agent.id);
        }
        if let Some(source) = &mut event.source {
            texts.push(&mut source.path);
        }
        if let Some(actor) = &mut event.actor {
            texts.extend([&mut actor.user, &mut actor.exe].into_iter().flatten());
        }
        for text in texts {
            if let Some(clean) = self.text(text) {
                *text = clean;
            }
        }
        for (name, value) in &mut event.detail {
            self.value(name, value);
        }
    }

    fn value(&mut self, name: &str, value: &mut Value) {
        match value {
            Value::String(text) => {
                if is_secret_name(name.as_bytes()) && is_worth_hiding(text.as_bytes()) {
                    *text = self.replacement("named-secret", text.as_bytes());
                } else if let Some(clean) = self.text(text) {
                    *text = clean;
                }
            }
            Value::Array(list) => list.iter_mut().for_each(|value| self.value(name, value)),
            Value::Object(map) => map
                .iter_mut()
                .for_each(|(name, value)| self.value(name, value)),
            _ => {}
        }
    }

    /// Takes the secrets out of a plain text; `None` when there are none. A text that is made to be
    /// slow is replaced as a whole.
    pub fn text(&mut self, text: &str) -> Option<String> {
        let before = std::mem::take(&mut self.exhausted);
        let found = self.bytes(text.as_bytes());
        if std::mem::replace(&mut self.exhausted, before) {
            return Some(self.replacement("unscanned", text.as_bytes()));
        }
        let (clean, _) = found?;
        // Spans were widened to whole characters, so UTF-8 in gives UTF-8 out.
        Some(String::from_utf8_lossy(&clean).into_owned())
    }

    /// Takes the secrets out of bytes; `None` when there are none.
    fn bytes(&mut self, text: &[u8]) -> Option<(Vec<u8>, u64)> {
        if text.len() < TEXT_BYTES_MIN {
            return None;
        }
        let mut scan = std::mem::take(&mut self.scan);
        scan.run(&self.rules, text);
        self.exhausted |= scan.exhausted;
        let found = &scan.found;
        let clean = (!found.is_empty()).then(|| {
            let mut out = Vec::with_capacity(text.len());
            let mut done = 0;
            for span in found {
                out.extend_from_slice(&text[done..span.start]);
                let kind = self.rules.rule(span.rule).kind.clone();
                out.extend_from_slice(
                    self.replacement(&kind, &text[span.start..span.end])
                        .as_bytes(),
                );
                done = span.end;
            }
            out.extend_from_slice(&text[done..]);
            (out, found.len() as u64)
        });
        self.scan = scan;
        clean
    }

    fn replacement(&mut self, kind: &str, secret: &[u8]) -> String {
        *self.counts.entry(kind.to_owned()).or_default() += 1;
        placeholder(&self.key, kind, secret)
    }

    /// Takes the secrets out of a JSON text, or of one that is only nearly JSON; `None` when there
    /// are none. [`Redactor::redact`] withholds what could not be looked at to its end; here it is
    /// returned as far as it was looked at. Returns the clean text and how many values were replaced.
    pub fn json(&mut self, json: &[u8]) -> Option<(Vec<u8>, u64)> {
        let is_json = json.first() == Some(&b'{') && json.last() == Some(&b'}');
        let (strings, first) = match self.strings(json) {
            Some((clean, count)) => (Cow::Owned(clean), count),
            None => (Cow::Borrowed(json), 0),
        };
        if is_json && serde_json::from_slice::<serde::de::IgnoredAny>(json).is_ok() {
            return match strings {
                Cow::Owned(clean) => Some((clean, first)),
                Cow::Borrowed(_) => None,
            };
        }
        // Not JSON: what stands outside of quotes is text, too.
        match (self.bytes(&strings), strings) {
            (Some((clean, count)), _) => Some((clean, first + count)),
            (None, Cow::Owned(clean)) => Some((clean, first)),
            (None, Cow::Borrowed(_)) => None,
        }
    }

    fn strings(&mut self, json: &[u8]) -> Option<(Vec<u8>, u64)> {
        let mut out: Option<Vec<u8>> = None;
        let mut done = 0;
        let mut count = 0;
        let mut after_secret_name = false;
        for token in Tokens::new(json) {
            let secret_name = std::mem::replace(
                &mut after_secret_name,
                token.is_key && is_secret_name(&token.text),
            );
            let replaced = if secret_name && !token.is_key && is_worth_hiding(&token.text) {
                Some((
                    self.replacement("named-secret", &token.text).into_bytes(),
                    1,
                ))
            } else {
                self.bytes(&token.text)
            };
            let Some((clean, found)) = replaced else {
                continue;
            };
            count += found;
            let out = out.get_or_insert_with(|| Vec::with_capacity(json.len()));
            out.extend_from_slice(&json[done..token.start]);
            write_string(out, &clean);
            done = token.end;
        }
        let mut out = out?;
        out.extend_from_slice(&json[done..]);
        Some((out, count))
    }
}

/// Writes a JSON string. Bytes that are not UTF-8 cannot come from JSON; they are kept as they are.
fn write_string(out: &mut Vec<u8>, text: &[u8]) {
    match std::str::from_utf8(text) {
        Ok(text) => {
            // Writing to memory does not fail.
            let _ = serde_json::to_writer(&mut *out, text);
        }
        Err(_) => {
            out.push(b'"');
            out.extend_from_slice(text);
            out.push(b'"');
        }
    }
}

/// Whether a field of this name holds a secret whatever it looks like.
fn is_secret_name(name: &[u8]) -> bool {
    if name.len() > NAME_BYTES_MAX || name.len() < 5 {
        return false;
    }
    // Most names are ruled out by their last letter.
    let last = name.iter().rev().find(|byte| byte.is_ascii_alphanumeric());
    if !matches!(
        last.map(u8::to_ascii_lowercase),
        Some(b'd' | b'e' | b't' | b'y' | b'n')
    ) {
        return false;
    }
    let mut plain = [0; NAME_BYTES_MAX];
    let mut len = 0;
    for byte in name.iter().filter(|byte| byte.is_ascii_alphanumeric()) {
        plain[len] = byte.to_ascii_lowercase();
        len += 1;
    }
    let plain = &plain[..len];
    NAME_ENDS.iter().any(|end| plain.ends_with(end)) || plain == b"token"
}

/// A longer name is prose.
const NAME_BYTES_MAX: usize = 64;

/// How the names of secret fields end, letters and digits only. `token` alone would take in
/// harmless counters such as `max_token`.
const NAME_ENDS: &[&[u8]] = &[
    b"password",
    b"passwd",
    b"passphrase",
    b"secret",
    b"apikey",
    b"secretkey",
    b"privatekey",
    b"accesskey",
    b"authtoken",
    b"accesstoken",
    b"refreshtoken",
    b"sessiontoken",
    b"idtoken",
    b"bearertoken",
    b"authorization",
    b"cookie",
    b"secretaccesskey",
    b"clientsecret",
    b"signingkey",
    b"encryptionkey",
];

/// Whether the value of a secret field is one: not empty, not a word that stands for one.
fn is_worth_hiding(value: &[u8]) -> bool {
    value.len() >= 4
        && !value.starts_with(b"[redacted:")
        && !value.starts_with(b"${")
        && !(value.first() == Some(&b'<') && value.last() == Some(&b'>'))
        && !value
            .iter()
            .all(|byte| matches!(byte, b'*' | b'x' | b'X' | b'.'))
        && !matches!(
            value,
            b"true" | b"false" | b"null" | b"none" | b"None" | b"string" | b"undefined"
        )
}
