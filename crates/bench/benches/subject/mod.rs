//! What both benchmark programs measure: the guest, and the floor under it.

use std::error::Error;
use std::ops::Range;
use std::sync::Arc;

use glowbox::{Builder, Engine, Guest, Sandbox};
use glowbox_bench::floor::{Floor, FloorError, create_to_first_exit};
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::Kvm;

/// The benchmarks stop at whatever goes wrong.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The sizes that are echoed.
pub(crate) const ECHO_SIZES: [(&str, usize); 3] =
    [("1 KiB", 1 << 10), ("64 KiB", 64 << 10), ("1 MiB", 1 << 20)];

/// Why nothing can be measured here, if that is so.
pub(crate) fn why_not() -> Option<String> {
    Engine::shared().err().map(|error| error.to_string())
}

/// The guest's file, as a program that embeds it has it.
pub(crate) fn elf() -> Arc<[u8]> {
    include_bytes!(env!("GLOWBOX_GUEST_BENCH")).as_slice().into()
}

/// The guest, checked.
pub(crate) fn guest(elf: &Arc<[u8]>) -> Result<Guest> {
    Ok(Guest::from_bytes("bench", Arc::clone(elf))?)
}

/// A sandbox with default options.
pub(crate) fn sandbox(guest: Guest) -> Result<Sandbox> {
    Ok(builder().build(guest)?)
}

fn builder() -> Builder {
    Sandbox::builder().host_function("nothing", || ())
}

/// What bare VMs are made with.
pub(crate) struct Bare {
    kvm: Kvm,
    cpuid: CpuId,
}

impl Bare {
    pub(crate) fn open() -> Result<Bare> {
        let kvm = Kvm::new()?;
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
        Ok(Bare { kvm, cpuid })
    }

    /// A bare VM that has exited once.
    pub(crate) fn create(&self) -> std::result::Result<Floor, FloorError> {
        create_to_first_exit(&self.kvm, &self.cpuid)
    }
}

/// A buffer that starts where a page does.
pub(crate) struct Pages {
    space: Vec<u8>,
    range: Range<usize>,
}

impl Pages {
    /// A buffer of that many bytes, none of them zero.
    pub(crate) fn new(length: usize) -> Pages {
        const PAGE: usize = 4096;
        let space = vec![0x5a; length + PAGE];
        let start = space.as_ptr().align_offset(PAGE);
        Pages { space, range: start..start + length }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.space[self.range.clone()]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.space[self.range.clone()]
    }
}
