//! A group: the records that become durable together.

use crate::format::{FLAG_ERASED, KIND_OWN, RECORD_HEADER, RecordHeader, SegmentId};
use crate::{LedgerError, RECORD_BYTES_MAX};

/// Records that are appended in one step. Reused from commit to commit.
#[derive(Clone, Debug, Default)]
pub struct Group {
    bytes: Vec<u8>,
    heads: Vec<usize>,
}

impl Group {
    /// An empty group.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a record whose body is these parts, one after the other.
    ///
    /// # Errors
    /// [`LedgerError::TooLong`] when the body is too large; the group is as before.
    ///
    /// # Panics
    /// When `kind` is one of the ledger's own (250 and above): a bug.
    pub fn push(&mut self, kind: u8, parts: &[&[u8]]) -> Result<(), LedgerError> {
        assert!(
            kind < KIND_OWN,
            "record kinds from 250 on are the ledger's own"
        );
        self.push_any(kind, parts)
    }

    pub(crate) fn push_any(&mut self, kind: u8, parts: &[&[u8]]) -> Result<(), LedgerError> {
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        if len > RECORD_BYTES_MAX {
            return Err(LedgerError::TooLong { len });
        }
        self.heads.push(self.bytes.len());
        let mut header = [0; RECORD_HEADER as usize];
        header[..4].copy_from_slice(&(len as u32).to_le_bytes());
        header[4] = kind;
        self.bytes.extend_from_slice(&header);
        parts
            .iter()
            .for_each(|part| self.bytes.extend_from_slice(part));
        Ok(())
    }

    /// Adds a record whose body is gone: it reads as erased.
    ///
    /// # Errors
    /// As [`Group::push`].
    pub fn push_erased(&mut self, kind: u8) -> Result<(), LedgerError> {
        let head = self.bytes.len();
        self.push(kind, &[])?;
        self.bytes[head + 5] = FLAG_ERASED;
        Ok(())
    }

    /// The bytes that this group will take on disk, without its commit record.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// How many records were added.
    pub fn records(&self) -> usize {
        self.heads.len()
    }

    /// Forgets everything that was added.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.heads.clear();
        // A rare huge group must not hold its memory for ever.
        self.bytes.shrink_to(GROUP_BYTES_KEPT);
    }

    /// Fills in the CRCs for a group that will stand at `offset` of this segment.
    pub(crate) fn place(&mut self, id: SegmentId, offset: u64) -> &[u8] {
        for (index, head) in self.heads.iter().enumerate() {
            let end = self
                .heads
                .get(index + 1)
                .copied()
                .unwrap_or(self.bytes.len());
            let seed = id.crc(offset + *head as u64);
            let (header, body) = self.bytes[*head..end].split_at_mut(RECORD_HEADER as usize);
            let fixed = RecordHeader {
                len: body.len() as u32,
                kind: header[4],
                flags: header[5],
                body_crc: seed.of(body),
            };
            header.copy_from_slice(&fixed.encode(seed));
        }
        &self.bytes
    }
}

const GROUP_BYTES_KEPT: usize = 4 * 1024 * 1024;

/// How much a group held, to take back what was added since.
#[derive(Clone, Copy)]
pub(crate) struct Marks(usize, usize);

impl Group {
    pub(crate) fn marks(&self) -> Marks {
        Marks(self.bytes.len(), self.heads.len())
    }

    pub(crate) fn truncate(&mut self, marks: Marks) {
        self.bytes.truncate(marks.0);
        self.heads.truncate(marks.1);
    }
}
