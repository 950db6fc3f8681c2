//! Reading records in order, from any position.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jurat_disk::{Disk, File, Mode};

use crate::format::{
    KIND_OWN, RECORD_HEADER, RecordHeader, SEGMENT_HEADER, SegmentId, parse_segment_header,
    segment_base, segment_name,
};
use crate::ledger::{damage_after, scan};
use crate::{LedgerError, RECORD_BYTES_MAX};

/// A record that was read.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// Where it stands; a later reader may start here.
    pub position: u64,
    /// Where the next record stands.
    pub next: u64,
    /// Its kind, as it was appended.
    pub kind: u8,
    /// Whether its body was erased; then what was erased of it reads as zeros.
    pub erased: bool,
    /// Its body.
    pub body: &'a [u8],
}

/// Reads committed records from a position up to a limit. Holds one record and a window of bytes.
pub struct Reader {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segments: Vec<u64>,
    current: Option<Segment>,
    position: u64,
    limit: u64,
    /// What stands at the limit is damage: no reader may take it for the end.
    damaged: Option<(PathBuf, u64)>,
}

impl Reader {
    /// A reader of `[from, limit)`. Positions before the oldest segment start at the oldest.
    ///
    /// # Errors
    /// [`LedgerError::Io`] when the folder cannot be listed.
    pub fn new(
        disk: Arc<dyn Disk>,
        dir: &Path,
        from: u64,
        limit: u64,
    ) -> Result<Self, LedgerError> {
        let segments = segments(&*disk, dir)?;
        let position = from.max(segments.first().copied().unwrap_or(0));
        Ok(Self {
            disk,
            dir: dir.to_path_buf(),
            segments,
            current: None,
            position,
            limit,
            damaged: None,
        })
    }

    /// A reader from this position to the last whole group, for a process that does not have the
    /// ledger open. Changes nothing. Where damage begins in the last segment, with good groups after it,
    /// [`Reader::next_record`] gives all that stands before, and then the error that names the place.
    ///
    /// # Errors
    /// [`LedgerError::Io`], or [`LedgerError::Corrupt`] when the last segment cannot be read.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, from: u64) -> Result<Self, LedgerError> {
        let (limit, damaged) = match segments(&*disk, dir)?.last() {
            Some(base) => {
                let mut segment = Segment::open(&*disk, dir, *base)?;
                let (committed, damaged_at) = scan_beside_the_writer(&mut segment)?;
                (base + committed, damaged_at.map(|at| (segment.path, at)))
            }
            None => (0, None),
        };
        Ok(Self {
            damaged,
            ..Self::new(disk, dir, from, limit)?
        })
    }

    /// Likewise, and damage in the last segment counts as the end: for who saves what is left.
    ///
    /// # Errors
    /// Those of [`Reader::open`].
    pub fn salvage(disk: Arc<dyn Disk>, dir: &Path, from: u64) -> Result<Self, LedgerError> {
        Ok(Self {
            damaged: None,
            ..Self::open(disk, dir, from)?
        })
    }

    /// Whether damage begins where reading ends: for who wants no more than [`Reader::limit`].
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`] names the place.
    pub fn check(&self) -> Result<(), LedgerError> {
        self.end::<()>().map(|_| ())
    }

    /// Where reading ends.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Where the next record is read.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next record that is not the ledger's own; `None` at the limit.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`] names the place; [`LedgerError::Io`] what the disk said.
    pub fn next_record(&mut self) -> Result<Option<Item<'_>>, LedgerError> {
        loop {
            let Some((position, header)) = self.advance()? else {
                return Ok(None);
            };
            if header.kind >= KIND_OWN {
                continue;
            }
            let next = self.position;
            let segment = self.current.as_mut().expect("advance opened a segment");
            return Ok(Some(Item {
                position,
                next,
                kind: header.kind,
                erased: header.is_erased(),
                body: segment.body(position, header),
            }));
        }
    }

    /// Moves past the next record of any kind.
    fn advance(&mut self) -> Result<Option<(u64, RecordHeader)>, LedgerError> {
        if self.position >= self.limit {
            return self.end();
        }
        loop {
            if self.current.is_none() {
                let last = self
                    .segments
                    .iter()
                    .rfind(|base| **base <= self.position)
                    .copied();
                let Some(base) = last else { return Ok(None) };
                let segment = Segment::open(&*self.disk, &self.dir, base)?;
                self.position = self.position.max(base + SEGMENT_HEADER);
                if segment.span > 0 {
                    // Rewritten: places inside it mean nothing any more, so it is read from its front.
                    self.position = base + SEGMENT_HEADER;
                }
                self.current = Some(segment);
            }
            let segment = self.current.as_mut().expect("opened above");
            match segment.record(self.position)? {
                Some(header) => {
                    let position = self.position;
                    self.position += RECORD_HEADER + u64::from(header.len);
                    return Ok(Some((position, header)));
                }
                None => {
                    // The end of this segment: only right when the next one begins exactly here.
                    let after = self
                        .segments
                        .iter()
                        .find(|base| **base > segment.base)
                        .copied();
                    if segment.span > 0 && segment.base + segment.len == self.position {
                        self.position = segment.base + segment.span;
                    }
                    if after != Some(self.position) {
                        let offset = self.position - segment.base;
                        return Err(LedgerError::Corrupt {
                            path: segment.path.clone(),
                            offset,
                        });
                    }
                    self.current = None;
                    if self.position >= self.limit {
                        return self.end();
                    }
                }
            }
        }
    }

    fn end<T>(&self) -> Result<Option<T>, LedgerError> {
        match self.damaged.clone() {
            Some((path, offset)) => Err(LedgerError::Corrupt { path, offset }),
            None => Ok(None),
        }
    }
}

