//! Exit codes, in one place. `jurat help` and the man page print this table.

use jurat_agent::ConfigError;
use jurat_collector::SettingsError;
use jurat_witness::{ServeError, StoreError};

/// Yes: done, verified, clean.
pub(crate) const YES: u8 = 0;
/// No: tampered, damaged, refused, failed.
pub(crate) const NO: u8 = 1;
/// Could not tell: trust or evidence is missing.
pub(crate) const COULD_NOT_TELL: u8 = 2;
/// Wrong usage (`EX_USAGE`), a configuration that is none included.
pub(crate) const USAGE: u8 = 64;
/// Who read the output stopped, as a shell says it: 128 + SIGPIPE.
pub(crate) const PIPE_CLOSED: u8 = 141;

/// What was asked for cannot be meant.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl std::fmt::Display for Usage {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The code of a command that failed.
pub(crate) fn of(error: &anyhow::Error) -> u8 {
    let is_usage = error.chain().any(|cause| {
        cause.is::<Usage>()
            || matches!(
                cause.downcast_ref(),
                Some(
                    ConfigError::Syntax { .. }
                        | ConfigError::Variable { .. }
                        | ConfigError::Value { .. }
                )
            )
            || matches!(cause.downcast_ref(), Some(SettingsError::Syntax { .. }))
            || matches!(
                cause.downcast_ref(),
                Some(ServeError::Store(StoreError::NoName))
            )
    });
    if is_usage { USAGE } else { NO }
}

/// The table, for help and man page.
pub(crate) const TABLE: &str = "\
Exit codes:
   0  yes: done, verified, clean
   1  no: tampered, damaged, refused, failed
   2  could not tell: trust or evidence is missing
  64  wrong usage, or a configuration that is none
 141  who read the output stopped reading";
