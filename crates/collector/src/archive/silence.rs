//! Who has not been heard of for too long. Asked once a second, and looks only at those who are due.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use jurat_disk::Time;

/// When each log was heard of last, and when that is too long ago. By the clock that never steps.
#[derive(Default)]
pub(super) struct Silence {
    /// 0: nobody is watched.
    after_s: u64,
    heard: HashMap<Arc<str>, Heard>,
    /// Every watched log that is not silent, once: when to look at it next.
    due: BTreeSet<(u64, Arc<str>)>,
    /// Silent ones that were heard of since.
    returned: BTreeSet<Arc<str>>,
}

#[derive(Clone, Copy)]
struct Heard {
    mono_s: u64,
    unix_s: u64,
    silent: bool,
}

/// The most that are told of at a time; the others stay due.
const TOLD_MAX: usize = 1_000;

impl Silence {
    pub(super) fn new(after_s: u64) -> Self {
        Self {
            after_s,
            ..Self::default()
        }
    }

    /// Watches a log that was heard of last at `unix_s`: it gets a whole interval from now on to show
    /// itself, because before now nobody could have heard it.
    pub(super) fn watch(&mut self, origin: Arc<str>, unix_s: u64, silent: bool, now: Time) {
        let mono_s = now.mono_us / 1_000_000;
        let heard = Heard {
            mono_s,
            unix_s,
            silent,
        };
        self.heard.insert(origin.clone(), heard);
        if !silent {
            self.due.insert((mono_s + self.after_s, origin));
        }
    }

    /// Notes that a log was heard of, if it is watched.
    pub(super) fn heard(&mut self, origin: &str, now: Time) {
        let (mono_s, unix_s) = (now.mono_us / 1_000_000, now.unix_s());
        if let Some(heard) = self.heard.get_mut(origin) {
            (heard.mono_s, heard.unix_s) = (mono_s, unix_s);
            if heard.silent {
                self.returned.insert(origin.into());
            }
        }
    }

    /// When a log was heard of last, in seconds since 1970.
    pub(super) fn heard_at(&self, origin: &str) -> Option<u64> {
        self.heard.get(origin).map(|heard| heard.unix_s)
    }

    /// Ends watching a log: nothing more is expected of it.
    pub(super) fn forget(&mut self, origin: &str) {
        self.heard.remove(origin);
        self.returned.remove(origin);
    }

    /// Logs that fell silent, with the time they were heard of last, and logs that returned; each once.
    pub(super) fn news(&mut self, now: Time) -> (Vec<(Arc<str>, u64)>, Vec<Arc<str>>) {
        let mut fallen = Vec::new();
        if self.after_s == 0 {
            return (fallen, Vec::new());
        }
        let now_s = now.mono_us / 1_000_000;
        while fallen.len() < TOLD_MAX
            && self.due.first().is_some_and(|(due_s, _)| *due_s <= now_s)
            && let Some((_, origin)) = self.due.pop_first()
        {
            // Heard of since this was written down, or not watched any more.
            let Some(heard) = self.heard.get(&origin) else {
                continue;
            };
            let due_s = heard.mono_s + self.after_s;
            if due_s <= now_s {
                fallen.push((origin, heard.unix_s));
            } else {
                self.due.insert((due_s, origin));
            }
        }
        let mut returned = Vec::new();
        while returned.len() < TOLD_MAX
            && let Some(origin) = self.returned.pop_first()
        {
            returned.push(origin);
        }
        (fallen, returned)
    }

    /// A leaf says that this log is silent since then, or, with `None`, that it is not any more.
    pub(super) fn told(&mut self, origin: &str, silent_since: Option<u64>) {
        let Some(heard) = self.heard.get_mut(origin) else {
            return;
        };
        heard.silent = silent_since.is_some();
        match silent_since {
            None => {
                self.due
                    .insert((heard.mono_s + self.after_s, origin.into()));
            }
            // Heard of while the leaf was being written.
            Some(since) if since != heard.unix_s => {
                self.returned.insert(origin.into());
            }
            Some(_) => {}
        }
    }
}
