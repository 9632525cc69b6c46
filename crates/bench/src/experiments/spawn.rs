//! From a snapshot to a sandbox with a VM from the pool.

use glowbox::{Function, Sandbox, Snapshot};
use glowbox_bench::subject::{self, Result};

use super::{Experiment, Lab, Plan, ready};
use crate::rows::Row;
use crate::samples::{Samples, timed};

/// Sandboxes from the pool in a round, each a sample.
const SPAWNS: u32 = 4;

pub(crate) fn plan() -> Plan {
    let pooled = vec![
        Row::glowbox("spawn-pooled", "spawn from the pool, first call, drop").at_most(2.5),
        Row::glowbox("spawn-pooled-only", "of these: the spawn"),
        Row::glowbox("spawn-pooled-drop", "of these: the drop"),
    ];
    Plan::new(pooled, |lab| ready(Pooled(Spawn::open(lab)?)))
}

/// A snapshot of the small guest as it is when it has started.
struct Spawn {
    snapshot: Snapshot,
    add: Function<(u32, u32), u32>,
}

impl Spawn {
    fn open(lab: &Lab) -> Result<Spawn> {
        let mut sandbox = subject::builder().engine(&lab.pooled).build(&lab.guest)?;
        Ok(Spawn { snapshot: sandbox.snapshot()?, add: sandbox.function("add")? })
    }

    /// Times of the spawn, of the call and of the drop.
    fn life(&self) -> Result<[f64; 3]> {
        let (mut sandbox, spawn) = timed(|| self.snapshot.spawn())?;
        let (sum, call) = timed(|| self.add.call(&mut sandbox, (2, 3)))?;
        let ((), end) = timed(|| end(sandbox))?;
        if sum == 5 { Ok([spawn, call, end]) } else { Err(format!("2 and 3 make {sum}").into()) }
    }
}

/// Drops a sandbox.
pub(crate) fn end(sandbox: Sandbox) -> Result<()> {
    drop(sandbox);
    Ok(())
}

struct Pooled(Spawn);

impl Experiment for Pooled {
    fn sample(&mut self, samples: &mut Samples) -> Result<()> {
        self.0.life()?;
        for _ in 0..SPAWNS {
            let [spawn, call, end] = self.0.life()?;
            samples.add("spawn-pooled", spawn + call + end);
            samples.add("spawn-pooled-only", spawn);
            samples.add("spawn-pooled-drop", end);
        }
        Ok(())
    }
}
