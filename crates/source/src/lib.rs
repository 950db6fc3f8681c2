//! Reads what agents write: files that grow, rotate, shrink, are rewritten and vanish.
//!
//! Promise: every byte of a followed file is given out once, in order, as lines; an unterminated
//! last line is held back until it ends or the file is gone. A position is trusted only when the
//! file's identity *and* the bytes before it are as they were; otherwise the file is read again from
//! the front, with a notice that says what was lost. What cannot be read is said once, and said again
//! when it works. Nothing buffers a whole file.
//!
//! Known gap: a change of bytes already read, in place and of the same length, outside the first
//! 4 KiB and the last 256 bytes before the position, is not noticed here.
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
