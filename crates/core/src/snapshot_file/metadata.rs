//! The metadata section: what a sandbox was made with, and its vCPU's state.
//!
//! A fixed part, then four parts whose lengths stand in it. Whatever the checksum says, each field is
//! checked for what it can be; what depends on the program (does this load base suit it, is the
//! window as large as its layout) is for the loader, which has it.

use glowbox_abi::ABI_VERSION;

use super::features::{CpuidRegister, FeatureWord, check_features, check_xcr0};
use super::{
    FormatError, MAX_CREATOR, MAX_EXTENDED_STATE, MAX_FEATURES, MAX_LOG_TEXT, MAX_NAME, MAX_WINDOW,
    MIN_EXTENDED_STATE, Reader,
};
use crate::address::PAGE_SIZE;
use crate::layout::Limits;
use crate::registers::Registers;

/// Bytes of the fixed part.
pub(super) const FIXED_SIZE: usize = 264;
/// The flag that says that there is a fixed seed.
const DETERMINISTIC: u32 = 1;
/// The flags that ring-3 code can have: the arithmetic ones, TF, IF, DF, IOPL, NT, RF, AC, ID, and
/// the one that is always set.
const USER_FLAGS: u64 = 0x25_7fd7;
/// End of the addresses that ring-3 code can run at.
const USER_END: u64 = 1 << 47;
/// The highest log level.
const MAX_LOG_LEVEL: u32 = 5;

/// What a sandbox was made with, and its vCPU's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// The version of Glowbox that saved it: printable ASCII, 1 to [`MAX_CREATOR`] bytes.
    pub creator: String,
    /// The CPU features that the guest was shown; at most [`MAX_FEATURES`] words.
    pub features: Vec<FeatureWord>,
    /// The state components that the guest can use; 0 without XSAVE.
    pub xcr0: u64,
    /// How much memory the guest has.
    pub limits: Limits,
    /// Where its program is loaded.
    pub load_base: u64,
    /// Bytes of guest memory.
    pub window_size: u64,
    /// General-purpose registers, instruction pointer and flags.
    pub registers: Registers,
    /// Base of the FS segment.
    pub fs_base: u64,
    /// Base of the GS segment.
    pub gs_base: u64,
    /// x87, SSE and AVX state in the standard format of XSAVE: [`MIN_EXTENDED_STATE`] to
    /// [`MAX_EXTENDED_STATE`] bytes. What it holds is not looked at here.
    pub extended_state: Vec<u8>,
    /// What the guest is called; at most [`MAX_NAME`] bytes.
    pub name: String,
    /// The seed of a deterministic sandbox; `None` for one with fresh randomness.
    pub seed: Option<u64>,
    /// Up to which level log records are taken: 0 (none) to 5 (trace).
    pub log_level: u32,
    /// Most bytes of a log record's text, 1 to [`MAX_LOG_TEXT`].
    pub log_text_limit: u64,
}

