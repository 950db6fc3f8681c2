//! `Redacted` -> entries -> tree head -> signed checkpoint, durable in the ledger.
//!
//! Promise: [`Sealer::commit`] makes everything pushed before it durable together with the state
//! blob that belongs to it; [`Sealer::seal_batch`] signs only a head that is already durable, one
//! root per size, and only one that is consistent with the head signed before.
//!
//! Not here: when to seal (agent), where to send (sink), who holds the key (key).

mod aside;
mod entry;
mod erase;
mod export;
mod prune;
mod reveal;
mod sealer;
mod sessions;
mod tiles;

pub use aside::{Aside, Signing};
pub use erase::{Erasable, EraseError};
pub use export::{ExportError, export};
pub use jurat_proof::{Digest, Enrolled, ROTATIONS_MAX, Reveal, Revealed};
pub use prune::{Prune, Pruned};
pub use reveal::{RevealFailed, reveal};
pub use sealer::{
    Head, PAYLOAD_BYTES_MAX, PastHead, SealError, Sealer, Settings, kind, last_signed,
};
pub use tiles::export_tiles;
