//! Looking through memory, and writing to it.

use core::hint::black_box;
use core::sync::atomic::{AtomicU64, Ordering};

use glowbox_guest::guest_function;

unsafe extern "C" {
    /// Where the linker put the ELF header: the program's load base.
    safe static __ehdr_start: u8;
}

/// Most places that are told of.
const MOST: usize = 16;

#[guest_function]
fn base() -> u64 {
    (&raw const __ehdr_start).expose_provenance() as u64
}

fn each_range(ranges: &[u8]) -> impl Iterator<Item = (u64, u64)> {
    let (pairs, _) = ranges.as_chunks::<16>();
    pairs.iter().map(|pair| {
        let word = |at: usize| pair[at..at + 8].iter().rev().fold(0, |w, b| w << 8 | u64::from(*b));
        (word(0), word(8))
    })
}

fn word_at(address: u64) -> u64 {
    let pointer: *const u64 =
        core::ptr::with_exposed_provenance(usize::try_from(address).unwrap_or(0));
    // SAFETY: the tests name only addresses of memory that is mapped; any bytes are a number.
    unsafe { pointer.read_volatile() }
}

fn set_word(address: u64, word: u64) {
    let pointer: *mut u64 =
        core::ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap_or(0));
    // SAFETY: the tests name only places that nothing in this program uses.
    unsafe { pointer.write_volatile(word) }
}

/// Writes a word again and again.
pub(crate) fn set_words(start: u64, count: u64, word: u64) {
    (0..count).for_each(|at| set_word(start + at * 8, word));
}

/// Addresses at which a half of the pattern, whatever its alignment, is found.
#[guest_function]
fn find(ranges: &[u8], inverted: u64) -> Vec<u64> {
    let mut found = Vec::with_capacity(MOST);
    for (start, length) in each_range(ranges) {
        for address in (start..start + length).step_by(8) {
            let word = !word_at(address);
            let is = |half: u64| half & 0xffff_ffff == inverted & 0xffff_ffff;
            // A pattern repeats a pair of bytes: turned by one byte is all it can be.
            let turned = |half: u64| is((half & 0xffff_ffff) << 8 | half >> 24 & 0xff);
            let halves = [word & 0xffff_ffff, word >> 32];
            if halves.into_iter().any(|half| is(half) || turned(half)) && found.len() < MOST {
                found.push(address);
            }
        }
    }
    found
}

/// One number made of all bytes.
#[guest_function]
fn digest(ranges: &[u8]) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325u64;
    for (start, length) in each_range(ranges) {
        for address in (start..start + length).step_by(8) {
            let word = word_at(address);
            if word != 0 {
                state = (state ^ word ^ address.rotate_left(32))
                    .wrapping_mul(0x0000_0100_0000_01b3)
                    .rotate_left(23);
            }
        }
    }
    state
}

/// Writes a word to `count` pages that follow each other.
#[guest_function]
fn write_pages(start: u64, count: u64, word: u64) {
    for page in 0..count {
        set_word(start + page * 4096 + 40, word);
    }
}

/// How many of `count` pages have a word other than this one in that place.
#[guest_function]
fn count_other(start: u64, count: u64, word: u64) -> u64 {
    (0..count).filter(|page| word_at(start + page * 4096 + 40) != word).count() as u64
}

/// Writes zero to all words of ranges.
#[guest_function]
fn zero(ranges: &[u8]) {
    for (start, length) in each_range(ranges) {
        (start..start + length).step_by(8).for_each(|address| set_word(address, 0));
    }
}

/// Takes a message and keeps nothing of it.
#[guest_function]
fn swallow(data: &[u8]) -> u64 {
    data.len() as u64
}

/// A cache that is filled once, slowly.
#[guest_function]
fn cached() -> (u64, bool) {
    static CACHE: AtomicU64 = AtomicU64::new(0);
    let known = CACHE.load(Ordering::Relaxed);
    if known != 0 {
        return (known, true);
    }
    let value = (1..=1000u64).fold(0, |sum, number| black_box(sum) + number);
    CACHE.store(value, Ordering::Relaxed);
    (value, false)
}

/// State that stays between calls.
#[guest_function]
fn count() -> u32 {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    u32::try_from(CALLS.fetch_add(1, Ordering::Relaxed) + 1).unwrap_or(0)
}

#[guest_function]
fn spin() {
    loop {
        core::hint::spin_loop();
    }
}

#[guest_function]
fn random() -> u64 {
    glowbox_guest::random::u64()
}
