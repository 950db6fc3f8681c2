//! One walk over the strings of a JSON text: what is secret by its name, what by its looks.

use std::ops::Range;

use crate::json::{Places, decode, is_plain, number_len, skim_string, structure_end};
use crate::names::{NAME_BYTES_MAX, describes, is_secret_name, is_worth_hiding};
use crate::redactor::{NAMED, Redactor};

/// Replacements in a text; what is not replaced stays byte for byte.
pub(crate) struct Edits<'a> {
    text: &'a [u8],
    out: Option<Vec<u8>>,
    done: usize,
    count: u64,
}

impl<'a> Edits<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self {
            text,
            out: None,
            done: 0,
            count: 0,
        }
    }

    /// Replaces what stands here, after all that was replaced before.
    pub(crate) fn replace(&mut self, range: Range<usize>, by: &[u8]) {
        let out = self
            .out
            .get_or_insert_with(|| Vec::with_capacity(self.text.len()));
        out.extend_from_slice(&self.text[self.done..range.start]);
        out.extend_from_slice(by);
        self.done = range.end;
        self.count += 1;
    }

    /// The new text and the number of replacements; `None` when there were none.
    pub(crate) fn finish(self) -> Option<(Vec<u8>, u64)> {
        let mut out = self.out?;
        out.extend_from_slice(&self.text[self.done..]);
        Some((out, self.count))
    }

    /// Appends the text up to here, as edited; gives the number of replacements.
    pub(crate) fn append(self, end: usize, to: &mut Vec<u8>) -> u64 {
        to.extend_from_slice(self.out.as_deref().unwrap_or_default());
        to.extend_from_slice(&self.text[self.done..end]);
        self.count
    }
}

/// Where a walk stands between two strings of one JSON text.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    /// The name before was a secret's; its value has not begun.
    secret_next: bool,
    /// How deep in lists and objects under a secret name.
    depth: usize,
    /// The nearest name inside of them describes the secret.
    describes: bool,
    /// Something stood between strings that JSON does not have there.
    text_between: bool,
}

/// So far behind a string a colon is looked for.
const COLON_BYTES_MAX: usize = 64;

impl Walk {
    /// Whether everything outside of strings was structure, numbers and words of JSON so far.
    pub(crate) fn is_plain(&self) -> bool {
        !self.text_between
    }

    /// Walks up to the first string or gap that is not there to its end, or, when nothing more will
    /// come (`last`), to the end. Returns up to where it came: to the opening quote of such a string.
    pub(crate) fn run(
        &mut self,
        redactor: &mut Redactor,
        json: &[u8],
        last: bool,
        edits: &mut Edits<'_>,
    ) -> usize {
        let rules = redactor.rules.clone();
        let mut decoded = std::mem::take(&mut redactor.decoded);
        let mut at = 0;
        let mut next_keyword = 0;
        let came = loop {
            let Some(open) = quote(json, at) else {
                let end = if last {
                    json.len()
                } else {
                    at + structure_end(&json[at..])
                };
                self.gap(redactor, json, at..end, edits);
                break end;
            };
            self.gap(redactor, json, at..open, edits);
            let string = skim_string(json, open + 1);
            let colon = colon(json, string.close);
            let near_the_end = string
                .close
                .is_none_or(|close| json.len() - close <= COLON_BYTES_MAX);
            if !last && near_the_end && colon.is_none() {
                break open;
            }
            let is_key = colon == Some(true);
            // Without a closing quote the rest is one string.
            self.text_between |= string.close.is_none();
            let inside = open + 1..string.close.unwrap_or(json.len());
            at = (inside.end + 1).min(json.len());
            if next_keyword < open {
                let next = rules.prefilter().next(json, open..json.len());
                next_keyword = next.unwrap_or(usize::MAX);
            }
            let may_hold = next_keyword < inside.end || string.unusual;
            let by_name = !is_key && self.is_secret_next();
            if !may_hold && !by_name && !is_key {
                self.after(None);
                continue;
            }
            let raw = &json[inside.clone()];
            let text = if string.escaped {
                decoded.clear();
                decode(raw, true, &mut decoded);
                decoded.as_slice()
            } else {
                raw
            };
            if by_name && is_worth_hiding(text) {
                let clean = redactor.replacement(NAMED, text);
                edits.replace(inside, clean.as_bytes());
            } else if may_hold {
                let mut places = Places::new(json, inside.start);
                for found in redactor.find(text) {
                    let range = found.start..found.end;
                    let clean = redactor.replacement_by(found.rule, &text[range.clone()]);
                    edits.replace(places.range(range), clean.as_bytes());
                }
            }
            self.after(is_key.then_some(text));
        };
        decoded.shrink_to(DECODED_BYTES_KEPT);
        redactor.decoded = decoded;
        came
    }

