//! What strangers send, without a socket: for the fuzz targets (`fuzz/`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jurat_disk::Host;
use jurat_proof::{Chain, Frontier, VerifierKey};
use jurat_sink::Enrolment;

use crate::clients::requested;
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
        key: key.clone(),
        before: None,
        retired: Vec::new(),
    };
    let mut raw = Vec::new();
    decompress(body, &mut raw)?;
    let judged = judge(&raw, origin, &known)?;
    Ok(judged.map_or(0, |judged| judged.frontier.size()))
}

/// Makes the row of a device, and reads it back as the next start would. Returns id and origin.
///
/// # Errors
/// [`Refused`].
///
/// # Panics
/// When a row that was made cannot be read: what this is for.
pub fn enroll(host: &Host, enrolment: &Enrolment) -> Result<(String, String), Refused> {
    let request = BASE64.decode(&enrolment.csr).unwrap_or_default();
    let tls = requested(&request, &enrolment.device).unwrap_or([4; 65]);
    let (device, token) = Device::new(host, "example.org", enrolment, tls, None, 0)?;
    let row = serde_json::to_vec(&device.row).expect("a row can be written");
    let read = Device::read(&row).expect("a row that was written can be read");
    assert!(read.accepts_token(&token) && read.key == device.key);
    Ok((read.row.id, read.row.origin))
}
