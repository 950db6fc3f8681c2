//! What strangers send, without a socket: for the fuzz targets (`fuzz/`).

use std::path::Path;

use jurat_disk::Host;
use jurat_proof::{Chain, Frontier, VerifierKey};
use jurat_sink::Enrolment;

use crate::devices::{DeviceError, Devices};
use crate::ingest::{Known, Refused, decompress, judge};

/// Judges an upload as the first of its log. Returns the size that it would be archived at.
///
/// # Errors
/// [`Refused`].
pub fn first_upload(body: &[u8], origin: &str, key: &VerifierKey) -> Result<u64, Refused> {
    let known = Known {
        frontier: Frontier::default(),
        chain: Chain::new(origin),
    };
    let mut raw = Vec::new();
    decompress(body, &mut raw)?;
    let judged = judge(&raw, origin, key, &known)?;
    Ok(judged.map_or(0, |judged| judged.frontier.size()))
}

/// Enrols a device in a new table, and reads the table back.
///
/// # Errors
/// [`DeviceError`].
pub fn enroll(host: &Host, enrolment: &Enrolment) -> Result<crate::Device, DeviceError> {
    let path = Path::new("/devices.json");
    let (device, _) = Devices::open(host, path)?.enroll(host, "example.org", enrolment)?;
    let kept = Devices::open(host, path)?;
    Ok(kept.find(&device.id).cloned().unwrap_or(device))
}
