//! Which hypervisor there is, and whether it may be used.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use glowbox_machine::MachineError;
use glowbox_machine::kvm::{Probe, probe};

use super::{Finding, read};

pub(super) fn findings() -> Vec<Finding> {
    let probed = probe();
    let mut findings = vec![device(matches!(probed, Err(MachineError::Denied { .. })))];
    match probed {
        Ok(probe) => findings.extend(interface(&probe)),
        Err(error) => findings.push(unusable(&error)),
    }
    findings.extend(parameters());
    findings
}

/// The device and whom it belongs to, and what to change about that if it keeps this user out.
fn device(is_denied: bool) -> Finding {
    let subject = "/dev/kvm";
    let Ok(metadata) = fs::metadata(subject) else {
        return Finding::fail(subject, "not there");
    };
    if !metadata.file_type().is_char_device() {
        return Finding::fail(subject, "there, but no device");
    }
    let (mode, user, group) = (metadata.mode() & 0o7777, metadata.uid(), metadata.gid());
    let name = name_of_group(group).unwrap_or_else(|| group.to_string());
    let found = format!("there, mode {mode:04o}, user {user}, group {name}");
    match is_denied && is_for_root_only(mode, group) {
        true => Finding::fail(subject, format!("{found}: for root only")).advise(FOR_A_GROUP),
        false => Finding::ok(subject, found),
    }
}

/// Whether no group could let a user open the device, other than root's.
fn is_for_root_only(mode: u32, group: u32) -> bool {
    mode & 0o006 != 0o006 && (mode & 0o060 != 0o060 || group == 0)
}

const FOR_A_GROUP: &str = "No group may open it. Give it to one that the user can join, as root: `chgrp kvm /dev/kvm && chmod 660 \
    /dev/kvm` (after `groupadd --system kvm` if there is no such group). For it to last, put \
    `KERNEL==\"kvm\", GROUP=\"kvm\", MODE=\"0660\"` into /etc/udev/rules.d/65-kvm.rules";

fn name_of_group(id: u32) -> Option<String> {
    let groups = read("/etc/group")?;
    let of = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_string();
        (fields.nth(1)?.parse() == Ok(id)).then_some(name)
    };
    groups.lines().find_map(of)
}

/// Why the device can't be opened; the error says what to do.
fn unusable(error: &MachineError) -> Finding {
    let finding = match error {
        MachineError::Missing { .. } => Finding::fail("KVM", "not there"),
        MachineError::Denied { .. } => Finding::fail("KVM", "not allowed"),
        _ => Finding::fail("KVM", "can't be opened"),
    };
    let source = std::error::Error::source(error).map(|source| format!(" ({source})"));
    finding.advise(format!("{error}{}", source.unwrap_or_default()))
}

fn interface(probe: &Probe) -> Vec<Finding> {
    if probe.api_version != probe.expected_version {
        let found = format!("version {}", probe.api_version);
        let advice = format!(
            "This is no KVM that Glowbox knows: its interface has version {}. If /dev/kvm is a \
             stand-in, as in some containers, pass in the real device",
            probe.expected_version
        );
        return vec![Finding::fail("KVM interface", found).advise(advice)];
    }
    let mut findings = vec![Finding::ok("KVM interface", format!("version {}", probe.api_version))];
    for capability in &probe.capabilities {
        let (name, use_) = (capability.name, capability.use_);
        findings.push(match (capability.is_present, capability.is_needed) {
            (true, _) => Finding::ok(name, format!("there, for {use_}")),
            (false, true) => Finding::fail(name, format!("not there; needed for {use_}"))
                .advise("Use a newer Linux, or another host for this virtual machine"),
            (false, false) => Finding::warn(name, format!("not there; no {use_}"))
                .advise("A newer Linux has it; guests run without it"),
        });
    }
    findings
}

