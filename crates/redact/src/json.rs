//! Walking the strings of a JSON text without building a tree.

use std::borrow::Cow;

/// One string token of a JSON text.
#[derive(Debug)]
pub(crate) struct Token<'a> {
    /// Where its opening quote stands.
    pub(crate) start: usize,
    /// After its closing quote.
    pub(crate) end: usize,
    /// Its decoded bytes.
    pub(crate) text: Cow<'a, [u8]>,
    /// Whether a colon follows: it names a field.
    pub(crate) is_key: bool,
}

/// Walks the string tokens of a text that is JSON, or nearly.
///
/// In a text that is not JSON the walk still ends, and every byte between two quotes is looked at.
pub(crate) struct Tokens<'a> {
    json: &'a [u8],
    at: usize,
}

impl<'a> Tokens<'a> {
    pub(crate) fn new(json: &'a [u8]) -> Self {
        Self { json, at: 0 }
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let start = self.at + memchr::memchr(b'"', self.json.get(self.at..)?)?;
        let mut at = start + 1;
        let mut escaped = false;
        let end = loop {
            let Some(step) = self
                .json
                .get(at..)
                .and_then(|rest| memchr::memchr2(b'"', b'\\', rest))
            else {
                // No closing quote: the rest is one string.
                break self.json.len();
            };
            at += step;
            if self.json[at] == b'"' {
                break at;
            }
            escaped = true;
            at += 2;
        };
        let inner = self.json.get(start + 1..end).unwrap_or_default();
        let text = if escaped {
            Cow::Owned(unescape(inner))
        } else {
            Cow::Borrowed(inner)
        };
        let end = (end + 1).min(self.json.len());
        self.at = end;
        let after = self.json[end..]
            .iter()
            .find(|byte| !byte.is_ascii_whitespace());
        Some(Token {
            start,
            end,
            text,
            is_key: after == Some(&b':'),
        })
    }
}

/// Decodes the escapes of RFC 8259 section 7; what is not one is kept as it stands.
fn unescape(inner: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at..];
        let simple = match rest.get(1) {
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'r') => b'\r',
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(byte @ (b'"' | b'\\' | b'/')) => *byte,
            Some(b'u') => {
                let (character, len) = unicode(rest);
                let mut utf8 = [0; 4];
                out.extend_from_slice(character.encode_utf8(&mut utf8).as_bytes());
                rest = &rest[len..];
                continue;
            }
            _ => {
                out.push(b'\\');
                rest = &rest[1..];
                continue;
            }
        };
        out.push(simple);
        rest = &rest[2..];
    }
    out.extend_from_slice(rest);
    out
}

/// A `\uXXXX` escape at the front, with the second half of a surrogate pair: the character and how
/// many bytes it took. A lone surrogate reads as U+FFFD.
fn unicode(rest: &[u8]) -> (char, usize) {
    let unit = |at: usize| {
        let digits = rest
            .get(at + 2..at + 6)
            .filter(|_| rest.get(at..at + 2) == Some(b"\\u"))?;
        u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let Some(first) = unit(0) else {
        return ('\\', 1);
    };
    if (0xd800..0xdc00).contains(&first)
        && let Some(second @ 0xdc00..0xe000) = unit(6)
    {
        let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        return (char::from_u32(code).unwrap_or('\u{fffd}'), 12);
    }
    (char::from_u32(first).unwrap_or('\u{fffd}'), 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_cannot_hide_a_text() {
        let json = br#"{"k":"\u0067hp_\n\"x\u00e9\ud83d\ude00\ud800", "a" : ["b", {"c":"d"}]}"#;
        let tokens: Vec<_> = Tokens::new(json)
            .map(|token| {
                (
                    String::from_utf8_lossy(&token.text).into_owned(),
                    token.is_key,
                )
            })
            .collect();
        let expected = [
            ("k", true),
            ("ghp_\n\"x\u{e9}\u{1f600}\u{fffd}", false),
            ("a", true),
            ("b", false),
            ("c", true),
            ("d", false),
        ];
        assert_eq!(tokens, expected.map(|(text, key)| (text.to_owned(), key)));
    }

    #[test]
    fn a_text_that_is_cut_or_mad_is_walked_to_its_end() {
        for json in [
            "\"",
            "\"\\",
            "\"\\u",
            "{\"a",
            "\\\"\\\"\"",
            "\"\\u12",
            "\"a\"b\"c",
        ] {
            assert!(Tokens::new(json.as_bytes()).count() <= json.len(), "{json}");
        }
    }
}
