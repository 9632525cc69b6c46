//! Start-up functions that work, fail, panic or never end, as the host chooses.

#![no_std]
#![no_main]

use glowbox_guest::{guest_function, host_function};

#[host_function]
fn behaviour() -> u32;

#[glowbox_guest::main]
fn main() -> Result<(), String> {
    match behaviour() {
        0 => Ok(()),
        1 => Err("no configuration".to_string()),
        2 => panic!("start-up panicked"),
        _ => loop {
            core::hint::spin_loop();
        },
    }
}

#[guest_function]
fn alive() -> bool {
    true
}
