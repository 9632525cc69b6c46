//! Panics.

use core::fmt::{Display, Formatter, Result};
use core::hint::black_box;

use glowbox_guest::guest_function;

/// Panics with this text.
#[guest_function]
fn panic_with(text: &str) {
    panic!("{text}");
}

/// Expects a value where there is none.
#[guest_function]
fn expect_none() -> u32 {
    black_box(None).expect("a number")
}

/// Uses an index that may be out of bounds.
#[guest_function]
fn index(at: u64) -> u8 {
    let numbers = black_box([1u8, 2, 3]);
    numbers[usize::try_from(at).unwrap_or(usize::MAX)]
}

/// Divides as Rust does, which checks first.
#[guest_function]
fn divide(a: i32, b: i32) -> i32 {
    a / b
}

/// Panics while it says why it panics.
#[guest_function]
fn panic_in_panic() {
    struct Unspeakable;
    impl Display for Unspeakable {
        fn fmt(&self, _: &mut Formatter<'_>) -> Result {
            panic!("even that can't be said")
        }
    }
    panic!("this is why: {Unspeakable}");
}
