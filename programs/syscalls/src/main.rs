//! Writes one byte at a time to its standard output, for what a system call costs.
//!
//! The count is its first argument, or 100,000. What it took is said on standard error.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::time::Instant;

fn main() -> std::io::Result<()> {
    let count = std::env::args().nth(1);
    let count: u32 = count.map_or(100_000, |count| count.parse().expect("a count"));
    // `Stdout` gathers lines; a file writes at once.
    let mut output = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    let start = Instant::now();
    for _ in 0..count {
        output.write_all(b".")?;
    }
    let each = start.elapsed().as_nanos() / u128::from(count.max(1));
    eprintln!("{count} writes, {each} ns each");
    Ok(())
}
