//! Redaction: every rule finds what it is for, clean text is left alone, secrets do not survive.

mod planted;
mod rules;
mod template;
