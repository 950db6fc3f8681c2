//! The event and its fields.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Kind;

/// How much an event matters to a person who watches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The ordinary course of things.
    #[default]
    Info,
    /// Worth knowing.
    Low,
    /// Worth a look.
    Medium,
    /// Worth a look today.
    High,
    /// Worth waking somebody.
    Critical,
}

/// How an action ended, as far as the witness says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was done.
    Success,
    /// It was tried and failed.
    Failure,
    /// It was not allowed.
    Denied,
}

/// Which of the independent sources saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Witness {
    /// The agent's own session transcript.
    #[default]
    Transcript,
    /// A hook that the agent calls.
    Hook,
    /// The agent's telemetry.
    Telemetry,
    /// The kernel.
    Kernel,
    /// Jurat itself.
    Jurat,
}

/// The product that acted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Its name, for example `claude-code`.
    pub product: String,
    /// Its version, as it says itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Which of its sub-agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// The account and process that acted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The user's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The numeric user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
}

/// Where the bytes stood.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The name of the source in the configuration.
    pub name: String,
    /// The file.
    pub path: String,
    /// Where the record begins, in bytes from the start of the file.
    pub offset: u64,
    /// How long it is, in bytes, without its line end.
    pub len: u64,
}

/// What a model call cost, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens read.
    pub input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
    /// Tokens put into the prompt cache.
    pub cache_creation_input_tokens: u64,
    /// Tokens read from the prompt cache.
    pub cache_read_input_tokens: u64,
}

/// Something that happened, as its witness tells it. Not redacted, not sealed.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// What it is.
    pub kind: Kind,
    /// How much it matters.
    pub severity: Severity,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// Who saw it.
    pub witness: Witness,
    /// When, according to the record; a claim.
    pub claimed_time: Option<String>,
    /// The product.
    pub agent: Option<Agent>,
    /// The session.
    pub session: Option<String>,
    /// The account and process.
    pub actor: Option<Actor>,
    /// What was done: a tool, an operation.
    pub action: Option<String>,
    /// To what: a command, a path, an address.
    pub object: Option<String>,
    /// Where the bytes stood.
    pub source: Option<Source>,
    /// Searchable facts.
    pub labels: BTreeMap<Cow<'static, str>, String>,
    /// Facts that belong to this kind.
    pub detail: Map<String, Value>,
    /// The record itself (`full_context`), byte for byte.
    pub context: Option<Vec<u8>>,
}

impl Event {
    /// An event of this kind; everything else is absent.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            severity: Severity::Info,
            outcome: None,
            witness: Witness::Transcript,
            claimed_time: None,
            agent: None,
            session: None,
            actor: None,
            action: None,
            object: None,
            source: None,
            labels: BTreeMap::new(),
            detail: Map::new(),
            context: None,
        }
    }

    /// An event that Jurat itself is the witness of.
    pub fn own(kind: Kind) -> Self {
        Self {
            witness: Witness::Jurat,
            ..Self::new(kind)
        }
    }

    /// Sets the severity.
    #[must_use]
    pub fn severity(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }

    /// Adds a fact of this kind.
    #[must_use]
    pub fn detail(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.detail.insert(name.to_owned(), value.into());
        self
    }
}

/// A decoded record: one event that owns the bytes, and one event for each of its blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The record; its `context` holds the bytes.
    pub record: Event,
    /// Its blocks (`tool_use`, `tool_result`, ...); each becomes a leaf with `of`.
    pub blocks: Vec<Event>,
    /// What makes the record the same record elsewhere, for durable de-duplication.
    pub identity: Option<String>,
    /// What the operator's filters can ask about.
    pub traits: Traits,
    /// What the record says a model call cost, with the call's id: several records repeat it.
    pub usage: Option<(String, Usage)>,
}

/// What the operator's filters can ask about a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traits {
    /// The record's `type`, where it has one.
    pub record_type: Option<String>,
    /// Written by a sub-agent.
    pub sidechain: bool,
    /// Marked as meta by the agent.
    pub meta: bool,
    /// The summary that replaces a compacted context.
    pub compact_summary: bool,
}
