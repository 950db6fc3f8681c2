//! Keys that something else holds: the software TPM and the software token of Debian, and programs; and quotes
//! of enclaves, against folders; and what TLS speaks.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod chip;
#[cfg(unix)]
mod enclave;
mod external;
mod fips;
#[cfg(feature = "pkcs11")]
mod pkcs11;
mod swtpm;
mod tools;

use std::sync::Arc;

use aws_lc_rs::digest::{Digest, SHA256};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use jurat_key::{HeldKey, HeldSigner};
use jurat_proof::{Note, Signer as _};

/// Signs a note with the key and verifies it as a stranger does.
fn signs_a_note(key: Arc<dyn HeldKey>) {
    let signer = HeldSigner::new(key, "example.org/held").unwrap();
    let text = "example.org/held\n7\nAAAA\n".to_owned();
    let signature = signer.sign_note(&text).unwrap();
    let note = Note {
        text,
        signatures: vec![signature],
    };
    let note = Note::parse(note.encode().as_bytes()).unwrap();
    assert_eq!(note.is_signed_by(signer.verifier_key()), Ok(true));
}

/// Signs a digest with the key and verifies it.
fn signs(key: &dyn HeldKey) {
    let digest = [0xa7; 32];
    let signature = key.sign_digest(&digest).unwrap();
    let digest = Digest::import_less_safe(&digest, &SHA256).unwrap();
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.point());
    key.verify_digest(&digest, &signature).unwrap();
}
