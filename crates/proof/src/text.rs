//! What the C2SP text formats share: numbers, and lines of hashes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::Digest;

/// Digits without a leading zero.
pub fn decimal(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = digits && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

/// 32 bytes in base64 with padding.
pub(crate) fn hash_line(line: &str) -> Result<Digest, &'static str> {
    let hash = BASE64.decode(line).ok();
    let hash = hash.and_then(|hash| Digest::from_slice(&hash));
    hash.ok_or("a hash is 32 bytes in base64")
}

/// A proof, a hash in base64 a line.
pub fn write_proof(proof: &[Digest]) -> String {
    proof
        .iter()
        .map(|hash| BASE64.encode(hash.0) + "\n")
        .collect()
}

/// Reads a proof of at most so many hashes.
///
/// # Errors
/// What is wrong with it.
pub fn read_proof<'a>(
    lines: impl Iterator<Item = &'a str>,
    most: usize,
) -> Result<Vec<Digest>, &'static str> {
    let mut proof = Vec::new();
    for line in lines {
        if proof.len() == most {
            return Err("too many hashes");
        }
        proof.push(hash_line(line)?);
    }
    Ok(proof)
}
