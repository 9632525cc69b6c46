//! The library's tests with real guests, on the backend that is asked for or that there is.
//!
//! One program with a `main` of its own: it builds the guests once, and where no backend can be
//! used it leaves the tests out, says why, and says at its end how many those were. Each module is
//! a topic; each test's name says what must hold.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::ExitCode;

#[macro_use]
#[path = "../topics/mod.rs"]
mod topics;

#[path = "../guests/mod.rs"]
mod guests;

mod batches;
mod calls;
mod depth;
mod device;
mod encoded;
mod ends;
mod exhaustion;
mod faults;
mod files;
mod host_functions;
mod interpreter;
mod leaks;
mod limits;
mod many;
mod maps;
mod memory;
mod patterns;
mod pool;
mod processes;
mod protocol;
mod random;
mod raw;
mod ready;
mod resets;
mod saved;
mod seccomp;
mod snapshots;
mod standard;
mod support;
mod time;
mod trace;
mod windows;
mod written;

/// Every topic with its tests.
const TOPICS: &[topics::Topic] = &[
    ("batches", batches::TESTS),
    ("calls", calls::TESTS),
    ("depth", depth::TESTS),
    ("device", device::TESTS),
    ("encoded", encoded::TESTS),
    ("ends", ends::TESTS),
    ("exhaustion", exhaustion::TESTS),
    ("faults", faults::TESTS),
    ("files", files::TESTS),
    ("host_functions", host_functions::TESTS),
    ("interpreter", interpreter::TESTS),
    ("leaks", leaks::TESTS),
    ("limits", limits::TESTS),
    ("many", many::TESTS),
    ("maps", maps::TESTS),
    ("memory", memory::TESTS),
    ("pool", pool::TESTS),
    ("processes", processes::TESTS),
    ("protocol", protocol::TESTS),
    ("random", random::TESTS),
    ("raw", raw::TESTS),
    ("ready", ready::TESTS),
    ("resets", resets::TESTS),
    ("saved", saved::TESTS),
    ("seccomp", seccomp::TESTS),
    ("snapshots", snapshots::TESTS),
    ("standard", standard::TESTS),
    ("time", time::TESTS),
    ("written", written::TESTS),
];

fn main() -> ExitCode {
    topics::run(topics::trials(TOPICS), "of the library", guests::build)
}
