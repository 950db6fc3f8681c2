//! A small writer that counts: its state is the number of records appended so far.

use std::path::Path;
use std::sync::Arc;

use jurat_ledger::{Group, Ledger, LedgerError, Options, Replayed};
use jurat_testkit::{Repeatable, SimDisk};

pub(crate) const DIR: &str = "/ledger";

pub(crate) struct Counter {
    pub(crate) ledger: Ledger,
    pub(crate) state: u64,
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

impl Counter {
    pub(crate) fn open(disk: &SimDisk) -> Result<Self, LedgerError> {
        let mut state = 0;
        let mut records_after_state = 0;
        let options = Options {
            segment_bytes: 2_000,
            reserve_bytes: 0,
        };
        let ledger = Ledger::open(
            Arc::new(disk.clone()),
            Arc::new(Repeatable::new(disk.steps() + 1)),
            Path::new(DIR),
            options,
            &0_u64.to_le_bytes(),
            &mut |replayed| match replayed {
                Replayed::Snapshot(bytes) | Replayed::State(bytes) => {
                    state = number(bytes);
                    records_after_state = 0;
                }
                Replayed::Record { .. } => records_after_state += 1,
            },
        )?;
        assert_eq!(
            records_after_state, 0,
            "a record came back without its state"
        );
        Ok(Self { ledger, state })
    }

    /// Appends `count` records that say their number, in one group.
    pub(crate) fn append(&mut self, count: u64) -> Result<(), LedgerError> {
        let mut group = Group::new();
        for index in self.state..self.state + count {
            let body = record(index);
            group.push(7, &[&body])?;
        }
        let after = self.state + count;
        self.ledger
            .append(&mut group, &after.to_le_bytes(), &mut || {
                after.to_le_bytes().to_vec()
            })?;
        self.state = after;
        Ok(())
    }

    /// The numbers of all records, read from the beginning.
    pub(crate) fn numbers(&self) -> Result<Vec<u64>, LedgerError> {
        let mut reader = self.ledger.read(0)?;
        let mut numbers = Vec::new();
        while let Some(item) = reader.next_record()? {
            let index = number(&item.body[..8]);
            assert_eq!(item.body, record(index));
            numbers.push(index);
        }
        Ok(numbers)
    }
}

/// A record of a length of its own, so that sectors tear in different places.
pub(crate) fn record(index: u64) -> Vec<u8> {
    let mut body = index.to_le_bytes().to_vec();
    body.resize(8 + (index as usize * 97) % 700, index as u8);
    body
}
