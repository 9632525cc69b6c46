//! What a backend has to hold, whichever it is: tests over `Machine` and `Platform`.
//!
//! They run on the backend that `GLOWBOX_BACKEND` names, or the one that is chosen without it. Nothing of
//! the library above the machine takes part, but what lays out guest memory.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::ExitCode;

#[macro_use]
#[path = "../../../glowbox/tests/topics/mod.rs"]
mod topics;

mod calls;
mod clean;
mod faults;
mod ground;
mod lending;
mod machines;
mod stops;
mod tables;

/// Every topic with its tests.
const TOPICS: &[topics::Topic] = &[
    ("calls", calls::TESTS),
    ("clean", clean::TESTS),
    ("faults", faults::TESTS),
    ("lending", lending::TESTS),
    ("machines", machines::TESTS),
    ("stops", stops::TESTS),
    ("tables", tables::TESTS),
];

fn main() -> ExitCode {
    topics::run(topics::trials(TOPICS), "of the contract", || ())
}
