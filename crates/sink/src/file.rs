//! Lines in a local file, exactly once: the file's length is part of the cursor.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jurat_disk::{Disk, File, Mode, read, replace};
use serde::{Deserialize, Serialize};

/// What a destination promises when the cursor moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Guarantee {
    /// The receiver says that it is stored.
    Durable,
    /// The receiver says that it has it.
    Accepted,
    /// The kernel took it.
    Written,
    /// Nothing.
    None,
}

impl Guarantee {
    /// As it stands in a log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Durable => "durable",
            Self::Accepted => "accepted",
            Self::Written => "written",
            Self::None => "none",
        }
    }
}

/// Where the sink goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Cursor {
    position: u64,
    sink_seq: u64,
    len: u64,
}

/// A file that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {doing}")]
pub struct FileSinkError {
    /// The file.
    pub path: PathBuf,
    /// What was being done.
    pub doing: &'static str,
    /// What the disk said.
    #[source]
    pub source: io::Error,
}

/// Appends lines to a file. Guarantee: durable once [`FileSink::commit`] returned.
pub struct FileSink {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    cursor_path: PathBuf,
    file: Box<dyn File>,
    cursor: Cursor,
    pending: Vec<u8>,
    pending_lines: u64,
}

impl FileSink {
    /// Opens the file, or begins it; `cursor` is where the sink's position is kept.
    ///
    /// Bytes after the cursor are what a crash left behind: they are removed and written again.
    ///
    /// # Errors
    /// [`FileSinkError`].
    pub fn open(disk: Arc<dyn Disk>, path: &Path, cursor: &Path) -> Result<Self, FileSinkError> {
        let fail = |doing| {
            let path = path.to_path_buf();
            move |source| FileSinkError {
                path,
                doing,
                source,
            }
        };
        let known = match read(&*disk, cursor, 4096) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(io::Error::other)
                .map_err(fail("reading the cursor"))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Lines of another life of this file are kept: new ones go after them.
                let len = disk
                    .open(path, Mode::Read)
                    .and_then(|file| file.len())
                    .unwrap_or(0);
                let first = Cursor {
                    len,
                    ..Cursor::default()
                };
                // Before the first line: or lines that a crash leaves would be taken for old ones.
                store(&*disk, cursor, first).map_err(fail("writing the cursor"))?;
                first
            }
            Err(error) => return Err(fail("reading the cursor")(error)),
        };
        let file = match disk.open(path, Mode::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                disk.open(path, Mode::CreateNew)
            }
            opened => opened,
        };
        let file = file.map_err(fail("opening"))?;
        let mut cursor_now = known;
        let len = file.len().map_err(fail("opening"))?;
        if len < known.len {
            // Somebody shortened or rotated it; numbers go on, so the gap shows.
            cursor_now.len = len;
        } else if len > known.len {
            file.set_len(known.len)
                .map_err(fail("removing unfinished lines"))?;
        }
        Ok(Self {
            disk,
            path: path.to_path_buf(),
            cursor_path: cursor.to_path_buf(),
            file,
            cursor: cursor_now,
            pending: Vec::new(),
            pending_lines: 0,
        })
    }

    /// Up to where the archive was written out.
    pub fn position(&self) -> u64 {
        self.cursor.position
    }

    /// Takes back the lines that could not be written; they are given again from [`FileSink::position`].
    pub fn rewind(&mut self) {
        self.cursor.sink_seq -= self.pending_lines;
        self.pending_lines = 0;
        self.pending.clear();
    }

    /// The number of the next line.
    pub fn sink_seq(&self) -> u64 {
        self.cursor.sink_seq
    }

    /// Adds a line, given without its line end.
    pub fn push(&mut self, line: &[u8]) {
        self.pending.extend_from_slice(line);
        self.pending.push(b'\n');
        self.cursor.sink_seq += 1;
        self.pending_lines += 1;
    }

    /// Writes the lines, makes them durable, and moves the cursor to this position.
    ///
    /// # Errors
    /// [`FileSinkError`]: nothing moved; [`FileSink::rewind`] and give the lines again.
    pub fn commit(&mut self, position: u64) -> Result<(), FileSinkError> {
        let fail = |doing| {
            let path = self.path.clone();
            move |source| FileSinkError {
                path,
                doing,
                source,
            }
        };
        let mut next = self.cursor;
        if !self.pending.is_empty() {
            self.file
                .write_at(&self.pending, next.len)
                .map_err(fail("writing lines"))?;
            self.file.sync().map_err(fail("writing lines"))?;
            next.len += self.pending.len() as u64;
        }
        next.position = position;
        store(&*self.disk, &self.cursor_path, next).map_err(fail("writing the cursor"))?;
        self.cursor = next;
        self.pending.clear();
        // One large round must not hold its memory for ever.
        self.pending.shrink_to(PENDING_BYTES_KEPT);
        self.pending_lines = 0;
        Ok(())
    }

    /// The declared guarantee.
    pub fn guarantee(&self) -> Guarantee {
        Guarantee::Durable
    }
}

const PENDING_BYTES_KEPT: usize = 1024 * 1024;

fn store(disk: &dyn Disk, path: &Path, cursor: Cursor) -> io::Result<()> {
    let json = serde_json::to_vec(&cursor).map_err(io::Error::other)?;
    replace(disk, path, &json)
}
