//! What a guest is told of its CPU.
//!
//! An allow-list: a feature is passed on if ring-3 code can use it in a guest, and everything else
//! (interrupt controllers, performance counters, virtualisation, other cores, the hypervisor's own
//! leaves, state that XCR0 does not enable) reads as absent. A few supervisor features stay because
//! the hypervisor wants to see them before it lets the control registers use them.

use glowbox_core::snapshot_file::{CpuidRegister, FeatureWord};

/// What `cpuid` says of one leaf and subleaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) leaf: u32,
    pub(crate) subleaf: u32,
    pub(crate) eax: u32,
    pub(crate) ebx: u32,
    pub(crate) ecx: u32,
    pub(crate) edx: u32,
}

/// x87, SSE and AVX state, as bits of XCR0.
const XCR0_X87: u64 = 1 << 0;
const XCR0_SSE: u64 = 1 << 1;
const XCR0_AVX: u64 = 1 << 2;

/// A bit mask from bit numbers.
const fn bits(numbers: &[u32]) -> u32 {
    let mut mask = 0;
    let mut at = 0;
    while at < numbers.len() {
        mask |= 1 << numbers[at];
        at += 1;
    }
    mask
}

/// Leaf 1, ECX: SSE3, PCLMULQDQ, SSSE3, FMA, CMPXCHG16B, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, XSAVE,
/// OSXSAVE, AVX, F16C, RDRAND.
const LEAF1_ECX: u32 = bits(&[0, 1, 9, 12, 13, 19, 20, 22, 23, 25, 26, 27, 28, 29, 30]);
/// Of these, what needs AVX state: FMA, AVX, F16C.
const LEAF1_ECX_AVX: u32 = bits(&[12, 28, 29]);
/// Leaf 1, EDX: FPU, TSC, PAE, CX8, CMOV, CLFLUSH, MMX, FXSR, SSE, SSE2.
const LEAF1_EDX: u32 = bits(&[0, 4, 6, 8, 15, 19, 23, 24, 25, 26]);
/// Leaf 7, EBX: FSGSBASE, BMI1, AVX2, SMEP, BMI2, ERMS, RDSEED, ADX, SMAP, CLFLUSHOPT, CLWB, SHA.
const LEAF7_EBX: u32 = bits(&[0, 3, 5, 7, 8, 9, 18, 19, 20, 23, 24, 29]);
/// Of these, what needs AVX state: AVX2.
const LEAF7_EBX_AVX: u32 = bits(&[5]);
/// Leaf 7, ECX: UMIP, GFNI, VAES, VPCLMULQDQ, RDPID.
const LEAF7_ECX: u32 = bits(&[2, 8, 9, 10, 22]);
/// Of these, what needs AVX state: VAES, VPCLMULQDQ.
const LEAF7_ECX_AVX: u32 = bits(&[9, 10]);
/// Leaf 7, EDX: FSRM.
const LEAF7_EDX: u32 = bits(&[4]);
/// Leaf 0xD, subleaf 1, EAX: XSAVEOPT, XSAVEC, XGETBV with ECX = 1.
const LEAF_D1_EAX: u32 = bits(&[0, 1, 2]);
/// Leaf 0x8000_0001, ECX: LAHF, ABM, SSE4A, misaligned SSE, PREFETCHW.
const EXTENDED1_ECX: u32 = bits(&[0, 5, 6, 7, 8]);
/// Leaf 0x8000_0001, EDX: what leaf 1 has too (AMD repeats it), SYSCALL, NX, MMX extensions,
/// FXSAVE optimisations, 1 GiB pages, RDTSCP, long mode.
const EXTENDED1_EDX: u32 = bits(&[0, 4, 6, 8, 11, 15, 20, 22, 23, 24, 25, 26, 27, 29]);
/// Leaf 0x8000_0008, EBX: CLZERO.
const EXTENDED8_EBX: u32 = bits(&[0]);
/// Leaf 0x8000_0007, EDX: the time-stamp counter runs at a constant rate.
const EXTENDED7_EDX: u32 = bits(&[8]);

/// Highest basic and extended leaf that a guest is told of.
const MAX_LEAF: u32 = 0xd;
const MAX_EXTENDED_LEAF: u32 = 0x8000_001d;
/// Bytes of the legacy XSAVE area with its header, and of the AVX part.
const XSAVE_LEGACY: u32 = 576;
const XSAVE_AVX: u32 = 256;
/// Bits of a cache leaf's EAX that say how many cores share it.
const CACHE_SHARING: u32 = 0xffff_c000;

