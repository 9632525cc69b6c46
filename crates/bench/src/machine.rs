//! What a run was measured on. Read from where Linux keeps it; what can't be read is "unknown".

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::peers::wasmtime;

/// Machine, kernel and CPU of a run, and what was built with what.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) machine: String,
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) memory_bytes: u64,
    /// The modules of KVM that are loaded.
    pub(crate) kvm: String,
    pub(crate) rustc: String,
    pub(crate) wasmtime: String,
    /// The commit that was measured, with `+` if there were changes on top.
    pub(crate) commit: String,
    /// Day of the run, by UTC.
    pub(crate) date: String,
}

impl Machine {
    pub(crate) fn here() -> Machine {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let product = ["sys_vendor", "product_name"]
            .map(|file| read(&format!("/sys/class/dmi/id/{file}")).unwrap_or_default());
        let product = product.join(" ").trim().to_string();
        Machine {
            machine: if product.is_empty() { format!("unnamed, {cpus} CPUs") } else { product },
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_else(unknown),
            cpu: cpu().unwrap_or_else(unknown),
            cpus,
            memory_bytes: meminfo().get("MemTotal").copied().unwrap_or_default(),
            kvm: kvm_modules(),
            rustc: env!("GLOWBOX_RUSTC").into(),
            wasmtime: wasmtime::version().unwrap_or_else(|| "left out".into()),
            commit: commit().unwrap_or_else(unknown),
            date: today(),
        }
    }
}

/// What `/proc/meminfo` says, in bytes.
pub(crate) fn meminfo() -> BTreeMap<String, u64> {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let entry = |line: &str| {
        let (name, value) = line.split_once(':')?;
        let kibibytes: u64 = value.split_whitespace().next()?.parse().ok()?;
        Some((name.to_string(), kibibytes * 1024))
    };
    text.lines().filter_map(entry).collect()
}

fn unknown() -> String {
    "unknown".into()
}

fn read(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_string())
}

fn cpu() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let field = |name: &str| {
        let (_, value) = text
            .lines()
            .find_map(|line| line.split_once(':').filter(|(field, _)| field.trim() == name))?;
        Some(value.trim().to_string())
    };
    let (model, family, number) = (field("model name")?, field("cpu family")?, field("model")?);
    Some(format!("{model} (family {family}, model {number})"))
}

fn kvm_modules() -> String {
    let entries = fs::read_dir("/sys/module").into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.starts_with("kvm")).collect();
    names.sort();
    names.join(", ")
}

fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        let output = command.arg("-C").arg(env!("CARGO_MANIFEST_DIR")).args(arguments).output();
        let output = output.ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let commit = git(&["rev-parse", "--short", "HEAD"])?;
    let clean = git(&["status", "--porcelain"])?.is_empty();
    Some(if clean { commit } else { format!("{commit}+") })
}

fn today() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let (year, month, day) = date(now.map_or(0, |time| time.as_secs() / 86_400));
    format!("{year}-{month:02}-{day:02}")
}

/// The date so many days after the first of January 1970.
fn date(mut days: u64) -> (u64, usize, u64) {
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= months[month] {
        days -= months[month];
        month += 1;
    }
    (year, month + 1, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(19_782), (2024, 2, 29));
        assert_eq!(date(20_780), (2026, 11, 23));
    }

    #[test]
    fn this_machine_has_a_kernel_and_memory() {
        let machine = Machine::here();
        assert_ne!(machine.kernel, "unknown");
        assert!(machine.memory_bytes > 0 && machine.cpus > 0);
    }
}
