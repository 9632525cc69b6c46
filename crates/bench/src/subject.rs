//! What is measured: the guest and its sandboxes, the bare VMs under them, and buffers.

use std::error::Error;
use std::ops::Range;
use std::sync::Arc;

use glowbox::{Builder, Engine, Guest, Sandbox};
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::Kvm;

use crate::floor::{Floor, FloorError, create_to_first_exit};

/// The benchmarks stop at whatever goes wrong.
pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// The sizes that are echoed.
pub const ECHO_SIZES: [(&str, usize); 4] =
    [("1 KiB", 1 << 10), ("64 KiB", 64 << 10), ("1 MiB", 1 << 20), ("16 MiB", 16 << 20)];

/// Largest message: the largest echo, and room for its length.
pub const MESSAGE_SIZE: u64 = 32 << 20;

/// Why nothing can be measured here, if that is so.
#[must_use]
pub fn why_not() -> Option<String> {
    Engine::shared().err().map(|error| error.to_string())
}

/// The guest's file, as a program that embeds it has it.
#[must_use]
pub fn elf() -> Arc<[u8]> {
    include_bytes!(env!("GLOWBOX_GUEST_BENCH")).as_slice().into()
}

/// The guest, checked.
///
/// # Errors
///
/// If the library finds fault with it.
pub fn guest(elf: &Arc<[u8]>) -> Result<Guest> {
    Ok(Guest::from_bytes("bench", Arc::clone(elf))?)
}

/// The options of a sandbox: defaults, and what the guest asks for.
pub fn builder() -> Builder {
    Sandbox::builder().host_function("nothing", || ())
}

/// A sandbox with default options.
///
/// # Errors
///
/// As [`Builder::build`].
pub fn sandbox(guest: Guest) -> Result<Sandbox> {
    Ok(builder().build(guest)?)
}

/// What bare VMs are made with.
#[derive(Debug)]
pub struct Bare {
    kvm: Kvm,
    cpuid: CpuId,
}

impl Bare {
    /// Opens KVM and fetches the CPUID, once.
    ///
    /// # Errors
    ///
    /// If KVM is not there or refuses.
    pub fn open() -> Result<Bare> {
        let kvm = Kvm::new()?;
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
        Ok(Bare { kvm, cpuid })
    }

    /// A bare VM that has exited once.
    ///
    /// # Errors
    ///
    /// As [`create_to_first_exit`].
    pub fn create(&self) -> std::result::Result<Floor, FloorError> {
        create_to_first_exit(&self.kvm, &self.cpuid)
    }

    /// A bare VM just before its first instruction.
    ///
    /// # Errors
    ///
    /// As [`Floor::new`].
    pub fn create_only(&self) -> std::result::Result<Floor, FloorError> {
        Floor::new(&self.kvm, &self.cpuid)
    }
}

/// A buffer that starts where a page does.
#[derive(Debug)]
pub struct Pages {
    space: Vec<u8>,
    range: Range<usize>,
}

impl Pages {
    /// A buffer of that many bytes, none of them zero.
    #[must_use]
    pub fn new(length: usize) -> Pages {
        let space = vec![0x5a; length + PAGE];
        let start = space.as_ptr().align_offset(PAGE);
        Pages { space, range: start..start + length }
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.space[self.range.clone()]
    }

    /// Its bytes, to be written.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.space[self.range.clone()]
    }
}
