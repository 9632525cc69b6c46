//! Guests with the standard library: a small one, and one that holds a script engine.

use glowbox::{Function, Guest, Sandbox, Snapshot};
use glowbox_bench::subject::Result;
use script_engine::Interpreter;

use super::spawn::end;
use super::{Experiment, Lab, Plan, ready};
use crate::rows::{EXIT, Row, System, Yardstick};
use crate::samples::{Samples, timed};

/// What is evaluated, and what it comes to.
const SCRIPTS: [(&str, &str, &str); 2] =
    [("sum", "40 + 2", "42"), ("primes", "primes(1000)", "168")];
/// Exits that a spawn, an evaluation and a drop may take together, besides the evaluation itself.
const EXITS: f64 = 4.0;

pub(crate) fn plans() -> Vec<Plan> {
    let mut plans = Vec::new();
    for (number, (name, script, _)) in SCRIPTS.into_iter().enumerate() {
        let native = format!("script-{name}-native");
        let what = format!("spawn a warm script engine, evaluate `{script}`, drop");
        let yardstick = Yardstick::row(&native, "native").plus(EXITS, EXIT).called("native + 4 R");
        let rows = vec![
            Row::new(System::Native, &native, format!("evaluate `{script}` in a warm engine")),
            Row::glowbox(format!("script-{name}"), what).against(yardstick).at_most(1.0),
        ];
        plans.push(Plan::new(rows, move |lab| ready(Script::open(lab, number)?)));
    }
    plans
}

/// A script in a sandbox of its own each time, and natively.
struct Script {
    number: usize,
    native: Interpreter,
    snapshot: Snapshot,
    evaluate: Function<(&'static str,), std::result::Result<String, String>>,
}

impl Script {
    fn open(lab: &Lab, number: usize) -> Result<Script> {
        let elf = include_bytes!(env!("GLOWBOX_GUEST_INTERPRETER_STD")).as_slice();
        let guest = Guest::from_bytes("interpreter-std", elf)?;
        let mut sandbox = Sandbox::builder().engine(&lab.pooled).build(guest)?;
        sandbox.call::<_, std::result::Result<String, String>>("warm", ())??;
        let evaluate = sandbox.function("evaluate")?;
        // As warm as the native one: what the heap grows by for such a script is in the snapshot.
        evaluate.call(&mut sandbox, (SCRIPTS[number].1,))??;
        let mut native = Interpreter::new();
        native.evaluate(SCRIPTS[number].1).map_err(|error| error.to_string())?;
        Ok(Script { number, native, snapshot: sandbox.snapshot()?, evaluate })
    }

    fn life(&self, script: &'static str) -> Result<String> {
        let mut sandbox = self.snapshot.spawn()?;
        let value = self.evaluate.call(&mut sandbox, (script,))??;
        end(sandbox)?;
        Ok(value)
    }
}

impl Experiment for Script {
    fn sample(&mut self, samples: &mut Samples) -> Result<()> {
        let (name, script, expected) = SCRIPTS[self.number];
        let native = &mut self.native;
        let mut natively = || -> Result<String> {
            Ok(native.evaluate(script).map_err(|error| error.to_string())?)
        };
        natively()?;
        let (value, time) = timed(natively)?;
        samples.add(&format!("script-{name}-native"), time);
        same(&value, expected)?;
        // The steady state: a VM that was used the same way before is in the pool.
        self.life(script)?;
        let (value, time) = timed(|| self.life(script))?;
        samples.add(&format!("script-{name}"), time);
        same(&value, expected)
    }
}

fn same(value: &str, expected: &str) -> Result<()> {
    if value == expected { Ok(()) } else { Err(format!("the script came to {value}").into()) }
}
