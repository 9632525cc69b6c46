//! Glowbox: call functions of untrusted programs inside micro-VMs.
//!
//! An application links this library, hands it a guest program, and calls single functions of that
//! program. The guest runs in ring 3 of a virtual machine that has one vCPU, one piece of memory,
//! no devices and no kernel; nothing outside is reachable from it but the host functions that were
//! registered.
//!
//! ```no_run
//! use glowbox::Sandbox;
//!
//! # fn main() -> Result<(), glowbox::Error> {
//! let mut sandbox = Sandbox::builder()
//!     .host_function("weekday", || "Monday".to_string())
//!     .build("greeter.elf")?;
//! let greeting: String = sandbox.call("greet", ("World",))?;
//!
//! // Name and types are checked here, once.
//! let greet = sandbox.function::<(&str,), String>("greet")?;
//! let again = greet.call(&mut sandbox, ("again",))?;
//! # Ok(())
//! # }
//! ```
//!
//! # What guests run on
//!
//! A virtual machine, by KVM or Microsoft Hypervisor. Where there is no hypervisor, building a sandbox or an
//! [`Engine`] is an error ([`ErrorKind::HypervisorMissing`], [`ErrorKind::HypervisorDenied`]) that says what
//! to do.
//!
//! Guests can run there in locked-down processes instead, by the same code and with the same results. Those
//! isolate guests less, as `SECURITY.md` explains, so they are used only where they are asked for:
//!
//! - [`EngineBuilder::backend`] with [`Backend::Process`] asks for them in the program;
//! - the environment variable `GLOWBOX_BACKEND`, with the value `process`, asks for them where the program
//!   does not choose; a program that insists on hardware chooses it, and is not overruled;
//! - [`EngineBuilder::build_with_fallback`] takes them where there is no hypervisor, and tells.
//!
//! [`Engine::backend`] says which it is.
//!
//! # How a call ends
//!
//! With a value; with an error that the guest function returned ([`ErrorKind::Guest`]), after which
//! the sandbox goes on; or with the sandbox *spent*: the guest panicked, faulted, ran out of time or
//! memory, or broke the protocol. A spent sandbox refuses further calls
//! ([`ErrorKind::Spent`]) until it is [reset](Sandbox::reset).
//!
//! # Boot once, then spawn
//!
//! A [`Snapshot`] is a guest between two calls. [`Snapshot::spawn`] makes sandboxes of it in
//! microseconds, on any thread; [`Sandbox::reset`] puts one back in place. They share the snapshot's
//! memory until they write to it, and a dropped sandbox leaves its VM, scrubbed, to the next one
//! ([`EngineBuilder::pool_size`]).
//!
//! ```no_run
//! # fn main() -> Result<(), glowbox::Error> {
//! let mut sandbox = glowbox::Sandbox::builder().build("plugin.elf")?;
//! let snapshot = sandbox.snapshot()?;
//! let mut fresh = snapshot.spawn()?;
//! let answer: u32 = fresh.call("serve", ("a request",))?;
//! # Ok(())
//! # }
//! ```
//!
//! # What a guest can do to its host
//!
//! Use the CPU time and memory that it was given, make the host decode messages up to their limit
//! (see [`Builder::message_size`]), write to the log as fast as the log's limits
//! allow, and call the registered host functions with arguments of its choice. Host functions are
//! the border: check what they are given.
//!
//! # Features
//!
//! - `seccomp` (off by default): a filter of system calls for threads that run guests, in the module
//!   `seccomp`.
//!
//! # Where to go from here
//!
//! [`Sandbox`] and [`Builder`] for hosts; the `glowbox-guest` crate and `docs/writing-guests.md`
//! for guests; the `glowbox-build` crate for building guests from a build script or a test.

#![forbid(unsafe_code)]

mod arguments;
mod builder;
mod capabilities;
mod encoded;
mod engine;
mod error;
mod filler;
mod function;
mod guest;
mod host_function;
mod instance;
mod interrupt;
mod linux;
mod log;
mod mapping;
mod pool;
mod process;
mod randomness;
mod sandbox;
#[cfg(feature = "seccomp")]
pub mod seccomp;
mod setup;
mod snapshot;
mod watchdog;

pub use arguments::Arguments;
pub use builder::Builder;
pub use engine::{Engine, EngineBuilder};
pub use error::{Error, ErrorKind, GuestPanic};
pub use function::{CallOptions, Function};
pub use guest::{Guest, IntoGuest};
pub use host_function::{Caller, HostError, HostFunction};
pub use interrupt::InterruptHandle;
pub use log::{LogLevel, LogLimits, LogRecord};
pub use mapping::Mapping;
pub use process::{ExitStatus, Process};
pub use sandbox::{Sandbox, Stats};
pub use snapshot::{Loader, Snapshot, Spawner};

pub use glowbox_machine::Backend;

pub use glowbox_linux::Clock;
pub use glowbox_linux::files::{Input, Output, OutputBuffer};

pub use glowbox_core::fault::{Access, Fault, FaultKind};
pub use glowbox_core::layout::RegionKind;
pub use glowbox_core::registers::Registers;
pub use glowbox_core::signature::Signature;
pub use glowbox_core::symbols::Symbol;
