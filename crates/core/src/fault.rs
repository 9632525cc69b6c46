//! What a guest did wrong, from vector, error code and address.
//!
//! The supervisor reports exceptions as the CPU raises them. [`Fault::classify`] turns one into a
//! [`FaultKind`], with the help of the layout (what lies at the address?) and of the instruction
//! (was it `hlt` or `out`?). The instruction bytes are the guest's and may be anything; they decide
//! only how the fault is called, never what happens next.

use std::fmt;

use crate::layout::{Layout, RegionKind};
use crate::registers::Registers;
use crate::symbols::Symbol;

/// Exception vectors.
mod vector {
    pub(super) const DIVIDE: u8 = 0;
    pub(super) const DEBUG: u8 = 1;
    pub(super) const BREAKPOINT: u8 = 3;
    pub(super) const INVALID_OPCODE: u8 = 6;
    pub(super) const DOUBLE: u8 = 8;
    pub(super) const STACK_SEGMENT: u8 = 12;
    pub(super) const PROTECTION: u8 = 13;
    pub(super) const PAGE: u8 = 14;
    pub(super) const X87: u8 = 16;
    pub(super) const ALIGNMENT: u8 = 17;
    pub(super) const SIMD: u8 = 19;
}

/// Page-fault error code: the page is mapped.
const PF_PRESENT: u64 = 1 << 0;
/// Page-fault error code: it was a write.
const PF_WRITE: u64 = 1 << 1;
/// Page-fault error code: it was an instruction fetch.
const PF_FETCH: u64 = 1 << 4;
/// Error code of #GP: it concerns an entry of the IDT.
const GP_IDT: u64 = 1 << 1;
/// Length of the `syscall` instruction.
const SYSCALL_LENGTH: u64 = 2;

/// How memory was used when a fault occurred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// It was read.
    Read,
    /// It was written.
    Write,
    /// It was jumped to.
    Execute,
}

/// What the guest did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// It used an address in the first 64 KiB.
    NullDereference(Access),
    /// It ran into the unmapped pages below its stack.
    StackOverflow,
    /// It wrote to its constants, its code, relocated read-only data, or the incoming buffer.
    WriteToReadOnly,
    /// It jumped to memory that is not code: heap, stack or data.
    ExecuteData(RegionKind),
    /// It used memory of the supervisor.
    Supervisor(Access),
    /// It used the page tables' memory.
    PageTables(Access),
    /// It used an address at which nothing is.
    Unmapped(Access),
    /// It divided by zero, or a quotient did not fit.
    DivideError,
    /// It executed what is no instruction, or `ud2` (which compilers emit where code can't go on).
    InvalidOpcode,
    /// It executed an instruction that ring 3 may not.
    PrivilegedInstruction,
    /// It executed `hlt`.
    Halt,
    /// It read or wrote an I/O port that it may not.
    ForbiddenPort,
    /// It executed `int n`, or an instruction that works like one.
    SoftwareInterrupt(u8),
    /// It executed `syscall`.
    Syscall,
    /// A debug exception: single-stepping or a hardware breakpoint.
    Debug,
    /// It used a non-canonical address, or broke another rule of the architecture.
    GeneralProtection,
    /// A misaligned access with alignment checks on.
    Misaligned,
    /// An unmasked floating-point exception.
    FloatingPoint,
    /// Any other exception.
    Other,
}

/// An exception as the supervisor reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exception {
    /// The vector.
    pub vector: u8,
    /// The error code; 0 for vectors without one.
    pub error_code: u64,
    /// The address, for a page fault.
    pub address: Option<u64>,
    /// The guest's registers at the faulting instruction.
    pub registers: Registers,
}

/// A fault, with all that is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// What the guest did.
    pub kind: FaultKind,
    /// The exception vector; `None` where the guest left without an exception (by `syscall`, or
    /// by a port that the hardware did not guard).
    pub vector: Option<u8>,
    /// The error code; 0 for vectors without one.
    pub error_code: u64,
    /// The address that was used, for page faults.
    pub address: Option<u64>,
    /// Address of the faulting instruction.
    pub rip: u64,
    /// The function it lies in, where the guest's file has symbols.
    pub symbol: Option<Symbol>,
    /// All registers at that instruction.
    pub registers: Registers,
}

