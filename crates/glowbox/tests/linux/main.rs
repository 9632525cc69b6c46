//! Ordinary Linux programs in sandboxes, compared with the same programs on Linux itself.
//!
//! Most tests are cases: a program of `programs/` and what it is run with. It runs twice, natively
//! and in a sandbox; standard output, standard error where it is fixed, and how it ended must be the
//! same. Where no backend can be used, or a program's toolchain is missing, tests are left out; the
//! end says how many those were.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::ExitCode;

use libtest_mimic::{Failed, Trial};

#[macro_use]
#[path = "../topics/mod.rs"]
mod topics;

mod alone;
mod busybox;
mod c;
mod crates;
mod golang;
mod support;

use support::Case;

fn cases() -> Vec<Case> {
    [c::cases(), crates::cases(), golang::cases(), busybox::cases()].concat()
}

fn main() -> ExitCode {
    let compare =
        |case: Case| Trial::test(case.name(), move || case.compare().map_err(Failed::from));
    let mut trials: Vec<Trial> = cases().into_iter().map(compare).collect();
    trials.extend(topics::trials(&[("alone", alone::TESTS)]));
    topics::run(trials, "with Linux programs", || ())
}
