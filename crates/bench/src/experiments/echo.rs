//! Bytes in and the same bytes out.

use glowbox::{Function, Sandbox};
use glowbox_bench::subject::{self, ECHO_SIZES, MESSAGE_SIZE, Result};

use super::floors::copy_id;
use super::{Experiment, Lab, Plan, ready};
use crate::rows::{EXIT, Row, Yardstick};
use crate::samples::{Samples, timed};

/// Copies of its bytes that an echo is compared with.
const COPIES: f64 = 3.0;
/// The size that the bound is about.
const BOUNDED: usize = ECHO_SIZES.len() - 1;

fn id(size: usize) -> String {
    format!("echo-{}", ECHO_SIZES[size].0.to_lowercase().replace(' ', ""))
}

/// One plan a size, so that a run of small echoes need not make the large ones.
pub(crate) fn plans() -> Vec<Plan> {
    let plan = |size: usize| {
        let what = format!("&[u8] of {} in, &[u8] out, received as a Vec<u8>", ECHO_SIZES[size].0);
        let yardstick = Yardstick::default().plus(1.0, EXIT).plus(COPIES, &copy_id(size));
        let row = Row::glowbox(id(size), what).against(yardstick.called("R + 3 memcpy"));
        let row = if size == BOUNDED { row.at_most(1.0) } else { row };
        let plan = Plan::new(vec![row], move |lab| ready(Echo::open(lab, size)?));
        if size == BOUNDED { plan.every(2) } else { plan }
    };
    (0..ECHO_SIZES.len()).map(plan).collect()
}

struct Echo {
    id: String,
    sandbox: Sandbox,
    echo: Function<(&'static [u8],), Vec<u8>>,
    /// Not page-aligned: a caller's data isn't.
    data: Vec<u8>,
}

impl Echo {
    fn open(lab: &Lab, size: usize) -> Result<Echo> {
        let sandbox =
            subject::builder().engine(&lab.shared).message_size(MESSAGE_SIZE).build(&lab.guest)?;
        let data = (0..ECHO_SIZES[size].1).map(|at| at.to_le_bytes()[0]).collect();
        Ok(Echo { id: id(size), echo: sandbox.function("echo")?, sandbox, data })
    }
}

impl Experiment for Echo {
    fn sample(&mut self, samples: &mut Samples) -> Result<()> {
        let echo: &Function<(&[u8],), Vec<u8>> = &self.echo;
        // The first one brings the buffers back into the caches, as far as they fit.
        let back = echo.call(&mut self.sandbox, (&self.data,))?;
        if back != self.data {
            return Err("the echo has other bytes".into());
        }
        drop(back);
        let (back, time) = timed(|| echo.call(&mut self.sandbox, (&self.data,)))?;
        samples.add(&self.id, time);
        if back.len() == self.data.len() { Ok(()) } else { Err("the echo is shorter".into()) }
    }
}
