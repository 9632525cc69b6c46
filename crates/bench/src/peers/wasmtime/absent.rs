//! Wasmtime's place in a build without it.

use glowbox_bench::subject::Result;

use crate::experiments::Opened;

/// There is none.
pub(crate) fn version() -> Option<String> {
    None
}

/// The modules, compiled: there never are any.
#[derive(Clone)]
pub(crate) enum Wasm {}

impl Wasm {
    /// Says how to get what is not here.
    pub(crate) fn compile() -> Result<std::result::Result<Wasm, String>> {
        Ok(Err("this was built without Wasmtime; \
                `cargo run --release -p glowbox-bench --features wasmtime` has these rows"
            .into()))
    }

    /// The experiment with small instances.
    pub(crate) fn instances(self) -> Result<Opened> {
        match self {}
    }

    /// A piece of the compute set, as the samples of row `id`.
    pub(crate) fn compute(self, _id: String, _number: u32) -> Result<Opened> {
        match self {}
    }
}
