//! The server, as a library: it verifies every upload completely, archives it, cosigns it as
//! witness and as archive, and keeps a sealed log of its own.
//!
//! Promise: a cosigned checkpoint leaves only after the entries and payloads below it and the
//! frontier that it moves are durable in one group. One root for a size, ever; who presents another
//! history with the right key leaves a fork proof and gets no cosignature.
//!
//! Embed it with [`Builder`]; `examples/embed_collector.rs` is a complete program.
//!
//! Not here: how events were collected, search.

mod admin;
mod api;
mod archive;
mod attested;
mod clients;
mod devices;
mod enrol;
mod erase;
mod export;
#[doc(hidden)]
pub mod fuzzing;
mod gather;
mod ingest;
mod life;
mod logs;
mod machine;
mod own_log;
mod queue;
mod serve;
mod settings;
mod siem;
mod tiles;

pub use admin::{
    Address, AdminError, AttestationReport, DeviceReport, Done, EpochReport, EraseOrder, Order,
    Standing, boot_log, carry_out, devices, machine,
};
pub use archive::{Archive, ArchiveError, Stats};
pub use enrol::EkTrust;
pub use erase::{EraseError, erase_folder};
pub use export::{ExportError, export, export_folder};
pub use gather::WitnessPolicyError;
pub use ingest::Refused;
pub use machine::{
    ArchivedBootLog, BootLogOrder, BootLogReport, MachineReport, PolicyFileError, PolicyReport,
};
pub use serve::{Builder, Running, ServeError};
pub use settings::{DeviceCertificates, Settings, SettingsError};
pub use tiles::{Levels, TilesExportError, export_tiles};
