//! Reading an entry: strictly, because two readers must never disagree on what was sealed.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use jurat_event::{ENTRY_BYTES_MAX, ENTRY_VERSION, Kind, NAME_BYTES_MAX};
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::Digest;

/// Why bytes are not an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// Longer than an entry may be.
    #[error("an entry of {0} bytes, the limit is {ENTRY_BYTES_MAX}")]
    TooLong(usize),
    /// Not UTF-8.
    #[error("an entry that is not UTF-8")]
    Encoding,
    /// Not a JSON object with the required fields, or with one field twice.
    #[error("an entry that is not valid: {0}")]
    Syntax(String),
    /// Of a version this program does not know.
    #[error("an entry of version {0}")]
    Version(u64),
}

/// The commitment to a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// `SHA-256("jurat/context/v1\0" || salt32 || payload)`.
    pub sha256: Digest,
    /// The payload's length in bytes.
    pub len: u64,
    /// How many values were redacted in it.
    #[serde(default)]
    pub redactions: u64,
}

/// The commitment to the bytes before redaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    /// `SHA-256("jurat/raw/v1\0" || salt32 || original)`.
    pub sha256: Digest,
    /// The original's length in bytes.
    pub len: u64,
}

/// The fields of an entry that a verifier looks at; everything else was checked and passed over.
#[derive(Clone, Debug)]
pub struct EntryView<'a> {
    /// Its place in the log.
    pub seq: u64,
    /// The kind, by name: a reader keeps kinds it does not know.
    pub kind: Cow<'a, str>,
    /// When, by the device's clock.
    pub time: Cow<'a, str>,
    /// Which boot.
    pub boot: Cow<'a, str>,
    /// The session.
    pub session: Option<Cow<'a, str>>,
    /// The number inside the session.
    pub session_seq: Option<u64>,
    /// How many runs of the session this log had before this one.
    pub session_run: Option<u64>,
    /// The entry it is a block of.
    pub of: Option<u64>,
    /// The commitment to its payload.
    pub context: Option<Context>,
    /// The commitment to the bytes before redaction.
    pub raw: Option<Raw>,
    /// The facts of its kind, as they stand.
    pub detail: Option<&'a RawValue>,
}

impl<'a> EntryView<'a> {
    /// Reads an entry.
    ///
    /// # Errors
    /// [`EntryError`] for anything but one JSON object in UTF-8, of the known version, at most
    /// [`ENTRY_BYTES_MAX`] long, with the required fields and no field twice at any depth.
    pub fn parse(entry: &'a [u8]) -> Result<Self, EntryError> {
        if entry.len() > ENTRY_BYTES_MAX {
            return Err(EntryError::TooLong(entry.len()));
        }
        let text = std::str::from_utf8(entry).map_err(|_| EntryError::Encoding)?;
        // One compact line: a line end inside would be two lines in a SIEM's file.
        // (A minimum over all of it, because that is done many bytes at a time.)
        let least = entry.iter().fold(u8::MAX, |least, byte| least.min(*byte));
        if least < 0x20 || !text.starts_with(START) || !text.ends_with('}') {
            return Err(EntryError::Syntax(
                "not one compact line that begins with {\"v\":".into(),
            ));
        }
        let fields: Fields<'a> =
            serde_json::from_str(text).map_err(|error| EntryError::Syntax(error.to_string()))?;
        match fields.version {
            Some(version) if version == u64::from(ENTRY_VERSION) => {}
            Some(version) => return Err(EntryError::Version(version)),
            None => return Err(EntryError::Syntax("no v".into())),
        }
        let missing = |name: &str| EntryError::Syntax(format!("no {name}"));
        if !fields.has_salt {
            return Err(EntryError::Syntax(
                "no salt of 16 bytes in base64url".into(),
            ));
        }
        Ok(Self {
            seq: fields.seq.ok_or_else(|| missing("seq"))?,
            kind: fields.kind.ok_or_else(|| missing("kind"))?,
            time: fields.time.ok_or_else(|| missing("time"))?,
            boot: fields.boot.ok_or_else(|| missing("boot"))?,
            session: fields.session,
            session_seq: fields.session_seq,
            session_run: fields.session_run,
            of: fields.of,
            context: fields.context,
            raw: fields.raw,
            detail: fields.detail,
        })
    }

