//! See `glowbox_fuzz::guest`. A guest's code has no counters that libFuzzer knows of, so what a guest did is
//! counted here instead.

#![no_main]

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU8, Ordering};

use glowbox_fuzz::guest::{Seen, outcome};

/// One for each kind of thing that was seen; libFuzzer looks at them, and clears them.
// SAFETY: nothing is in this section but bytes that start as zero, which is all that libFuzzer asks for.
#[unsafe(link_section = "__libfuzzer_extra_counters")]
static COUNTERS: [AtomicU8; 1 << 15] = [const { AtomicU8::new(0) }; 1 << 15];

fn count(what: impl Hash) {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    let [low, high, ..] = hasher.finish().to_le_bytes();
    COUNTERS[usize::from(u16::from_le_bytes([low, high])) % COUNTERS.len()]
        .store(1, Ordering::Relaxed);
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Seen { outcome, instruction, access, pages, extended } = outcome(bytes);
    count((0, &outcome));
    // Prefix or opcode, and what follows.
    count((1, &outcome, instruction.first()));
    count((2, &outcome, instruction.get(..2)));
    count((3, access));
    count((4, pages));
    extended.into_iter().for_each(|piece| count((5, piece)));
});
