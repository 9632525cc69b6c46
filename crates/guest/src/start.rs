//! Start-up, and the loop that serves calls.

use core::fmt::{Display, Write};

use glowbox_abi::mailbox::{FromGuest, FromGuestKind, ToGuestKind};

use crate::output::SliceWriter;
use crate::{arch, batch, call, heap, output};

/// Runs the guest, from the first instruction after the stack is set up. Does not return.
pub(crate) fn run() -> ! {
    let info = arch::boot_info();
    heap::init(info.heap_address, info.heap_size);
    output::init(info.log_level);
    let mut header = arch::for_each_main(call::start_main)
        .unwrap_or(FromGuest { kind: FromGuestKind::Ready as u32, ..FromGuest::default() });
    loop {
        let incoming = arch::leave(&header);
        // Outside a host call there is nothing to reply to; a host does not do that.
        match ToGuestKind::from_number(incoming.kind) {
            Some(ToGuestKind::Call) => header = call::serve(&incoming),
            Some(ToGuestKind::CallMany) => header = batch::serve_many(&incoming),
            Some(ToGuestKind::Reply) | None => {}
        }
    }
}

/// What a start-up function may return: nothing, or a `Result` whose error can be shown.
pub trait MainResult {
    /// The error, if it is one.
    fn into_error(self) -> Option<impl Display>;
}

impl MainResult for () {
    fn into_error(self) -> Option<impl Display> {
        None::<&str>
    }
}

impl<E: Display> MainResult for Result<(), E> {
    fn into_error(self) -> Option<impl Display> {
        self.err()
    }
}

/// What the start-up function's record leads to.
pub fn run_main<R: MainResult>(main: fn() -> R) -> FromGuest {
    let Some(error) = main().into_error() else {
        return FromGuest::default();
    };
    let length = arch::with_outgoing_now(|space| {
        let mut writer = SliceWriter::new(space);
        let _ = write!(writer, "{error}");
        writer.length()
    });
    FromGuest {
        kind: FromGuestKind::StartError as u32,
        length: length as u64,
        ..FromGuest::default()
    }
}
