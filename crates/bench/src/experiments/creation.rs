//! Sandboxes whose VM is made for them, beside bare VMs.
//!
//! The kernel goes on closing VMs after they are closed, and whoever creates one meanwhile waits for
//! it: milliseconds, which would make everything here the same. So there is a pause before each
//! sample, and floors and sandboxes take turns within one experiment.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use glowbox::{Engine, Function, Snapshot};
use glowbox_bench::subject::{self, Bare, Result};

use super::spawn::end;
use super::{Experiment, Lab, Plan, ready};
use crate::rows::{Row, Yardstick};
use crate::samples::{Samples, shuffle, timed};

/// In which the kernel ends what other rows have begun.
const PAUSE: Duration = Duration::from_millis(10);

pub(crate) fn plan() -> Plan {
    let created = Yardstick::row("floor-create", "bare creation");
    let not_run = Yardstick::row("floor-create-only", "bare creation, not run");
    let ended = Yardstick::row("floor-create-drop", "bare creation and end");
    let rows = vec![
        Row::floor("floor-create-only", "create a bare VM, up to its first instruction"),
        Row::floor("floor-create", "create a bare VM, up to its first exit"),
        Row::floor("floor-create-drop", "the same, and close it"),
        Row::glowbox("build-elf", "from an ELF file's bytes to a guest that waits")
            .against(created.clone()),
        Row::glowbox("build-elf-drop", "the same, and drop").against(ended.clone()),
        Row::glowbox("spawn-cold", "spawn with an empty pool, until spawn returns")
            .against(not_run)
            .at_most(1.15),
        Row::glowbox("spawn-cold-call", "spawn with an empty pool, and first call")
            .against(created)
            .at_most(1.15),
        Row::glowbox("spawn-cold-drop", "the same, and drop").against(ended),
    ];
    Plan::new(rows, |lab| ready(Creation::open(lab)?)).every(2)
}

struct Creation {
    bare: Option<Arc<Bare>>,
    engine: Engine,
    elf: Arc<[u8]>,
    snapshot: Snapshot,
    add: Function<(u32, u32), u32>,
    state: usize,
}

impl Creation {
    fn open(lab: &Lab) -> Result<Creation> {
        let engine = lab.cold.clone();
        let mut booted = subject::builder().engine(&engine).build(&lab.guest)?;
        let (snapshot, add) = (booted.snapshot()?, booted.function("add")?);
        let (bare, elf) = (lab.beside(), Arc::clone(&lab.elf));
        Ok(Creation { bare, engine, elf, snapshot, add, state: 1 })
    }

    fn bare_not_run(&self, samples: &mut Samples) -> Result<()> {
        let Some(bare) = &self.bare else { return Ok(()) };
        let (floor, time) = timed(|| bare.create_only())?;
        samples.add("floor-create-only", time);
        drop(floor);
        Ok(())
    }

    fn bare(&self, samples: &mut Samples) -> Result<()> {
        let Some(bare) = &self.bare else { return Ok(()) };
        let (floor, create) = timed(|| bare.create())?;
        samples.add("floor-create", create);
        let ((), close) = timed(|| -> Result<()> {
            drop(floor);
            Ok(())
        })?;
        samples.add("floor-create-drop", create + close);
        Ok(())
    }

    fn build(&self, samples: &mut Samples) -> Result<()> {
        let (sandbox, build) = timed(|| -> Result<_> {
            let guest = subject::guest(&self.elf)?;
            Ok(subject::builder().engine(&self.engine).build(guest)?)
        })?;
        samples.add("build-elf", build);
        let ((), end) = timed(|| end(sandbox))?;
        samples.add("build-elf-drop", build + end);
        Ok(())
    }

    fn spawn(&self, samples: &mut Samples) -> Result<()> {
        let (mut sandbox, spawn) = timed(|| self.snapshot.spawn())?;
        let (sum, call) = timed(|| self.add.call(&mut sandbox, (2, 3)))?;
        let ((), end) = timed(|| end(sandbox))?;
        samples.add("spawn-cold", spawn);
        samples.add("spawn-cold-call", spawn + call);
        samples.add("spawn-cold-drop", spawn + call + end);
        if sum == 5 { Ok(()) } else { Err(format!("2 and 3 make {sum}").into()) }
    }
}

impl Experiment for Creation {
    fn sample(&mut self, samples: &mut Samples) -> Result<()> {
        type Step = fn(&Creation, &mut Samples) -> Result<()>;
        let mut steps: [Step; 4] =
            [Creation::bare_not_run, Creation::bare, Creation::build, Creation::spawn];
        shuffle(&mut steps, &mut self.state);
        for step in steps {
            thread::sleep(PAUSE);
            step(self, samples)?;
        }
        Ok(())
    }
}
