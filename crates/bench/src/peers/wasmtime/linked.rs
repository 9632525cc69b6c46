//! Wasmtime itself.
//!
//! The module is compiled by Cranelift before any clock runs, and linked to its imports in advance
//! (`InstancePre`). What is timed is what a program does for each fresh instance: a store, an
//! instance, a call, and the end of both.

use std::fs;

use glowbox_bench::subject::Result;
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, InstancePre, Linker, Module, OptLevel,
    PoolingAllocationConfig, Store, TypedFunc,
};

use crate::experiments::compute::same_work;
use crate::experiments::{Experiment, Opened, ready};
use crate::peers::native::Library;
use crate::samples::{Samples, mean, timed};

/// The modules' files, where the target for them was installed when this was built.
const BENCH: Option<&str> = option_env!("GLOWBOX_WASM_BENCH");
const COMPUTE: Option<&str> = option_env!("GLOWBOX_WASM_COMPUTE");
/// Calls in a sample: one takes tens of nanoseconds.
const CALLS: u32 = 1000;
/// Instances in a round, each a sample.
const INSTANCES: u32 = 4;

/// The version in the lock file that this was built with.
pub(crate) fn version() -> Option<String> {
    let lock = include_str!("../../../../../Cargo.lock");
    let (_, rest) = lock.split_once("name = \"wasmtime\"\nversion = \"")?;
    rest.split_once('"').map(|(version, _)| version.to_string())
}

/// The modules, compiled.
#[derive(Clone)]
pub(crate) struct Wasm {
    compute: InstancePre<()>,
    /// The small one, for both kinds of allocation.
    on_demand: InstancePre<()>,
    pooling: InstancePre<()>,
}

impl Wasm {
    /// Compiles it, or says why there is nothing to compile.
    pub(crate) fn compile() -> Result<std::result::Result<Wasm, String>> {
        let (Some(bench), Some(compute)) = (BENCH, COMPUTE) else {
            return Ok(Err("this was built without the target wasm32-unknown-unknown; \
                           `rustup target add wasm32-unknown-unknown`, then build again"
                .into()));
        };
        // Its defaults are the fastest here: keeping 256 KiB of each instance, which then are zeroed in
        // place, has been tried.
        let pool = InstanceAllocationStrategy::Pooling(PoolingAllocationConfig::default());
        Ok(Ok(Wasm {
            compute: compiled(compute, InstanceAllocationStrategy::OnDemand)?,
            on_demand: compiled(bench, InstanceAllocationStrategy::OnDemand)?,
            pooling: compiled(bench, pool)?,
        }))
    }

    /// The experiment with small instances.
    pub(crate) fn instances(self) -> Result<Opened> {
        ready(Instances::open(self)?)
    }

    /// A piece of the compute set, as the samples of row `id`.
    pub(crate) fn compute(self, id: String, number: u32) -> Result<Opened> {
        ready(Compute::open(&self.compute, id, number)?)
    }
}

fn compiled(path: &str, allocation: InstanceAllocationStrategy) -> Result<InstancePre<()>> {
    let mut config = Config::new();
    config.cranelift_opt_level(OptLevel::Speed).allocation_strategy(allocation);
    let engine = Engine::new(&config)?;
    let module = Module::new(&engine, fs::read(path)?)?;
    Ok(Linker::new(&engine).instantiate_pre(&module)?)
}

struct Instances {
    wasm: Wasm,
    store: Store<()>,
    add: TypedFunc<(u32, u32), u32>,
}

impl Instances {
    fn open(wasm: Wasm) -> Result<Instances> {
        let mut store = Store::new(wasm.on_demand.module().engine(), ());
        let instance = wasm.on_demand.instantiate(&mut store)?;
        let add = instance.get_typed_func(&mut store, "add")?;
        Ok(Instances { wasm, store, add })
    }
}

impl Experiment for Instances {
    fn sample(&mut self, samples: &mut Samples) -> Result<()> {
        let kinds = [
            ("wasmtime-on-demand", &self.wasm.on_demand),
            ("wasmtime-pooling", &self.wasm.pooling),
        ];
        for (id, module) in kinds {
            life(module)?;
            for _ in 0..INSTANCES {
                samples.add(id, timed(|| life(module))?.1);
            }
        }
        let call = || match self.add.call(&mut self.store, (2, 3)) {
            Ok(5) => Ok(()),
            other => Err(format!("2 and 3 make {other:?}")),
        };
        samples.add("wasmtime-call", mean(CALLS, call)?);
        Ok(())
    }
}

/// The whole life of an instance.
fn life(module: &InstancePre<()>) -> Result<()> {
    let mut store = Store::new(module.module().engine(), ());
    let instance = module.instantiate(&mut store)?;
    let add = instance.get_typed_func::<(u32, u32), u32>(&mut store, "add")?;
    if add.call(&mut store, (2, 3))? == 5 { Ok(()) } else { Err("the instance can't add".into()) }
}

/// A piece of the compute set.
struct Compute {
    number: u32,
    id: String,
    expected: u64,
    store: Store<()>,
    run: TypedFunc<(u32, u32), u64>,
}

impl Compute {
    fn open(module: &InstancePre<()>, id: String, number: u32) -> Result<Compute> {
        let mut store = Store::new(module.module().engine(), ());
        let instance = module.instantiate(&mut store)?;
        instance.get_typed_func::<(), ()>(&mut store, "prepare")?.call(&mut store, ())?;
        let run = instance.get_typed_func(&mut store, "run")?;
        let native = Library::open()?;
        native.prepare();
        Ok(Compute { number, id, expected: native.run(number, 1), store, run })
    }
}

impl Experiment for Compute {
    fn sample(&mut self, samples: &mut Samples) -> Result<()> {
        self.run.call(&mut self.store, (self.number, 1))?;
        let (sum, time) = timed(|| self.run.call(&mut self.store, (self.number, 1)))?;
        same_work(sum, self.expected)?;
        samples.add(&self.id, time);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_file_has_its_version() {
        assert!(
            version().is_some_and(|text| text.starts_with(|first: char| first.is_ascii_digit()))
        );
    }
}
