//! What a CPU must have so that a guest can go on where it stood.
//!
//! A guest asks once what its CPU can do and keeps the answer. So a file says which feature bits the
//! guest was shown, and a machine that lacks one of them refuses the file by that feature's name
//! instead of letting the guest meet an undefined instruction later.

use super::FormatError;

/// A register that the CPUID instruction answers in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are the architecture's names")]
pub enum CpuidRegister {
    Eax = 0,
    Ebx = 1,
    Ecx = 2,
    Edx = 3,
}

impl CpuidRegister {
    pub(super) fn from_number(number: u32) -> Option<CpuidRegister> {
        [Self::Eax, Self::Ebx, Self::Ecx, Self::Edx].into_iter().find(|r| *r as u32 == number)
    }
}

/// The feature bits in one of CPUID's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeatureWord {
    /// What is asked for in EAX.
    pub leaf: u32,
    /// What is asked for in ECX.
    pub subleaf: u32,
    /// Where the answer stands.
    pub register: CpuidRegister,
    /// The bits.
    pub mask: u32,
}

impl FeatureWord {
    fn is_same_place(&self, other: &FeatureWord) -> bool {
        let place = |word: &FeatureWord| (word.leaf, word.subleaf, word.register);
        place(self) == place(other)
    }

    /// What manuals call each of its bits, from the lowest on.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let set = |bit: &u32| self.mask & 1 << bit != 0;
        (0..32).filter(set).map(|bit| self.bit_name(bit))
    }

    /// What manuals call one of its bits.
    fn bit_name(&self, bit: u32) -> String {
        let known = NAMES.iter().find(|(leaf, subleaf, register, _)| {
            (*leaf, *subleaf, *register) == (self.leaf, self.subleaf, self.register)
        });
        let name = known.and_then(|(.., bits)| bits.iter().find(|(number, _)| *number == bit));
        if let Some((_, name)) = name {
            return (*name).to_string();
        }
        let subleaf = match self.subleaf {
            0 => String::new(),
            subleaf => format!(" subleaf {subleaf}"),
        };
        let register = ["EAX", "EBX", "ECX", "EDX"][self.register as usize];
        format!("CPUID leaf {:#x}{subleaf} {register} bit {bit}", self.leaf)
    }
}

/// Checks that every bit that a guest was shown is there. `present` is what a guest would be shown
/// here.
///
/// # Errors
///
/// [`FormatError::MissingFeature`] naming the first that is not.
pub fn check_features(needed: &[FeatureWord], present: &[FeatureWord]) -> Result<(), FormatError> {
    for word in needed {
        let here = present.iter().filter(|other| other.is_same_place(word));
        let missing = here.fold(word.mask, |missing, other| missing & !other.mask);
        if missing != 0 {
            let feature = word.bit_name(missing.trailing_zeros());
            return Err(FormatError::MissingFeature { feature });
        }
    }
    Ok(())
}

/// Checks that every state component in `needed`, an XCR0, is there in `present`.
///
/// # Errors
///
/// [`FormatError::MissingFeature`] naming the first that is not.
pub fn check_xcr0(needed: u64, present: u64) -> Result<(), FormatError> {
    let missing = needed & !present;
    if missing == 0 {
        return Ok(());
    }
    let bit = missing.trailing_zeros();
    let feature = match COMPONENTS.iter().find(|(number, _)| *number == bit) {
        Some((_, name)) => format!("{name} state (XCR0 bit {bit})"),
        None => format!("XCR0 bit {bit}"),
    };
    Err(FormatError::MissingFeature { feature })
}

/// State components, by their bits in XCR0.
const COMPONENTS: [(u32, &str); 11] = [
    (0, "x87"),
    (1, "SSE"),
    (2, "AVX"),
    (3, "MPX bound register"),
    (4, "MPX configuration"),
    (5, "AVX-512 mask"),
    (6, "AVX-512 upper half"),
    (7, "AVX-512 high register"),
    (9, "PKRU"),
    (17, "AMX configuration"),
    (18, "AMX tile"),
];

type Names = (u32, u32, CpuidRegister, &'static [(u32, &'static str)]);

