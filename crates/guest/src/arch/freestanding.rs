//! What a guest without the standard library brings itself: its entry point, the memory functions
//! that compiled code takes for granted, and the source of random numbers for `getrandom`. It has
//! one thread, which the mailbox belongs to.

use core::arch::{asm, global_asm};
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};

use glowbox_abi::AT_GLOWBOX;
use glowbox_abi::mailbox::{ENTROPY_OFFSET, Entropy};
use glowbox_abi::record::Kind;

use super::Mailbox;

mod getrandom;

global_asm!(include_str!("freestanding.s"), start = sym start, options(att_syntax));

/// What the guest's function sections say it is.
pub(super) const ABI: Kind = Kind::Abi;

/// Something that a static may hold though it is not `Sync`.
pub(crate) struct OneThread<T>(pub(crate) T);

// SAFETY: a guest without the standard library has one thread and no interrupts.
unsafe impl<T> Sync for OneThread<T> {}

impl<T> OneThread<T> {
    /// Lends it, as `std::thread::LocalKey::with` does.
    pub(crate) fn with<R>(&'static self, with: impl FnOnce(&T) -> R) -> R {
        with(&self.0)
    }
}

/// Declares a variable of which every thread has its own.
macro_rules! per_thread {
    ($(#[$meta:meta])* static $name:ident: $type:ty = $initial:expr;) => {
        $(#[$meta])*
        static $name: $crate::arch::freestanding::OneThread<$type> =
            $crate::arch::freestanding::OneThread($initial);
    };
}
pub(crate) use per_thread;

static CONTROL: AtomicUsize = AtomicUsize::new(0);
static MAILBOX: OneThread<Mailbox> = OneThread(Mailbox::new());

/// Address of the control page.
pub(super) fn control_address() -> usize {
    CONTROL.load(Ordering::Relaxed)
}

/// The mailbox's state, which belongs to the guest's one thread.
pub(super) fn mailbox<R>(with: impl FnOnce(&Mailbox) -> R) -> R {
    MAILBOX.with(with)
}

/// Whether this thread is the one that serves calls.
pub(crate) fn is_serving() -> bool {
    true
}

/// Changes what the host gave: for test guests, which play a copy of themselves.
pub fn set_entropy(entropy: &Entropy) {
    // SAFETY: the control page is mapped and the guest's to write, and there is no other thread.
    unsafe { ptr::write_volatile(super::control(ENTROPY_OFFSET), *entropy) }
}

/// Where the first code written in Rust starts; `stack` is the initial stack pointer.
///
/// # Safety
///
/// Called once, by the entry point, with the System V initial stack.
unsafe extern "C" fn start(stack: *const u64) -> ! {
    // SAFETY: the stack starts with the argument count, the arguments and a null, the environment
    // and a null, and the auxiliary vector, which ends with a null type.
    let control = unsafe {
        let mut at = stack.add(1);
        for _ in 0..2 {
            while *at != 0 {
                at = at.add(1);
            }
            at = at.add(1);
        }
        while *at != 0 && *at != AT_GLOWBOX {
            at = at.add(2);
        }
        if *at == AT_GLOWBOX { *at.add(1) } else { 0 }
    };
    if control == 0 {
        // Not started by Glowbox: there is nobody to tell.
        abort();
    }
    CONTROL.store(usize::try_from(control).unwrap_or(0), Ordering::Relaxed);
    crate::runtime::run_guest()
}

/// Ends the guest by an invalid instruction.
fn abort() -> ! {
    // SAFETY: `ud2` raises an exception, from which nothing returns.
    unsafe { asm!("ud2", options(noreturn, nomem, nostack)) }
}

/// What precompiled `core` and `alloc` refer to for unwinding, which such a guest does not do.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() -> ! {
    abort()
}

/// As above.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    abort()
}
