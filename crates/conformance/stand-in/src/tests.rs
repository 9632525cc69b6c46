//! Requests as strict programs and careless ones make them. The functions of the C library that this test
//! program calls are those of the stand-in, as in a program that it is preloaded into.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use mshv_bindings::*;
use mshv_ioctls::{Mshv, MshvError, VcpuFd, VmFd};

use crate::objects;

const SYNTHETIC_FEATURES: u32 =
    hv_partition_property_code_HV_PARTITION_PROPERTY_SYNTHETIC_PROC_FEATURES;

/// Without KVM there is nothing to test.
fn device() -> Option<Mshv> {
    if std::fs::File::open("/dev/kvm").is_err() {
        eprintln!("left out: there is no KVM");
        return None;
    }
    Some(Mshv::new().unwrap())
}

fn partition(device: &Mshv) -> VmFd {
    device.create_vm_with_args(&mshv_create_partition_v2::default()).unwrap()
}

fn ready(device: &Mshv) -> VmFd {
    let partition = partition(device);
    partition.initialize().unwrap();
    partition
}

/// Private memory of so many pages.
struct Memory(*mut libc::c_void, usize);

impl Memory {
    fn new(pages: usize, protection: i32) -> Memory {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at =
            unsafe { libc::mmap(std::ptr::null_mut(), pages * 4096, protection, flags, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED);
        Memory(at, pages * 4096)
    }

    fn region(&self, guest_pfn: u64) -> mshv_user_mem_region {
        mshv_user_mem_region {
            size: self.1 as u64,
            guest_pfn,
            userspace_addr: self.0.addr() as u64,
            flags: 1,
            ..Default::default()
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`.
        unsafe { libc::munmap(self.0, self.1) };
    }
}

const BOTH: i32 = libc::PROT_READ | libc::PROT_WRITE;

#[track_caller]
fn refused<T>(result: Result<T, MshvError>, errno: i32) {
    match result {
        Ok(_) => panic!("it was done"),
        Err(error) => assert_eq!(error.errno(), errno, "{error}"),
    }
}

#[track_caller]
fn status<T>(result: Result<T, MshvError>, status: u32) {
    match result {
        Err(MshvError::Hypercall { status_raw, .. }) => assert_eq!(u32::from(status_raw), status),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was done"),
    }
}

fn register(name: u32, value: u64) -> hv_register_assoc {
    hv_register_assoc { name, value: hv_register_value { reg64: value }, ..Default::default() }
}

#[test]
fn a_partition_has_known_flags_and_no_isolation() {
    let Some(device) = device() else { return };
    let with = |pt_flags, pt_isolation| {
        let args = mshv_create_partition_v2 { pt_flags, pt_isolation, ..Default::default() };
        device.create_vm_with_args(&args)
    };
    assert!(with(7, 0).is_ok());
    refused(with(8, 0), libc::EINVAL);
    refused(with(1 << 40, 0), libc::EINVAL);
    refused(with(0, 1), libc::EINVAL);
}

#[test]
fn what_comes_too_early_or_too_late_is_refused() {
    let Some(device) = device() else { return };
    let partition = partition(&device);
    let memory = Memory::new(1, BOTH);
    refused(partition.create_vcpu(0), libc::EIO);
    refused(partition.map_user_memory(memory.region(0)), libc::EIO);
    partition.set_partition_property(SYNTHETIC_FEATURES, 1).unwrap();
    assert_eq!(partition.get_partition_property(SYNTHETIC_FEATURES).unwrap(), 1);
    partition.initialize().unwrap();
    partition.initialize().unwrap();
    let late = partition.set_partition_property(SYNTHETIC_FEATURES, 0);
    status(late, HV_STATUS_INVALID_PARTITION_STATE);
    status(partition.get_partition_property(0x7777), HV_STATUS_UNKNOWN_PROPERTY);
    let vp = partition.create_vcpu(0).unwrap();
    refused(partition.create_vcpu(0), libc::EEXIST);
    refused(partition.create_vcpu(1), libc::EOPNOTSUPP);
    drop(vp);
}

#[test]
fn memory_is_whole_pages_that_are_there_and_belong_to_one_region() {
    let Some(device) = device() else { return };
    let partition = ready(&device);
    let memory = Memory::new(4, BOTH);
    let good = memory.region(16);
    let set = |region| partition.set_guest_memory(region);
    for bad in [
        mshv_user_mem_region { size: 0, ..good },
        mshv_user_mem_region { size: 100, ..good },
        mshv_user_mem_region { userspace_addr: good.userspace_addr + 8, ..good },
        mshv_user_mem_region { flags: 8, ..good },
        mshv_user_mem_region { rsvd: [0, 0, 0, 0, 0, 0, 1], ..good },
        mshv_user_mem_region { userspace_addr: 1 << 46, ..good },
        mshv_user_mem_region { guest_pfn: u64::MAX, ..good },
    ] {
        refused(set(bad), libc::EINVAL);
    }
    // The driver takes every page for writing.
    let constant = Memory::new(1, libc::PROT_READ);
    refused(set(constant.region(64)), libc::EFAULT);
    set(good).unwrap();
    let other = Memory::new(4, BOTH);
    refused(set(other.region(19)), libc::EEXIST);
    refused(set(mshv_user_mem_region { guest_pfn: 100, ..good }), libc::EEXIST);
    set(other.region(20)).unwrap();
    // It goes as it came.
    let unmap = |region| partition.unmap_user_memory(region);
    refused(unmap(mshv_user_mem_region { size: 4096, ..good }), libc::EINVAL);
    refused(unmap(mshv_user_mem_region { guest_pfn: 17, ..good }), libc::EINVAL);
    unmap(good).unwrap();
    refused(unmap(good), libc::EINVAL);
    set(good).unwrap();
}

#[test]
fn a_hypercall_has_zeros_where_they_have_to_be() {
    let Some(device) = device() else { return };
    let partition = ready(&device);
    let vp = partition.create_vcpu(0).unwrap();
    let input =
        hv_input_get_partition_property { property_code: SYNTHETIC_FEATURES, ..Default::default() };
    let mut output = hv_output_get_partition_property::default();
    let good = make_args!(HVCALL_GET_PARTITION_PROPERTY, input, output);
    let call = |mut args: mshv_root_hvcall| partition.hvcall(&mut args);
    call(good).unwrap();
    for bad in [
        mshv_root_hvcall { rsvd: [0, 0, 0, 1, 0, 0], ..good },
        mshv_root_hvcall { in_ptr: 0, ..good },
        mshv_root_hvcall { in_sz: 4, ..good },
        mshv_root_hvcall { in_sz: 4097, ..good },
        mshv_root_hvcall { out_sz: 0, ..good },
        mshv_root_hvcall { out_ptr: 0, ..good },
        mshv_root_hvcall { code: 2, ..good },
    ] {
        refused(call(bad), libc::EINVAL);
    }
    // It is shown as a status, since there is one.
    assert!(call(mshv_root_hvcall { status: 1, ..good }).is_err());
    refused(call(mshv_root_hvcall { in_ptr: 8, ..good }), libc::EFAULT);
    status(call(mshv_root_hvcall { reps: 1, ..good }), HV_STATUS_INVALID_HYPERCALL_INPUT);
    // Of the one that takes long the driver wants the partition.
    let input = hv_input_set_partition_property::default();
    let mut args = make_args!(HVCALL_SET_PARTITION_PROPERTY, input);
    refused(vp.hvcall(&mut args), libc::EINVAL);
}

#[test]
fn registers_are_known_and_hold_what_they_can() {
    let Some(device) = device() else { return };
    let partition = ready(&device);
    let vp = partition.create_vcpu(0).unwrap();
    let (rip, rflags) =
        (hv_register_name_HV_X64_REGISTER_RIP, hv_register_name_HV_X64_REGISTER_RFLAGS);
    let set = |assoc: hv_register_assoc| vp.set_reg(&[assoc]);
    set(register(rip, 0x1234)).unwrap();
    let mut found = [register(rip, 0)];
    vp.get_reg(&mut found).unwrap();
    // SAFETY: any bytes are a value of each part of the union.
    assert_eq!(unsafe { found[0].value.reg64 }, 0x1234);
    for (name, value) in [
        (rip, 1 << 60),
        (rflags, 0),
        (rflags, 1 << 1 | 1 << 9),
        (hv_register_name_HV_X64_REGISTER_CR4, 1 << 40),
        (hv_register_name_HV_X64_REGISTER_EFER, 1 << 20),
        (hv_register_name_HV_X64_REGISTER_XFEM, 0),
        (hv_register_name_HV_REGISTER_PENDING_EVENT0, 1),
    ] {
        status(set(register(name, value)), HV_STATUS_INVALID_REGISTER_VALUE);
    }
    status(set(register(0x7777_7777, 0)), HV_STATUS_INVALID_PARAMETER);
    let reserved = hv_register_assoc { reserved1: 1, ..register(rip, 0) };
    status(set(reserved), HV_STATUS_INVALID_HYPERCALL_INPUT);
    // Of a processor that there is not.
    let names = [rip];
    let input = make_rep_input!(
        hv_input_get_vp_registers { vp_index: 3, ..Default::default() },
        names,
        names.as_slice()
    );
    let mut output = vec![hv_register_value { reg64: 0 }];
    let output_slice = output.as_mut_slice();
    let mut args = make_rep_args!(HVCALL_GET_VP_REGISTERS, input, output_slice);
    status(partition.hvcall(&mut args), HV_STATUS_INVALID_VP_INDEX);
}

#[test]
fn what_is_registered_for_cpuid_is_what_it_says() {
    let Some(device) = device() else { return };
    let partition = ready(&device);
    let vp = partition.create_vcpu(0).unwrap();
    let before = vp.get_cpuid_values(1, 0, 0, 0).unwrap();
    let cpuid = hv_register_x64_cpuid_result_parameters {
        input: hv_register_x64_cpuid_result_parameters__bindgen_ty_1 {
            eax: 1,
            ..Default::default()
        },
        result: hv_register_x64_cpuid_result_parameters__bindgen_ty_2 {
            ecx: 0x5,
            ecx_mask: 0xf,
            ..Default::default()
        },
    };
    let input = hv_input_register_intercept_result {
        intercept_type: hv_intercept_type_HV_INTERCEPT_TYPE_X64_CPUID,
        parameters: hv_register_intercept_result_parameters { cpuid },
        ..Default::default()
    };
    vp.hvcall(&mut make_args!(HVCALL_REGISTER_INTERCEPT_RESULT, input)).unwrap();
    let after = vp.get_cpuid_values(1, 0, 0, 0).unwrap();
    assert_eq!(after, [before[0], before[1], before[2] & !0xf | 0x5, before[3]]);
    let other = hv_input_register_intercept_result { intercept_type: 1, ..input };
    let result = vp.hvcall(&mut make_args!(HVCALL_REGISTER_INTERCEPT_RESULT, other));
    status(result, HV_STATUS_INVALID_HYPERCALL_INPUT);
}

#[test]
fn a_state_wants_whole_pages_and_enough_of_them() {
    let Some(device) = device() else { return };
    let partition = ready(&device);
    let vp = partition.create_vcpu(0).unwrap();
    let buffer = Memory::new(3, BOTH);
    let good = mshv_get_set_vp_state {
        type_: u8::try_from(MSHV_VP_STATE_XSAVE).unwrap(),
        buf_sz: 3 * 4096,
        buf_ptr: buffer.0.addr() as u64,
        ..Default::default()
    };
    let get =
        |mut args: mshv_get_set_vp_state| vp.get_vp_state_ioctl(&mut args).map(|()| args.buf_sz);
    assert_eq!(get(good).unwrap(), 11_008);
    for bad in [
        mshv_get_set_vp_state { type_: 5, ..good },
        mshv_get_set_vp_state { buf_sz: 0, ..good },
        mshv_get_set_vp_state { buf_sz: 11_008, ..good },
        mshv_get_set_vp_state { buf_sz: 2 * 4096, ..good },
        mshv_get_set_vp_state { buf_ptr: good.buf_ptr + 64, ..good },
        mshv_get_set_vp_state { rsvd: [0, 1, 0], ..good },
    ] {
        refused(get(bad), libc::EINVAL);
    }
    refused(get(mshv_get_set_vp_state { buf_ptr: 4096, ..good }), libc::EFAULT);
}

#[test]
fn a_descriptor_can_be_doubled_and_the_last_one_counts() {
    let Some(device) = device() else { return };
    let partition = ready(&device);
    // SAFETY: a new descriptor, which nobody else has.
    let double = unsafe { OwnedFd::from_raw_fd(libc::dup(partition.as_raw_fd())) };
    let vp = partition.create_vcpu(0).unwrap();
    let is_there = |fd: i32| objects::find(fd).is_some();
    assert!(is_there(double.as_raw_fd()) && is_there(vp.as_raw_fd()));
    drop(partition);
    assert!(is_there(double.as_raw_fd()));
    // The processor has the partition too.
    drop(double);
    let mut found = [register(hv_register_name_HV_X64_REGISTER_RIP, 0)];
    vp.get_reg(&mut found).unwrap();
    let number = vp.as_raw_fd();
    drop(vp);
    assert!(!is_there(number));
}

#[test]
fn calls_that_are_none_of_ours_are_made_as_they_are() {
    let Some(device) = device() else { return };
    let file = std::fs::File::open("/proc/self/status").unwrap();
    // SAFETY: a request without an argument.
    assert_eq!(unsafe { libc::ioctl(file.as_raw_fd(), 0xb800) }, -1);
    assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::ENOTTY));
    assert!(std::fs::File::open("/dev/mshv-is-not-there").is_err());
    // And those of ours that there are not.
    // SAFETY: as above.
    let result = unsafe { libc::ioctl(device_fd(&device).as_raw_fd(), 0xb877) };
    assert_eq!((result, last_error()), (-1, Some(libc::ENOTTY)));
}

fn last_error() -> Option<i32> {
    std::io::Error::last_os_error().raw_os_error()
}

/// Another descriptor of the device.
fn device_fd(_: &Mshv) -> OwnedFd {
    let number = Mshv::open_with_cloexec(true).unwrap();
    // SAFETY: a new descriptor, which nobody else has.
    unsafe { OwnedFd::from_raw_fd(number) }
}

#[test]
fn partitions_come_and_go_on_many_threads() {
    if device().is_none() {
        return;
    }
    let threads: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(|| {
                let device = Mshv::new().unwrap();
                for _ in 0..20 {
                    let partition = ready(&device);
                    let vp: VcpuFd = partition.create_vcpu(0).unwrap();
                    let memory = Memory::new(2, BOTH);
                    partition.map_user_memory(memory.region(0)).unwrap();
                    vp.set_reg(&[register(hv_register_name_HV_X64_REGISTER_RAX, 7)]).unwrap();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}
