//! Random numbers for `getrandom` and the random devices.

use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

use crate::call::{Answer, Call};
use crate::table::{Entry, entries};

/// A process's generator. Its copies would give the same numbers, so whoever copies a process seeds
/// the copy anew.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Random {
    seed: [u8; 32],
    /// Bytes drawn since.
    drawn: u64,
}

impl Random {
    /// A generator with this seed.
    pub fn new(seed: [u8; 32]) -> Random {
        Random { seed, drawn: 0 }
    }

    /// Fills a buffer.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        let mut generator = ChaCha20Rng::from_seed(self.seed);
        // In words of 32 bits.
        generator.set_word_pos(u128::from(self.drawn / 4));
        generator.fill_bytes(bytes);
        let drawn = (bytes.len() as u64).next_multiple_of(4);
        self.drawn = self.drawn.wrapping_add(drawn);
    }
}

pub(crate) const CALLS: &[Entry] = entries! {
    getrandom __NR_getrandom getrandom: "from the sandbox's seed; never waits";
};

/// Bytes that one call gives at most, as one read of `/dev/urandom` in Linux.
const MOST: u64 = 32 << 20;
/// Bytes made at a time.
const CHUNK: usize = 4096;

fn getrandom(call: &mut Call<'_>) -> Answer {
    let [address, length, ..] = call.arguments;
    let length = length.min(MOST);
    let mut done = 0;
    let mut chunk = [0; CHUNK];
    while done < length {
        let part = usize::try_from(length - done).map_or(CHUNK, |left| left.min(CHUNK));
        call.process.random.fill(&mut chunk[..part]);
        call.write(address.wrapping_add(done), &chunk[..part])?;
        done += part as u64;
    }
    Ok(done)
}
