//! The resume page: ring-3 code that loads what is left of a vCPU's state when the host has set
//! the general registers, and then jumps to where the guest goes on.
//!
//! Setting x87, SSE and AVX state from outside is a request to the hypervisor of its own, at up to
//! half the cost of a whole exit; here it is one instruction. Segment selectors can on one KVM not
//! be set from outside at all (`docs/kvm.md`). See `docs/adr/0007`.

use glowbox_core::layout::RESUME_GPA;
use glowbox_core::registers::{CpuState, ExtendedState};

/// Offset of the page's data: RIP, RAX, RDX, FS base, GS base, component mask, a zero.
const DATA: usize = 0x100;
/// Offset of the x87, SSE and AVX state.
const EXTENDED: usize = 0x200;

/// Bytes of an XSAVE area with AVX state.
const XSAVE_AVX_SIZE: usize = ExtendedState::MIN_SIZE + 256;
const XCR0_AVX: u64 = 1 << 2;
/// The components of FXSAVE: x87 and SSE.
const XCR0_LEGACY: u64 = 3;
/// Where an XSAVE area says which bits MXCSR has.
const MXCSR_MASK: usize = 28;
/// The MXCSR bits that every CPU with SSE2 has; for a CPU that does not say.
const MXCSR_BITS: u32 = 0xffbf;

unsafe extern "C" {
    static glowbox_resume_full: u8;
    static glowbox_resume_full_end: u8;
    static glowbox_resume_no_fsgsbase: u8;
    static glowbox_resume_no_fsgsbase_end: u8;
    static glowbox_resume_no_xsave: u8;
    static glowbox_resume_no_xsave_end: u8;
    static glowbox_resume_least: u8;
    static glowbox_resume_least_end: u8;
}

/// What of a virtual CPU decides how its state is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// Whether ring 3 has WRFSBASE and its like. If not, the host sets the bases.
    pub fsgsbase: bool,
    /// The state components that XCR0 enables; `None` without XSAVE.
    pub xcr0: Option<u64>,
}

/// The code for a virtual CPU.
fn code(abilities: Abilities) -> &'static [u8] {
    let (start, end) = match (abilities.fsgsbase, abilities.xcr0.is_some()) {
        (true, true) => (&raw const glowbox_resume_full, &raw const glowbox_resume_full_end),
        (false, true) => {
            (&raw const glowbox_resume_no_fsgsbase, &raw const glowbox_resume_no_fsgsbase_end)
        }
        (true, false) => {
            (&raw const glowbox_resume_no_xsave, &raw const glowbox_resume_no_xsave_end)
        }
        (false, false) => (&raw const glowbox_resume_least, &raw const glowbox_resume_least_end),
    };
    // SAFETY: the two symbols are the bounds of constant bytes that x86_64.s assembles to.
    unsafe { std::slice::from_raw_parts(start, end.offset_from_unsigned(start)) }
}

/// The x87, SSE and AVX state in an XSAVE area of the host's, with what a virtual CPU does not have left out.
/// `None` if the area is too small.
pub fn extended_state(area: &[u8], abilities: Abilities) -> Option<ExtendedState> {
    let components = abilities.xcr0.unwrap_or(XCR0_LEGACY);
    let size = if components & XCR0_AVX != 0 { XSAVE_AVX_SIZE } else { ExtendedState::MIN_SIZE };
    // Behind the FPU's control words: MXCSR, and which of its bits there are.
    let mask = u32::from_le_bytes(*area.get(MXCSR_MASK..)?.first_chunk()?);
    let mask = if mask == 0 { MXCSR_BITS } else { mask };
    ExtendedState::from_xsave(area.get(..size)?, components, mask)
}

/// Writes the page into guest memory, so that a guest that is entered at its start goes on in
/// `state`.
///
/// # Panics
///
/// If the memory is smaller than the supervisor's pages, which no layout's is.
pub fn install(memory: &mut [u8], state: &CpuState, abilities: Abilities) {
    let start = usize::try_from(RESUME_GPA.0).expect("the page lies low");
    let page = &mut memory[start..start + 4096];
    page.fill(0);
    let code = code(abilities);
    page[..code.len()].copy_from_slice(code);
    let words = [
        state.registers.rip,
        state.registers.rax,
        state.registers.rdx,
        state.fs_base,
        state.gs_base,
        abilities.xcr0.unwrap_or(0),
        0,
    ];
    for (slot, word) in page[DATA..].chunks_exact_mut(8).zip(words) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    let extended = state.extended.bytes();
    page[EXTENDED..EXTENDED + extended.len()].copy_from_slice(extended);
}

const _: () = assert!(EXTENDED + ExtendedState::MAX_SIZE <= 4096);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_fits_before_the_data() {
        for fsgsbase in [false, true] {
            for xcr0 in [None, Some(7)] {
                let code = code(Abilities { fsgsbase, xcr0 });
                assert!((30..=DATA).contains(&code.len()), "{} bytes", code.len());
            }
        }
    }

    #[test]
    fn the_page_holds_the_state() {
        let mut memory = vec![0xaa; 0x5000];
        let mut state = CpuState::starting_at(0x1234, 0x5678);
        state.gs_base = 77;
        install(&mut memory, &state, Abilities { fsgsbase: true, xcr0: Some(7) });
        let page = &memory[0x3000..0x4000];
        assert_eq!(page[DATA..DATA + 8], 0x1234u64.to_le_bytes());
        assert_eq!(page[DATA + 32..DATA + 40], 77u64.to_le_bytes());
        assert_eq!(page[EXTENDED..EXTENDED + 576], *ExtendedState::initial().bytes());
        assert_eq!(memory[0x4000], 0xaa);
    }
}
