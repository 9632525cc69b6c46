//! What every backend of Glowbox has to hold.
//!
//! The tests of this crate, `contract`, drive a [`Machine`](../glowbox_machine/trait.Machine.html) of the
//! backend that `GLOWBOX_BACKEND` names, with guests of machine code. `stand-in/` is what Microsoft Hypervisor
//! is tested with where it is not there. See `docs/backends.md`.

#![forbid(unsafe_code)]
