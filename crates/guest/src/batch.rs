//! Many calls in one entry: see [`glowbox_abi::batch`] for the protocol.
//!
//! Results gather at the start of the outgoing buffer. While an item runs, the buffer is lent from
//! behind them, with room for the item's own record before it. Whoever needs more than that calls
//! [`make_room`] and writes again; the item then has the whole buffer, and no record.

use glowbox_abi::batch::{BatchItem, BatchResult, item_length, next};
use glowbox_abi::mailbox::{FromGuest, FromGuestKind, ToGuest};

use crate::arch::{self, Message};
use crate::runtime;

/// Serves a batch and returns what to tell the host.
pub(crate) fn serve_many(incoming: &ToGuest) -> FromGuest {
    let handler = arch::export_handler(incoming.function);
    let items = Message::take(incoming);
    let (mut item, mut record) = (0, 0);
    for _ in 0..incoming.count {
        let Some(length) = item_length(items.bytes(), item) else {
            // A host does not do that; if it does, it misses results.
            break;
        };
        if record + BatchResult::SIZE > arch::outgoing_size() {
            flush();
            record = 0;
        }
        arch::set_outgoing_base(record + BatchResult::SIZE);
        let arguments = item + BatchItem::SIZE;
        let header = {
            let offset = incoming.offset.wrapping_add(arguments as u64);
            let length = length as u64;
            runtime::run(handler, &Message::take(&ToGuest { offset, length, ..*incoming }))
        };
        record = put_result(record, &header);
        item = next(arguments + length);
    }
    arch::set_outgoing_base(0);
    FromGuest { kind: FromGuestKind::BatchEnd as u32, ..FromGuest::default() }
}

/// Adds the result of the item whose record is at `record`; returns where the next record goes.
fn put_result(record: usize, header: &FromGuest) -> usize {
    let base = arch::outgoing_base();
    if base == 0 {
        // It needed the whole buffer. The host takes it at once, and counts it.
        arch::send(header);
        return 0;
    }
    let FromGuest { status, text_length, length, .. } = *header;
    arch::set_outgoing_base(record);
    arch::with_outgoing_now(|space| {
        let bytes = BatchResult { status, text_length, length }.to_bytes();
        space[..BatchResult::SIZE].copy_from_slice(&bytes);
    });
    arch::count_result();
    next(base + usize::try_from(length).unwrap_or(usize::MAX - base))
}

/// Gives the item under way the whole outgoing buffer. `false` if it has it already, or there is no
/// batch. Nobody may be writing to the buffer.
pub(crate) fn make_room() -> bool {
    match arch::outgoing_base() {
        0 => return false,
        // Nothing but the item's own record.
        BatchResult::SIZE => {}
        _ => flush(),
    }
    arch::set_outgoing_base(0);
    true
}

/// Lets the host take the results that have been counted.
fn flush() {
    arch::leave(&FromGuest { kind: FromGuestKind::BatchFlush as u32, ..FromGuest::default() });
}
