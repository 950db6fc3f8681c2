//! One function for every parser of foreign bytes. Each takes any bytes and must come back without a
//! panic; beyond that it holds its parser to what the rest of the program relies on.
//!
//! `fuzz_targets/` gives them to libFuzzer; `tests/it` gives them the committed corpus and variants of it.

mod attest;
mod evidence;
mod ledger;
mod peers;
mod texts;
mod witness;

pub use attest::{boot_log, ima, machine_policy, tpm};
pub use evidence::{SINK, bundle, entry, lines_of, note, records, reveal, siem, tile, upload};
pub use ledger::{Piece, ledger};
pub use peers::{ACCEPTED, answer, certificate, enrolment, receipt, relp, request, signer};
pub use texts::{redact, settings, transcript, trust};
pub use witness::{fork, policy, witness};

/// A target: any bytes in, no panic out.
pub type Target = fn(&[u8]);

/// Every target with its name, which is also the name of its corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("answer", answer),
    ("boot_log", boot_log),
    ("bundle", bundle),
    ("enrolment", enrolment),
    ("entry", entry),
    ("fork", fork),
    ("ima", ima),
    ("ledger", ledger),
    ("machine_policy", machine_policy),
    ("note", note),
    ("policy", policy),
    ("receipt", receipt),
    ("records", records),
    ("redact", redact),
    ("request", request),
    ("reveal", reveal),
    ("settings", settings),
    ("siem", siem),
    ("certificate", certificate),
    ("relp", relp),
    ("signer", signer),
    ("tile", tile),
    ("tpm", tpm),
    ("transcript", transcript),
    ("trust", trust),
    ("upload", upload),
    ("witness", witness),
];

/// The origin of the log in the seeds.
pub const ORIGIN: &str = "example.org/jurat/11111111-2222-4333-8444-555555555555/0";

/// The key of the log in the seeds: a signature that fits lets the bytes after it be looked at.
///
/// # Panics
/// Never: the origin can name a key.
pub fn log_key() -> jurat_key::SoftwareKey {
    jurat_key::SoftwareKey::log(&jurat_key::Secret::from_bytes([5; 32]), ORIGIN)
        .expect("the origin can name a key")
}

/// A key of the other kind for the same log.
///
/// # Panics
/// Never: the origin can name a key.
pub fn p256_key() -> jurat_key::HeldSigner {
    jurat_key::P256Key::log(&jurat_key::Secret::from_bytes([5; 32]), ORIGIN)
        .expect("the number is one of the curve's")
}

/// The first line of the input as text, and the rest: for targets that need two inputs.
fn two(data: &[u8], separator: &[u8]) -> (String, Vec<u8>) {
    let at = data
        .windows(separator.len())
        .position(|window| window == separator);
    let (first, second) = at.map_or((data, &data[..0]), |at| {
        (&data[..at], &data[at + separator.len()..])
    });
    (String::from_utf8_lossy(first).into_owned(), second.to_vec())
}
