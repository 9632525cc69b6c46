//! What this machine's KVM offers, for whoever wants to know before using it.
//!
//! [`Kvm::open`](super::Kvm::open) refuses a KVM that lacks something needed, by the same list.

use kvm_bindings::{KVM_SYNC_X86_EVENTS, KVM_SYNC_X86_REGS, KVM_SYNC_X86_SREGS};
use kvm_ioctls::Cap;

use super::API_VERSION;
use crate::MachineError;

/// An ability of KVM that guests are run with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capability {
    /// Its name in KVM's interface.
    pub name: &'static str,
    /// What it is used for.
    pub use_: &'static str,
    /// Whether nothing works without it.
    pub is_needed: bool,
    /// Whether this KVM has it.
    pub is_present: bool,
}

/// What this machine's KVM says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The version of its interface.
    pub api_version: i32,
    /// The only version that there should be.
    pub expected_version: i32,
    /// The abilities that are used, needed ones first.
    pub capabilities: Vec<Capability>,
}

/// Asks KVM what it offers. Makes no VM.
///
/// # Errors
///
/// [`MachineError::Missing`], [`MachineError::Denied`], or a failed request: the device can't be
/// opened.
pub fn probe() -> Result<Probe, MachineError> {
    let device = super::device()?;
    let capability = |(cap, name, use_, is_needed)| Capability {
        name,
        use_,
        is_needed,
        is_present: if cap == Cap::SyncRegs {
            has_sync_regs(&device)
        } else {
            device.check_extension(cap)
        },
    };
    Ok(Probe {
        api_version: device.get_api_version(),
        expected_version: API_VERSION,
        capabilities: CAPABILITIES.map(capability).to_vec(),
    })
}

/// Name, use and need of each.
const CAPABILITIES: [(Cap, &str, &str, bool); 7] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY", "guest memory", true),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT", "deadlines and interrupts", true),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID", "choosing the CPU features that guests see", true),
    (Cap::SyncRegs, "KVM_CAP_SYNC_REGS", "registers without further system calls", false),
    (Cap::Xcrs, "KVM_CAP_XCRS", "AVX in guests", false),
    (
        Cap::ReadonlyMem,
        "KVM_CAP_READONLY_MEM",
        "lending files to guests (Sandbox::map), and a supervisor that no vCPU can write",
        false,
    ),
    (Cap::X86MsrFilter, "KVM_CAP_X86_MSR_FILTER", "denying model-specific registers again", false),
];

/// The first ability that is needed and not there, by name.
pub(super) fn missing(device: &kvm_ioctls::Kvm) -> Option<&'static str> {
    let missing =
        CAPABILITIES.iter().find(|(cap, _, _, needed)| *needed && !device.check_extension(*cap));
    missing.map(|(_, name, ..)| *name)
}

/// Whether registers can be set through the run page: all those that are.
pub(super) fn has_sync_regs(device: &kvm_ioctls::Kvm) -> bool {
    let wanted = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
    let wanted = i32::try_from(wanted).unwrap_or(i32::MAX);
    device.check_extension_int(Cap::SyncRegs) & wanted == wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kvm_that_can_be_opened_has_all_that_is_needed_and_one_that_cannot_says_why() {
        match (probe(), super::super::Kvm::open()) {
            (Ok(probe), opened) => {
                let complete = probe.capabilities.iter().all(|of| of.is_present || !of.is_needed);
                assert_eq!(opened.is_ok(), complete && probe.api_version == API_VERSION);
            }
            (Err(error), opened) => {
                assert_eq!(opened.err().map(|error| error.to_string()), Some(error.to_string()));
            }
        }
    }
}
