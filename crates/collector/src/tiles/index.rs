//! Which uploads hold which leaves, for all logs in one file, in the order of the archive.
//!
//! Records of one length point back to earlier ones of the same log: to the one before, and to one
//! further back, so that any leaf is found in few steps. Each carries a check: what a crash left
//! half written ends the file, and is read from the archive again.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use jurat_disk::{Disk, File};
use jurat_proof::{Digest, sha256};

use super::{TilesError, open_or_create};

/// log 32 | from, to, position, next, prev, skip, own 8 each | number 4 | late 4 | check 8.
const RECORD_BYTES: usize = 104;
const CHECKED_BYTES: usize = RECORD_BYTES - 8;

/// An archived upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Upload {
    /// The digest of its log's origin.
    pub(crate) log: Digest,
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// Where it stands in the archive, and what comes after it.
    pub(crate) position: u64,
    pub(crate) next: u64,
    /// How many leaves the collector's own log had before it.
    pub(crate) own: u64,
    /// It came instead of an earlier one of the same leaves.
    pub(crate) late: bool,
}

#[derive(Clone, Copy)]
struct Record {
    upload: Upload,
    /// The record before of the same log and lateness: its number plus one.
    prev: u64,
    /// Likewise the one whose `number` is this one's without its lowest bit.
    skip: u64,
    /// How many records of the same log and lateness stand before it.
    number: u32,
}

impl Record {
    fn encode(&self) -> [u8; RECORD_BYTES] {
        let upload = &self.upload;
        let mut bytes = [0; RECORD_BYTES];
        bytes[..32].copy_from_slice(&upload.log.0);
        let numbers = [
            upload.from,
            upload.to,
            upload.position,
            upload.next,
            self.prev,
            self.skip,
            upload.own,
        ];
        for (place, number) in bytes[32..].as_chunks_mut::<8>().0.iter_mut().zip(numbers) {
            *place = number.to_le_bytes();
        }
        bytes[88..92].copy_from_slice(&self.number.to_le_bytes());
        bytes[92] = upload.late.into();
        let check = sha256(&[&bytes[..CHECKED_BYTES]]);
        bytes[CHECKED_BYTES..].copy_from_slice(&check.0[..8]);
        bytes
    }

    fn decode(bytes: &[u8; RECORD_BYTES]) -> Option<Self> {
        let check = sha256(&[&bytes[..CHECKED_BYTES]]);
        if bytes[CHECKED_BYTES..] != check.0[..8] {
            return None;
        }
        let (log, rest) = bytes.split_first_chunk::<32>()?;
        let (numbers, _) = rest.as_chunks::<8>();
        let mut numbers = numbers.iter().map(|number| u64::from_le_bytes(*number));
        let mut next = || numbers.next();
        let (from, to, position, after) = (next()?, next()?, next()?, next()?);
        let (prev, skip, own, number) = (next()?, next()?, next()?, next()?);
        let upload = Upload {
            log: Digest(*log),
            from,
            to,
            position,
            next: after,
            own,
            late: number >> 32 == 1,
        };
        Some(Self {
            upload,
            prev,
            skip,
            number: number as u32,
        })
    }
}

/// The newest records of a log, numbers plus one.
#[derive(Clone, Copy, Default)]
struct Ends {
    last: u64,
    late: u64,
}

impl Ends {
    fn of(&mut self, late: bool) -> &mut u64 {
        if late { &mut self.late } else { &mut self.last }
    }
}

/// The index, open.
pub(crate) struct Index {
    file: Box<dyn File>,
    count: u64,
    logs: HashMap<Digest, Ends>,
    last: Option<Upload>,
}

