//! What the guest `hostile` can be told to do. The tests that tell it compile this file too.

extern crate alloc;

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// What stands before the steps for the start-up in the guest's file; see [`START_SIZE`].
pub(crate) const START_MAGIC: [u8; 16] = *b"steps at start:\n";
/// Bytes in the file after the magic: the number of bytes of the steps' encoding as a `u32`, and that.
pub(crate) const START_SIZE: usize = 1024;

/// A header by hand: what `FromGuest` has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Header {
    pub(crate) kind: u32,
    pub(crate) status: u32,
    pub(crate) function: u32,
    pub(crate) text_length: u32,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) reply_offset: u64,
    pub(crate) amount: u64,
}

/// Where raw stores go.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) enum Place {
    /// The control page.
    Control,
    /// The host-to-guest buffer, which can't be written.
    Incoming,
    /// The guest-to-host buffer.
    Outgoing,
    /// The heap, from its start.
    Heap,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Step {
    /// Leaves with this header. If the host answers by a call, does that call's steps.
    Leave(Header),
    /// Writes bytes at an offset of a place, by raw stores.
    Write(Place, u64, Vec<u8>),
    /// Asks the host function `nest_…` of this number, by the library, to call `strike` with the encoding
    /// of other steps.
    Nest(u8, Vec<u8>),
    /// Asks `hold` to do the same while it holds this data.
    Hold(Vec<u8>, Vec<u8>),
    /// Asks each other host function something sensible, by the library.
    Ask,
    /// Does the steps so many times.
    Repeat(u32, Vec<Step>),
    /// Keeps so many blocks of so many bytes each, with a byte written to each.
    Keep {
        /// Bytes in a block.
        size: u64,
        /// How many.
        count: u64,
    },
    /// Writes a byte into so many pages from an offset of a place.
    Touch(Place, u64, u64),
    /// Logs so many bytes by the library.
    Say(u32),
}
