//! What can be read of the vCPU.

use core::arch::asm;
use core::arch::x86_64::__cpuid;

use glowbox_guest::guest_function;

/// An area for XSAVE.
#[repr(C, align(64))]
struct Area([u8; 1024]);

/// Where the area says which components are in use, and SSE's bit.
const IN_USE: usize = 512;
const SSE: u64 = 1 << 1;

/// Whether AVX may be used: the CPU has it, and its state is enabled.
#[allow(unused_unsafe)]
pub(crate) fn has_avx() -> bool {
    // SAFETY: every x86-64 CPU has the instruction.
    let ecx = unsafe { __cpuid(1) }.ecx;
    let os_and_avx = 1 << 27 | 1 << 28;
    ecx & os_and_avx == os_and_avx && xcr(0) & 6 == 6
}

/// An extended control register.
fn xcr(number: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a register; asked for only where OSXSAVE says that it exists.
    unsafe {
        asm!("xgetbv", in("ecx") number, out("eax") low, out("edx") high,
            options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Whether the components in use can be asked for.
#[allow(unused_unsafe)]
fn has_xinuse() -> bool {
    // SAFETY: as above.
    let (one, d) = unsafe { (__cpuid(1), core::arch::x86_64::__cpuid_count(0xd, 1)) };
    one.ecx & 1 << 27 != 0 && d.eax & 1 << 2 != 0
}

/// The bytes of the FXSAVE area, and of the XSAVE area if there is AVX; flags, FS base, GS base,
/// the six selectors, and the components in use. Without `in_use` it is not told whether SSE state is.
#[guest_function]
#[inline(never)]
fn registers(in_use: bool) -> (Vec<u8>, Vec<u64>) {
    let mut area = Area([0; 1024]);
    let (flags, fs, gs): (u64, u64, u64);
    // SAFETY: stores to the area only, which is large enough for x87, SSE and AVX.
    unsafe {
        asm!(
            "pushfq",
            "pop {flags}",
            "fxsave64 [{area}]",
            "rdfsbase {fs}",
            "rdgsbase {gs}",
            area = in(reg) &raw mut area,
            flags = out(reg) flags,
            fs = out(reg) fs,
            gs = out(reg) gs,
        );
        if has_avx() {
            asm!("xsave64 [{area}]", area = in(reg) &raw mut area, in("eax") 7u32, in("edx") 0u32);
        }
    }
    // Which components are in use may be the host's doing; SSE state is in its initial state where it is not.
    let seen = if in_use { u64::MAX } else { !SSE };
    area.0[IN_USE] &= seen.to_le_bytes()[0];
    let mut words = vec![flags, fs, gs];
    macro_rules! selectors {
        ($($name:literal)*) => {$(
            let selector: u64;
            // SAFETY: reads a register.
            unsafe {
                asm!(concat!("mov {:r}, ", $name), out(reg) selector,
                    options(nomem, nostack, preserves_flags));
            }
            words.push(selector & 0xffff);
        )*};
    }
    selectors!("cs" "ss" "ds" "es" "fs" "gs");
    words.push(if has_xinuse() { xcr(1) & seen } else { 0 });
    (area.0.to_vec(), words)
}

/// The bases alone.
#[guest_function]
fn set_bases(fs: u64, gs: u64) {
    // SAFETY: compiled code of guests uses neither register.
    unsafe { asm!("wrfsbase {}", "wrgsbase {}", in(reg) fs, in(reg) gs) }
}
