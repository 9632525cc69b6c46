//! Exits other than by the mailbox, and what they are called.

use glowbox_core::fault::{self, Code, Exception, Fault, FaultKind};
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
            Exit::Interrupted => match self.lease.control().stop_reason() {
                Some(StopReason::Deadline) => Error::deadline(self.allowed),
                _ => Error::new(
                    ErrorKind::Interrupted,
                    "the call was interrupted by an InterruptHandle",
                ),
            },
            Exit::Exception(exception) => self.exception(&exception),
            Exit::Syscall(registers) => {
                let rip = fault::syscall_instruction(&registers);
                self.fault(FaultKind::Syscall, Registers { rip, ..*registers }, None)
            }
            Exit::Port { registers, .. } => self.fault(FaultKind::ForbiddenPort, *registers, None),
            Exit::MemoryLost => Error::new(
                ErrorKind::MemoryLost,
                "memory that the guest used is not there any more: a file that it lies in (of a \
                 snapshot, or of a mapping that was lent) has been cut short",
            ),
            Exit::Broken { reason } => {
                let text = format!("the virtual machine can't go on: {reason}");
                Error::new(ErrorKind::Hypervisor, text)
            }
            _ => Error::new(ErrorKind::Hypervisor, "the guest left in an unknown way"),
        }
    }

    pub(super) fn exception(&self, exception: &Exception) -> Error {
        let rip = exception.registers.rip;
        // Two bytes before it, or one if the code starts there.
        let before = |length| self.bytes_at(rip.wrapping_sub(length), length);
        let before = [before(2), before(1)].into_iter().find(|bytes| !bytes.is_empty());
        let (before, at) = (before.unwrap_or_default(), self.bytes_at(rip, MAX_INSTRUCTION));
        let code = Code { before: &before, at: &at };
        // What a Linux guest's system call is has been answered: one that is left has only jumped there.
        let entry = if self.linux.is_some() { u64::MAX } else { supervisor::SYSCALL_ENTRY.0 };
        let (kind, rip) = Fault::classify(exception, &self.setup.layout, code, entry);
        self.fault(kind, Registers { rip, ..exception.registers }, Some(exception))
    }

    fn fault(&self, kind: FaultKind, registers: Registers, by: Option<&Exception>) -> Error {
        let in_file = registers.rip.wrapping_sub(self.setup.layout.load_base());
        let code = self.setup.layout.region_at(registers.rip);
        let symbol = code
            .filter(|region| region.kind == RegionKind::Code)
            .and_then(|_| symbols::find(self.guest().program().bytes(), in_file));
        Error::of_fault(Fault::new(kind, registers, by, symbol))
    }

    /// Up to `most` bytes at an address, as far as they are mapped in one piece.
    fn bytes_at(&self, address: u64, most: u64) -> Vec<u8> {
        let Some((region, gpa)) =
            self.setup.layout.region_at(address).zip(self.setup.layout.translate(address))
        else {
            return Vec::new();
        };
        let end = gpa.0 + (region.end().0 - address).min(most);
        match (usize::try_from(gpa.0), usize::try_from(end)) {
            (Ok(start), Ok(end)) => self.lease.copy_out(start..end).unwrap_or_default(),
            _ => Vec::new(),
        }
    }
}
