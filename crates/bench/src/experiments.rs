//! The experiments: each takes the samples of a few rows that belong together.
//!
//! An experiment says which rows it measures before it is opened, because opening one takes time and
//! memory that a run of other rows should not see.

mod calls;
mod compute;
mod creation;
mod echo;
mod floors;
mod interpreter;
mod interrupt;
mod linux;
mod load;
mod memory;
mod reset;
mod spawn;
mod threads;

pub(crate) use memory::{
    Count as MemoryCount, allow_files, heap_in_use, map_large_blocks, trim_heap,
};
pub(crate) use reset::WRITTEN as WRITTEN_PAGES;

use std::cell::OnceCell;
use std::sync::Arc;

use glowbox::{Engine, Guest};
use glowbox_bench::subject::{self, Bare, Result};

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

fn ready(experiment: impl Experiment + 'static) -> Result<Opened> {
    Ok(Opened::Ready(Box::new(experiment)))
}

/// What experiments share.
pub(crate) struct Lab {
    pub(crate) bare: Arc<Bare>,
    pub(crate) elf: Arc<[u8]>,
    pub(crate) guest: Guest,
    /// Without a pool.
    pub(crate) cold: Engine,
    /// With the pool that it has by default.
    pub(crate) pooled: Engine,
    wasm: OnceCell<std::result::Result<Wasm, String>>,
}

impl Lab {
    pub(crate) fn open() -> Result<Lab> {
        let elf = subject::elf();
        let guest = subject::guest(&elf)?;
        let (cold, pooled) = (Engine::builder().pool_size(0).build()?, Engine::new()?);
        let bare = Arc::new(Bare::open()?);
        Ok(Lab { bare, elf, guest, cold, pooled, wasm: OnceCell::new() })
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
    plans.push(creation::plan());
    plans.push(calls::plan());
    plans.extend(echo::plans());
    plans.push(spawn::plan());
    plans.extend(reset::plans());
    plans.extend(load::plans());
    plans.push(interrupt::plan());
    plans.extend(compute::plans());
    plans.extend(linux::plans());
    plans.extend(interpreter::plans());
    plans.push(threads::plan());
    plans.extend(peers::plans());
    plans.push(memory::plan());
    plans
}
