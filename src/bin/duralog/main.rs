//! The `duralog` command: write, read and look at a log from a shell.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr
)]

mod compact;
mod consume;
mod dump;
mod failure;
mod groups;
mod input;
mod inspect;
mod json;
mod lines;
mod output;
mod produce;
mod retain;
mod text;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::Failure;

/// Something is damaged: what `verify` is there to tell.
const EXIT_DAMAGE: u8 = 3;
/// The command line asks for something that there is not.
const EXIT_USAGE: u8 = 2;
const EXIT_FAILED: u8 = 1;

/// Writes, reads and examines a duralog log.
///
/// Results go to standard output, everything else to standard error.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit status: 0 done, 1 failed, 2 bad usage, 3 damage found."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Produce(produce::Args),
    Consume(consume::Args),
    Inspect(inspect::Args),
    Verify(verify::Args),
    Dump(dump::Args),
    Groups(groups::Args),
    Retain(retain::Args),
    Compact(compact::Args),
}

/// How a command that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    Damaged,
}

impl Command {
    fn run(&self) -> Result<Outcome, Failure> {
        match self {
            Self::Produce(args) => produce::run(args),
            Self::Consume(args) => unless_closed(consume::run(args)),
            Self::Inspect(args) => unless_closed(inspect::run(args)),
            Self::Verify(args) => verify::run(args),
            Self::Dump(args) => unless_closed(dump::run(args)),
            Self::Groups(args) => unless_closed(groups::run(args)),
            Self::Retain(args) => unless_closed(retain::run(args)),
            Self::Compact(args) => compact::run(args),
        }
    }
}

/// Whoever reads has had enough: that is how `... | head` ends, and no failure. (Of `produce` it
/// is one: what was not sent is not in the log.)
fn unless_closed(result: Result<Outcome, Failure>) -> Result<Outcome, Failure> {
    match result {
        Err(failure) if failure.is_closed_output() => Ok(Outcome::Done),
        result => result,
    }
}

fn main() -> ExitCode {
    match Cli::parse().command.run() {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Damaged) => ExitCode::from(EXIT_DAMAGE),
        Err(failure) => {
            output::note(format_args!("{}", failure::chain(&failure)));
            ExitCode::from(if failure.is_usage() {
                EXIT_USAGE
            } else {
                EXIT_FAILED
            })
        }
    }
}
