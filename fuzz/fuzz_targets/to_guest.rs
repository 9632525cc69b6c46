//! See `glowbox_fuzz::to_guest`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| glowbox_fuzz::to_guest::run(bytes));
