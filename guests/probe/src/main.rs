//! What `glowbox doctor` calls to see that guests run.

#![no_std]
#![no_main]

use glowbox_guest::guest_function;

#[guest_function]
fn add(a: u32, b: u32) -> u32 {
    a.wrapping_add(b)
}
