//! The compute set: the same work natively, in Glowbox and in Wasmtime.
//!
//! Each piece is done once a call, with its inputs made beforehand on the side that works on them.
//! What is timed is the whole call, seen from the host, so Glowbox's rows contain an exit. What a
//! piece takes without one shows in the sustained rows: there, a call does it several times. All
//! three must come to the same checksum.

use glowbox::{Function, Guest, Sandbox};
use glowbox_bench::subject::Result;

use super::process::beside;
use super::{Experiment, Lab, Opened, Plan, ready};
use crate::peers::native::Library;
use crate::rows::{Row, System, Yardstick};
use crate::samples::{Samples, shuffle, timed};

/// The pieces, by the numbers they have in `guests/compute/work`, and how often a call of the
/// sustained rows does them.
const PIECES: [(&str, &str, u32); 5] = [
    ("sha256", "SHA-256 of 1 MiB", 16),
    ("json", "parse 1 MiB of JSON into a tree", 2),
    ("regex", "two patterns over 1 MiB of log lines", 4),
    ("matrix", "512x512 f32 matrix product", 2),
    ("resize", "RGBA image from 1280x800 to 800x500", 4),
];

/// How much slower than natively a guest may compute.
pub(crate) const NATIVE_BOUND: f64 = 1.03;

pub(crate) fn plans() -> Vec<Plan> {
    let mut plans = Vec::new();
    for (number, (name, what, times)) in (0..).zip(PIECES) {
        let native = format!("compute-{name}-native");
        let wasm = format!("compute-{name}-wasmtime");
        let glowbox = format!("compute-{name}");
        let by_native = Yardstick::row(&native, "native");
        let once = || {
            let rows = vec![
                Row::new(System::Native, &native, what),
                Row::glowbox(&glowbox, what).against(by_native.clone()).at_most(NATIVE_BOUND),
            ];
            let open = move |lab: &Lab| ready(Compute::open(lab, number, 1, "")?);
            vec![Plan::new(rows, open).every(4)]
        };
        plans.extend(beside(once));
        let sustained = format!("{what}, {times} in one call: each");
        let rows = vec![
            Row::new(System::Native, format!("{native}-sustained"), &sustained),
            Row::glowbox(format!("{glowbox}-sustained"), &sustained)
                .against(Yardstick::row(&format!("{native}-sustained"), "native, sustained")),
        ];
        let open = move |lab: &Lab| ready(Compute::open(lab, number, times, "-sustained")?);
        plans.push(Plan::new(rows, open).every(8));
        // Rows of their own, which can be missing where there is no WebAssembly.
        let rows = vec![
            Row::new(System::Wasmtime, &wasm, what).against(by_native),
            Row::glowbox(format!("{glowbox}-against-wasmtime"), what)
                .with_samples_of(&glowbox)
                .against(Yardstick::row(&wasm, "Wasmtime"))
                .at_most(1.0),
        ];
        plans.push(Plan::new(rows, move |lab| open_wasm(lab, number)).every(4));
    }
    plans
}

/// Natively and in Glowbox, turn by turn.
struct Compute {
    number: u32,
    times: u32,
    ids: [String; 2],
    native: Library,
    sandbox: Sandbox,
    run: Function<(u32, u32), Option<u64>>,
    state: usize,
}

impl Compute {
    fn open(lab: &Lab, number: u32, times: u32, suffix: &str) -> Result<Compute> {
        let elf = include_bytes!(env!("GLOWBOX_GUEST_COMPUTE")).as_slice();
        let sandbox =
            Sandbox::builder().engine(&lab.shared).build(Guest::from_bytes("compute", elf)?)?;
        let native = Library::open()?;
        native.prepare();
        let name = PIECES[number as usize].0;
        Ok(Compute {
            number,
            times,
            ids: [format!("compute-{name}-native{suffix}"), format!("compute-{name}{suffix}")],
            native,
            run: sandbox.function("run")?,
            sandbox,
            state: 1,
        })
    }
}

impl Experiment for Compute {
    fn sample(&mut self, samples: &mut Samples) -> Result<()> {
        let (number, times) = (self.number, self.times);
        let mut sums = [0; 2];
        let mut order = [0, 1];
        shuffle(&mut order, &mut self.state);
        for side in order {
            // Each side once off the clock: it finds the other's data in the caches.
            let mut run = || match side {
                0 => Ok(self.native.run(number, times)),
                _ => {
                    self.run.call(&mut self.sandbox, (number, times)).map(Option::unwrap_or_default)
                }
            };
            run()?;
            let (sum, time) = timed(run)?;
            samples.add(&self.ids[side], time / f64::from(times));
            sums[side] = sum;
        }
        same_work(sums[1], sums[0])
    }
}

/// In Wasmtime.
fn open_wasm(lab: &Lab, number: u32) -> Result<Opened> {
    match lab.wasm()? {
        Ok(wasm) => wasm.compute(format!("compute-{}-wasmtime", PIECES[number as usize].0), number),
        Err(reason) => Ok(Opened::LeftOut(reason)),
    }
}

/// Fails if a piece of work did not come to what it comes to natively.
pub(crate) fn same_work(sum: u64, expected: u64) -> Result<()> {
    if sum == expected && sum != 0 {
        return Ok(());
    }
    Err(format!("the work came to {sum:#x}, but natively to {expected:#x}").into())
}
