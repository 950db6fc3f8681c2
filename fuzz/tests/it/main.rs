//! The committed corpora, and variants of them, through every target: in every test run, without libFuzzer.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod replay;
mod work;
