//! How each product writes: foreign bytes -> events. One file a product, pure, no I/O.
//!
//! Promise: every byte string gives exactly one record event that owns the bytes, whatever is in
//! them; parsing can add knowledge and can never lose a record. No panic on any input.

pub mod claude_code;

/// What the place of a record tells about it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hint<'a> {
    /// The file's name without its extension.
    pub file_stem: &'a str,
}
