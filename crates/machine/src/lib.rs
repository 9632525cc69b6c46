//! What runs a guest's code.
//!
//! A [`Machine`] runs user-mode code over guest memory until it exits. Its [`Exit`]s speak of what
//! the guest did (called out, made a system call, faulted, was interrupted), not of how the
//! hypervisor under it noticed; so one library drives every backend.
//!
//! - [`kvm`]: the backend for Linux's KVM;
//! - [`supervisor`]: what all hypervisor backends put into ring 0;
//! - [`interrupt`]: how a running guest is stopped from another thread.

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("glowbox-machine has backends for x86-64 Linux only");

use glowbox_core::fault::Exception;
use glowbox_core::registers::Registers;

pub mod interrupt;
pub mod kvm;
pub mod supervisor;

/// Something that runs user-mode code over guest memory until it exits.
pub trait Machine: Send {
    /// Guest memory. The guest does not run while it is borrowed.
    fn memory(&self) -> &[u8];

    /// Guest memory, for writing. Bytes, and not the mapping: that stays the machine's as long as
    /// the guest may run.
    fn memory_mut(&mut self) -> &mut [u8];

    /// Lets the guest run until it exits. It goes on where it was: after the instruction with
    /// which it called out.
    ///
    /// # Errors
    ///
    /// [`MachineError`] if the hypervisor refuses to run it.
    fn run(&mut self) -> Result<Exit, MachineError>;

    /// What [`Machine::run`] obeys: the current call's state.
    fn control(&self) -> &std::sync::Arc<interrupt::RunControl>;

    /// Times that the hypervisor was asked to run the guest.
    fn entries(&self) -> u64;
}

/// Why a guest stopped running.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// It called out: there is a message in the mailbox.
    CalledOut,
    /// It executed `syscall`. The registers are those at its entry.
    Syscall(Box<Registers>),
    /// It used an I/O port that it may not, and the hypervisor let it leave that way.
    Port {
        /// The port.
        port: u16,
        /// The guest's registers.
        registers: Box<Registers>,
    },
    /// It raised an exception.
    Exception(Box<Exception>),
    /// It was stopped from outside; [`interrupt::RunControl`] knows why.
    Interrupted,
    /// The virtual machine can't go on, for a reason that should not exist.
    Broken {
        /// What the hypervisor reported.
        reason: String,
    },
}

/// The hypervisor refused something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MachineError {
    /// There is no hypervisor device.
    #[error(
        "{path} does not exist: this machine offers no KVM. Enable virtualisation in the firmware \
         (or nested virtualisation for a virtual machine), and load the module `kvm_intel` or \
         `kvm_amd`"
    )]
    Missing {
        /// The device.
        path: &'static str,
    },
    /// The device may not be opened.
    #[error(
        "{path} is there, but this user may not open it. Add the user to the device's group \
         (usually `sudo usermod -aG kvm $USER`, then log in again), or in a container pass the \
         device in (`--device {path}`)"
    )]
    Denied {
        /// The device.
        path: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The hypervisor lacks something.
    #[error("this machine's KVM lacks {what}, which Glowbox needs")]
    Unsupported {
        /// What is missing.
        what: &'static str,
    },
    /// A request failed.
    #[error("{request} failed")]
    Request {
        /// The request's name.
        request: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The signal that stops guests can't be used.
    #[error(
        "signal {signal} is handled or ignored by this process; choose another one for interrupting \
         guests (EngineBuilder::interrupt_signal)"
    )]
    SignalTaken {
        /// The signal.
        signal: i32,
    },
    /// The number is no real-time signal.
    #[error("{signal} is no real-time signal ({min} to {max})")]
    NotRealTime {
        /// The number.
        signal: i32,
        /// The first real-time signal.
        min: i32,
        /// The last one.
        max: i32,
    },
}
