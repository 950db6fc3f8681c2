//! Revealing: the very bytes that one leaf commits to, with their salt, given by their owner to who asks.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use crate::{Digest, EntryView, context_hasher, raw_commitment};

/// The longest reveal: a line of 4 MiB in base64, and room.
pub const REVEAL_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The bytes of one leaf, out in the open (`docs/formats/entry.md`).
#[derive(Clone, PartialEq, Eq)]
pub struct Reveal {
    /// The leaf.
    pub seq: u64,
    /// Which of its commitments.
    pub of: Revealed,
    /// The salt of that commitment.
    pub salt: [u8; 32],
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Reveal {
    // What is revealed is for who asked, not for a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.bytes.len();
        write!(
            f,
            "Reveal {{ seq: {}, of: {:?}, {bytes} bytes }}",
            self.seq, self.of
        )
    }
}

/// What is revealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Revealed {
    /// The record as it stood in its file, before redaction.
    Raw,
    /// The payload.
    Context,
}

/// Why bytes are not a reveal, or not the one of this leaf.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RevealError {
    /// Longer than one may be.
    #[error("a reveal of {0} bytes, the limit is {REVEAL_BYTES_MAX}")]
    TooLong(usize),
    /// Not a reveal.
    #[error("not a reveal: {0}")]
    Syntax(String),
    /// It speaks of another leaf.
    #[error("it reveals leaf {found}, not leaf {expected}")]
    Leaf {
        /// The leaf that was given.
        expected: u64,
        /// The leaf that it names.
        found: u64,
    },
    /// The leaf commits to no such bytes.
    #[error("leaf {seq} commits to no {}", name(*.of))]
    NoCommitment {
        /// The leaf.
        seq: u64,
        /// What is revealed.
        of: Revealed,
    },
    /// Other bytes, or another salt, than those that were committed.
    #[error("leaf {seq} commits to another {}", name(*.of))]
    Other {
        /// The leaf.
        seq: u64,
        /// What is revealed.
        of: Revealed,
    },
}

fn name(of: Revealed) -> &'static str {
    match of {
        Revealed::Raw => "original",
        Revealed::Context => "payload",
    }
}

/// As it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    seq: u64,
    of: Revealed,
    salt: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    original: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
}

impl Reveal {
    /// Reads one: an object of exactly these fields, `original` for `raw` and `payload` for `context`.
    ///
    /// # Errors
    /// [`RevealError::TooLong`], [`RevealError::Syntax`].
    pub fn parse(bytes: &[u8]) -> Result<Self, RevealError> {
        let wrong = |what: &str| RevealError::Syntax(what.to_owned());
        if bytes.len() > REVEAL_BYTES_MAX {
            return Err(RevealError::TooLong(bytes.len()));
        }
        let text: Text =
            serde_json::from_slice(bytes).map_err(|error| wrong(&error.to_string()))?;
        let ((Revealed::Raw, Some(content), None) | (Revealed::Context, None, Some(content))) =
            (text.of, text.original, text.payload)
        else {
            return Err(wrong(
                "`original` stands with `raw`, `payload` with `context`",
            ));
        };
        let salt = BASE64.decode(text.salt).ok();
        let salt = salt.and_then(|salt| <[u8; 32]>::try_from(salt).ok());
        Ok(Self {
            seq: text.seq,
            of: text.of,
            salt: salt.ok_or_else(|| wrong("the salt is not 32 bytes in base64"))?,
            bytes: BASE64
                .decode(content)
                .map_err(|_| wrong("the content is not base64"))?,
        })
    }

    /// Writes it, on one line.
    pub fn encode(&self) -> String {
        let content = Some(BASE64.encode(&self.bytes));
        let (original, payload) = match self.of {
            Revealed::Raw => (content, None),
            Revealed::Context => (None, content),
        };
        let text = Text {
            seq: self.seq,
            of: self.of,
            salt: BASE64.encode(self.salt),
            original,
            payload,
        };
        serde_json::to_string(&text).expect("numbers and texts can be written as JSON")
    }

