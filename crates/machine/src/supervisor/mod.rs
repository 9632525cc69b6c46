//! What every hypervisor backend puts into ring 0: a few hundred bytes of code and the descriptor
//! tables. None of it is the guest's, and no page of it is accessible from ring 3.
//!
//! The guest runs in ring 3 from its first instruction. It can leave in two ways: by `out` to
//! [`glowbox_abi::CALL_PORT`], which the I/O permission bitmap allows, or by an exception or
//! `syscall`, which enter the supervisor; that does one `out` to [`PORT`]. A backend tells the
//! two apart by port *and* by where the instruction pointer is, since ring 3 can't execute the
//! supervisor's page.
//!
//! IOPL is 3 as well: QEMU's emulated SVM ignores the bitmap of a busy TSS. Where IOPL counts, the
//! guest can leave by any port, which is a fault like any other ([`crate::Exit::Port`]): there is
//! no device behind any of them.

use glowbox_core::address::{Gva, PAGE_SIZE};
use glowbox_core::fault::Exception;
use glowbox_core::layout::{
    SUPERVISOR_CODE, SUPERVISOR_CODE_GPA, SUPERVISOR_STACK, SUPERVISOR_STACK_GPA,
    SUPERVISOR_TABLES, SUPERVISOR_TABLES_GPA,
};
use glowbox_core::registers::Registers;

pub mod resume;

/// The port by which the supervisor leaves to the host.
pub const PORT: u8 = 0x48;

/// Where `syscall` enters.
pub const SYSCALL_ENTRY: Gva = Gva(SUPERVISOR_CODE.0 + VECTORS * ENTRY_SIZE);

/// Bytes of each entry.
const ENTRY_SIZE: u64 = 8;
/// Exception vectors.
const VECTORS: u64 = 32;

/// Segment selectors, as their offsets in the GDT. The order of the user segments is what
/// `sysret` wants.
pub mod selector {
    /// Ring-0 code.
    pub const KERNEL_CODE: u16 = 0x08;
    /// Ring-0 data.
    pub const KERNEL_DATA: u16 = 0x10;
    /// What `sysret` adds 8 and 16 to.
    pub const SYSRET_BASE: u16 = 0x18;
    /// Ring-3 data.
    pub const USER_DATA: u16 = 0x20;
    /// Ring-3 code.
    pub const USER_CODE: u16 = 0x28;
    /// Task state.
    pub const TASK: u16 = 0x30;
    /// Requested privilege level of ring 3.
    pub const RING3: u16 = 3;
}

/// Offsets in the tables' page.
const IDT_OFFSET: usize = 0x100;
const TSS_OFFSET: usize = 0x400;
/// Bytes in the GDT: six descriptors and the TSS's double one.
const GDT_SIZE: u16 = 0x40;
const IDT_SIZE: u16 = 512;
/// Bytes in a TSS before the I/O permission bitmap.
const TSS_SIZE: u16 = 104;
/// Bytes of the bitmap: up to the call port's, and the all-ones byte that must end it.
const BITMAP_SIZE: u16 = glowbox_abi::CALL_PORT as u16 / 8 + 2;

/// Access rights in descriptors: present, accessed.
const KERNEL_CODE_DESCRIPTOR: u64 = 0x00af_9b00_0000_ffff;
const KERNEL_DATA_DESCRIPTOR: u64 = 0x00cf_9300_0000_ffff;
const USER_DATA_DESCRIPTOR: u64 = 0x00cf_f300_0000_ffff;
const USER_CODE_DESCRIPTOR: u64 = 0x00af_fb00_0000_ffff;
/// Type of a busy 64-bit TSS, as it is once loaded.
const TSS_BUSY: u64 = 0x8b;
/// A present 64-bit interrupt gate for ring 0.
const INTERRUPT_GATE: u64 = 0x8e;
/// The same for all rings: ring 3's own `int3` is the breakpoint that it is, and no `#GP`.
const BREAKPOINT_GATE: u64 = 0xee;
const BREAKPOINT: u64 = 3;
/// All exceptions use this entry of the interrupt stack table.
const IST: u64 = 1;

std::arch::global_asm!(
    include_str!("x86_64.s"),
    port = const PORT,
);

unsafe extern "C" {
    static glowbox_supervisor_start: u8;
    static glowbox_supervisor_end: u8;
}

