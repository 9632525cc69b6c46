//! Memory that stays from call to call.

use core::cell::RefCell;

use glowbox_guest::guest_function;

/// What has been kept.
struct Kept(RefCell<Vec<Vec<u8>>>);

// SAFETY: a guest has one thread and no interrupts.
unsafe impl Sync for Kept {}

static KEPT: Kept = Kept(RefCell::new(Vec::new()));

/// Keeps so many bytes, all written, and returns how many are kept in all.
#[guest_function]
fn keep(bytes: u64, byte: u8) -> u64 {
    let length = usize::try_from(bytes).expect("bytes fit the address space");
    KEPT.0.borrow_mut().push(vec![byte; length]);
    kept()
}

/// How many bytes are kept.
#[guest_function]
fn kept() -> u64 {
    KEPT.0.borrow().iter().map(|piece| piece.len() as u64).sum()
}

/// The sum of every so many kept bytes.
#[guest_function]
fn sum_kept(step: u32) -> u64 {
    let pieces = KEPT.0.borrow();
    let bytes = pieces.iter().flat_map(|piece| piece.iter().step_by(step as usize));
    bytes.map(|byte| u64::from(*byte)).sum()
}

/// Overwrites the first byte of so many pages of what is kept last.
#[guest_function]
fn dirty_kept(pages: u32, byte: u8) {
    let mut pieces = KEPT.0.borrow_mut();
    let piece = pieces.last_mut().expect("something is kept");
    piece.iter_mut().step_by(4096).take(pages as usize).for_each(|first| *first = byte);
}
