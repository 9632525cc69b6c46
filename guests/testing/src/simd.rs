//! Vector instructions.

use core::arch::x86_64::{
    __cpuid, __m256i, _mm256_add_epi32, _mm256_loadu_si256, _mm256_set1_epi32, _mm256_storeu_si256,
    _xgetbv, CpuidResult,
};

use glowbox_guest::guest_function;

/// `cpuid`, which older compilers take for unsafe.
#[allow(unused_unsafe)]
fn read_cpuid(leaf: u32) -> CpuidResult {
    // SAFETY: every x86-64 CPU has the instruction.
    unsafe { __cpuid(leaf) }
}

/// Whether AVX2 may be used: the CPU has it, and its state is enabled.
fn has_avx2() -> bool {
    let (one, seven) = (read_cpuid(1), read_cpuid(7));
    let os_and_avx = 1 << 27 | 1 << 28;
    if one.ecx & os_and_avx != os_and_avx || seven.ebx & 1 << 5 == 0 {
        return false;
    }
    // SAFETY: OSXSAVE says that XGETBV exists.
    unsafe { xcr0() & 6 == 6 }
}

#[target_feature(enable = "xsave")]
fn xcr0() -> u64 {
    // SAFETY: register 0 exists wherever the instruction does.
    unsafe { _xgetbv(0) }
}

#[target_feature(enable = "avx2")]
fn add_with_avx2(values: &mut [i32; 8], amount: i32) {
    let pointer: *mut __m256i = values.as_mut_ptr().cast();
    // SAFETY: eight integers are 32 bytes, and the unaligned forms are used.
    unsafe {
        let sum = _mm256_add_epi32(_mm256_loadu_si256(pointer), _mm256_set1_epi32(amount));
        _mm256_storeu_si256(pointer, sum);
    }
}

/// Adds to eight numbers in one instruction, if the CPU can.
#[guest_function]
fn avx2_add(mut values: [i32; 8], amount: i32) -> Option<[i32; 8]> {
    if !has_avx2() {
        return None;
    }
    // SAFETY: checked above.
    unsafe { add_with_avx2(&mut values, amount) };
    Some(values)
}

/// The same in SSE2, which every x86-64 CPU has.
#[guest_function]
fn sse_scale(values: [f32; 4], factor: f32) -> [f32; 4] {
    values.map(|value| value * factor)
}

/// What `cpuid` says: EAX, EBX, ECX, EDX.
#[guest_function]
fn cpuid(leaf: u32) -> (u32, u32, u32, u32) {
    let found = read_cpuid(leaf);
    (found.eax, found.ebx, found.ecx, found.edx)
}
