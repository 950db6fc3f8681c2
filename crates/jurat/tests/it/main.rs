//! The real binary: sessions end to end, crashes, the real Claude Code, what a user sees.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod attacks;
mod corpus;
mod crash;
#[cfg(feature = "fips")]
mod fips;
mod fleet;
mod interop;
mod life;
mod live;
mod machine;
mod mutate;
mod order;
mod room;
mod secrets;
mod statements;
#[path = "../../../redact/tests/it/template.rs"]
mod template;
mod user;
mod witness;
