//! Random numbers in guests: never the same in two sandboxes, unless that was asked for.

use std::collections::BTreeSet;

use glowbox::Sandbox;

use crate::support::{builder, guest, sandbox};

fn numbers(sandbox: &mut Sandbox, count: u32) -> Vec<u64> {
    sandbox.call("random_u64s", (count,)).unwrap()
}

fn fixed(seed: u64) -> Sandbox {
    builder().deterministic(seed).build(guest("testing")).unwrap()
}

tests! {
    fn two_sandboxes_never_draw_the_same_numbers() {
        let mut seen = BTreeSet::new();
        for _ in 0..4 {
            let mut sandbox = sandbox();
            let at_start: Vec<u64> = sandbox.call("random_at_start", ()).unwrap();
            seen.extend(at_start.into_iter().chain(numbers(&mut sandbox, 1000)));
        }
        assert_eq!(seen.len(), 4 * 1002);
    }

    fn a_guest_asks_nobody_for_its_random_numbers() {
        let mut sandbox = sandbox();
        let before = sandbox.stats().entries;
        numbers(&mut sandbox, 1000);
        assert_eq!(sandbox.stats().entries - before, 1);
    }

    fn any_number_of_bytes_is_filled_to_the_last() {
        let mut sandbox = sandbox();
        for count in [0u32, 1, 3, 4, 255, 256, 257, 100_000] {
            let bytes: Vec<u8> = sandbox.call("random_bytes", (count,)).unwrap();
            assert_eq!(bytes.len(), count as usize);
            // A byte that stays zero over 64 draws has not been written.
            let mut written = vec![false; bytes.len().min(300)];
            for _ in 0..64 {
                let bytes: Vec<u8> = sandbox.call("random_bytes", (count,)).unwrap();
                let last = bytes.len() - written.len();
                written.iter_mut().zip(&bytes[last..]).for_each(|(seen, byte)| *seen |= *byte != 0);
            }
            assert!(written.iter().all(|seen| *seen), "{count} bytes");
        }
    }

    fn bits_are_evenly_set() {
        let bits: u32 = numbers(&mut sandbox(), 10_000).iter().map(|n| n.count_ones()).sum();
        // 640,000 throws of a coin: this is 12 standard deviations to either side.
        assert!((315_200..324_800).contains(&bits), "{bits}");
    }

    fn crates_that_ask_getrandom_get_the_guests_numbers() {
        let draw = |sandbox: &mut Sandbox| {
            let drawn: Vec<Vec<u8>> = sandbox.call("random_by_crates", ()).unwrap();
            drawn
        };
        let (mut one, mut two, mut other) = (fixed(1), fixed(1), sandbox());
        let drawn = draw(&mut one);
        assert_eq!(drawn, draw(&mut two));
        let all = [drawn, draw(&mut one), draw(&mut other)].concat();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 9, "{all:?}");
        assert!(all.iter().all(|bytes| bytes.len() == 16 && bytes.iter().any(|byte| *byte != 0)));
    }

    fn a_fixed_seed_makes_numbers_and_addresses_the_same() {
        let (mut one, mut two, mut other) = (fixed(7), fixed(7), fixed(8));
        let at_start = |sandbox: &mut Sandbox| -> Vec<u64> {
            sandbox.call("random_at_start", ()).unwrap()
        };
        assert_eq!(at_start(&mut one), at_start(&mut two));
        assert_ne!(at_start(&mut one), at_start(&mut other));
        let first = numbers(&mut one, 10);
        assert_eq!(first, numbers(&mut two, 10));
        assert_ne!(first, numbers(&mut one, 10), "a stream goes on");
        assert_ne!(first, numbers(&mut other, 10));
        let address = |sandbox: &mut Sandbox| -> u64 {
            sandbox.call("address_of_code", ()).unwrap()
        };
        assert_eq!(address(&mut one), address(&mut two));
        assert_ne!(address(&mut one), address(&mut other));
    }

    fn a_new_generation_starts_another_stream_even_with_the_same_seed() {
        // Two copies of one memory: the same numbers drawn before, and then the same new seed.
        let (mut one, mut two, mut other) = (fixed(7), fixed(7), fixed(7));
        let (same, another) = ([1u8; 32], [2u8; 32]);
        for (sandbox, seed) in [(&mut one, same), (&mut two, same), (&mut other, another)] {
            numbers(sandbox, 5);
            sandbox.call::<_, ()>("become_generation", (2u64, seed)).unwrap();
        }
        let drawn = numbers(&mut one, 10);
        assert_eq!(drawn, numbers(&mut two, 10), "the seed decides, not the old state");
        assert!(drawn.iter().all(|number| !numbers(&mut other, 100).contains(number)));
        // Once more with the seed that has been used: what was drawn does not come again.
        one.call::<_, ()>("become_generation", (3u64, same)).unwrap();
        let later = numbers(&mut one, 100);
        assert!(drawn.iter().all(|number| !later.contains(number)));
        assert_eq!(one.call::<_, u64>("random_generation", ()).unwrap(), 3);
    }

    fn the_generation_is_one_at_boot_and_stays_over_calls() {
        let mut sandbox = sandbox();
        for _ in 0..3 {
            assert_eq!(sandbox.call::<_, u64>("random_generation", ()).unwrap(), 1);
        }
    }
}
