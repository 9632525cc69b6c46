//! x86-64: entry point, the one instruction that leaves the guest, memory functions.

use core::arch::{asm, global_asm};

use glowbox_abi::CALL_PORT;

global_asm!(include_str!("x86_64.s"), start = sym super::start, options(att_syntax));

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

/// Ends the guest by an invalid instruction.
pub(super) fn abort() -> ! {
    // SAFETY: `ud2` raises an exception, from which nothing returns.
    unsafe { asm!("ud2", options(noreturn, nomem, nostack)) }
}

/// What precompiled `core` and `alloc` refer to for unwinding, which a guest does not do.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() -> ! {
    abort()
}

/// As above.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    abort()
}
