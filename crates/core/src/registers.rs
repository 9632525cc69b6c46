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

/// SSE state, as a bit of XCR0 and of the XSAVE header.
const SSE: u64 = 1 << 1;
/// Where the XMM registers are in an XSAVE area.
const XMM: std::ops::Range<usize> = 160..416;

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
        // FCW and MXCSR; all others but SSE are in their initial state by the header.
        bytes[..2].copy_from_slice(&0x037f_u16.to_le_bytes());
        bytes[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
        bytes[512..520].copy_from_slice(&SSE.to_le_bytes());
        ExtendedState { bytes }
    }

    /// Takes the state from an XSAVE area. `None` if it is too small or too large. What the
    /// instruction that loads it would refuse (reserved header bits, reserved MXCSR bits) or
    /// ignores is cleared, so that any bytes can be loaded: `components` are those that XCR0
    /// enables, `mxcsr_mask` the bits that MXCSR has.
    ///
    /// SSE state counts as in use whether or not it is, with zeros in all registers then. Which of
    /// these a CPU says of such a state depends on when the host's kernel last saved and loaded it, and
    /// of one state there is to be one form.
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
        let mut present = u64::from_le_bytes(*bytes[512..].first_chunk()?) & components;
        if present & SSE == 0 {
            bytes[XMM].fill(0);
            present |= SSE & components;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_sse_state_has_one_form_whether_or_not_it_is_in_use() {
        let initial = ExtendedState::initial();
        for (in_use, left_over) in [(0, 0), (SSE, 0), (0, 0xaa)] {
            let mut area = initial.bytes().to_vec();
            area[512..520].copy_from_slice(&u64::to_le_bytes(in_use));
            area[XMM].fill(left_over);
            assert_eq!(ExtendedState::from_xsave(&area, 7, 0xffff), Some(initial.clone()));
        }
        // One that holds something is kept, and its bit is none where there is no such component.
        let mut area = initial.bytes().to_vec();
        area[XMM.end - 1] = 1;
        let state = ExtendedState::from_xsave(&area, 7, 0xffff).unwrap();
        assert_eq!((state.bytes()[XMM.end - 1], state.bytes()[512]), (1, 2));
        let state = ExtendedState::from_xsave(&area, 1, 0xffff).unwrap();
        assert_eq!((state.bytes()[XMM.end - 1], state.bytes()[512]), (0, 0));
    }
}
