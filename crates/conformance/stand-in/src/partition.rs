//! Partitions: VMs of KVM.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use kvm_ioctls::VmFd;
use mshv_bindings::{
    MSHV_PT_BIT_GPA_SUPER_PAGES, MSHV_PT_BIT_LAPIC, MSHV_PT_BIT_X2APIC, mshv_create_partition,
    mshv_create_vp, mshv_user_mem_region,
};

use crate::hypercall;
use crate::memory::Regions;
use crate::objects::{self, Object};
use crate::user;
use crate::vp::Vp;
use crate::{Errno, host};

/// The requests, by `_IO`, `_IOW` and `_IOWR` of `<linux/ioctl.h>`.
const CREATE_PARTITION: u32 = writes::<mshv_create_partition>(0);
const INITIALIZE_PARTITION: u32 = 0xb800;
const CREATE_VP: u32 = writes::<mshv_create_vp>(1);
const SET_GUEST_MEMORY: u32 = writes::<mshv_user_mem_region>(2);
pub(crate) const ROOT_HVCALL: u32 = exchanges::<mshv_bindings::mshv_root_hvcall>(7);

/// The flags that partitions can be made with in every version of the driver (`MSHV_PT_FLAGS_MASK` of 6.15).
const FLAGS: u64 =
    1 << MSHV_PT_BIT_LAPIC | 1 << MSHV_PT_BIT_X2APIC | 1 << MSHV_PT_BIT_GPA_SUPER_PAGES;
/// Virtual processors that a partition can have (`MSHV_MAX_VPS`).
const MAX_VPS: u32 = 256;

/// `_IOW`.
const fn writes<T>(number: u32) -> u32 {
    1 << 30 | size::<T>() << 16 | 0xb8 << 8 | number
}

/// `_IOWR`.
pub(crate) const fn exchanges<T>(number: u32) -> u32 {
    2 << 30 | writes::<T>(number)
}

#[allow(clippy::cast_possible_truncation, reason = "checked: a request has 14 bits for it")]
pub(crate) const fn size<T>() -> u32 {
    assert!(size_of::<T>() < 1 << 14);
    size_of::<T>() as u32
}

pub(crate) struct Partition {
    vm: VmFd,
    state: Mutex<State>,
    /// The only virtual processor that is made here.
    vp: OnceLock<Arc<crate::vp::Shared>>,
}

#[derive(Default)]
struct State {
    initialized: bool,
    synthetic_features: u64,
    regions: Regions,
}

/// Answers requests of the device.
pub(crate) fn device_request(request: u32, argument: u64) -> Result<i32, Errno> {
    if request != CREATE_PARTITION {
        return Err(libc::ENOTTY);
    }
    let args: mshv_create_partition = user::read(argument)?;
    // There is one isolation that is none.
    if args.pt_flags & !FLAGS != 0 || args.pt_isolation != 0 {
        return Err(libc::EINVAL);
    }
    // The driver waits for mutexes in a way that a signal ends; so does KVM.
    let vm = host::host()?.kvm.create_vm().map_err(|error| error.errno())?;
    let partition = Partition { vm, state: Mutex::default(), vp: OnceLock::new() };
    objects::insert(Object::Partition(Arc::new(partition)))
}

/// Answers requests of a partition.
pub(crate) fn request(partition: &Arc<Partition>, request: u32, at: u64) -> Result<i32, Errno> {
    match request {
        INITIALIZE_PARTITION => {
            partition.state().initialized = true;
            Ok(0)
        }
        SET_GUEST_MEMORY => partition.set_memory(&user::read(at)?),
        CREATE_VP => create_vp(partition, &user::read(at)?),
        ROOT_HVCALL => hypercall::request(partition, false, at),
        _ => Err(libc::ENOTTY),
    }
}

fn create_vp(partition: &Arc<Partition>, args: &mshv_create_vp) -> Result<i32, Errno> {
    if args.vp_index >= MAX_VPS {
        return Err(libc::EINVAL);
    }
    // The hypervisor makes none in a partition that is not initialised.
    if !partition.state().initialized {
        return Err(libc::EIO);
    }
    if args.vp_index != 0 {
        // More than this stands in for.
        return Err(libc::EOPNOTSUPP);
    }
    if partition.vp.get().is_some() {
        return Err(libc::EEXIST);
    }
    let vp = Vp::new(partition)?;
    partition.vp.set(Arc::clone(vp.shared())).map_err(|_| libc::EEXIST)?;
    objects::insert(Object::Vp(Arc::new(vp)))
}

impl Partition {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn vm(&self) -> &VmFd {
        &self.vm
    }

    /// One of its virtual processors.
    pub(crate) fn vp(&self, index: u32) -> Option<Arc<crate::vp::Shared>> {
        self.vp.get().filter(|_| index == 0).cloned()
    }

    pub(crate) fn synthetic_features(&self) -> u64 {
        self.state().synthetic_features
    }

    /// Sets an early property; `false` if it is too late for that.
    pub(crate) fn set_synthetic_features(&self, features: u64) -> bool {
        let mut state = self.state();
        let early = !state.initialized;
        if early {
            state.synthetic_features = features;
        }
        early
    }

    fn set_memory(&self, region: &mshv_user_mem_region) -> Result<i32, Errno> {
        let mut state = self.state();
        // The hypervisor maps nothing into a partition that is not initialised.
        if !state.initialized {
            return Err(libc::EIO);
        }
        state.regions.set(&self.vm, region)?;
        Ok(0)
    }

    /// Does something with the regions of memory.
    pub(crate) fn with_regions<T>(&self, what: impl FnOnce(&Regions) -> T) -> T {
        what(&self.state().regions)
    }
}
