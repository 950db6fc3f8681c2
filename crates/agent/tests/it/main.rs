//! The endpoint against a collector behind a peer that misbehaves, and against its own past.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod delivery;
mod past;
mod site;
