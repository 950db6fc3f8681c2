//! Claude Code session transcripts (`projects/**/*.jsonl`) and its prompt history
//! (`history.jsonl`): one JSON object a line, format internal to the product and changing, so read
//! tolerantly. Record types as of versions 2.0 to 2.1; see `docs/formats/claude-code.md`.

use std::borrow::Cow;
use std::fmt;

use jurat_event::{Agent, Decoded, Event, Kind, Outcome, Severity, Traits, Usage};
use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::Hint;

const PRODUCT: &str = "claude-code";
/// The most blocks of one record that become leaves of their own; the payload holds all of them.
const BLOCKS_MAX: usize = 256;

/// Decodes one line, given without its line end.
pub fn decode(line: &[u8], hint: Hint<'_>) -> Decoded {
    let Ok(text) = std::str::from_utf8(line) else {
        return unreadable(line, hint, "not UTF-8");
    };
    match serde_json::from_str::<Line<'_>>(text) {
        Ok(parsed) => readable(line, hint, &parsed),
        // A field of an unexpected type, a field twice, or not JSON: keep what can be known.
        Err(_) => match serde_json::from_str::<Map<String, Value>>(text) {
            Ok(map) => loose(line, hint, &map),
            Err(_) => unreadable(line, hint, "not a JSON object"),
        },
    }
}

fn base(kind: Kind, line: &[u8], hint: Hint<'_>) -> Decoded {
    let mut record = Event::new(kind);
    record.agent = Some(Agent {
        product: PRODUCT.into(),
        ..Agent::default()
    });
    record.session = session_of_file(hint);
    record.context = Some(line.to_vec());
    Decoded {
        record,
        blocks: Vec::new(),
        identity: None,
        traits: Traits::default(),
        usage: None,
    }
}

/// A transcript is named after its session; `agent-<id>` and `history` are not sessions.
fn session_of_file(hint: Hint<'_>) -> Option<String> {
    let stem = hint.file_stem;
    (stem.len() == 36 && stem.bytes().filter(|byte| *byte == b'-').count() == 4)
        .then(|| stem.to_owned())
}

fn unreadable(line: &[u8], hint: Hint<'_>, why: &str) -> Decoded {
    let mut decoded = base(Kind::TranscriptUnreadable, line, hint);
    decoded.record.severity = Severity::Low;
    decoded.record.detail.insert("why".into(), why.into());
    decoded
}

fn loose(line: &[u8], hint: Hint<'_>, map: &Map<String, Value>) -> Decoded {
    let mut decoded = base(Kind::TranscriptRecord, line, hint);
    let text = |name: &str| map.get(name).and_then(Value::as_str).map(str::to_owned);
    decoded.traits.record_type = text("type");
    if let Some(session) = text("sessionId") {
        decoded.record.session = Some(session);
    }
    decoded.record.claimed_time = text("timestamp");
    label(
        &mut decoded.record,
        "type",
        decoded.traits.record_type.clone(),
    );
    decoded
        .record
        .detail
        .insert("why".into(), "fields of unexpected types".into());
    decoded.identity = identity(decoded.record.session.as_deref(), text("uuid").as_deref());
    decoded
}

fn identity(session: Option<&str>, uuid: Option<&str>) -> Option<String> {
    Some(format!("{}/{}", session?, uuid?))
}

fn label(event: &mut Event, name: &'static str, value: Option<impl Into<String>>) {
    if let Some(value) = value {
        event.labels.insert(name.into(), value.into());
    }
}

