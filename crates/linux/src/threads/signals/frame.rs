//! Signal frames: what a thread was doing, on its stack, in the layout of x86-64 Linux.
//!
//! ```text
//! return address     8     the restorer, which calls rt_sigreturn
//! ucontext         304     flags, link, alternate stack, registers, mask
//! siginfo          128
//! (padding)                so that what follows is aligned to 64 bytes
//! XSAVE area               with a magic number among the bytes for software
//! magic number       4     behind it
//! ```
//!
//! All of it lies in the guest's memory, and may be anything when it comes back. What is read is
//! taken for a claim: flags that are not the user's, reserved bits of the extended state and
//! addresses that no user has do not come through.

use glowbox_core::registers::{ExtendedState, Registers};

use super::super::saved::extended_from;
use super::{AltStack, Info, Trap};
use crate::space::ADDRESSES_END;

/// Bytes below the stack pointer that functions may use.
const RED_ZONE: u64 = 128;
/// Bytes of the frame without extended state.
pub(super) const SIZE: usize = 440;
const UCONTEXT: usize = 8;
const STACK: usize = UCONTEXT + 16;
const CONTEXT: usize = UCONTEXT + 40;
const MASK: usize = CONTEXT + 256;
const INFO: usize = MASK + 8;

/// Words of `sigcontext` behind RIP.
const FLAGS: usize = CONTEXT + 136;
const SELECTORS: usize = CONTEXT + 144;
const ERROR_CODE: usize = CONTEXT + 152;
const VECTOR: usize = CONTEXT + 160;
const OLD_MASK: usize = CONTEXT + 168;
const FAULT_ADDRESS: usize = CONTEXT + 176;
const EXTENDED: usize = CONTEXT + 184;

/// There is an XSAVE area, and selectors are saved and restored.
const UCONTEXT_FLAGS: u64 = 0b111;
/// CS, GS, FS and SS as 64-bit Linux programs have them.
const SELECTOR_VALUES: u64 = 0x33 | 0x2b << 48;

/// Where an XSAVE area in a frame keeps what software wants to know of it.
const SOFTWARE: usize = 464;
const MAGIC: u32 = 0x4650_5853;
const MAGIC_BEHIND: u32 = 0x4650_5845;
const LEGACY_SIZE: usize = 512;

/// Flags that user code can change. Trap too, which it could set anyway.
const USER_FLAGS: u64 =
    1 << 0 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 11 | 1 << 18 | 1 << 21;
/// Flags that programs find set on Linux: the one that is always one, and interrupts.
const FLAGS_SET: u64 = 1 << 1 | 1 << 9;

const SS_ONSTACK: u32 = 1;
const SS_DISABLE: u32 = 2;
const SS_AUTODISARM: u32 = 1 << 31;

/// What goes into a frame.
pub(super) struct Contents<'a> {
    pub(super) registers: &'a Registers,
    pub(super) extended: &'a ExtendedState,
    pub(super) info: Info,
    pub(super) restorer: u64,
    /// What the thread blocked.
    pub(super) mask: u64,
    pub(super) alt_stack: AltStack,
    pub(super) trap: Trap,
}

/// A frame, and where it lies.
pub(super) struct Frame {
    pub(super) address: u64,
    pub(super) bytes: Vec<u8>,
}

impl Frame {
    /// Where the handler finds the `siginfo_t`.
    pub(super) fn info(&self) -> u64 {
        self.address.wrapping_add(INFO as u64)
    }

    /// Where the handler finds the `ucontext_t`.
    pub(super) fn context(&self) -> u64 {
        self.address.wrapping_add(UCONTEXT as u64)
    }
}

/// Lays a frame out on a stack; on the alternate one if `switch` says so. `None` if there is no room.
pub(super) fn build(contents: &Contents<'_>, switch: bool) -> Option<Frame> {
    let Contents { registers, alt_stack, .. } = contents;
    let mut top = registers.rsp.wrapping_sub(RED_ZONE);
    let enter = switch && alt_stack.size != 0 && !alt_stack.is_used(registers.rsp);
    if enter {
        top = alt_stack.start.checked_add(alt_stack.size)?;
    }
    let area = area(contents.extended);
    let extended = top.checked_sub(area.len() as u64)? & !63;
    // A function finds the stack pointer 8 short of a multiple of 16.
    let address = (extended.checked_sub(SIZE as u64)? & !15).checked_sub(8)?;
    let on_alt_stack = enter || alt_stack.is_used(registers.rsp);
    if on_alt_stack && !alt_stack.contains(address) {
        return None;
    }
    let length = usize::try_from(extended - address).ok()? + area.len();
    let mut bytes = vec![0; length];
    head(contents, extended, &mut bytes);
    bytes[length - area.len()..].copy_from_slice(&area);
    Some(Frame { address, bytes })
}

/// The XSAVE area as a frame holds it.
fn area(extended: &ExtendedState) -> Vec<u8> {
    let mut area = extended.bytes().to_vec();
    let size = u32::try_from(area.len()).unwrap_or(u32::MAX);
    let components = super::super::saved::components(area.len());
    put32(&mut area, SOFTWARE, MAGIC);
    put32(&mut area, SOFTWARE + 4, size + 4);
    put64(&mut area, SOFTWARE + 8, components);
    put32(&mut area, SOFTWARE + 16, size);
    area.extend_from_slice(&MAGIC_BEHIND.to_le_bytes());
    area
}

