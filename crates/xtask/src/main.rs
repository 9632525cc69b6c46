//! `cargo xtask`: work on this repository that is more than a cargo command.
//!
//! It installs nothing. Where something is missing on this machine, it says what, and the command that
//! gets it.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

mod svm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Work on Glowbox that is more than a cargo command.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    Svm(svm::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Svm(options) => svm::run(&options),
    };
    result.unwrap_or_else(|failure| {
        eprintln!("{failure}");
        ExitCode::FAILURE
    })
}
