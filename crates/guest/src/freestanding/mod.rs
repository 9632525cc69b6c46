//! A guest without the standard library: it starts at the library's entry point and runs on its
//! heap, and a panic ends it on the spot.

mod heap;
mod panic;

use core::fmt;

use glowbox_abi::mailbox::FromGuest;

use crate::arch::{self, Message};
use crate::call::ExportHandler;
use crate::serving;

/// Never said: there is no other thread.
pub(crate) const NOT_SERVING: &str = "";

/// Runs the guest, from the first instruction after the stack is set up. Does not return.
pub(crate) fn run_guest() -> ! {
    let info = arch::boot_info();
    heap::init(info.heap_address, info.heap_size);
    serving::serve_calls()
}

/// Runs a function of the guest.
pub(crate) fn run(handler: ExportHandler, message: &Message) -> FromGuest {
    handler(message)
}

/// Never called: there is no other thread.
pub(crate) fn print_elsewhere(_target: &str, _text: fmt::Arguments<'_>) {}