fn readable(line: &[u8], hint: Hint<'_>, parsed: &Line<'_>) -> Decoded {
    let record_type = parsed.kind.as_deref();
    if record_type.is_none() && parsed.display {
        return history(line, hint, parsed);
    }
    let content = parsed.message.as_ref().map(|message| &message.content);
    let mut decoded = base(kind_of(parsed, content), line, hint);
    let record = &mut decoded.record;
    if let Some(session) = &parsed.session_id {
        record.session = Some((**session).to_owned());
    }
    record.claimed_time = parsed.timestamp.as_deref().map(str::to_owned);
    if let Some(agent) = &mut record.agent {
        agent.version = parsed.version.as_deref().map(str::to_owned);
        agent.id = parsed.agent_id.as_deref().map(str::to_owned);
    }
    label(record, "type", record_type);
    label(record, "subtype", parsed.subtype.as_deref());
    label(record, "uuid", parsed.uuid.as_deref());
    label(record, "cwd", parsed.cwd.as_deref());
    label(
        record,
        "git_branch",
        parsed
            .git_branch
            .as_deref()
            .filter(|branch| !branch.is_empty()),
    );
    label(record, "entrypoint", parsed.entrypoint.as_deref());
    label(record, "permission_mode", parsed.permission_mode.as_deref());
    label(record, "operation", parsed.operation.as_deref());
    label(
        record,
        "part",
        parsed
            .data
            .as_ref()
            .or(parsed.attachment.as_ref())
            .and_then(|part| part.kind.as_deref()),
    );
    if parsed.is_sidechain {
        label(record, "sidechain", Some("true"));
    }
    if parsed.is_api_error {
        record.outcome = Some(Outcome::Failure);
        record.severity = Severity::Low;
    }
    if record.kind == Kind::PermissionMode
        && parsed.permission_mode.as_deref() == Some("bypassPermissions")
    {
        record.severity = Severity::Medium;
    }
    if let Some(message) = &parsed.message {
        label(record, "model", message.model.as_deref());
        label(record, "message_id", message.id.as_deref());
        label(record, "stop_reason", message.stop_reason.as_deref());
        let id = message.id.as_deref().or(parsed.request_id.as_deref());
        decoded.usage = id
            .zip(message.usage)
            .map(|(id, usage)| (id.to_owned(), usage.into()));
        let blocks = message.content.blocks();
        if blocks.len() > BLOCKS_MAX {
            decoded
                .record
                .detail
                .insert("blocks".into(), blocks.len().into());
        }
        for block in blocks.iter().take(BLOCKS_MAX) {
            decoded.blocks.extend(block_event(block, &decoded.record));
        }
    }
    decoded.identity = identity(decoded.record.session.as_deref(), parsed.uuid.as_deref());
    decoded.traits = Traits {
        record_type: record_type.map(str::to_owned),
        sidechain: parsed.is_sidechain,
        meta: parsed.is_meta,
        compact_summary: parsed.is_compact_summary,
    };
    decoded
}

fn kind_of(parsed: &Line<'_>, content: Option<&Content<'_>>) -> Kind {
    match (parsed.kind.as_deref(), parsed.subtype.as_deref()) {
        (Some("assistant"), _) if parsed.is_api_error => Kind::ModelFailed,
        (Some("assistant"), _) => Kind::ModelCompleted,
        (Some("user"), _) => {
            let has_result =
                content.is_some_and(|content| content.blocks().iter().any(Block::is_result));
            let is_prompt = !has_result
                && !parsed.is_meta
                && !parsed.is_compact_summary
                && !parsed.is_sidechain;
            if is_prompt {
                Kind::PromptSubmitted
            } else {
                Kind::TranscriptRecord
            }
        }
        (Some("system"), Some("compact_boundary" | "microcompact_boundary")) => {
            Kind::SessionCompacted
        }
        (Some("system"), Some("api_error")) => Kind::ModelFailed,
        (Some("progress"), _) => Kind::TranscriptProgress,
        (Some("attachment"), _) => Kind::ContextAttached,
        (Some("queue-operation"), _) => Kind::PromptQueued,
        (Some("file-history-snapshot" | "file-history-delta"), _) => Kind::FileSnapshot,
        (Some("permission-mode"), _) => Kind::PermissionMode,
        _ => Kind::TranscriptRecord,
    }
}

