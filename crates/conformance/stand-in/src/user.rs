//! The program's memory, as the kernel reads and writes it: what is not there is `EFAULT`, and no signal.

use std::mem::MaybeUninit;

use crate::Errno;

fn transfer(call: libc::c_long, here: *mut u8, there: u64, length: usize) -> Result<(), Errno> {
    if length == 0 {
        return Ok(());
    }
    let there = usize::try_from(there).map_err(|_| libc::EFAULT)?;
    let local = libc::iovec { iov_base: here.cast(), iov_len: length };
    let remote =
        libc::iovec { iov_base: std::ptr::with_exposed_provenance_mut(there), iov_len: length };
    // In a variable list of arguments each has to have the size of a register.
    let (process, one, none) = (libc::c_long::from(own_id()), 1_usize, 0_usize);
    // SAFETY: `here` is `length` bytes of the caller's; of `there` the system finds out whether it is there.
    let done = unsafe {
        libc::syscall(call, process, &raw const local, one, &raw const remote, one, none)
    };
    if usize::try_from(done) == Ok(length) { Ok(()) } else { Err(libc::EFAULT) }
}

fn own_id() -> libc::pid_t {
    // SAFETY: takes no arguments and can't fail.
    unsafe { libc::getpid() }
}

/// Plain data: any bytes are a value of it, and it has no padding that counts.
///
/// # Safety
///
/// That has to be so.
pub(crate) unsafe trait Plain: Copy {}

/// Reads a value.
pub(crate) fn read<T: Plain>(from: u64) -> Result<T, Errno> {
    let mut value = MaybeUninit::<T>::zeroed();
    transfer(libc::SYS_process_vm_readv, value.as_mut_ptr().cast(), from, size_of::<T>())?;
    // SAFETY: it was all zero, then other bytes; any are a value of the type.
    Ok(unsafe { value.assume_init() })
}

/// Writes a value.
pub(crate) fn write<T: Plain>(to: u64, value: &T) -> Result<(), Errno> {
    let here = std::ptr::from_ref(value).cast_mut().cast();
    transfer(libc::SYS_process_vm_writev, here, to, size_of::<T>())
}

/// Reads bytes.
pub(crate) fn read_bytes(from: u64, length: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; length];
    transfer(libc::SYS_process_vm_readv, bytes.as_mut_ptr(), from, length)?;
    Ok(bytes)
}

/// Writes bytes.
pub(crate) fn write_bytes(to: u64, bytes: &[u8]) -> Result<(), Errno> {
    transfer(libc::SYS_process_vm_writev, bytes.as_ptr().cast_mut(), to, bytes.len())
}

/// A value at the start of bytes that may be more.
pub(crate) fn prefix<T: Plain>(bytes: &[u8]) -> Option<T> {
    let bytes = bytes.get(..size_of::<T>())?;
    // SAFETY: there are as many bytes, and any are a value of the type.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// A value's bytes.
pub(crate) fn bytes_of<T: Plain>(value: &T) -> Vec<u8> {
    let start = std::ptr::from_ref(value).cast::<u8>();
    // SAFETY: the value's own bytes.
    unsafe { std::slice::from_raw_parts(start, size_of::<T>()) }.to_vec()
}

macro_rules! plain {
    ($($type:ty),+ $(,)?) => {
        // SAFETY: C structures of integers, arrays and unions of them.
        $(unsafe impl Plain for $type {})+
    };
}

plain!(
    u8,
    u32,
    u64,
    mshv_bindings::mshv_create_partition,
    mshv_bindings::mshv_create_vp,
    mshv_bindings::mshv_user_mem_region,
    mshv_bindings::mshv_root_hvcall,
    mshv_bindings::mshv_get_set_vp_state,
    mshv_bindings::hv_message,
    mshv_bindings::hv_register_assoc,
    mshv_bindings::hv_register_value,
    mshv_bindings::hv_cpuid_leaf_info,
    mshv_bindings::hv_x64_io_port_intercept_message,
    mshv_bindings::hv_x64_memory_intercept_message,
    mshv_bindings::hv_x64_intercept_message_header,
    mshv_bindings::hv_input_register_intercept_result,
    mshv_bindings::hv_input_get_partition_property,
    mshv_bindings::hv_input_set_partition_property,
);
