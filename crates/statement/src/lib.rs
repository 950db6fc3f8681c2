//! What a log says in the formats of others, signed with the log's own key: a COSE receipt
//! (RFC 9942) for an event, an in-toto statement in a DSSE envelope for a session.
//!
//! Promise: nothing is signed that was not recomputed here from the leaves and found under a head
//! that the log signed before. So a statement can add readers, but never a fact.
//!
//! Not here: files, the network, and judging statements of others. Format: `docs/formats/statements.md`.

mod cose;
mod dsse;
mod inclusion;
mod session;

pub use cose::receipt;
pub use dsse::{PAYLOAD_TYPE, PREDICATE_TYPE, envelope};
pub use inclusion::{Inclusion, InclusionBuilder};
pub use session::{Session, SessionBuilder};

use jurat_proof::{EntryError, PublicKey, SignerError, sha256};

/// Why there is no statement.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatementError {
    /// The leaf is not under the head.
    #[error("leaf {index} is not under the head of {size} leaves")]
    Beyond {
        /// The leaf.
        index: u64,
        /// The size of the head.
        size: u64,
    },
    /// The leaves do not give the signed root.
    #[error(
        "the {found} leaves here do not give the signed root of {size} leaves; nothing was signed"
    )]
    Root {
        /// How many leaves came.
        found: u64,
        /// The size of the head.
        size: u64,
    },
    /// An entry cannot be read.
    #[error("leaf {seq}")]
    Entry {
        /// The leaf.
        seq: u64,
        /// What is wrong with it.
        #[source]
        source: EntryError,
    },
    /// No leaf of the session is here.
    #[error("no entry of the session {0} is here")]
    NoSession(String),
    /// The key could not sign.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// The statement could not be encoded.
    #[error("encoding the statement: {0}")]
    Encoding(String),
}

/// The name of a key in statements: SHA-256 of its SubjectPublicKeyInfo.
fn key_id(key: &PublicKey) -> [u8; 32] {
    sha256(&[&key.spki()]).0
}

/// A public key as PEM, which `openssl` and every verifier reads.
pub fn public_key_pem(key: &PublicKey) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new("PUBLIC KEY", key.spki()), config)
}
