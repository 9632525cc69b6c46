//! Calls that carry next to nothing.

use glowbox::{Function, Sandbox};
use glowbox_bench::floor::Floor;
use glowbox_bench::subject::{self, Result};

use super::floors::exits;
use super::{Experiment, Lab, Plan, ready};
use crate::rows::Row;
use crate::samples::{Samples, timed};

/// Calls in a round, each a sample.
const CALLS: u32 = 8;
/// Times that calls and bare exits take turns in a round.
const TURNS: u32 = 3;
/// Calls in a batch.
const BATCH: u32 = 100;
/// Host calls in a call.
const HOST_CALLS: u32 = 32;

pub(crate) fn plan() -> Plan {
    let batch = format!("a call of add in a batch of {BATCH}");
    let calls = vec![
        Row::glowbox("call-warm", "add(u32, u32) by handle, warm").at_most(1.05),
        Row::glowbox("call-by-name", "the same through Sandbox::call"),
        Row::glowbox("call-host", "what each host call adds to a call that makes 32").at_most(1.10),
        Row::glowbox("call-batch", batch).at_most(0.05),
    ];
    Plan::new(calls, |lab| ready(Calls::open(lab)?))
}

struct Calls {
    floor: Option<Floor>,
    sandbox: Sandbox,
    add: Function<(u32, u32), u32>,
    calls: Function<(u32,), ()>,
}

impl Calls {
    fn open(lab: &Lab) -> Result<Calls> {
        let sandbox = subject::builder().engine(&lab.shared).build(&lab.guest)?;
        let (add, calls) = (sandbox.function("add")?, sandbox.function("calls")?);
        let floor = lab.beside().map(|bare| bare.create()).transpose()?;
        Ok(Calls { floor, sandbox, add, calls })
    }

    /// A call enters the guest once: anything else would be another thing that is measured.
    fn warm(&mut self, samples: &mut Samples) -> Result<()> {
        let entries = self.sandbox.stats().entries;
        self.add.call(&mut self.sandbox, (2, 3))?;
        for _ in 0..CALLS {
            let (sum, time) = timed(|| self.add.call(&mut self.sandbox, (2, 3)))?;
            samples.add("call-warm", time);
            if sum != 5 {
                return Err(format!("2 and 3 make {sum}").into());
            }
        }
        let entries = self.sandbox.stats().entries - entries;
        if entries != u64::from(CALLS) + 1 {
            return Err(format!("{} calls entered the guest {entries} times", CALLS + 1).into());
        }
        Ok(())
    }
}

impl Experiment for Calls {
    /// Turn by turn, since this bound is the tightest of all and a machine can change its pace
    /// within a round.
    fn sample(&mut self, samples: &mut Samples) -> Result<()> {
        for _ in 0..TURNS {
            self.floor.as_mut().map_or(Ok(()), |floor| exits(floor, samples))?;
            self.warm(samples)?;
        }
        let by_name = || self.sandbox.call::<_, u32>("add", (2u32, 3u32));
        samples.add("call-by-name", timed(by_name)?.1);
        let inputs = || (0..BATCH).map(|number| (number, 3));
        let (sums, time) =
            timed(|| -> Result<_> { Ok(self.add.call_many(&mut self.sandbox, inputs())) })?;
        samples.add("call-batch", time / f64::from(BATCH));
        for (sum, (a, b)) in sums.into_iter().zip(inputs()) {
            if sum? != a + b {
                return Err("the batch adds wrongly".into());
            }
        }
        // The call itself is one round trip too, and is taken off: at its median, since what disturbs
        // one of them should not make host calls cheap.
        let mut without = [0.0; 5];
        for time in &mut without {
            *time = timed(|| self.calls.call(&mut self.sandbox, (0,)))?.1;
        }
        without.sort_by(f64::total_cmp);
        let none = without[without.len() / 2];
        let ((), many) = timed(|| self.calls.call(&mut self.sandbox, (HOST_CALLS,)))?;
        samples.add("call-host", (many - none) / f64::from(HOST_CALLS));
        Ok(())
    }
}
