//! Guests that attack the host: every way out that we can think of.
//!
//! For each case the host neither panics nor hangs nor grows, the error names what happened, other
//! sandboxes go on, and the sandbox works after a reset and is clean. The end says how many cases of
//! each class were tried, and what the host's kernel has said of KVM meanwhile.
//!
//! `GLOWBOX_HOSTILE=N` multiplies what is random and bounded by N (1 is what CI runs).

#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::ExitCode;

#[macro_use]
#[path = "../topics/mod.rs"]
mod topics;

#[path = "../guests/mod.rs"]
mod guests;

#[path = "../../../../guests/hostile/src/steps.rs"]
mod steps;

#[path = "../injected/level.rs"]
mod level;

mod attacker;
mod descriptors;
mod floods;
mod generate;
mod ground;
mod headers;
mod instructions;
mod kernel_log;
mod mailbox;
mod messages;
mod pages;
mod payloads;
mod ports;
mod programs;
mod sandboxes;
mod stacks;
mod streams;
mod support;
mod values;

/// Every topic with its tests.
const TOPICS: &[topics::Topic] = &[
    ("descriptors", descriptors::TESTS),
    ("floods", floods::TESTS),
    ("headers", headers::TESTS),
    ("instructions", instructions::TESTS),
    ("mailbox", mailbox::TESTS),
    ("messages", messages::TESTS),
    ("pages", pages::TESTS),
    ("payloads", payloads::TESTS),
    ("ports", ports::TESTS),
    ("programs", programs::TESTS),
    ("sandboxes", sandboxes::TESTS),
    ("stacks", stacks::TESTS),
    ("streams", streams::TESTS),
];

fn main() -> ExitCode {
    let log = kernel_log::KernelLog::from_now();
    let code = topics::run(topics::trials(TOPICS), "with hostile guests", guests::build);
    support::print_counts();
    log.print();
    code
}
