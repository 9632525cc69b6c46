//! The backends, and what they have in common: a [`Platform`] is a backend that has been opened, and makes
//! machines.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;

use glowbox_core::snapshot_file::FeatureWord;
use glowbox_mem::{GuestMemory, MapError};

use crate::interrupt::RunControl;
use crate::{Machine, MachineError, kvm, mshv, process};

/// The environment variable that names the backend, where the program does not.
pub const VARIABLE: &str = "GLOWBOX_BACKEND";

/// What runs guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backend {
    /// Microsoft Hypervisor, `/dev/mshv`: a virtual machine.
    Mshv,
    /// Linux's KVM, `/dev/kvm`: a virtual machine.
    Kvm,
    /// A locked-down process, without virtualisation. The kernel's own system calls are out of a guest's
    /// reach, but less stands between it and the host than a virtual machine's border.
    Process,
}

impl Backend {
    /// All backends. Those that isolate by hardware come first, in the order in which they are preferred.
    pub const ALL: &[Backend] = &[Backend::Mshv, Backend::Kvm, Backend::Process];

    /// Its name, as in `GLOWBOX_BACKEND`.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Mshv => "mshv",
            Backend::Kvm => "kvm",
            Backend::Process => "process",
        }
    }

    /// Whether the processor's virtualisation keeps its guests apart from the host.
    pub fn is_hardware(self) -> bool {
        match self {
            Backend::Mshv | Backend::Kvm => true,
            Backend::Process => false,
        }
    }

    /// Opens it.
    ///
    /// # Errors
    ///
    /// [`MachineError::Missing`], [`MachineError::Denied`], [`MachineError::Unsupported`], or a
    /// failed request.
    pub fn open(self) -> Result<Box<dyn Platform>, MachineError> {
        Ok(match self {
            Backend::Mshv => Box::new(mshv::Mshv::open()?),
            Backend::Kvm => Box::new(kvm::Kvm::open()?),
            Backend::Process => Box::new(process::ProcessPlatform::open()?),
        })
    }
}

/// The backend that is asked for, or that `GLOWBOX_BACKEND` names; `None` if nothing says which.
///
/// # Errors
///
/// [`MachineError::UnknownBackend`] for a variable that names none.
pub fn chosen(backend: Option<Backend>) -> Result<Option<Backend>, MachineError> {
    match (backend, std::env::var_os(VARIABLE)) {
        (Some(backend), _) => Ok(Some(backend)),
        (None, Some(name)) if !name.is_empty() => name.to_string_lossy().parse().map(Some),
        (None, _) => Ok(None),
    }
}

/// Opens the backend that is [`chosen`], or the first of those that isolate guests by hardware that can be used
/// here.
///
/// # Errors
///
/// As [`chosen`] and [`Backend::open`].
///
/// # Panics
///
/// Never.
pub fn open(backend: Option<Backend>) -> Result<Box<dyn Platform>, MachineError> {
    if let Some(backend) = chosen(backend)? {
        return backend.open();
    }
    // That there is none at all is best said of the one that most machines could have: the last. But one that
    // is there and can't be used says more than one that is not.
    let mut lacking = None;
    for backend in Backend::ALL.iter().filter(|backend| backend.is_hardware()) {
        let error = match backend.open() {
            Err(error) if error.lacks_hypervisor() => error,
            opened => return opened,
        };
        lacking = match lacking {
            None | Some(MachineError::Missing { .. }) => Some(error),
            there => there,
        };
    }
    Err(lacking.expect("there is a hardware backend"))
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The names of all backends.
pub(crate) fn names() -> String {
    let names: Vec<&str> = Backend::ALL.iter().map(|backend| backend.name()).collect();
    names.join(", ")
}

impl FromStr for Backend {
    type Err = MachineError;

    fn from_str(name: &str) -> Result<Backend, MachineError> {
        let found = Backend::ALL.iter().find(|backend| backend.name() == name);
        found.copied().ok_or_else(|| MachineError::UnknownBackend { name: name.into() })
    }
}

/// In what backends differ, for those that have to know: tests, mostly. All else is the same on each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Whether guests see another CPU by `cpuid` than the host's, where the hardware can do that at all.
    pub cpuid: bool,
    /// Whether guests have descriptor tables of their own, and not the host's. With the host's there are
    /// other segments, 32-bit code among them, and the host's kernel may answer `sgdt` and its like.
    pub descriptor_tables: bool,
    /// Whether a machine is made and run by the calling thread alone, by requests to a device, each entry
    /// by one. If not, there is a thread and a process for each.
    pub device: bool,
    /// Whether memory lies in private mappings of this process, which share an image's pages until they are
    /// written, and whose written pages the kernel knows. If not, images are copied, and each page that
    /// is there is compared when memory is put back.
    pub private_memory: bool,
    /// Whether it is the guest's doing which components of its extended state count as in use (XGETBV with
    /// ECX = 1, and what XSAVE notes). If not, the host's scheduling may decide it for those that are in
    /// their initial state.
    pub in_use_bits: bool,
    /// Whether guests have a CPU with a ring 0 of its own, in which there is this library's supervisor. If
    /// not, ring 0 is the host's kernel.
    pub supervisor: bool,
    /// Whether ring 0 of that CPU is denied all model-specific registers, should a guest ever get there.
    pub denied_msrs: bool,
    /// Whether it is known which requests of the host's kernel a machine takes, one for an entry and no other:
    /// then they are counted, and a filter of system calls can allow them and nothing else.
    pub known_requests: bool,
}

