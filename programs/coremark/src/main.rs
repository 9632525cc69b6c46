//! CoreMark's work, as the crate `coremark` has it in Rust.
//!
//! The count of iterations is the first argument, or 20,000. Standard output gets the checksums,
//! which are the same wherever it runs and those that the reference prints; standard error gets the
//! iterations a second.
//!
//! CoreMark is a trademark of EEMBC. A score under that name needs the reference's C source and at
//! least ten seconds; this compares a run with another on the same machine, and is no such score.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Instant;

use coremark::Config;

fn main() -> ExitCode {
    let count = std::env::args().nth(1);
    let iterations = count.map_or(20_000, |count| count.parse().expect("a count"));
    let start = Instant::now();
    let results = coremark::run(&Config { iterations, ..Config::default() });
    let seconds = start.elapsed().as_secs_f64();
    println!("seeds  {:04x}", results.seedcrc);
    println!("list   {:04x}", results.crclist);
    println!("matrix {:04x}", results.crcmatrix);
    println!("state  {:04x}", results.crcstate);
    println!("final  {:04x}", results.crcfinal);
    eprintln!("{:.1} iterations/s", f64::from(iterations) / seconds);
    // The 2K performance run's, from the reference.
    let expected = [0xe9f5, 0xe714, 0x1fd7, 0x8e3a];
    let found = [results.seedcrc, results.crclist, results.crcmatrix, results.crcstate];
    ExitCode::from(u8::from(found != expected))
}
