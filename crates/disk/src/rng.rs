//! Randomness.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};

/// A source of random bytes.
pub trait Rng: Send + Sync {
    /// Fills the buffer.
    fn fill(&self, buffer: &mut [u8]);
}

/// The machine's own generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRng;

impl Rng for SystemRng {
    fn fill(&self, buffer: &mut [u8]) {
        // A machine that cannot give random bytes cannot make salts: there is nothing to go on with.
        SystemRandom::new()
            .fill(buffer)
            .expect("the operating system gives random bytes");
    }
}
