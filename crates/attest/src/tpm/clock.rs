//! The TPM's clock and its counters: they only ever go forward.

use serde::{Deserialize, Serialize};

use super::wire::{Malformed, Reader};

/// `TPMS_CLOCK_INFO`, and the firmware that said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// Milliseconds that the TPM was powered.
    pub clock_ms: u64,
    /// Starts of the machine.
    pub resets: u32,
    /// Resumptions since the last start.
    pub restarts: u32,
    /// `clock_ms` was never set back by a lost power.
    pub safe: bool,
    /// The vendor's number of the firmware.
    pub firmware: u64,
}

/// What happened between two statements of one TPM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// Nothing: the machine ran on.
    SameBoot,
    /// It slept.
    Resumed,
    /// It started so many times.
    Rebooted(u32),
}

/// Why a later statement of a TPM cannot be later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClockError {
    /// Fewer starts than before.
    #[error("the TPM has started {now} times, it had {before}: an earlier state, or another TPM")]
    Resets {
        /// Then.
        before: u32,
        /// Now.
        now: u32,
    },
    /// Fewer resumptions in the same boot.
    #[error("the TPM has resumed {now} times in this boot, it had {before}")]
    Restarts {
        /// Then.
        before: u32,
        /// Now.
        now: u32,
    },
    /// The clock runs backwards.
    #[error("the TPM's clock says {now} ms, it said {before} ms")]
    Clock {
        /// Then.
        before: u64,
        /// Now.
        now: u64,
    },
}

impl Clock {
    pub(super) fn parse(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (clock_ms, resets, restarts) = (reader.u64()?, reader.u32()?, reader.u32()?);
        let safe = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return Err(reader.malformed()),
        };
        Ok(Self {
            clock_ms,
            resets,
            restarts,
            safe,
            firmware: reader.u64()?,
        })
    }

    /// What happened since an earlier statement of the same TPM. A change of the firmware is the caller's to see.
    ///
    /// # Errors
    /// [`ClockError`]: this cannot have come later.
    pub fn since(&self, before: &Self) -> Result<Since, ClockError> {
        if self.resets < before.resets {
            return Err(ClockError::Resets {
                before: before.resets,
                now: self.resets,
            });
        }
        // After a start without an orderly end the clock may be a little behind, and says so.
        if self.clock_ms < before.clock_ms && (self.resets == before.resets || self.safe) {
            return Err(ClockError::Clock {
                before: before.clock_ms,
                now: self.clock_ms,
            });
        }
        if self.resets > before.resets {
            return Ok(Since::Rebooted(self.resets - before.resets));
        }
        if self.restarts < before.restarts {
            return Err(ClockError::Restarts {
                before: before.restarts,
                now: self.restarts,
            });
        }
        Ok(if self.restarts > before.restarts {
            Since::Resumed
        } else {
            Since::SameBoot
        })
    }
}
