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
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !is_of_a_closed_pipe(info.payload()) {
            hook(info);
        }
    }));
    match std::panic::catch_unwind(cli::main) {
        Ok(code) => code.into(),
        Err(payload) if is_of_a_closed_pipe(&*payload) => exit::PIPE_CLOSED.into(),
        Err(payload) => std::panic::resume_unwind(payload),
    }
}

/// Who reads our words may stop (`jurat log | head`): that is their end, and no fault of anybody's. `println!` can say it by
/// a panic only; what was begun is put in order as ever.
fn is_of_a_closed_pipe(payload: &(dyn std::any::Any + Send)) -> bool {
    let said = payload.downcast_ref::<String>();
    said.is_some_and(|said| said.starts_with("failed printing to stdout: Broken pipe"))
}
