//! What strangers send, without a socket: for the fuzz targets (`fuzz/`).

use jurat_disk::Host;
use jurat_proof::{Chain, Frontier, VerifierKey};
use jurat_sink::Enrolment;

use crate::devices::Device;
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

/// Makes a device of an enrolment, as it would stand in the table: its key, by the origin of its log.
///
/// # Errors
/// [`Refused`].
pub fn enroll(host: &Host, enrolment: &Enrolment) -> Result<VerifierKey, Refused> {
    let (device, _) = Device::new(host, "example.org", enrolment)?;
    let row = serde_json::to_vec(&device.row).unwrap_or_default();
    let kept = Device::read(&row).map(|device| device.key);
    Ok(kept.expect("a device in the table can be read"))
}
