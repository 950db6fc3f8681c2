//! Log Event Extended Format 2.0. It has no escape: the delimiter, a tab, and line ends become spaces in values.

use jurat_event::Severity;

use super::table::LEEF;
use super::{Item, Shed, in_a_line};

pub(super) fn write(item: &Item<'_>, shed: Shed, out: &mut Vec<u8>) {
    let kind = item.known_kind();
    let version = env!("CARGO_PKG_VERSION");
    let head = format!("LEEF:2.0|Jurat|Jurat|{version}|{}|x09|", kind.id());
    out.extend_from_slice(head.as_bytes());
    // From 1 to 10.
    let severity = match item.severity() {
        Severity::Info => 1,
        Severity::Low => 3,
        Severity::Medium => 5,
        Severity::High => 8,
        Severity::Critical => 10,
    };
    put("sev", &severity.to_string(), out);
    for field in LEEF {
        if let Some(value) = field.value(item, shed) {
            out.push(b'\t');
            put(field.key, &value, out);
        }
    }
    if let Some(name) = shed.name() {
        out.push(b'\t');
        put("shed", name, out);
    } else if let Some(payload) = item.payload {
        out.push(b'\t');
        put("fullContext", &String::from_utf8_lossy(payload), out);
    }
}

fn put(key: &str, value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(key.as_bytes());
    out.push(b'=');
    let mut buffer = [0; 4];
    for c in value.chars() {
        let c = match c {
            '\t' | '\n' | '\r' => ' ',
            c => in_a_line(c),
        };
        out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
    }
}
