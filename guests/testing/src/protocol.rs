//! Messages made by hand, as a guest that has been taken over would.

use glowbox_guest::__private::FromGuest;
use glowbox_guest::__private::raw::{CALL_PORT, leave, with_outgoing};
use glowbox_guest::guest_function;

/// Sends any header and returns the kind and status of the answer.
#[guest_function]
fn send_raw(
    kind: u32,
    status: u32,
    function: u32,
    text_length: u32,
    offset: u64,
    length: u64,
    reply_offset: u64,
) -> (u32, u32) {
    let header =
        FromGuest { kind, status, function, text_length, offset, length, reply_offset, amount: 0 };
    let answer = leave(&header);
    (answer.kind, answer.status)
}

/// Returns nothing from this call, nothing from the next one with the trap flag set, and nothing from the
/// one after it.
#[guest_function]
fn return_with_the_trap_flag() {
    leave(&FromGuest { kind: 2, ..FromGuest::default() });
    // SAFETY: leaves as `leave` has done, with the same message.
    unsafe {
        core::arch::asm!(
            "pushfq",
            "or qword ptr [rsp], 0x100",
            "popfq",
            "out {port}, al",
            port = const CALL_PORT,
            in("al") 0u8,
        );
    }
}

/// Leaves these bytes where a message starts, and returns nothing; for `send_raw` afterwards.
#[guest_function]
fn leave_bytes(bytes: &[u8]) {
    with_outgoing(|space| space[..bytes.len()].copy_from_slice(bytes));
}

/// Returns bytes that are no string.
#[guest_function]
fn malformed_string() -> String {
    with_outgoing(|space| space[..3].copy_from_slice(&[0xff, 0xff, 0x7f]));
    leave(&FromGuest { kind: 2, length: 3, ..FromGuest::default() });
    String::new()
}
