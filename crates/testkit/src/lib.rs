//! What tests stand on: a disk that can be torn at every step, a generator that repeats itself,
//! and peers. Never shipped.

pub mod claude_cli;
pub mod foreign_witness;
pub mod ima;
mod messages_api;
pub mod need;
mod os;
mod peer;
pub mod rsyslog;
mod search;
mod sim_disk;
pub mod softhsm;
pub mod swtpm;
mod xorshift;

pub use messages_api::{MessagesApi, Turn};
pub use peer::{Answer, Peer, Receipts, Script, Sent};
pub use search::{contains, files_with, holds, unpacked};
pub use sim_disk::{Fault, SimDisk};
pub use xorshift::Repeatable;