/// The bits that a guest may be shown (`cpuid.rs` in glowbox-machine), by their names in the manuals.
const NAMES: [Names; 10] = [
    (
        1,
        0,
        CpuidRegister::Ecx,
        &[
            (0, "SSE3"),
            (1, "PCLMULQDQ"),
            (9, "SSSE3"),
            (12, "FMA"),
            (13, "CMPXCHG16B"),
            (19, "SSE4.1"),
            (20, "SSE4.2"),
            (22, "MOVBE"),
            (23, "POPCNT"),
            (25, "AES"),
            (26, "XSAVE"),
            (27, "OSXSAVE"),
            (28, "AVX"),
            (29, "F16C"),
            (30, "RDRAND"),
        ],
    ),
    (
        1,
        0,
        CpuidRegister::Edx,
        &[
            (0, "FPU"),
            (4, "TSC"),
            (6, "PAE"),
            (8, "CMPXCHG8B"),
            (15, "CMOV"),
            (19, "CLFLUSH"),
            (23, "MMX"),
            (24, "FXSR"),
            (25, "SSE"),
            (26, "SSE2"),
        ],
    ),
    (
        7,
        0,
        CpuidRegister::Ebx,
        &[
            (0, "FSGSBASE"),
            (3, "BMI1"),
            (5, "AVX2"),
            (7, "SMEP"),
            (8, "BMI2"),
            (9, "ERMS"),
            (18, "RDSEED"),
            (19, "ADX"),
            (20, "SMAP"),
            (23, "CLFLUSHOPT"),
            (24, "CLWB"),
            (29, "SHA"),
        ],
    ),
    (
        7,
        0,
        CpuidRegister::Ecx,
        &[(2, "UMIP"), (8, "GFNI"), (9, "VAES"), (10, "VPCLMULQDQ"), (22, "RDPID")],
    ),
    (7, 0, CpuidRegister::Edx, &[(4, "FSRM")]),
    (0xd, 1, CpuidRegister::Eax, &[(0, "XSAVEOPT"), (1, "XSAVEC"), (2, "XGETBV with ECX = 1")]),
    (
        0x8000_0001,
        0,
        CpuidRegister::Ecx,
        &[(0, "LAHF"), (5, "LZCNT"), (6, "SSE4A"), (7, "misaligned SSE"), (8, "PREFETCHW")],
    ),
    (
        0x8000_0001,
        0,
        CpuidRegister::Edx,
        &[
            (0, "FPU"),
            (4, "TSC"),
            (6, "PAE"),
            (8, "CMPXCHG8B"),
            (11, "SYSCALL"),
            (15, "CMOV"),
            (20, "NX"),
            (22, "MMX extensions"),
            (23, "MMX"),
            (24, "FXSR"),
            (25, "FXSR optimisations"),
            (26, "1 GiB pages"),
            (27, "RDTSCP"),
            (29, "long mode"),
        ],
    ),
    (0x8000_0007, 0, CpuidRegister::Edx, &[(8, "invariant TSC")]),
    (0x8000_0008, 0, CpuidRegister::Ebx, &[(0, "CLZERO")]),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn word(leaf: u32, subleaf: u32, register: CpuidRegister, mask: u32) -> FeatureWord {
        FeatureWord { leaf, subleaf, register, mask }
    }

    fn missing(result: Result<(), FormatError>) -> String {
        match result {
            Err(FormatError::MissingFeature { feature }) => feature,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_missing_feature_is_named_as_in_the_manuals() {
        let here = [word(7, 0, CpuidRegister::Ebx, 1 << 3), word(7, 0, CpuidRegister::Ebx, 1 << 8)];
        let check = |leaf, subleaf, register, mask| {
            check_features(&[word(leaf, subleaf, register, mask)], &here)
        };
        assert!(check(7, 0, CpuidRegister::Ebx, 1 << 3 | 1 << 8).is_ok());
        assert!(check(0x20, 0, CpuidRegister::Eax, 0).is_ok());
        let name = |leaf, subleaf, register, mask| missing(check(leaf, subleaf, register, mask));
        assert_eq!(name(7, 0, CpuidRegister::Ebx, 1 << 3 | 1 << 5 | 1 << 29), "AVX2");
        assert_eq!(name(7, 0, CpuidRegister::Ebx, 1 << 29), "SHA");
        assert_eq!(name(0x8000_0001, 0, CpuidRegister::Ecx, 1 << 6), "SSE4A");
        assert_eq!(name(0xd, 1, CpuidRegister::Eax, 2), "XSAVEC");
        let unnamed = name(7, 0, CpuidRegister::Ebx, 1 << 13);
        assert_eq!(unnamed, "CPUID leaf 0x7 EBX bit 13");
        let unnamed = name(7, 1, CpuidRegister::Ebx, 1 << 31);
        assert_eq!(unnamed, "CPUID leaf 0x7 subleaf 1 EBX bit 31");
        // The same bit of another subleaf or register is another feature.
        assert_eq!(name(7, 0, CpuidRegister::Edx, 1 << 3), "CPUID leaf 0x7 EDX bit 3");
    }

    #[test]
    fn all_features_of_a_word_are_named() {
        let names: Vec<_> =
            word(7, 0, CpuidRegister::Ebx, 1 << 3 | 1 << 5 | 1 << 31).names().collect();
        assert_eq!(names, ["BMI1", "AVX2", "CPUID leaf 0x7 EBX bit 31"]);
    }

    #[test]
    fn a_missing_state_component_is_named() {
        assert!(check_xcr0(0b111, 0b1111).is_ok());
        assert_eq!(missing(check_xcr0(0b111, 0b011)), "AVX state (XCR0 bit 2)");
        assert_eq!(missing(check_xcr0(1 << 63, u64::MAX >> 1)), "XCR0 bit 63");
    }

    #[test]
    fn every_register_has_its_number() {
        for number in 0..4 {
            assert_eq!(CpuidRegister::from_number(number).unwrap() as u32, number);
        }
        assert_eq!(CpuidRegister::from_number(4), None);
    }
}
