//! Redaction: every rule finds what it is for, clean text is left alone, secrets do not survive.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod foreign;
mod planted;
mod rules;
mod stream;
mod template;
