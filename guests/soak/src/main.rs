//! What the soak calls: work whose answer the host knows, state that stays, tags that must never be
//! found by others, host calls that nest, and every way to end.

#![no_std]
#![no_main]

mod ends;
mod state;
mod work;

use glowbox_guest::{HostError, guest_function, host_function, log, mapped, mapped_names};

#[host_function]
fn visit_0(number: u64) -> u64;

#[host_function]
fn visit_1(number: u64) -> u64;

#[host_function]
fn visit_2(number: u64) -> u64;

#[host_function]
fn visit_3(number: u64) -> u64;

#[host_function]
fn host_checked(number: u64) -> Result<u64, HostError>;

#[host_function]
fn host_panics(number: u64) -> u64;

#[guest_function]
fn mix(number: u64, text: &str, list: Vec<u32>, flag: Option<bool>) -> (u64, String) {
    let mixed = work::mix(number, text, &list, flag);
    (mixed, format!("{mixed:x} {text}"))
}

#[guest_function]
fn rounds(seed: u64, count: u32) -> u64 {
    work::rounds(seed, count)
}

#[guest_function]
fn echo(data: Vec<u8>) -> Vec<u8> {
    data
}

#[guest_function]
fn divide(a: u64, b: u64) -> Result<u64, String> {
    a.checked_div(b).ok_or_else(|| format!("{a} can't be divided by zero"))
}

/// Goes down by asking the host, which calls this again.
#[guest_function]
fn visit(depth: u32, number: u64, text: &str) -> u64 {
    let before = text.to_string();
    let below = match depth {
        0 => number,
        1 => visit_0(number),
        2 => visit_1(number),
        3 => visit_2(number),
        _ => visit_3(number),
    };
    assert_eq!(text, before, "a reply overwrote a borrowed argument");
    work::rounds(below, 3)
}

#[guest_function]
fn ask(number: u64) -> String {
    match host_checked(number) {
        Ok(number) => format!("ok {number}"),
        Err(error) => format!("error: {error}"),
    }
}

#[guest_function]
fn let_the_host_panic(number: u64) -> u64 {
    host_panics(number)
}

#[guest_function]
fn say(text: &str) {
    log::info!("{text}");
}

#[guest_function]
fn lent_names() -> Vec<String> {
    mapped_names().collect()
}

/// The lent bytes, folded.
#[guest_function]
fn lent_sum(name: &str) -> Option<u64> {
    mapped(name)
        .map(|bytes| bytes.iter().fold(0, |sum: u64, byte| sum * 31 % 1_000_003 + u64::from(*byte)))
}
