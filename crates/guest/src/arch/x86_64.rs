//! x86-64: the one instruction that leaves the guest.

use core::arch::asm;

use glowbox_abi::CALL_PORT;

/// Hands control to the host and returns when it comes back.
///
/// # Safety
///
/// The host reads the guest's header, and may write to the incoming buffer from the offset that
/// the header gives; nothing there may be borrowed.
pub(super) unsafe fn call_out() {
    // SAFETY: the host gives back all registers as they were. Memory is not declared untouched, so
    // the compiler keeps nothing of the mailbox in registers over this.
    unsafe {
        asm!(
            "out {port}, al",
            port = const CALL_PORT,
            in("al") 0u8,
            options(nostack, preserves_flags),
        );
    }
}
