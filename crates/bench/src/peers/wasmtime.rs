//! Wasmtime: instances made on demand and taken from a pool, and calls.
//!
//! It takes minutes to compile, so it is there only with the feature `wasmtime`. The rows are the same
//! without it, and are left out by name.

#[cfg_attr(feature = "wasmtime", path = "wasmtime/linked.rs")]
#[cfg_attr(not(feature = "wasmtime"), path = "wasmtime/absent.rs")]
mod engine;

pub(crate) use engine::{Wasm, version};

use crate::experiments::{Opened, Plan};
use crate::rows::{Row, System};

pub(crate) fn plans() -> Vec<Plan> {
    let row = |id, what: &str| Row::new(System::Wasmtime, id, what);
    let rows = vec![
        row("wasmtime-on-demand", "instance on demand, first call, drop"),
        row("wasmtime-pooling", "instance from the pool, first call, drop"),
        row("wasmtime-call", "add(u32, u32), warm"),
    ];
    vec![Plan::new(rows, |lab| match lab.wasm()? {
        Ok(wasm) => wasm.instances(),
        Err(reason) => Ok(Opened::LeftOut(reason)),
    })]
}
