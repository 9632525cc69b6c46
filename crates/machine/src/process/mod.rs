//! The backend without a hypervisor: guests run as the code of a locked-down process.
//!
//! [`ProcessPlatform`] starts one process for each machine. Its address space has nothing but guest memory,
//! mapped from the same file as the host's, at the addresses and with the rights that the guest's own page
//! tables say; a page of code and the pages in `stub::AREA`; and it is traced. Ring-3 code runs there
//! natively: what would be an exit to a hypervisor is a signal or a system call, at which the kernel stops
//! the process and tells the tracer instead of handling it. See `docs/adr/0019` for why it is done by
//! `ptrace`, and `docs/backends.md` for what it does not protect from.
//!
//! - `stub`: what the process does before the guest is in it;
//! - `tracer`: the thread that alone may do anything with the process;
//! - `frames`: how a fault's error code becomes known;
//! - `translations`: the process's mappings, as a cache of the guest's page tables;
//! - `machine`: the machine made of these.

mod frames;
mod machine;
mod stub;
mod tracer;
mod translations;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;

use glowbox_core::address::PAGE_SIZE;
use glowbox_core::snapshot_file::FeatureWord;
use glowbox_mem::{GuestMemory, MapError};

use crate::cpuid;
use crate::interrupt::RunControl;
use crate::{Backend, Caps, Machine, MachineError, Platform};

pub use machine::ProcessMachine;

/// What it takes to start processes for guests.
#[derive(Debug)]
pub struct ProcessPlatform {
    /// The stub's program.
    program: File,
    /// The features that guests have, and the state components.
    cpu: (Vec<FeatureWord>, u64),
    /// Bytes of the system's XSAVE area.
    area: usize,
}

/// Descriptors below are those that the process starts with.
const FIRST_FREE: libc::c_int = 3;

impl ProcessPlatform {
    /// Makes what processes start with, and starts one, to see that it can be done here.
    ///
    /// # Errors
    ///
    /// A failed request: processes can't be traced here (`ptrace` is forbidden by Yama or a container's
    /// seccomp profile), there is no /proc, or the kernel is older than Linux 5.9.
    pub fn open() -> Result<ProcessPlatform, MachineError> {
        let failed = |source| MachineError::Request { request: "memfd_create", source };
        let program = above_standard_streams(&stub::program().map_err(failed)?).map_err(failed)?;
        let memory = GuestMemory::new_shared(PAGE_SIZE).map_err(|error| failed(error.source))?;
        let file = memory.shared().expect("it has been made so");
        let area = tracer::Tracee::start(&program, file)?.0.extended()?.len();
        Ok(ProcessPlatform { program, cpu: cpu(), area })
    }
}

/// The features of the CPU, of those that hypervisors show to guests. A guest in a process sees all of the
/// CPU's, so a snapshot of it may need more than the same machine's hypervisor has for guests.
fn cpu() -> (Vec<FeatureWord>, u64) {
    let host = cpuid::of_host();
    (cpuid::features(&cpuid::for_guest(&host)), cpuid::xcr0(&host).unwrap_or(0))
}

/// The same file, by a descriptor that is none of a new process's standard streams.
fn above_standard_streams(file: &File) -> io::Result<File> {
    // SAFETY: makes a descriptor of its own, or fails.
    unsafe {
        match libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, FIRST_FREE) {
            -1 => Err(io::Error::last_os_error()),
            descriptor => Ok(File::from_raw_fd(descriptor)),
        }
    }
}

impl Platform for ProcessPlatform {
    fn backend(&self) -> Backend {
        Backend::Process
    }

    fn caps(&self) -> Caps {
        Caps::PROCESSES
    }

    fn cpu(&self) -> (Vec<FeatureWord>, u64) {
        self.cpu.clone()
    }

    fn memory(&self, size: u64) -> Result<GuestMemory, MapError> {
        GuestMemory::new_shared(size)
    }

    fn machine(
        &self,
        memory: GuestMemory,
        control: Arc<RunControl>,
    ) -> Result<Box<dyn Machine>, MachineError> {
        Ok(Box::new(ProcessMachine::new(self, memory, control)?))
    }
}
