//! Files in memory.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};

/// What is in the file may be executed, whatever the system's default is (Linux 6.3).
const MFD_EXEC: libc::c_uint = 0x10;

/// Makes a file in memory, of no bytes yet.
///
/// # Errors
///
/// What the system said.
pub fn memfd(name: &CStr, executable: bool) -> io::Result<File> {
    let create = |flags| {
        // SAFETY: the name is a C string; what is returned is a descriptor of its own, or an error.
        unsafe {
            let flags = flags | libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
            match libc::memfd_create(name.as_ptr(), flags) {
                -1 => Err(io::Error::last_os_error()),
                descriptor => Ok(File::from_raw_fd(descriptor)),
            }
        }
    };
    match create(if executable { MFD_EXEC } else { 0 }) {
        // Older systems do not know the flag, and need none.
        Err(error) if executable && error.raw_os_error() == Some(libc::EINVAL) => create(0),
        created => created,
    }
}

/// Forbids what seals forbid, and any further seals.
pub(crate) fn seal(file: &File, seals: libc::c_int) -> io::Result<()> {
    // SAFETY: changes nothing but the seals of this file.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals | libc::F_SEAL_SEAL) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes the contents and size of a file final that has never been mapped, only written by system calls.
///
/// By `F_SEAL_FUTURE_WRITE`, which refuses writes, writable shared mappings and holes from then on, and so all
/// that could still change it. `F_SEAL_WRITE` would refuse no more, but first waits until nobody else has a
/// reference to any page, and gives up with EBUSY after 150 ms. The kernel's own reclaim takes such references
/// at any time, and on a busy machine keeps them for longer.
pub(crate) fn make_final(file: &File) -> io::Result<()> {
    seal(file, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_FUTURE_WRITE)
}