impl Fault {
    /// Puts together what is known. `by` is the exception, unless the guest left without one.
    pub fn new(
        kind: FaultKind,
        registers: Registers,
        by: Option<&Exception>,
        symbol: Option<Symbol>,
    ) -> Fault {
        Fault {
            kind,
            vector: by.map(|exception| exception.vector),
            error_code: by.map_or(0, |exception| exception.error_code),
            address: by.and_then(|exception| exception.address),
            rip: registers.rip,
            symbol,
            registers,
        }
    }

    /// Says what the guest did, and at which instruction. `code` is what stands around the saved
    /// instruction pointer; `syscall_entry` is the address that `syscall` jumps to.
    pub fn classify(
        exception: &Exception,
        layout: &Layout,
        code: Code<'_>,
        syscall_entry: u64,
    ) -> (FaultKind, u64) {
        let rip = exception.registers.rip;
        let kind = match exception.vector {
            vector::DIVIDE => FaultKind::DivideError,
            vector::DEBUG | vector::BREAKPOINT => return trap(exception, code),
            vector::INVALID_OPCODE => match Instruction::decode(code.at) {
                Instruction::Privileged => FaultKind::PrivilegedInstruction,
                Instruction::Syscall => FaultKind::Syscall,
                // Some hypervisors refuse `int n` this way.
                Instruction::Interrupt(vector) => FaultKind::SoftwareInterrupt(vector),
                _ => FaultKind::InvalidOpcode,
            },
            vector::PROTECTION if exception.error_code & GP_IDT != 0 => {
                return trap(exception, code);
            }
            vector::PROTECTION => match Instruction::decode(code.at) {
                Instruction::Halt => FaultKind::Halt,
                Instruction::Port => FaultKind::ForbiddenPort,
                Instruction::Interrupt(vector) => FaultKind::SoftwareInterrupt(vector),
                Instruction::Privileged => FaultKind::PrivilegedInstruction,
                Instruction::Syscall | Instruction::Other => FaultKind::GeneralProtection,
            },
            vector::STACK_SEGMENT | vector::DOUBLE => FaultKind::GeneralProtection,
            vector::PAGE => page_fault(exception, layout, syscall_entry),
            vector::ALIGNMENT => FaultKind::Misaligned,
            vector::X87 | vector::SIMD => FaultKind::FloatingPoint,
            _ => FaultKind::Other,
        };
        match kind {
            FaultKind::Syscall if rip == syscall_entry => {
                (kind, syscall_instruction(&exception.registers))
            }
            _ => (kind, rip),
        }
    }
}

/// Where the `syscall` is that left these registers: right before the address to return to, which
/// it puts into RCX.
pub fn syscall_instruction(registers: &Registers) -> u64 {
    registers.rcx.wrapping_sub(SYSCALL_LENGTH)
}

/// The bytes around an instruction pointer, as far as they can be read. They are the guest's.
#[derive(Debug, Clone, Copy, Default)]
pub struct Code<'a> {
    /// The two bytes before it.
    pub before: &'a [u8],
    /// What stands at it: an instruction's length at most.
    pub at: &'a [u8],
}

/// An instruction that works like an interrupt, and where it is: some machines save the address
/// behind it.
fn trap(exception: &Exception, code: Code<'_>) -> (FaultKind, u64) {
    let rip = exception.registers.rip;
    let behind = |length: u64| rip.wrapping_sub(length);
    match (Instruction::decode(code.at), code.before) {
        (Instruction::Interrupt(vector), _) if exception.vector == vector::PROTECTION => {
            (FaultKind::SoftwareInterrupt(vector), rip)
        }
        (Instruction::Interrupt(1), _) if exception.vector == vector::DEBUG => {
            (FaultKind::SoftwareInterrupt(1), rip)
        }
        (_, [.., 0xcd, vector]) => (FaultKind::SoftwareInterrupt(*vector), behind(2)),
        (_, [.., 0xcc]) => (FaultKind::SoftwareInterrupt(3), behind(1)),
        (_, [.., 0xf1]) => (FaultKind::SoftwareInterrupt(1), behind(1)),
        _ => match exception.vector {
            vector::DEBUG => (FaultKind::Debug, rip),
            vector::BREAKPOINT => (FaultKind::SoftwareInterrupt(3), rip),
            // The code can't be read: the vector stands in the error code too.
            _ => {
                let vector = exception.error_code >> 3 & 0xff;
                let vector = vector.try_into().unwrap_or(u8::MAX);
                (FaultKind::SoftwareInterrupt(vector), rip)
            }
        },
    }
}