/// Settings of KVM's modules that cost time.
fn parameters() -> Vec<Finding> {
    let mut findings = Vec::new();
    for (module, parameter, what) in
        [("kvm_intel", "ept", "extended page tables"), ("kvm_amd", "npt", "nested page tables")]
    {
        let Some(value) = read(format!("/sys/module/{module}/parameters/{parameter}")) else {
            continue;
        };
        let subject = format!("{module}.{parameter}");
        findings.push(match value.as_str() {
            "N" | "0" => Finding::warn(subject, format!("{what} are off")).advise(format!(
                "Every page that a guest touches takes a detour through the host. Load the module \
                 with {parameter}=1, unless the CPU has none"
            )),
            _ => Finding::ok(subject, format!("{what} are on")),
        });
    }
    if let Some(value) = read("/sys/module/kvm/parameters/nx_huge_pages") {
        let affected = read("/sys/devices/system/cpu/vulnerabilities/itlb_multihit");
        let affected = affected.is_some_and(|text| !text.starts_with("Not affected"));
        findings.push(match (value.as_str(), affected) {
            ("Y" | "force", false) => {
                Finding::warn("kvm.nx_huge_pages", "on, though this CPU does not need it").advise(
                    "Making a VM takes longer, and its code is mapped in small pages. Load the \
                     module kvm with nx_huge_pages=never",
                )
            }
            (value, _) => Finding::ok("kvm.nx_huge_pages", value),
        });
    }
    if let Some(value) = read("/sys/module/kvm/parameters/halt_poll_ns") {
        findings.push(Finding::ok(
            "kvm.halt_poll_ns",
            format!("{value}; guests of Glowbox never halt, so it does not matter"),
        ));
    }
    if fs::metadata("/sys/module/kvm_pvm").is_ok() {
        findings.push(Finding::warn("kvm_pvm", "VMs are run without the CPU's help").advise(
            "Leaving and entering a guest takes some ten times as long as with VT-x or SVM. Use a \
                 machine with nested virtualisation, or one of bare metal, if that matters",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use glowbox_machine::kvm::Capability;

    use super::*;
    use crate::doctor::Mark;

    fn capability(is_needed: bool, is_present: bool) -> Capability {
        Capability { name: "KVM_CAP_X", use_: "something", is_needed, is_present }
    }

    #[test]
    fn what_is_needed_and_missing_fails_and_what_is_only_useful_warns() {
        let capabilities =
            vec![capability(true, true), capability(true, false), capability(false, false)];
        let findings = interface(&Probe { api_version: 12, expected_version: 12, capabilities });
        let marks: Vec<_> = findings.iter().map(|finding| finding.mark).collect();
        assert_eq!(marks, [Mark::Ok, Mark::Ok, Mark::Fail, Mark::Warn]);
        assert!(findings[2].advice.is_some() && findings[3].advice.is_some());
    }

    #[test]
    fn another_version_of_the_interface_fails() {
        let probe = Probe { api_version: -1, expected_version: 12, capabilities: Vec::new() };
        assert_eq!(interface(&probe)[0].mark, Mark::Fail);
    }

    #[test]
    fn the_errors_of_the_device_say_what_to_do() {
        let missing =
            unusable(&MachineError::Missing { path: "/dev/kvm", advice: "load `kvm_intel`" });
        assert!(missing.advice.unwrap().contains("kvm_intel"));
        let source = std::io::Error::from_raw_os_error(13);
        let denied = unusable(&MachineError::Denied { path: "/dev/kvm", source });
        assert_eq!(denied.found, "not allowed");
        assert!(denied.advice.unwrap().contains("usermod -aG kvm"));
    }

    #[test]
    fn a_device_that_no_group_may_open_is_told_from_others() {
        for (mode, group) in [(0o600, 0), (0o600, 104), (0o640, 104), (0o660, 0), (0o604, 0)] {
            assert!(is_for_root_only(mode, group), "{mode:o} {group}");
        }
        for (mode, group) in [(0o660, 104), (0o666, 0), (0o606, 0)] {
            assert!(!is_for_root_only(mode, group), "{mode:o} {group}");
        }
    }

    #[test]
    fn the_group_of_id_0_is_roots() {
        assert_eq!(name_of_group(0).as_deref(), Some("root"));
    }
}
