//! Guests that attack the host, on real KVM: every way out that we can think of.
//!
//! For each case the host neither panics nor hangs nor grows, the error names what happened, other
//! sandboxes go on, and the sandbox works after a reset and is clean. The end says how many cases of
//! each class were tried.
//!
//! `GLOWBOX_HOSTILE=N` multiplies what is random and bounded by N (1 is what CI runs).

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

mod generate;
mod ground;
mod instructions;
mod pages;
mod ports;
mod streams;
mod support;

/// A test's name and what it runs.
type Test = (&'static str, fn());

/// Every topic with its tests.
const TOPICS: &[(&str, &[Test])] = &[
    ("instructions", instructions::TESTS),
    ("pages", pages::TESTS),
    ("ports", ports::TESTS),
    ("streams", streams::TESTS),
];

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
    let conclusion = libtest_mimic::run(&arguments, trials);
    support::print_tried();
    support::print_executed();
    let left_out = if reason.is_some() { count } else { support::left_out() };
    if let Some(reason) = reason {
        eprintln!("These tests need KVM and were left out: {reason}");
    }
    println!("{left_out} of {count} tests with hostile guests were left out");
    conclusion.exit_code()
}
