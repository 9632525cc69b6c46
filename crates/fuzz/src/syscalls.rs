//! Guests that make any system calls, with threads, faults and signals between them.
//!
//! What the bytes mean is in `crates/linux/tests/support/drive.rs`, which that crate's tests use too.

#[path = "../../linux/tests/support/mod.rs"]
pub(crate) mod support;

/// Lets a guest make the calls that the bytes say, and checks that the host bears it.
///
/// # Panics
///
/// If it does not.
pub fn run(bytes: &[u8]) {
    support::drive::drive(bytes);
}
