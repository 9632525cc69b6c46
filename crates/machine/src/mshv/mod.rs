//! The backend for Microsoft Hypervisor, which Linux offers as `/dev/mshv` where it runs beside it (on
//! Azure, mostly).
//!
//! [`Mshv`] is what is looked up once a process: the device, and the CPUID that guests get. [`MshvMachine`]
//! is one partition with one virtual processor, no interrupt controller and none of the hypervisor's
//! synthetic features.
//!
//! No machine of ours has that device. What is said here of it is from Linux's `include/uapi/linux/mshv.h`,
//! from its driver (`drivers/hv/mshv_root_main.c`, `mshv_regions.c` and `mshv_common.c`, 6.15 to 6.19) and
//! from the crates `mshv-ioctls` and `mshv-bindings`, whose structures are the hypervisor's own
//! (`include/hyperv/hvhdk.h`). `docs/backends.md` says what the tests can show and what they can't.

mod machine;

use std::io;
use std::sync::Arc;

use mshv_bindings::{
    MSHV_PT_BIT_GPA_SUPER_PAGES, MSHV_SET_MEM_BIT_EXECUTABLE, MSHV_SET_MEM_BIT_WRITABLE,
    hv_partition_property_code_HV_PARTITION_PROPERTY_SYNTHETIC_PROC_FEATURES as SYNTHETIC_FEATURES,
    mshv_create_partition_v2, mshv_user_mem_region,
};
use mshv_ioctls::{MshvError, VcpuFd, VmFd};

use glowbox_core::snapshot_file::FeatureWord;
use glowbox_mem::{GuestMemory, RestoreError, Window};

use crate::backend::open_error;
use crate::cpuid::{self, Leaf};
use crate::interrupt::RunControl;
use crate::vcpu::{self, patiently};
use crate::{Backend, Caps, Machine, MachineError, Platform};

pub use machine::{MshvMachine, MshvVm};

/// Where the hypervisor is found.
const DEVICE: &str = "/dev/mshv";
/// What to do where it is not found.
const ADVICE: &str = "this machine does not run beside Microsoft Hypervisor, or its Linux lacks the \
                      driver `mshv_root`";

/// The leaves that have subleaves, and how many of those are set.
const SUBLEAVES: [(u32, u32); 4] = [(4, 8), (7, 3), (0xd, 20), (0x8000_001d, 8)];
/// The hypervisor's own leaves, and the extended ones.
const HYPERVISOR_LEAVES: std::ops::RangeInclusive<u32> = 0x4000_0000..=0x4000_0006;
const EXTENDED: u32 = 0x8000_0000;
/// The most leaves of one kind that are asked for, whatever the hypervisor says there are.
const MAX_LEAVES: u32 = 0x40;
/// XSAVE and OSXSAVE in ECX of leaf 1. The latter tells what CR4 says.
const XSAVE: u32 = 1 << 26;
const OSXSAVE: u32 = 1 << 27;
/// What each bit of CR4 needs: a bit of EBX or ECX of leaf 7.
const CR4_BY_EBX: [(u32, u64); 3] =
    [(1 << 0, vcpu::CR4_FSGSBASE), (1 << 7, vcpu::CR4_SMEP), (1 << 20, vcpu::CR4_SMAP)];
const CR4_BY_ECX: [(u32, u64); 1] = [(1 << 2, vcpu::CR4_UMIP)];

/// Bytes of memory that the driver is tried with.
const TRIAL: u64 = 64 << 12;
const PAGE_SHIFT: u32 = 12;

/// Microsoft Hypervisor on this machine.
#[derive(Debug)]
pub struct Mshv {
    device: mshv_ioctls::Mshv,
    /// What guests see by `cpuid`.
    shown: Vec<Leaf>,
    /// The leaves that there are, and that guests are not to see.
    hidden: Vec<(u32, u32)>,
    xcr0: Option<u64>,
    cr4: u64,
}

