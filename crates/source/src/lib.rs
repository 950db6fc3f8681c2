//! Reads what agents write: files that grow, rotate, shrink, are rewritten and vanish.
//!
//! Promise: every byte of a followed file is given out once, in order, as lines; an unterminated
//! last line is held back until it ends or the file is gone. A position is trusted only when the
//! file's identity *and* the bytes before it are as they were; otherwise the file is read again from
//! the front, with a notice that says what was lost. What cannot be read is said once, and said again
//! when it works. Nothing buffers a whole file.
//!
//! What was read is compared as a whole (CRC32C) when a file was changed without growing, some scans
//! after it began to grow, and at the start when it is not as it was: so a change in its middle is
//! noticed too. That is a notice; the evidence is the seal.
//!
//! Known gap: what is changed between its writing and its reading is not seen, and a change that
//! leaves the CRC as it was (which can be constructed) is not noticed.
//!
//! Not here: what the lines mean.

mod failing;
mod followed;
mod os;
mod position;
mod root;
mod tail;
mod watch;

pub use position::Position;
pub use root::{Listing, Root, RootError};
pub use tail::{Item, LINE_BYTES_MAX, Lost, Tail};
pub use watch::Watch;