fn page_fault(exception: &Exception, layout: &Layout, syscall_entry: u64) -> FaultKind {
    let code = exception.error_code;
    let address = exception.address.unwrap_or_default();
    let access = if code & PF_FETCH != 0 {
        Access::Execute
    } else if code & PF_WRITE != 0 {
        Access::Write
    } else {
        Access::Read
    };
    // Where `syscall` does not enter ring 0, it arrives as a jump to its entry, which leaves the
    // return address in RCX. A jump there by hand looks the same; it is as forbidden.
    if access == Access::Execute && address == syscall_entry && exception.registers.rip == address {
        let from = syscall_instruction(&exception.registers);
        if layout.region_at(from).is_some_and(|region| region.kind == RegionKind::Code) {
            return FaultKind::Syscall;
        }
    }
    let Some(region) = layout.region_at(address) else { return FaultKind::Unmapped(access) };
    match region.kind {
        RegionKind::Null => FaultKind::NullDereference(access),
        RegionKind::StackGuard => FaultKind::StackOverflow,
        RegionKind::Supervisor => FaultKind::Supervisor(access),
        RegionKind::PageTables => FaultKind::PageTables(access),
        kind if code & PF_PRESENT != 0 => match access {
            Access::Execute => FaultKind::ExecuteData(kind),
            Access::Write => FaultKind::WriteToReadOnly,
            Access::Read => FaultKind::Other,
        },
        _ => FaultKind::Unmapped(access),
    }
}

/// What an instruction is, as far as it matters for a fault's name.
#[derive(Debug, PartialEq, Eq)]
enum Instruction {
    Halt,
    Port,
    Interrupt(u8),
    Privileged,
    Syscall,
    Other,
}