fn head(contents: &Contents<'_>, extended: u64, bytes: &mut [u8]) {
    let Contents { registers: r, info, restorer, mask, alt_stack, trap, .. } = contents;
    put64(bytes, 0, *restorer);
    put64(bytes, UCONTEXT, UCONTEXT_FLAGS);
    put64(bytes, STACK, alt_stack.start);
    put32(bytes, STACK + 8, alt_stack.flags(r.rsp));
    put64(bytes, STACK + 16, alt_stack.size);
    let words = [
        r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi, r.rsi, r.rbp, r.rbx, r.rdx,
        r.rax, r.rcx, r.rsp, r.rip,
    ];
    for (index, word) in words.into_iter().enumerate() {
        put64(bytes, CONTEXT + 8 * index, word);
    }
    put64(bytes, FLAGS, r.rflags & USER_FLAGS | FLAGS_SET);
    put64(bytes, SELECTORS, SELECTOR_VALUES);
    put64(bytes, ERROR_CODE, trap.error_code);
    put64(bytes, VECTOR, trap.vector);
    put64(bytes, OLD_MASK, *mask);
    put64(bytes, FAULT_ADDRESS, trap.address);
    put64(bytes, EXTENDED, extended);
    put64(bytes, MASK, *mask);
    bytes[INFO..SIZE].copy_from_slice(&info.to_bytes());
}

impl AltStack {
    /// Its `ss_flags`, for a thread with this stack pointer.
    pub(super) fn flags(&self, stack: u64) -> u32 {
        let state = match self.size {
            0 => SS_DISABLE,
            _ if self.is_used(stack) => SS_ONSTACK,
            _ => 0,
        };
        state | if self.once { SS_AUTODISARM } else { 0 }
    }

    /// An alternate stack as a program describes it; `None` for flags that there are none of.
    pub(super) fn described(start: u64, flags: u32, size: u64) -> Option<AltStack> {
        let once = flags & SS_AUTODISARM != 0;
        match flags & !SS_AUTODISARM {
            SS_DISABLE => Some(AltStack { start: 0, size: 0, once }),
            0 | SS_ONSTACK => Some(AltStack { start, size, once }),
            _ => None,
        }
    }
}

/// What a frame that came back asks for.
pub(super) struct Restored {
    pub(super) registers: Registers,
    pub(super) mask: u64,
    pub(super) alt_stack: Option<AltStack>,
    /// Where it says that the XSAVE area is; 0 for the initial state.
    pub(super) extended: u64,
}

/// Takes a frame apart. Flags that are not the user's are as they are `now`. `None` if no thread can
/// go on where it says.
pub(super) fn parse(bytes: &[u8; SIZE], now: u64) -> Option<Restored> {
    let word = |at: usize| bytes[at..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
    let register = |index: usize| word(CONTEXT + 8 * index);
    let registers = Registers {
        r8: register(0),
        r9: register(1),
        r10: register(2),
        r11: register(3),
        r12: register(4),
        r13: register(5),
        r14: register(6),
        r15: register(7),
        rdi: register(8),
        rsi: register(9),
        rbp: register(10),
        rbx: register(11),
        rdx: register(12),
        rax: register(13),
        rcx: register(14),
        rsp: register(15),
        rip: register(16),
        rflags: word(FLAGS) & USER_FLAGS | now & !USER_FLAGS,
    };
    let flags = bytes[STACK + 8..].first_chunk().map_or(0, |word| u32::from_le_bytes(*word));
    Some(Restored {
        registers,
        mask: word(MASK),
        alt_stack: AltStack::described(word(STACK), flags, word(STACK + 16)),
        extended: word(EXTENDED),
    })
    .filter(|restored| restored.registers.rip < ADDRESSES_END)
}

/// How many bytes the XSAVE area of a frame claims to have, from its first part; `None` if only that
/// part counts. `now` is what the CPU's has.
pub(super) fn claimed_size(legacy: &[u8; LEGACY_SIZE], now: usize) -> Option<usize> {
    let word = |at: usize| legacy[at..].first_chunk().map_or(0, |word| u32::from_le_bytes(*word));
    let size = usize::try_from(word(SOFTWARE + 16)).ok()?;
    let extended_size = usize::try_from(word(SOFTWARE + 4)).ok()?;
    let plausible = (ExtendedState::MIN_SIZE..=now).contains(&size) && extended_size == size + 4;
    (word(SOFTWARE) == MAGIC && plausible).then_some(size)
}

/// Extended state out of a frame: `area` holds what was claimed and four bytes behind it. `None` if
/// the second magic number is missing.
pub(super) fn extended(area: &[u8], now: usize) -> Option<ExtendedState> {
    let (area, magic) = area.split_last_chunk::<4>()?;
    if u32::from_le_bytes(*magic) != MAGIC_BEHIND {
        return None;
    }
    let mut whole = area.to_vec();
    whole.resize(now, 0);
    if area.len() < now {
        // What was not given is in its initial state.
        let present = super::super::saved::components(area.len());
        whole[LEGACY_SIZE] &= u8::try_from(present).unwrap_or_default();
    }
    extended_from(&whole)
}

/// Extended state from an FXSAVE area alone.
pub(super) fn extended_legacy(legacy: &[u8; LEGACY_SIZE], now: usize) -> Option<ExtendedState> {
    let mut whole = legacy.to_vec();
    whole.resize(now, 0);
    // x87 and SSE.
    whole[LEGACY_SIZE] = 0b011;
    extended_from(&whole)
}

/// The initial state, in an area of the size that the CPU's has.
pub(super) fn extended_initial(now: usize) -> Option<ExtendedState> {
    let mut whole = ExtendedState::initial().bytes().to_vec();
    whole.resize(now, 0);
    extended_from(&whole)
}

fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}
