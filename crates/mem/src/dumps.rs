//! What core dumps of the process have of guests' memory: nothing, unless it is asked for. A dump is
//! readable by others than those whose data a guest works on, and a guest's memory can be large.

use std::io;
use std::ptr::NonNull;

/// Leaves a mapping out of core dumps.
pub(crate) fn leave_out(base: NonNull<u8>, length: usize) -> io::Result<()> {
    advise(base, length, libc::MADV_DONTDUMP)
}

/// Takes a mapping into core dumps again.
pub(crate) fn take_in(base: NonNull<u8>, length: usize) -> io::Result<()> {
    advise(base, length, libc::MADV_DODUMP)
}

fn advise(base: NonNull<u8>, length: usize, advice: libc::c_int) -> io::Result<()> {
    // SAFETY: says what a dump has of a mapping of this crate's own, and changes no byte of it.
    // Linux knows it since 3.4, but may have no memory for it, or allow no more mappings, one of which
    // it may have to split.
    match unsafe { libc::madvise(base.as_ptr().cast(), length, advice) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
