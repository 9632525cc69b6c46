//! Ordinary Linux programs in sandboxes, compared with the same programs on Linux itself.
//!
//! Most tests are cases: a program of `programs/` and what it is run with. It runs twice, natively
//! and in a sandbox; standard output, standard error where it is fixed, and how it ended must be the
//! same. Where `/dev/kvm` can't be used, or a program's toolchain is missing, tests are left out; the
//! end says how many those were.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

mod alone;
mod busybox;
mod c;
mod crates;
mod golang;
mod support;

use support::Case;

/// A test's name and what it runs.
type Test = (&'static str, fn());

fn cases() -> Vec<Case> {
    [c::cases(), crates::cases(), golang::cases(), busybox::cases()].concat()
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let reason = support::why_not();
    let mut trials = Vec::new();
    for case in cases() {
        let name = case.name();
        trials.push(Trial::test(name, move || case.compare().map_err(Failed::from)));
    }
    for (name, test) in alone::TESTS {
        let run = || {
            test();
            Ok(())
        };
        trials.push(Trial::test(format!("alone::{name}"), run));
    }
    let count = trials.len();
    let ignored = reason.is_some();
    let trials = trials.into_iter().map(|trial| trial.with_ignored_flag(ignored)).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    let left_out = if ignored { count } else { support::left_out() };
    if let Some(reason) = reason {
        eprintln!("These tests need KVM and were left out: {reason}");
    }
    println!("{left_out} of {count} tests with Linux programs were left out");
    conclusion.exit_code()
}
