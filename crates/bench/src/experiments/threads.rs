//! One thread against two: how much of a call is done twice at a time.

use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use glowbox::{Function, Sandbox, Snapshot};
use glowbox_bench::floor::Floor;
use glowbox_bench::subject::{self, Result};

use super::{Experiment, Lab, Plan, ready};
use crate::rows::{Row, Yardstick};
use crate::samples::Samples;

/// Operations of each thread in a sample.
const OPERATIONS: u32 = 32;

pub(crate) fn plan() -> Plan {
    let one = |what: &str| format!("{what}: time an operation, one thread");
    let two = |what: &str| format!("{what}: time an operation, two threads with one each");
    let rows = vec![
        Row::floor("floor-exit-1-thread", one("bare exit")),
        Row::floor("floor-exit-2-threads", two("bare exit"))
            .against(Yardstick::row("floor-exit-1-thread", "one thread")),
        Row::glowbox("call-1-thread", one("warm call")),
        Row::glowbox("call-2-threads", two("warm call"))
            .against(Yardstick::row("call-1-thread", "one thread")),
        Row::glowbox("spawn-1-thread", one("pooled spawn, call and drop")),
        Row::glowbox("spawn-2-threads", two("pooled spawn, call and drop"))
            .against(Yardstick::row("spawn-1-thread", "one thread")),
    ];
    Plan::new(rows, |lab| ready(Threads::open(lab)?)).every(2)
}

struct Threads {
    floors: [Floor; 2],
    sandboxes: [Sandbox; 2],
    snapshots: [Snapshot; 2],
    add: Function<(u32, u32), u32>,
}

impl Threads {
    fn open(lab: &Lab) -> Result<Threads> {
        let sandboxes =
            [subject::sandbox(lab.guest.clone())?, subject::sandbox(lab.guest.clone())?];
        let mut booted = subject::builder().engine(&lab.pooled).build(&lab.guest)?;
        let snapshot = booted.snapshot()?;
        let snapshots = [snapshot.clone(), snapshot];
        let floors = [lab.bare.create()?, lab.bare.create()?];
        Ok(Threads { floors, add: sandboxes[0].function("add")?, sandboxes, snapshots })
    }
}

impl Experiment for Threads {
    fn sample(&mut self, samples: &mut Samples) -> Result<()> {
        let exit = |floor: &mut Floor| floor.exit_round_trip();
        samples.add("floor-exit-1-thread", at_once(&mut self.floors[..1], exit)?);
        samples.add("floor-exit-2-threads", at_once(&mut self.floors, exit)?);
        let call = |sandbox: &mut Sandbox| -> Result<()> {
            self.add.call(sandbox, (2, 3))?;
            Ok(())
        };
        samples.add("call-1-thread", at_once(&mut self.sandboxes[..1], call)?);
        samples.add("call-2-threads", at_once(&mut self.sandboxes, call)?);
        let spawn = |snapshot: &mut Snapshot| -> Result<()> {
            self.add.call(&mut snapshot.spawn()?, (2, 3))?;
            Ok(())
        };
        samples.add("spawn-1-thread", at_once(&mut self.snapshots[..1], spawn)?);
        samples.add("spawn-2-threads", at_once(&mut self.snapshots, spawn)?);
        Ok(())
    }
}

/// Does the operation on each subject in a thread of its own, all at once: nanoseconds of the whole,
/// divided by all operations.
pub(crate) fn at_once<T: Send>(
    subjects: &mut [T],
    operation: impl Fn(&mut T) -> Result<()> + Sync,
) -> Result<f64> {
    let (barrier, operation) = (&Barrier::new(subjects.len()), &operation);
    let threads = subjects.len();
    let spans = thread::scope(|scope| {
        let mut running = Vec::new();
        for subject in subjects {
            running.push(scope.spawn(move || -> Result<(Instant, Instant)> {
                operation(&mut *subject)?;
                barrier.wait();
                let start = Instant::now();
                for _ in 0..OPERATIONS {
                    operation(&mut *subject)?;
                }
                Ok((start, Instant::now()))
            }));
        }
        let joined = running.into_iter().map(|thread| thread.join().expect("a thread that ends"));
        joined.collect::<Result<Vec<_>>>()
    })?;
    let start = spans.iter().map(|(start, _)| *start).min();
    let end = spans.iter().map(|(_, end)| *end).max();
    let (Some(start), Some(end)) = (start, end) else { return Err("no thread ran".into()) };
    let operations = f64::from(OPERATIONS) * threads as f64;
    Ok(end.duration_since(start).as_secs_f64() * 1e9 / operations)
}
