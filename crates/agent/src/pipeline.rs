//! From an item of a source to leaves: decode, recognise, filter, redact, seal.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Instant;

use jurat_dialect::{Hint, claude_code};
use jurat_event::{Actor, Decoded, ENTRY_BYTES_MAX, Event, Kind, Severity, Source};
use jurat_redact::{GROWTH_BYTES_MAX, Redactor, Stream};
use jurat_seal::{SealError, Sealer};
use jurat_source::{Item, Lost};
use serde::Serialize;

use crate::config::Filter;
use crate::marks::Marks;

/// Numbers since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Counters {
    /// Lines read.
    pub(crate) lines_in: u64,
    /// Bytes read.
    pub(crate) bytes_in: u64,
    /// Records sealed.
    pub(crate) records_sealed: u64,
    /// Records filtered, by reason.
    pub(crate) records_filtered: BTreeMap<String, u64>,
    /// Leaves made of records and their blocks.
    pub(crate) events: u64,
    /// Values redacted.
    pub(crate) redactions: u64,
    /// Records whose content was withheld.
    pub(crate) withheld: u64,
    /// Transcripts cut, rewritten or deleted.
    pub(crate) lost: u64,
}

/// The most over-long lines that are followed at a time, one in each file; of one more, the rest of another
/// is withheld.
const STREAMS_MAX: usize = 256;

/// The most bytes that one record and its blocks may take in a batch, entries included.
pub(crate) const RECORD_BYTES_MAX: usize = 5 * 1024 * 1024 + 512 * 1024;

/// Makes leaves of items.
pub(crate) struct Pipeline {
    pub(crate) redactor: Redactor,
    pub(crate) filter: Filter,
    pub(crate) marks: Marks,
    pub(crate) counters: Counters,
    actor: Actor,
    /// Lines so long that they come in pieces, by their file.
    streams: HashMap<PathBuf, Stream>,
    /// Something severe was pushed.
    pub(crate) urgent: bool,
    /// When each open session was last heard of.
    pub(crate) sessions: HashMap<String, Instant>,
}

impl Pipeline {
    pub(crate) fn new(redactor: Redactor, filter: Filter, marks: Marks) -> Self {
        let uid = jurat_disk::user_id();
        let actor = Actor {
            user: jurat_disk::user_name(uid),
            uid: Some(uid),
            ..Actor::default()
        };
        Self {
            redactor,
            filter,
            marks,
            counters: Counters::default(),
            actor,
            streams: HashMap::new(),
            urgent: false,
            sessions: HashMap::new(),
        }
    }

    /// Seals an item, or counts it as filtered.
    pub(crate) fn take(&mut self, sealer: &mut Sealer, item: &Item<'_>) -> Result<(), SealError> {
        match item {
            Item::Line {
                source,
                path,
                offset,
                bytes,
                unterminated,
            } => {
                self.counters.lines_in += 1;
                self.counters.bytes_in += bytes.len() as u64;
                let mut decoded = claude_code::decode(bytes, hint(path));
                decoded.record.source = Some(place(source, path, *offset, bytes.len()));
                if *unterminated {
                    decoded
                        .record
                        .labels
                        .insert("unterminated".into(), "true".into());
                }
                self.record(sealer, decoded)
            }
            Item::Piece {
                source,
                path,
                offset,
                bytes,
                first,
                more,
            } => {
                if !more {
                    self.counters.lines_in += 1;
                    self.counters.records_sealed += 1;
                }
                self.counters.bytes_in += bytes.len() as u64;
                let mut event = Event::new(Kind::TranscriptPart).detail("more", *more);
                event.source = Some(place(source, path, *offset, bytes.len()));
                event.context = Some(bytes.to_vec());
                let mut stream = match self.streams.remove(*path) {
                    Some(stream) if !first => stream,
                    _ if *first => Stream::new(),
                    // What encloses these bytes was seen by a process before this one.
                    _ => Stream::resumed(),
                };
                let redacted = self.redactor.piece(&mut stream, event, !more);
                if *more {
                    if self.streams.len() >= STREAMS_MAX
                        && let Some(other) = self.streams.keys().next().cloned()
                    {
                        self.streams.remove(&other);
                    }
                    self.streams.insert(path.to_path_buf(), stream);
                }
                self.counters.redactions += redacted.redactions();
                self.counters.withheld += u64::from(redacted.is_withheld());
                self.counters.events += 1;
                sealer.push(redacted, None).map(drop)
            }
            Item::Lost {
                source,
                path,
                what,
                read,
                len,
                lines,
            } => {
                let kind = match what {
                    Lost::Truncated => Kind::TranscriptTruncated,
                    Lost::Rewritten => Kind::TranscriptRewritten,
                    Lost::Deleted => Kind::TranscriptDeleted,
                };
                let severity = if *what == Lost::Deleted {
                    Severity::Medium
                } else {
                    Severity::High
                };
                let mut event = Event::own(kind)
                    .severity(severity)
                    .detail("read_bytes", *read)
                    .detail("read_lines", *lines)
                    .detail("len", *len);
                event.source = Some(place(source, path, 0, 0));
                self.counters.lost += 1;
                self.streams.remove(*path);
                self.urgent |= severity >= Severity::High;
                self.own(sealer, event)
            }
            Item::Failed {
                source,
                path,
                doing,
                error,
                offset,
            } => {
                tracing::warn!(path = %path.display(), doing, error, "cannot be read");
                let mut event = Event::own(Kind::SourceFailed)
                    .severity(Severity::Medium)
                    .detail("doing", *doing)
                    .detail("error", *error)
                    .detail("read_bytes", *offset);
                event.source = Some(place(source, path, *offset, 0));
                self.own(sealer, event)
            }
            Item::Recovered {
                source,
                path,
                doing,
                offset,
            } => {
                let mut event = Event::own(Kind::SourceRecovered)
                    .detail("doing", *doing)
                    .detail("read_bytes", *offset);
                event.source = Some(place(source, path, *offset, 0));
                self.own(sealer, event)
            }
        }
    }

