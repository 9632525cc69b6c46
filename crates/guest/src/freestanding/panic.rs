//! Panics and an exhausted heap.

use core::panic::PanicInfo;

use glowbox_abi::mailbox::{FromGuest, FromGuestKind};

use super::heap;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    crate::panic::end(info.message(), info.location(), |text| {
        out_of_memory(text).map(|requested| FromGuest {
            kind: FromGuestKind::OutOfMemory as u32,
            amount: requested as u64,
            ..FromGuest::default()
        })
    })
}

/// On stable Rust an allocation that fails for good ends in a panic with a known text. It counts
/// as an exhausted heap only if the allocator has indeed refused a request of that size.
fn out_of_memory(text: &[u8]) -> Option<usize> {
    let text = core::str::from_utf8(text).ok()?;
    let size = text.strip_prefix("memory allocation of ")?.strip_suffix(" bytes failed")?;
    let size: usize = size.parse().ok()?;
    (size != 0 && size == heap::failed_request()).then_some(size)
}
