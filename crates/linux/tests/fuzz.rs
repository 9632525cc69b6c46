//! Whatever a guest does, the host bears it. The same driver runs under cargo-fuzz: see `fuzz/`.

mod support;

use support::Numbers;
use support::drive::drive;

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
