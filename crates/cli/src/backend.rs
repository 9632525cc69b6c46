//! What guests run on: a hypervisor, or what is asked for. Where there is no hypervisor and nothing is asked
//! for, it is locked-down processes, and the command says so.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use glowbox::{Backend, Engine, Error};

use crate::failure::{self, Failure};
use crate::output;

/// Opens what is asked for, or the default. To be called once: it may warn.
pub(crate) fn engine(backend: Option<Backend>) -> Result<Engine, Failure> {
    let builder = match backend {
        Some(backend) => Engine::builder().backend(backend),
        None => Engine::builder(),
    };
    Ok(builder.build_with_fallback(warn)?)
}

fn warn(missing: &Error) {
    output::warn(&format!(
        "{}.\nNothing asks for anything else, so the guest runs in such a process now; asking for it keeps \
         this warning away. `--backend kvm` insists on KVM, and `glowbox doctor` says more",
        failure::text(missing)
    ));
}

/// Reads a backend's name.
pub(crate) fn parser() -> impl TypedValueParser<Value = Backend> {
    let names = Backend::ALL.iter().map(|backend| backend.name());
    PossibleValuesParser::new(names).try_map(|name| name.parse::<Backend>())
}
