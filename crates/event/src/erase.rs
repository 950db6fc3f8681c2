//! Erasing on request, as it is asked for and answered on endpoint and collector alike.

use serde::{Deserialize, Serialize};

use crate::Ranges;

/// What is to be erased, by whom and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EraseRequest {
    /// The payloads of these leaves, and of the further parts of a record that begins there.
    pub ranges: Ranges,
    /// The payloads of every leaf of these sessions.
    #[serde(default)]
    pub sessions: Vec<String>,
    /// Who wants it.
    pub who: String,
    /// Why.
    pub reason: String,
}

/// What was erased.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erased {
    /// Payloads erased now.
    pub count: u64,
    /// Payloads that were asked for and were gone before.
    pub gone_before: u64,
    /// The leaves whose payloads they were.
    pub ranges: Ranges,
    /// The leaves that say so.
    pub leaves: Vec<u64>,
    /// Leaves of which only the hash came until now: of their payloads nothing is stored that is asked for.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub awaited: u64,
    /// Such leaves whose payloads are stored when they come, because too many orders wait already.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub not_awaited: u64,
    /// Sessions of which no leaf is here. Some may be among the leaves that are awaited.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown_sessions: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The longest words of a request, in characters, and the most sessions.
const WORDS_MAX: usize = 500;
const SESSIONS_MAX: usize = 100;

impl EraseRequest {
    /// Whether it can be taken up at all.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        for (name, words) in [("reason", &self.reason), ("who", &self.who)] {
            if words.trim().is_empty() {
                return Err(format!("the {name} is empty"));
            }
            if words.chars().count() > WORDS_MAX || words.chars().any(char::is_control) {
                return Err(format!(
                    "the {name} has more than {WORDS_MAX} characters, or a control character"
                ));
            }
        }
        if self.ranges.is_empty() && self.sessions.is_empty() {
            return Err("no leaf and no session is named".into());
        }
        if self.sessions.len() > SESSIONS_MAX {
            return Err(format!("more than {SESSIONS_MAX} sessions"));
        }
        Ok(())
    }
}
