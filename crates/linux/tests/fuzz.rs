//! Whatever a guest does, the host bears it. The same driver runs under cargo-fuzz: see `fuzz/`.

mod support;

use support::drive::drive;

/// Numbers that look random (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ number >> 31
    }
}

#[test]
fn whatever_a_guest_does_the_host_bears_it() {
    let enough = if cfg!(debug_assertions) { 20_000 } else { 200_000 };
    let mut numbers = Numbers(7);
    let mut calls = 0;
    while calls < enough {
        let bytes: Vec<u8> = (0..1024).flat_map(|_| numbers.next().to_le_bytes()).collect();
        calls += drive(&bytes);
    }
}
