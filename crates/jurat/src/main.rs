//! The one binary: words, flags, exit codes.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program speaks to its user"
)]

mod attest;
mod cli;
mod commands;
mod demo;
mod demo_tpm;
mod devices;
mod erase;
mod exit;
mod since;
mod statements;
mod witness;
mod words;

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(cli::main())
}
