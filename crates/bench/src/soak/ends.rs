//! Calls that end a sandbox, each as it must.

use std::fmt::Debug;
use std::time::Duration;

use glowbox::{Access, CallOptions, Error, ErrorKind, FaultKind, RegionKind};

use super::deck::Deck;
use super::state::Live;
use super::work;
use super::worker::{Check, Worker, same};
use super::world::{PANIC, lock};

/// A way to end, by its number in `guests/soak/src/ends.rs`.
pub(crate) struct End {
    pub(crate) number: u32,
    pub(crate) name: &'static str,
    kind: ErrorKind,
    fault: Option<FaultKind>,
}

const fn end(number: u32, name: &'static str, kind: ErrorKind) -> End {
    End { number, name, kind, fault: None }
}

const fn fault(number: u32, name: &'static str, fault: FaultKind) -> End {
    End { number, name, kind: ErrorKind::Fault, fault: Some(fault) }
}

pub(crate) const ENDS: [End; 15] = [
    end(1, "panic", ErrorKind::Panic),
    fault(2, "null pointer read", FaultKind::NullDereference(Access::Read)),
    fault(3, "write to read-only memory", FaultKind::WriteToReadOnly),
    fault(4, "execution of data", FaultKind::ExecuteData(RegionKind::Heap)),
    fault(5, "invalid opcode", FaultKind::InvalidOpcode),
    fault(6, "halt", FaultKind::Halt),
    fault(7, "division error", FaultKind::DivideError),
    fault(8, "system call", FaultKind::Syscall),
    fault(9, "forbidden port", FaultKind::ForbiddenPort),
    fault(10, "privileged instruction", FaultKind::PrivilegedInstruction),
    fault(11, "software interrupt", FaultKind::SoftwareInterrupt(0x80)),
    end(12, "stack overflow", ErrorKind::StackOverflow),
    end(13, "out of memory", ErrorKind::OutOfMemory),
    fault(14, "general protection", FaultKind::GeneralProtection),
    fault(15, "unmapped memory", FaultKind::Unmapped(Access::Read)),
];
/// The number of the end that never comes.
const SPIN: u32 = 99;
/// Ends that are no entries of the table.
const HOST_PANIC: &str = "host function's panic";
pub(crate) const DEADLINE: &str = "deadline";
const INTERRUPTED: &str = "interrupted";

/// All outcomes of these operations.
pub(crate) fn outcomes() -> impl Iterator<Item = &'static str> {
    ENDS.iter().map(|end| end.name).chain([HOST_PANIC, DEADLINE, INTERRUPTED])
}

/// The ends, and the host's panic.
pub(crate) fn deck(seed: u64) -> Deck {
    Deck::new([1; ENDS.len() + 1], seed)
}

/// The ends alone, for the entries of batches.
pub(crate) fn batch_deck(seed: u64) -> Deck {
    Deck::new([1; ENDS.len()], seed)
}

impl End {
    pub(crate) fn check<T: Debug>(
        &self,
        worker: &mut Worker<'_>,
        live: &mut Live,
        result: Result<T, Error>,
    ) -> Check {
        let number = self.number;
        let error = worker
            .ended(live, result, (self.name, self.kind))
            .map_err(|text| format!("end {number}: {text}"))?;
        let found = error.fault().map(|fault| fault.kind);
        if self.fault.is_some() && found != self.fault {
            return Err(format!("end {number}: {error:?} instead of {:?}", self.fault));
        }
        let said = error.panic().map(|panic| panic.message.as_str());
        if self.kind == ErrorKind::Panic && said != Some("told to, 1") {
            return Err(format!("end {number}: {error:?}"));
        }
        Ok(())
    }
}

pub(crate) fn any(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    let Some(end) = ENDS.get(worker.world.decks.ends.deal()) else {
        return host_panic(worker, live);
    };
    let result = live.sandbox.call::<_, u64>("end", (end.number,));
    end.check(worker, live, result)
}

fn host_panic(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    let number = worker.number();
    let result = live.sandbox.call::<_, u64>("let_the_host_panic", (number,));
    let error = worker.ended(live, result, (HOST_PANIC, ErrorKind::HostPanic))?;
    let text = format!("{PANIC} {number}");
    if error.to_string().contains(&text) { Ok(()) } else { Err(format!("{error:?}")) }
}

/// A deadline before a call's end, or about there.
pub(crate) fn deadline(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    let time = Duration::from_micros(200 + worker.below(8_000));
    let options = CallOptions::new().deadline(time);
    if worker.below(2) == 0 {
        let result = live.sandbox.call_with::<_, u64>(&options, "end", (SPIN,));
        return worker.ended(live, result, (DEADLINE, ErrorKind::Deadline)).map(drop);
    }
    let (seed, count) = (worker.number(), worker.below_u32(4_000_000));
    let result = live.sandbox.call_with::<_, u64>(&options, "rounds", (seed, count));
    value_or(worker, live, result, (seed, count), (DEADLINE, ErrorKind::Deadline))
}

/// An interrupt at some moment before a call's end, or about there.
pub(crate) fn interrupt(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    let wanted = &worker.world.wanted[worker.index];
    *lock(wanted) = Some(live.sandbox.interrupt_handle());
    let (spin, seed, count) = (worker.below(2) == 0, worker.number(), worker.below_u32(8_000_000));
    let result = if spin {
        live.sandbox.call::<_, u64>("end", (SPIN,))
    } else {
        live.sandbox.call::<_, u64>("rounds", (seed, count))
    };
    // Who interrupts holds the lock: afterwards no interrupt comes any more.
    *lock(wanted) = None;
    if spin {
        return worker.ended(live, result, (INTERRUPTED, ErrorKind::Interrupted)).map(drop);
    }
    value_or(worker, live, result, (seed, count), (INTERRUPTED, ErrorKind::Interrupted))
}

fn value_or(
    worker: &mut Worker<'_>,
    live: &mut Live,
    result: Result<u64, Error>,
    (seed, count): (u64, u32),
    end: (&'static str, ErrorKind),
) -> Check {
    if result.is_ok() {
        return same("rounds", result, &work::rounds(seed, count));
    }
    worker.ended(live, result, end).map(drop)
}
