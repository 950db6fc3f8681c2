//! Writing an entry (`docs/formats/entry.md`).

use std::borrow::Cow;
use std::collections::BTreeMap;

use jurat_event::{
    Actor, Agent, ENTRY_BYTES_MAX, ENTRY_VERSION, Event, FIELD_BYTES_MAX, Kind, LABELS_MAX,
    Outcome, Severity, Source, Witness,
};
use jurat_proof::{Context, Digest, sha256};
use serde::Serialize;
use serde_json::{Map, Value};

/// What the sealer adds to an event.
pub(crate) struct Evidence<'a> {
    pub(crate) salt: &'a str,
    pub(crate) seq: u64,
    pub(crate) boot: &'a str,
    pub(crate) time: &'a str,
    pub(crate) mono_us: u64,
    /// As [`session_name`] gives it.
    pub(crate) session: Option<&'a str>,
    pub(crate) session_seq: Option<u64>,
    pub(crate) of: Option<u64>,
    pub(crate) custody: bool,
    pub(crate) withheld: bool,
    pub(crate) raw: Option<Raw>,
    pub(crate) context: Option<Context>,
}

#[derive(Serialize)]
pub(crate) struct Raw {
    pub(crate) sha256: Digest,
    pub(crate) len: u64,
}

#[derive(Serialize)]
struct Cut {
    len: u64,
    sha256: Digest,
}

#[derive(Serialize)]
struct Header<'a> {
    v: u8,
    salt: &'a str,
    seq: u64,
    boot: &'a str,
    time: &'a str,
    mono_us: u64,
    kind: Kind,
    kind_id: u32,
    severity: Severity,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Outcome>,
    witness: Witness,
    #[serde(skip_serializing_if = "Option::is_none")]
    claimed_time: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<&'a Agent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<&'a Actor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a Source>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    custody: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    withheld: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw: Option<Raw>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<&'a str, Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a Map<String, Value>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    cut: BTreeMap<String, Cut>,
}

