//! What a vCPU holds, as one value.

use std::fmt;

/// General-purpose registers, instruction pointer and flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "they are the architecture's names")]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
}

/// Everything that ring-3 code keeps in a vCPU from one instruction to the next.
///
/// Segment selectors are no part of it: they carry nothing in 64-bit mode, and are null whenever a
/// guest starts or starts again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuState {
    /// General-purpose registers, instruction pointer and flags.
    pub registers: Registers,
    /// Base of the FS segment.
    pub fs_base: u64,
    /// Base of the GS segment.
    pub gs_base: u64,
    /// x87, SSE and AVX state.
    pub extended: ExtendedState,
}

impl CpuState {
    /// The state of a vCPU that starts at an address with a stack, as the System V ABI has it: all
    /// else is zero or its initial value.
    pub fn starting_at(rip: u64, rsp: u64) -> CpuState {
        let registers = Registers { rip, rsp, rflags: FLAGS_ALWAYS_SET, ..Registers::default() };
        CpuState { registers, fs_base: 0, gs_base: 0, extended: ExtendedState::initial() }
    }
}

/// The flag that is always one.
const FLAGS_ALWAYS_SET: u64 = 1 << 1;

/// x87, SSE and AVX state, in the standard format of the XSAVE instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtendedState {
    bytes: Vec<u8>,
}

impl ExtendedState {
    /// Bytes of the part that every CPU has: the FXSAVE area and the XSAVE header.
    pub const MIN_SIZE: usize = 576;
    /// Most bytes: more than x87, SSE and AVX take, and what the resume page has room for.
    pub const MAX_SIZE: usize = 3584;

    /// The state after the CPU's reset: nothing in any register, all exceptions masked.
    pub fn initial() -> ExtendedState {
        let mut bytes = vec![0; ExtendedState::MIN_SIZE];
        // FCW and MXCSR; the header says that all components are in their initial state.
        bytes[..2].copy_from_slice(&0x037f_u16.to_le_bytes());
        bytes[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
        ExtendedState { bytes }
    }

    /// Takes the state from an XSAVE area. `None` if it is too small or too large. What the
    /// instruction that loads it would refuse (reserved header bits, reserved MXCSR bits) or
    /// ignores is cleared, so that any bytes can be loaded: `components` are those that XCR0
    /// enables, `mxcsr_mask` the bits that MXCSR has.
    pub fn from_xsave(area: &[u8], components: u64, mxcsr_mask: u32) -> Option<ExtendedState> {
        if !(ExtendedState::MIN_SIZE..=ExtendedState::MAX_SIZE).contains(&area.len()) {
            return None;
        }
        let mut bytes = area.to_vec();
        // MXCSR, and behind it the mask, which is written and never read.
        let mxcsr = u32::from_le_bytes(*bytes[24..].first_chunk()?) & mxcsr_mask;
        bytes[24..28].copy_from_slice(&mxcsr.to_le_bytes());
        bytes[28..32].fill(0);
        // Reserved, and for software to use.
        bytes[416..512].fill(0);
        let present = u64::from_le_bytes(*bytes[512..].first_chunk()?) & components;
        bytes[512..520].copy_from_slice(&present.to_le_bytes());
        bytes[520..576].fill(0);
        Some(ExtendedState { bytes })
    }

    /// The XSAVE area.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Display for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [
            [("rax", self.rax), ("rbx", self.rbx), ("rcx", self.rcx)],
            [("rdx", self.rdx), ("rsi", self.rsi), ("rdi", self.rdi)],
            [("rbp", self.rbp), ("rsp", self.rsp), ("r8 ", self.r8)],
            [("r9 ", self.r9), ("r10", self.r10), ("r11", self.r11)],
            [("r12", self.r12), ("r13", self.r13), ("r14", self.r14)],
            [("r15", self.r15), ("rip", self.rip), ("flg", self.rflags)],
        ];
        for (index, row) in rows.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            for (column, (name, value)) in row.iter().enumerate() {
                let space = if column > 0 { "  " } else { "" };
                write!(f, "{space}{name} {value:016x}")?;
            }
        }
        Ok(())
    }
}
