//! What runs a guest's code.
//!
//! A [`Machine`] runs user-mode code over guest memory until it exits. Its [`Exit`]s speak of what
//! the guest did (called out, made a system call, faulted, was interrupted), not of how the
//! hypervisor under it noticed; so one library drives every backend.
//!
//! - [`Backend`] and [`Platform`]: which backends there are, and what opens and makes machines;
//! - [`kvm`]: the backend for Linux's KVM;
//! - [`kvm`]: the backend for Linux's KVM;
//! - [`mshv`]: the backend for Microsoft Hypervisor;
//! - [`process`]: the backend without a hypervisor;
//! - [`supervisor`]: what all hypervisor backends put into ring 0;
//! - [`interrupt`]: how a running guest is stopped from another thread.

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("glowbox-machine has backends for x86-64 Linux only");

use std::sync::Arc;
use std::time::Duration;

use glowbox_core::address::Gpa;
use glowbox_core::fault::Exception;
use glowbox_core::registers::{CpuState, ExtendedState, Registers};
use glowbox_mem::{Image, Lent, Window};

use interrupt::RunControl;

/// General registers of one type as another's: every interface has a type of its own for them, with the same
/// names but for the flags'.
macro_rules! general_registers {
    ($from:expr => $Type:ident { $($rest:tt)* }) => {{
        let from = $from;
        $Type {
            rax: from.rax,
            rbx: from.rbx,
            rcx: from.rcx,
            rdx: from.rdx,
            rsi: from.rsi,
            rdi: from.rdi,
            rsp: from.rsp,
            rbp: from.rbp,
            r8: from.r8,
            r9: from.r9,
            r10: from.r10,
            r11: from.r11,
            r12: from.r12,
            r13: from.r13,
            r14: from.r14,
            r15: from.r15,
            rip: from.rip,
            $($rest)*
        }
    }};
}

/// A segment register as an interface's type for them has it; all have the same names.
macro_rules! segment_register {
    ($of:expr => $Type:ident) => {{
        let of: $crate::vcpu::Segment = $of;
        $Type {
            base: of.base,
            limit: of.limit,
            selector: of.selector,
            type_: of.kind,
            present: 1,
            dpl: of.dpl,
            db: u8::from(of.user && !of.long),
            s: u8::from(of.user),
            l: u8::from(of.long),
            g: u8::from(of.user),
            ..Default::default()
        }
    }};
}

mod backend;
mod cpuid;
pub mod interrupt;
pub mod kvm;
pub mod mshv;
pub mod process;
pub mod supervisor;
mod vcpu;
mod vm;

pub use backend::{Backend, Caps, Platform, VARIABLE, chosen, open};
pub use vm::VirtualMachine;

/// The flags that ring-3 code can change: carry, parity, adjust, zero, sign, trap, direction,
/// overflow, alignment check, identification.
const USER_FLAGS: u64 =
    1 << 0 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 11 | 1 << 18 | 1 << 21;
/// Of these, the one that makes the CPU stop after each instruction.
const TRAP_FLAG: u64 = 1 << 8;

/// Something that runs user-mode code over guest memory until it exits.
pub trait Machine: Send {
    /// Guest memory. The guest does not run while it is borrowed.
    fn memory(&self) -> &[u8];

    /// Guest memory, for writing. Bytes, and not the mapping: that stays the machine's as long as
    /// the guest may run.
    fn memory_mut(&mut self) -> &mut [u8];

    /// The image that guest memory goes back to.
    fn image(&self) -> Option<&Arc<Image>>;

    /// The mapping under guest memory, for filling and restoring it.
    fn window(&mut self) -> Window<'_>;

    /// Bytes of guest memory, where their source may have vanished: `None` then.
    fn copy_out(&self, range: std::ops::Range<usize>) -> Option<Vec<u8>>;

    /// Writes into guest memory what every guest needs beside its program: the supervisor, and the
    /// way into `state`.
    fn install(&mut self, state: &CpuState);

    /// Lets the next [`Machine::run`] start the guest in `state`, which [`Machine::install`] has been
    /// given for this memory, whatever the guest was in the middle of. The trap flag of that state is
    /// not set again.
    ///
    /// # Errors
    ///
    /// [`MachineError`] if the hypervisor refuses, or the machine is broken.
    fn start(&mut self, state: &CpuState) -> Result<(), MachineError>;

    /// The state that the guest is in; it must have called out.
    ///
    /// # Errors
    ///
    /// [`MachineError`] if the hypervisor refuses.
    fn state(&mut self) -> Result<CpuState, MachineError>;

    /// Lets the next [`Machine::run`] go on in user mode with these registers, after an exit other than
    /// by calling out; all else is as it was at the exit.
    ///
    /// # Errors
    ///
    /// [`MachineError`] if the hypervisor refuses.
    fn proceed(&mut self, registers: &Registers, bases: SegmentBases) -> Result<(), MachineError>;

