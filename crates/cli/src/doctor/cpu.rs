//! What the CPU has, and what is wrong with it.

use std::fs;

use super::{Finding, read};

/// Where the kernel says what the CPU's known flaws are, and what it does about each.
const VULNERABILITIES: &str = "/sys/devices/system/cpu/vulnerabilities";

/// Features by their names in `/proc/cpuinfo`, with what they are good for.
const FEATURES: [(&str, &str); 6] = [
    ("fsgsbase", "threads in guests"),
    ("xsave", "AVX in guests"),
    ("avx", "AVX in guests"),
    ("smep", "the supervisor can't be made to run the guest's code"),
    ("smap", "the supervisor can't be made to use the guest's memory"),
    ("umip", "guests can't learn the addresses of the supervisor's tables"),
];

pub(super) fn findings() -> Vec<Finding> {
    let info = read("/proc/cpuinfo").unwrap_or_default();
    let mut findings = features(&info);
    let entries = fs::read_dir(VULNERABILITIES).into_iter().flatten().flatten();
    let mut flaws: Vec<(String, String)> = entries
        .filter_map(|entry| {
            Some((entry.file_name().to_string_lossy().into_owned(), read(entry.path())?))
        })
        .collect();
    flaws.sort();
    findings.extend(vulnerabilities(&flaws));
    findings
}

/// The value of a line of `/proc/cpuinfo`, of the first CPU.
fn value<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let (_, value) =
        info.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name)?;
    Some(value.trim())
}

fn features(info: &str) -> Vec<Finding> {
    let flags: Vec<&str> = value(info, "flags").unwrap_or_default().split_whitespace().collect();
    let model = value(info, "model name").unwrap_or("unknown");
    let mut findings = vec![Finding::ok("model", model)];
    for (name, use_) in FEATURES {
        findings.push(match flags.contains(&name) {
            true => Finding::ok(name, "there"),
            false => Finding::warn(name, format!("not there, or hidden: {use_}")).advise(
                "Guests run without it. If this is a virtual machine, its host may hide it",
            ),
        });
    }
    findings.push(match flags.contains(&"hypervisor") {
        true => Finding::warn("virtualisation", "this machine is a virtual machine itself").advise(
            "Leaving and entering a guest goes by way of the outer hypervisor, and takes several times \
             as long as on bare metal",
        ),
        false => Finding::ok("virtualisation", "bare metal"),
    });
    findings
}

/// The flaws that matter between a guest and its host, by file name and what the kernel says.
fn vulnerabilities(flaws: &[(String, String)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut fine = 0;
    for (name, state) in flaws {
        let subject = format!("vulnerability {name}");
        if state.starts_with("Vulnerable") || state.contains("VMX: vulnerable") {
            findings.push(Finding::warn(subject, state.as_str()).advise(
                "A guest might read memory of this host, or of another guest. Update microcode and \
                 kernel, and don't boot with mitigations=off",
            ));
        } else if state.contains("SMT vulnerable") {
            findings.push(Finding::warn(subject, state.as_str()).advise(
                "A guest might read what runs on the same core beside it. Turn hyper-threading off \
                 (nosmt), or run guests of one owner only",
            ));
        } else {
            fine += 1;
        }
    }
    if fine > 0 {
        findings
            .push(Finding::ok("other known flaws of CPUs", format!("{fine} dealt with or absent")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Mark;

    #[test]
    fn features_are_found_by_their_whole_names() {
        let info = "processor\t: 0\nmodel name\t: A CPU: fast\nflags\t\t: fpu xsave avx2 smep\n\n\
                    processor\t: 1\nflags\t\t: smap\n";
        let findings = features(info);
        assert_eq!(findings[0].found, "A CPU: fast");
        let mark = |name| findings.iter().find(|of| of.subject == name).unwrap().mark;
        assert_eq!(mark("xsave"), Mark::Ok);
        assert_eq!(mark("avx"), Mark::Warn);
        assert_eq!(mark("smap"), Mark::Warn);
        assert_eq!(mark("virtualisation"), Mark::Ok);
    }

    #[test]
    fn flaws_that_are_open_are_named_and_the_others_counted() {
        let flaws = [
            ("l1tf", "Mitigation: PTE Inversion; VMX: conditional cache flushes, SMT vulnerable"),
            ("meltdown", "Not affected"),
            ("mds", "Vulnerable: Clear CPU buffers attempted, no microcode"),
            ("spectre_v1", "Mitigation: usercopy/swapgs barriers"),
        ]
        .map(|(name, state)| (name.to_string(), state.to_string()));
        let findings = vulnerabilities(&flaws);
        let marks: Vec<_> = findings.iter().map(|of| (of.subject.as_str(), of.mark)).collect();
        assert_eq!(
            marks,
            [
                ("vulnerability l1tf", Mark::Warn),
                ("vulnerability mds", Mark::Warn),
                ("other known flaws of CPUs", Mark::Ok),
            ]
        );
        assert!(findings[2].found.starts_with("2 "));
    }
}
