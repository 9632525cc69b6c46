//! Guest memory: memory slots of KVM.

use std::fs::File;
use std::os::fd::AsRawFd;

use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use mshv_bindings::{
    MSHV_SET_MEM_BIT_EXECUTABLE, MSHV_SET_MEM_BIT_UNMAP, MSHV_SET_MEM_BIT_WRITABLE,
    mshv_user_mem_region,
};

use crate::{Errno, host, user};

const PAGE: u64 = 4096;
const WRITABLE: u8 = 1 << MSHV_SET_MEM_BIT_WRITABLE;
const UNMAP: u8 = 1 << MSHV_SET_MEM_BIT_UNMAP;
const FLAGS: u8 = WRITABLE | UNMAP | 1 << MSHV_SET_MEM_BIT_EXECUTABLE;

/// The regions of a partition, each at the place of its slot's number.
#[derive(Default)]
pub(crate) struct Regions {
    slots: Vec<Option<mshv_user_mem_region>>,
}

impl Regions {
    /// Answers `MSHV_SET_GUEST_MEMORY` (`mshv_partition_ioctl_set_memory`).
    pub(crate) fn set(&mut self, vm: &VmFd, region: &mshv_user_mem_region) -> Result<(), Errno> {
        let aligned =
            region.size.is_multiple_of(PAGE) && region.userspace_addr.is_multiple_of(PAGE);
        let nonzero = region.rsvd.iter().any(|byte| *byte != 0);
        if region.size == 0 || !aligned || region.flags & !FLAGS != 0 || nonzero {
            return Err(libc::EINVAL);
        }
        // Both ends have to be addresses.
        let end = region.userspace_addr.checked_add(region.size).filter(|end| *end < 1 << 47);
        let last = region.guest_pfn.checked_add(region.size / PAGE).filter(|end| *end < 1 << 40);
        if end.is_none() || last.is_none() {
            return Err(libc::EINVAL);
        }
        if region.flags & UNMAP != 0 { self.unmap(vm, region) } else { self.map(vm, region) }
    }

    fn map(&mut self, vm: &VmFd, region: &mshv_user_mem_region) -> Result<(), Errno> {
        check_mapping(region)?;
        // Neither the guest's addresses nor the host's may overlap.
        if self.slots.iter().flatten().any(|other| {
            overlap(region.guest_pfn * PAGE, other.guest_pfn * PAGE, region.size, other.size)
                || overlap(region.userspace_addr, other.userspace_addr, region.size, other.size)
        }) {
            return Err(libc::EEXIST);
        }
        if host::host()?.pins {
            pin(region)?;
        }
        let slot = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        set_slot(vm, slot, region, region.size)?;
        if slot == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[slot] = Some(*region);
        Ok(())
    }

    fn unmap(&mut self, vm: &VmFd, region: &mshv_user_mem_region) -> Result<(), Errno> {
        let same = |other: &mshv_user_mem_region| {
            (other.guest_pfn, other.userspace_addr, other.size)
                == (region.guest_pfn, region.userspace_addr, region.size)
        };
        let slot = self.slots.iter().position(|other| other.as_ref().is_some_and(same));
        let slot = slot.ok_or(libc::EINVAL)?;
        set_slot(vm, slot, region, 0)?;
        self.slots[slot] = None;
        Ok(())
    }

    /// The region that a guest-physical address lies in, and where the host has it.
    pub(crate) fn find(&self, gpa: u64) -> Option<(&mshv_user_mem_region, u64)> {
        let found = self.slots.iter().flatten().find(|region| {
            let start = region.guest_pfn * PAGE;
            gpa >= start && gpa - start < region.size
        })?;
        Some((found, found.userspace_addr + (gpa - found.guest_pfn * PAGE)))
    }

    /// Whether guests may not write there, though there is memory.
    pub(crate) fn is_read_only(&self, gpa: u64) -> bool {
        self.find(gpa).is_some_and(|(region, _)| region.flags & WRITABLE == 0)
    }

