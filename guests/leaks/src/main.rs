//! Leaves patterns wherever a guest can write, and looks for them wherever it can read: for the
//! library's tests of what a reset and a new use of a VM leave behind.
//!
//! - `endings`: everything at once, by assembly that does not come back;
//! - `state`: what the registers hold;
//! - `memory`: looking through memory, and writing single pages;
//! - `stains`: patterns in all that compiled code can spare, and then a return or a panic.
//!
//! Patterns are always handed over inverted, so that a guest that looks for one does not itself
//! carry it around. Ranges are pairs of 64-bit addresses and lengths as bytes, so that they stay in
//! the incoming buffer, the one place that a guest can't overwrite.

#![no_std]
#![no_main]

mod endings;
mod memory;
mod stains;
mod state;
