//! What stands behind the mailbox in a guest with the standard library: a process with a C library,
//! and perhaps with several threads, of which one owns the mailbox.
//!
//! The owner is the thread that called `serve`. The mailbox's state is thread-local, so no other
//! thread can reach the owner's, and a thread that does not own the mailbox has none: touching it
//! there panics. Telling the two apart costs one load, and no lock is taken anywhere.

use core::ffi::c_ulong;
use core::slice;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::cell::Cell;

use glowbox_abi::AT_GLOWBOX;
use glowbox_abi::record::{Kind, RecordView, Records};

use super::Mailbox;

/// What the guest's function sections say it is.
pub(super) const ABI: Kind = Kind::AbiStd;

/// Declares a variable of which every thread has its own.
macro_rules! per_thread {
    ($(#[$meta:meta])* static $name:ident: $type:ty = $initial:expr;) => {
        ::std::thread_local! { $(#[$meta])* static $name: $type = const { $initial }; }
    };
}
pub(crate) use per_thread;

std::thread_local! {
    static SERVING: Cell<bool> = const { Cell::new(false) };
    static MAILBOX: Mailbox = const { Mailbox::new() };
}

/// Whether some thread owns the mailbox.
static TAKEN: AtomicBool = AtomicBool::new(false);

unsafe extern "C" {
    /// The C library's: an entry of the auxiliary vector, or 0.
    safe fn getauxval(kind: c_ulong) -> c_ulong;
}

/// Address of the control page, or 0 if this process was not started by Glowbox.
fn find_control() -> usize {
    static CONTROL: AtomicUsize = AtomicUsize::new(0);
    match CONTROL.load(Ordering::Relaxed) {
        0 => {
            let found = usize::try_from(getauxval(AT_GLOWBOX)).unwrap_or(0);
            CONTROL.store(found, Ordering::Relaxed);
            found
        }
        known => known,
    }
}

/// Address of the control page.
///
/// # Panics
///
/// If this process was not started by Glowbox.
pub(super) fn control_address() -> usize {
    let address = find_control();
    assert!(address != 0, "this needs a Glowbox host, and this program was not started by one");
    address
}

/// Whether this process was started by Glowbox.
pub(crate) fn is_guest() -> bool {
    find_control() != 0
}

/// Makes this thread the mailbox's owner, for ever.
///
/// # Panics
///
/// If it has one already.
pub(crate) fn take_mailbox() {
    let taken = TAKEN.swap(true, Ordering::Relaxed);
    assert!(!taken, "glowbox_guest::serve() was called a second time");
    SERVING.set(true);
}

/// The mailbox's state, for its owner.
///
/// # Panics
///
/// On any other thread.
pub(super) fn mailbox<R>(with: impl FnOnce(&Mailbox) -> R) -> R {
    assert!(is_serving(), "{}", crate::runtime::NOT_SERVING);
    MAILBOX.with(with)
}

/// Whether this thread is the one that serves calls.
pub(crate) fn is_serving() -> bool {
    SERVING.get()
}

/// The functions this guest offers.
pub(crate) fn exports() -> impl Iterator<Item = RecordView<'static>> {
    let (start, stop) = (&raw const super::EXPORTS_START, &raw const super::EXPORTS_STOP);
    // SAFETY: the linker's symbols stand at the start and end of one section, which is never
    // written to once the C library has relocated it.
    let section = unsafe { slice::from_raw_parts(start, stop.addr() - start.addr()) };
    Records::new(section).flatten().filter(|record| record.kind == Kind::Function)
}
