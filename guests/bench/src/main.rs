//! Functions that the benchmarks call, in a guest of ordinary size.

#![no_std]
#![no_main]

use glowbox_guest::{guest_function, host_function};

#[host_function]
fn nothing();

#[guest_function]
fn add(a: u32, b: u32) -> u32 {
    a.wrapping_add(b)
}

/// The bytes stay in the mailbox until they are copied to its other half.
#[guest_function]
fn echo(data: &[u8]) -> &[u8] {
    data
}

/// The bytes go through the guest's heap.
#[guest_function]
fn echo_vec(data: Vec<u8>) -> Vec<u8> {
    data
}

/// Calls the host `count` times.
#[guest_function]
fn calls(count: u32) {
    for _ in 0..count {
        nothing();
    }
}

/// What makes the guest's image the 100 KiB that the bound on creation is about: constants as a
/// program has them in fonts, dictionaries or lookup tables. No byte of it is zero, so it stands in
/// the file.
static TABLE: [u8; 100 << 10] = table();

const fn table() -> [u8; 100 << 10] {
    let mut table = [0; 100 << 10];
    let mut state: u32 = 1;
    let mut at = 0;
    while at < table.len() {
        // A step of Marsaglia's xorshift; its bytes are no pattern that a file system might shrink.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        table[at] = state.to_le_bytes()[0] | 1;
        at += 1;
    }
    table
}

/// Keeps the table from being thrown out of the image.
#[guest_function]
fn lookup(index: u32) -> Option<u8> {
    TABLE.get(usize::try_from(index).ok()?).copied()
}
