//! Start-up, and the loop that serves calls.

use core::fmt::{Display, Write};

use glowbox_abi::mailbox::{FromGuest, FromGuestKind, ToGuestKind};

use crate::output::SliceWriter;
use crate::{arch, batch, call, output};

/// Runs the start-up functions, says that the guest is ready, and serves calls for ever.
pub(crate) fn serve_calls() -> ! {
    output::init(arch::boot_info().log_level);
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
    let length = arch::with_outgoing(|space| {
        let mut writer = SliceWriter::new(space);
        let _ = write!(writer, "{error}");
        writer.length()
    });
    let length = length.unwrap_or(0);
    FromGuest {
        kind: FromGuestKind::StartError as u32,
        length: length as u64,
        ..FromGuest::default()
    }
}
