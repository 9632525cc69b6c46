//! Batches: many calls of one function in one message.
//!
//! The host sends [`ToGuestKind::CallMany`](crate::mailbox::ToGuestKind::CallMany). Its message is a
//! row of items, each a [`BatchItem`] and the arguments of a call. The guest runs them in order, and
//! puts a row of results into the outgoing buffer, from its start: each a [`BatchResult`] and what the
//! message of a single call's return would be. Items and results start at multiples of
//! [`MESSAGE_ALIGN`]. After each result the guest counts it in the control page, at
//! [`BATCH_PROGRESS_OFFSET`](crate::mailbox::BATCH_PROGRESS_OFFSET), where the host finds it however
//! the guest stopped: what was done before a fault is not lost.
//!
//! While an item runs, whatever it sends (host calls, log records, results of nested calls) lies
//! behind the results so far. If that is too little room, the guest *flushes*: it leaves with
//! [`BatchFlush`](crate::mailbox::FromGuestKind::BatchFlush), the host takes the results that have
//! been counted and not been taken before, and the guest goes on with an empty buffer. No function
//! runs twice for want of room. The item that needed the room is then returned as a single call is,
//! by a [`Return`](crate::mailbox::FromGuestKind::Return) of its own, which the host counts; so it has
//! as much room as a single call, to the byte. The next result starts at the buffer's start again.
//!
//! After the last item the guest leaves with
//! [`BatchEnd`](crate::mailbox::FromGuestKind::BatchEnd), and the host takes the results since the
//! last flush.
//!
//! Why the count is of the whole batch and never set back: the guest may be stopped between any two
//! instructions. A count that began anew after a flush would for a moment be that of results which
//! have been taken already.

use crate::mailbox::{MESSAGE_ALIGN, header};

header! {
    /// Stands before the arguments of each call in a batch.
    BatchItem, 16 {
        /// Bytes of arguments.
        length: u64,
        /// Zero.
        reserved: u64,
    }
}

header! {
    /// Stands before each result of a batch.
    BatchResult, 16 {
        /// A [`ReturnStatus`](crate::mailbox::ReturnStatus), but not that of a result that is too
        /// large: those are returned on their own.
        status: u32,
        /// As in [`FromGuest`](crate::mailbox::FromGuest).
        text_length: u32,
        /// Bytes that follow.
        length: u64,
    }
}

/// Items and results start at multiples of this.
const ALIGN: usize = 16;
const _: () = assert!(ALIGN as u64 == MESSAGE_ALIGN);
const _: () = assert!(BatchItem::SIZE.is_multiple_of(ALIGN));
const _: () = assert!(BatchResult::SIZE.is_multiple_of(ALIGN));

/// Bytes of arguments of the item at this offset of a message, if all of it lies within the message.
pub fn item_length(message: &[u8], item: usize) -> Option<usize> {
    let (header, arguments) = message.get(item..)?.split_first_chunk()?;
    let length = usize::try_from(BatchItem::from_bytes(header).length).ok()?;
    (length <= arguments.len()).then_some(length)
}

/// Where the next item or result starts, after one whose bytes end at `end`.
pub const fn next(end: usize) -> usize {
    end.next_multiple_of(ALIGN)
}