    /// Whether these are the bytes that the entry commits to. That the entry is a leaf of the log is another
    /// question.
    ///
    /// # Errors
    /// [`RevealError`] says what does not fit.
    pub fn holds(&self, entry: &EntryView<'_>) -> Result<(), RevealError> {
        let (seq, of) = (self.seq, self.of);
        if seq != entry.seq {
            let (expected, found) = (entry.seq, seq);
            return Err(RevealError::Leaf { expected, found });
        }
        let (committed, len) = match of {
            Revealed::Raw => entry.raw.map(|raw| (raw.sha256, raw.len)),
            Revealed::Context => entry.context.map(|context| (context.sha256, context.len)),
        }
        .ok_or(RevealError::NoCommitment { seq, of })?;
        if len != self.bytes.len() as u64 || committed != self.commitment() {
            return Err(RevealError::Other { seq, of });
        }
        Ok(())
    }

    fn commitment(&self) -> Digest {
        match self.of {
            Revealed::Raw => raw_commitment(&self.salt, &self.bytes),
            Revealed::Context => {
                let mut hasher = context_hasher(&self.salt);
                hasher.update(&self.bytes);
                hasher.finish()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: [u8; 32] = [7; 32];

    fn entry(field: &str, digest: Digest, len: usize) -> String {
        format!(
            r#"{{"v":1,"salt":"c2FsdHNhbHRzYWx0c2FsdA","seq":3,"boot":"b","time":"t","kind":"other","{field}":{{"sha256":"{digest}","len":{len}}}}}"#
        )
    }

    fn reveal(of: Revealed) -> Reveal {
        Reveal {
            seq: 3,
            of,
            salt: SALT,
            bytes: b"the line".to_vec(),
        }
    }

    #[test]
    fn only_the_committed_bytes_with_their_salt_for_their_leaf_hold() {
        for (of, field, other) in [
            (Revealed::Raw, "raw", "context"),
            (Revealed::Context, "context", "raw"),
        ] {
            let good = reveal(of);
            let text = entry(field, good.commitment(), 8);
            let view = EntryView::parse(text.as_bytes()).unwrap();
            let read = Reveal::parse(good.encode().as_bytes()).unwrap();
            assert_eq!(read.holds(&view), Ok(()));
            let wrong = RevealError::Other { seq: 3, of };
            let mut bytes = good.clone();
            bytes.bytes[0] ^= 1;
            assert_eq!(bytes.holds(&view), Err(wrong.clone()));
            let mut salt = good.clone();
            salt.salt[31] ^= 1;
            assert_eq!(salt.holds(&view), Err(wrong.clone()));
            let leaf = Reveal {
                seq: 4,
                ..good.clone()
            };
            let (expected, found) = (3, 4);
            assert_eq!(
                leaf.holds(&view),
                Err(RevealError::Leaf { expected, found })
            );
            // A length that is not the committed one, and a commitment of the other kind.
            let text = entry(field, good.commitment(), 9);
            let view = EntryView::parse(text.as_bytes()).unwrap();
            assert_eq!(good.holds(&view), Err(wrong));
            let text = entry(other, good.commitment(), 8);
            let view = EntryView::parse(text.as_bytes()).unwrap();
            let none = RevealError::NoCommitment { seq: 3, of };
            assert_eq!(good.holds(&view), Err(none));
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let good = reveal(Revealed::Raw).encode();
        assert!(Reveal::parse(good.as_bytes()).is_ok());
        let salt = BASE64.encode(SALT);
        let bad = [
            good.replace("\"raw\"", "\"context\""),
            good.replace("\"seq\":3", "\"seq\":3,\"seq\":3"),
            good.replace("\"seq\":3", "\"seq\":3,\"more\":1"),
            good.replace("\"seq\":3", "\"seq\":3,\"payload\":\"\""),
            good.replace("\"seq\":3", "\"seq\":-3"),
            good.replace(&salt, &BASE64.encode([7; 31])),
            good.replace(&salt, salt.trim_end_matches('=')),
            good.replace(&BASE64.encode(b"the line"), "!"),
            format!("{good} x"),
        ];
        for text in bad {
            assert_ne!(text, good);
            let read = Reveal::parse(text.as_bytes());
            assert!(matches!(read, Err(RevealError::Syntax(_))), "{text}");
        }
        let long = vec![b' '; REVEAL_BYTES_MAX + 1];
        let refused = Reveal::parse(&long).err();
        assert_eq!(refused, Some(RevealError::TooLong(long.len())));
    }
}
