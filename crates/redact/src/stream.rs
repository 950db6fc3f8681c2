//! One very long line in pieces.

use crate::Redactor;
use crate::json::{Places, decode, skim_string};
use crate::redactor::{GROWTH_BYTES_MAX, NAMED};
use crate::scan::{Fingerprint, Search};
use crate::walk::{Edits, Walk};

/// Takes the secrets out of one JSON line that is too long to be held, piece by piece.
///
/// What comes out of all pushes, joined, is what [`Redactor::json`] makes of the whole line, however
/// the line was cut: between the bytes of a character, inside of an escape, of a key or of a secret.
/// At most [`WINDOW_BYTES`] are held back.
///
/// It sees less than the whole-line redactor in these cases, and then withholds more:
///
/// - A secret, a run of token characters behind one, or overlapping secrets that are together longer
///   than the window in the line's own bytes: the value, from the secret to its closing quote, becomes
///   one `[redacted:unscanned:<fingerprint>]`. So does the rest of a value that is made to be slow.
/// - A key that is longer than the window names nothing; under a name that says secret it is taken as
///   a value. A value under such a name is taken whole, with the same fingerprint, however long it is.
/// - What is not JSON (does not begin with `{`, is not UTF-8, has text outside of strings or a number
///   as long as the window, ends within a string): from the window where that is seen, all is withheld
///   to the end of the line. [`Redactor::json`] would look at such text as text.
/// - A stream that begins in the middle of a line ([`Stream::resumed`]): everything is withheld to the
///   end of the line, since nobody knows any more what names the values that come.
///
/// It does not know, as `json` does not, whether the braces of a line match.
pub struct Stream {
    /// What came and was not looked at to its end.
    window: Vec<u8>,
    walk: Walk,
    state: State,
    begun: bool,
}

/// So many bytes are held back at most: enough for a private key of 16 KiB, every byte of it escaped.
pub const WINDOW_BYTES: usize = 128 * 1024;

enum State {
    /// Between two strings that fit into the window.
    Between,
    /// In a string that does not.
    Inside {
        search: Search,
        /// The byte before the window.
        before: u8,
    },
    /// In a string whose rest is replaced as a whole.
    Replacing {
        kind: &'static str,
        fingerprint: Fingerprint,
    },
    /// The rest of the line is withheld.
    Withholding,
}

/// What a piece added to the clean text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// The bytes that are safe now; they need not belong to this piece.
    pub bytes: Vec<u8>,
    /// How many values were replaced in them.
    pub redactions: u64,
    /// Whether the line is withheld from here to its end.
    pub withheld: bool,
}

impl Default for Stream {
    fn default() -> Self {
        Self::new()
    }
}

impl Stream {
    /// For a line from its first byte.
    pub fn new() -> Self {
        Self {
            window: Vec::new(),
            walk: Walk::default(),
            state: State::Between,
            begun: false,
        }
    }

    /// For a line whose beginning was not seen: it is withheld to its end.
    pub fn resumed() -> Self {
        Self {
            state: State::Withholding,
            ..Self::new()
        }
    }

    /// Takes the next piece of the line; `last` when the line ends with it.
    pub fn push(&mut self, redactor: &mut Redactor, piece: &[u8], last: bool) -> Cleaned {
        let mut cleaned = Cleaned::default();
        let mut rest = piece;
        // Looks only at full windows, so that what it does depends on the line and not on its pieces.
        loop {
            if matches!(self.state, State::Withholding) {
                self.window = Vec::new();
                cleaned.withheld = true;
                return cleaned;
            }
            let fits = rest.len().min(WINDOW_BYTES - self.window.len());
            self.window.extend_from_slice(&rest[..fits]);
            rest = &rest[fits..];
            let end = last && rest.is_empty();
            if self.window.len() < WINDOW_BYTES && !end {
                return cleaned;
            }
            let done = self.step(redactor, end, &mut cleaned);
            self.window.drain(..done.min(self.window.len()));
            if end && self.window.is_empty() && matches!(self.state, State::Between) {
                // The line is whole; what would come after it is not of it.
                self.state = State::Withholding;
                return cleaned;
            }
            if cleaned.bytes.len() > piece.len() + WINDOW_BYTES + GROWTH_BYTES_MAX {
                cleaned = Cleaned::default();
                self.state = State::Withholding;
            }
        }
    }

