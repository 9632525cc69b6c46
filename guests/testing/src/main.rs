//! Functions that the library's tests call.

#![no_std]
#![no_main]

use glowbox_guest::guest_function;

#[guest_function]
fn add(a: u32, b: u32) -> u32 {
    a.wrapping_add(b)
}

#[guest_function]
fn echo(data: &[u8]) -> &[u8] {
    data
}
