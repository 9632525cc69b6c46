//! Where a sandbox's random numbers come from: the system, or a seed that the caller chose.
//!
//! What is random about a sandbox is where its program is loaded, the bytes that a System V process
//! finds on its stack (`AT_RANDOM`), and the seeds of its generator. With a fixed seed each of these
//! comes from a ChaCha20 stream of its own, so that none tells anything about another.

use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng as _, SeedableRng as _};
use glowbox_abi::mailbox::Entropy;
use rustix::rand::GetRandomFlags;

use crate::{Error, ErrorKind};

/// What follows the caller's seed in the stream's key. It changes when what is made from it does.
const KEY: &[u8; 24] = b"glowbox deterministic v1";

/// The streams, by number.
#[derive(Debug, Clone, Copy)]
enum Stream {
    LoadAddress = 1,
    Auxiliary = 2,
    Guest = 3,
    Process = 4,
    Mappings = 5,
}

/// Where random numbers come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Randomness {
    /// The operating system.
    #[default]
    System,
    /// Always the same, by this seed.
    Fixed(u64),
}

impl Randomness {
    /// Decides where a position-independent program is loaded.
    pub(crate) fn load_address(self) -> Result<u64, Error> {
        self.bytes(Stream::LoadAddress).map(u64::from_le_bytes)
    }

    /// The bytes for `AT_RANDOM`.
    pub(crate) fn auxiliary(self) -> Result<[u8; 16], Error> {
        self.bytes(Stream::Auxiliary)
    }

    /// What a guest's random numbers are made of in this generation: 1 at boot, and one more than
    /// the generation in its memory whenever that becomes another copy.
    pub(crate) fn entropy(self, generation: u64) -> Result<Entropy, Error> {
        let deterministic = u32::from(self != Randomness::System);
        let seed = self.bytes(Stream::Guest)?;
        Ok(Entropy { generation, deterministic, reserved: 0, seed })
    }

    /// Decides where a Linux guest's mappings start.
    pub(crate) fn mappings(self) -> Result<u64, Error> {
        self.bytes(Stream::Mappings).map(u64::from_le_bytes)
    }

    /// What a Linux guest's random numbers are made of.
    pub(crate) fn process_seed(self) -> Result<[u8; 32], Error> {
        self.bytes(Stream::Process)
    }

    /// The same for a copy of it, if that is to draw others than the original.
    pub(crate) fn another_process_seed(self) -> Result<Option<[u8; 32]>, Error> {
        match self {
            Randomness::System => self.process_seed().map(Some),
            Randomness::Fixed(_) => Ok(None),
        }
    }

    fn bytes<const N: usize>(self, stream: Stream) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        match self {
            Randomness::System => system(&mut bytes).map_err(|error| {
                let text = "the system gives no random numbers";
                Error::of_system(ErrorKind::Io, text, error)
            })?,
            Randomness::Fixed(seed) => {
                let mut key = [0; 32];
                key[..8].copy_from_slice(&seed.to_le_bytes());
                key[8..].copy_from_slice(KEY);
                let mut generator = ChaCha20Rng::from_seed(key);
                generator.set_stream(stream as u64);
                generator.fill_bytes(&mut bytes);
            }
        }
        Ok(bytes)
    }
}

/// By the system call itself, also in a program that is linked statically: libraries that look for the C
/// library's function at run time find none there, and open `/dev/urandom`, which filters refuse.
fn system(bytes: &mut [u8]) -> std::io::Result<()> {
    // So few come at once.
    match rustix::rand::getrandom(&mut *bytes, GetRandomFlags::empty())? {
        count if count == bytes.len() => Ok(()),
        _ => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_seed_gives_the_same_bytes_and_every_use_gets_others() {
        let seven = Randomness::Fixed(7);
        let entropy = seven.entropy(3).unwrap();
        assert_eq!(entropy, Entropy { generation: 3, ..seven.entropy(1).unwrap() });
        assert_eq!(entropy.deterministic, 1);
        assert_ne!(entropy.seed, Randomness::Fixed(8).entropy(3).unwrap().seed);
        assert_ne!(entropy.seed[..16], seven.auxiliary().unwrap());
        let address = seven.load_address().unwrap();
        assert_eq!(address, seven.load_address().unwrap());
        assert_ne!(address.to_le_bytes(), entropy.seed[..8]);
    }

    #[test]
    fn without_one_no_two_seeds_are_the_same() {
        let entropy = Randomness::System.entropy(1).unwrap();
        assert_eq!(entropy.deterministic, 0);
        assert_ne!(entropy, Randomness::System.entropy(1).unwrap());
    }
}
