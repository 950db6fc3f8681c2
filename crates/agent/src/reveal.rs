//! Revealing what one leaf commits to: the owner's choice, one leaf at a time.

use std::io;
use std::path::Path;

use jurat_disk::{Host, Mode};
use jurat_key::{KeyError, Secret};
use jurat_seal::{RevealFailed, Revealed};

use crate::enrol::{EnrolError, Enrolment, home_of};

/// Why nothing was revealed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RevealLeafError {
    /// This device is not enrolled.
    #[error(transparent)]
    Enrol(#[from] EnrolError),
    /// The device has no such epoch.
    #[error("this device has no epoch {asked}: the newest one is {newest}")]
    Epoch {
        /// The epoch that was asked for.
        asked: u64,
        /// The one that is written now.
        newest: u64,
    },
    /// The reveal key cannot be read.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The leaf cannot be revealed.
    #[error(transparent)]
    Reveal(#[from] RevealFailed),
}

/// The longest original that is read: a line of a transcript has at most 4 MiB.
const ORIGINAL_BYTES_MAX: u64 = 5 * 1024 * 1024;

/// Reveals a leaf of this endpoint's log, of this epoch or of the newest one, whether it runs or not: its payload with its salt, or, `raw`, the
/// record as it stood before redaction, read again from its file. One line of JSON.
///
/// # Errors
/// [`RevealLeafError`] says what is not here any more.
pub fn reveal(
    host: &Host,
    state_dir: &Path,
    epoch: Option<u64>,
    seq: u64,
    raw: bool,
) -> Result<String, RevealLeafError> {
    let enrolment = Enrolment::load(host, state_dir)?;
    let newest = enrolment.epoch();
    let asked = epoch.unwrap_or(newest);
    let origin = enrolment.origin_of(asked);
    let origin = origin.ok_or(RevealLeafError::Epoch { asked, newest })?;
    let home = home_of(state_dir, asked);
    let key = Secret::load(host, &home.join("keys/reveal.key"))?;
    let of = if raw {
        Revealed::Raw
    } else {
        Revealed::Context
    };
    let revealed = jurat_seal::reveal(
        host.disk.clone(),
        &home.join("ledger"),
        (&origin, key.expose()),
        (seq, of),
        &mut |path, offset, len| {
            if len > ORIGINAL_BYTES_MAX {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            let mut bytes = vec![0; len as usize];
            let file = host.disk.open(path, Mode::Read)?;
            let read = file.read_at(&mut bytes, offset)?;
            bytes.truncate(read);
            Ok(bytes)
        },
    )?;
    Ok(revealed.encode())
}
