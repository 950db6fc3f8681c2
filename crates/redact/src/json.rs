//! Walking the strings of a JSON text without building a tree.

use std::ops::Range;

/// A string of a JSON text, as far as it was there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Skimmed {
    /// Where its closing quote stands; `None` when it does not.
    pub(crate) close: Option<usize>,
    /// Whether it has escapes.
    pub(crate) escaped: bool,
    /// Whether some of them are not the shortest way to write what they stand for: then what the
    /// string says cannot be seen without decoding it.
    pub(crate) unusual: bool,
}

/// Looks for the end of a string whose inside begins at `from`.
pub(crate) fn skim_string(json: &[u8], from: usize) -> Skimmed {
    let mut skimmed = Skimmed {
        close: None,
        escaped: false,
        unusual: false,
    };
    let mut at = from;
    while let Some(found) = quote_or_backslash(json, at) {
        if json[found] == b'"' {
            skimmed.close = Some(found);
            break;
        }
        skimmed.escaped = true;
        skimmed.unusual |= !matches!(json.get(found + 1), Some(b'n' | b't' | b'r' | b'"' | b'\\'));
        at = found + 2;
    }
    skimmed
}

/// Appends the decoded inside of a string to `decoded`; returns up to where. When nothing follows (`last`),
/// that is its end, otherwise it may be before an escape that is cut.
pub(crate) fn decode(inside: &[u8], last: bool, decoded: &mut Vec<u8>) -> usize {
    let mut at = 0;
    loop {
        let run = backslash(inside, at);
        decoded.extend_from_slice(
            inside
                .get(at..run.unwrap_or(inside.len()))
                .unwrap_or_default(),
        );
        let Some(found) = run else {
            return inside.len();
        };
        let Some((character, len)) = escape(&inside[found..], last) else {
            return found;
        };
        let mut utf8 = [0; 4];
        decoded.extend_from_slice(character.encode_utf8(&mut utf8).as_bytes());
        at = found + len;
    }
}

fn backslash(text: &[u8], from: usize) -> Option<usize> {
    Some(from + memchr::memchr(b'\\', text.get(from..)?)?)
}

/// How far a search looks before it is handed to one that costs more to begin.
const NEAR: usize = 64;

