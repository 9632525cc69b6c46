//! Random numbers, by every way there is.

use core::cell::RefCell;

use glowbox_guest::__private::raw::{Entropy, set_entropy};
use glowbox_guest::guest_function;
use glowbox_guest::random::rand_core::Rng;
use glowbox_guest::random::{self, GuestRng};

/// The first numbers, drawn before any call.
struct AtStart(RefCell<Vec<u64>>);

// SAFETY: a guest has one thread.
unsafe impl Sync for AtStart {}

static AT_START: AtStart = AtStart(RefCell::new(Vec::new()));

#[glowbox_guest::main]
fn draw_at_start() {
    AT_START.0.borrow_mut().extend([random::u64(), random::u64()]);
}

#[guest_function]
fn random_at_start() -> Vec<u64> {
    AT_START.0.borrow().clone()
}

#[guest_function]
fn random_u64s(count: u32) -> Vec<u64> {
    (0..count).map(|_| random::u64()).collect()
}

#[guest_function]
fn random_bytes(count: u32) -> Vec<u8> {
    let mut bytes = vec![0; count as usize];
    random::fill(&mut bytes);
    bytes
}

/// Sixteen bytes from each version of `getrandom`, and from the generator.
#[guest_function]
fn random_by_crates() -> Result<Vec<Vec<u8>>, String> {
    let mut drawn = vec![vec![0; 16]; 3];
    getrandom_03::fill(&mut drawn[0]).map_err(|error| error.to_string())?;
    getrandom_04::fill(&mut drawn[1]).map_err(|error| error.to_string())?;
    GuestRng.fill_bytes(&mut drawn[2]);
    Ok(drawn)
}

/// Which copy of the memory this is.
#[guest_function]
fn random_generation() -> u64 {
    random::generation()
}

/// What the host does to a copy of this memory.
#[guest_function]
fn become_generation(generation: u64, seed: [u8; 32]) {
    set_entropy(&Entropy { generation, deterministic: 0, reserved: 0, seed });
}
