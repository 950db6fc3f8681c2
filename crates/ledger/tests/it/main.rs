//! The ledger's promises and their failures.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod crash;
mod damage;
mod growth;
mod room;
mod support;
