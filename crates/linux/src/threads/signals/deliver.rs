//! How a thread takes signals: handlers entered, and left again.

use glowbox_core::fault::Exception;
use glowbox_core::registers::Registers;
use linux_raw_sys::general as raw;

use super::frame::{self, Contents, Frame};
use super::{Action, AltStack, Info, Signal, Trap};
use crate::call::{Call, Stop};
use crate::space::ADDRESSES_END;
use crate::{Hardware, Next, Process};

/// Trap, direction, and resume.
const CLEARED_FLAGS: u64 = 1 << 8 | 1 << 10 | 1 << 16;

impl Process {
    /// Lets the current thread take the signals that it has, by which its registers may become those
    /// at the start of a handler. What ends the program, if one does.
    pub(crate) fn take_signals(
        &mut self,
        registers: &mut Registers,
        hardware: &mut dyn Hardware,
    ) -> Option<Next> {
        loop {
            let unblocked = !self.threads.current().mask;
            let Some(info) = self.threads.take_signal(unblocked) else { break };
            let signal = info.signal;
            let action = self.threads.action(signal);
            if signal == Signal::KILL {
                return Some(Next::Killed { signal: signal.number(), exception: None });
            }
            if action.ignores(signal) {
                continue;
            }
            if action.handler == Action::DEFAULT {
                return Some(Next::Killed { signal: signal.number(), exception: None });
            }
            if let Err(stop) = self.enter_handler(info, action, registers, hardware) {
                return Some(ended(stop, None));
            }
        }
        // What the call that is over blocked, if no handler has taken that with it.
        if let Some(mask) = self.threads.current().mask_after.take() {
            self.threads.set_mask(mask);
            return self.take_signals(registers, hardware);
        }
        None
    }

    /// Lets the current thread take the signal that an exception stands for. What ends the program,
    /// if it does.
    pub(crate) fn take_fault(
        &mut self,
        info: Info,
        exception: &Exception,
        registers: &mut Registers,
        hardware: &mut dyn Hardware,
    ) -> Option<Next> {
        let action = self.threads.action(info.signal);
        let thread = self.threads.current();
        thread.trap = Trap {
            vector: exception.vector.into(),
            error_code: exception.error_code,
            address: exception.address.unwrap_or(thread.trap.address),
        };
        let blocked = thread.mask & info.signal.bit() != 0;
        if blocked || matches!(action.handler, Action::DEFAULT | Action::IGNORE) {
            let signal = info.signal.number();
            return Some(Next::Killed { signal, exception: Some(*exception) });
        }
        match self.enter_handler(info, action, registers, hardware) {
            Ok(()) => None,
            Err(stop) => Some(ended(stop, Some(*exception))),
        }
    }

    /// Puts a frame on the current thread's stack, and lets it begin with a handler.
    fn enter_handler(
        &mut self,
        info: Info,
        action: Action,
        registers: &mut Registers,
        hardware: &mut dyn Hardware,
    ) -> Result<(), Stop> {
        let killed = Stop::Killed(Signal::SEGV.number());
        // The machine below can't begin just anywhere.
        if !action.has(raw::SA_RESTORER) || action.handler >= ADDRESSES_END {
            return Err(killed);
        }
        let extended = self.threads.extended(hardware)?;
        let thread = self.threads.current();
        let contents = Contents {
            registers,
            extended: &extended,
            info,
            restorer: action.restorer,
            mask: thread.mask_after.take().unwrap_or(thread.mask),
            alt_stack: thread.alt_stack,
            trap: thread.trap,
        };
        let Some(frame) = frame::build(&contents, action.has(raw::SA_ONSTACK)) else {
            return Err(killed);
        };
        if thread.alt_stack.once {
            thread.alt_stack = AltStack::default();
        }
        match self.space.write(hardware, frame.address, &frame.bytes) {
            Ok(()) => {}
            Err(Stop::Error(_)) => return Err(killed),
            Err(other) => return Err(other),
        }
        self.begin_handler(info.signal, action, registers, &frame);
        Ok(())
    }

    fn begin_handler(
        &mut self,
        signal: Signal,
        action: Action,
        registers: &mut Registers,
        frame: &Frame,
    ) {
        registers.rip = action.handler;
        registers.rsp = frame.address;
        registers.rax = 0;
        registers.rdi = signal.into();
        registers.rsi = frame.info();
        registers.rdx = frame.context();
        registers.rflags &= !CLEARED_FLAGS;
        if action.has(raw::SA_RESETHAND) {
            let reset = Action { handler: Action::DEFAULT, ..action };
            self.threads.set_action(signal, reset);
        }
        let own = if action.has(raw::SA_NODEFER) { 0 } else { signal.bit() };
        let mask = self.threads.current().mask | action.mask | own;
        self.threads.set_mask(mask);
    }
}

/// How a program ends whose handler could not be entered.
fn ended(stop: Stop, exception: Option<Exception>) -> Next {
    match stop {
        Stop::Broken(broken) => Next::Broken(broken),
        Stop::OutOfMemory(requested) => Next::OutOfMemory { requested },
        Stop::Exit(status) => Next::Exited(status),
        Stop::Killed(signal) => Next::Killed { signal, exception },
        Stop::Error(_) | Stop::Wait(_) | Stop::Gone => {
            Next::Killed { signal: Signal::SEGV.number(), exception }
        }
    }
}

/// Takes back what the frame on the stack says that the thread was doing.
pub(super) fn sigreturn(call: &mut Call<'_>) -> Result<(), Stop> {
    let killed = || Stop::Killed(Signal::SEGV.number());
    let fatal = |stop: Stop| match stop {
        Stop::Error(_) => killed(),
        other => other,
    };
    // The handler has popped the return address.
    let address = call.registers.rsp.wrapping_sub(8);
    let bytes = call.bytes(address).map_err(fatal)?;
    let restored = frame::parse(&bytes, call.registers.rflags).ok_or_else(killed)?;
    let now = call.process.threads.extended(call.hardware)?.bytes().len();
    let extended = match restored.extended {
        0 => frame::extended_initial(now),
        at => {
            let legacy = call.bytes(at).map_err(fatal)?;
            let whole = match frame::claimed_size(&legacy, now) {
                None => None,
                Some(size) => {
                    let mut area = vec![0; size + 4];
                    call.read(at, &mut area).map_err(fatal)?;
                    frame::extended(&area, now)
                }
            };
            whole.or_else(|| frame::extended_legacy(&legacy, now))
        }
    };
    let extended = extended.ok_or_else(killed)?;
    call.process.threads.replace(extended, call.hardware)?;
    *call.registers = restored.registers;
    let thread = call.process.threads.current();
    if let Some(alt_stack) = restored.alt_stack
        && !thread.alt_stack.is_used(restored.registers.rsp)
    {
        thread.alt_stack = alt_stack;
    }
    call.process.threads.set_mask(restored.mask);
    Ok(())
}
