//! The compute set as a module that others load.
//!
//! One source becomes the shared library that runs natively and the WebAssembly module that Wasmtime
//! runs. It is no part of a host program, so that cargo does not give its crates the features that
//! a host's crates ask for (`std` above all): native code, guest and WebAssembly have the same.

use std::sync::{Mutex, PoisonError};

use work::Inputs;

static INPUTS: Mutex<Option<Inputs>> = Mutex::new(None);

/// Makes the inputs, which `run` does by itself otherwise.
// SAFETY: no other crate of this module exports the name.
#[unsafe(no_mangle)]
pub extern "C" fn prepare() {
    run(0, 0);
}

/// Does a piece of work `times` times. 0 if there is none of that number.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub extern "C" fn run(number: u32, times: u32) -> u64 {
    let mut inputs = INPUTS.lock().unwrap_or_else(PoisonError::into_inner);
    inputs.get_or_insert_with(Inputs::new).run(number, times).unwrap_or(0)
}
