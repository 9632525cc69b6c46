//! See `glowbox_fuzz::syscalls`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| glowbox_fuzz::syscalls::run(bytes));
