//! A disk in memory that keeps what is *live* (in the page cache) apart from what is *durable*.
//!
//! Every operation that changes something is a step. A crash can be set at any step; the write at
//! that step is torn: any subset of its 512-byte sectors may have reached the disk. After
//! [`SimDisk::crash`] only durable content and durable names are left, plus torn sectors.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use jurat_disk::{Disk, File, Lock, Mode, parent};

use crate::Repeatable;

/// What happens at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The machine stops: this and every later operation fails.
    Crash,
    /// This operation fails and has no effect: no space left.
    Full,
    /// From this operation on every change fails: no space left.
    FullForGood,
    /// A sync fails once, and the dirty bytes are dropped from the disk's mind.
    SyncError,
    /// The process dies of this operation: it and all later ones fail, and the machine goes on with what
    /// is live. A sync drops the dirty bytes, as at [`Fault::SyncError`].
    Killed,
    /// From this operation on every change fails: the file system is read-only.
    ReadOnly,
}

#[derive(Clone, Default)]
struct Node {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Writes since the last sync: a crash may keep any of their sectors.
    dirty: Vec<(usize, Vec<u8>)>,
}

type Names = BTreeMap<PathBuf, usize>;

#[derive(Default)]
struct State {
    nodes: Vec<Node>,
    names: Names,
    durable_names: Names,
    dirs: Vec<PathBuf>,
    locks: Vec<PathBuf>,
    steps: u64,
    fault: Option<(u64, Fault)>,
    dead: bool,
    room: Option<usize>,
    trace: Vec<String>,
}

/// The simulated disk. Clones are the same disk.
#[derive(Clone, Default)]
pub struct SimDisk(Arc<Mutex<State>>);

struct SimFile {
    disk: SimDisk,
    node: usize,
    name: String,
    writable: bool,
}

struct SimLock(SimDisk, PathBuf);

impl State {
    fn used(&self) -> usize {
        let nodes = self.names.values();
        nodes.map(|node| self.nodes[*node].live.len()).sum()
    }
}

impl SimDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0
            .lock()
            .expect("no test panics while it holds the disk")
    }

    /// How many changing operations were done.
    pub fn steps(&self) -> u64 {
        self.state().steps
    }

    /// What was done, one word an operation, for tests of the order.
    pub fn trace(&self) -> Vec<String> {
        self.state().trace.clone()
    }

    /// Sets a fault for the operation with this number.
    pub fn fail_at(&self, step: u64, fault: Fault) {
        self.state().fault = Some((step, fault));
    }

    /// Removes the fault.
    pub fn heal(&self) {
        self.state().fault = None;
    }

    /// Lets all files together have at most this many bytes.
    pub fn limit(&self, bytes: Option<usize>) {
        self.state().room = bytes;
    }

    /// How many bytes all files have.
    pub fn used(&self) -> usize {
        self.state().used()
    }

    /// Takes the power away and gives it back: what was not durable is gone, except for sectors of
    /// unsynced writes that `rng` lets survive.
    pub fn crash(&self, rng: &Repeatable) {
        let mut state = self.state();
        for node in &mut state.nodes {
            let mut kept = node.durable.clone();
            for (offset, bytes) in &node.dirty {
                for (index, sector) in bytes.chunks(512).enumerate() {
                    if rng.below(2) == 0 {
                        continue;
                    }
                    let at = offset + index * 512;
                    if kept.len() < at + sector.len() {
                        kept.resize(at + sector.len(), 0);
                    }
                    kept[at..at + sector.len()].copy_from_slice(sector);
                }
            }
            node.live.clone_from(&kept);
            node.durable = kept;
            node.dirty.clear();
        }
        state.names = state.durable_names.clone();
        state.locks.clear();
        state.fault = None;
        state.dead = false;
    }

    /// Another disk, as a power cut at this moment would leave this one at the least: nothing that was
    /// not made durable, not even a sector.
    #[must_use]
    pub fn durable(&self) -> Self {
        let state = self.state();
        let durable = |node: &Node| Node {
            live: node.durable.clone(),
            durable: node.durable.clone(),
            dirty: Vec::new(),
        };
        Self(Arc::new(Mutex::new(State {
            nodes: state.nodes.iter().map(durable).collect(),
            names: state.durable_names.clone(),
            durable_names: state.durable_names.clone(),
            dirs: state.dirs.clone(),
            ..State::default()
        })))
    }

    /// Changes bytes of a file behind everybody's back.
    pub fn corrupt(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let node = state.names.get(path).copied().expect("the file exists");
        let node = &mut state.nodes[node];
        change(&mut node.live);
        node.durable.clone_from(&node.live);
    }

    fn step(&self, what: &str, syncs: Option<usize>) -> io::Result<()> {
        let mut state = self.state();
        if state.dead {
            return Err(io::Error::other("the machine is off"));
        }
        let step = state.steps;
        state.steps += 1;
        state.trace.push(what.to_owned());
        let Some((at, fault)) = state.fault else {
            return Ok(());
        };
        match fault {
            Fault::Crash if step == at => {
                state.dead = true;
                Err(io::Error::other("the machine went off"))
            }
            Fault::Full if step == at => Err(io::ErrorKind::StorageFull.into()),
            // Removing and shortening need no room.
            Fault::FullForGood if step >= at && syncs.is_none() && !frees(what) => {
                Err(io::ErrorKind::StorageFull.into())
            }
            Fault::ReadOnly if step >= at => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            Fault::Killed if step > at => Err(io::Error::other("the process is dead")),
            Fault::SyncError | Fault::Killed if step == at => {
                if let Some(node) = syncs {
                    // The kernel marks the pages clean: they are read back, and never written.
                    state.nodes[node].dirty.clear();
                }
                Err(io::Error::other("input/output error"))
            }
            _ => Ok(()),
        }
    }
}

