//! The source that the `getrandom` crate asks in a guest.
//!
//! `glowbox-build` sets `getrandom_backend="custom"` for everything in a guest. Then versions 0.3 and
//! 0.4 of that crate call the one function below, by name, and with them whatever asks them: `rand`,
//! `ahash`, `uuid` and others.

use core::slice;

use getrandom::Error;

/// Fills `length` bytes at `to`. It can't fail.
///
/// # Safety
///
/// `to` is the start of `length` bytes that may be written. They need not be initialised.
#[unsafe(no_mangle)]
unsafe extern "Rust" fn __getrandom_v03_custom(to: *mut u8, length: usize) -> Result<(), Error> {
    // SAFETY: the caller's promise; after this line the bytes are initialised too.
    let bytes = unsafe {
        to.write_bytes(0, length);
        slice::from_raw_parts_mut(to, length)
    };
    crate::random::fill(bytes);
    Ok(())
}