impl Mshv {
    /// Opens the device and tries what it can do.
    ///
    /// # Errors
    ///
    /// [`MachineError::Missing`], [`MachineError::Denied`], [`MachineError::Unsupported`], or a
    /// failed request.
    pub fn open() -> Result<Mshv, MachineError> {
        let device = mshv_ioctls::Mshv::new()
            .map_err(|error| open_error(DEVICE, "opening /dev/mshv", ADVICE, error.into()))?;
        let mut memory = GuestMemory::new(TRIAL).map_err(|error| MachineError::Request {
            request: "mapping memory to try the hypervisor with",
            source: error.source,
        })?;
        let partition = partition(&device)?;
        map(&partition, memory.host_address(), 0, TRIAL, true)?;
        if pins(&mut memory)? {
            return Err(MachineError::Unsupported {
                backend: Backend::Mshv,
                what: "memory regions that follow the host's mappings (Linux 6.19)",
            });
        }
        let found = leaves(&processor(&partition)?)?;
        let shown = cpuid::for_guest(&found);
        let is_shown = |at: &(u32, u32)| shown.iter().any(|leaf| (leaf.leaf, leaf.subleaf) == *at);
        let others = HYPERVISOR_LEAVES.map(|leaf| (leaf, 0));
        let all = found.iter().map(|leaf| (leaf.leaf, leaf.subleaf)).chain(others);
        let hidden = all.filter(|at| !is_shown(at)).collect();
        let cr4 = cr4(&found);
        let xcr0 = cpuid::xcr0(&found).filter(|_| cr4 & vcpu::CR4_OSXSAVE != 0);
        Ok(Mshv { device, shown, hidden, xcr0, cr4 })
    }
}

impl Platform for Mshv {
    fn backend(&self) -> Backend {
        Backend::Mshv
    }

    fn caps(&self) -> Caps {
        Caps::VIRTUAL_MACHINES
    }

    fn cpu(&self) -> (Vec<FeatureWord>, u64) {
        (cpuid::features(&self.shown), self.xcr0.unwrap_or(0))
    }

    fn machine(
        &self,
        memory: GuestMemory,
        control: Arc<RunControl>,
    ) -> Result<Box<dyn Machine>, MachineError> {
        Ok(Box::new(MshvMachine::new(self, memory, control)?))
    }
}

/// A new partition, ready for memory and a virtual processor.
fn partition(device: &mshv_ioctls::Mshv) -> Result<VmFd, MachineError> {
    // The flags that every version of the driver has. Without the bit for it the driver reads none of what
    // follows the first two words, and leaves the processor's features to `cpuid`.
    let arguments = mshv_create_partition_v2 {
        pt_flags: 1 << MSHV_PT_BIT_GPA_SUPER_PAGES,
        ..Default::default()
    };
    let create = || device.create_vm_with_args(&arguments);
    let partition = patiently("MSHV_CREATE_PARTITION", libc::EINTR, create)?;
    // "Early" properties can be set until the partition is initialised.
    let set = || partition.set_partition_property(SYNTHETIC_FEATURES, 0);
    patiently("HVCALL_SET_PARTITION_PROPERTY", libc::EAGAIN, set)?;
    patiently("MSHV_INITIALIZE_PARTITION", libc::EINTR, || partition.initialize())?;
    Ok(partition)
}

/// A stretch of the host's memory as guests have it. What they may write they may execute, as far as the
/// page tables let them.
fn region(address: u64, gpa: u64, size: u64, writable: bool) -> mshv_user_mem_region {
    let flags = if writable { 1 << MSHV_SET_MEM_BIT_WRITABLE } else { 0 };
    mshv_user_mem_region {
        size,
        guest_pfn: gpa >> PAGE_SHIFT,
        userspace_addr: address,
        flags: flags | 1 << MSHV_SET_MEM_BIT_EXECUTABLE,
        ..Default::default()
    }
}

fn map(
    partition: &VmFd,
    address: u64,
    gpa: u64,
    size: u64,
    writable: bool,
) -> Result<mshv_user_mem_region, MachineError> {
    let region = region(address, gpa, size, writable);
    patiently("MSHV_SET_GUEST_MEMORY", libc::EINTR, || partition.map_user_memory(region))?;
    Ok(region)
}

