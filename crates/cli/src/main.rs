//! The `glowbox` command: programs and single functions in micro-VMs, from a shell.
//!
//! Thin over the library: a verb a module, which reads its options, asks the library and shows what
//! came of it. What a verb has to say goes to standard output, everything else to standard error;
//! texts of guests reach neither as they stand (see [`output`]). `docs/cli.md` is the manual.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

mod backend;
mod call;
mod doctor;
mod failure;
mod grants;
mod guest;
mod inspect;
mod interrupt;
mod json;
mod new;
mod options;
mod output;
mod run;
mod snapshot;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use failure::{Failure, Status};

/// How the command ends, for `--help`.
const STATUSES: &str = "\
Exit status:
  0        it worked; `run`: the program's own status, whatever it is
  1        the guest function returned an error; `doctor`: guests can't run here
  124      it took longer than --timeout
  125      a mistake in the command line, or an error of Glowbox itself
  126      the file can't be run, or not here
  127      there is no such file
  130      it was interrupted by Ctrl-C
  128+N    the guest was ended as signal N ends a process: 134 it panicked, 137 it ran out of
           memory, or all its threads wait for each other, 139 it faulted";

/// Runs untrusted code in micro-VMs.
#[derive(Debug, Parser)]
#[command(name = "glowbox", version, after_help = STATUSES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Run(run::Options),
    Call(call::Options),
    Inspect(inspect::Options),
    Snapshot(snapshot::Options),
    New(new::Options),
    Doctor(doctor::Options),
    /// Prints completions for a shell.
    ///
    /// For example, in ~/.bashrc: `source <(glowbox completions bash)`.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A closed pipe is not worth a word.
            let _ = error.print();
            return if error.use_stderr() { Status::Glowbox.into() } else { ExitCode::SUCCESS };
        }
    };
    match run(cli) {
        Ok(code) => code,
        Err(failure) => {
            failure.show();
            failure.status().into()
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    match cli.verb {
        Verb::Run(options) => run::run(&options),
        Verb::Call(options) => call::run(&options),
        Verb::Inspect(options) => inspect::run(&options),
        Verb::Snapshot(options) => snapshot::run(&options),
        Verb::New(options) => new::run(&options),
        Verb::Doctor(options) => doctor::run(&options),
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "glowbox", &mut script);
            output::print(&String::from_utf8_lossy(&script))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
