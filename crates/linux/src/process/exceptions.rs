//! Exceptions: pages that are brought in, and what is a signal.

use glowbox_core::address::PAGE_SIZE;
use glowbox_core::fault::Exception;
use linux_raw_sys::general as raw;

use crate::space::Faulted;
use crate::threads::signals::{Info, Signal};
use crate::{Broken, Hardware, Next, Process};

const DIVIDE: u8 = 0;
const DEBUG: u8 = 1;
const BREAKPOINT: u8 = 3;
const INVALID_OPCODE: u8 = 6;
const PAGE: u8 = 14;
const X87: u8 = 16;
const ALIGNMENT: u8 = 17;
const SIMD: u8 = 19;

/// `si_code` of single steps (`TRAP_TRACE`).
const TRAP_TRACE: u32 = 2;
impl Process {
    /// Answers an exception of the thread on the vCPU.
    pub(super) fn exception(&mut self, exception: &Exception, hardware: &mut dyn Hardware) -> Next {
        let mut registers = exception.registers;
        let info = if exception.vector == PAGE {
            let address = exception.address.unwrap_or_default();
            match self.space.fault(hardware, address, exception.error_code) {
                Ok(Faulted::Mapped) => return Next::Proceed { registers, bases: None },
                Ok(Faulted::Absent) => Info::fault(Signal::SEGV, raw::SEGV_MAPERR, address),
                Ok(Faulted::Denied) => Info::fault(Signal::SEGV, raw::SEGV_ACCERR, address),
                Ok(Faulted::OutOfMemory) => return Next::OutOfMemory { requested: PAGE_SIZE },
                Err(broken) => return Next::Broken(broken),
            }
        } else {
            match info(exception, hardware) {
                Ok(info) => info,
                Err(broken) => return Next::Broken(broken),
            }
        };
        match self.take_fault(info, exception, &mut registers, hardware) {
            Some(next) => next,
            None => self.go_on(registers, hardware),
        }
    }
}

/// The signal that an exception other than a page fault stands for.
fn info(exception: &Exception, hardware: &mut dyn Hardware) -> Result<Info, Broken> {
    let rip = exception.registers.rip;
    Ok(match exception.vector {
        DIVIDE => Info::fault(Signal::FPE, raw::FPE_INTDIV, rip),
        DEBUG => Info::fault(Signal::TRAP, TRAP_TRACE, rip),
        BREAKPOINT => Info::kernel(Signal::TRAP),
        INVALID_OPCODE => Info::fault(Signal::ILL, raw::ILL_ILLOPN, rip),
        ALIGNMENT => Info::fault(Signal::BUS, raw::BUS_ADRALN, 0),
        vector @ (X87 | SIMD) => {
            let extended = hardware.extended()?;
            Info::fault(Signal::FPE, float_code(vector, extended.bytes()), rip)
        }
        _ => Info::kernel(Signal::SEGV),
    })
}

/// Which floating-point exception it was, from the status bits that are not masked.
fn float_code(vector: u8, area: &[u8]) -> u32 {
    let half = |at: usize| area[at..].first_chunk().map_or(0, |half| u16::from_le_bytes(*half));
    let raised = match vector {
        X87 => half(2) & !half(0),
        _ => half(24) & !(half(24) >> 7),
    };
    match raised {
        raised if raised & 0x01 != 0 => raw::FPE_FLTINV,
        raised if raised & 0x04 != 0 => raw::FPE_FLTDIV,
        raised if raised & 0x08 != 0 => raw::FPE_FLTOVF,
        raised if raised & 0x12 != 0 => raw::FPE_FLTUND,
        raised if raised & 0x20 != 0 => raw::FPE_FLTRES,
        _ => raw::FPE_FLTUNK,
    }
}