    /// Whether the entry is of this kind.
    pub fn is(&self, kind: Kind) -> bool {
        self.kind == kind.name()
    }

    /// The facts of its kind as a map of values; empty when there are none.
    pub fn detail_map(&self) -> BTreeMap<String, serde_json::Value> {
        self.detail
            .and_then(|raw| serde_json::from_str(raw.get()).ok())
            .unwrap_or_default()
    }
}

/// 16 random bytes in base64url without padding.
const SALT_CHARS: usize = 22;

#[derive(Default)]
struct Fields<'a> {
    version: Option<u64>,
    has_salt: bool,
    seq: Option<u64>,
    kind: Option<Cow<'a, str>>,
    time: Option<Cow<'a, str>>,
    boot: Option<Cow<'a, str>>,
    session: Option<Cow<'a, str>>,
    session_seq: Option<u64>,
    session_run: Option<u64>,
    of: Option<u64>,
    context: Option<Context>,
    raw: Option<Raw>,
    detail: Option<&'a RawValue>,
}

/// A string that borrows when it holds no escape.
struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

/// A text that readers remember.
fn name<E: de::Error>(Text(text): Text<'_>) -> Result<Cow<'_, str>, E> {
    if text.len() > NAME_BYTES_MAX {
        return Err(E::custom("a name that is too long"));
    }
    Ok(text)
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Fields::default();
                let mut seen = Keys::default();
                while let Some(Text(key)) = map.next_key()? {
                    match &*key {
                        "v" => fields.version = Some(map.next_value()?),
                        "salt" => {
                            let Text(salt) = map.next_value()?;
                            fields.has_salt = salt.len() == SALT_CHARS
                                && salt.bytes().all(|byte| {
                                    byte.is_ascii_alphanumeric() || b"-_".contains(&byte)
                                });
                        }
                        "seq" => fields.seq = Some(map.next_value()?),
                        "kind" => fields.kind = Some(name(map.next_value()?)?),
                        "time" => fields.time = Some(name(map.next_value()?)?),
                        "boot" => fields.boot = Some(name(map.next_value()?)?),
                        "session" => fields.session = Some(name(map.next_value()?)?),
                        "session_seq" => fields.session_seq = Some(map.next_value()?),
                        "session_run" => fields.session_run = Some(map.next_value()?),
                        "of" => fields.of = Some(map.next_value()?),
                        "context" => fields.context = Some(object(map.next_value()?)?),
                        "raw" => fields.raw = Some(object(map.next_value()?)?),
                        "detail" => {
                            let raw: &'de RawValue = map.next_value()?;
                            // A parser of its own: the levels above it count.
                            let mut parser = serde_json::Deserializer::from_str(raw.get());
                            StrictAny(LEVELS_MAX - 1)
                                .deserialize(&mut parser)
                                .map_err(de::Error::custom)?;
                            fields.detail = Some(raw);
                        }
                        name if RESERVED.contains(&name) => {
                            return Err(de::Error::custom(format_args!(
                                "the field name {name} is reserved"
                            )));
                        }
                        _ => {
                            map.next_value_seed(StrictAny(LEVELS_MAX - 1))?;
                        }
                    }
                    seen.add(key)?;
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

#[derive(Default)]
struct Keys<'a>(Vec<Cow<'a, str>>);

impl<'a> Keys<'a> {
    /// Remembers a key; a key twice is an error.
    fn add<E: de::Error>(&mut self, key: Cow<'a, str>) -> Result<(), E> {
        if self.0.contains(&key) {
            return Err(E::custom(format_args!("the field {key:?} stands twice")));
        }
        // An entry of 16 KiB has at most a few thousand keys; an honest one has thirty.
        if self.0.len() >= KEYS_MAX {
            return Err(E::custom("too many fields in one object"));
        }
        self.0.push(key);
        Ok(())
    }
}

/// How every entry begins.
const START: &str = "{\"v\":";
/// Names that a SIEM line puts before an entry's own fields: an entry must not override them.
const RESERVED: [&str; 8] = [
    "device",
    "leaf_hash",
    "chain_hash",
    "prev_chain_hash",
    "sink_seq",
    "batch",
    "judged",
    "full_context",
];
/// The most fields of one object; keeps the search for duplicates cheap.
const KEYS_MAX: usize = 256;

/// The most objects and arrays inside each other.
const LEVELS_MAX: u8 = 127;

/// An object; an array of the same values would be read as one, too.
fn object<'de, T: Deserialize<'de>, E: de::Error>(raw: &'de RawValue) -> Result<T, E> {
    if !raw.get().starts_with('{') {
        return Err(E::custom("not an object"));
    }
    serde_json::from_str(raw.get()).map_err(E::custom)
}

/// Any JSON value in which no object has a field twice, of at most so many levels.
#[derive(Clone, Copy)]
struct StrictAny(u8);

impl StrictAny {
    fn inner<E: de::Error>(self) -> Result<Self, E> {
        let inner = self.0.checked_sub(1).map(Self);
        inner.ok_or_else(|| E::custom("too many levels"))
    }
}

impl<'de> DeserializeSeed<'de> for StrictAny {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        struct AnyVisitor(StrictAny);
        impl<'de> Visitor<'de> for AnyVisitor {
            type Value = ();
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }
            fn visit_bool<E>(self, _: bool) -> Result<(), E> {
                Ok(())
            }
            fn visit_i64<E>(self, _: i64) -> Result<(), E> {
                Ok(())
            }
            fn visit_u64<E>(self, _: u64) -> Result<(), E> {
                Ok(())
            }
            fn visit_f64<E>(self, _: f64) -> Result<(), E> {
                Ok(())
            }
            fn visit_str<E>(self, _: &str) -> Result<(), E> {
                Ok(())
            }
            fn visit_unit<E>(self) -> Result<(), E> {
                Ok(())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
                let inner = self.0.inner()?;
                while seq.next_element_seed(inner)?.is_some() {}
                Ok(())
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
                let inner = self.0.inner()?;
                let mut seen = Keys::default();
                while let Some(Text(key)) = map.next_key()? {
                    map.next_value_seed(inner)?;
                    seen.add(key)?;
                }
                Ok(())
            }
        }
        deserializer.deserialize_any(AnyVisitor(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"v":1,"salt":"c2FsdHNhbHRzYWx0c2FsdA","seq":3,"boot":"b","time":"t","kind":"other","new":{"a":[1,{"b":2}]}}"#;

    #[test]
    fn unknown_fields_and_kinds_are_kept_and_passed_over() {
        let entry = GOOD.replace("\"other\"", "\"kind.of.tomorrow\"");
        let view = EntryView::parse(entry.as_bytes()).unwrap();
        assert_eq!((view.seq, &*view.kind), (3, "kind.of.tomorrow"));
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        let twice = [
            GOOD.replace("\"seq\":3", "\"seq\":3,\"seq\":4"),
            GOOD.replace("{\"b\":2}", "{\"b\":2,\"b\":3}"),
            GOOD.replace("\"new\"", "\"\\u0073eq\""),
            GOOD.replace("c2FsdHNhbHRzYWx0c2FsdA", "c2FsdA"),
            GOOD.replace("c2FsdHNhbHRzYWx0c2FsdA", "c2FsdHNhbHRzYWx0c2Fsd="),
            GOOD.replace("\"new\":", "\"detail\":{\"x\":1,\"x\":2},\"new\":"),
            GOOD.replace("\"b\"", &format!("\"{}\"", "b".repeat(NAME_BYTES_MAX + 1))),
        ];
        for entry in twice {
            assert!(
                matches!(
                    EntryView::parse(entry.as_bytes()),
                    Err(EntryError::Syntax(_))
                ),
                "{entry}"
            );
        }
        assert_eq!(
            EntryView::parse(b"{\"v\":1,\"salt\":\"\xff\"}").unwrap_err(),
            EntryError::Encoding
        );
        let long = GOOD.replace("\"t\"", &format!("\"{}\"", "t".repeat(ENTRY_BYTES_MAX)));
        assert!(matches!(
            EntryView::parse(long.as_bytes()),
            Err(EntryError::TooLong(_))
        ));
        assert_eq!(
            EntryView::parse(GOOD.replace("\"v\":1", "\"v\":2").as_bytes()).unwrap_err(),
            EntryError::Version(2)
        );
    }
}
