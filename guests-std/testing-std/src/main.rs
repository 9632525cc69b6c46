//! Functions that the tests of std guests call, a topic a module. Each does one small thing.

mod calls;
mod ends;
mod process;
mod state;
mod threads;
mod time;

/// Runs before the first call.
#[glowbox_guest::main]
fn main() {
    state::started();
}
