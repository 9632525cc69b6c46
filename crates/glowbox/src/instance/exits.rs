//! Exits other than by the mailbox, and what they are called.

use glowbox_core::fault::{Exception, Fault, FaultKind};
use glowbox_core::layout::RegionKind;
use glowbox_core::registers::Registers;
use glowbox_core::symbols;
use glowbox_machine::interrupt::StopReason;
use glowbox_machine::{Exit, supervisor};

use super::Instance;
use crate::{Error, ErrorKind};

/// Longest x86 instruction in bytes.
const MAX_INSTRUCTION: u64 = 15;

impl Instance {
    /// The error for an exit other than by the mailbox.
    pub(super) fn ended_by(&self, exit: Exit) -> Error {
        match exit {
            Exit::Interrupted => match self.machine.control().stop_reason() {
                Some(StopReason::Deadline) => Error::deadline(None),
                _ => Error::new(
                    ErrorKind::Interrupted,
                    "the call was interrupted by an InterruptHandle",
                ),
            },
            Exit::Exception(exception) => self.exception(&exception),
            Exit::Syscall(registers) => {
                // The instruction is the one before the address to return to.
                let rip = registers.rcx.wrapping_sub(2);
                self.fault(FaultKind::Syscall, Registers { rip, ..*registers }, None)
            }
            Exit::Port { registers, .. } => self.fault(FaultKind::ForbiddenPort, *registers, None),
            Exit::Broken { reason } => {
                let text = format!("the virtual machine can't go on: {reason}");
                Error::new(ErrorKind::Hypervisor, text)
            }
            _ => Error::new(ErrorKind::Hypervisor, "the guest left in an unknown way"),
        }
    }

    fn exception(&self, exception: &Exception) -> Error {
        let entry = supervisor::SYSCALL_ENTRY.0;
        let code = self.code_at(exception.registers.rip);
        let kind = Fault::classify(exception, &self.layout, code, entry);
        let mut registers = exception.registers;
        if kind == FaultKind::Syscall && registers.rip == entry {
            registers.rip = registers.rcx.wrapping_sub(2);
        }
        self.fault(kind, registers, Some(exception))
    }

    fn fault(&self, kind: FaultKind, registers: Registers, by: Option<&Exception>) -> Error {
        let in_file = registers.rip.wrapping_sub(self.layout.load_base());
        let code = self.layout.region_at(registers.rip);
        let symbol = code
            .filter(|region| region.kind == RegionKind::Code)
            .and_then(|_| symbols::find(self.guest.program().bytes(), in_file));
        Error::of_fault(Fault::new(kind, registers, by, symbol))
    }

    /// What stands at an address, as far as it is mapped: at most one instruction.
    fn code_at(&self, address: u64) -> &[u8] {
        let Some((region, gpa)) =
            self.layout.region_at(address).zip(self.layout.translate(address))
        else {
            return &[];
        };
        let length = (region.end().0 - address).min(MAX_INSTRUCTION);
        let (start, end) = (gpa.0, gpa.0 + length);
        match (usize::try_from(start), usize::try_from(end)) {
            (Ok(start), Ok(end)) => self.machine.memory().bytes().get(start..end).unwrap_or(&[]),
            _ => &[],
        }
    }
}
