//! The library's tests against real KVM, with real guests.
//!
//! One program with a `main` of its own: it builds the guests once, and where `/dev/kvm` can't be
//! used it leaves the tests out, says why, and says at its end how many those were. Each module is
//! a topic; each test's name says what must hold.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

/// Declares a module's tests: each function becomes one, and `TESTS` lists them.
macro_rules! tests {
    ($($(#[$meta:meta])* fn $name:ident() $body:block)*) => {
        $($(#[$meta])* fn $name() $body)*
        pub(crate) const TESTS: &[$crate::Test] = &[$((stringify!($name), $name)),*];
    };
}

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
mod protocol;
mod random;
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

/// A test's name and what it runs.
type Test = (&'static str, fn());

/// Every topic with its tests.
const TOPICS: &[(&str, &[Test])] = &[
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
    ("protocol", protocol::TESTS),
    ("random", random::TESTS),
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
    let arguments = Arguments::from_args();
    let reason = support::why_not();
    let mut count = 0u32;
    let mut trials = Vec::new();
    for (topic, tests) in TOPICS {
        for (name, test) in *tests {
            count += 1;
            let test = *test;
            let run = move || {
                test();
                Ok::<(), Failed>(())
            };
            let trial = Trial::test(format!("{topic}::{name}"), run);
            trials.push(trial.with_ignored_flag(reason.is_some()));
        }
    }
    if reason.is_none() && !arguments.list {
        support::build_guests();
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    let left_out = if reason.is_some() { count } else { support::left_out() };
    if let Some(reason) = reason {
        eprintln!("These tests need KVM and were left out: {reason}");
    }
    println!("{left_out} of {count} tests against KVM were left out");
    conclusion.exit_code()
}
