//! See `glowbox_fuzz::from_guest`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| glowbox_fuzz::from_guest::run(bytes));
