//! The state blob that is committed together with the events it belongs to.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jurat_source::{Position, Tail};
use serde::{Deserialize, Serialize};

use crate::marks::Marks;

/// What changed with a commit.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Delta {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    files: BTreeMap<PathBuf, Position>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    gone: Vec<PathBuf>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    marks: String,
}

/// Everything.
#[derive(Default, Serialize, Deserialize)]
struct Whole {
    files: BTreeMap<PathBuf, Position>,
    old_marks: String,
    new_marks: String,
}

impl Delta {
    /// What changed since the last call; empty bytes when nothing did.
    pub(crate) fn take(tail: &mut Tail, marks: &mut Marks) -> Vec<u8> {
        let (files, gone) = tail.changes();
        let delta = Self {
            files,
            gone: gone.into_iter().collect(),
            marks: marks.take_added(),
        };
        if delta.files.is_empty() && delta.gone.is_empty() && delta.marks.is_empty() {
            return Vec::new();
        }
        serde_json::to_vec(&delta).unwrap_or_default()
    }
}

/// Everything, as bytes.
pub(crate) fn snapshot(files: &BTreeMap<PathBuf, Position>, marks: &Marks) -> Vec<u8> {
    let (old_marks, new_marks) = marks.all();
    serde_json::to_vec(&Whole {
        files: files.clone(),
        old_marks,
        new_marks,
    })
    .unwrap_or_default()
}

/// Takes back a snapshot (`whole`) or a delta.
pub(crate) fn apply(
    whole: bool,
    bytes: &[u8],
    files: &mut BTreeMap<PathBuf, Position>,
    marks: &mut Marks,
) {
    // The ledger's CRCs were checked; a blob that cannot be read is one that this program wrote
    // wrongly, and reading files again from the front is the safe answer.
    if whole {
        let whole: Whole = serde_json::from_slice(bytes).unwrap_or_default();
        *files = whole.files;
        marks.restore(&whole.old_marks, &whole.new_marks);
    } else {
        let delta: Delta = serde_json::from_slice(bytes).unwrap_or_default();
        files.extend(delta.files);
        delta.gone.iter().for_each(|path| drop(files.remove(path)));
        marks.replay(&delta.marks);
    }
}
