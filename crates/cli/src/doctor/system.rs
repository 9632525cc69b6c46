//! What the kernel offers and allows.

use std::process::{Command, Stdio};

use glowbox_mem::{Tracking, tracking};

use super::{Finding, read};

/// `vm.max_map_count` unless somebody has changed it.
const USUAL_MAPS: u64 = 65_530;
/// Files that a process may usually have open.
const USUAL_FILES: u64 = 1024;

pub(super) fn findings() -> Vec<Finding> {
    let mut findings = vec![kernel(&read("/proc/sys/kernel/osrelease").unwrap_or_default())];
    findings.push(written_pages(tracking()));
    findings.extend(read("/proc/sys/vm/max_map_count").and_then(|text| maps(&text)));
    findings.extend(read("/proc/sys/vm/overcommit_memory").map(|text| overcommit(&text)));
    let limits = read("/proc/self/limits").unwrap_or_default();
    findings.extend(open_files(&limits));
    findings.extend(locked_memory(&limits));
    findings.extend(huge_pages());
    findings.push(tools());
    findings
}

fn kernel(release: &str) -> Finding {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().ok());
    let version = numbers.next().flatten().zip(numbers.next().flatten());
    match version {
        Some(version) if version < (4, 17) => Finding::warn("Linux", release)
            .advise("Entering a guest takes several system calls more before Linux 4.17"),
        Some(version) if version < (6, 7) => Finding::warn("Linux", release)
            .advise("Linux 6.7 and newer find a guest's written pages faster (PAGEMAP_SCAN)"),
        _ => Finding::ok("Linux", release),
    }
}

fn written_pages(tracking: Tracking) -> Finding {
    let subject = "finding written pages";
    match tracking {
        Tracking::Scan => Finding::ok(subject, "by PAGEMAP_SCAN"),
        Tracking::Entries => Finding::warn(subject, "by reading /proc/self/pagemap").advise(
            "A reset takes time in proportion to the guest's memory limit; with PAGEMAP_SCAN \
             (Linux 6.7) it depends on what was written only",
        ),
        Tracking::Unknown => Finding::warn(subject, "not possible").advise(
            "Every reset throws away all that the guest has used. Make /proc/self/pagemap readable: \
             mount /proc",
        ),
    }
}

fn maps(text: &str) -> Option<Finding> {
    let count: u64 = text.parse().ok()?;
    let finding = match count < USUAL_MAPS {
        true => Finding::warn("vm.max_map_count", text).advise(format!(
            "Each sandbox takes mappings, more if its snapshot has its pages here and there. Usual is \
             {USUAL_MAPS}: sysctl vm.max_map_count={USUAL_MAPS}"
        )),
        false => Finding::ok("vm.max_map_count", text),
    };
    Some(finding)
}

fn overcommit(text: &str) -> Finding {
    match text {
        "2" => Finding::warn("vm.overcommit_memory", "2: memory is counted before it is used").advise(
            "Each sandbox counts with all that its limits allow, not with what it uses. Use 0 or 1, \
             or small limits",
        ),
        _ => Finding::ok("vm.overcommit_memory", text),
    }
}

/// A limit's soft and hard value, from `/proc/self/limits`.
fn limit(limits: &str, name: &str) -> Option<(String, String)> {
    let values = limits.lines().find_map(|line| line.strip_prefix(name))?;
    let mut values = values.split_whitespace().map(str::to_string);
    values.next().zip(values.next())
}

fn open_files(limits: &str) -> Option<Finding> {
    let (soft, hard) = limit(limits, "Max open files")?;
    // Each VM and each vCPU is one.
    let finding = match soft.parse::<u64>() {
        Ok(files) if files <= USUAL_FILES => {
            Finding::warn("open files", format!("{soft} (at most {hard})")).advise(format!(
                "A sandbox keeps two files open, so there is room for some {}. Raise it with \
                 `ulimit -n` if you need more",
                files.saturating_sub(64) / 2
            ))
        }
        _ => Finding::ok("open files", format!("{soft} (at most {hard})")),
    };
    Some(finding)
}

fn locked_memory(limits: &str) -> Option<Finding> {
    let (soft, _) = limit(limits, "Max locked memory")?;
    Some(Finding::ok("locked memory", format!("{soft}; Glowbox locks none")))
}

fn huge_pages() -> Option<Finding> {
    let text = read("/sys/kernel/mm/transparent_hugepage/enabled")?;
    let chosen = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'))?.0.to_string();
    let found = format!("{chosen}; guest memory asks for small pages, so it does not matter");
    Some(Finding::ok("transparent huge pages", found))
}

/// What guests are built with.
fn tools() -> Finding {
    let missing: Vec<_> = ["cargo", "cc"].into_iter().filter(|tool| !runs(tool)).collect();
    match missing.is_empty() {
        true => Finding::ok("tools for building guests", "cargo and cc are there"),
        false => Finding::warn(
            "tools for building guests",
            format!("not there: {}", missing.join(", ")),
        )
        .advise("Running guests takes neither; building them takes Rust (https://rustup.rs) and a C compiler"),
    }
}

fn runs(tool: &str) -> bool {
    let mut command = Command::new(tool);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Mark;

    #[test]
    fn kernels_are_told_apart_by_what_they_lack() {
        assert_eq!(kernel("6.18.44-fc-v595").mark, Mark::Ok);
        assert_eq!(kernel("6.7").mark, Mark::Ok);
        assert!(kernel("6.1.0-13-amd64").advice.unwrap().contains("PAGEMAP_SCAN"));
        assert!(kernel("4.14.301").advice.unwrap().contains("4.17"));
    }

    #[test]
    fn limits_are_read_from_the_kernels_table() {
        let table = "Limit    Soft Limit Hard Limit Units\n\
                     Max open files            256                  4096                 files     \n\
                     Max locked memory         unlimited            unlimited            bytes     ";
        let files = open_files(table).unwrap();
        assert_eq!((files.mark, files.found.as_str()), (Mark::Warn, "256 (at most 4096)"));
        assert!(files.advice.unwrap().contains("some 96"));
        assert_eq!(locked_memory(table).unwrap().found, "unlimited; Glowbox locks none");
        assert_eq!(open_files("").map(|finding| finding.mark), None);
    }

    #[test]
    fn settings_that_are_known_to_hurt_warn() {
        assert_eq!(maps("65530").unwrap().mark, Mark::Ok);
        assert_eq!(maps("1000").unwrap().mark, Mark::Warn);
        assert_eq!(overcommit("0").mark, Mark::Ok);
        assert_eq!(overcommit("2").mark, Mark::Warn);
        assert_eq!(written_pages(Tracking::Unknown).mark, Mark::Warn);
    }
}
