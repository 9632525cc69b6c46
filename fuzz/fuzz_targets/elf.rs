//! See `glowbox_fuzz::elf`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| glowbox_fuzz::elf::run(bytes));
