//! ECDSA signs with randomness: the signatures of the run before are kept, by key and digest.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jurat_key::{HeldKey, HeldSigner, P256Key, Secret};
use jurat_proof::{SignerError, sha256};

/// Beside the vectors.
pub(super) const FILE: &str = "p256.txt";

#[derive(Default)]
struct Lines {
    before: BTreeMap<String, Vec<u8>>,
    used: BTreeMap<String, Vec<u8>>,
}

static LINES: LazyLock<Mutex<Lines>> = LazyLock::new(|| {
    let text = std::fs::read_to_string(super::folder().join(FILE)).unwrap_or_default();
    let line = |line: &str| {
        let (of, signature) = line.split_once(' ')?;
        Some((of.to_owned(), BASE64.decode(signature).ok()?))
    };
    Mutex::new(Lines {
        before: text.lines().filter_map(line).collect(),
        used: BTreeMap::new(),
    })
});

/// The signatures of this run: SHA-256 of the key's point and of what it signed, and the signature.
pub(super) fn text() -> String {
    let lines = LINES.lock().unwrap();
    let line =
        |(of, signature): (&String, &Vec<u8>)| format!("{of} {}\n", BASE64.encode(signature));
    lines.used.iter().map(line).collect()
}

/// A P-256 key with this seed, and this name in notes.
pub(super) fn key(seed: u8, name: &str) -> HeldSigner {
    let key = P256Key::new(&Secret::from_bytes([seed; 32])).unwrap();
    HeldSigner::new(Arc::new(Kept(key)), name).unwrap()
}

struct Kept(P256Key);

impl HeldKey for Kept {
    fn point(&self) -> &[u8; 65] {
        self.0.point()
    }

    fn place(&self) -> String {
        self.0.place()
    }

    fn sign_digest(&self, digest: &[u8; 32]) -> Result<Vec<u8>, SignerError> {
        let mut lines = LINES.lock().unwrap();
        let of = sha256(&[self.point(), digest]).to_string();
        let signature = match lines.before.get(&of) {
            Some(kept) => kept.clone(),
            None => self.0.sign_digest(digest)?,
        };
        // Within a run as well: a log is often made more than once.
        lines.before.insert(of.clone(), signature.clone());
        lines.used.insert(of, signature.clone());
        Ok(signature)
    }
}
