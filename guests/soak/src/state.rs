//! What stays from call to call, and what must not be found anywhere.

use core::cell::RefCell;
use core::hint::black_box;
use core::mem::MaybeUninit;

use glowbox_guest::guest_function;

use crate::work;

/// Tags come masked, so that no message has them.
const MASK: u64 = 0x5a5a_3c3c_9669_a5a5;
const WORDS_OF_A_PAGE: usize = 512;
/// Bytes of the stack that are searched.
const STACK: usize = 256 << 10;

struct State {
    counter: u64,
    kept: Vec<Vec<u64>>,
}

struct Kept(RefCell<State>);

// SAFETY: a guest has one thread and no interrupts.
unsafe impl Sync for Kept {}

static KEPT: Kept = Kept(RefCell::new(State { counter: 0, kept: Vec::new() }));

#[guest_function]
fn bump(by: u64) -> u64 {
    let mut state = KEPT.0.borrow_mut();
    state.counter = state.counter.wrapping_add(by);
    state.counter
}

/// Fills so many pages with a tag of this number, which all its words then hold; also some stack.
#[guest_function]
fn keep(masked: u64, pages: u32) {
    let tag = black_box(masked) ^ MASK;
    KEPT.0.borrow_mut().kept.push(vec![tag; pages as usize * WORDS_OF_A_PAGE]);
    stain_stack(tag);
    // A freed allocation keeps its bytes, until something else is put there.
    drop(black_box(vec![tag; 4 * WORDS_OF_A_PAGE]));
}

#[inline(never)]
fn stain_stack(tag: u64) {
    black_box(&mut [tag; STACK / 16]);
}

/// The counter, and a number that depends on all words that are kept.
#[guest_function]
fn digest() -> (u64, u64) {
    let state = KEPT.0.borrow();
    let mut folded = 0;
    for piece in &state.kept {
        let mut sum = 0u64;
        piece.iter().for_each(|word| sum = sum.wrapping_add(*word ^ MASK));
        folded = work::rounds(folded ^ sum, 2);
    }
    (state.counter, folded)
}

/// The numbers of all tags in so many KiB of unused heap, in the unused stack and in what is kept.
#[guest_function]
fn find_tags(kib: u32) -> Vec<u32> {
    let mut found = Vec::new();
    heap_tags(kib as usize * 128, &mut found);
    stack_tags(&mut found);
    KEPT.0.borrow().kept.iter().flatten().for_each(|word| note(*word, &mut found));
    found
}

fn note(word: u64, found: &mut Vec<u32>) {
    let number = u32::try_from(word & u64::from(u32::MAX)).unwrap_or(0);
    if word == work::tag(number) && !found.contains(&number) {
        found.push(number);
    }
}

fn heap_tags(words: usize, found: &mut Vec<u32>) {
    let mut space: Vec<u64> = Vec::with_capacity(words);
    space.spare_capacity_mut().iter().for_each(|word| note(read_word(word), found));
}

#[inline(never)]
fn stack_tags(found: &mut Vec<u32>) {
    let space = [const { MaybeUninit::<u64>::uninit() }; STACK / 8];
    black_box(&space).iter().for_each(|word| note(read_word(word), found));
}

fn read_word(word: &MaybeUninit<u64>) -> u64 {
    let found;
    let address = word.as_ptr();
    // SAFETY: the address is that of a word of this guest's memory. It is read by an instruction
    // that the compiler knows nothing of, as memory that was never written is of no value to Rust.
    unsafe {
        core::arch::asm!("mov {found}, [{address}]", found = lateout(reg) found, address = in(reg) address, options(nostack, readonly));
    }
    found
}
