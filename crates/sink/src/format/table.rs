//! Which field of an entry goes where. A format's own names, their limits, and where the value is found: data, so that a
//! change of a mapping is a change of a line here.

use jurat_proof::Digest;

use super::{Item, Shed, as_text};

/// Fields that are never shed from a JSON line.
pub(super) const KEPT: &[&str] = &[
    "v",
    "salt",
    "seq",
    "boot",
    "time",
    "kind",
    "kind_id",
    "severity",
    "session",
    "session_seq",
    "context",
];

/// Where a value is found.
pub(super) enum From {
    /// A field of the entry, by the names that lead to it.
    Entry(&'static str),
    /// That field, of kinds that begin so.
    Of(&'static str, &'static str),
    /// When it was sealed, in milliseconds since 1970.
    TimeMs,
    /// The device's id.
    Device,
    /// What proves the line.
    Proof(&'static str),
}

/// A field of a format.
pub(super) struct Field {
    /// Its name there.
    pub(super) key: &'static str,
    /// What is in it, where the name does not say so.
    pub(super) label: Option<&'static str>,
    pub(super) from: From,
    /// The most characters that the format allows.
    pub(super) max: usize,
    /// Whether it is never shed.
    pub(super) kept: bool,
}

const fn field(key: &'static str, from: From, max: usize) -> Field {
    Field {
        key,
        label: None,
        from,
        max,
        kept: false,
    }
}

const fn labelled(key: &'static str, label: &'static str, from: From, max: usize) -> Field {
    Field {
        label: Some(label),
        ..field(key, from, max)
    }
}

const fn kept(field: Field) -> Field {
    Field {
        kept: true,
        ..field
    }
}

/// CEF: keys of its dictionary first, then those with labels, then our own (`VendorProductKey`).
pub(super) const CEF: &[Field] = &[
    kept(field("rt", From::TimeMs, 20)),
    kept(field("deviceExternalId", From::Device, 255)),
    kept(field("cat", From::Entry("kind"), 1023)),
    field("act", From::Entry("action"), 63),
    field("outcome", From::Entry("outcome"), 63),
    field("suser", From::Entry("actor.user"), 1023),
    field("suid", From::Entry("actor.uid"), 1023),
    field("spid", From::Entry("actor.pid"), 20),
    field("sproc", From::Entry("actor.exe"), 1023),
    field("filePath", From::Of("file.", "object"), 1023),
    field("msg", From::Entry("object"), 1023),
    kept(labelled("cs1", "sessionId", From::Entry("session"), 4000)),
    labelled("cs2", "toolName", From::Entry("action"), 4000),
    labelled("cs3", "model", From::Entry("detail.model"), 4000),
    labelled("cs4", "agent", From::Entry("agent.product"), 4000),
    kept(labelled(
        "cs5",
        "chainHash",
        From::Proof("chain_hash"),
        4000,
    )),
    labelled("cs6", "rule", From::Entry("detail.rule"), 4000),
    kept(labelled("cn1", "chainSeq", From::Entry("seq"), 20)),
    labelled("flexString1", "seenBy", From::Entry("witness"), 1023),
    labelled("flexString2", "labels", From::Entry("labels"), 1023),
    kept(field("JuratLog", From::Proof("device"), 4000)),
    kept(field("JuratLeafHash", From::Proof("leaf_hash"), 4000)),
    kept(field(
        "JuratPrevChainHash",
        From::Proof("prev_chain_hash"),
        4000,
    )),
    kept(field("JuratSinkSeq", From::Proof("sink_seq"), 20)),
    kept(field("JuratBatch", From::Proof("batch"), 20)),
    kept(field("JuratJudged", From::Proof("judged"), 20)),
    kept(field(
        "JuratContextSha256",
        From::Entry("context.sha256"),
        64,
    )),
    field("JuratDetail", From::Entry("detail"), 4000),
];

/// LEEF: its predefined keys first, then ours.
pub(super) const LEEF: &[Field] = &[
    kept(field("devTime", From::TimeMs, 20)),
    kept(field("cat", From::Entry("kind"), 1023)),
    kept(field("identHostName", From::Device, 255)),
    field("usrName", From::Entry("actor.user"), 1023),
    field("resource", From::Entry("object"), 4000),
    field("action", From::Entry("action"), 1023),
    field("outcome", From::Entry("outcome"), 63),
    kept(field("session", From::Entry("session"), 1023)),
    field("model", From::Entry("detail.model"), 1023),
    field("agent", From::Entry("agent.product"), 1023),
    field("seenBy", From::Entry("witness"), 63),
    field("labels", From::Entry("labels"), 4000),
    kept(field("log", From::Proof("device"), 4000)),
    kept(field("seq", From::Entry("seq"), 20)),
    kept(field("leafHash", From::Proof("leaf_hash"), 64)),
    kept(field("chainHash", From::Proof("chain_hash"), 64)),
    kept(field("prevChainHash", From::Proof("prev_chain_hash"), 64)),
    kept(field("sinkSeq", From::Proof("sink_seq"), 20)),
    kept(field("batch", From::Proof("batch"), 20)),
    kept(field("judged", From::Proof("judged"), 20)),
    kept(field("contextSha256", From::Entry("context.sha256"), 64)),
    field("detail", From::Entry("detail"), 4000),
];

/// Structured data of RFC 5424: what proves the line.
pub(super) const STRUCTURED: &[Field] = &[
    field("log", From::Proof("device"), 255),
    field("seq", From::Entry("seq"), 20),
    field("leaf_hash", From::Proof("leaf_hash"), 64),
    field("chain_hash", From::Proof("chain_hash"), 64),
    field("prev_chain_hash", From::Proof("prev_chain_hash"), 64),
    field("sink_seq", From::Proof("sink_seq"), 20),
    field("batch", From::Proof("batch"), 20),
    field("judged", From::Proof("judged"), 20),
];

impl Field {
    /// What this field has to say of an item, if anything: at most as long as the format allows.
    pub(super) fn value(&self, item: &Item<'_>, shed: Shed) -> Option<String> {
        if shed == Shed::Fields && !self.kept {
            return None;
        }
        let mut value = match self.from {
            From::Entry(path) => as_text(item.find(path)?),
            From::Of(prefix, path) if item.kind().starts_with(prefix) => as_text(item.find(path)?),
            From::Of(..) => return None,
            From::TimeMs => item.time_ms().to_string(),
            From::Device => item.device().to_owned(),
            From::Proof(name) => proof(item, name)?,
        };
        let max = match shed {
            Shed::Words | Shed::Fields if !matches!(self.from, From::Proof(_)) => {
                self.max.min(super::WORD_BYTES_MAX)
            }
            _ => self.max,
        };
        if let Some((end, _)) = value.char_indices().nth(max) {
            value.truncate(end);
        }
        // Parsers take a value that is not there for the next one's name.
        let end = value.trim_end().len();
        value.truncate(end);
        (!value.is_empty()).then_some(value)
    }
}

fn proof(item: &Item<'_>, name: &str) -> Option<String> {
    let proof = &item.proof;
    let hash = |hash: &Option<Digest>| hash.as_ref().map(Digest::to_string);
    Some(match name {
        "device" => proof.device.clone(),
        "leaf_hash" => proof.leaf_hash.to_string(),
        "chain_hash" => hash(&proof.chain_hash)?,
        "prev_chain_hash" => hash(&proof.prev_chain_hash)?,
        "sink_seq" => proof.sink_seq.to_string(),
        "batch" => proof.batch.to_string(),
        _ => proof.judged.clone(),
    })
}
