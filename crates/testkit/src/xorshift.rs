//! Randomness that is the same in every run.

use std::sync::Mutex;

use jurat_disk::Rng;

/// A generator that gives the same bytes for the same seed. Not random: for tests only.
#[derive(Debug)]
pub struct Repeatable(Mutex<u64>);

impl Repeatable {
    /// The generator for this seed.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1))
    }

    /// The next number below `bound`.
    pub fn below(&self, bound: u64) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes) % bound.max(1)
    }
}

impl Rng for Repeatable {
    fn fill(&self, buffer: &mut [u8]) {
        let mut state = self.0.lock().expect("no test panics while it draws");
        for byte in buffer {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            *byte = state.to_le_bytes()[3];
        }
    }
}