/// The state components a guest may use: what the CPU has of x87, SSE and AVX. Judged by the leaf
/// that lists them, since not every KVM that has XSAVE shows its feature bit.
pub(crate) fn xcr0(supported: &[Leaf]) -> Option<u64> {
    let components = supported
        .iter()
        .find(|entry| (entry.leaf, entry.subleaf) == (0xd, 0))
        .map_or(0, |entry| u64::from(entry.eax));
    (components != 0).then_some(components & (XCR0_X87 | XCR0_SSE | XCR0_AVX) | XCR0_X87)
}

/// The leaves that a guest gets, made from those that the hypervisor supports.
pub(crate) fn for_guest(supported: &[Leaf]) -> Vec<Leaf> {
    let avx = xcr0(supported).is_some_and(|components| components & XCR0_AVX != 0);
    supported.iter().filter_map(|entry| filter(entry, avx)).collect()
}

/// What the CPU of this process says of itself, of all that [`for_guest`] looks at.
pub(crate) fn of_host() -> Vec<Leaf> {
    let read = |leaf, subleaf| {
        #[allow(unused_unsafe, reason = "no longer unsafe in newer releases of Rust")]
        // SAFETY: every CPU of this architecture has the instruction.
        let found = unsafe { std::arch::x86_64::__cpuid_count(leaf, subleaf) };
        let (eax, ebx, ecx, edx) = (found.eax, found.ebx, found.ecx, found.edx);
        Leaf { leaf, subleaf, eax, ebx, ecx, edx }
    };
    let last = |first| read(first, 0).eax;
    let leaves = [(0, 0), (1, 0), (7, 0), (0xd, 0), (0xd, 1)].into_iter();
    let extended = [0x8000_0000, 0x8000_0001, 0x8000_0007, 0x8000_0008].map(|leaf| (leaf, 0));
    let there = |(leaf, _): &(u32, u32)| *leaf <= last(*leaf & 0x8000_0000);
    let entries = leaves.chain(extended).filter(there).map(|(leaf, subleaf)| read(leaf, subleaf));
    let mut entries: Vec<Leaf> = entries.collect();
    if !std::arch::is_x86_feature_detected!("avx") {
        // The CPU may have it, but the system does not keep its state.
        let components = entries.iter_mut().filter(|e| (e.leaf, e.subleaf) == (0xd, 0));
        components.for_each(|entry| entry.eax &= 3);
    }
    entries
}

/// The registers that hold feature bits, by leaf and subleaf.
const FEATURES: [(u32, u32, CpuidRegister); 9] = [
    (1, 0, CpuidRegister::Ecx),
    (1, 0, CpuidRegister::Edx),
    (7, 0, CpuidRegister::Ebx),
    (7, 0, CpuidRegister::Ecx),
    (7, 0, CpuidRegister::Edx),
    (0xd, 1, CpuidRegister::Eax),
    (0x8000_0001, 0, CpuidRegister::Ecx),
    (0x8000_0001, 0, CpuidRegister::Edx),
    (0x8000_0008, 0, CpuidRegister::Ebx),
];

/// The feature bits among the leaves a guest gets.
pub(crate) fn features(entries: &[Leaf]) -> Vec<FeatureWord> {
    let word = |(leaf, subleaf, register)| {
        let entry = entries.iter().find(|e| (e.leaf, e.subleaf) == (leaf, subleaf))?;
        let mask = match register {
            CpuidRegister::Eax => entry.eax,
            CpuidRegister::Ebx => entry.ebx,
            CpuidRegister::Ecx => entry.ecx,
            CpuidRegister::Edx => entry.edx,
        };
        (mask != 0).then_some(FeatureWord { leaf, subleaf, register, mask })
    };
    FEATURES.into_iter().filter_map(word).collect()
}

