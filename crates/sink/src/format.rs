//! How an entry is written for a SIEM. Each format is a table of which field goes where (`table`), and the rules of its
//! text.
//!
//! A projection is never what is proven: it names the leaf that is (`leaf_hash`), the chain around it, and its place in this
//! sink, so that every line of every SIEM leads back to the log. A size limit sheds the payload first, then long words;
//! what proves the line stays, and the line says what it lacks.

mod cef;
mod leef;
mod syslog;
mod table;

pub use syslog::{Facility, Header, StructuredData};

use std::fmt;
use std::str::FromStr;

use jurat_event::{Kind, Severity};
use serde_json::{Map, Value};

use crate::line::{self, Proof};

/// How the text of a message is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The SIEM line (`docs/formats/siem-line.md`).
    Json,
    /// Common Event Format, version 0 (ArcSight; HPE CEF rev. 25).
    Cef,
    /// Log Event Extended Format 2.0 (QRadar), with tabs.
    Leef,
}

impl Format {
    /// Every format, by the name that a configuration has.
    pub const ALL: [(&'static str, Self); 3] = [
        ("json", Self::Json),
        ("cef", Self::Cef),
        ("leef", Self::Leef),
    ];
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|(name, _)| *name == text);
        found.map(|(_, format)| format).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|(name, _)| *name).collect();
            format!("{text} is no format; there is: {}", names.join(", "))
        })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = Self::ALL.iter().find(|(_, format)| format == self);
        f.write_str(found.map_or("", |(name, _)| name))
    }
}

/// An entry on its way to a SIEM.
#[derive(Clone, Debug)]
pub struct Item<'a> {
    /// What proves it.
    pub proof: Proof,
    /// Its bytes, as they were sealed.
    pub entry: &'a [u8],
    /// Its payload, where there is one.
    pub payload: Option<&'a [u8]>,
    fields: Map<String, Value>,
}

impl<'a> Item<'a> {
    /// An item; `None` when the entry is no JSON object.
    pub fn new(proof: Proof, entry: &'a [u8], payload: Option<&'a [u8]>) -> Option<Self> {
        Some(Self {
            fields: serde_json::from_slice(entry).ok()?,
            proof,
            entry,
            payload,
        })
    }

    /// A field of the entry, by the names that lead to it.
    pub fn find(&self, path: &str) -> Option<&Value> {
        let mut names = path.split('.');
        let first = self.fields.get(names.next()?)?;
        names.try_fold(first, |value, name| value.get(name))
    }

    fn text(&self, path: &str) -> Option<&str> {
        self.find(path)?.as_str()
    }

    /// The name of its kind, also of one that is not known here.
    pub fn kind(&self) -> &str {
        self.text("kind").unwrap_or_default()
    }

    fn known_kind(&self) -> Kind {
        Kind::from_name(self.kind()).unwrap_or(Kind::Other)
    }

    /// How grave it is.
    pub fn severity(&self) -> Severity {
        let severity = self.find("severity").cloned();
        let severity = severity.and_then(|severity| serde_json::from_value(severity).ok());
        severity.unwrap_or(Severity::Info)
    }

    /// When it was sealed, milliseconds since 1970.
    pub fn time_ms(&self) -> i64 {
        let time = self.text("time").unwrap_or_default();
        let time: Option<jiff::Timestamp> = time.parse().ok();
        time.map_or(0, jiff::Timestamp::as_millisecond)
    }

    /// The device's id: the part of the log's name that is one.
    pub fn device(&self) -> &str {
        let mut parts = self.proof.device.rsplit('/');
        parts.nth(1).unwrap_or(&self.proof.device)
    }
}

/// What a line lacks because it would have been too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shed {
    /// Nothing.
    #[default]
    Nothing,
    /// The payload. Its digest is there.
    Payload,
    /// That, and the ends of long words.
    Words,
    /// That, and everything but what proves it.
    Fields,
}

impl Shed {
    const ALL: [Self; 4] = [Self::Nothing, Self::Payload, Self::Words, Self::Fields];

    /// As the line says it; `None` when there is nothing to say.
    fn name(self) -> Option<&'static str> {
        match self {
            Self::Nothing => None,
            Self::Payload => Some("full_context"),
            Self::Words => Some("full_context,words"),
            Self::Fields => Some("full_context,fields"),
        }
    }
}

/// The longest word of a line that sheds them, in bytes.
const WORD_BYTES_MAX: usize = 128;

/// Writes one message without its end, of at most so many bytes where that can be, and says what it lacks for it. What proves
/// the line is never shed: it takes less than 1,300 bytes.
pub fn write(format: Format, item: &Item<'_>, max_bytes: usize, out: &mut Vec<u8>) -> Shed {
    for shed in Shed::ALL {
        if shed == Shed::Payload && item.payload.is_none() {
            continue;
        }
        out.clear();
        match format {
            Format::Json => json(item, shed, out),
            Format::Cef => cef::write(item, shed, out),
            Format::Leef => leef::write(item, shed, out),
        }
        if out.len() <= max_bytes {
            return shed;
        }
    }
    Shed::Fields
}

/// A SIEM line, or, where something is shed, an object that says so, last.
fn json(item: &Item<'_>, shed: Shed, out: &mut Vec<u8>) {
    let Some(name) = shed.name() else {
        line::write(&item.proof, item.entry, item.payload, out);
        return;
    };
    if shed == Shed::Payload {
        line::write(&item.proof, item.entry, None, out);
    } else {
        let mut fields = Map::new();
        for (key, value) in &item.fields {
            let kept = table::KEPT.contains(&key.as_str());
            match value {
                Value::String(text) if kept || shed == Shed::Words => {
                    fields.insert(key.clone(), cut(text, WORD_BYTES_MAX).into());
                }
                value if kept => drop(fields.insert(key.clone(), value.clone())),
                _ => {}
            }
        }
        let fields = serde_json::to_vec(&fields).unwrap_or_default();
        line::write(&item.proof, &fields, None, out);
    }
    out.pop();
    out.extend_from_slice(b",\"shed\":\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\"}");
}

/// What stands for a character in a text of one line: U+FFFD for controls, and for what some readers take for a line's end. C
/// programs end a text at a NUL.
fn in_a_line(c: char) -> char {
    if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
        '\u{fffd}'
    } else {
        c
    }
}

/// The beginning of a text, of at most so many bytes, and no half of a character.
fn cut(text: &str, max_bytes: usize) -> &str {
    let mut end = text.len().min(max_bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A value as one text: strings as they are, anything else as JSON.
fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}
