//! `run --test`: what would be sealed and shipped. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use jurat_dialect::{Hint, claude_code};
use jurat_disk::Host;
use jurat_event::Kind;
use jurat_redact::{Mode, Redactor};
use jurat_source::{Item, Root, Tail};
use serde::Serialize;

use crate::agent::AgentError;
use crate::config::{Config, RedactMode};
use crate::marks::Marks;
use crate::pipeline::Pipeline;

/// What a run would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DryRun {
    /// The folders that are read.
    pub roots: Vec<String>,
    /// Files found.
    pub files: u64,
    /// Lines in them.
    pub lines_in: u64,
    /// Bytes in them.
    pub bytes_in: u64,
    /// Records that would be sealed.
    pub records_sealed: u64,
    /// Records that would be filtered, by reason.
    pub records_filtered: BTreeMap<String, u64>,
    /// Leaves by kind.
    pub events: BTreeMap<String, u64>,
    /// Sessions.
    pub sessions: u64,
    /// Values that would be redacted, by kind.
    pub redactions: BTreeMap<String, u64>,
    /// Bytes of payload that would be shipped to each sink.
    pub bytes_out: u64,
    /// Leaves and payload bytes by the day that the records claim.
    pub days: BTreeMap<String, (u64, u64)>,
    /// Files and folders that cannot be read.
    pub unreadable: Vec<String>,
}

/// Reads everything and says what would be done with it.
///
/// # Errors
/// [`AgentError`] when the configuration cannot be used.
pub fn dry_run(
    _host: &Host,
    config: &Config,
    progress: &mut dyn FnMut(u64),
) -> Result<DryRun, AgentError> {
    let roots: Vec<Root> = config
        .sources()
        .iter()
        .map(|source| Root::new(&source.name, &source.dir, &source.patterns))
        .collect::<Result<_, _>>()?;
    let mode = if config.redact.mode == RedactMode::Custody {
        Mode::Custody
    } else {
        Mode::Redact
    };
    let redactor = Redactor::new(mode, &[0; 32], &config.redact.personal)?;
    let mut pipeline = Pipeline::new(redactor, config.filter.clone(), Marks::new([0; 32]));
    let mut out = DryRun {
        roots: roots
            .iter()
            .map(|root| root.dir.to_string_lossy().into_owned())
            .collect(),
        ..DryRun::default()
    };
    let mut sessions = BTreeSet::new();
    let mut tail = Tail::new(roots, BTreeMap::new());
    tail.scan();
    loop {
        let more = tail.read(1024 * 1024, &mut |item| {
            let (bytes, path) = match &item {
                Item::Line { bytes, path, .. } => (bytes, path),
                // Sealed in pieces; secrets in them are not counted here.
                Item::Piece { bytes, more, .. } => {
                    out.lines_in += u64::from(!more);
                    out.records_sealed += u64::from(!more);
                    out.bytes_in += bytes.len() as u64;
                    out.bytes_out += bytes.len() as u64;
                    let kind = Kind::TranscriptPart.name().to_owned();
                    *out.events.entry(kind).or_default() += 1;
                    return;
                }
                _ => return,
            };
            out.lines_in += 1;
            out.bytes_in += bytes.len() as u64;
            let stem = path
                .file_stem()
                .and_then(|stem| stem.to_str())
                .unwrap_or_default();
            let decoded = claude_code::decode(bytes, Hint { file_stem: stem });
            if let Some(reason) = pipeline.filtered(&decoded) {
                *out.records_filtered.entry(reason).or_default() += 1;
                return;
            }
            out.records_sealed += 1;
            sessions.extend(decoded.record.session.clone());
            let day = decoded
                .record
                .claimed_time
                .as_deref()
                .and_then(|time| time.get(..10))
                .unwrap_or("undated");
            let day = out.days.entry(day.to_owned()).or_default();
            for event in decoded.blocks.iter().chain([&decoded.record]) {
                *out.events.entry(event.kind.name().to_owned()).or_default() += 1;
                day.0 += 1;
            }
            let redacted = pipeline.redactor.redact(decoded.record);
            let len = redacted.payload().map_or(0, <[u8]>::len) as u64;
            out.bytes_out += len;
            day.1 += len;
        });
        progress(out.bytes_in);
        if !more {
            break;
        }
    }
    out.files = tail.len() as u64;
    out.sessions = sessions.len() as u64;
    out.redactions.clone_from(pipeline.redactor.counts());
    out.unreadable = tail.failing(usize::MAX).1;
    Ok(out)
}

/// The files that a source has now.
///
/// # Errors
/// [`AgentError`] when a pattern is not one.
pub fn root_files(source: &crate::SourceConfig) -> Result<Vec<std::path::PathBuf>, AgentError> {
    Ok(Root::new(&source.name, &source.dir, &source.patterns)?
        .files()
        .files)
}