impl Caps {
    /// What a hypervisor's virtual machines have at the least.
    pub(crate) const VIRTUAL_MACHINES: Caps = Caps {
        cpuid: true,
        descriptor_tables: true,
        device: true,
        private_memory: true,
        in_use_bits: true,
        supervisor: true,
        denied_msrs: false,
        known_requests: false,
    };
    /// What processes have.
    pub(crate) const PROCESSES: Caps = Caps {
        cpuid: false,
        descriptor_tables: false,
        device: false,
        private_memory: false,
        in_use_bits: false,
        supervisor: false,
        denied_msrs: false,
        known_requests: false,
    };
}

/// The error for a device that can't be opened; `request` is the words for that, `advice` what its not being
/// there means.
pub(crate) fn open_error(
    path: &'static str,
    request: &'static str,
    advice: &'static str,
    source: io::Error,
) -> MachineError {
    match source.raw_os_error() {
        // The node may be there without a driver behind it.
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => MachineError::Missing { path, advice },
        Some(libc::EACCES | libc::EPERM) => MachineError::Denied { path, source },
        _ => MachineError::Request { request, source },
    }
}

/// A backend that has been opened.
pub trait Platform: fmt::Debug + Send + Sync {
    /// Which backend it is.
    fn backend(&self) -> Backend;

    /// In what it differs from others.
    fn caps(&self) -> Caps;

    /// The features that guests are shown, as CPUID has them, and the state components that they can
    /// use (XCR0; 0 without XSAVE).
    fn cpu(&self) -> (Vec<FeatureWord>, u64);

    /// Memory of `size` bytes that a machine can be made over.
    ///
    /// # Errors
    ///
    /// [`MapError`] if the system refuses.
    fn memory(&self, size: u64) -> Result<GuestMemory, MapError> {
        GuestMemory::new(size)
    }

    /// Makes a machine over `memory`, which [`Platform::memory`] has made. Before it can run, memory has
    /// to be filled, and the machine started.
    ///
    /// # Errors
    ///
    /// [`MachineError::Request`] with what failed, [`MachineError::Unsupported`] if something is lacking.
    fn machine(
        &self,
        memory: GuestMemory,
        control: Arc<RunControl>,
    ) -> Result<Box<dyn Machine>, MachineError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_and_a_forbidden_device_are_told_apart() {
        let of = |number| open_error("/dev/x", "opening", "", io::Error::from_raw_os_error(number));
        assert!(matches!(of(libc::ENOENT), MachineError::Missing { .. }));
        assert!(matches!(of(libc::ENODEV), MachineError::Missing { .. }));
        assert!(matches!(of(libc::EACCES), MachineError::Denied { .. }));
        assert!(matches!(of(libc::EPERM), MachineError::Denied { .. }));
        assert!(matches!(of(libc::EMFILE), MachineError::Request { .. }));
    }

    #[test]
    fn a_backend_is_known_by_its_name() {
        for backend in Backend::ALL {
            assert_eq!(backend.name().parse::<Backend>().ok(), Some(*backend));
        }
        let error = "xen".parse::<Backend>().unwrap_err().to_string();
        assert!(error.contains("`xen`") && error.contains("kvm"), "{error}");
    }
}
