//! Exits of a Linux guest, and how it goes on after them.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use glowbox_core::mail::GuestMail;
use glowbox_core::registers::Registers;
use glowbox_linux::space::ADDRESSES_END;
use glowbox_linux::{Event, Next, Streams};
use glowbox_machine::interrupt::NO_DEADLINE;
use glowbox_machine::{Exit, SegmentBases, supervisor};

use super::{Instance, write_record};
use crate::process::ExitStatus;
use crate::{Error, ErrorKind};

/// How long a sleeping guest's thread goes without looking whether it is to stop.
const PATIENCE: Duration = Duration::from_millis(10);
/// Level of what a guest writes to a stream that goes to the log.
const INFO: u32 = 3;

impl Instance {
    /// Answers an exit other than by the mailbox, so that the guest can go on.
    pub(super) fn answer(&mut self, exit: Exit) -> Result<(), Error> {
        let Some(mut event) = self.linux.is_some().then(|| event(&exit)).flatten() else {
            return Err(self.ended_by(exit));
        };
        loop {
            let ticked = match &event {
                Event::Tick(registers) => Some(*registers),
                _ => None,
            };
            let linux = self.linux.as_mut().expect("checked above");
            if linux.is_copy() {
                linux.reseed(self.setup.randomness.another_process_seed()?);
            }
            let tables = linux.tables();
            let next = linux.handle(event, &mut *self.lease);
            if linux.tables() != tables {
                self.lease.tables_changed(true);
            }
            let lines = linux.lines();
            self.write_lines(lines)?;
            match next {
                Next::Proceed { registers, bases } => {
                    // The vCPU is in that state still.
                    if ticked != Some(registers) || bases.is_some() {
                        let bases = bases.map(|bases| SegmentBases { fs: bases.fs, gs: bases.gs });
                        let bases = bases.map_or_else(|| self.lease.bases(), Ok);
                        let done = bases.and_then(|bases| self.lease.proceed(&registers, bases));
                        done.map_err(Error::of_machine)?;
                    }
                    break;
                }
                Next::Enter(state) => {
                    self.lease.install(&state);
                    self.lease.start(&state).map_err(Error::of_machine)?;
                    break;
                }
                Next::Sleep { until, streams } => {
                    self.sleep(until, streams)?;
                    event = Event::Woken;
                }
                other => return Err(self.ended(other)),
            }
        }
        self.set_slices();
        Ok(())
    }

    /// Has the guest stopped for a moment now and then while its threads have to take turns.
    pub(super) fn set_slices(&mut self) {
        let needed = self.linux.as_ref().is_some_and(|linux| linux.needs_ticks());
        if needed == self.sliced {
            return;
        }
        self.sliced = needed;
        let watchdog = self.setup.engine.watchdog();
        let end = if needed { watchdog.slice_end() } else { NO_DEADLINE };
        self.lease.control().set_slice(end);
        watchdog.expect(end);
    }

    /// Waits with the guest.
    fn sleep(&mut self, until: Option<u64>, streams: Streams) -> Result<(), Error> {
        let start = Instant::now();
        let allowed = until.map(|until| {
            let now = self.linux.as_mut().map_or(0, |linux| linux.now());
            Duration::from_nanos(until.saturating_sub(now))
        });
        loop {
            if self.lease.control().stop_reason().is_some() {
                return Err(self.ended_by(Exit::Interrupted));
            }
            let left = match allowed {
                Some(allowed) => allowed.saturating_sub(start.elapsed()),
                None => PATIENCE,
            };
            let patience = left.min(PATIENCE);
            if patience.is_zero() {
                return Ok(());
            }
            match &mut self.linux {
                Some(linux) if streams.any() => {
                    if linux.world().files.wait_for(streams, patience) {
                        return Ok(());
                    }
                }
                _ => std::thread::sleep(patience),
            }
        }
    }

    /// Runs a program from its start to its end.
    pub(crate) fn run_to_end(&mut self) -> Result<ExitStatus, Error> {
        if let Some(by) = &self.spent {
            return Err(Error::spent(by));
        }
        let ended: Result<Infallible, Error> = self.timed(self.deadline, |instance| match instance
            .run()?
        {
            GuestMail::Ready => {
                let text = format!(
                    "`{}` is a guest whose functions are to be called; build a sandbox of it, with \
                     Builder::build",
                    instance.guest().name()
                );
                Err(Error::new(ErrorKind::InvalidGuest, text))
            }
            other => Err(super::out_of_turn(&other)),
        });
        let error = match ended {
            Err(error) => error,
            Ok(never) => match never {},
        };
        match (error.exit_status(), self.killed_by, error.fault()) {
            (Some(status), ..) => Ok(status.clone()),
            (None, Some(signal), Some(fault)) => {
                Ok(ExitStatus::of_signal(signal, Some(Box::new(fault.clone()))))
            }
            _ => Err(error),
        }
    }

    /// Why a Linux guest does not go on.
    fn ended(&mut self, next: Next) -> Error {
        let lines = self.linux.as_ref().map(|linux| linux.last_lines()).unwrap_or_default();
        if let Err(error) = self.write_lines(lines) {
            return error;
        }
        match next {
            Next::Exited(code) => Error::of_exit(ExitStatus::of_code(code & 0xff)),
            Next::Killed { signal, exception: Some(exception) } => {
                self.killed_by = Some(signal);
                self.exception(&exception)
            }
            Next::Killed { signal, exception: None } => {
                Error::of_exit(ExitStatus::of_signal(signal, None))
            }
            Next::OutOfMemory { requested } => {
                Error::out_of_memory(requested, self.setup.layout.limits().heap)
            }
            Next::Deadlock => {
                let text = "every thread of the guest waits for another one, for ever";
                Error::new(ErrorKind::Deadlock, text)
            }
            Next::Broken(broken) => Error::of_broken("the virtual machine can't go on", broken),
            Next::Proceed { .. } | Next::Enter(_) | Next::Sleep { .. } => {
                unreachable!("the guest goes on after these")
            }
        }
    }

    /// Writes lines of the guest's streams to its log.
    pub(super) fn write_lines(&mut self, lines: Vec<(&str, Vec<u8>)>) -> Result<(), Error> {
        for (target, text) in lines {
            write_record(&mut self.log, INFO, target.as_bytes(), &text)?;
        }
        Ok(())
    }
}

/// An exit as an event in a Linux process; `None` for those that end it.
fn event(exit: &Exit) -> Option<Event> {
    // As the calling code sees it: RCX is where `syscall` returns to, R11 its flags. A guest may also have jumped
    // to where that enters ring 0, with anything in RCX: what no instruction of it can lie before is no return
    // address, and the jump is the fault that it looks like.
    let syscall = |at: &Registers| {
        let event = Event::Syscall(Registers { rip: at.rcx, rflags: at.r11, ..*at });
        (at.rcx < ADDRESSES_END).then_some(event)
    };
    match exit {
        Exit::Syscall(registers) => syscall(registers),
        Exit::Exception(exception) => {
            // Where `syscall` does not enter ring 0 (docs/kvm.md).
            let entry = supervisor::SYSCALL_ENTRY.0;
            let is_there = exception.address == Some(entry) && exception.registers.rip == entry;
            let call = if is_there { syscall(&exception.registers) } else { None };
            call.or(Some(Event::Exception(**exception)))
        }
        Exit::Tick(registers) => Some(Event::Tick(**registers)),
        _ => None,
    }
}
