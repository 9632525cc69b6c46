//! See `glowbox_fuzz::sections`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| glowbox_fuzz::sections::run(bytes));
