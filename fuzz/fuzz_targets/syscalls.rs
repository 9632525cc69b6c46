//! Lets guests make any system calls, with threads, faults and signals between them, and checks that
//! the host bears it. Run it from the repository's root:
//!
//! ```text
//! cargo +nightly fuzz run syscalls
//! ```
//!
//! What the bytes mean is in `crates/linux/tests/support/drive.rs`, which the tests use too.

#![no_main]

#[path = "../../crates/linux/tests/support/mod.rs"]
mod support;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // Guests whose first bytes are few do nothing.
    support::drive::drive(bytes);
});