    /// Looks at the window once; returns how much of it is done.
    fn step(&mut self, redactor: &mut Redactor, last: bool, cleaned: &mut Cleaned) -> usize {
        let begins = self.begun || self.window.first() == Some(&b'{');
        self.begun = true;
        // A character that is cut at the end of the window comes again with its rest.
        let whole = match std::str::from_utf8(&self.window) {
            Ok(text) => text.len(),
            Err(error) if error.error_len().is_none() && !last => error.valid_up_to(),
            Err(_) => 0,
        };
        if !begins || (whole == 0 && !self.window.is_empty()) {
            self.state = State::Withholding;
            return 0;
        }
        let window = &self.window[..whole];
        match std::mem::replace(&mut self.state, State::Withholding) {
            State::Between => {
                let mut edits = Edits::new(window);
                // What another text left behind is not of this one.
                redactor.was_exhausted();
                let done = self.walk.run(redactor, window, last, &mut edits);
                if !self.walk.is_plain() || redactor.was_exhausted() {
                    return 0;
                }
                cleaned.redactions += edits.append(done, &mut cleaned.bytes);
                if done > 0 || last {
                    self.state = State::Between;
                    return done;
                }
                if window.first() != Some(&b'"') {
                    return 0;
                }
                // A string that does not fit.
                cleaned.bytes.push(b'"');
                self.state = if self.walk.is_secret_next() {
                    State::Replacing {
                        kind: NAMED,
                        fingerprint: Fingerprint::new(&redactor.key),
                    }
                } else {
                    State::Inside {
                        search: Search::default(),
                        before: b'\n',
                    }
                };
                1
            }
            State::Inside { search, before } => {
                let (done, state) = inside(redactor, search, before, window, last, cleaned);
                if matches!(state, State::Between) {
                    self.walk.after(None);
                }
                self.state = state;
                done
            }
            State::Replacing {
                kind,
                mut fingerprint,
            } => {
                let close = skim_string(window, 0).close;
                let mut decoded = std::mem::take(&mut redactor.decoded);
                let inside = &window[..close.unwrap_or(whole)];
                decoded.clear();
                let done = decode(inside, close.is_some(), &mut decoded);
                fingerprint.update(&decoded);
                redactor.decoded = decoded;
                if close.is_some() {
                    redactor.count(kind);
                    let clean = fingerprint.placeholder(kind);
                    cleaned.bytes.extend_from_slice(clean.as_bytes());
                    cleaned.bytes.push(b'"');
                    cleaned.redactions += 1;
                    self.walk.after(None);
                    self.state = State::Between;
                    return done + 1;
                }
                if !last {
                    self.state = State::Replacing { kind, fingerprint };
                }
                done
            }
            State::Withholding => 0,
        }
    }
}

/// Looks at a window inside of a string; returns how much of it is done, and what comes next.
fn inside(
    redactor: &mut Redactor,
    mut search: Search,
    before: u8,
    window: &[u8],
    last: bool,
    cleaned: &mut Cleaned,
) -> (usize, State) {
    let close = skim_string(window, 0).close;
    if close.is_none() && last {
        // The line ends within a string.
        return (0, State::Withholding);
    }
    let raw = &window[..close.unwrap_or(window.len())];
    let mut text = std::mem::take(&mut redactor.decoded);
    text.clear();
    text.push(before);
    decode(raw, close.is_some(), &mut text);
    let rules = redactor.rules.clone();
    let complete = search.run(&rules, &text, close.is_some());
    let ends = complete && close.is_some();
    let mut settled = if ends { text.len() } else { search.settled() };
    while !ends && settled > 0 && text.get(settled).is_some_and(|byte| byte & 0xc0 == 0x80) {
        settled -= 1;
    }
    let mut places = Places::new(raw, 0);
    let mut edits = Edits::new(raw);
    for found in search.take_found(settled) {
        // The byte before the text is no part of it.
        let range = found.start.max(1)..found.end;
        let clean = redactor.replacement_by(found.rule, &text[range.clone()]);
        edits.replace(
            places.range(range.start - 1..range.end - 1),
            clean.as_bytes(),
        );
    }
    let done = places.raw(settled.saturating_sub(1));
    cleaned.redactions += edits.append(done, &mut cleaned.bytes);
    let next = if ends {
        cleaned.bytes.push(b'"');
        State::Between
    } else if complete && settled > 1 {
        search.advance(settled - 1);
        State::Inside {
            search,
            before: text[settled - 1],
        }
    } else {
        // It was too much work, or what was found goes on beyond the window.
        State::Replacing {
            kind: UNSCANNED,
            fingerprint: Fingerprint::new(&redactor.key),
        }
    };
    redactor.decoded = text;
    (done + usize::from(ends), next)
}

/// The kind of what could not be looked at.
pub(crate) const UNSCANNED: &str = "unscanned";
