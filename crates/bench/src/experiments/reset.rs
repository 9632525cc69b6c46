//! What going back costs, by the number of pages that were written.
//!
//! A cycle is a reset and a call that writes so many pages, all of their bytes, which the next cycle's
//! reset puts back. Each number of pages has a sandbox and a snapshot of its own, so that what the
//! library learns about one of them does not help another. The image is the same everywhere: the
//! small guest and 16 MiB that it has filled.

use glowbox::{Function, Sandbox, Snapshot};
use glowbox_bench::subject::{self, PAGE, Pages, Result};

use super::spawn::end;
use super::{Experiment, Lab, Plan, ready};
use crate::rows::{Row, Yardstick};
use crate::samples::{Samples, timed};

/// Numbers of pages that are written.
pub(crate) const WRITTEN: [u32; 5] = [0, 1, 16, 256, 4096];
/// The largest of them, which is the size of what the guest has filled.
const ALL: u32 = WRITTEN[WRITTEN.len() - 1];
/// Cycles in a round, each a sample, unless they are long.
const CYCLES: u32 = 4;
const LONG: u32 = 256;

pub(crate) const COPY: &str = "floor-memcpy-pages";

pub(crate) fn plans() -> Vec<Plan> {
    let copies = vec![
        Row::floor(COPY, format!("memcpy of {ALL} pages, page by page, target just written")),
        Row::floor("floor-memcpy-pages-whole", "the same in one piece"),
    ];
    let mut plans = vec![Plan::new(copies, |_| ready(Copies::new())).every(2)];
    for count in WRITTEN {
        let rows = cycle_rows(count).into();
        let plan = Plan::new(rows, move |lab| ready(Cycle::open(lab, count)?));
        plans.push(if count > LONG { plan.every(2) } else { plan });
    }
    for count in WRITTEN {
        let what = format!("spawn from the pool, a call that writes {count} pages, drop");
        let row = Row::glowbox(format!("spawn-write-{count}"), what);
        let plan = Plan::new(vec![row], move |lab| ready(Life::open(lab, count)?));
        plans.push(if count > LONG { plan.every(4) } else { plan });
    }
    plans
}

fn cycle_rows(count: u32) -> [Row; 2] {
    let reset =
        Row::glowbox(format!("reset-{count}"), format!("reset after {count} written pages"));
    let cycle = Row::glowbox(
        format!("reset-call-{count}"),
        format!("reset, and a call that writes {count} pages"),
    );
    let reset = if count == ALL {
        reset.against(Yardstick::row(COPY, "memcpy of them")).at_most(1.5)
    } else {
        reset
    };
    [reset, if count <= 16 { cycle.at_most(1.5) } else { cycle }]
}

/// A snapshot of the guest with filled pages, and the function that writes to them.
struct Filled {
    snapshot: Snapshot,
    write: Function<(u32, u8), usize>,
    count: u32,
}

impl Filled {
    fn open(lab: &Lab, count: u32) -> Result<Filled> {
        let mut sandbox = subject::builder().engine(&lab.pooled).build(&lab.guest)?;
        sandbox.call::<_, ()>("fill", (ALL,))?;
        let filled =
            Filled { snapshot: sandbox.snapshot()?, write: sandbox.function("write")?, count };
        filled.check(&mut sandbox)?;
        Ok(filled)
    }

    fn write(&self, sandbox: &mut Sandbox) -> Result<()> {
        let written = self.write.call(sandbox, (self.count, 0x77))?;
        if u32::try_from(written) == Ok(self.count) {
            return Ok(());
        }
        Err(format!("{written} pages were written and not {}", self.count).into())
    }

    /// That pages are written by a call, and are as before after a reset, which counts them.
    fn check(&self, sandbox: &mut Sandbox) -> Result<()> {
        if self.count == 0 {
            return Ok(());
        }
        let peek = sandbox.function::<(u32,), Option<u8>>("peek")?;
        let last = |sandbox: &mut Sandbox| peek.call(sandbox, (self.count - 1,));
        let filled = last(sandbox)?;
        self.write(sandbox)?;
        let written = last(sandbox)?;
        let before = sandbox.stats().pages_written;
        sandbox.reset()?;
        let counted = sandbox.stats().pages_written - before;
        let after = last(sandbox)?;
        if written != Some(0x77) || filled == written || after != filled {
            return Err(format!("a page was {filled:?}, {written:?} and {after:?}").into());
        }
        if counted < u64::from(self.count) {
            return Err(format!("a reset found {counted} pages written, not {}", self.count).into());
        }
        Ok(())
    }
}

struct Cycle {
    filled: Filled,
    sandbox: Sandbox,
    ids: [String; 2],
}

impl Cycle {
    fn open(lab: &Lab, count: u32) -> Result<Cycle> {
        let filled = Filled::open(lab, count)?;
        let sandbox = filled.snapshot.spawn()?;
        let ids = [format!("reset-{count}"), format!("reset-call-{count}")];
        Ok(Cycle { filled, sandbox, ids })
    }
}

impl Experiment for Cycle {
    fn sample(&mut self, samples: &mut Samples) -> Result<()> {
        // The first cycle is not timed: other rows have run since the last one.
        self.sandbox.reset()?;
        self.filled.write(&mut self.sandbox)?;
        for _ in 0..if self.filled.count > LONG { 1 } else { CYCLES } {
            let ((), reset) = timed(|| self.sandbox.reset())?;
            let ((), call) = timed(|| self.filled.write(&mut self.sandbox))?;
            samples.add(&self.ids[0], reset);
            samples.add(&self.ids[1], reset + call);
        }
        Ok(())
    }
}

struct Life {
    filled: Filled,
    id: String,
}

impl Life {
    fn open(lab: &Lab, count: u32) -> Result<Life> {
        Ok(Life { filled: Filled::open(lab, count)?, id: format!("spawn-write-{count}") })
    }

    fn life(&self) -> Result<()> {
        let mut sandbox = self.filled.snapshot.spawn()?;
        self.filled.write(&mut sandbox)?;
        end(sandbox)
    }
}

impl Experiment for Life {
    fn sample(&mut self, samples: &mut Samples) -> Result<()> {
        self.life()?;
        for _ in 0..if self.filled.count > LONG { 1 } else { CYCLES } {
            samples.add(&self.id, timed(|| self.life())?.1);
        }
        Ok(())
    }
}

/// What a reset does at the least: every page from the image to where it was written.
struct Copies {
    source: Pages,
    target: Pages,
    value: u8,
}

impl Copies {
    fn new() -> Copies {
        let bytes = ALL as usize * PAGE;
        Copies { source: Pages::new(bytes), target: Pages::new(bytes), value: 0 }
    }

    /// Copies in pieces of a size, after writing to all of the target as the guest does.
    fn copy(&mut self, piece: usize) -> Result<f64> {
        self.value = self.value.wrapping_add(1);
        self.target.bytes_mut().fill(self.value);
        let (source, target) = (self.source.bytes(), self.target.bytes_mut());
        let ((), time) = timed(|| -> Result<()> {
            for (source, target) in source.chunks(piece).zip(target.chunks_mut(piece)) {
                glowbox_bench::floor::memcpy_floor(source, target);
            }
            Ok(())
        })?;
        Ok(time)
    }
}

impl Experiment for Copies {
    fn sample(&mut self, samples: &mut Samples) -> Result<()> {
        samples.add(COPY, self.copy(PAGE)?);
        samples.add("floor-memcpy-pages-whole", self.copy(ALL as usize * PAGE)?);
        Ok(())
    }
}
