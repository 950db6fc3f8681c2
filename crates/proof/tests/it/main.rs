//! The mathematics against vectors that nobody here wrote.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod foreign;
mod judges;
mod notes;
mod policy;
