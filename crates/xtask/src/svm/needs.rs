//! What has to be on this machine, and what to type where it isn't.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use glowbox_testprograms::Programs;

/// Something that is missing, and how one gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Missing {
    what: String,
    get: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.what)?;
        self.get.lines().try_for_each(|line| writeln!(f, "    {line}"))
    }
}

/// All that is missing, for a person.
pub(super) fn text(missing: &[Missing]) -> String {
    let texts: Vec<String> = missing.iter().map(Missing::to_string).collect();
    format!("This can't run yet. Missing, with the commands for Debian:\n\n{}", texts.join("\n"))
}

/// What has been found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) qemu: String,
    pub(super) busybox: PathBuf,
    pub(super) kernel: Kernel,
}

/// A kernel for the emulated machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kernel {
    /// As in the names of its files.
    pub(super) version: String,
    pub(super) image: PathBuf,
    pub(super) modules: PathBuf,
}

/// Looks for everything, and says all that is missing at once.
pub(super) fn find(
    qemu: &str,
    programs: &Programs,
    folder: &Path,
    version: Option<&str>,
) -> Result<Found, Vec<Missing>> {
    let mut missing = Vec::new();
    missing.extend(check_qemu(qemu));
    let busybox = programs.busybox().map_err(|absent| Missing {
        what: format!("{absent}. The emulated machine's shell and commands come from it."),
        get: "apt-get install busybox-static".into(),
    });
    let busybox = busybox.map_err(|absent| missing.push(absent));
    let kernel = choose(kernels(folder), folder, version).map_err(|absent| missing.push(absent));
    match (busybox, kernel) {
        (Ok(busybox), Ok(kernel)) if missing.is_empty() => {
            Ok(Found { qemu: qemu.into(), busybox: busybox.path().into(), kernel })
        }
        _ => Err(missing),
    }
}

fn check_qemu(qemu: &str) -> Option<Missing> {
    let mut command = Command::new(qemu);
    let works = command.arg("--version").stdout(Stdio::null()).status();
    works.err().map(|error| Missing {
        what: format!("{qemu} can't be run: {error}. It emulates a processor with AMD's SVM."),
        get: "apt-get install qemu-system-x86".into(),
    })
}

/// The kernels that packages have been unpacked to in a folder, oldest first.
fn kernels(folder: &Path) -> Vec<Kernel> {
    let entries = fs::read_dir(folder.join("boot")).into_iter().flatten().flatten();
    let kernel = |name: String| {
        let version = name.strip_prefix("vmlinuz-")?.to_string();
        let modules = ["lib/modules", "usr/lib/modules"].map(|at| folder.join(at).join(&version));
        let modules = modules.into_iter().find(|modules| modules.is_dir())?;
        Some(Kernel { version, image: folder.join("boot").join(name), modules })
    };
    let mut found: Vec<Kernel> = entries
        .filter_map(|entry| kernel(entry.file_name().to_string_lossy().into_owned()))
        .collect();
    found.sort_by_key(|kernel| numbers(&kernel.version));
    found
}

/// The numbers in a version, for putting versions in order.
fn numbers(version: &str) -> Vec<u64> {
    let parts = version.split(|c: char| !c.is_ascii_digit());
    parts.filter_map(|part| part.parse().ok()).collect()
}

