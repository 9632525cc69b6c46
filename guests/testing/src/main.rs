//! Functions that the library's tests call: types, host calls, nesting, errors, logging.

#![no_std]
#![no_main]

extern crate alloc;

use glowbox_guest::{HostError, guest_function, host_function, log, print, println};
use serde::{Deserialize, Serialize};
use testing_types::{Everything, MathError};

mod batches;
mod kept;
mod maps;
mod nesting;
mod protocol;
mod random;
mod simd;

#[guest_function]
fn add(a: u32, b: u32) -> u32 {
    a.wrapping_add(b)
}

#[guest_function]
fn nothing() {}

#[guest_function]
fn echo(data: &[u8]) -> &[u8] {
    data
}

#[guest_function]
fn echo_text(text: &str) -> &str {
    text
}

#[guest_function]
fn echo_owned(data: Vec<u8>) -> Vec<u8> {
    data
}

#[guest_function]
fn echo_everything(value: Everything) -> Everything {
    value
}

/// Numbers under another name, which signatures see through.
type Id = u32;

#[guest_function]
fn aliased(id: Id, names: alloc::vec::Vec<Option<Id>>) -> Id {
    names.into_iter().flatten().fold(id, Id::wrapping_add)
}

#[guest_function]
#[allow(clippy::too_many_arguments, reason = "twelve is the most there can be")]
fn twelve(
    a: u8,
    b: u8,
    c: u8,
    d: u8,
    e: u8,
    f: u8,
    g: u8,
    h: u8,
    i: u8,
    j: u8,
    k: u8,
    l: u8,
) -> (u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8) {
    (a, b, c, d, e, f, g, h, i, j, k, l)
}

#[guest_function]
fn first_word<'a>(text: &'a str, other: &str) -> &'a str {
    text.split(' ').next().unwrap_or(text).strip_prefix(other).unwrap_or(text)
}

// --- errors -------------------------------------------------------------------------------------

#[guest_function]
fn divide(a: u32, b: u32) -> Result<u32, MathError> {
    if a > 1000 {
        return Err(MathError::TooLarge { limit: 1000 });
    }
    a.checked_div(b).ok_or(MathError::Zero)
}

/// A result under an alias.
type Fallible<T> = Result<T, MathError>;

#[guest_function]
fn aliased_result(fail: bool) -> Fallible<u32> {
    if fail { Err(MathError::Zero) } else { Ok(7) }
}

/// `ParseIntError` can be shown but not encoded.
#[guest_function]
fn parse(text: &str) -> Result<u32, core::num::ParseIntError> {
    text.parse()
}

#[guest_function]
fn bytes_or_not(yes: bool) -> Result<Vec<u8>, String> {
    if yes { Ok(vec![9; 5000]) } else { Err("no bytes".to_string()) }
}

/// A type that nests as deep as its value.
#[derive(Serialize, Deserialize)]
struct Tree {
    children: Vec<Tree>,
}

/// A chain of that many trees.
#[guest_function]
fn tree(depth: u32) -> Tree {
    (0..depth).fold(Tree { children: Vec::new() }, |below, _| Tree { children: vec![below] })
}

/// A small record.
#[derive(Serialize, Deserialize)]
struct Point {
    x: u8,
    y: u8,
}

#[guest_function]
fn echo_points(points: Vec<Point>) -> Vec<Point> {
    points
}

#[host_function]
fn host_points(points: &[Point]) -> Vec<Point>;

#[guest_function]
fn call_host_points(points: Vec<Point>) -> Vec<Point> {
    host_points(&points)
}

/// A list of elements that take no bytes.
#[guest_function]
fn units(count: u32) -> Vec<()> {
    (0..count).map(|_| ()).collect()
}

#[host_function]
#[allow(clippy::too_many_arguments, reason = "twelve is the most there can be")]
fn host_twelve(
    a: u8,
    b: u8,
    c: u8,
    d: u8,
    e: u8,
    f: u8,
    g: u8,
    h: u8,
    i: u8,
    j: u8,
    k: u8,
    l: u8,
) -> Vec<u8>;

#[guest_function]
fn call_host_twelve() -> Vec<u8> {
    host_twelve(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)
}

#[host_function]
fn host_picky(number: u32) -> u32;

#[guest_function]
fn call_host_picky(number: u32) -> u32 {
    host_picky(number)
}

// --- host calls ---------------------------------------------------------------------------------

#[host_function]
fn host_add(a: u32, b: u32) -> u32;

#[host_function]
fn host_echo(data: &[u8]) -> Vec<u8>;

#[host_function]
fn host_checked(number: u32) -> Result<u32, HostError>;

#[host_function]
fn host_typed(number: u32) -> Result<u32, String>;

#[host_function]
fn host_visit(depth: u32) -> u32;

#[host_function]
fn host_visit_checked(depth: u32) -> Result<u32, HostError>;

#[guest_function]
fn call_host_add(a: u32, b: u32) -> u32 {
    host_add(a, b)
}

#[guest_function]
fn call_host_echo(data: &[u8]) -> Vec<u8> {
    host_echo(data)
}

#[guest_function]
fn call_host_checked(number: u32) -> String {
    match host_checked(number) {
        Ok(number) => format!("ok {number}"),
        Err(error) => format!("error: {error}"),
    }
}