/// A table register: where a descriptor table lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// Its address.
    pub base: Gva,
    /// Its size in bytes less one.
    pub limit: u16,
}

/// The global descriptor table.
pub const GDT: Table = Table { base: SUPERVISOR_TABLES, limit: GDT_SIZE - 1 };
/// The interrupt descriptor table.
pub const IDT: Table =
    Table { base: Gva(SUPERVISOR_TABLES.0 + IDT_OFFSET as u64), limit: IDT_SIZE - 1 };
/// The task state segment.
pub const TSS: Table =
    Table { base: Gva(SUPERVISOR_TABLES.0 + TSS_OFFSET as u64), limit: TSS_SIZE + BITMAP_SIZE - 1 };

/// The supervisor's code.
fn code() -> &'static [u8] {
    let (start, end) = (&raw const glowbox_supervisor_start, &raw const glowbox_supervisor_end);
    // SAFETY: the two symbols are the bounds of the constant bytes that x86_64.s assembles to.
    unsafe { std::slice::from_raw_parts(start, end.offset_from_unsigned(start)) }
}

/// Writes the supervisor into guest memory.
///
/// # Panics
///
/// If the memory is smaller than the supervisor's pages, which no layout's is.
pub fn install(memory: &mut [u8]) {
    let at = |gpa: u64| usize::try_from(gpa).expect("the supervisor lies low");
    let code_at = at(SUPERVISOR_CODE_GPA.0);
    memory[code_at..code_at + code().len()].copy_from_slice(code());
    let tables = &mut memory[at(SUPERVISOR_TABLES_GPA.0)..][..at(PAGE_SIZE)];
    write_gdt(tables);
    write_idt(&mut tables[IDT_OFFSET..]);
    write_tss(&mut tables[TSS_OFFSET..]);
}

/// Wipes the supervisor's stack, on which an exception has left registers of the guest's.
///
/// # Panics
///
/// If the memory is smaller than the supervisor's pages, which no layout's is.
pub fn wipe_stack(memory: &mut [u8]) {
    let start = usize::try_from(SUPERVISOR_STACK_GPA.0).expect("the supervisor lies low");
    let page = &mut memory[start..start + 4096];
    // A page that has not been written is an image's still, and stays so.
    if page.iter().any(|byte| *byte != 0) {
        page.fill(0);
    }
}

fn write_gdt(table: &mut [u8]) {
    let base = TSS.base.0;
    let tss_low = u64::from(TSS.limit)
        | (base & 0xff_ffff) << 16
        | TSS_BUSY << 40
        | (base >> 24 & 0xff) << 56;
    let descriptors = [
        0,
        KERNEL_CODE_DESCRIPTOR,
        KERNEL_DATA_DESCRIPTOR,
        0,
        USER_DATA_DESCRIPTOR,
        USER_CODE_DESCRIPTOR,
        tss_low,
        base >> 32,
    ];
    for (slot, descriptor) in table.chunks_exact_mut(8).zip(descriptors) {
        slot.copy_from_slice(&descriptor.to_le_bytes());
    }
}

fn write_idt(table: &mut [u8]) {
    for (slot, vector) in table.chunks_exact_mut(16).zip(0..VECTORS) {
        let entry = SUPERVISOR_CODE.0 + vector * ENTRY_SIZE;
        let gate = if vector == BREAKPOINT { BREAKPOINT_GATE } else { INTERRUPT_GATE };
        let low = entry & 0xffff
            | u64::from(selector::KERNEL_CODE) << 16
            | IST << 32
            | gate << 40
            | (entry >> 16 & 0xffff) << 48;
        slot[..8].copy_from_slice(&low.to_le_bytes());
        slot[8..].copy_from_slice(&(entry >> 32).to_le_bytes());
    }
}

fn write_tss(tss: &mut [u8]) {
    let stack = (SUPERVISOR_STACK.0 + PAGE_SIZE).to_le_bytes();
    // RSP0 and IST1: both the supervisor's stack, so that no entry can use the guest's.
    tss[4..12].copy_from_slice(&stack);
    tss[36..44].copy_from_slice(&stack);
    tss[102..104].copy_from_slice(&TSS_SIZE.to_le_bytes());
    let bitmap = &mut tss[usize::from(TSS_SIZE)..usize::from(TSS_SIZE + BITMAP_SIZE)];
    bitmap.fill(0xff);
    bitmap[usize::from(glowbox_abi::CALL_PORT / 8)] &= !(1 << (glowbox_abi::CALL_PORT % 8));
}

