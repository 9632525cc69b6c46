//! The experiments: each takes the samples of a few rows that belong together.
//!
//! An experiment says which rows it measures before it is opened, because opening one takes time and
//! memory that a run of other rows should not see.

mod calls;
pub(crate) mod compute;
mod creation;
mod echo;
mod floors;
mod interpreter;
mod interrupt;
mod linux;
mod load;
mod memory;
mod process;
mod reset;
mod spawn;
mod threads;

pub(crate) use memory::{
    Count as MemoryCount, allow_files, heap_in_use, map_large_blocks, trim_heap,
};
pub(crate) use reset::WRITTEN as WRITTEN_PAGES;

use std::cell::OnceCell;
use std::sync::Arc;

use glowbox::{Backend, Engine, Guest};
use glowbox_bench::subject::{self, Bare, Result};

use self::process::beside;
use crate::peers;
use crate::peers::wasmtime::Wasm;
use crate::rows::Row;
use crate::samples::Samples;

/// Something that takes samples, one of each of its rows or a few.
pub(crate) trait Experiment {
    fn sample(&mut self, samples: &mut Samples) -> Result<()>;
}

/// How often an experiment takes its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// In every round, or every so many.
    Every(u32),
    /// Once, when the rounds are over: what it does would disturb the others.
    Last,
}

/// An experiment that could be opened.
pub(crate) struct Plan {
    pub(crate) rows: Vec<Row>,
    pub(crate) turn: Turn,
    pub(crate) open: Open,
}

type Open = Box<dyn Fn(&Lab) -> Result<Opened>>;

/// What opening came to.
pub(crate) enum Opened {
    Ready(Box<dyn Experiment>),
    /// It can't be done on this machine, and why.
    LeftOut(String),
}

impl Plan {
    pub(crate) fn new(rows: Vec<Row>, open: impl Fn(&Lab) -> Result<Opened> + 'static) -> Plan {
        Plan { rows, turn: Turn::Every(1), open: Box::new(open) }
    }

    fn last(mut self) -> Plan {
        self.turn = Turn::Last;
        self
    }

    fn every(mut self, rounds: u32) -> Plan {
        self.turn = Turn::Every(rounds);
        self
    }
}

pub(crate) fn ready(experiment: impl Experiment + 'static) -> Result<Opened> {
    Ok(Opened::Ready(Box::new(experiment)))
}

/// What experiments share.
pub(crate) struct Lab {
    backend: Backend,
    pub(crate) bare: Arc<Bare>,
    pub(crate) elf: Arc<[u8]>,
    pub(crate) guest: Guest,
    /// Without a pool.
    pub(crate) cold: Engine,
    /// With the pool that it has by default.
    pub(crate) pooled: Engine,
    /// That of sandboxes for which it does not matter.
    pub(crate) shared: Engine,
    wasm: OnceCell<std::result::Result<Wasm, String>>,
    process: OnceCell<std::result::Result<Box<Lab>, String>>,
}

impl Lab {
    /// The lab of the rows that say nothing of a backend.
    pub(crate) fn open() -> Result<Lab> {
        let shared = Engine::shared()?;
        if shared.backend() != Backend::Kvm {
            let text = "the scoreboard measures KVM, and the process backend beside it";
            return Err(format!("{text}: run it with GLOWBOX_BACKEND=kvm").into());
        }
        let elf = subject::elf();
        let guest = subject::guest(&elf)?;
        Lab::with(Backend::Kvm, Arc::new(Bare::open()?), elf, guest, shared)
    }

    fn with(
        backend: Backend,
        bare: Arc<Bare>,
        elf: Arc<[u8]>,
        guest: Guest,
        shared: Engine,
    ) -> Result<Lab> {
        let cold = Engine::builder().backend(backend).pool_size(0).build()?;
        let pooled = Engine::builder().backend(backend).build()?;
        let (wasm, process) = (OnceCell::new(), OnceCell::new());
        Ok(Lab { backend, bare, elf, guest, cold, pooled, shared, wasm, process })
    }

    /// The lab of the process backend, opened when it is first asked for; or why there is none.
    pub(crate) fn process(&self) -> Result<&std::result::Result<Box<Lab>, String>> {
        if let Some(lab) = self.process.get() {
            return Ok(lab);
        }
        let backend = Backend::Process;
        let lab = match Engine::builder().backend(backend).build() {
            Ok(shared) => {
                let (bare, elf) = (Arc::clone(&self.bare), Arc::clone(&self.elf));
                Ok(Box::new(Lab::with(backend, bare, elf, self.guest.clone(), shared)?))
            }
            Err(error) => Err(format!("the process backend can't be opened here: {error}")),
        };
        Ok(self.process.get_or_init(|| lab))
    }

    /// Bare VMs for what takes turns with them, where sandboxes are VMs.
    pub(crate) fn beside(&self) -> Option<Arc<Bare>> {
        (self.backend == Backend::Kvm).then(|| Arc::clone(&self.bare))
    }

    /// The WebAssembly module, compiled when it is first asked for; or why there is none.
    pub(crate) fn wasm(&self) -> Result<std::result::Result<Wasm, String>> {
        if let Some(wasm) = self.wasm.get() {
            return Ok(wasm.clone());
        }
        let wasm = Wasm::compile()?;
        Ok(self.wasm.get_or_init(|| wasm).clone())
    }
}

/// Everything that can be measured, in the order of the table.
pub(crate) fn all() -> Vec<Plan> {
    let mut plans = floors::plans();
    plans.extend(beside(|| vec![creation::plan()]));
    plans.extend(beside(|| vec![calls::plan()]));
    plans.extend(beside(echo::plans));
    plans.extend(beside(|| vec![spawn::plan()]));
    plans.extend(beside(reset::plans));
    plans.extend(load::plans());
    plans.extend(beside(|| vec![interrupt::plan()]));
    plans.extend(compute::plans());
    plans.extend(linux::plans());
    plans.extend(beside(interpreter::plans));
    plans.push(threads::plan());
    plans.extend(peers::plans());
    plans.push(memory::plan());
    plans
}
