//! Whatever a guest does, the host bears it. The same driver runs under cargo-fuzz: see `fuzz/`.

mod support;

use fastrand::Rng;
use support::drive::drive;

#[test]
fn whatever_a_guest_does_the_host_bears_it() {
    let enough = if cfg!(debug_assertions) { 20_000 } else { 200_000 };
    let mut random = Rng::with_seed(7);
    let mut calls = 0;
    while calls < enough {
        let bytes: Vec<u8> = (0..1024).flat_map(|_| random.u64(..).to_le_bytes()).collect();
        calls += drive(&bytes);
    }
}
