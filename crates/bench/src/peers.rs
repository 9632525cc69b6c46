//! Other ways to run a function apart from its caller, measured in the same rounds.

pub(crate) mod native;
mod process;
pub(crate) mod wasmtime;

use crate::experiments::Plan;

pub(crate) fn plans() -> Vec<Plan> {
    let mut plans = wasmtime::plans();
    plans.extend(process::plans());
    plans
}