fn filter(entry: &Leaf, avx: bool) -> Option<Leaf> {
    let without_avx = |mask: u32, of_avx: u32| if avx { mask } else { mask & !of_avx };
    let mut e = *entry;
    match (e.leaf, e.subleaf) {
        (0, _) => e.eax = e.eax.min(MAX_LEAF),
        (1, _) => {
            // One logical processor, with APIC id 0; CLFLUSH line size stays.
            e.ebx = e.ebx & 0xff00 | 1 << 16;
            e.ecx &= without_avx(LEAF1_ECX, LEAF1_ECX_AVX);
            e.edx &= LEAF1_EDX;
        }
        (2, _) | (0x8000_0002..=0x8000_0006, _) => {}
        (4, _) | (0x8000_001d, _) => e.eax &= !CACHE_SHARING,
        (7, 0) => {
            e.eax = 0;
            e.ebx &= without_avx(LEAF7_EBX, LEAF7_EBX_AVX);
            e.ecx &= without_avx(LEAF7_ECX, LEAF7_ECX_AVX);
            e.edx &= LEAF7_EDX;
        }
        (0xd, 0) => {
            let components = e.eax & if avx { 7 } else { 3 };
            let size = XSAVE_LEGACY + if avx { XSAVE_AVX } else { 0 };
            (e.eax, e.ebx, e.ecx, e.edx) = (components, size, size, 0);
        }
        (0xd, 1) => {
            let size = XSAVE_LEGACY + if avx { XSAVE_AVX } else { 0 };
            (e.eax, e.ebx, e.ecx, e.edx) = (e.eax & LEAF_D1_EAX, size, 0, 0);
        }
        (0xd, 2) if avx => {}
        (0x8000_0000, _) => e.eax = e.eax.min(MAX_EXTENDED_LEAF),
        (0x8000_0001, _) => {
            e.ebx = 0;
            e.ecx &= EXTENDED1_ECX;
            e.edx &= EXTENDED1_EDX;
        }
        (0x8000_0007, _) => (e.eax, e.ebx, e.ecx, e.edx) = (0, 0, 0, e.edx & EXTENDED7_EDX),
        (0x8000_0008, _) => (e.ebx, e.ecx, e.edx) = (e.ebx & EXTENDED8_EBX, 0, 0),
        _ => return None,
    }
    Some(e)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything() -> Vec<Leaf> {
        let (eax, ebx, ecx, edx) = (u32::MAX, u32::MAX, u32::MAX, u32::MAX);
        let entry = |leaf, subleaf| Leaf { leaf, subleaf, eax, ebx, ecx, edx };
        let basic = (0..0x20).flat_map(|leaf| [entry(leaf, 0), entry(leaf, 1), entry(leaf, 2)]);
        let hypervisor = [0x4000_0000, 0x4000_0001].map(|leaf| entry(leaf, 0));
        let extended = (0x8000_0000..0x8000_0022).map(|leaf| entry(leaf, 0));
        basic.chain(hypervisor).chain(extended).collect()
    }

    fn leaf(entries: &[Leaf], leaf: u32, subleaf: u32) -> Leaf {
        *entries.iter().find(|e| (e.leaf, e.subleaf) == (leaf, subleaf)).unwrap()
    }

    #[test]
    fn what_a_guest_cannot_use_is_hidden() {
        let guest = for_guest(&everything());
        let one = leaf(&guest, 1, 0);
        // MONITOR, VMX, PCID, x2APIC, TSC deadline, hypervisor; then MSR, MCE, APIC, MTRR.
        assert_eq!(one.ecx & bits(&[3, 5, 17, 21, 24, 31]), 0);
        assert_eq!(one.edx & bits(&[5, 7, 9, 12]), 0);
        let seven = leaf(&guest, 7, 0);
        // HLE, INVPCID, RTM, AVX-512F, then PKU, WAITPKG, CET, then AMX.
        assert_eq!(seven.ebx & bits(&[4, 10, 11, 16]), 0);
        assert_eq!(seven.ecx & bits(&[3, 5, 7]), 0);
        assert_eq!(seven.edx & bits(&[20, 24]), 0);
        assert!(guest.iter().all(|e| !(0x4000_0000..0x5000_0000).contains(&e.leaf)));
        assert!(guest.iter().all(|e| ![0xa, 0xb, 0x12, 0x14].contains(&e.leaf)));
        // SVM.
        assert_eq!(leaf(&guest, 0x8000_0001, 0).ecx & bits(&[2]), 0);
        assert_eq!(leaf(&guest, 0xd, 0).eax, 7);
    }

    #[test]
    fn sse_to_avx2_stay_where_the_cpu_has_them() {
        let guest = for_guest(&everything());
        assert_eq!(leaf(&guest, 1, 0).ecx & LEAF1_ECX, LEAF1_ECX);
        assert_ne!(leaf(&guest, 7, 0).ebx & bits(&[5]), 0);
        assert_eq!(xcr0(&everything()), Some(7));
    }

    #[test]
    fn without_avx_state_nothing_that_needs_it_is_shown() {
        let mut cpu = everything();
        cpu.iter_mut().filter(|e| e.leaf == 0xd).for_each(|e| e.eax = 3);
        let guest = for_guest(&cpu);
        assert_eq!(leaf(&guest, 1, 0).ecx & LEAF1_ECX_AVX, 0);
        assert_eq!(leaf(&guest, 7, 0).ebx & LEAF7_EBX_AVX, 0);
        assert_eq!(leaf(&guest, 0xd, 0).ebx, XSAVE_LEGACY);
    }
}