fn processor(partition: &VmFd) -> Result<VcpuFd, MachineError> {
    patiently("MSHV_CREATE_VP", libc::EINTR, || partition.create_vcpu(0))
}

fn unmap(partition: &VmFd, region: mshv_user_mem_region) -> Result<(), MachineError> {
    patiently("MSHV_SET_GUEST_MEMORY", libc::EINTR, || partition.unmap_user_memory(region))
}

/// Whether the driver pins the pages of memory that it has been given: then they are all there.
///
/// Such a region goes on showing the pages that it had, whatever the host maps in their place, and access
/// that the host takes away stays. Putting guests' memory back stands on the contrary.
fn pins(memory: &mut GuestMemory) -> Result<bool, MachineError> {
    let restored = Window::new(memory).restore(0, usize::MAX).map_err(|error| {
        let source = match error {
            RestoreError::Unknown { source } => source,
            other => io::Error::other(other),
        };
        MachineError::Request { request: "asking for the pages that were written", source }
    })?;
    Ok(restored.private > 0)
}

/// The leaves that a virtual processor has.
fn leaves(vp: &VcpuFd) -> Result<Vec<Leaf>, MachineError> {
    let read = |leaf, subleaf| {
        let get = || vp.get_cpuid_values(leaf, subleaf, 0, 0);
        let values = patiently("HVCALL_GET_VP_CPUID_VALUES", libc::EAGAIN, get)?;
        let [eax, ebx, ecx, edx] = values;
        Ok(Leaf { leaf, subleaf, eax, ebx, ecx, edx })
    };
    let mut found = Vec::new();
    for first in [0, EXTENDED] {
        let last = read(first, 0)?.eax.clamp(first, first + MAX_LEAVES);
        for leaf in first..=last {
            let count = SUBLEAVES.iter().find(|(of, _)| *of == leaf).map_or(1, |(_, count)| *count);
            for subleaf in 0..count {
                found.push(read(leaf, subleaf)?);
            }
        }
    }
    // What the virtual processor says of this is what its CR4 has now.
    found.iter_mut().filter(|leaf| leaf.leaf == 1).for_each(|leaf| leaf.ecx &= !OSXSAVE);
    Ok(found)
}

/// What every machine has in CR4.
fn cr4(found: &[Leaf]) -> u64 {
    let leaf = |leaf| found.iter().find(|of| (of.leaf, of.subleaf) == (leaf, 0));
    let (ebx, ecx) = leaf(7).map_or((0, 0), |seven| (seven.ebx, seven.ecx));
    let has_xsave = leaf(1).is_some_and(|one| one.ecx & XSAVE != 0) && cpuid::xcr0(found).is_some();
    let by = |register: u32, bits: &[(u32, u64)]| {
        bits.iter().filter(|(bit, _)| register & bit != 0).fold(0, |cr4, (_, has)| cr4 | has)
    };
    let xsave = if has_xsave { vcpu::CR4_OSXSAVE } else { 0 };
    vcpu::CR4_BASE | by(ebx, &CR4_BY_EBX) | by(ecx, &CR4_BY_ECX) | xsave
}

fn failed(request: &'static str, error: MshvError) -> MachineError {
    MachineError::Request { request, source: error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cr4_has_what_cpuid_has() {
        let (eax, edx) = (0, 0);
        let leaf = |leaf, subleaf, ebx, ecx| Leaf { leaf, subleaf, eax, ebx, ecx, edx };
        assert_eq!(cr4(&[]), vcpu::CR4_BASE);
        // XSAVE without state components is none.
        let mut all = vec![leaf(1, 0, 0, XSAVE), leaf(7, 0, 1 | 1 << 7 | 1 << 20, 1 << 2)];
        let without = vcpu::CR4_BASE | 1 << 11 | 1 << 16 | 1 << 20 | 1 << 21;
        assert_eq!(cr4(&all), without);
        all.push(Leaf { eax: 7, ..leaf(0xd, 0, 0, 0) });
        assert_eq!(cr4(&all), without | 1 << 18);
    }
}