    /// Reads guest-physical memory that does not cross a page.
    pub(crate) fn read(&self, gpa: u64, length: usize) -> Option<Vec<u8>> {
        user::read_bytes(self.find(gpa)?.1, length).ok()
    }

    /// The first page that the host itself can't read any more: its file has been cut short.
    pub(crate) fn lost(&self) -> Option<u64> {
        self.slots.iter().flatten().find_map(|region| {
            let pages = (0..region.size).step_by(4096);
            let lost = pages
                .into_iter()
                .find(|into| user::read::<u8>(region.userspace_addr + into).is_err())?;
            Some(region.guest_pfn * PAGE + lost)
        })
    }
}

fn overlap(a: u64, b: u64, a_size: u64, b_size: u64) -> bool {
    a < b + b_size && b < a + a_size
}

fn set_slot(
    vm: &VmFd,
    slot: usize,
    region: &mshv_user_mem_region,
    memory_size: u64,
) -> Result<(), Errno> {
    let read_only = memory_size > 0 && region.flags & WRITABLE == 0;
    let slot = kvm_userspace_memory_region {
        slot: u32::try_from(slot).map_err(|_| libc::ENOMEM)?,
        flags: if read_only { KVM_MEM_READONLY } else { 0 },
        guest_phys_addr: region.guest_pfn * PAGE,
        memory_size,
        userspace_addr: region.userspace_addr,
    };
    // SAFETY: the memory is the program's, which has asked for this as it would of the driver.
    unsafe { vm.set_user_memory_region(slot) }.map_err(|error| error.errno())
}

/// The pages are taken for writing, and stay.
fn pin(region: &mshv_user_mem_region) -> Result<(), Errno> {
    let (Ok(at), Ok(size)) = (usize::try_from(region.userspace_addr), usize::try_from(region.size))
    else {
        return Err(libc::EINVAL);
    };
    let at = std::ptr::with_exposed_provenance_mut(at);
    // SAFETY: changes no byte of the program's memory.
    let result = unsafe { libc::madvise(at, size, libc::MADV_POPULATE_WRITE) };
    if result == 0 { Ok(()) } else { Err(libc::EFAULT) }
}

/// `struct procmap_query` of `<linux/fs.h>` (Linux 6.11).
#[repr(C)]
#[derive(Default)]
struct Query {
    size: u64,
    query_flags: u64,
    query_addr: u64,
    vma_start: u64,
    vma_end: u64,
    vma_flags: u64,
    vma_page_size: u64,
    vma_offset: u64,
    inode: u64,
    device: [u32; 2],
    sizes: [u32; 2],
    addresses: [u64; 2],
}

const PROCMAP_QUERY: libc::c_ulong = 3 << 30 | (size_of::<Query>() as libc::c_ulong) << 16 | 0x6611;
const VMA_WRITABLE: u64 = 2;

/// There has to be a mapping at the start (`vma_lookup`). It has to be writable, since the driver takes each
/// page for writing even if the guest may only read it (`mshv_region_range_fault`): not so, it refuses at the
/// guest's first access, which is here the program's fault at once.
fn check_mapping(region: &mshv_user_mem_region) -> Result<(), Errno> {
    // Opened anew each time: a forked process has mappings of its own.
    let Ok(maps) = File::open("/proc/self/maps") else { return Ok(()) };
    let mut query = Query {
        size: size_of::<Query>() as u64,
        query_addr: region.userspace_addr,
        ..Query::default()
    };
    // SAFETY: the kernel reads and writes the struct, which lives on this stack.
    let result = unsafe {
        libc::syscall(
            libc::SYS_ioctl,
            libc::c_long::from(maps.as_raw_fd()),
            PROCMAP_QUERY,
            &raw mut query,
        )
    };
    if result == 0 {
        return if query.vma_flags & VMA_WRITABLE != 0 { Ok(()) } else { Err(libc::EFAULT) };
    }
    match std::io::Error::last_os_error().raw_os_error() {
        Some(libc::ENOENT) => Err(libc::EINVAL),
        // Linux before 6.11.
        _ => Ok(()),
    }
}
