//! The compute set of the scoreboard, as a guest.

#![no_std]
#![no_main]

use glowbox_guest::guest_function;
use spin::Mutex;
use work::Inputs;

/// Made before the first call, so that calls find them in memory.
static INPUTS: Mutex<Option<Inputs>> = Mutex::new(None);

#[glowbox_guest::main]
fn prepare() {
    *INPUTS.lock() = Some(Inputs::new());
}

/// Does a piece of work `times` times. `None` if there is none of that number.
#[guest_function]
fn run(number: u32, times: u32) -> Option<u64> {
    INPUTS.lock().as_mut()?.run(number, times)
}
