//! The header of RFC 5424, and its structured data.

use std::str::FromStr;

use jurat_event::Severity;

use super::table::STRUCTURED;
use super::{Item, in_a_line};

/// A facility (RFC 5424, 6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facility(u8);

/// By number.
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv",
    "ftp", "ntp", "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4",
    "local5", "local6", "local7",
];

impl Default for Facility {
    /// `local0`.
    fn default() -> Self {
        Self(16)
    }
}

impl FromStr for Facility {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = FACILITIES.iter().position(|name| *name == text);
        let number = number.or_else(|| {
            text.parse()
                .ok()
                .filter(|number| *number < FACILITIES.len())
        });
        let known = || format!("{text} is no facility; there is: {}", FACILITIES.join(", "));
        number.map(|number| Self(number as u8)).ok_or_else(known)
    }
}

/// The structured data of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StructuredData {
    /// The enterprise's number after `jurat@` (IANA Private Enterprise Numbers); `None`: no structured data.
    pub enterprise: Option<u32>,
}

/// What stands before each message.
#[derive(Clone, Debug)]
pub struct Header {
    /// The facility.
    pub facility: Facility,
    /// The name of this host: at most 255 characters of printable ASCII.
    pub hostname: String,
    /// The application's name: at most 48 characters.
    pub app_name: String,
    /// What proves the line, for those who read no more of it.
    pub structured: StructuredData,
}

impl Header {
    /// Writes the header of this item, up to where the message begins.
    pub fn write(&self, item: &Item<'_>, out: &mut Vec<u8>) {
        let severity = match item.severity() {
            Severity::Info => 6,
            Severity::Low => 5,
            Severity::Medium => 4,
            Severity::High => 3,
            Severity::Critical => 2,
        };
        let priority = u16::from(self.facility.0) * 8 + severity;
        let time = jiff::Timestamp::from_millisecond(item.time_ms()).unwrap_or_default();
        let [host, app] =
            [(&self.hostname, 255), (&self.app_name, 48)].map(|(name, max)| printable(name, max));
        // The kind, as a reader filters by it: at most 32 characters.
        let id = printable(item.kind(), 32);
        let pid = item.find("actor.pid").and_then(serde_json::Value::as_u64);
        let pid = pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let head = format!("<{priority}>1 {time:.3} {host} {app} {pid} {id} ");
        out.extend_from_slice(head.as_bytes());
        match self.structured.enterprise {
            None => out.push(b'-'),
            Some(number) => {
                out.extend_from_slice(format!("[jurat@{number}").as_bytes());
                for field in STRUCTURED {
                    let Some(value) = field.value(item, super::Shed::Nothing) else {
                        continue;
                    };
                    out.extend_from_slice(format!(" {}=\"", field.key).as_bytes());
                    for c in value.chars() {
                        if matches!(c, '"' | '\\' | ']') {
                            out.push(b'\\');
                        }
                        out.extend_from_slice(in_a_line(c).encode_utf8(&mut [0; 4]).as_bytes());
                    }
                    out.push(b'"');
                }
                out.push(b']');
            }
        }
        out.push(b' ');
    }
}

/// Printable ASCII without spaces, or `-` where nothing of it is.
fn printable(text: &str, max: usize) -> String {
    let kept: String = text
        .chars()
        .filter(char::is_ascii_graphic)
        .take(max)
        .collect();
    if kept.is_empty() { "-".into() } else { kept }
}
