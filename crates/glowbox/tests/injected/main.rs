//! Faults of the system, injected at every system call that the library makes: errors, pending signals, a
//! process that is killed, limits that are reached.
//!
//! A scenario runs in a child process that is traced. For each kind of its system calls and each way to fail
//! that `calls` lists for it there are runs in which it does. Then: a typed error that says what failed and what to
//! do, or the right answer; nothing left behind; the same process can do the same again, and other
//! sandboxes never notice. The end says how many faults of each kind were injected.
//!
//! What is not injected, because no program can see it or none could go on: `docs/containment.md` has
//! the list.
//!
//! `GLOWBOX_INJECTED=N` injects more where one kind of call is made many times (1 is what CI runs).

#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::ExitCode;

#[macro_use]
#[path = "../topics/mod.rs"]
mod topics;

#[path = "../guests/mod.rs"]
mod guests;

mod calls;
mod channel;
mod inject;
mod killed;
mod level;
mod limits;
mod operations;
mod ptrace;
#[path = "../suite/support.rs"]
#[allow(dead_code, unused_imports, reason = "the suite uses all of it")]
mod support;

/// Every topic with its tests.
const TOPICS: &[topics::Topic] =
    &[("killed", killed::TESTS), ("limits", limits::TESTS), ("operations", operations::TESTS)];

fn main() -> ExitCode {
    let code = topics::run(topics::trials(TOPICS), "with injected faults", guests::build);
    inject::print_injected();
    code
}
