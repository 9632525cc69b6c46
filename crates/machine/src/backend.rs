//! The backends, and what they have in common: a [`Platform`] is a backend that has been opened, and makes
//! machines.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use glowbox_core::snapshot_file::FeatureWord;
use glowbox_mem::{GuestMemory, MapError};

use crate::interrupt::RunControl;
use crate::{Machine, MachineError, kvm};

/// The environment variable that names the backend, where the program does not.
pub const VARIABLE: &str = "GLOWBOX_BACKEND";

/// What runs guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backend {
    /// Linux's KVM, `/dev/kvm`: a virtual machine.
    Kvm,
}

impl Backend {
    /// All backends. Those that isolate by hardware come first, in the order in which they are preferred.
    pub const ALL: &[Backend] = &[Backend::Kvm];

    /// Its name, as in `GLOWBOX_BACKEND`.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Kvm => "kvm",
        }
    }

    /// Whether the processor's virtualisation keeps its guests apart from the host.
    pub fn is_hardware(self) -> bool {
        match self {
            Backend::Kvm => true,
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
            Backend::Kvm => Box::new(kvm::Kvm::open()?),
        })
    }
}

/// Opens the backend that is asked for, or that `GLOWBOX_BACKEND` names, or the first of those that isolate
/// guests by hardware that this machine has.
///
/// # Errors
///
/// [`MachineError::UnknownBackend`] for a variable that names none, and as [`Backend::open`].
///
/// # Panics
///
/// Never.
pub fn open(backend: Option<Backend>) -> Result<Box<dyn Platform>, MachineError> {
    let backend = match (backend, std::env::var_os(VARIABLE)) {
        (Some(backend), _) => Some(backend),
        (None, Some(name)) if !name.is_empty() => Some(name.to_string_lossy().parse()?),
        (None, _) => None,
    };
    if let Some(backend) = backend {
        return backend.open();
    }
    // That there is none at all is best said of the one that most machines could have: the last.
    let mut missing = None;
    for backend in Backend::ALL.iter().filter(|backend| backend.is_hardware()) {
        match backend.open() {
            Err(error @ MachineError::Missing { .. }) => missing = Some(error),
            opened => return opened,
        }
    }
    Err(missing.expect("there is a hardware backend"))
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
    /// Whether memory lies in private mappings of this process, whose written pages the kernel knows. If
    /// not, images are copied, and each page that is there is compared when memory is put back.
    pub private_memory: bool,
    /// Whether a machine is made and run by the calling thread alone, by requests to a device. If not,
    /// there is a thread and a process for each.
    pub device: bool,
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
    fn memory(&self, size: u64) -> Result<GuestMemory, MapError>;

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
    fn a_backend_is_known_by_its_name() {
        for backend in Backend::ALL {
            assert_eq!(backend.name().parse::<Backend>().ok(), Some(*backend));
        }
        let error = "xen".parse::<Backend>().unwrap_err().to_string();
        assert!(error.contains("`xen`") && error.contains("kvm"), "{error}");
    }
}
