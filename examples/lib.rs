//! What the examples share. They are the files beside this one; `cargo run --example hello` runs the first.

use std::sync::OnceLock;

use glowbox::{Engine, Error};

/// What the examples run their guests on: a hypervisor, or with a warning locked-down processes where there
/// is none.
///
/// A program of your own needs nothing like it: a sandbox that is built without an engine runs on a
/// hypervisor, or on what `GLOWBOX_BACKEND` names.
///
/// # Errors
///
/// There is neither, or not what `GLOWBOX_BACKEND` names.
pub fn engine() -> Result<Engine, Error> {
    static ENGINE: OnceLock<Result<Engine, Error>> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::builder().build_with_fallback(warn)).clone()
}

fn warn(missing: &Error) {
    eprintln!(
        "warning: {missing}.\n\
         Since nothing says what to use, this example's guests run in such processes now. \
         GLOWBOX_BACKEND=process does the same without a warning; GLOWBOX_BACKEND=kvm insists on KVM.\n"
    );
}