#[guest_function]
fn call_host_typed(number: u32) -> String {
    match host_typed(number) {
        Ok(number) => format!("ok {number}"),
        Err(error) => format!("typed error: {error}"),
    }
}

/// Calls the host, which calls this function again, `depth` times. The text that it borrowed must
/// still be there afterwards.
#[guest_function]
fn visit(depth: u32, text: &str) -> u32 {
    let before = text.to_string();
    let below = if depth == 0 { 0 } else { host_visit(depth - 1) };
    assert_eq!(text, before, "a reply overwrote a borrowed argument");
    below + 1
}

#[guest_function]
fn visit_checked(depth: u32) -> String {
    match host_visit_checked(depth) {
        Ok(number) => format!("ok {number}"),
        Err(error) => format!("error: {error}"),
    }
}

/// Calls the host for ever.
#[guest_function]
fn call_for_ever() -> u32 {
    loop {
        host_add(1, 2);
    }
}

#[guest_function]
fn spin() -> u32 {
    loop {
        core::hint::spin_loop();
    }
}

// --- output -------------------------------------------------------------------------------------

#[guest_function]
fn say(text: &str) {
    log::info!("{text}");
}

#[guest_function]
fn say_all_levels() {
    log::error!("e");
    log::warn!("w");
    log::info!("i");
    log::debug!("d");
    log::trace!("t");
    print!("printed {}", 1);
    println!("printed {}", 2);
}

#[guest_function]
fn say_often(count: u32) {
    for number in 0..count {
        log::info!("{number}");
    }
}

// --- memory -------------------------------------------------------------------------------------

/// Fills a buffer of that many bytes and says how many were kept.
#[guest_function]
fn allocate(bytes: u32) -> u32 {
    let buffer: Vec<u8> = (0..bytes).map(|at| at.to_le_bytes()[0]).collect();
    let kept = buffer.iter().enumerate().filter(|(at, byte)| at.to_le_bytes()[0] == **byte);
    u32::try_from(kept.count()).unwrap_or(0)
}

/// A result larger than any message.
#[guest_function]
fn large_result(bytes: u32) -> Vec<u8> {
    vec![1; bytes as usize]
}

#[guest_function]
fn address_of_code() -> u64 {
    address_of_code as fn() -> u64 as usize as u64
}

/// State that stays between calls.
#[guest_function]
fn count() -> u32 {
    use core::sync::atomic::{AtomicU32, Ordering};
    static CALLS: AtomicU32 = AtomicU32::new(0);
    CALLS.fetch_add(1, Ordering::Relaxed) + 1
}

/// Memory functions of the guest library against plain loops, over many sizes and offsets.
#[guest_function]
fn check_memory_functions() -> Result<u32, String> {
    let mut checks = 0;
    let mut area = vec![0u8; 8192];
    let pattern: Vec<u8> = (0..8192u32).map(|at| (at * 7 + at / 251).to_le_bytes()[0]).collect();
    let sizes = (0..70).chain([127, 128, 129, 500, 511, 512, 513, 1023, 1024, 1025, 2000]);
    for size in sizes {
        for (from, to) in [(0, 0), (1, 0), (0, 1), (3, 40), (40, 3), (16, 0), (0, 16), (5, 2100)] {
            area.copy_from_slice(&pattern);
            area.copy_within(from..from + size, to);
            for at in 0..area.len() {
                let moved = (to..to + size).contains(&at);
                let expected = if moved { pattern[at - to + from] } else { pattern[at] };
                if area[at] != expected {
                    return Err(format!("memmove {size} from {from} to {to}: byte {at}"));
                }
            }
            let (a, b) = (&pattern[from..from + size], &pattern[to..to + size]);
            let expected = a.iter().zip(b).map(|(a, b)| a.cmp(b)).find(|o| o.is_ne());
            if core::hint::black_box(a).cmp(b) != expected.unwrap_or(core::cmp::Ordering::Equal) {
                return Err(format!("memcmp {size} at {from} and {to}"));
            }
            area[to..to + size].fill(0xee);
            let wrong = |(at, byte): (usize, &u8)| {
                (*byte == 0xee) != ((to..to + size).contains(&at))
                    && pattern_after_move(&pattern, from, to, size, at) != 0xee
            };
            if let Some(at) = area.iter().enumerate().position(wrong) {
                return Err(format!("memset {size} at {to}: byte {at}"));
            }
            checks += 3;
        }
    }
    Ok(checks)
}

/// What stands at `at` after `size` bytes have moved.
fn pattern_after_move(pattern: &[u8], from: usize, to: usize, size: usize, at: usize) -> u8 {
    if (to..to + size).contains(&at) { pattern[at - to + from] } else { pattern[at] }
}

/// Functions and parameters called as the macros might call something of their own.
#[guest_function]
fn bytes(message: u32, value: u32) -> u32 {
    handler(message, value).unwrap_or(0)
}

#[guest_function]
fn handler(bytes: u32, error: u32) -> Result<u32, String> {
    Ok(space_of(bytes, error, 1))
}

#[host_function]
fn space_of(space: u32, used: u32, reply: u32) -> u32;
