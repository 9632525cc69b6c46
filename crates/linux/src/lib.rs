//! Linux as a guest sees it: a table of system calls, answered without a Linux kernel.
//!
//! A guest that is an ordinary Linux program leaves its virtual machine with every `syscall`. The
//! host hands the registers to [`Process::handle`], which looks the number up in the [`table`] and
//! answers from the [`Process`]'s own state: its address space, threads, signals and files. What is
//! not in the table is `ENOSYS`. Nothing is passed on to the host's kernel; what of the host a
//! process can reach is what stands in its [`World`], and that is empty until somebody fills it.
//!
//! - [`Process`] is all that belongs to the guest. It can be copied, which is how snapshots, spawning
//!   and resets work, and it can be written to a file.
//! - [`World`] is what belongs to the host: streams, directories, the clock. It is never copied into
//!   a snapshot.
//! - [`Hardware`] is the machine below: guest memory and the vCPU's state.
//!
//! Every register, pointer, length and flag is a claim by an enemy. Pointers go through
//! [`space::Space`], which knows what is mapped; nothing here panics on what a guest says, and what
//! a guest can make the host keep is bounded: see [`Limits`].

#![forbid(unsafe_code)]

use std::ops::{BitOr, BitOrAssign, Range};

use glowbox_core::fault::Exception;
use glowbox_core::registers::{CpuState, ExtendedState, Registers};
use serde::{Deserialize, Serialize};

pub mod call;
pub mod clock;
pub mod errno;
pub mod files;
pub mod process;
pub mod random;
pub mod space;
pub mod table;
pub mod threads;

pub use clock::Clock;
pub use errno::Errno;
pub use process::Process;

/// The bases of the FS and GS segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bases {
    /// Of FS, where threads have their thread-local storage.
    pub fs: u64,
    /// Of GS.
    pub gs: u64,
}

/// What the machine below gives: guest memory, and the state of the vCPU at its last exit.
pub trait Hardware {
    /// Guest memory, by guest-physical address.
    fn memory(&self) -> &[u8];

    /// Guest memory, for writing.
    fn memory_mut(&mut self) -> &mut [u8];

    /// Notes that the page tables let the guest use this guest-physical memory now in a way in which
    /// they did not before. When the guest is reset, the vCPU has to forget that.
    fn reveal(&mut self, memory: Range<u64>);

    /// Makes the vCPU forget what it knows of this guest-physical memory: page-table entries that
    /// led to it are gone, or allow less than they did.
    ///
    /// # Errors
    ///
    /// If the system refuses. The guest must not go on then.
    fn forget(&mut self, memory: Range<u64>) -> Result<(), Broken>;

    /// Whether the guest is to stop before it goes on. What takes long is given up then: the guest never
    /// sees what came of it.
    fn is_to_stop(&self) -> bool {
        false
    }

    /// The segment bases that the guest had when it left.
    ///
    /// # Errors
    ///
    /// If the hypervisor refuses.
    fn bases(&mut self) -> Result<Bases, Broken>;

    /// The x87, SSE and AVX state that the guest had when it left.
    ///
    /// # Errors
    ///
    /// If the hypervisor refuses.
    fn extended(&mut self) -> Result<ExtendedState, Broken>;
}

/// The machine below can't go on.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Broken {
    /// What was to be done.
    pub what: String,
    /// What the system said, where that is why.
    #[source]
    pub source: Option<std::io::Error>,
}

/// Why the guest is not running.
#[derive(Debug)]
pub enum Event {
    /// It has executed `syscall`. The registers are those of the calling code: RIP behind the
    /// instruction, RFLAGS as they were, RAX the number.
    Syscall(Registers),
    /// It has raised an exception; RIP is where it goes on if it does.
    Exception(Exception),
    /// Its time slice is over, or it was stopped for a moment; it goes on with these registers.
    Tick(Registers),
    /// It was asleep, and what it waited for may have happened.
    Woken,
}

/// How the guest goes on.
#[derive(Debug)]
pub enum Next {
    /// The thread that left goes on with these registers, and these bases if they changed. All
    /// else is as it was when it left.
    Proceed {
        /// General registers, RIP and flags.
        registers: Registers,
        /// Segment bases, if they are to change.
        bases: Option<Bases>,
    },
    /// The vCPU goes on in another state altogether: another thread, or after a signal handler.
    Enter(Box<CpuState>),
    /// No thread can run, or none was found that can within a bounded time.
    Sleep {
        /// Until this instant of the world's [`Clock`] (nanoseconds of the monotonic clock), if any
        /// thread waits for one. It may have passed already: then it is only to be looked whether the
        /// guest is to stop.
        until: Option<u64>,
        /// The streams that would wake a thread when they are ready.
        streams: Streams,
    },
    /// Every thread waits for something that can't happen.
    Deadlock,
    /// The program has ended with this status.
    Exited(i32),
    /// A signal has ended it.
    Killed {
        /// The signal's number.
        signal: i32,
        /// The exception that it stands for, if it does.
        exception: Option<Exception>,
    },
    /// Its memory limit does not allow what it needs to go on.
    OutOfMemory {
        /// Bytes that it needed.
        requested: u64,
    },
    /// The machine below can't go on.
    Broken(Broken),
}

/// Streams of the host's, to wait for: until standard input can be read, or an output written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Streams {
    /// Standard input.
    pub input: bool,
    /// Standard output.
    pub output: bool,
    /// Standard error.
    pub error: bool,
}

impl Streams {
    /// None.
    pub const NONE: Streams = Streams { input: false, output: false, error: false };
    /// Standard input alone.
    pub const INPUT: Streams = Streams { input: true, ..Streams::NONE };
    /// Standard output alone.
    pub const OUTPUT: Streams = Streams { output: true, ..Streams::NONE };
    /// Standard error alone.
    pub const ERROR: Streams = Streams { error: true, ..Streams::NONE };

    /// Whether there is one.
    pub fn any(self) -> bool {
        self != Streams::NONE
    }
}

impl BitOr for Streams {
    type Output = Streams;

    fn bitor(self, other: Streams) -> Streams {
        Streams {
            input: self.input || other.input,
            output: self.output || other.output,
            error: self.error || other.error,
        }
    }
}

impl BitOrAssign for Streams {
    fn bitor_assign(&mut self, other: Streams) {
        *self = *self | other;
    }
}

/// What a process may keep the host's memory busy with, besides guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Threads at once.
    pub threads: u32,
    /// Open file descriptors.
    pub descriptors: u32,
    /// Areas of the address space, as `vm.max_map_count`.
    pub areas: u32,
    /// Bytes in pipes and the like, in all.
    pub buffered: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { threads: 64, descriptors: 256, areas: 8192, buffered: 1 << 20 }
    }
}

/// What of the host a process can reach.
#[derive(Debug, Default)]
pub struct World {
    /// Where time comes from.
    pub clock: Clock,
    /// Streams and directories.
    pub files: files::Grants,
}
