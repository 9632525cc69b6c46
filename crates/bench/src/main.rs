//! The scoreboard: what Glowbox's operations take, beside the bare machine and beside its peers.
//!
//! Everything is measured in one process tree and interleaved: a round takes samples of each row, in
//! an order that changes from round to round. A machine that runs slower for a second (other
//! tenants, clock speed, a compiler in the background) then does so for a row and its yardstick
//! alike, which benchmarks one after the other can't promise; and no row profits from what a certain
//! other one has left in the caches. Verdicts are by ratios of medians.
//!
//! `docs/benchmarks.md` says what the rows mean.

mod experiments;
mod machine;
mod peers;
mod report;
mod rounds;
mod rows;
mod samples;
mod soak;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use glowbox_bench::subject::{self, Result};

use crate::experiments::MemoryCount;
use crate::machine::Machine;
use crate::report::Board;
use crate::rounds::Choice;

/// Measures Glowbox beside the bare machine and its peers.
///
/// Prints a table, and writes scoreboard.json and index.html to target/scoreboard.
#[derive(Debug, Parser)]
#[command(name = "glowbox-bench")]
struct Options {
    /// Exit with code 1 if a row misses its bound, and name it.
    #[arg(long)]
    check: bool,
    /// Fewer rounds: a rough picture, in seconds.
    #[arg(long)]
    quick: bool,
    /// Measure only these rows, and those that they are divided by. The start of an ID stands for
    /// all that begin with it.
    #[arg(long, value_name = "ID", num_args = 1..)]
    only: Vec<String>,
    /// Name all rows, and measure nothing.
    #[arg(long)]
    list: bool,
    /// Be the process that counts the memory of sandboxes.
    #[arg(long, hide = true)]
    count_memory: bool,
    /// Soak instead of measuring: use sandboxes in every way at random, check every answer, and see
    /// that memory, descriptors, mappings and threads stay level.
    #[arg(long)]
    soak: bool,
    /// How long to soak: 90s, 30m, 1h.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = soak::parse_duration)]
    duration: Duration,
    /// Threads of a soak.
    #[arg(long, value_name = "COUNT", default_value_t = 8)]
    threads: usize,
    /// What a soak's choices follow from; the time if it is not given.
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Where the results go.
    #[arg(long, value_name = "FOLDER", default_value = "target/scoreboard")]
    output: PathBuf,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let plans = experiments::all();
    if options.list {
        for row in plans.iter().flat_map(|plan| &plan.rows) {
            println!("{:<34}{:<10}{}", row.id, row.system.name(), row.what);
        }
        return ExitCode::SUCCESS;
    }
    let choice = match Choice::new(plans, &options.only) {
        Ok(choice) => choice,
        Err(text) => {
            eprintln!("glowbox-bench: {text}");
            return ExitCode::from(2);
        }
    };
    if let Some(reason) = subject::why_not() {
        eprintln!("glowbox-bench: nothing can be measured here: {reason}");
        return if options.check || options.soak { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let result = if options.count_memory {
        count_memory()
    } else if options.soak {
        soak(&options)
    } else {
        measure(choice, &options)
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("glowbox-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn count_memory() -> Result<ExitCode> {
    println!("{}", serde_json::to_string(&MemoryCount::take()?)?);
    Ok(ExitCode::SUCCESS)
}

fn soak(options: &Options) -> Result<ExitCode> {
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let well = soak::run(&soak::Options {
        duration: options.duration,
        threads: options.threads.max(1),
        seed: options.seed.unwrap_or_else(clock),
        output: options.output.clone(),
    })?;
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure(choice: Choice, options: &Options) -> Result<ExitCode> {
    let machine = Machine::here();
    let outcome = rounds::run(choice, options.quick)?;
    let board = Board::new(machine, outcome, options.quick);
    report::table::print(&board);
    for path in report::write(&board, &options.output)? {
        println!("wrote {}", path.display());
    }
    let missed = board.missed();
    if options.check && !missed.is_empty() {
        eprintln!("glowbox-bench: bounds are missed by: {}", missed.join(", "));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
