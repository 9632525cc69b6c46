//! `cargo xtask`: work on this repository that is more than a cargo command.
//!
//! It installs nothing. Where something is missing on this machine, it says what, and the command that
//! gets it.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

mod backends;
mod programs;
mod report;
mod svm;

use std::path::{Path, PathBuf};
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
    Backends(backends::Options),
    Svm(svm::Options),
}

/// The repository.
fn root() -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().map_err(|error| format!("{}: {error}", root.display()))
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Backends(options) => backends::run(&options),
        Task::Svm(options) => svm::run(&options),
    };
    result.unwrap_or_else(|failure| {
        eprintln!("{failure}");
        ExitCode::FAILURE
    })
}
