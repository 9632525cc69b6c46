//! Calls that end a sandbox, each as it must.

use std::fmt::Debug;
use std::time::Duration;

use glowbox::{Access, CallOptions, Error, ErrorKind, FaultKind, RegionKind};

use super::state::Live;
use super::work;
use super::worker::{Check, Worker, same};
use super::world::{PANIC, lock};

/// A way to end, by its number in `guests/soak/src/ends.rs`.
pub(crate) struct End {
    pub(crate) number: u32,
    kind: ErrorKind,
    fault: Option<FaultKind>,
}

const fn end(number: u32, kind: ErrorKind) -> End {
    End { number, kind, fault: None }
}

const fn fault(number: u32, fault: FaultKind) -> End {
    End { number, kind: ErrorKind::Fault, fault: Some(fault) }
}

pub(crate) const ENDS: [End; 15] = [
    end(1, ErrorKind::Panic),
    fault(2, FaultKind::NullDereference(Access::Read)),
    fault(3, FaultKind::WriteToReadOnly),
    fault(4, FaultKind::ExecuteData(RegionKind::Heap)),
    fault(5, FaultKind::InvalidOpcode),
    fault(6, FaultKind::Halt),
    fault(7, FaultKind::DivideError),
    fault(8, FaultKind::Syscall),
    fault(9, FaultKind::ForbiddenPort),
    fault(10, FaultKind::PrivilegedInstruction),
    fault(11, FaultKind::SoftwareInterrupt(0x80)),
    end(12, ErrorKind::StackOverflow),
    end(13, ErrorKind::OutOfMemory),
    fault(14, FaultKind::GeneralProtection),
    fault(15, FaultKind::Unmapped(Access::Read)),
];
/// The number of the end that never comes.
const SPIN: u32 = 99;

impl End {
    pub(crate) fn check<T: Debug>(
        &self,
        worker: &mut Worker<'_>,
        live: &mut Live,
        result: Result<T, Error>,
    ) -> Check {
        let number = self.number;
        let error = worker
            .ended(live, result, self.kind)
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
    let at = worker.index_below(ENDS.len() + 1);
    let Some(end) = ENDS.get(at) else { return host_panic(worker, live) };
    let result = live.sandbox.call::<_, u64>("end", (end.number,));
    end.check(worker, live, result)
}

fn host_panic(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    let number = worker.number();
    let result = live.sandbox.call::<_, u64>("let_the_host_panic", (number,));
    let error = worker.ended(live, result, ErrorKind::HostPanic)?;
    let text = format!("{PANIC} {number}");
    if error.to_string().contains(&text) { Ok(()) } else { Err(format!("{error:?}")) }
}

/// A deadline before a call's end, or about there.
pub(crate) fn deadline(worker: &mut Worker<'_>, live: &mut Live) -> Check {
    let time = Duration::from_micros(200 + worker.below(8_000));
    let options = CallOptions::new().deadline(time);
    if worker.below(2) == 0 {
        let result = live.sandbox.call_with::<_, u64>(&options, "end", (SPIN,));
        return worker.ended(live, result, ErrorKind::Deadline).map(drop);
    }
    let (seed, count) = (worker.number(), worker.below_u32(4_000_000));
    let result = live.sandbox.call_with::<_, u64>(&options, "rounds", (seed, count));
    value_or(worker, live, result, (seed, count), ErrorKind::Deadline)
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
        return worker.ended(live, result, ErrorKind::Interrupted).map(drop);
    }
    value_or(worker, live, result, (seed, count), ErrorKind::Interrupted)
}

fn value_or(
    worker: &mut Worker<'_>,
    live: &mut Live,
    result: Result<u64, Error>,
    (seed, count): (u64, u32),
    kind: ErrorKind,
) -> Check {
    if result.is_ok() {
        return same("rounds", result, &work::rounds(seed, count));
    }
    worker.ended(live, result, kind).map(drop)
}