    /// The segment bases at the last exit.
    ///
    /// # Errors
    ///
    /// [`MachineError`] if the hypervisor refuses.
    fn bases(&self) -> Result<SegmentBases, MachineError>;

    /// The x87, SSE and AVX state at the last exit.
    ///
    /// # Errors
    ///
    /// [`MachineError`] if the hypervisor refuses.
    fn extended(&mut self) -> Result<ExtendedState, MachineError>;

    /// Whether every exit is to bring the registers with it, since the guest's exits other than by
    /// calling out are answered.
    fn carry_registers(&mut self, carry: bool);

    /// Notes that page tables in guest memory let the guest use these bytes of it in a new way. When
    /// memory is put back, the machine has to forget that.
    fn reveal(&mut self, memory: std::ops::Range<usize>);

    /// Forgets how the guest reaches these bytes of guest memory, since page tables in it allow less
    /// than they did.
    ///
    /// # Errors
    ///
    /// [`MachineError`] if the system refuses; the machine is broken then.
    fn forget(&mut self, memory: std::ops::Range<usize>) -> Result<(), MachineError>;

    /// Forgets everything about the page tables in guest memory, since others lie there now, or fewer.
    ///
    /// A change of an entry that leads to memory is noticed, or is told by [`Machine::forget`]. One that
    /// leads to another table is not: a hypervisor that shadows page tables goes on using the shadow of
    /// the table that was there.
    ///
    /// # Errors
    ///
    /// [`MachineError`] if the hypervisor refuses; the machine is broken then.
    fn forget_tables(&mut self) -> Result<(), MachineError>;

    /// Brings to an end whatever the last exit left unfinished, which might still write to memory,
    /// and wipes what the guest's end has left in the supervisor. To be called before memory is put
    /// back.
    ///
    /// # Errors
    ///
    /// [`MachineError`] if the hypervisor refuses; the machine is broken then.
    fn settle(&mut self) -> Result<(), MachineError>;

    /// Whether something happened to it after which it can't be started again.
    fn is_broken(&self) -> bool;

    /// Lets the guest read `length` bytes of the host's memory at a guest-physical address outside
    /// guest memory. Both are multiples of the large page's size.
    ///
    /// # Errors
    ///
    /// [`MachineError`] if the hypervisor refuses.
    fn lend(&mut self, gpa: Gpa, lent: Arc<Lent>) -> Result<(), MachineError>;

    /// Takes everything that was lent out of the guest's reach.
    ///
    /// # Errors
    ///
    /// [`MachineError`] if the hypervisor refuses; the machine is broken then.
    fn take_back(&mut self) -> Result<(), MachineError>;

    /// Lets the guest run until it exits. It goes on where it was: after the instruction with
    /// which it called out.
    ///
    /// # Errors
    ///
    /// [`MachineError`] if the hypervisor refuses to run it.
    fn run(&mut self) -> Result<Exit, MachineError>;

    /// What [`Machine::run`] obeys: the current call's state.
    fn control(&self) -> &Arc<RunControl>;

    /// Makes it obey another one: calls of the next user, which handles of the last must not stop.
    fn set_control(&mut self, control: Arc<RunControl>);

    /// Times that the hypervisor was asked to run the guest.
    fn entries(&self) -> u64;

    /// Time spent in [`Machine::run`].
    fn guest_time(&self) -> Duration;
}

/// Where the FS and GS segments start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SegmentBases {
    /// Base of FS.
    pub fs: u64,
    /// Base of GS.
    pub gs: u64,
}

/// Why a guest stopped running.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// It called out: there is a message in the mailbox.
    CalledOut,
    /// It executed `syscall`. The registers are those at its entry: RCX is where it goes on, and R11
    /// has the flags that it had.
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
    /// Its time slice is over. It goes on by another [`Machine::run`], or by [`Machine::start`] in
    /// another state.
    Tick(Box<Registers>),
    /// Memory that it used is not there any more: the file behind it has been cut short.
    MemoryLost,
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
    #[error("{path} does not exist: {advice}")]
    Missing {
        /// The device.
        path: &'static str,
        /// What that means, and what to do about it.
        advice: &'static str,
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
    #[error("this machine's {backend} lacks {what}, which Glowbox needs")]
    Unsupported {
        /// The backend.
        backend: Backend,
        /// What is missing.
        what: &'static str,
    },
    /// There is no such backend.
    #[error("there is no backend `{name}`; there are {}", backend::names())]
    UnknownBackend {
        /// The name that was asked for.
        name: String,
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
    /// The machine can't be started again.
    #[error("the virtual machine is broken")]
    Broken,
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

impl MachineError {
    /// Whether a backend can't be opened because this machine or user has no hypervisor of its kind that
    /// could be used.
    pub fn lacks_hypervisor(&self) -> bool {
        match self {
            MachineError::Missing { .. } | MachineError::Denied { .. } => true,
            MachineError::Unsupported { backend, .. } => backend.is_hardware(),
            _ => false,
        }
    }
}
