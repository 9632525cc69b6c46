//! Greets, with the help of a host function.

#![no_std]
#![no_main]

use glowbox_guest::{guest_function, host_function};

#[host_function]
fn weekday() -> String;

#[guest_function]
fn greet(name: &str) -> String {
    format!("Hello, {name}! Today is {}.", weekday())
}