/// How the supervisor was entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entered {
    /// By an exception in ring 3.
    Exception(Exception),
    /// By `syscall`.
    Syscall,
    /// By nothing that ring 3 can do.
    Impossible(String),
}

/// Whether an instruction pointer lies in the supervisor's code.
pub fn contains(rip: u64) -> bool {
    rip.checked_sub(SUPERVISOR_CODE.0).is_some_and(|into| into < code().len() as u64)
}

/// Reads how the supervisor was entered, from the registers at its `out` and from guest memory.
pub fn entered(registers: &Registers, page_fault_address: u64, memory: &[u8]) -> Entered {
    let entry = (registers.rip - SUPERVISOR_CODE.0) / ENTRY_SIZE;
    let Ok(vector) = u8::try_from(entry) else {
        return Entered::Impossible(format!("entry {entry}"));
    };
    if entry >= VECTORS {
        return Entered::Syscall;
    }
    let words = if has_error_code(vector) { 6 } else { 5 };
    let Some(frame) = frame(registers.rsp, words, memory) else {
        return Entered::Impossible(format!("vector {vector} with RSP {:#x}", registers.rsp));
    };
    let (error_code, frame) = if words == 6 { (frame[0], &frame[1..]) } else { (0, &frame[..]) };
    let [rip, code_segment, rflags, rsp, _] = *frame else {
        return Entered::Impossible("a frame of another size".into());
    };
    if code_segment & 3 != u64::from(selector::RING3) {
        let text = format!("vector {vector}, error code {error_code:#x} in ring 0 at {rip:#x}");
        return Entered::Impossible(text);
    }
    let address = (vector == 14).then_some(page_fault_address);
    let registers = Registers { rip, rflags, rsp, ..*registers };
    Entered::Exception(Exception { vector, error_code, address, registers })
}

/// The `words` 64-bit words on the supervisor's stack from `rsp` on.
fn frame(rsp: u64, words: u64, memory: &[u8]) -> Option<Vec<u64>> {
    let into = rsp.checked_sub(SUPERVISOR_STACK.0)?;
    if into.checked_add(words * 8)? > PAGE_SIZE {
        return None;
    }
    let start = usize::try_from(SUPERVISOR_STACK_GPA.0 + into).ok()?;
    let bytes = memory.get(start..start + usize::try_from(words * 8).ok()?)?;
    let (words, _) = bytes.as_chunks();
    Some(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
}

fn has_error_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vector_has_an_entry_of_eight_bytes_that_leaves_by_the_port() {
        let code = code();
        assert_eq!(code.len() as u64, (VECTORS + 1) * ENTRY_SIZE);
        for entry in code.chunks(8) {
            assert_eq!(entry, [0xe6, PORT, 0xeb, 0xfe, 0xcc, 0xcc, 0xcc, 0xcc]);
        }
    }

    #[test]
    fn of_all_gates_only_the_breakpoints_is_for_ring_3() {
        let mut memory = vec![0; 0x3000];
        install(&mut memory);
        let idt = &memory[0x1000 + IDT_OFFSET..][..usize::from(IDT_SIZE)];
        let open: Vec<usize> = (0..32).filter(|vector| idt[16 * vector + 5] & 0x60 != 0).collect();
        assert_eq!(open, [3]);
    }

    #[test]
    fn only_the_call_port_is_allowed() {
        let mut memory = vec![0; 0x3000];
        install(&mut memory);
        let tss = &memory[0x1000 + TSS_OFFSET..];
        let allowed: Vec<usize> = (0..usize::from(BITMAP_SIZE) * 8)
            .filter(|port| tss[usize::from(TSS_SIZE) + port / 8] >> (port % 8) & 1 == 0)
            .collect();
        assert_eq!(allowed, [usize::from(glowbox_abi::CALL_PORT)]);
    }

    #[test]
    fn a_frame_outside_the_supervisors_stack_is_impossible() {
        let memory = vec![0; 0x4000];
        for rsp in [0, SUPERVISOR_STACK.0 - 8, SUPERVISOR_STACK.0 + 4090, u64::MAX - 8] {
            let registers = Registers { rip: SUPERVISOR_CODE.0, rsp, ..Registers::default() };
            assert!(matches!(entered(&registers, 0, &memory), Entered::Impossible(_)));
        }
    }
}
