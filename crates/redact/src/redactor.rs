//! The redactor: one event in, one redacted event out.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::hmac;
use jurat_event::Event;
use serde_json::Value;

use crate::names::Named;
use crate::scan::{Fingerprint, Found, Scan};
use crate::stream::{Stream, UNSCANNED};
use crate::walk::{Edits, Walk};
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
    pub(crate) rules: Arc<Rules>,
    pub(crate) key: hmac::Key,
    mode: Mode,
    scan: Scan,
    /// The decoded text of the string that is looked at.
    pub(crate) decoded: Vec<u8>,
    counts: BTreeMap<String, u64>,
    /// A text of the current event could not be looked at to its end.
    exhausted: bool,
}

/// The longest string that is scanned; an event with a longer one is withheld.
const STRING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// No rule matches a shorter text; half of all strings in a transcript are shorter.
const TEXT_BYTES_MIN: usize = 8;
/// How much longer than its original a redacted record may be.
pub const GROWTH_BYTES_MAX: usize = 1024 * 1024;

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
            decoded: Vec::new(),
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

    /// Takes the secrets out of an event that carries the next piece of a line too long to be held;
    /// `last` when the line ends with it. The payload is what became safe with this piece, see
    /// [`Stream`]: the payloads of a line's pieces, joined, are the line without its secrets. From where
    /// the line cannot be scanned, its pieces are withheld, beginning with this one.
    ///
    /// The pieces of one line go through one stream, in order: [`Stream::new`] for the first one,
    /// [`Stream::resumed`] when the first one was seen by a process before this. In custody mode the
    /// piece is kept as it is.
    pub fn piece(&mut self, stream: &mut Stream, mut event: Event, last: bool) -> Redacted {
        if self.mode == Mode::Custody {
            return self.redact(event);
        }
        let original = event.context.take().unwrap_or_default();
        let cleaned = stream.push(self, &original, last);
        if cleaned.withheld {
            event.context = Some(original);
            return self.withhold(event);
        }
        self.header(&mut event);
        let changed = cleaned.bytes != original;
        Redacted {
            event,
            payload: Some(cleaned.bytes),
            original: changed.then_some(original),
            redactions: cleaned.redactions,
            withheld: false,
            custody: false,
        }
    }

    /// Keeps what a machine's firmware or kernel wrote as it is, and the entry says so: with another byte it leads to
    /// no quoted value. Nothing that an agent wrote may come here.
    pub fn verbatim(mut event: Event) -> Redacted {
        Redacted {
            payload: event.context.take(),
            event,
            original: None,
            redactions: 0,
            withheld: false,
            custody: true,
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
            self.value(Named::default().below(name), value);
        }
    }

    fn value(&mut self, named: Named, value: &mut Value) {
        match value {
            Value::String(text) => {
                if named.takes(text.as_bytes()) {
                    *text = self.replacement(NAMED, text.as_bytes());
                } else if let Some(clean) = self.text(text) {
                    *text = clean;
                }
            }
            Value::Number(number) => {
                let text = number.to_string();
                if named.takes(text.as_bytes()) {
                    *value = Value::String(self.replacement(NAMED, text.as_bytes()));
                }
            }
            Value::Array(list) => list.iter_mut().for_each(|value| self.value(named, value)),
            Value::Object(map) => map
                .iter_mut()
                .for_each(|(name, value)| self.value(named.below(name), value)),
            _ => {}
        }
    }

    /// Takes the secrets out of a plain text; `None` when there are none. A text that is made to be
    /// slow is replaced as a whole.
    pub fn text(&mut self, text: &str) -> Option<String> {
        let before = std::mem::take(&mut self.exhausted);
        let found = self.bytes(text.as_bytes());
        if std::mem::replace(&mut self.exhausted, before) {
            return Some(self.replacement(UNSCANNED, text.as_bytes()));
        }
        let (clean, _) = found?;
        // Spans were widened to whole characters, so UTF-8 in gives UTF-8 out.
        Some(String::from_utf8_lossy(&clean).into_owned())
    }

    /// Takes the secrets out of bytes; `None` when there are none.
    fn bytes(&mut self, text: &[u8]) -> Option<(Vec<u8>, u64)> {
        let mut edits = Edits::new(text);
        for found in self.find(text) {
            let range = found.start..found.end;
            let clean = self.replacement_by(found.rule, &text[range.clone()]);
            edits.replace(range, clean.as_bytes());
        }
        edits.finish()
    }

    /// What the rules find in this text.
    pub(crate) fn find(&mut self, text: &[u8]) -> Vec<Found> {
        if text.len() < TEXT_BYTES_MIN {
            return Vec::new();
        }
        self.scan.run(&self.rules, text);
        self.exhausted |= self.scan.exhausted;
        // Most texts have none, and an empty list costs nothing.
        std::mem::take(&mut self.scan.found)
    }

    pub(crate) fn replacement(&mut self, kind: &str, secret: &[u8]) -> String {
        let mut fingerprint = Fingerprint::new(&self.key);
        fingerprint.update(secret);
        self.count(kind);
        fingerprint.placeholder(kind)
    }

    pub(crate) fn replacement_by(&mut self, rule: u16, secret: &[u8]) -> String {
        let rules = self.rules.clone();
        self.replacement(&rules.rule(rule).kind, secret)
    }

    pub(crate) fn count(&mut self, kind: &str) {
        *self.counts.entry(kind.to_owned()).or_default() += 1;
    }

    /// Whether a text could not be looked at to its end since this was asked last.
    pub(crate) fn was_exhausted(&mut self) -> bool {
        std::mem::take(&mut self.exhausted)
    }

    /// Takes the secrets out of a JSON text, or of one that is only nearly JSON; `None` when there
    /// are none. [`Redactor::redact`] withholds what could not be looked at to its end; here it is
    /// returned as far as it was looked at. Returns the clean text and how many values were replaced.
    pub fn json(&mut self, json: &[u8]) -> Option<(Vec<u8>, u64)> {
        let mut walk = Walk::default();
        let mut edits = Edits::new(json);
        walk.run(self, json, true, &mut edits);
        let strings = edits.finish();
        let is_object = json.first() == Some(&b'{') && json.last() == Some(&b'}');
        if is_object && walk.is_plain() {
            return strings;
        }
        // Not JSON: what stands outside of quotes is text, too.
        match strings {
            None => self.bytes(json),
            Some((clean, count)) => match self.bytes(&clean) {
                None => Some((clean, count)),
                Some((clean, more)) => Some((clean, count + more)),
            },
        }
    }
}

/// The kind of what is a secret because of its name.
pub(crate) const NAMED: &str = "named-secret";