/// Where the last whole group of the last segment ends, and where damage begins.
fn scan_beside_the_writer(segment: &mut Segment) -> Result<(u64, Option<u64>), LedgerError> {
    loop {
        let (committed, stopped) = scan(segment)?;
        if damage_after(segment, stopped)?.is_none() {
            return Ok((committed, None));
        }
        // Perhaps it was being written just now. What stands before a whole group was whole before it.
        segment.window.clear();
        if segment.record(segment.base + stopped)?.is_none() {
            return Ok((committed, Some(stopped)));
        }
    }
}

/// The bases of the segments in a folder, ascending.
pub(crate) fn segments(disk: &dyn Disk, dir: &Path) -> Result<Vec<u64>, LedgerError> {
    let names = disk.list(dir).map_err(|source| LedgerError::Io {
        path: dir.to_path_buf(),
        doing: "listing the ledger",
        source,
    })?;
    let mut bases: Vec<u64> = names.iter().filter_map(|name| segment_base(name)).collect();
    bases.sort_unstable();
    Ok(bases)
}

/// One segment file with a window of its bytes.
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    pub(crate) base: u64,
    pub(crate) id: SegmentId,
    pub(crate) len: u64,
    /// The positions that a rewritten segment stands for; 0 when it is as it was appended.
    pub(crate) span: u64,
    file: Box<dyn File>,
    window: Vec<u8>,
    /// Offset in the file of the window's first byte.
    window_at: u64,
}

const WINDOW_BYTES: usize = 256 * 1024;

impl Segment {
    pub(crate) fn open(disk: &dyn Disk, dir: &Path, base: u64) -> Result<Self, LedgerError> {
        let path = dir.join(segment_name(base));
        let io = |doing, source| LedgerError::Io {
            path: path.clone(),
            doing,
            source,
        };
        let file = disk
            .open(&path, Mode::Read)
            .map_err(|source| io("opening a segment", source))?;
        let len = file
            .len()
            .map_err(|source| io("reading a segment", source))?;
        let mut header = [0; SEGMENT_HEADER as usize];
        file.read_at(&mut header, 0)
            .map_err(|source| io("reading a segment", source))?;
        match parse_segment_header(&header) {
            Some((found, id, span)) if found == base => Ok(Self {
                path,
                base,
                id,
                len,
                span,
                file,
                window: Vec::new(),
                window_at: 0,
            }),
            _ => Err(LedgerError::Corrupt { path, offset: 0 }),
        }
    }

    /// Makes `[offset, offset + len)` of the file stand in the window; `false` at the file's end.
    fn load(&mut self, offset: u64, len: usize) -> Result<bool, LedgerError> {
        let end = self.window_at + self.window.len() as u64;
        if offset >= self.window_at && offset + len as u64 <= end {
            return Ok(true);
        }
        let want = len.max(WINDOW_BYTES);
        self.window.resize(want, 0);
        let read = self
            .file
            .read_at(&mut self.window, offset)
            .map_err(|source| LedgerError::Io {
                path: self.path.clone(),
                doing: "reading a segment",
                source,
            })?;
        self.window.truncate(read);
        if len <= WINDOW_BYTES {
            self.window.shrink_to(WINDOW_BYTES);
        }
        self.window_at = offset;
        Ok(read >= len)
    }

    pub(crate) fn slice(&self, offset: u64, len: usize) -> &[u8] {
        let start = (offset - self.window_at) as usize;
        self.window.get(start..start + len).unwrap_or(&[])
    }

    /// Reads and checks the record at a position; `None` at the end of the file or where no good
    /// record stands.
    pub(crate) fn record(&mut self, position: u64) -> Result<Option<RecordHeader>, LedgerError> {
        let offset = position - self.base;
        if !self.load(offset, RECORD_HEADER as usize)? {
            return Ok(None);
        }
        let head = self.slice(offset, RECORD_HEADER as usize);
        let Some(header) = RecordHeader::parse(head, self.id, offset) else {
            return Ok(None);
        };
        let len = header.len as usize;
        if len > RECORD_BYTES_MAX || !self.load(offset, RECORD_HEADER as usize + len)? {
            return Ok(None);
        }
        let body = self.slice(offset + RECORD_HEADER, len);
        if header.is_erased() || self.id.crc(offset).of(body) == header.body_crc {
            return Ok(Some(header));
        }
        // Perhaps it was erased since its header was read: the mark is written before the body.
        self.window.clear();
        if !self.load(offset, RECORD_HEADER as usize + len)? {
            return Ok(None);
        }
        let head = self.slice(offset, RECORD_HEADER as usize);
        Ok(RecordHeader::parse(head, self.id, offset)
            .filter(|now| now.is_erased() && now.len == header.len))
    }

    /// The body of the record that was just read.
    pub(crate) fn body(&self, position: u64, header: RecordHeader) -> &[u8] {
        self.slice(position - self.base + RECORD_HEADER, header.len as usize)
    }

    /// Reads bytes at an offset, fewer at the end.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, LedgerError> {
        self.file
            .read_at(buffer, offset)
            .map_err(|source| LedgerError::Io {
                path: self.path.clone(),
                doing: "reading a segment",
                source,
            })
    }
}