fn history(line: &[u8], hint: Hint<'_>, parsed: &Line<'_>) -> Decoded {
    let mut decoded = base(Kind::PromptHistory, line, hint);
    decoded.record.session = parsed.session_id.as_deref().map(str::to_owned);
    label(&mut decoded.record, "cwd", parsed.project.as_deref());
    decoded.traits.record_type = Some("history".into());
    decoded
}

fn block_event(block: &Block<'_>, record: &Event) -> Option<Event> {
    let mut event = match (block.kind.as_deref()?, block.name.as_deref()) {
        ("tool_use" | "server_tool_use", Some(name)) => {
            let mcp = name.strip_prefix("mcp__");
            let mut event = Event::new(if mcp.is_some() {
                Kind::McpCall
            } else {
                Kind::ToolCall
            });
            event.action = Some(name.to_owned());
            label(
                &mut event,
                "mcp_server",
                mcp.and_then(|rest| rest.split("__").next()),
            );
            label(&mut event, "tool_use_id", block.id.as_deref());
            event.object = block.input.and_then(object_of);
            event
        }
        ("tool_result", _) => {
            let mut event = Event::new(Kind::ToolResult);
            label(&mut event, "tool_use_id", block.tool_use_id.as_deref());
            event.outcome = Some(if block.is_error {
                Outcome::Failure
            } else {
                Outcome::Success
            });
            event
        }
        _ => return None,
    };
    event.agent.clone_from(&record.agent);
    event.session.clone_from(&record.session);
    event.claimed_time.clone_from(&record.claimed_time);
    label(&mut event, "cwd", record.labels.get("cwd").cloned());
    Some(event)
}

/// What a tool call is about: the first of these fields that its input has as a string.
fn object_of(input: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Input<'a> {
        #[serde(borrow, default)]
        command: Option<Text<'a>>,
        #[serde(borrow, default)]
        file_path: Option<Text<'a>>,
        #[serde(borrow, default)]
        notebook_path: Option<Text<'a>>,
        #[serde(borrow, default)]
        path: Option<Text<'a>>,
        #[serde(borrow, default)]
        url: Option<Text<'a>>,
        #[serde(borrow, default)]
        query: Option<Text<'a>>,
        #[serde(borrow, default)]
        pattern: Option<Text<'a>>,
        #[serde(borrow, default)]
        description: Option<Text<'a>>,
    }
    let input: Input<'_> = serde_json::from_str(input.get()).ok()?;
    let fields = [
        input.command,
        input.file_path,
        input.notebook_path,
        input.path,
        input.url,
        input.query,
        input.pattern,
        input.description,
    ];
    let found = fields.into_iter().flatten().next();
    found.map(|text| text.0.into_owned())
}

/// A string that borrows when it holds no escape; serde's own `Option<Cow<str>>` never does.
struct Text<'a>(Cow<'a, str>);

impl std::ops::Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
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

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Option<Text<'a>>,
    #[serde(borrow, default)]
    subtype: Option<Text<'a>>,
    #[serde(borrow, default)]
    uuid: Option<Text<'a>>,
    #[serde(borrow, default)]
    session_id: Option<Text<'a>>,
    /// A string in transcripts, milliseconds in the prompt history.
    #[serde(borrow, default)]
    timestamp: Stamp<'a>,
    #[serde(borrow, default)]
    cwd: Option<Text<'a>>,
    #[serde(borrow, default)]
    project: Option<Text<'a>>,
    #[serde(borrow, default)]
    version: Option<Text<'a>>,
    #[serde(borrow, default)]
    git_branch: Option<Text<'a>>,
    #[serde(borrow, default)]
    agent_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    entrypoint: Option<Text<'a>>,
    #[serde(borrow, default)]
    request_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    permission_mode: Option<Text<'a>>,
    #[serde(borrow, default)]
    operation: Option<Text<'a>>,
    #[serde(default)]
    is_sidechain: bool,
    #[serde(default)]
    is_meta: bool,
    #[serde(default)]
    is_compact_summary: bool,
    #[serde(rename = "isApiErrorMessage", default)]
    is_api_error: bool,
    #[serde(borrow, default)]
    message: Option<Message<'a>>,
    #[serde(borrow, default)]
    data: Option<Typed<'a>>,
    #[serde(borrow, default)]
    attachment: Option<Typed<'a>>,
    #[serde(default, deserialize_with = "present")]
    display: bool,
}