    /// Seals an event of our own; its path may hold a secret.
    fn own(&mut self, sealer: &mut Sealer, event: Event) -> Result<(), SealError> {
        self.counters.events += 1;
        let redacted = self.redactor.redact(event);
        sealer.push(redacted, None).map(drop)
    }

    fn record(&mut self, sealer: &mut Sealer, mut decoded: Decoded) -> Result<(), SealError> {
        if let Some(reason) = self.filtered(&decoded) {
            sealer.count_filtered(&reason);
            *self.counters.records_filtered.entry(reason).or_default() += 1;
            return Ok(());
        }
        if let Some((id, usage)) = &decoded.usage
            && self.marks.add("usage", id)
            && let Ok(usage) = serde_json::to_value(usage)
        {
            // Several records repeat what one call cost; it is counted with the first.
            decoded.record.detail.insert("usage".into(), usage);
        }
        if let Some(session) = decoded.record.session.clone() {
            if !sealer.knows_session(&session) {
                let mut event = Event::own(Kind::SessionStarted);
                event.agent.clone_from(&decoded.record.agent);
                event.session = Some(session.clone());
                event.actor = Some(self.actor.clone());
                if let Some(cwd) = decoded.record.labels.get("cwd") {
                    event.labels.insert("cwd".into(), cwd.clone());
                }
                let redacted = self.redactor.redact(event);
                sealer.push(redacted, None)?;
            }
            self.sessions.insert(session, Instant::now());
        }
        decoded.record.actor = Some(self.actor.clone());
        let len = decoded.record.context.as_ref().map_or(0, Vec::len);
        let room = RECORD_BYTES_MAX.saturating_sub(len + GROWTH_BYTES_MAX) / ENTRY_BYTES_MAX;
        if decoded.blocks.len() > room {
            // All of them stand in the payload.
            let blocks = decoded.blocks.len();
            decoded.record.detail.insert("blocks".into(), blocks.into());
            decoded.blocks.truncate(room);
        }
        if self.filter.strip_tool_calls && !decoded.blocks.is_empty() {
            decoded.blocks.clear();
            decoded.record.context = None;
            decoded
                .record
                .detail
                .insert("stripped".into(), "tool calls".into());
        }
        let redacted = self.redactor.redact(decoded.record);
        self.counters.redactions += redacted.redactions();
        self.counters.withheld += u64::from(redacted.is_withheld());
        let seq = sealer.push(redacted, None)?;
        self.counters.records_sealed += 1;
        self.counters.events += 1 + decoded.blocks.len() as u64;
        for mut block in decoded.blocks {
            block.actor = Some(self.actor.clone());
            let redacted = self.redactor.redact(block);
            sealer.push(redacted, Some(seq))?;
        }
        Ok(())
    }

    /// Why a record is left out; `None` when it is sealed.
    pub(crate) fn filtered(&mut self, decoded: &Decoded) -> Option<String> {
        let traits = &decoded.traits;
        if let Some(name) = &traits.record_type
            && self.filter.ignore_types.contains(name)
        {
            return Some(format!("type:{name}"));
        }
        if self.filter.drop_sidechain && traits.sidechain {
            return Some("sidechain".into());
        }
        if self.filter.drop_meta && traits.meta {
            return Some("meta".into());
        }
        if self.filter.skip_compact_summaries && traits.compact_summary {
            return Some("compact_summary".into());
        }
        match &decoded.identity {
            Some(identity) if !self.marks.add("record", identity) => Some("duplicate".into()),
            _ => None,
        }
    }
}

fn hint(path: &Path) -> Hint<'_> {
    Hint {
        file_stem: path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or_default(),
    }
}

fn place(source: &str, path: &Path, offset: u64, len: usize) -> Source {
    Source {
        name: source.to_owned(),
        path: path.to_string_lossy().into_owned(),
        offset,
        len: len as u64,
    }
}
