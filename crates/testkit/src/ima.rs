//! Entries of a measurement list as a kernel writes them (`security/integrity/ima/ima_fs.c`).

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};

/// One entry, and what the kernel extends for it.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its bytes in `binary_runtime_measurements`.
    pub bytes: Vec<u8>,
    /// What it extends into PCR 10 of the SHA-256 bank.
    pub extended: [u8; 32],
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_le_bytes()[..], bytes].concat()
}

fn written(template: &str, template_hash: &[u8], data: &[u8]) -> Vec<u8> {
    let pcr = 10_u32.to_le_bytes();
    [&pcr[..], template_hash, &sized(template.as_bytes()), data].concat()
}

fn ng(algorithm: &str, file: &[u8], name: &str, signature: Option<&[u8]>) -> Vec<u8> {
    let file = [algorithm.as_bytes(), b":\0", file].concat();
    let mut fields = [sized(&file), sized(&[name.as_bytes(), b"\0"].concat())].concat();
    fields.extend(signature.map(sized).unwrap_or_default());
    fields
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = digest(&SHA256, bytes);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// An entry of `ima-ng`, or of `ima-sig` where there is a signature, which may be empty.
pub fn measured(file: &[u8; 32], name: &str, signature: Option<&[u8]>) -> Line {
    let data = ng("sha256", file, name, signature);
    let template = if signature.is_some() {
        "ima-sig"
    } else {
        "ima-ng"
    };
    let template_hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &data);
    Line {
        bytes: written(template, template_hash.as_ref(), &sized(&data)),
        extended: sha256(&data),
    }
}

/// An entry of the template of before 2013.
pub fn old(file: &[u8; 20], name: &str) -> Line {
    let mut hashed = [&file[..], name.as_bytes()].concat();
    hashed.resize(20 + 256, 0);
    let template_hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &hashed);
    let data = [&file[..], &sized(name.as_bytes())].concat();
    Line {
        bytes: written("ima", template_hash.as_ref(), &data),
        extended: sha256(&hashed),
    }
}

/// An entry of `ima-ng` for a file that changed while it was read.
pub fn violated(name: &str) -> Line {
    Line {
        bytes: written(
            "ima-ng",
            &[0; 20],
            &sized(&ng("sha256", &[0; 32], name, None)),
        ),
        extended: [0xff; 32],
    }
}
