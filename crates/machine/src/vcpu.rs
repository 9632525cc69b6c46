//! What the backends with a virtual CPU have in common: how a vCPU is set up for ring-3 code under the
//! supervisor, and what its exits mean.

use std::io;

use glowbox_core::address::PAGE_SIZE;
use glowbox_core::layout::{RESUME, SUPERVISOR_STACK_GPA};
use glowbox_core::registers::{CpuState, Registers};

use crate::interrupt::RunControl;
use crate::supervisor::{self, Table, selector};
use crate::{Exit, MachineError, SegmentBases, TRAP_FLAG, USER_FLAGS};

/// Protected mode, monitor coprocessor, 387, numeric errors, write protection in ring 0, paging.
pub(crate) const CR0: u64 = 1 << 0 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;
/// Physical address extension, FXSAVE, unmasked SIMD exceptions. Every hypervisor has these.
pub(crate) const CR4_BASE: u64 = 1 << 5 | 1 << 9 | 1 << 10;
/// No `sgdt` and its like in ring 3; RDFSBASE and its like; XSAVE; no execution of and no access to user
/// pages in ring 0. Not every CPU has these.
pub(crate) const CR4_UMIP: u64 = 1 << 11;
pub(crate) const CR4_FSGSBASE: u64 = 1 << 16;
pub(crate) const CR4_OSXSAVE: u64 = 1 << 18;
pub(crate) const CR4_SMEP: u64 = 1 << 20;
pub(crate) const CR4_SMAP: u64 = 1 << 21;
/// `syscall`, long mode enabled and active, NX.
pub(crate) const EFER: u64 = 1 << 0 | 1 << 8 | 1 << 10 | 1 << 11;

/// The model-specific registers of `syscall`: where the segments are, and which flags it clears (trap,
/// interrupt, direction, IOPL, nested task, alignment).
pub(crate) const STAR: u64 =
    (selector::KERNEL_CODE as u64) << 32 | ((selector::SYSRET_BASE | selector::RING3) as u64) << 48;
pub(crate) const SFMASK: u64 = 1 << 8 | 1 << 9 | 1 << 10 | 3 << 12 | 1 << 14 | 1 << 18;

/// IOPL 3 (see the supervisor), and the bit that is always set.
const RFLAGS: u64 = 3 << 12 | 1 << 1;
/// How often what the system refuses for the moment is tried.
const MAX_TRIES: u32 = 100;

/// A segment register that every guest starts with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) base: u64,
    pub(crate) limit: u32,
    pub(crate) selector: u16,
    /// Its type, as descriptors have it.
    pub(crate) kind: u8,
    pub(crate) dpl: u8,
    /// Whether it is code or data, and no system segment.
    pub(crate) user: bool,
    /// Whether it is 64-bit code.
    pub(crate) long: bool,
}

impl Segment {
    /// Ring-3 code. The type is accessed readable code.
    pub(crate) const CODE: Segment = Segment::flat(selector::USER_CODE, 0xb, true);
    /// Ring-3 data. The type is accessed writable data.
    pub(crate) const DATA: Segment = Segment::flat(selector::USER_DATA, 3, false);
    /// The task state. The type is a busy 64-bit TSS, as it is once loaded.
    pub(crate) const TASK: Segment = Segment {
        base: supervisor::TSS.base.0,
        limit: supervisor::TSS.limit as u32,
        selector: selector::TASK,
        kind: 0xb,
        dpl: 0,
        user: false,
        long: false,
    };

    const fn flat(selector: u16, kind: u8, long: bool) -> Segment {
        let selector = selector | selector::RING3;
        Segment { base: 0, limit: u32::MAX, selector, kind, dpl: 3, user: true, long }
    }
}

/// The descriptor tables.
pub(crate) const GDT: Table = supervisor::GDT;
pub(crate) const IDT: Table = supervisor::IDT;

/// Registers with which user mode can be entered: flags that are not its own are as they have to be.
pub(crate) fn for_user_mode(registers: &Registers) -> Registers {
    Registers { rflags: registers.rflags & USER_FLAGS | RFLAGS, ..*registers }
}

/// The registers and bases with which a guest that has been put back starts in `state`.
///
/// The resume page loads RAX and RDX, and jumps to RIP. With the trap flag it would stop on its way, where
/// vector registers are the last guest's yet.
pub(crate) fn at_start(state: &CpuState) -> (Registers, SegmentBases) {
    let rflags = state.registers.rflags & !TRAP_FLAG;
    let registers = Registers { rip: RESUME.0, rax: 0, rdx: 0, rflags, ..state.registers };
    (registers, SegmentBases { fs: state.fs_base, gs: state.gs_base })
}

/// Where the memory ends that no vCPU may write: the supervisor's code and tables.
///
/// Page tables are not among it. SVM takes every walk of them for a write, and so does VMX where it keeps
/// accessed and dirty bits; they would not work.
pub(crate) fn fixed_end(size: u64) -> u64 {
    SUPERVISOR_STACK_GPA.0.min(size)
}

/// What an exit by a port other than the call port, or in another way than `out`, means. `page_fault_address`
/// is CR2, which is asked for where it counts.
pub(crate) fn left_by_port(
    port: u16,
    registers: Registers,
    page_fault_address: impl FnOnce() -> Result<u64, MachineError>,
    memory: &[u8],
) -> Result<Exit, MachineError> {
    if !supervisor::contains(registers.rip) {
        return Ok(Exit::Port { port, registers: Box::new(registers) });
    }
    Ok(match supervisor::entered(&registers, page_fault_address()?, memory) {
        supervisor::Entered::Exception(exception) => Exit::Exception(Box::new(exception)),
        supervisor::Entered::Syscall => Exit::Syscall(Box::new(registers)),
        supervisor::Entered::Impossible(reason) => Exit::Broken { reason },
    })
}

/// The registers, if the guest's time slice is over and it is among its own code. If it is not, it is on its
/// way out through the supervisor, or on its way in through the resume page, and gets there by itself.
pub(crate) fn ended_slice(
    control: &RunControl,
    registers: impl FnOnce() -> Result<Registers, MachineError>,
) -> Result<Option<Registers>, MachineError> {
    if control.stop_reason().is_some() || !control.take_tick() {
        return Ok(None);
    }
    let registers = registers()?;
    let entering = (RESUME.0..RESUME.0 + PAGE_SIZE).contains(&registers.rip);
    Ok((!entering && !supervisor::contains(registers.rip)).then_some(registers))
}

/// Makes a request again while the system refuses it for the moment, which `passing` stands for.
pub(crate) fn patiently<T, E: Into<io::Error>>(
    request: &'static str,
    passing: i32,
    mut make: impl FnMut() -> Result<T, E>,
) -> Result<T, MachineError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match make().map_err(E::into) {
            Ok(made) => return Ok(made),
            Err(error) if error.raw_os_error() == Some(passing) && tries < MAX_TRIES => {}
            Err(source) => return Err(MachineError::Request { request, source }),
        }
    }
}
