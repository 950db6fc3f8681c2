//! Looking into the local ledger: often faster than any SIEM.

use std::path::Path;
use std::sync::Arc;

use jurat_disk::Disk;
use jurat_ledger::{LedgerError, Reader};
use jurat_seal::kind;
use serde_json::Value;

/// What is asked for. Everything absent matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// The session, or its beginning.
    pub session: Option<String>,
    /// The kind, or its beginning, for example `tool.`.
    pub kind: Option<String>,
    /// Not before this time, as entries write it: RFC 3339 in UTC, nine fractional digits.
    pub since: Option<String>,
}

/// Why the ledger could not be asked.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct QueryError(#[from] LedgerError);

impl QueryError {
    /// Whether what was given is all that stands before damage.
    pub fn is_damage(&self) -> bool {
        matches!(self.0, LedgerError::Corrupt { .. })
    }
}

impl Query {
    fn matches(&self, entry: &Value) -> bool {
        let field = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        self.session
            .as_deref()
            .is_none_or(|wanted| field("session").starts_with(wanted))
            && self
                .kind
                .as_deref()
                .is_none_or(|wanted| field("kind").starts_with(wanted))
            && self
                .since
                .as_deref()
                .is_none_or(|since| field("time") >= since)
    }
}

/// Gives every matching entry of the log in this folder ([`home`](crate::home)), in order, with its bytes and its payload. `give` says whether to go on.
///
/// # Errors
/// [`QueryError`] when the ledger cannot be read.
pub fn query(
    disk: Arc<dyn Disk>,
    home: &Path,
    query: &Query,
    give: &mut dyn FnMut(&[u8], &Value, Option<&[u8]>) -> bool,
) -> Result<(), QueryError> {
    let mut reader = Reader::open(disk, &home.join("ledger"), 0)?;
    let mut waiting: Option<(Vec<u8>, Value)> = None;
    while let Some(item) = reader.next_record()? {
        match item.kind {
            kind::PAYLOAD => {
                if let Some((entry, value)) = waiting.take() {
                    let payload = item.body.get(32..).filter(|_| !item.erased);
                    if !give(&entry, &value, payload) {
                        return Ok(());
                    }
                }
            }
            kind::ENTRY => {
                if let Some((entry, value)) = waiting.take()
                    && !give(&entry, &value, None)
                {
                    return Ok(());
                }
                let value: Value = serde_json::from_slice(item.body).unwrap_or_default();
                if query.matches(&value) {
                    waiting = Some((item.body.to_vec(), value));
                }
            }
            _ => {}
        }
    }
    if let Some((entry, value)) = waiting {
        give(&entry, &value, None);
    }
    Ok(())
}
