//! Checksums: 128-bit XXH3.
//!
//! They are to find bytes that were damaged or changed, as fast as memory can be read, since the
//! whole image is checked by default. A cryptographic hash takes four times as long and would add
//! nothing here: it stands in the file that it vouches for. `docs/snapshot-format.md` has the
//! measurements.

use std::fmt;

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::FormatError;

/// A checksum of some bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Checksum(u128);

impl Checksum {
    /// Bytes that it takes in a file.
    pub(super) const SIZE: usize = 16;

    pub(super) fn of(bytes: &[u8]) -> Checksum {
        Checksum(xxh3_128(bytes))
    }

    pub(super) fn from_bytes(bytes: [u8; Checksum::SIZE]) -> Checksum {
        Checksum(u128::from_le_bytes(bytes))
    }

    pub(super) fn to_bytes(self) -> [u8; Checksum::SIZE] {
        self.0.to_le_bytes()
    }

    /// Compares what the file says of a field with what was found.
    pub(super) fn check(self, found: Checksum, field: &'static str) -> Result<(), FormatError> {
        if self == found { Ok(()) } else { Err(FormatError::Checksum { field }) }
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checksum({:032x})", self.0)
    }
}

/// The checksum of a memory image, from its pages in order; how they are cut into pieces makes no
/// difference.
#[derive(Clone, Default)]
pub struct ImageHasher(Xxh3);

impl ImageHasher {
    /// Of no pages yet.
    pub fn new() -> ImageHasher {
        ImageHasher::default()
    }

    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of all that was added.
    pub fn finish(&self) -> Checksum {
        Checksum(self.0.digest128())
    }
}

impl fmt::Debug for ImageHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ImageHasher").field(&self.finish()).finish()
    }
}
