//! Functions that the command's tests call.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::collections::{BTreeMap, BTreeSet};
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

use glowbox_guest::{guest_function, log, println};
use serde::{Deserialize, Serialize};

/// A type that a signature only names.
#[derive(Serialize, Deserialize)]
struct Order {
    item: String,
    count: u32,
}

#[guest_function]
fn add(a: i32, b: i32) -> i32 {
    a.wrapping_add(b)
}

#[guest_function]
fn greet(name: &str) -> String {
    format!("Hello, {name}!")
}

#[guest_function]
fn nothing() {}

type Integers = (u8, i8, u16, i16, u32, i32, u64, i64, u128, i128, usize, isize);

#[guest_function]
fn integers(value: Integers) -> Integers {
    value
}

#[guest_function]
fn floats(single: f32, double: f64) -> (f32, f64) {
    (single, double)
}

type Nested = BTreeMap<String, Vec<Option<(bool, char)>>>;

#[guest_function]
fn nested(value: Nested) -> Nested {
    value
}

#[guest_function]
fn echo(data: Vec<u8>) -> Vec<u8> {
    data
}

#[guest_function]
#[allow(clippy::type_complexity, reason = "what the command makes of such types is what is tested")]
fn others(
    keyed: BTreeMap<u16, [i64; 2]>,
    pairs: BTreeMap<(u8, u8), ()>,
    set: BTreeSet<char>,
) -> (BTreeMap<u16, [i64; 2]>, BTreeMap<(u8, u8), ()>, BTreeSet<char>) {
    (keyed, pairs, set)
}

#[guest_function]
fn outcome(value: Result<u32, String>, time: Duration) -> (Duration, Option<u32>) {
    (time, value.ok())
}

#[guest_function]
fn divide(a: u32, b: u32) -> Result<u32, String> {
    a.checked_div(b).ok_or_else(|| "division by zero".into())
}

#[guest_function]
fn total(order: Order) -> u32 {
    order.count * u32::from(!order.item.is_empty())
}

#[guest_function]
fn make(item: &str) -> Order {
    Order { item: item.into(), count: 1 }
}

static COUNT: AtomicU32 = AtomicU32::new(0);

/// How often this has been called.
#[guest_function]
fn count(by: u32) -> u32 {
    COUNT.fetch_add(by, Ordering::Relaxed) + by
}

#[guest_function]
fn spin() {
    println!("spinning");
    loop {
        core::hint::spin_loop();
    }
}

#[guest_function]
fn fail(text: &str) {
    panic!("{text}");
}

#[guest_function]
fn read_null() -> u8 {
    // SAFETY: the page is never mapped, so the read faults and nothing returns from it.
    unsafe { core::ptr::without_provenance::<u8>(8).read_volatile() }
}

#[guest_function]
fn allocate(bytes: u64) -> u64 {
    let data = vec![1u8; usize::try_from(bytes).expect("it fits the address space")];
    core::hint::black_box(&data).len() as u64
}

/// Says the text in every way there is.
#[guest_function]
fn say(text: &str) -> Result<(), String> {
    println!("{text}");
    log::warn!("{text}");
    log::debug!("{text}");
    Err(text.into())
}

/// A number that differs from sandbox to sandbox.
#[guest_function]
fn roll() -> u64 {
    glowbox_guest::random::u64()
}