    /// Whether a string or number here is taken whole because of its name.
    fn takes_next(&self, value: &[u8]) -> bool {
        self.is_secret_next() && is_worth_hiding(value)
    }

    pub(crate) fn is_secret_next(&self) -> bool {
        self.secret_next || (self.depth > 0 && !self.describes)
    }

    /// After a string, which may be a key.
    pub(crate) fn after(&mut self, key: Option<&[u8]>) {
        self.secret_next = key.is_some_and(is_secret_name);
        if let Some(key) = key
            && self.depth > 0
        {
            self.describes = describes(key);
        }
    }

    /// Looks at what stands between two strings.
    fn gap(
        &mut self,
        redactor: &mut Redactor,
        json: &[u8],
        range: Range<usize>,
        edits: &mut Edits<'_>,
    ) {
        let gap = &json[range.clone()];
        if matches!(gap, b":" | b",") {
            return;
        }
        self.text_between |= !is_plain(gap);
        if !self.secret_next && self.depth == 0 {
            return;
        }
        let mut at = 0;
        while let Some(byte) = gap.get(at) {
            match byte {
                b'{' | b'[' if self.secret_next || self.depth > 0 => {
                    self.depth += 1;
                    self.describes &= !self.secret_next;
                    self.secret_next = false;
                }
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    self.describes = false;
                    self.secret_next = false;
                }
                b',' => self.secret_next = false,
                b'-' | b'0'..=b'9' => {
                    let len = number_len(&gap[at..]);
                    let number = &gap[at..at + len];
                    if self.takes_next(number) {
                        let clean = redactor.replacement(NAMED, number);
                        let start = range.start + at;
                        let quoted = format!("\"{clean}\"");
                        edits.replace(start..start + len, quoted.as_bytes());
                    }
                    at += len;
                    continue;
                }
                _ => {}
            }
            at += 1;
        }
    }
}

/// A rare huge string must not hold its memory for ever.
const DECODED_BYTES_KEPT: usize = 1024 * 1024;
/// A key can be named only by a string that is read whole.
const _: () = assert!(NAME_BYTES_MAX < DECODED_BYTES_KEPT);

fn quote(json: &[u8], from: usize) -> Option<usize> {
    // Most strings follow after a comma or a colon.
    let near = json.get(from..)?.iter().take(QUOTE_NEAR);
    match near.clone().position(|byte| *byte == b'"') {
        Some(step) => Some(from + step),
        None => Some(from + QUOTE_NEAR + memchr::memchr(b'"', json.get(from + QUOTE_NEAR..)?)?),
    }
}

const QUOTE_NEAR: usize = 4;

/// Whether a colon follows a string that closes here; `None` when what follows is not there.
fn colon(json: &[u8], close: Option<usize>) -> Option<bool> {
    let rest = json.get(close? + 1..)?;
    let next = rest
        .iter()
        .take(COLON_BYTES_MAX)
        .find(|byte| !byte.is_ascii_whitespace());
    match next {
        Some(byte) => Some(*byte == b':'),
        // Nobody writes so many blanks there. A name may follow them: taken for one, to be safe.
        None if rest.len() >= COLON_BYTES_MAX => Some(true),
        None => None,
    }
}