impl Index {
    /// Opens the file or begins it, and cuts off what is not whole, and what was added when the own
    /// log had more leaves than this.
    pub(crate) fn open(disk: &dyn Disk, path: &Path, own: u64) -> io::Result<Self> {
        let mut index = Self {
            file: open_or_create(disk, path)?,
            count: 0,
            logs: HashMap::new(),
            last: None,
        };
        let mut buffer = vec![0; RECORD_BYTES * 4096];
        'all: loop {
            let offset = index.count * RECORD_BYTES as u64;
            let read = index.file.read_at(&mut buffer, offset)?;
            let (records, _) = buffer.get(..read).unwrap_or_default().as_chunks();
            for bytes in records {
                match Record::decode(bytes) {
                    Some(record) if record.upload.own <= own => index.note(&record),
                    _ => break 'all,
                }
            }
            if records.is_empty() {
                break;
            }
        }
        index.file.set_len(index.count * RECORD_BYTES as u64)?;
        Ok(index)
    }

    fn note(&mut self, record: &Record) {
        self.count += 1;
        let upload = record.upload;
        *self.logs.entry(upload.log).or_default().of(upload.late) = self.count;
        self.last = Some(upload);
    }

    /// The upload that was added last.
    pub(crate) fn last(&self) -> Option<&Upload> {
        self.last.as_ref()
    }

    /// Adds an upload.
    pub(crate) fn push(&mut self, upload: Upload) -> Result<(), TilesError> {
        let mut ends = self.logs.get(&upload.log).copied().unwrap_or_default();
        let prev = *ends.of(upload.late);
        let (mut skip, mut number) = (0, 0);
        if prev > 0 {
            let mut back = self.record(prev)?;
            number = back.number.saturating_add(1);
            skip = prev;
            while back.number > number & (number - 1) {
                skip = back.skip;
                back = self.record(skip)?;
            }
        }
        let record = Record {
            upload,
            prev,
            skip,
            number,
        };
        let offset = self.count * RECORD_BYTES as u64;
        self.file.write_at(&record.encode(), offset)?;
        self.note(&record);
        Ok(())
    }

    /// Reads a record by its number plus one.
    fn record(&self, plus_one: u64) -> Result<Record, TilesError> {
        let damaged = || TilesError::Torn("the index");
        let number = plus_one.checked_sub(1).ok_or_else(damaged)?;
        let mut bytes = [0; RECORD_BYTES];
        let read = self
            .file
            .read_at(&mut bytes, number * RECORD_BYTES as u64)?;
        if read < RECORD_BYTES {
            return Err(damaged());
        }
        Record::decode(&bytes).ok_or_else(damaged)
    }

    /// A place in the archive at or before this leaf of the own log, and how many leaves of it stand
    /// before that place.
    pub(crate) fn place_of_own(&self, leaf: u64) -> Result<(u64, u64), TilesError> {
        let (mut low, mut high) = (0, self.count);
        // The records below `low` stand at or before the leaf, those from `high` on after it.
        while low < high {
            let middle = low + (high - low) / 2;
            if self.record(middle + 1)?.upload.own <= leaf {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        if low == 0 {
            return Ok((0, 0));
        }
        let upload = self.record(low)?.upload;
        Ok((upload.position, upload.own))
    }

    /// Whether anything of this log was archived: its newest upload.
    pub(crate) fn newest(&self, log: &Digest) -> Result<Option<Upload>, TilesError> {
        match self.logs.get(log) {
            Some(ends) if ends.last > 0 => Ok(Some(self.record(ends.last)?.upload)),
            _ => Ok(None),
        }
    }

    /// The upload that brought this leaf first.
    pub(crate) fn find(&self, log: &Digest, leaf: u64) -> Result<Option<Upload>, TilesError> {
        let mut at = self.logs.get(log).map_or(0, |ends| ends.last);
        while at > 0 {
            let record = self.record(at)?;
            if leaf >= record.upload.to {
                return Ok(None);
            }
            if leaf >= record.upload.from {
                return Ok(Some(record.upload));
            }
            let far = match record.skip {
                0 => None,
                skip => Some(self.record(skip)?.upload).filter(|far| leaf < far.to),
            };
            at = if far.is_some() {
                record.skip
            } else {
                record.prev
            };
        }
        Ok(None)
    }

    /// The upload that came late in the place of the one that begins at this leaf.
    pub(crate) fn find_late(&self, log: &Digest, from: u64) -> Result<Option<Upload>, TilesError> {
        let mut at = self.logs.get(log).map_or(0, |ends| ends.late);
        while at > 0 {
            let record = self.record(at)?;
            if record.upload.from == from {
                return Ok(Some(record.upload));
            }
            at = record.prev;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use jurat_testkit::SimDisk;

    fn upload(log: u8, number: u64, late: bool) -> Upload {
        Upload {
            log: Digest([log; 32]),
            from: number * 10,
            to: number * 10 + 10,
            position: number * 100,
            next: number * 100 + 50,
            own: number,
            late,
        }
    }

    #[test]
    fn every_leaf_leads_to_its_upload_and_a_torn_end_is_cut_off() {
        let disk = Arc::new(SimDisk::new());
        let path = Path::new("/index");
        let mut index = Index::open(&*disk, path, u64::MAX).unwrap();
        for number in 0..300 {
            index.push(upload(1, number, false)).unwrap();
            if number % 3 == 0 {
                index.push(upload(2, number / 3, false)).unwrap();
            }
            if number % 50 == 0 {
                index.push(upload(1, number, true)).unwrap();
            }
        }
        let check = |index: &Index, most: u64| {
            for leaf in 0..most * 10 {
                let found = index.find(&Digest([1; 32]), leaf).unwrap();
                assert_eq!(found, Some(upload(1, leaf / 10, false)), "{leaf}");
            }
            assert_eq!(index.find(&Digest([1; 32]), most * 10).unwrap(), None);
            assert_eq!(index.find(&Digest([3; 32]), 0).unwrap(), None);
        };
        check(&index, 300);
        let late = index.find_late(&Digest([1; 32]), 500).unwrap();
        assert_eq!(late, Some(upload(1, 50, true)));
        assert_eq!(index.find_late(&Digest([1; 32]), 510).unwrap(), None);
        let other = index.find(&Digest([2; 32]), 995).unwrap();
        assert_eq!(other, Some(upload(2, 99, false)));
        drop(index);
        // A sector that never reached the disk, in the middle.
        disk.corrupt(path, |bytes| bytes[20_000..20_512].fill(0));
        let index = Index::open(&*disk, path, u64::MAX).unwrap();
        assert!(index.count < 200);
        let newest = index.newest(&Digest([1; 32])).unwrap().unwrap();
        check(&index, newest.to / 10);
    }
}
