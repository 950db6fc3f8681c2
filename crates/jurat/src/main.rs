//! The one binary: words, flags, exit codes.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program speaks to its user"
)]

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
    end_quietly_with_the_reader();
    ExitCode::from(cli::main())
}

/// Who reads our words may stop (`jurat log | head`): that is their end, and no fault of anybody's. `println!` can say it by
/// a panic only.
fn end_quietly_with_the_reader() {
    /// As a shell names a program that the signal ended: 128 + SIGPIPE.
    const PIPE_CLOSED: i32 = 141;
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let said = info.payload().downcast_ref::<String>();
        if said.is_some_and(|said| said.starts_with("failed printing to stdout: Broken pipe")) {
            std::process::exit(PIPE_CLOSED);
        }
        hook(info);
    }));
}
