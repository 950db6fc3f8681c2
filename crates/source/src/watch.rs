//! Being woken when something changes. Only a hint: the polling scan finds everything, later.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};

use crate::Root;

/// Watches roots and gives out the paths that changed.
pub struct Watch {
    _watcher: Option<RecommendedWatcher>,
    changed: Receiver<PathBuf>,
}

/// How many changes wait; what comes on top is found by the next scan.
const QUEUE_LEN: usize = 4096;

impl Watch {
    /// Watches these roots; `wake` is called after each change. A root that cannot be watched (it
    /// does not exist yet, or the system has no watches left) is left to the scan.
    pub fn new(roots: &[Root], wake: impl Fn() + Send + 'static) -> Self {
        let (sender, changed): (SyncSender<PathBuf>, _) = sync_channel(QUEUE_LEN);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if let Ok(event) = event
                && !event.kind.is_access()
            {
                for path in event.paths {
                    let _ = sender.try_send(path);
                }
                wake();
            }
        });
        let mut watcher = watcher.ok();
        if let Some(watcher) = &mut watcher {
            for root in roots {
                let _ = watcher.watch(&root.dir, RecursiveMode::Recursive);
            }
        }
        Self {
            _watcher: watcher,
            changed,
        }
    }

    /// The paths that changed since the last call.
    pub fn take(&self) -> Vec<PathBuf> {
        self.changed.try_iter().collect()
    }
}
