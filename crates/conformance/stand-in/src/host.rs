//! The KVM behind it all, and what a processor of it looks like to the hypervisor's callers.

use std::fs::OpenOptions;
use std::sync::OnceLock;
use std::time::Duration;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2, kvm_sregs};
use kvm_ioctls::{Cap, Kvm};

use crate::Errno;

/// Physical address extension, FXSAVE, unmasked SIMD exceptions.
const CR4_BASE: u64 = 1 << 5 | 1 << 9 | 1 << 10;
const CR4_OSXSAVE: u64 = 1 << 18;
/// Bits of CR4 that not every processor has, each with where CPUID says so: leaf, register (EBX, ECX), bit.
const CR4_BITS: [(u64, u32, usize, u32); 5] = [
    (1 << 11, 7, 1, 2),
    (1 << 16, 7, 0, 0),
    (1 << 20, 7, 0, 7),
    (1 << 21, 7, 0, 20),
    (CR4_OSXSAVE, 1, 1, 26),
];
/// Protected mode and paging; long mode.
const CR0: u64 = 1 << 0 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;
const EFER: u64 = 1 << 0 | 1 << 8 | 1 << 10 | 1 << 11;

/// What is looked up once.
pub(crate) struct Host {
    pub(crate) kvm: Kvm,
    /// What processors say by `cpuid`.
    pub(crate) cpuid: Vec<kvm_cpuid_entry2>,
    /// The bits that CR4 can have.
    pub(crate) cr4: u64,
    /// The state components that there are.
    pub(crate) xcr0: u64,
    /// Whether memory is pinned, as the driver did before Linux 6.19.
    pub(crate) pins: bool,
    /// How long each run comes too late.
    pub(crate) late: Duration,
}

/// The host, looked up by the first who asks.
pub(crate) fn host() -> Result<&'static Host, Errno> {
    static HOST: OnceLock<Host> = OnceLock::new();
    if let Some(host) = HOST.get() {
        return Ok(host);
    }
    let host = Host::new()?;
    Ok(HOST.get_or_init(|| host))
}

/// Whether there is a KVM at the moment, and this process may use it: then the device that it stands in for
/// is there.
pub(crate) fn openable() -> Result<(), Errno> {
    match OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Ok(()),
        Err(error) => Err(error.raw_os_error().unwrap_or(libc::ENODEV)),
    }
}

impl Host {
    fn new() -> Result<Host, Errno> {
        let kvm = Kvm::new().map_err(|error| error.errno())?;
        if kvm.check_extension_int(Cap::SyncRegs) & 7 != 7 {
            return Err(libc::ENODEV);
        }
        let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(|e| e.errno())?;
        let mut cpuid = supported.as_slice().to_vec();
        let components = cpuid.iter().find(|e| (e.function, e.index) == (0xd, 0));
        let xcr0 = components.map_or(0, |entry| u64::from(entry.eax)) & 7;
        let cr4 = find_cr4(&kvm, &supported, xcr0 != 0)?;
        // Not every KVM that has them says so; but what a hypervisor has it says.
        for (bit, leaf, register, number) in CR4_BITS {
            let entry = cpuid.iter_mut().find(|e| (e.function, e.index) == (leaf, 0));
            if let Some(entry) = entry.filter(|_| cr4 & bit != 0) {
                *[&mut entry.ebx, &mut entry.ecx][register] |= 1 << number;
            }
        }
        let microseconds =
            std::env::var("GLOWBOX_MSHV_LATE").ok().and_then(|text| text.parse().ok());
        Ok(Host {
            kvm,
            cpuid,
            cr4,
            xcr0,
            pins: std::env::var_os("GLOWBOX_MSHV_PINS").is_some(),
            late: Duration::from_micros(microseconds.unwrap_or(0)),
        })
    }
}

/// Finds out by trying which bits CR4 can have.
fn find_cr4(kvm: &Kvm, cpuid: &CpuId, has_xcr0: bool) -> Result<u64, Errno> {
    let vm = kvm.create_vm().map_err(|error| error.errno())?;
    let vcpu = vm.create_vcpu(0).map_err(|error| error.errno())?;
    vcpu.set_cpuid2(cpuid).map_err(|error| error.errno())?;
    let sregs = vcpu.get_sregs().map_err(|error| error.errno())?;
    let mut s = kvm_sregs { cr0: CR0, efer: EFER, ..sregs };
    (s.cs.l, s.cs.db) = (1, 0);
    let takes = |bits: u64| vcpu.set_sregs(&kvm_sregs { cr4: CR4_BASE | bits, ..s }).is_ok();
    let wanted = CR4_BITS.iter().filter(|(bit, ..)| *bit != CR4_OSXSAVE || has_xcr0);
    let found = wanted.map(|(bit, ..)| *bit).filter(|bit| takes(*bit));
    Ok(found.fold(CR4_BASE, |bits, bit| bits | bit))
}
