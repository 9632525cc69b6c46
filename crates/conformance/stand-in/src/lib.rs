//! A stand-in for `/dev/mshv`, Linux's device for Microsoft Hypervisor, where there is none.
//!
//! It is preloaded (`LD_PRELOAD`) into a program that uses that device, and answers its requests by driving
//! KVM: so the program's real code, request numbers and structures run from end to end. It checks arguments
//! as strictly as the driver does, and in places more strictly, where the driver leaves the check to the
//! hypervisor. What it can't show is said in `docs/backends.md`.
//!
//! What it answers: opening the device, `MSHV_CREATE_PARTITION`; of a partition `MSHV_INITIALIZE_PARTITION`,
//! `MSHV_SET_GUEST_MEMORY`, `MSHV_CREATE_VP`, `MSHV_ROOT_HVCALL`; of a virtual processor `MSHV_RUN_VP`,
//! `MSHV_GET_VP_STATE` (of XSAVE), `MSHV_ROOT_HVCALL`, and the mapping of its register page; of hypercalls
//! those that read and set registers, properties, and what `cpuid` says. All other calls of the program are
//! made as they are.
//!
//! Sources: Linux's `include/uapi/linux/mshv.h`, `drivers/hv/mshv_root_main.c`, `mshv_regions.c`,
//! `mshv_common.c` and `hv_common.c` (6.15 to 6.19), and the structures of `include/hyperv/`, as the crate
//! `mshv-bindings` has them.
//!
//! Two variables change how it behaves: with `GLOWBOX_MSHV_PINS` it pins memory as the driver did before
//! Linux 6.19; `GLOWBOX_MSHV_LATE` is a number of microseconds that each run of a guest is late, so that
//! signals meet the time before it.

mod host;
mod hypercall;
mod memory;
mod message;
mod objects;
mod partition;
mod registers;
mod user;
mod vp;

#[cfg(test)]
mod tests;

use libc::{c_char, c_int, c_long, c_ulong, c_void, mode_t, off_t, size_t};
use std::ffi::CStr;

use objects::Object;

/// An error number of the system.
type Errno = c_int;

/// The device.
const DEVICE: &CStr = c"/dev/mshv";
/// The letter of its requests, in bits 8 to 15 of their numbers.
const LETTER: c_ulong = 0xb8;

/// Makes a system call as the C library would. Each argument has to have the size of a register.
macro_rules! system_call {
    ($($argument:expr),+) => {
        // SAFETY: the caller's own call, passed on as it came.
        unsafe { libc::syscall($($argument),+) }
    };
}

fn long(value: c_int) -> c_long {
    value.into()
}

/// Sets `errno` and returns what stands for a failure.
fn fail(errno: Errno) -> c_int {
    // SAFETY: this thread's own variable.
    unsafe { *libc::__errno_location() = errno };
    -1
}

/// Runs what answers a call, so that nothing of it can unwind into the program.
fn answer(make: impl FnOnce() -> Result<c_int, Errno>) -> c_int {
    // SAFETY: this thread's own variable.
    let before = unsafe { *libc::__errno_location() };
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(make)) {
        Ok(Ok(value)) => {
            // SAFETY: as above. A call that succeeds leaves it alone.
            unsafe { *libc::__errno_location() = before };
            value
        }
        Ok(Err(errno)) => fail(errno),
        Err(_) => std::process::abort(),
    }
}

fn is_device(path: *const c_char) -> bool {
    // SAFETY: the caller's path, as the system call would read it.
    !path.is_null() && unsafe { CStr::from_ptr(path) } == DEVICE
}

#[allow(clippy::cast_possible_truncation, reason = "system calls return what fits")]
fn open_at(directory: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    if is_device(path) {
        return answer(|| {
            host::openable()?;
            objects::insert(Object::Device)
        });
    }
    system_call!(libc::SYS_openat, long(directory), path, long(flags), c_ulong::from(mode)) as c_int
}

/// `open`.
///
/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    open_at(libc::AT_FDCWD, path, flags, mode)
}

/// `open64`.
///
/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    open_at(libc::AT_FDCWD, path, flags, mode)
}

/// `close`.
///
/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn close(fd: c_int) -> c_int {
    let ours = objects::closing(fd);
    #[allow(clippy::cast_possible_truncation, reason = "0 or -1")]
    let result = system_call!(libc::SYS_close, long(fd)) as c_int;
    if let Some(key) = ours {
        // SAFETY: this thread's own variable.
        let errno = unsafe { *libc::__errno_location() };
        objects::closed(key);
        // SAFETY: as above.
        unsafe { *libc::__errno_location() = errno };
    }
    result
}

/// `ioctl`.
///
/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
#[allow(clippy::cast_possible_truncation, reason = "system calls return what fits")]
pub unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    if request >> 8 & 0xff == LETTER
        && let Some(object) = objects::find(fd)
    {
        // The kernel looks at 32 bits of it.
        let (request, argument) = (request as u32, argument.addr() as u64);
        return answer(|| match object {
            Object::Device => partition::device_request(request, argument),
            Object::Partition(partition) => partition::request(&partition, request, argument),
            Object::Vp(vp) => vp::request(&vp, request, argument),
        });
    }
    system_call!(libc::SYS_ioctl, long(fd), request, argument) as c_int
}

#[allow(clippy::cast_possible_truncation, reason = "system calls return what fits")]
fn map(
    address: *mut c_void,
    length: size_t,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    if fd >= 0
        && let Some(Object::Vp(vp)) = objects::find(fd)
    {
        return match vp.map_page(length, protection, flags, offset) {
            Ok(page) => page,
            Err(errno) => {
                fail(errno);
                libc::MAP_FAILED
            }
        };
    }
    let at: c_long = system_call!(
        libc::SYS_mmap,
        address,
        length,
        long(protection),
        long(flags),
        long(fd),
        offset
    );
    std::ptr::with_exposed_provenance_mut(at.cast_unsigned() as usize)
}

/// `mmap`.
///
/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap(
    address: *mut c_void,
    length: size_t,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    map(address, length, protection, flags, fd, offset)
}

/// `mmap64`.
///
/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap64(
    address: *mut c_void,
    length: size_t,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    map(address, length, protection, flags, fd, offset)
}
