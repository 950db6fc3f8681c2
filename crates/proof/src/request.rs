//! What a device signs of an upload request (`docs/formats/upload.md`). Authenticates the
//! transport; never evidence.

use aws_lc_rs::hmac;

use crate::sha256;

/// The signed facts of a request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The HTTP method, in capitals.
    pub method: &'a str,
    /// The path with its query, without host.
    pub path: &'a str,
    /// The device.
    pub device: &'a str,
    /// The content encoding, empty when there is none.
    pub encoding: &'a str,
    /// Seconds since 1970.
    pub timestamp: u64,
    /// A value used once.
    pub nonce: &'a str,
    /// The body as it is sent.
    pub body: &'a [u8],
}

impl Request<'_> {
    fn message(&self) -> String {
        format!(
            "jurat-hmac/v1\n{}\n{}\n{}\n{}\n{}\n{}\n{}",
            self.method,
            self.path,
            self.device,
            self.encoding,
            self.timestamp,
            self.nonce,
            sha256(&[self.body])
        )
    }

    /// The header value: `sha256=<hex>`.
    pub fn sign(&self, key: &[u8; 32]) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        let tag = hmac::sign(&key, self.message().as_bytes());
        tag.as_ref()
            .iter()
            .fold("sha256=".to_owned(), |text, byte| {
                format!("{text}{byte:02x}")
            })
    }

    /// Whether a header value, with or without `sha256=`, is this key's; in constant time.
    pub fn verify(&self, key: &[u8; 32], header: &str) -> bool {
        let hex = header.strip_prefix("sha256=").unwrap_or(header);
        let Some(tag) = crate::Digest::from_hex(hex) else {
            return false;
        };
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        hmac::verify(&key, self.message().as_bytes(), &tag.0).is_ok()
    }
}
