//! What the host is told of a panic.

use core::fmt::{Display, Write};

use glowbox_abi::mailbox::{FromGuest, FromGuestKind};

use crate::output::SliceWriter;
use crate::{arch, batch};

/// Longest panic message in bytes.
const MAX_TEXT: usize = 16 << 10;
/// Longest place in the source that is counted on, in bytes.
const MAX_LOCATION: usize = 1 << 10;

/// Tells the host of a panic, after which the guest can't go on. `known` may know a better name for
/// it, by its message.
pub(crate) fn end(
    text: impl Display,
    location: Option<impl Display>,
    known: impl FnOnce(&[u8]) -> Option<FromGuest>,
) -> ! {
    let room = arch::outgoing_size().saturating_sub(arch::outgoing_base());
    if room < MAX_TEXT + MAX_LOCATION {
        batch::make_room();
    }
    arch::take_outgoing();
    let header = arch::with_outgoing_now(|space| {
        let length = space.len().min(MAX_TEXT);
        let mut writer = SliceWriter::new(&mut space[..length]);
        let _ = write!(writer, "{text}");
        let text_length = writer.length();
        if let Some(location) = location {
            let _ = write!(writer, "{location}");
        }
        let length = writer.length();
        known(&space[..text_length]).unwrap_or(FromGuest {
            kind: FromGuestKind::Panic as u32,
            text_length: u32::try_from(text_length).unwrap_or(0),
            length: length as u64,
            ..FromGuest::default()
        })
    });
    loop {
        // A host does not come back after this; if it does, the guest is still dead.
        arch::send(&header);
    }
}