fn quote_or_backslash(json: &[u8], from: usize) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = ONES << 7;
    // Source code has an escape every line, and most strings are short.
    let mut at = from;
    while at < from + NEAR
        && let Some(eight) = json.get(at..).and_then(<[u8]>::first_chunk::<8>)
    {
        let eight = u64::from_le_bytes(*eight);
        let zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
        let hits = zero(eight ^ (ONES * u64::from(b'"'))) | zero(eight ^ (ONES * u64::from(b'\\')));
        if hits != 0 {
            return Some(at + hits.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    Some(at + memchr::memchr2(b'"', b'\\', json.get(at..)?)?)
}

/// An escape of RFC 8259 section 7: what it stands for and how long it is. What is not one is a
/// backslash; a lone surrogate reads as U+FFFD. `None` when it is cut and more will come.
fn escape(rest: &[u8], last: bool) -> Option<(char, usize)> {
    let simple = match rest.get(1) {
        Some(b'n') => '\n',
        Some(b't') => '\t',
        Some(b'r') => '\r',
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(byte @ (b'"' | b'\\' | b'/')) => char::from(*byte),
        Some(b'u') => return unicode(rest, last),
        None if !last => return None,
        _ => return Some(('\\', 1)),
    };
    Some((simple, 2))
}

/// A `\uXXXX` escape at the front, with the second half of a surrogate pair.
fn unicode(rest: &[u8], last: bool) -> Option<(char, usize)> {
    if rest.len() < 12 && !last {
        return None;
    }
    let unit = |at: usize| {
        let digits = rest
            .get(at + 2..at + 6)
            .filter(|_| rest.get(at..at + 2) == Some(b"\\u"))?;
        // `from_str_radix` would take a sign.
        digits
            .iter()
            .all(u8::is_ascii_hexdigit)
            .then(|| u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok())?
    };
    let Some(first) = unit(0) else {
        return Some(('\\', 1));
    };
    if (0xd800..0xdc00).contains(&first)
        && let Some(second @ 0xdc00..0xe000) = unit(6)
    {
        let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        return Some((char::from_u32(code).unwrap_or('\u{fffd}'), 12));
    }
    Some((char::from_u32(first).unwrap_or('\u{fffd}'), 6))
}

/// Finds, for growing places in the decoded text of a string, where they stand in the string.
pub(crate) struct Places<'a> {
    json: &'a [u8],
    raw: usize,
    decoded: usize,
    /// The next backslash, or the end.
    backslash: usize,
}

impl<'a> Places<'a> {
    /// For the string whose inside begins at `from`.
    pub(crate) fn new(json: &'a [u8], from: usize) -> Self {
        Self {
            json,
            raw: from,
            decoded: 0,
            backslash: backslash(json, from).unwrap_or(json.len()),
        }
    }

    /// Where the character at `place` of the decoded text begins.
    pub(crate) fn raw(&mut self, place: usize) -> usize {
        loop {
            let run = self.backslash - self.raw;
            let wanted = place.saturating_sub(self.decoded);
            if wanted <= run {
                self.raw += wanted;
                self.decoded += wanted;
                return self.raw;
            }
            let rest = self.json.get(self.backslash..).unwrap_or_default();
            if rest.is_empty() {
                return self.json.len();
            }
            let (character, len) = escape(rest, true).unwrap_or(('\\', 1));
            self.raw = self.backslash + len;
            self.decoded += run + character.len_utf8();
            self.backslash = backslash(self.json, self.raw).unwrap_or(self.json.len());
        }
    }

    pub(crate) fn range(&mut self, range: Range<usize>) -> Range<usize> {
        let start = self.raw(range.start);
        start..self.raw(range.end)
    }
}

/// Whether what stands between two strings can only be structure, numbers and the three words of
/// JSON: then there is no text in it. Cut only where [`structure_end`] says, its pieces are as plain.
pub(crate) fn is_plain(gap: &[u8]) -> bool {
    let mut rest = gap;
    while let Some(first) = rest.first() {
        let len = match first {
            b'{' | b'}' | b'[' | b']' | b',' | b':' | b' ' | b'\t' | b'\n' | b'\r' => 1,
            b'-' | b'0'..=b'9' => number_len(rest),
            _ => match word_len(rest) {
                Some(len) => len,
                None => return false,
            },
        };
        rest = &rest[len..];
    }
    true
}

/// How many bytes of a number stand at the front.
pub(crate) fn number_len(rest: &[u8]) -> usize {
    let is_number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    rest.iter()
        .position(|byte| !is_number(byte))
        .unwrap_or(rest.len())
}

fn word_len(rest: &[u8]) -> Option<usize> {
    let words: [&[u8]; 3] = [b"true", b"false", b"null"];
    let len = words.iter().find(|word| rest.starts_with(word))?.len();
    let more = rest.get(len).is_some_and(u8::is_ascii_alphanumeric);
    (!more).then_some(len)
}

/// After the last byte of a gap that is structure: what comes after it may be half a number.
pub(crate) fn structure_end(gap: &[u8]) -> usize {
    gap.iter()
        .rposition(|byte| matches!(byte, b'{' | b'}' | b'[' | b']' | b',' | b':'))
        .map_or(0, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(inner: &str) -> String {
        let json = format!("\"{inner}\"");
        let skimmed = skim_string(json.as_bytes(), 1);
        assert_eq!(skimmed.close, Some(json.len() - 1), "{json}");
        let mut buffer = Vec::new();
        assert_eq!(decode(inner.as_bytes(), true, &mut buffer), inner.len());
        assert_eq!(skimmed.escaped, inner.as_bytes() != buffer, "{inner}");
        String::from_utf8(buffer).unwrap()
    }

    #[test]
    fn escapes_cannot_hide_a_text() {
        for (inner, text) in [
            (r"\u0067hp_", "ghp_"),
            (r#"a\n\"x\\\/\t"#, "a\n\"x\\/\t"),
            (r"\u00e9\ud83d\ude00\ud800", "\u{e9}\u{1f600}\u{fffd}"),
            (r"\\\u+123", r"\\u+123"),
            ("plain", "plain"),
        ] {
            assert_eq!(decoded(inner), text);
        }
        let long = format!("{}\\u0067{}\\n", "a".repeat(300), "b".repeat(300));
        let expected = format!("{}g{}\n", "a".repeat(300), "b".repeat(300));
        assert_eq!(decoded(&long), expected);
    }

    #[test]
    fn a_place_in_the_decoded_text_is_found_in_the_string() {
        let json = r#""ab\n\u00e9\ud83d\ude00c\"d""#;
        let text = "ab\n\u{e9}\u{1f600}c\"d";
        let mut places = Places::new(json.as_bytes(), 1);
        for (decoded, raw) in [(0, 1), (2, 3), (3, 5), (5, 11), (9, 23), (10, 24), (11, 26)] {
            assert_eq!(places.raw(decoded), raw, "{decoded}");
        }
        assert_eq!(places.range(text.len()..text.len()), 27..27);
    }

    #[test]
    fn a_string_that_is_cut_is_read_up_to_its_last_whole_character() {
        for (json, at) in [
            ("", 0),
            ("ab", 2),
            ("ab\\", 2),
            ("ab\\u00e9", 2),
            ("a\\n\\ud83d\\ude0", 3),
        ] {
            assert_eq!(
                decode(json.as_bytes(), false, &mut Vec::new()),
                at,
                "{json}"
            );
            assert_eq!(skim_string(json.as_bytes(), 0).close, None, "{json}");
        }
    }

    #[test]
    fn only_structure_numbers_and_words_of_json_are_plain() {
        for gap in ["", "{", ": [true, false,null , -1.5e+3]", "}\n"] {
            assert!(is_plain(gap.as_bytes()), "{gap}");
        }
        for gap in ["a", "truex", "nul", "1x", "ghp_", "\\", "é", "-----BEGIN"] {
            assert!(!is_plain(gap.as_bytes()), "{gap}");
        }
    }
}
