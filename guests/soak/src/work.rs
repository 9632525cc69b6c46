//! What the guest computes, and the host too, to check every answer: both compile this file.

/// One step of splitmix64: moves the state on, and gives a number.
pub(crate) fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// So many steps, folded.
pub(crate) fn rounds(seed: u64, count: u32) -> u64 {
    let mut state = seed;
    (0..count).fold(seed, |folded, _| folded.rotate_left(7) ^ next(&mut state))
}

/// A number that depends on every bit of all arguments.
pub(crate) fn mix(number: u64, text: &str, list: &[u32], flag: Option<bool>) -> u64 {
    let mut state = number ^ flag.map_or(7, u64::from);
    for part in text.bytes().map(u32::from).chain(list.iter().copied()) {
        state = next(&mut state) ^ u64::from(part);
    }
    next(&mut state)
}

/// The tag of a number. Its halves belong together: of a tag in unused memory that something shorter
/// than a word was written over, the rest is no tag.
pub(crate) fn tag(number: u32) -> u64 {
    let upper = number.wrapping_mul(0x9e37_79b1) ^ 0x7a6b_5c4d;
    u64::from(upper) << 32 | u64::from(number)
}
