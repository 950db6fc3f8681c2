//! From sealed records to the messages of one sink: which entries, in which format, with which numbers.

use jurat_event::{Kind, Severity};
use jurat_proof::{Chain, Digest, EntryView, Record, RecordReader, leaf_hash};
use serde::{Deserialize, Serialize};

use crate::Seals;
use crate::format::{self, Format, Header, Item, Shed};
use crate::line::Proof;

/// Where a sink goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Position in the ledger.
    pub position: u64,
    /// Leaves passed.
    pub size: u64,
    /// The chain after them; `None` at the beginning.
    pub chain: Option<Digest>,
    /// The number of the next message.
    pub sink_seq: u64,
}

/// Which entries a sink is sent. Everything that is empty lets all pass.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Chosen {
    /// Kinds by name; `tool.` is all that begin so.
    pub kinds: Vec<String>,
    /// At least this grave.
    pub severity: Option<Severity>,
    /// One of these labels.
    pub labels: Vec<String>,
}

impl Chosen {
    fn takes(&self, item: &Item<'_>) -> bool {
        let kind = item.kind();
        let named = |name: &String| match name.strip_suffix('.') {
            Some(_) => kind.starts_with(name.as_str()),
            None => kind == name,
        };
        let labelled = || {
            let labels = item.find("labels").and_then(serde_json::Value::as_array);
            labels.is_some_and(|labels| {
                labels
                    .iter()
                    .filter_map(serde_json::Value::as_str)
                    .any(|label| self.labels.iter().any(|wanted| wanted == label))
            })
        };
        (self.kinds.is_empty() || self.kinds.iter().any(named))
            && self.severity.is_none_or(|least| item.severity() >= least)
            && (self.labels.is_empty() || labelled())
    }
}

/// How one sink writes its messages.
#[derive(Clone, Debug)]
pub struct Projector {
    /// The log.
    pub origin: String,
    /// The text.
    pub format: Format,
    /// What stands before it, where it goes through syslog.
    pub header: Option<Header>,
    /// The longest message, header included.
    pub max_bytes: usize,
    /// What is sent.
    pub chosen: Chosen,
}

/// The messages of some seals.
#[derive(Clone, Debug, Default)]
pub struct Projected {
    /// In order.
    pub messages: Vec<Vec<u8>>,
    /// Those that lack their payload, or more, for their length.
    pub shed: u64,
    /// Entries that were not chosen.
    pub passed: u64,
    /// Leaves of which only the hash is here.
    pub withheld: u64,
    /// Leaves that the ledger no longer has, or of which the chain is not known: from and up to.
    pub missed: Option<(u64, u64)>,
}

/// The chain before the end of a batch, as that says it.
fn chain_of(view: &EntryView<'_>) -> Option<Digest> {
    let detail = view.detail_map();
    Digest::from_hex(detail.get("chain")?.as_str()?)
}

impl Projector {
    /// Writes the messages of these seals, and gives where the sink stands after them.
    ///
    /// # Errors
    /// What is wrong with a record, in words: the ledger is damaged.
    pub fn project(&self, at: Cursor, seals: &Seals) -> Result<(Projected, Cursor), String> {
        let mut chain = match at.chain {
            Some(chain) => Some(Chain(chain)),
            None if at.size == 0 => Some(Chain::new(&self.origin)),
            None => None,
        };
        let mut next = at.size;
        let mut out = Projected::default();
        let mut sink_seq = at.sink_seq;
        let (mut text, mut head) = (Vec::new(), Vec::new());
        let mut records = RecordReader::new(&seals.raw).peekable();
        while let Some(record) = records.next() {
            let entry = match record.map_err(|error| error.to_string())? {
                Record::Entry(entry) => entry,
                Record::Leaves { hashes, .. } => {
                    for hash in hashes {
                        if let Some(chain) = &mut chain {
                            chain.push(&Digest(*hash));
                        }
                    }
                    next += hashes.len() as u64;
                    out.withheld += hashes.len() as u64;
                    continue;
                }
                Record::Payload { .. } | Record::Checkpoint(_) => continue,
            };
            let payload = match records.peek() {
                Some(Ok(Record::Payload { bytes, .. })) => Some(*bytes),
                _ => None,
            };
            let view = EntryView::parse(entry).map_err(|error| error.to_string())?;
            if view.seq != next {
                // What stood before it was archived, and removed.
                chain = None;
                next = view.seq;
            }
            next += 1;
            let chain = match &mut chain {
                Some(chain) => chain,
                unknown => {
                    // The end of a batch says how the chain goes on.
                    let known = view
                        .is(Kind::BatchSealed)
                        .then(|| chain_of(&view))
                        .flatten();
                    let Some(known) = known else {
                        out.missed = Some((at.size, next));
                        continue;
                    };
                    out.missed = Some((at.size, view.seq));
                    unknown.insert(Chain(known))
                }
            };
            let leaf = leaf_hash(entry);
            let prev_chain_hash = chain.0;
            let proof = Proof {
                device: self.origin.clone(),
                leaf_hash: leaf,
                chain_hash: Some(chain.push(&leaf)),
                prev_chain_hash: Some(prev_chain_hash),
                sink_seq,
                batch: seals.to,
                judged: "sealed".into(),
            };
            let item = Item::new(proof, entry, payload).ok_or("an entry is no JSON object")?;
            if !self.chosen.takes(&item) {
                out.passed += 1;
                continue;
            }
            head.clear();
            if let Some(header) = &self.header {
                header.write(&item, &mut head);
            }
            let room = self.max_bytes.saturating_sub(head.len());
            if format::write(self.format, &item, room, &mut text) != Shed::Nothing {
                out.shed += 1;
            }
            out.messages.push([&head[..], &text].concat());
            sink_seq += 1;
        }
        let after = Cursor {
            position: seals.next,
            size: seals.to,
            chain: chain.map(|chain| chain.0),
            sink_seq,
        };
        Ok((out, after))
    }
}
