//! See `glowbox_fuzz::snapshot_file`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| glowbox_fuzz::snapshot_file::run(bytes));