/// The newest kernel, or the newest of those whose version starts like that.
fn choose(kernels: Vec<Kernel>, folder: &Path, version: Option<&str>) -> Result<Kernel, Missing> {
    let starts = |kernel: &Kernel| {
        let rest = version.map_or(Some(""), |version| kernel.version.strip_prefix(version));
        // 6.1 is not 6.12.
        rest.is_some_and(|rest| {
            !rest.starts_with(|c: char| c.is_ascii_digit()) || version.is_none()
        })
    };
    let there: Vec<&str> = kernels.iter().map(|kernel| kernel.version.as_str()).collect();
    let there = if there.is_empty() { "none".into() } else { there.join(", ") };
    let found = kernels.iter().rfind(|kernel| starts(kernel)).cloned();
    found.ok_or_else(|| {
        let which = version.map_or(String::new(), |version| format!(" {version}"));
        let of = version.map_or("[0-9].*".into(), |version| {
            format!("{}([^0-9].*)?", version.replace('.', "\\."))
        });
        let place = folder.display();
        Missing {
            what: format!(
                "There is no Linux{which} for the emulated machine in {place} (there: {there}). A \
                 package is unpacked there, not installed:"
            ),
            get: format!(
                "mkdir -p {place} && cd {place} && apt-get update\n\
                 apt-get download \"$(apt-cache search --names-only \
                 '^linux-image-{of}-cloud-amd64-unsigned$' | cut -d' ' -f1 | sort -V | tail -n 1)\"\n\
                 for package in *.deb; do dpkg -x \"$package\" .; done"
            ),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(version: &str) -> Kernel {
        Kernel { version: version.into(), image: "k".into(), modules: "m".into() }
    }

    fn chosen(version: Option<&str>) -> Result<String, Missing> {
        let kernels =
            vec![kernel("6.1.0-9-cloud"), kernel("6.1.0-50-cloud"), kernel("6.12.1-cloud")];
        choose(kernels, Path::new("/there"), version).map(|kernel| kernel.version)
    }

    #[test]
    fn the_newest_kernel_is_taken_or_the_newest_of_a_version() {
        assert_eq!(chosen(None).unwrap(), "6.12.1-cloud");
        assert_eq!(chosen(Some("6.1")).unwrap(), "6.1.0-50-cloud");
        assert_eq!(chosen(Some("6.1.0-9")).unwrap(), "6.1.0-9-cloud");
        assert!(chosen(Some("6")).is_ok());
    }

    #[test]
    fn versions_are_ordered_as_numbers() {
        assert!(numbers("6.1.0-9-cloud") < numbers("6.1.0-50-cloud"));
        assert!(numbers("6.1.0-50-cloud") < numbers("6.12.1+deb12-cloud"));
    }

    #[test]
    fn a_missing_kernel_is_named_with_where_it_was_looked_for_and_the_commands() {
        let missing = chosen(Some("6.6")).unwrap_err().to_string();
        for part in [
            "no Linux 6.6",
            "/there",
            "6.12.1-cloud",
            "apt-get download",
            "dpkg -x",
            "-6\\.6([^0-9].*)?-cloud",
        ] {
            assert!(missing.contains(part), "{missing}");
        }
        let none = choose(Vec::new(), Path::new("/there"), None).unwrap_err().to_string();
        assert!(none.contains("(there: none)"), "{none}");
    }

    #[test]
    fn kernels_are_found_with_their_modules_only() {
        let folder = tempfile::tempdir().unwrap();
        for file in ["boot/vmlinuz-6.1.0-9", "boot/vmlinuz-6.12", "boot/config-6.1.0-9"] {
            fs::create_dir_all(folder.path().join("boot")).unwrap();
            fs::write(folder.path().join(file), "").unwrap();
        }
        fs::create_dir_all(folder.path().join("lib/modules/6.1.0-9")).unwrap();
        let found = kernels(folder.path());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].version, "6.1.0-9");
        assert_eq!(found[0].modules, folder.path().join("lib/modules/6.1.0-9"));
        assert!(kernels(Path::new("/nowhere")).is_empty());
    }

    #[test]
    fn everything_missing_is_said_at_once_with_a_command_each() {
        let programs = Programs::new("../../target");
        let missing = find("no-such-qemu", &programs, Path::new("/nowhere"), None).unwrap_err();
        let text = text(&missing);
        for part in ["no-such-qemu", "apt-get install qemu-system-x86", "/nowhere", "dpkg -x"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
