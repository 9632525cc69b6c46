//! The compute set as the host's own code: the module as a shared library.
//!
//! It is loaded, and not linked, because linking would give its crates the features that the
//! benchmarks' other dependencies ask for, and the guest would be compared with other code.

use std::ffi::{CStr, c_void};
use std::mem;

use glowbox_bench::subject::Result;

const PATH: &str = concat!(env!("GLOWBOX_NATIVE_COMPUTE"), "\0");

/// The loaded module. It stays loaded until the process ends, so copies are good for ever.
#[derive(Clone, Copy)]
pub(crate) struct Library {
    prepare: extern "C" fn(),
    run: extern "C" fn(u32, u32) -> u64,
}

impl Library {
    /// Loads it, or finds it loaded.
    pub(crate) fn open() -> Result<Library> {
        let path = CStr::from_bytes_with_nul(PATH.as_bytes())?;
        // SAFETY: the path ends with a zero. The file is the module that the build script made;
        // loading runs nothing but the start-up of Rust's own library.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            return Err(
                format!("the native module can't be loaded: {}", path.to_string_lossy()).into()
            );
        }
        let (prepare, run) = (symbol(handle, c"prepare")?, symbol(handle, c"run")?);
        // SAFETY: these are the types that `guests/compute/module` gives its functions; the build
        // script built the library from that source.
        unsafe {
            Ok(Library {
                prepare: mem::transmute::<*mut c_void, extern "C" fn()>(prepare),
                run: mem::transmute::<*mut c_void, extern "C" fn(u32, u32) -> u64>(run),
            })
        }
    }

    /// Makes the inputs, once a process.
    pub(crate) fn prepare(self) {
        (self.prepare)();
    }

    /// Does a piece of work, and returns its checksum.
    pub(crate) fn run(self, number: u32, times: u32) -> u64 {
        (self.run)(number, times)
    }
}

fn symbol(handle: *mut c_void, name: &CStr) -> Result<*mut c_void> {
    // SAFETY: `handle` comes from a `dlopen` that succeeded and is never closed.
    let address = unsafe { libc::dlsym(handle, name.as_ptr()) };
    if address.is_null() {
        return Err(format!("the native module has no `{}`", name.to_string_lossy()).into());
    }
    Ok(address)
}