/// Whether a field is there, whatever it holds.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

#[derive(Default)]
struct Stamp<'a>(Option<Cow<'a, str>>);

impl Stamp<'_> {
    fn as_deref(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Stamp<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StampVisitor;
        impl<'de> Visitor<'de> for StampVisitor {
            type Value = Stamp<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Stamp<'de>, E> {
                Ok(Stamp(Some(Cow::Borrowed(text))))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Stamp<'de>, E> {
                Ok(Stamp(Some(Cow::Owned(text.to_owned()))))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Stamp<'de>, E> {
                Ok(Stamp(Some(Cow::Owned(number.to_string()))))
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Stamp<'de>, E> {
                Ok(Stamp(Some(Cow::Owned(number.to_string()))))
            }
            fn visit_unit<E: de::Error>(self) -> Result<Stamp<'de>, E> {
                Ok(Stamp(None))
            }
        }
        deserializer.deserialize_any(StampVisitor)
    }
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    id: Option<Text<'a>>,
    #[serde(borrow, default)]
    model: Option<Text<'a>>,
    #[serde(borrow, default)]
    stop_reason: Option<Text<'a>>,
    #[serde(default)]
    usage: Option<Tokens>,
    #[serde(borrow, default)]
    content: Content<'a>,
}

#[derive(Clone, Copy, Deserialize)]
struct Tokens {
    #[serde(default)]
    input_tokens: Option<u64>,
    #[serde(default)]
    output_tokens: Option<u64>,
    #[serde(default)]
    cache_creation_input_tokens: Option<u64>,
    #[serde(default)]
    cache_read_input_tokens: Option<u64>,
}

impl From<Tokens> for Usage {
    fn from(tokens: Tokens) -> Self {
        Self {
            input_tokens: tokens.input_tokens.unwrap_or(0),
            output_tokens: tokens.output_tokens.unwrap_or(0),
            cache_creation_input_tokens: tokens.cache_creation_input_tokens.unwrap_or(0),
            cache_read_input_tokens: tokens.cache_read_input_tokens.unwrap_or(0),
        }
    }
}

#[derive(Deserialize)]
struct Typed<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Option<Text<'a>>,
}

#[derive(Default)]
enum Content<'a> {
    #[default]
    Text,
    Blocks(Vec<Block<'a>>),
}

impl<'a> Content<'a> {
    fn blocks(&self) -> &[Block<'a>] {
        match self {
            Content::Text => &[],
            Content::Blocks(blocks) => blocks,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ContentVisitor;
        impl<'de> Visitor<'de> for ContentVisitor {
            type Value = Content<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of blocks")
            }
            fn visit_str<E>(self, _: &str) -> Result<Content<'de>, E> {
                Ok(Content::Text)
            }
            fn visit_unit<E>(self) -> Result<Content<'de>, E> {
                Ok(Content::Text)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Content<'de>, A::Error> {
                let mut blocks = Vec::new();
                while let Some(block) = seq.next_element::<Block<'de>>()? {
                    blocks.push(block);
                }
                Ok(Content::Blocks(blocks))
            }
        }
        deserializer.deserialize_any(ContentVisitor)
    }
}

#[derive(Deserialize)]
struct Block<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Option<Text<'a>>,
    #[serde(borrow, default)]
    id: Option<Text<'a>>,
    #[serde(borrow, default)]
    name: Option<Text<'a>>,
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_use_id: Option<Text<'a>>,
    #[serde(default, deserialize_with = "null_is_false")]
    is_error: bool,
}

fn null_is_false<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Option::<bool>::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl Block<'_> {
    fn is_result(&self) -> bool {
        self.kind.as_deref() == Some("tool_result")
    }
}
