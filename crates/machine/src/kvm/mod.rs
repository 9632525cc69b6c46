//! The backend for Linux's KVM.
//!
//! [`Kvm`] is what is looked up once a process: the device, its abilities, the CPUID that guests
//! get. [`KvmMachine`] is one VM with one vCPU, and memory in two slots; it has no interrupt controller,
//! timer or device of any kind.

mod machine;
mod probe;
pub mod requests;

use std::sync::{Arc, OnceLock};

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2, kvm_sregs};
use kvm_ioctls::Cap;

use glowbox_core::snapshot_file::FeatureWord;
use glowbox_mem::GuestMemory;

use crate::backend::open_error;
use crate::cpuid::{self, Leaf};
use crate::interrupt::RunControl;
use crate::{Backend, Caps, Machine, MachineError, Platform};

pub use machine::{KvmMachine, KvmVm};
pub use probe::{Capability, Probe, probe};

/// Where KVM is found.
const DEVICE: &str = "/dev/kvm";
/// What to do where it is not found.
const ADVICE: &str = "this machine offers no KVM. Enable virtualisation in the firmware (or nested \
                      virtualisation for a virtual machine), and load the module `kvm_intel` or \
                      `kvm_amd`";
/// The only version of KVM's interface.
const API_VERSION: i32 = 12;

/// KVM on this machine.
#[derive(Debug)]
pub struct Kvm {
    device: kvm_ioctls::Kvm,
    cpuid: CpuId,
    xcr0: Option<u64>,
    /// Whether registers can be set through the run page (`KVM_CAP_SYNC_REGS`, Linux 4.17).
    sync_regs: bool,
    /// Whether memory can be read-only to vCPUs (`KVM_CAP_READONLY_MEM`, Linux 3.7).
    read_only_memory: bool,
    /// Whether guests can be kept from model-specific registers (`KVM_CAP_X86_MSR_FILTER`, Linux 5.10).
    msr_filter: bool,
    /// The special registers that every machine starts with, the same for all; empty until the
    /// first machine has found out which of them this KVM takes.
    sregs: OnceLock<kvm_sregs>,
}

impl Kvm {
    /// Opens the device and asks what it can do.
    ///
    /// # Errors
    ///
    /// [`MachineError::Missing`], [`MachineError::Denied`], [`MachineError::Unsupported`], or a
    /// failed request.
    pub fn open() -> Result<Kvm, MachineError> {
        let device = device()?;
        if device.get_api_version() != API_VERSION {
            return Err(MachineError::Unsupported {
                backend: Backend::Kvm,
                what: "version 12 of its interface",
            });
        }
        if let Some(what) = probe::missing(&device) {
            return Err(MachineError::Unsupported { backend: Backend::Kvm, what });
        }
        let supported = device
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(|error| failed("KVM_GET_SUPPORTED_CPUID", error))?;
        let leaves: Vec<Leaf> = supported.as_slice().iter().map(leaf).collect();
        let shown = cpuid::for_guest(&leaves);
        let entries: Vec<_> = shown.iter().map(|leaf| entry(leaf, supported.as_slice())).collect();
        let cpuid = CpuId::from_entries(&entries).map_err(|_| MachineError::Unsupported {
            backend: Backend::Kvm,
            what: "a CPUID table of usual size",
        })?;
        let has_xcrs = device.check_extension(Cap::Xcrs);
        let xcr0 = cpuid::xcr0(&leaves).filter(|_| has_xcrs);
        let sync_regs = probe::has_sync_regs(&device);
        let read_only_memory = device.check_extension(Cap::ReadonlyMem);
        let msr_filter = device.check_extension(Cap::X86MsrFilter);
        let sregs = OnceLock::new();
        Ok(Kvm { device, cpuid, xcr0, sync_regs, read_only_memory, msr_filter, sregs })
    }
}

impl Platform for Kvm {
    fn backend(&self) -> Backend {
        Backend::Kvm
    }

    fn caps(&self) -> Caps {
        Caps { denied_msrs: true, known_requests: true, ..Caps::VIRTUAL_MACHINES }
    }

    fn cpu(&self) -> (Vec<FeatureWord>, u64) {
        (
            cpuid::features(&self.cpuid.as_slice().iter().map(leaf).collect::<Vec<_>>()),
            self.xcr0.unwrap_or(0),
        )
    }

    fn machine(
        &self,
        memory: GuestMemory,
        control: Arc<RunControl>,
    ) -> Result<Box<dyn Machine>, MachineError> {
        Ok(Box::new(KvmMachine::new(self, memory, control)?))
    }
}

fn leaf(e: &kvm_cpuid_entry2) -> Leaf {
    let (eax, ebx, ecx, edx) = (e.eax, e.ebx, e.ecx, e.edx);
    Leaf { leaf: e.function, subleaf: e.index, eax, ebx, ecx, edx }
}

/// A leaf as KVM takes it, with the flags that KVM itself gave it.
fn entry(shown: &Leaf, supported: &[kvm_cpuid_entry2]) -> kvm_cpuid_entry2 {
    let (function, index) = (shown.leaf, shown.subleaf);
    let given = supported.iter().find(|e| (e.function, e.index) == (function, index));
    kvm_cpuid_entry2 {
        function,
        index,
        flags: given.map_or(0, |e| e.flags),
        eax: shown.eax,
        ebx: shown.ebx,
        ecx: shown.ecx,
        edx: shown.edx,
        ..Default::default()
    }
}

/// Opens the device.
fn device() -> Result<kvm_ioctls::Kvm, MachineError> {
    kvm_ioctls::Kvm::new()
        .map_err(|error| open_error(DEVICE, "opening /dev/kvm", ADVICE, error.into()))
}

fn failed(request: &'static str, error: kvm_ioctls::Error) -> MachineError {
    MachineError::Request { request, source: error.into() }
}
