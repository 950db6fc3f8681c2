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

use crate::sessions::Place;

/// What the sealer adds to an event.
pub(crate) struct Evidence<'a> {
    pub(crate) salt: &'a str,
    pub(crate) seq: u64,
    pub(crate) boot: &'a str,
    pub(crate) time: &'a str,
    pub(crate) mono_us: u64,
    /// As [`jurat_proof::session_name`] gives it.
    pub(crate) session: Option<&'a str>,
    pub(crate) place: Option<Place>,
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
    claimed_time: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<&'a Agent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_run: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<&'a Actor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<&'a str>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<&'a Labels>,
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
    let shortened;
    let event = if is_short(event) {
        event
    } else {
        shortened = shorten(event, &mut cut);
        &shortened
    };
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
        claimed_time: event.claimed_time.as_deref(),
        agent: event.agent.as_ref(),
        session: evidence.session,
        session_seq: evidence.place.map(|place| place.number),
        session_run: evidence.place.and_then(|place| place.run),
        of: evidence.of,
        actor: event.actor.as_ref(),
        action: event.action.as_deref(),
        object: event.object.as_deref(),
        source: event.source.as_ref(),
        custody: evidence.custody,
        withheld: evidence.withheld,
        raw: evidence.raw,
        context: evidence.context,
        labels: (!event.labels.is_empty()).then_some(&event.labels),
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
        let bytes = serde_json::to_vec(&header.labels.take()).unwrap_or_default();
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

fn note_cut(name: &str, bytes: &[u8], cut: &mut BTreeMap<String, Cut>) {
    cut.insert(
        name.to_owned(),
        Cut {
            len: bytes.len() as u64,
            sha256: sha256(&[bytes]),
        },
    );
}

type Labels = BTreeMap<Cow<'static, str>, String>;

const LABEL_NAME_MAX: usize = 64;

/// The texts of an event that a foreign source may have written, with their names.
fn texts(event: &mut Event) -> impl Iterator<Item = (&'static str, &mut String)> {
    let agent = event.agent.as_mut().map(|agent| {
        [
            ("agent.product", Some(&mut agent.product)),
            ("agent.version", agent.version.as_mut()),
            ("agent.id", agent.id.as_mut()),
        ]
    });
    let own = [
        (
            "source.path",
            event.source.as_mut().map(|source| &mut source.path),
        ),
        ("claimed_time", event.claimed_time.as_mut()),
        ("action", event.action.as_mut()),
        ("object", event.object.as_mut()),
    ];
    let all = agent.into_iter().flatten().chain(own);
    all.filter_map(|(name, text)| Some((name, text?)))
}

/// Whether nothing of an event must be cut; most need nothing.
fn is_short(event: &Event) -> bool {
    let short = |text: &str| text.len() <= FIELD_BYTES_MAX;
    let maybe = |text: &Option<String>| text.as_deref().is_none_or(short);
    maybe(&event.claimed_time)
        && maybe(&event.action)
        && maybe(&event.object)
        && event
            .source
            .as_ref()
            .is_none_or(|source| short(&source.path))
        && event
            .agent
            .as_ref()
            .is_none_or(|agent| short(&agent.product) && maybe(&agent.version) && maybe(&agent.id))
        && event.labels.len() <= LABELS_MAX
        && event
            .labels
            .iter()
            .all(|(name, text)| name.len() <= LABEL_NAME_MAX && short(text))
}

/// The event with texts of at most [`FIELD_BYTES_MAX`] bytes; what was cut leaves its length and digest.
fn shorten(event: &Event, cut: &mut BTreeMap<String, Cut>) -> Event {
    let mut event = event.clone();
    for (name, text) in texts(&mut event) {
        shorten_text(name, text, cut);
    }
    let labels = std::mem::take(&mut event.labels);
    for (index, (name, mut text)) in labels.into_iter().enumerate() {
        if index >= LABELS_MAX || name.len() > LABEL_NAME_MAX {
            note_cut("labels", format!("{name}={text}").as_bytes(), cut);
            continue;
        }
        shorten_text(&format!("labels.{name}"), &mut text, cut);
        event.labels.insert(name, text);
    }
    event
}

fn shorten_text(name: &str, text: &mut String, cut: &mut BTreeMap<String, Cut>) {
    if text.len() > FIELD_BYTES_MAX {
        note_cut(name, text.as_bytes(), cut);
        let end = text.floor_char_boundary(FIELD_BYTES_MAX);
        text.truncate(end);
    }
}