impl Metadata {
    /// Checks that a CPU has what the guest was shown: `features` and `xcr0` are what a guest would
    /// be shown here.
    ///
    /// # Errors
    ///
    /// [`FormatError::MissingFeature`] naming the first that is missing.
    pub fn check_cpu(&self, features: &[FeatureWord], xcr0: u64) -> Result<(), FormatError> {
        check_features(&self.features, features)?;
        check_xcr0(self.xcr0, xcr0)
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, FormatError> {
        self.check()?;
        let mut bytes = Vec::new();
        let flags = if self.seed.is_some() { DETERMINISTIC } else { 0 };
        put_u32s(&mut bytes, &[ABI_VERSION, flags]);
        let Limits { heap, stack, incoming, outgoing } = self.limits;
        put_u64s(&mut bytes, &[self.seed.unwrap_or(0), heap, stack, incoming, outgoing]);
        put_u64s(&mut bytes, &[self.load_base, self.window_size, self.log_text_limit]);
        put_u64s(&mut bytes, &register_values(&self.registers));
        put_u64s(&mut bytes, &[self.fs_base, self.gs_base, self.xcr0]);
        let lengths = self.lengths().map(|length| u32::try_from(length).expect("checked above"));
        put_u32s(&mut bytes, &lengths);
        put_u32s(&mut bytes, &[self.log_level, 0]);
        debug_assert_eq!(bytes.len(), FIXED_SIZE);
        for FeatureWord { leaf, subleaf, register, mask } in &self.features {
            put_u32s(&mut bytes, &[*leaf, *subleaf, *register as u32, *mask]);
        }
        bytes.extend_from_slice(self.creator.as_bytes());
        bytes.extend_from_slice(self.name.as_bytes());
        bytes.extend_from_slice(&self.extended_state);
        Ok(bytes)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Metadata, FormatError> {
        let mut reader = Reader::new(bytes);
        let abi_version = reader.u32("ABI version")?;
        let flags = reader.u32("flags")?;
        let seed = seed(flags, reader.u64("seed")?)?;
        let limits = limits(&mut reader)?;
        let load_base = reader.u64("load base")?;
        let window_size = reader.u64("window size")?;
        let log_text_limit = reader.u64("log text limit")?;
        let registers = registers(&mut reader)?;
        let fs_base = reader.u64("FS base")?;
        let gs_base = reader.u64("GS base")?;
        let xcr0 = reader.u64("XCR0")?;
        let lengths = [
            reader.u32("CPU features count")?,
            reader.u32("creator length")?,
            reader.u32("name length")?,
            reader.u32("extended state length")?,
        ]
        .map(u64::from);
        let log_level = reader.u32("log level")?;
        let reserved = reader.u32("metadata reserved")?;
        if reserved != 0 {
            return Err(FormatError::invalid("metadata reserved", reserved.into(), "it must be 0"));
        }
        check_lengths(lengths)?;
        let [feature_count, creator_length, name_length, extended_length] = lengths;
        let metadata = Metadata {
            features: features(reader.bytes("CPU features", feature_count * 16)?)?,
            creator: text(reader.bytes("creator", creator_length)?, "creator")?,
            name: text(reader.bytes("name", name_length)?, "name")?,
            extended_state: reader.bytes("extended state", extended_length)?.to_vec(),
            xcr0,
            limits,
            load_base,
            window_size,
            registers,
            fs_base,
            gs_base,
            seed,
            log_level,
            log_text_limit,
        };
        if !reader.rest().is_empty() {
            let problem = "its parts take less";
            return Err(FormatError::invalid("metadata length", bytes.len() as u64, problem));
        }
        metadata.check_creator()?;
        if abi_version != ABI_VERSION {
            let (found, expected, creator) = (abi_version, ABI_VERSION, metadata.creator);
            return Err(FormatError::AbiVersion { found, expected, creator });
        }
        metadata.check()?;
        Ok(metadata)
    }

    /// How long the parts behind the fixed one are, in their order.
    fn lengths(&self) -> [u64; 4] {
        let Metadata { features, creator, name, extended_state, .. } = self;
        [features.len(), creator.len(), name.len(), extended_state.len()].map(|n| n as u64)
    }

    fn check_creator(&self) -> Result<(), FormatError> {
        // It is shown in errors.
        match self.creator.bytes().find(|byte| !byte.is_ascii_graphic()) {
            Some(byte) => {
                Err(FormatError::invalid("creator", byte.into(), "it must be printable ASCII"))
            }
            None => Ok(()),
        }
    }

    /// Checks every field for what it can be.
    fn check(&self) -> Result<(), FormatError> {
        check_lengths(self.lengths())?;
        self.check_creator()?;
        check_limits(&self.limits)?;
        let error = |field, found, problem| Err(FormatError::invalid(field, found, problem));
        if !self.load_base.is_multiple_of(PAGE_SIZE) {
            return error("load base", self.load_base, "it must be a multiple of 4096");
        }
        let window = self.window_size;
        if !(PAGE_SIZE..=MAX_WINDOW).contains(&window) || !window.is_multiple_of(PAGE_SIZE) {
            let problem = "it must be a multiple of 4096, and not more than 128 GiB";
            return error("window size", window, problem);
        }
        if self.registers.rip >= USER_END {
            return error("rip", self.registers.rip, "no guest code can lie there");
        }
        if self.registers.rflags & !USER_FLAGS != 0 {
            return error("rflags", self.registers.rflags, "guest code can't have these flags");
        }
        for (field, base) in [("FS base", self.fs_base), ("GS base", self.gs_base)] {
            if base >= USER_END && base < USER_END.wrapping_neg() {
                return error(field, base, "that is not a canonical address");
            }
        }
        if self.log_level > MAX_LOG_LEVEL {
            return error("log level", self.log_level.into(), "the highest is 5");
        }
        if !(1..=MAX_LOG_TEXT).contains(&self.log_text_limit) {
            return error("log text limit", self.log_text_limit, "it must be from 1 byte to 1 MiB");
        }
        Ok(())
    }
}

fn put_u32s(bytes: &mut Vec<u8>, values: &[u32]) {
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

fn put_u64s(bytes: &mut Vec<u8>, values: &[u64]) {
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

fn seed(flags: u32, seed: u64) -> Result<Option<u64>, FormatError> {
    match flags {
        DETERMINISTIC => Ok(Some(seed)),
        0 if seed == 0 => Ok(None),
        0 => Err(FormatError::invalid("seed", seed, "only a deterministic sandbox has one")),
        _ => Err(FormatError::invalid("flags", flags.into(), "only bit 0 has a meaning")),
    }
}

fn limits(reader: &mut Reader<'_>) -> Result<Limits, FormatError> {
    Ok(Limits {
        heap: reader.u64("heap limit")?,
        stack: reader.u64("stack limit")?,
        incoming: reader.u64("incoming limit")?,
        outgoing: reader.u64("outgoing limit")?,
    })
}

/// The registers, in the order in which they stand in the file.
fn register_values(r: &Registers) -> [u64; 18] {
    [
        r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rsp, r.rbp, r.r8, r.r9, r.r10, r.r11, r.r12,
        r.r13, r.r14, r.r15, r.rip, r.rflags,
    ]
}

fn registers(reader: &mut Reader<'_>) -> Result<Registers, FormatError> {
    Ok(Registers {
        rax: reader.u64("rax")?,
        rbx: reader.u64("rbx")?,
        rcx: reader.u64("rcx")?,
        rdx: reader.u64("rdx")?,
        rsi: reader.u64("rsi")?,
        rdi: reader.u64("rdi")?,
        rsp: reader.u64("rsp")?,
        rbp: reader.u64("rbp")?,
        r8: reader.u64("r8")?,
        r9: reader.u64("r9")?,
        r10: reader.u64("r10")?,
        r11: reader.u64("r11")?,
        r12: reader.u64("r12")?,
        r13: reader.u64("r13")?,
        r14: reader.u64("r14")?,
        r15: reader.u64("r15")?,
        rip: reader.u64("rip")?,
        rflags: reader.u64("rflags")?,
    })
}

/// Checks [`Metadata::lengths`].
fn check_lengths(lengths: [u64; 4]) -> Result<(), FormatError> {
    let bounds = [
        ("CPU features count", 0, MAX_FEATURES),
        ("creator length", 1, MAX_CREATOR),
        ("name length", 0, MAX_NAME),
        ("extended state length", MIN_EXTENDED_STATE, MAX_EXTENDED_STATE),
    ];
    for (found, (field, min, max)) in lengths.into_iter().zip(bounds) {
        if found < min as u64 {
            return Err(FormatError::invalid(field, found, "no snapshot has so little"));
        }
        if found > max as u64 {
            let problem = "that is more than a snapshot may have";
            return Err(FormatError::invalid(field, found, problem));
        }
    }
    Ok(())
}

fn check_limits(limits: &Limits) -> Result<(), FormatError> {
    let (min, max) = (Limits::MIN, Limits::MAX);
    for (field, found, min, max) in [
        ("heap limit", limits.heap, min.heap, max.heap),
        ("stack limit", limits.stack, min.stack, max.stack),
        ("incoming limit", limits.incoming, min.incoming, max.incoming),
        ("outgoing limit", limits.outgoing, min.outgoing, max.outgoing),
    ] {
        if !(min..=max).contains(&found) {
            return Err(FormatError::invalid(
                field,
                found,
                "no guest can have that much or little",
            ));
        }
        if !found.is_multiple_of(PAGE_SIZE) {
            return Err(FormatError::invalid(field, found, "it must be a multiple of 4096"));
        }
    }
    Ok(())
}

fn features(bytes: &[u8]) -> Result<Vec<FeatureWord>, FormatError> {
    let word = |bytes| {
        let mut reader = Reader::new(bytes);
        let leaf = reader.u32("CPU features leaf")?;
        let subleaf = reader.u32("CPU features subleaf")?;
        let number = reader.u32("CPU features register")?;
        let register = CpuidRegister::from_number(number).ok_or_else(|| {
            let problem = "registers are 0 (EAX) to 3 (EDX)";
            FormatError::invalid("CPU features register", number.into(), problem)
        })?;
        Ok(FeatureWord { leaf, subleaf, register, mask: reader.u32("CPU features mask")? })
    };
    bytes.chunks(16).map(word).collect()
}

fn text(bytes: &[u8], field: &'static str) -> Result<String, FormatError> {
    match str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_string()),
        Err(error) => {
            let byte = u64::from(bytes[error.valid_up_to()]);
            Err(FormatError::invalid(field, byte, "it must be UTF-8"))
        }
    }
}
