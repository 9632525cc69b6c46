//! The numbers of the requests that are made of KVM, for whoever filters system calls.
//!
//! `kvm-ioctls` makes the requests and keeps their numbers to itself. They are part of the kernel's
//! interface and never change; a test runs the library under a filter that has no others.

use kvm_bindings::{
    kvm_cpuid2, kvm_msr_filter, kvm_msrs, kvm_regs, kvm_sregs, kvm_userspace_memory_region,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};

/// Lets a guest run.
pub const RUN: u32 = plain(0x80);
/// Lends memory and takes it back, and makes a vCPU forget page tables.
pub const SET_USER_MEMORY_REGION: u32 = writes::<kvm_userspace_memory_region>(0x46);
/// Tells the general registers, of a fault.
pub const GET_REGS: u32 = reads::<kvm_regs>(0x81);
/// Tells the special registers, of a fault.
pub const GET_SREGS: u32 = reads::<kvm_sregs>(0x83);
/// Tells the extended state.
pub const GET_XSAVE: u32 = reads::<kvm_xsave>(0xa4);
/// Sets the general registers.
pub const SET_REGS: u32 = writes::<kvm_regs>(0x82);
/// Sets the special registers.
pub const SET_SREGS: u32 = writes::<kvm_sregs>(0x84);
/// Sets pending exceptions.
pub const SET_VCPU_EVENTS: u32 = writes::<kvm_vcpu_events>(0xa0);

/// Makes a VM.
pub const CREATE_VM: u32 = plain(0x01);
/// Tells the size of a vCPU's run page.
pub const GET_VCPU_MMAP_SIZE: u32 = plain(0x04);
/// Makes a vCPU.
pub const CREATE_VCPU: u32 = plain(0x41);
/// Denies model-specific registers.
pub const SET_MSR_FILTER: u32 = writes::<kvm_msr_filter>(0xc6);
/// Sets what `cpuid` says.
pub const SET_CPUID: u32 = writes::<kvm_cpuid2>(0x90);
/// Sets which extended state there is.
pub const SET_XCRS: u32 = writes::<kvm_xcrs>(0xa7);
/// Sets the entry of `syscall`.
pub const SET_MSRS: u32 = writes::<kvm_msrs>(0x89);

/// The letter of KVM's requests.
const KVM: u32 = 0xae;

/// `_IO`.
const fn plain(number: u32) -> u32 {
    KVM << 8 | number
}

/// `_IOW`: the kernel reads a `T`.
const fn writes<T>(number: u32) -> u32 {
    1 << 30 | size::<T>() << 16 | plain(number)
}

/// `_IOR`: the kernel writes a `T`.
const fn reads<T>(number: u32) -> u32 {
    2 << 30 | size::<T>() << 16 | plain(number)
}

#[allow(clippy::cast_possible_truncation, reason = "checked: a request has 14 bits for it")]
const fn size<T>() -> u32 {
    assert!(size_of::<T>() < 1 << 14);
    size_of::<T>() as u32
}
