//! The mathematics an auditor builds alone: entry, leaf, tree, chain, checkpoint, proofs, upload
//! records, bundle, and [`verify()`] which turns evidence and a trust policy into a [`Verdict`].
//!
//! Promise: pure functions and values. The same bytes and the same trust give the same verdict on
//! every machine, today and in ten years; no clock, socket, file or device is asked.
//!
//! Formats: `docs/formats/` (entry, checkpoint, upload, bundle), after RFC 6962 section 2.1 and
//! the C2SP specifications `signed-note`, `tlog-checkpoint`, `tlog-tiles` and `tlog-cosignature`.

mod attested;
mod bundle;
mod chain;
mod check;
mod checkpoint;
mod digest;
mod entry;
mod erase;
mod export;
mod fork;
mod many;
mod note;
mod policy;
mod receipt;
mod record;
mod replay;
mod request;
mod reveal;
mod rotation;
mod text;
mod tile;
mod tree;
mod trust;
mod verdict;
mod verify;

pub use attested::{Attestation, Attestations, Quotes, Unattested};
pub use bundle::{BundleError, BundleReader, BundleWriter, Front, Manifest, Part};
pub use chain::Chain;
pub use check::Check;
pub use checkpoint::{Checkpoint, Cosignature, cosignature_message};
pub use digest::{Digest, Hasher, context_hasher, raw_commitment, sha256};
pub use entry::{Context, EntryError, EntryView};
pub use erase::{Choice, session_name};
pub use export::{Enrolled, ExportError, Exported, Receipts, Selection, Withhold, export};
pub use fork::{FORK_BYTES_MAX, ForkError, ForkProof};
pub use many::{Hashed, Message, hash_records, sha256_many};
pub use note::{Note, NoteError, PublicKey, Signature, Signer, SignerError, VerifierKey};
pub use policy::{Holding, POLICY_BYTES_MAX, Policy, PolicyError, PolicyWitness};
pub use receipt::{RECEIPT_BYTES_MAX, Receipt, ReceiptError, Received};
pub use record::{LEAVES_MAX, Record, RecordError, RecordReader, parse_leaves, write_record};
pub use replay::{Replay, ReplayError, SessionSummary, Summary};
pub use request::Request;
pub use reveal::{REVEAL_BYTES_MAX, Reveal, RevealError, Revealed};
pub use rotation::{ROTATIONS_MAX, Rotation, RotationError, verify_reenrolment};
pub use text::{decimal, read_proof, write_proof};
pub use tile::{
    EntryBundleError, Prover, TILE_WIDTH, Tile, TileError, TilePath, TileWriteError, TileWriter,
    Tiled, Tiles, parse_entries, push_entry, tile_root,
};
pub use tree::{
    Frontier, Passing, ProofError, consistency_old_root, consistency_proof, consistency_ranges,
    inclusion_proof, inclusion_ranges, leaf_hash, node_hash, root_of, verify_consistency,
    verify_inclusion,
};
pub use trust::{Group, Quorum, Trust, TrustError};
pub use verdict::{
    ArchiveAxis, Axes, Cosigned, Integrity, Isolation, KeyAxis, KeySpan, Later, Leaves, Logged,
    NotProven, Payloads, Place, Reason, Report, Signed, Verdict, WitnessAxis,
};
pub use verify::{Content, Leaf, verify, verify_with};
