//! Random numbers for `getrandom` and the random devices.

use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng as _, SeedableRng as _};
use linux_raw_sys::general as raw;
use serde::{Deserialize, Serialize};

use crate::Errno;
use crate::call::{Answer, Call, Stop, unsigned};
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
    let [address, length, flags, ..] = call.arguments;
    let flags = unsigned(flags);
    let known = raw::GRND_NONBLOCK | raw::GRND_RANDOM | raw::GRND_INSECURE;
    let contradiction = raw::GRND_RANDOM | raw::GRND_INSECURE;
    if flags & !known != 0 || flags & contradiction == contradiction {
        return Err(Errno::EINVAL.into());
    }
    let length = length.min(MOST);
    let mut done = 0;
    let mut chunk = [0; CHUNK];
    while done < length {
        let part = usize::try_from(length - done).map_or(CHUNK, |left| left.min(CHUNK));
        call.process.random.fill(&mut chunk[..part]);
        match call.write(address.wrapping_add(done), &chunk[..part]) {
            // As Linux, which says how far it has come.
            Err(Stop::Error(_)) if done != 0 => break,
            result => result?,
        }
        done += part as u64;
    }
    Ok(done)
}
