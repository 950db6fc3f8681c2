//! Common Event Format. `CEF:0`, for there are parsers that know no other. The header is made of our own words only: what
//! parsers make of an escape in it differs. A key without a value is left out, for the same reason.

use jurat_event::Severity;

use super::table::CEF;
use super::{Item, Shed, in_a_line};

/// What the payload stands under: last, for it is long.
const FULL_CONTEXT: &str = "JuratFullContext";

pub(super) fn write(item: &Item<'_>, shed: Shed, out: &mut Vec<u8>) {
    let kind = item.known_kind();
    let name = kind.name().replace('.', " ");
    let severity = match item.severity() {
        Severity::Info => 1,
        Severity::Low => 3,
        Severity::Medium => 5,
        Severity::High => 8,
        Severity::Critical => 10,
    };
    let version = env!("CARGO_PKG_VERSION");
    let head = format!(
        "CEF:0|Jurat|Jurat|{version}|{}|{name}|{severity}|",
        kind.id()
    );
    out.extend_from_slice(head.as_bytes());
    let mut first = true;
    let mut put = |key: &str, value: &str, out: &mut Vec<u8>| {
        if !std::mem::take(&mut first) {
            out.push(b' ');
        }
        out.extend_from_slice(key.as_bytes());
        out.push(b'=');
        escape(value, out);
    };
    for field in CEF {
        let Some(value) = field.value(item, shed) else {
            continue;
        };
        put(field.key, &value, out);
        if let Some(label) = field.label {
            put(&format!("{}Label", field.key), label, out);
        }
    }
    if let Some(name) = shed.name() {
        put("JuratShed", name, out);
    } else if let Some(payload) = item.payload {
        put(FULL_CONTEXT, &String::from_utf8_lossy(payload), out);
    }
}

/// A value of the extension: `\`, `=` and line ends are escaped, pipes are not.
fn escape(value: &str, out: &mut Vec<u8>) {
    let mut buffer = [0; 4];
    for c in value.chars() {
        match c {
            '\\' => out.extend_from_slice(b"\\\\"),
            '=' => out.extend_from_slice(b"\\="),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.push(b' '),
            c => out.extend_from_slice(in_a_line(c).encode_utf8(&mut buffer).as_bytes()),
        }
    }
}
