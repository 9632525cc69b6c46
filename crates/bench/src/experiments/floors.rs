//! What KVM takes by itself to leave a VM and come back, and memory to be copied.

use glowbox_bench::floor::{Floor, memcpy_floor};
use glowbox_bench::subject::{ECHO_SIZES, Pages, Result};

use super::{Experiment, Plan, ready};
use crate::rows::{EXIT, Row};
use crate::samples::{Samples, mean, timed};

/// Copies in a sample of the sizes that are too quick for a clock.
const COPIES: u32 = 8;
/// Exits in a round, each a sample.
const EXITS: u32 = 8;

/// The row of a copy of `ECHO_SIZES[size]`.
pub(crate) fn copy_id(size: usize) -> String {
    format!("floor-memcpy-{}", ECHO_SIZES[size].0.to_lowercase().replace(' ', ""))
}

pub(crate) fn plans() -> Vec<Plan> {
    let exits = vec![Row::floor(EXIT, "R: out in ring 3, and back: KVM_RUN of a bare VM")];
    let copies = ECHO_SIZES.iter().enumerate().map(|(at, (name, _))| {
        Row::floor(copy_id(at), format!("memcpy of {name}, page-aligned, target warm"))
    });
    vec![
        Plan::new(exits, |lab| ready(Exits(lab.bare.create()?))),
        Plan::new(copies.collect(), |_| ready(Copies::new())),
    ]
}

struct Exits(Floor);

impl Experiment for Exits {
    fn sample(&mut self, samples: &mut Samples) -> Result<()> {
        exits(&mut self.0, samples)
    }
}

/// Takes samples of the bare exit. Others do so too, turn by turn with what they compare with it.
pub(crate) fn exits(floor: &mut Floor, samples: &mut Samples) -> Result<()> {
    floor.exit_round_trip()?;
    for _ in 0..EXITS {
        let ((), time) = timed(|| floor.exit_round_trip())?;
        samples.add(EXIT, time);
    }
    Ok(())
}

struct Copies {
    source: Pages,
    target: Pages,
    ids: [String; ECHO_SIZES.len()],
}

impl Copies {
    fn new() -> Copies {
        let largest = ECHO_SIZES[ECHO_SIZES.len() - 1].1;
        let ids = std::array::from_fn(copy_id);
        Copies { source: Pages::new(largest), target: Pages::new(largest), ids }
    }
}

impl Experiment for Copies {
    fn sample(&mut self, samples: &mut Samples) -> Result<()> {
        for (id, (_, size)) in self.ids.iter().zip(ECHO_SIZES) {
            let (source, target) = (&self.source.bytes()[..size], self.target.bytes_mut());
            let target = &mut target[..size];
            memcpy_floor(source, target);
            let copies = if size < 16 << 20 { COPIES } else { 1 };
            let time = mean(copies, || -> Result<()> {
                memcpy_floor(source, target);
                Ok(())
            })?;
            samples.add(id, time);
        }
        Ok(())
    }
}
