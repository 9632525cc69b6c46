//! Panics and an exhausted heap.

use core::fmt::Write;
use core::panic::PanicInfo;

use glowbox_abi::mailbox::{FromGuest, FromGuestKind};

use crate::heap;
use crate::output::SliceWriter;
use crate::{arch, batch};

/// Longest panic message in bytes.
const MAX_TEXT: usize = 16 << 10;
/// Longest place in the source that is counted on, in bytes.
const MAX_LOCATION: usize = 1 << 10;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let room = arch::outgoing_size().saturating_sub(arch::outgoing_base());
    if room < MAX_TEXT + MAX_LOCATION {
        batch::make_room();
    }
    let header = arch::with_outgoing_now(|space| {
        let length = space.len().min(MAX_TEXT);
        let mut writer = SliceWriter::new(&mut space[..length]);
        let _ = write!(writer, "{}", info.message());
        let text_length = writer.length();
        if let Some(location) = info.location() {
            let _ = write!(writer, "{location}");
        }
        let length = writer.length();
        match out_of_memory(&space[..text_length]) {
            Some(requested) => FromGuest {
                kind: FromGuestKind::OutOfMemory as u32,
                amount: requested as u64,
                ..FromGuest::default()
            },
            None => FromGuest {
                kind: FromGuestKind::Panic as u32,
                text_length: u32::try_from(text_length).unwrap_or(0),
                length: length as u64,
                ..FromGuest::default()
            },
        }
    });
    loop {
        // A host does not come back after this; if it does, the guest is still dead.
        arch::send(&header);
    }
}

/// On stable Rust an allocation that fails for good ends in a panic with a known text. It counts
/// as an exhausted heap only if the allocator has indeed refused a request of that size.
fn out_of_memory(text: &[u8]) -> Option<usize> {
    let text = core::str::from_utf8(text).ok()?;
    let size = text.strip_prefix("memory allocation of ")?.strip_suffix(" bytes failed")?;
    let size: usize = size.parse().ok()?;
    (size != 0 && size == heap::failed_request()).then_some(size)
}
