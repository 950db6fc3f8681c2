//! Exit codes, in one place. `jurat help` and the man page print this table.

/// Yes: done, verified, clean.
pub(crate) const YES: u8 = 0;
/// No: tampered, damaged, refused, failed.
pub(crate) const NO: u8 = 1;
/// Could not tell: trust or evidence is missing.
pub(crate) const COULD_NOT_TELL: u8 = 2;
/// Wrong usage (`EX_USAGE`).
pub(crate) const USAGE: u8 = 64;

/// The table, for help and man page.
pub(crate) const TABLE: &str = "\
Exit codes:
   0  yes: done, verified, clean
   1  no: tampered, damaged, refused, failed
   2  could not tell: trust or evidence is missing
  64  wrong usage";
