//! A program of crates as they are published: one subcommand for each, the same output wherever it
//! runs.
//!
//! What it works on it makes itself, from a fixed seed. What it prints are counts, hashes and first
//! rows, so two runs are compared byte for byte.

#![forbid(unsafe_code)]

mod data;
mod database;
mod documents;
mod parallel;
mod pictures;
mod streams;
mod system;
mod text;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

type Outcome = Result<(), Box<dyn Error>>;

const USAGE: &str = "usage: crates-demo regex | json | image | deflate | inflate FILE | \
    sqlite [FOLDER] | rayon | threads | panics | files FOLDER | system | refused | stdin | exit CODE | abort";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        ["regex"] => text::run(),
        ["json"] => documents::run(),
        ["image"] => pictures::run(),
        ["deflate"] => streams::run(),
        ["inflate", file] => streams::inflate(Path::new(file)),
        ["sqlite"] => database::in_memory(),
        ["sqlite", folder] => database::on_disk(Path::new(folder)),
        ["rayon"] => parallel::rayon(),
        ["threads"] => parallel::threads(),
        ["panics"] => parallel::panics(),
        ["files", folder] => system::files(Path::new(folder)),
        ["system"] => system::system(),
        ["refused"] => system::refused(),
        ["stdin"] => system::stdin(),
        ["exit", code] => match code.parse::<u8>() {
            Ok(code) => return ExitCode::from(code),
            Err(error) => Err(error.into()),
        },
        ["abort"] => std::process::abort(),
        _ => Err(USAGE.into()),
    };
    if let Err(error) = outcome {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