/// Appends the entry of an event: one compact JSON line of at most [`ENTRY_BYTES_MAX`].
///
/// Sealed is for good: what is written here is what every reader accepts. Texts are escaped, maps have no
/// key twice, names are ours, and what is nested deeper or wider than a reader allows is cut.
pub(crate) fn write(event: &Event, evidence: Evidence<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    let mut cut = BTreeMap::new();
    let mut labels = BTreeMap::new();
    for (index, (name, value)) in event.labels.iter().enumerate() {
        if index >= LABELS_MAX || name.len() > 64 {
            note_cut("labels", format!("{name}={value}").as_bytes(), &mut cut);
            continue;
        }
        labels.insert(
            name.as_str(),
            shorten(&format!("labels.{name}"), value, &mut cut),
        );
    }
    let source = event.source.clone().map(|mut source| {
        source.path = shorten("source.path", &source.path, &mut cut).into_owned();
        source
    });
    let agent = event.agent.clone().map(|mut agent| {
        agent.product = shorten("agent.product", &agent.product, &mut cut).into_owned();
        agent.version = agent
            .version
            .map(|text| shorten("agent.version", &text, &mut cut).into_owned());
        agent.id = agent
            .id
            .map(|text| shorten("agent.id", &text, &mut cut).into_owned());
        agent
    });
    let mut header = Header {
        v: ENTRY_VERSION,
        salt: evidence.salt,
        seq: evidence.seq,
        boot: evidence.boot,
        time: evidence.time,
        mono_us: evidence.mono_us,
        kind: event.kind,
        kind_id: event.kind.id(),
        severity: event.severity,
        outcome: event.outcome,
        witness: event.witness,
        claimed_time: event
            .claimed_time
            .as_deref()
            .map(|text| shorten("claimed_time", text, &mut cut)),
        agent: agent.as_ref(),
        session: evidence.session,
        session_seq: evidence.session_seq,
        of: evidence.of,
        actor: event.actor.as_ref(),
        action: event
            .action
            .as_deref()
            .map(|text| shorten("action", text, &mut cut)),
        object: event
            .object
            .as_deref()
            .map(|text| shorten("object", text, &mut cut)),
        source: source.as_ref(),
        custody: evidence.custody,
        withheld: evidence.withheld,
        raw: evidence.raw,
        context: evidence.context,
        labels,
        detail: (!event.detail.is_empty()).then_some(&event.detail),
        cut,
    };
    if !fits(&event.detail, NESTED_MAX) {
        header.detail = None;
        let bytes = serde_json::to_vec(&event.detail).unwrap_or_default();
        note_cut("detail", &bytes, &mut header.cut);
    }
    // Writing to memory does not fail, and every type here can be written.
    let _ = serde_json::to_writer(&mut *out, &header);
    // Escapes can make text six times longer. Then the free-form parts go, largest first.
    if out.len() - start > ENTRY_BYTES_MAX
        && let Some(detail) = header.detail.take()
    {
        let bytes = serde_json::to_vec(detail).unwrap_or_default();
        note_cut("detail", &bytes, &mut header.cut);
        out.truncate(start);
        let _ = serde_json::to_writer(&mut *out, &header);
    }
    if out.len() - start > ENTRY_BYTES_MAX {
        let bytes = serde_json::to_vec(&header.labels).unwrap_or_default();
        header.labels.clear();
        header.cut.retain(|name, _| !name.starts_with("labels."));
        note_cut("labels", &bytes, &mut header.cut);
        out.truncate(start);
        let _ = serde_json::to_writer(&mut *out, &header);
    }
    if out.len() - start > ENTRY_BYTES_MAX {
        let fields = [
            ("object", &mut header.object),
            ("action", &mut header.action),
            ("claimed_time", &mut header.claimed_time),
        ];
        for (name, field) in fields {
            if let Some(text) = field.take() {
                note_cut(name, text.as_bytes(), &mut header.cut);
            }
        }
        // What is left is of our own making and small: numbers, digests, names of fields.
        header.source = None;
        header.agent = None;
        header.actor = None;
        out.truncate(start);
        let _ = serde_json::to_writer(&mut *out, &header);
    }
}

/// How deep the facts of an event may be nested, and how many fields one object may have.
const NESTED_MAX: usize = 16;
const FIELDS_MAX: usize = 128;

fn fits(map: &Map<String, Value>, depth: usize) -> bool {
    map.len() <= FIELDS_MAX && map.values().all(|value| value_fits(value, depth))
}

fn value_fits(value: &Value, depth: usize) -> bool {
    match value {
        Value::Object(map) => depth > 0 && fits(map, depth - 1),
        Value::Array(values) => {
            depth > 0 && values.iter().all(|value| value_fits(value, depth - 1))
        }
        _ => true,
    }
}

/// The longest session name that stands as it is.
const SESSION_BYTES_MAX: usize = 128;

/// The session as it stands in entries and everywhere else: it joins events, so it is kept whole or
/// replaced by its digest, never cut.
pub(crate) fn session_name(session: &str) -> Cow<'_, str> {
    if session.len() <= SESSION_BYTES_MAX && !session.chars().any(char::is_control) {
        return Cow::Borrowed(session);
    }
    Cow::Owned(format!("sha256:{}", sha256(&[session.as_bytes()])))
}

fn note_cut(name: &str, bytes: &[u8], cut: &mut BTreeMap<String, Cut>) {
    cut.insert(
        name.to_owned(),
        Cut {
            len: bytes.len() as u64,
            sha256: sha256(&[bytes]),
        },
    );
}

/// A text of at most [`FIELD_BYTES_MAX`] bytes; what was cut leaves its length and digest.
fn shorten<'a>(name: &str, text: &'a str, cut: &mut BTreeMap<String, Cut>) -> Cow<'a, str> {
    if text.len() <= FIELD_BYTES_MAX {
        return Cow::Borrowed(text);
    }
    note_cut(name, text.as_bytes(), cut);
    let end = (0..=FIELD_BYTES_MAX)
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0);
    Cow::Borrowed(&text[..end])
}
