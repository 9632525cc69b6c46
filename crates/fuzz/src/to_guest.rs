//! Anything a host may write to a guest's mailbox, read as the guest library reads it; and what a host
//! does write, read back.

use glowbox_abi::batch::{BatchItem, item_length, next};
use glowbox_abi::mailbox::{BootInfo, Entropy, ReplyStatus, ToGuest, ToGuestKind};
use glowbox_abi::maps::{
    ENTRIES_OFFSET, MAX_ENTRIES, MAX_NAME, MapEntry, MapTableHeader, TABLE_SIZE, entry_offset,
};
use glowbox_abi::wire::{self, WireError};
use glowbox_core::batch::put_item;

use crate::input::Input;
use crate::values;

/// Reads the bytes as the control page's headers, the map table and a message.
///
/// # Panics
///
/// If what is read is not what was written.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let choice = input.byte();
    let header = ToGuest::from_bytes(&input.array());
    headers(&header, &mut input.clone());
    match choice & 3 {
        0 => table(&mut input),
        1 => items(usize::try_from(header.count).unwrap_or(usize::MAX), input.rest()),
        2 => packed(&mut input),
        _ => values::decode(u32::from(choice >> 2), input.rest()),
    }
}

fn headers(header: &ToGuest, input: &mut Input<'_>) {
    assert_eq!(ToGuest::from_bytes(&header.to_bytes()), *header);
    if let Some(kind) = ToGuestKind::from_number(header.kind) {
        assert_eq!(kind as u32, header.kind);
    }
    if let Some(status) = ReplyStatus::from_number(header.status) {
        assert_eq!(status as u32, header.status);
    }
    let info: [u8; BootInfo::SIZE] = input.array();
    assert_eq!(BootInfo::from_bytes(&info).to_bytes(), info);
    let entropy: [u8; Entropy::SIZE] = input.array();
    assert_eq!(Entropy::from_bytes(&entropy).to_bytes(), entropy);
}

/// The table of what is lent, with any count and any entries.
fn table(input: &mut Input<'_>) {
    let table: [u8; TABLE_SIZE] = input.array();
    let header = MapTableHeader::from_bytes(table.first_chunk().expect("a page"));
    let count = usize::try_from(header.count).unwrap_or(usize::MAX).min(MAX_ENTRIES);
    for number in 0..count {
        let at = entry_offset(number);
        assert!(at >= ENTRIES_OFFSET);
        let entry = MapEntry::from_bytes(table[at..].first_chunk().expect("it lies in the table"));
        let Some(name) = entry.name() else { continue };
        assert!((1..=MAX_NAME).contains(&name.len()));
        let again = MapEntry::new(name, entry.address, entry.length).expect("it is a name");
        assert_eq!(again.name(), Some(name));
    }
}

/// A message of items, with any lengths.
fn items(count: usize, message: &[u8]) {
    let mut item = 0;
    for _ in 0..count {
        let Some(length) = item_length(message, item) else { break };
        let arguments = item + BatchItem::SIZE;
        let bytes = &message[arguments..arguments + length];
        values::decode(19, bytes);
        let after = next(arguments + length);
        assert!(after > item);
        item = after;
    }
}

/// Items as a host packs them come out as they went in.
fn packed(input: &mut Input<'_>) {
    let size = usize::from(input.half() % 4096);
    let mut space = vec![0xee; size];
    let mut used = 0;
    let mut calls = Vec::new();
    while !input.is_empty() {
        let length = usize::from(input.byte());
        let call = (String::from_utf8_lossy(input.take(length)).into_owned(), input.word());
        values::survives(&call);
        match put_item(&mut space, used, |space| wire::encode(&call, space)) {
            Ok(now) => {
                assert!(now > used && now <= size);
                used = now;
                calls.push(call);
            }
            Err(WireError::TooLarge { needed, space: free }) => {
                assert!(needed > free && free <= size - used);
                break;
            }
            Err(other) => panic!("{other}"),
        }
    }
    let message = &space[..used];
    let mut item = 0;
    for call in &calls {
        let length = item_length(message, item).expect("the item is there");
        let arguments = item + BatchItem::SIZE;
        let decoded = wire::decode_all(&message[arguments..arguments + length]);
        assert_eq!(decoded.as_ref(), Ok(call));
        item = next(arguments + length);
    }
    assert!(item_length(message, item).is_none(), "there is one item too many");
}
