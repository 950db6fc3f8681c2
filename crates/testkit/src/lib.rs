//! What tests stand on: a disk that can be torn at every step, a generator that repeats itself,
//! and peers. Never shipped.

mod sim_disk;
mod xorshift;

pub use sim_disk::{Fault, SimDisk};
pub use xorshift::Repeatable;