impl Instruction {
    fn decode(code: &[u8]) -> Instruction {
        const PREFIXES: [u8; 11] =
            [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3];
        let prefixes = code.iter().take(14).take_while(|byte| PREFIXES.contains(byte)).count();
        let mut rest = &code[prefixes..];
        if let Some((0x40..=0x4f, after)) = rest.split_first() {
            rest = after;
        }
        match *rest {
            [0xf4, ..] => Instruction::Halt,
            [0x6c..=0x6f | 0xe4..=0xe7 | 0xec..=0xef, ..] => Instruction::Port,
            [0xcd, vector, ..] => Instruction::Interrupt(vector),
            [0xcc, ..] => Instruction::Interrupt(3),
            [0xf1, ..] => Instruction::Interrupt(1),
            // cli, sti
            [0xfa | 0xfb, ..] => Instruction::Privileged,
            [0x0f, 0x05, ..] => Instruction::Syscall,
            // xgetbv, xend, xtest, enclu, rdpkru, wrpkru, monitorx, mwaitx, clzero, rdpru
            [0x0f, 0x01, 0xd0 | 0xd5..=0xd7 | 0xee | 0xef | 0xfa..=0xfd, ..] => Instruction::Other,
            // lgdt, lmsw, invlpg, swapgs and their like; lldt, ltr; clts, sysret, invd, wbinvd;
            // moves to and from control and debug registers; wrmsr, rdmsr, rdpmc; sysexit.
            [
                0x0f,
                0x00 | 0x01 | 0x06..=0x09 | 0x20..=0x23 | 0x30 | 0x32 | 0x33 | 0x34 | 0x35,
                ..,
            ] => Instruction::Privileged,
            // invpcid, invept, invvpid
            [0x0f, 0x38, 0x80..=0x82, ..] => Instruction::Privileged,
            // xsaves, xrstors
            [0x0f, 0xc7, modrm, ..] if matches!(modrm >> 3 & 7, 3 | 5) => Instruction::Privileged,
            _ => Instruction::Other,
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Access::Read => "read",
            Access::Write => "write",
            Access::Execute => "jump",
        })
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |kind: &RegionKind| match kind {
            RegionKind::Heap => "the heap",
            RegionKind::Stack => "the stack",
            RegionKind::Data | RegionKind::ReadOnlyData => "data",
            _ => "the mailbox",
        };
        match self {
            FaultKind::NullDereference(access) => write!(f, "null pointer dereference ({access})"),
            FaultKind::StackOverflow => f.write_str("stack overflow"),
            FaultKind::WriteToReadOnly => f.write_str("write to read-only memory"),
            FaultKind::ExecuteData(kind) => {
                write!(f, "jump to {}, which is not executable", place(kind))
            }
            FaultKind::Supervisor(access) => {
                write!(f, "forbidden access to the supervisor ({access})")
            }
            FaultKind::PageTables(access) => {
                write!(f, "forbidden access to the page tables ({access})")
            }
            FaultKind::Unmapped(access) => write!(f, "access to unmapped memory ({access})"),
            FaultKind::DivideError => f.write_str("division by zero or overflow"),
            FaultKind::InvalidOpcode => f.write_str("invalid instruction"),
            FaultKind::PrivilegedInstruction => f.write_str("privileged instruction"),
            FaultKind::Halt => f.write_str("`hlt` instruction"),
            FaultKind::ForbiddenPort => f.write_str("access to a forbidden I/O port"),
            FaultKind::SoftwareInterrupt(vector) => write!(f, "software interrupt {vector:#x}"),
            FaultKind::Syscall => f.write_str("`syscall` instruction"),
            FaultKind::Debug => f.write_str("debug exception"),
            FaultKind::GeneralProtection => f.write_str("general protection fault"),
            FaultKind::Misaligned => f.write_str("misaligned access"),
            FaultKind::FloatingPoint => f.write_str("floating-point exception"),
            FaultKind::Other => f.write_str("processor exception"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at rip {:#x}", self.kind, self.rip)?;
        if let Some(symbol) = &self.symbol {
            write!(f, " ({symbol})")?;
        }
        if let Some(address) = self.address {
            write!(f, ", address {address:#x}")?;
        }
        match self.vector {
            Some(vector) => write!(f, ", vector {vector}, error code {:#x}", self.error_code),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::tests::{SMALL, program};
    use crate::layout::Limits;

    fn layout() -> Layout {
        let limits = Limits { heap: 1 << 20, stack: 1 << 20, incoming: 1 << 20, outgoing: 1 << 20 };
        Layout::new(&program(&SMALL), limits, 1).unwrap()
    }

    const ENTRY: u64 = 0x7f_c000_0100;

    fn kind(vector: u8, error_code: u64, code: &[u8]) -> FaultKind {
        let exception =
            Exception { vector, error_code, address: None, registers: Registers::default() };
        Fault::classify(&exception, &layout(), Code { before: &[], at: code }, ENTRY).0
    }

    fn page(address: u64, error_code: u64, rip: u64, rcx: u64) -> FaultKind {
        let registers = Registers { rip, rcx, ..Registers::default() };
        let exception = Exception { vector: 14, error_code, address: Some(address), registers };
        Fault::classify(&exception, &layout(), Code::default(), ENTRY).0
    }

    #[test]
    fn general_protection_is_told_apart_by_the_instruction() {
        assert_eq!(kind(13, 0, &[0xf4]), FaultKind::Halt);
        assert_eq!(kind(13, 0, &[0xe6, 0x80]), FaultKind::ForbiddenPort);
        assert_eq!(kind(13, 0, &[0x66, 0xef]), FaultKind::ForbiddenPort);
        assert_eq!(kind(13, 0, &[0xf3, 0x48, 0x6e]), FaultKind::ForbiddenPort);
        assert_eq!(kind(13, 0, &[0xcd, 0x80]), FaultKind::SoftwareInterrupt(0x80));
        assert_eq!(kind(13, 0x80 * 8 + 2, &[0x90]), FaultKind::SoftwareInterrupt(0x80));
        assert_eq!(kind(13, 0, &[0x0f, 0x22, 0xd8]), FaultKind::PrivilegedInstruction);
        assert_eq!(kind(13, 0, &[0x0f, 0x01, 0xf8]), FaultKind::PrivilegedInstruction);
        assert_eq!(kind(13, 0, &[0x0f, 0x01, 0xd0]), FaultKind::GeneralProtection);
        assert_eq!(kind(6, 0, &[0x0f, 0x01, 0xee]), FaultKind::InvalidOpcode);
        assert_eq!(kind(13, 0, &[0x8b, 0x00]), FaultKind::GeneralProtection);
        assert_eq!(kind(13, 0, &[]), FaultKind::GeneralProtection);
        assert_eq!(kind(13, 0, &[0x66; 15]), FaultKind::GeneralProtection);
    }

    #[test]
    fn a_trap_is_reported_at_its_instruction() {
        let trapped = |vector, error_code, before: &[u8], at: &[u8]| {
            let registers = Registers { rip: 0x1002, ..Registers::default() };
            let exception = Exception { vector, error_code, address: None, registers };
            Fault::classify(&exception, &layout(), Code { before, at }, ENTRY)
        };
        let interrupt = FaultKind::SoftwareInterrupt;
        assert_eq!(trapped(3, 0, &[0x90, 0xcc], &[0xcc]), (interrupt(3), 0x1001));
        assert_eq!(trapped(3, 0, &[0xcd, 3], &[0x90]), (interrupt(3), 0x1000));
        assert_eq!(trapped(1, 0, &[0x90, 0x90], &[0xf1]), (interrupt(1), 0x1002));
        assert_eq!(trapped(1, 0, &[0x90, 0xf1], &[0x90]), (interrupt(1), 0x1001));
        assert_eq!(trapped(1, 0, &[0x90, 0x90], &[0x90]), (FaultKind::Debug, 0x1002));
        assert_eq!(trapped(13, 0x402, &[0x90, 0x90], &[0xcd, 0x80]), (interrupt(0x80), 0x1002));
        assert_eq!(trapped(13, 0x402, &[0xcd, 0x80], &[0x90]), (interrupt(0x80), 0x1000));
        assert_eq!(trapped(13, 0x402, &[], &[]), (interrupt(0x80), 0x1002));
    }

    #[test]
    fn page_faults_are_told_apart_by_the_region() {
        let layout = layout();
        let at = |kind| layout.region(kind).start.0;
        assert_eq!(page(0x10, 4, 0, 0), FaultKind::NullDereference(Access::Read));
        assert_eq!(page(0, 0x14, 0, 0), FaultKind::NullDereference(Access::Execute));
        assert_eq!(page(at(RegionKind::StackGuard) + 9, 6, 0, 0), FaultKind::StackOverflow);
        assert_eq!(page(at(RegionKind::Code), 7, 0, 0), FaultKind::WriteToReadOnly);
        assert_eq!(
            page(at(RegionKind::Heap), 0x15, 0, 0),
            FaultKind::ExecuteData(RegionKind::Heap)
        );
        assert_eq!(page(at(RegionKind::PageTables), 5, 0, 0), FaultKind::PageTables(Access::Read));
        assert_eq!(
            page(at(RegionKind::Supervisor), 0x15, 0, 0),
            FaultKind::Supervisor(Access::Execute)
        );
        assert_eq!(page(u64::MAX, 4, 0, 0), FaultKind::Unmapped(Access::Read));
    }

    #[test]
    fn a_syscall_is_known_by_its_entry_and_return_address() {
        let code = layout().region(RegionKind::Code).start.0;
        assert_eq!(page(ENTRY, 0x15, ENTRY, code + 10), FaultKind::Syscall);
        assert_eq!(page(ENTRY, 0x15, ENTRY, 0), FaultKind::Supervisor(Access::Execute));
        assert_eq!(page(ENTRY, 5, ENTRY, code + 10), FaultKind::Supervisor(Access::Read));
    }
}