impl Disk for SimDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if !state.dirs.iter().any(|dir| dir == path) {
            state.dirs.push(path.to_path_buf());
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        let inside = state.names.keys().filter(|path| parent(path) == dir);
        Ok(inside
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect())
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<Box<dyn File>> {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if mode == Mode::CreateNew {
            self.step(&format!("create {name}"), None)?;
            let mut state = self.state();
            if state.names.contains_key(path) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            state.nodes.push(Node::default());
            let node = state.nodes.len() - 1;
            state.names.insert(path.to_path_buf(), node);
        }
        let node = self
            .state()
            .names
            .get(path)
            .copied()
            .ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(SimFile {
            disk: self.clone(),
            node,
            name,
            writable: mode != Mode::Read,
        }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if !self.state().names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.step("remove", None)?;
        self.state().names.remove(path);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step("rename", None)?;
        let mut state = self.state();
        let node = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_path_buf(), node);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.step("sync dir", None)?;
        let mut state = self.state();
        let live: Names = state
            .names
            .iter()
            .filter(|(path, _)| parent(path) == dir)
            .map(own)
            .collect();
        state.durable_names.retain(|path, _| parent(path) != dir);
        state.durable_names.extend(live);
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let mut state = self.state();
        if state.locks.iter().any(|held| held == path) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.locks.push(path.to_path_buf());
        Ok(Box::new(SimLock(self.clone(), path.to_path_buf())))
    }
}

fn frees(what: &str) -> bool {
    what == "remove" || what.starts_with("cut ")
}

fn own((path, node): (&PathBuf, &usize)) -> (PathBuf, usize) {
    (path.clone(), *node)
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.0.state().locks.retain(|held| *held != self.1);
    }
}

impl File for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().nodes[self.node].live.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.state();
        let live = &state.nodes[self.node].live;
        let rest = live.get(offset as usize..).unwrap_or(&[]);
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        assert!(self.writable, "a write to a file opened for reading");
        let stepped = self.disk.step(&format!("write {}", self.name), None);
        let mut state = self.disk.state();
        let dead = state.dead;
        if stepped.is_err() && !dead {
            return stepped;
        }
        let offset = offset as usize;
        let grown = (offset + bytes.len()).saturating_sub(state.nodes[self.node].live.len());
        if state.room.is_some_and(|room| state.used() + grown > room) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let node = &mut state.nodes[self.node];
        if stepped.is_ok() || dead {
            // A write that the crash interrupts may still have reached some sectors.
            node.dirty.push((offset, bytes.to_vec()));
        }
        if stepped.is_ok() {
            if node.live.len() < offset + bytes.len() {
                node.live.resize(offset + bytes.len(), 0);
            }
            node.live[offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        stepped
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.step(&format!("cut {}", self.name), None)?;
        let mut state = self.disk.state();
        let node = &mut state.nodes[self.node];
        let len = len as usize;
        node.live.resize(len, 0);
        node.dirty.retain_mut(|(offset, bytes)| {
            bytes.truncate(len.saturating_sub(*offset));
            !bytes.is_empty()
        });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk
            .step(&format!("sync {}", self.name), Some(self.node))?;
        let mut state = self.disk.state();
        let node = &mut state.nodes[self.node];
        // Exact for the writes that are still dirty; what a failed sync dropped stays lost.
        let len = node.live.len();
        node.durable.resize(len, 0);
        for (offset, bytes) in std::mem::take(&mut node.dirty) {
            node.durable[offset..offset + bytes.len()].copy_from_slice(&bytes);
        }
        Ok(())
    }
}
