//! What a quote is of: one head of one log, and a nonce of whoever asks. The same for every kind of hardware.

use aws_lc_rs::digest::{Context, SHA256};

const DOMAIN: &[u8] = b"jurat/quote/v1\0";

/// What a TPM is given to sign with its quote.
pub fn qualifying(checkpoint_body: &[u8], nonce: &[u8; 32]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for piece in [DOMAIN, checkpoint_body, nonce] {
        context.update(piece);
    }
    let digest = context.finish();
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// What an enclave or a confidential VM puts into its report: the same, and zeros.
pub fn report_data(qualifying: &[u8; 32]) -> [u8; 64] {
    let mut data = [0; 64];
    data[..32].copy_from_slice(qualifying);
    data
}
