//! What the fields of a mailbox can be set to: boundaries, and what leads to other memory.

use crate::attacker::{MESSAGE, Map};
use crate::generate::Random;

/// A message's fields of 32 bits.
pub(crate) fn words(imports: &[u32]) -> Vec<u32> {
    let message = u32::try_from(MESSAGE).expect("small");
    let mut values: Vec<u32> = (0..=17).collect();
    for middle in [64, 255, 256, 4096, message, 1 << 16, 1 << 24, 1 << 31] {
        values.extend([middle - 1, middle, middle + 1]);
    }
    values.extend([u32::MAX - 15, u32::MAX - 1, u32::MAX]);
    let beside = |number: &u32| [number.wrapping_sub(1), *number, number + 1];
    values.extend(imports.iter().flat_map(beside));
    values.sort_unstable();
    values.dedup();
    values
}

/// Numbers at which something changes, or may do so in careless code.
fn boundaries() -> Vec<u64> {
    let mut values: Vec<u64> = (0..=17).collect();
    for middle in [4096, MESSAGE / 2, MESSAGE, 2 * MESSAGE, 2 << 20] {
        values.extend([middle - 16, middle - 4, middle - 1, middle, middle + 1, middle + 4]);
        values.push(middle + 16);
    }
    for bit in [31, 32, 47, 48, 63] {
        values.extend([(1 << bit) - 1, 1 << bit, (1 << bit) + 1]);
    }
    values.extend([16, 15, 8, 4, 1, 0].map(|below| u64::MAX - below));
    values
}

/// A message's fields of 64 bits: boundaries; addresses of every region, the supervisor's too, as they are
/// and so that they wrap to there from the start of the outgoing buffer; and what lies beside those.
pub(crate) fn longs(map: &Map) -> Vec<u64> {
    let mut values = boundaries();
    let from = |start: u64| move |address: &u64| address.wrapping_sub(start);
    let addresses =
        map.virtuals.iter().copied().chain(map.virtuals.iter().map(from(map.outgoing.0)));
    let addresses = addresses.chain(map.physicals.iter().map(from(map.outgoing.1)));
    for address in addresses {
        values.extend([0, 1, 4].map(|more| address.wrapping_add(more)));
        values.push(address.wrapping_sub(1));
    }
    values.sort_unstable();
    values.dedup();
    values
}

/// One of these values, something near it, or any number.
pub(crate) fn near(random: &mut Random, values: &[u64]) -> u64 {
    let value = *random.pick(values);
    match random.below(4) {
        0 => value.wrapping_add(random.next() % 33).wrapping_sub(16),
        1 => random.next() >> random.below(64),
        _ => value,
    }
}
