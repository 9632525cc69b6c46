//! Faults of the system, injected at every system call that the library makes: errors, pending signals, a
//! process that is killed, limits that are reached.
//!
//! A scenario runs in a child process that is traced. For each of its system calls and each way in which
//! that can fail there is a run in which it does. Then: a typed error that says what failed and what to
//! do, or the right answer; nothing left behind; the same process can do the same again, and other
//! sandboxes never notice. The end says how many faults of each kind were injected.
//!
//! What is not injected, because no program can see it or none could go on: `docs/containment.md` has
//! the list.
//!
//! `GLOWBOX_INJECTED=N` injects more where one kind of call is made many times (1 is what CI runs).

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

mod calls;
mod channel;
mod inject;
mod killed;
mod level;
mod limits;
mod operations;
mod ptrace;
#[path = "../suite/support.rs"]
#[allow(dead_code, reason = "the suite uses all of it")]
mod support;

/// A test's name and what it runs.
type Test = (&'static str, fn());

/// Every topic with its tests.
const TOPICS: &[(&str, &[Test])] =
    &[("killed", killed::TESTS), ("limits", limits::TESTS), ("operations", operations::TESTS)];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let reason = support::why_not();
    let mut trials = Vec::new();
    for (topic, tests) in TOPICS {
        for (name, test) in *tests {
            let test = *test;
            let run = move || {
                test();
                Ok::<(), Failed>(())
            };
            let trial = Trial::test(format!("{topic}::{name}"), run);
            trials.push(trial.with_ignored_flag(reason.is_some()));
        }
    }
    let count = trials.len();
    if reason.is_none() && !arguments.list {
        support::build_guests();
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    inject::print_injected();
    let left_out = if reason.is_some() {
        u32::try_from(count).unwrap_or(u32::MAX)
    } else {
        support::left_out()
    };
    if let Some(reason) = reason {
        eprintln!("These tests need KVM and were left out: {reason}");
    }
    println!("{left_out} of {count} tests with injected faults were left out");
    conclusion.exit_code()
}
