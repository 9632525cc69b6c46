//! See `glowbox_fuzz::paging`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| glowbox_fuzz::paging::run(bytes));
