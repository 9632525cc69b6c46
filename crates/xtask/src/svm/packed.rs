//! The emulated machine's first file system: busybox, modules, test programs, and what those need.
//!
//! Its `init` is a shell script that runs one program after the other. What they print goes to the
//! second serial port, with lines of its own around it ([`MARK`]); the first has what the kernel says.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use glowbox_build::{Guest, Target};
use glowbox_testprograms::{Libc, PREBUILT, Programs};

use super::cpio::Archive;
use super::modules;
use super::needs::Found;
use crate::programs::Program;

/// What the script's own lines start with.
pub(crate) const MARK: &str = "@@svm ";

/// The line of it in the kernel's log: the kernel has started, and KVM has not.
pub(crate) const BOOTED: &str = "booted";

/// How the programs are run.
#[derive(Debug, Default)]
pub(super) struct Script {
    /// Variables for the programs, beside those that they always have.
    pub(super) environment: Vec<(String, String)>,
    /// Arguments for each program.
    pub(super) arguments: Vec<String>,
}

/// Files that tests look for, built on this machine, by their path there.
#[derive(Debug, Default)]
pub(super) struct Files {
    files: Vec<(String, PathBuf)>,
    /// What could not be built, and why.
    pub(super) absent: Vec<String>,
}

impl Files {
    /// Builds what test programs look for, below the target folder that they themselves build in.
    pub(super) fn build(
        root: &Path,
        target: &Path,
        compiled: &Programs,
        tests: &[Program],
    ) -> Result<Files, String> {
        let mut files = Files::default();
        files.guests(root, target)?;
        // They take minutes to build, and are for one program.
        if tests.iter().any(|test| test.name == "glowbox/linux") {
            files.programs(root, target, compiled)?;
        }
        Ok(files)
    }

    fn add(&mut self, path: &str, from: PathBuf) {
        self.files.push((path.into(), from));
    }

    /// The guests that the suite builds elsewhere, as `GLOWBOX_TEST_GUESTS` names them.
    fn guests(&mut self, root: &Path, target: &Path) -> Result<(), String> {
        let std = || Guest::std(root.join("guests-std")).bin("testing-std").bin("interpreter-std");
        let musl = std().target(Target::Musl);
        for (guest, suffix) in [(Guest::new(root.join("guests")), ""), (std(), ""), (musl, "-musl")]
        {
            match guest.target_dir(target).build_all() {
                Ok(built) => {
                    for guest in built {
                        let path = format!("/guests/{}{suffix}", guest.name());
                        self.add(&path, guest.path().into());
                    }
                }
                Err(error @ glowbox_build::Error::TargetMissing { .. }) => {
                    self.absent.push(format!("guests{suffix}: {error}"));
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    /// The programs that sandboxes run, as `GLOWBOX_TEST_PROGRAMS` names them.
    fn programs(&mut self, root: &Path, target: &Path, programs: &Programs) -> Result<(), String> {
        let mut built = vec![programs.go(), programs.busybox()];
        let sources = fs::read_dir(root.join("programs/c")).map_err(|error| error.to_string())?;
        let sources: Vec<PathBuf> = sources.flatten().map(|entry| entry.path()).collect();
        for libc in Libc::ALL {
            // One of them: all are built together.
            built.push(programs.rust("crates-demo", libc));
            let sources =
                sources.iter().filter(|path| path.extension().is_some_and(|end| end == "c"));
            let names = sources.filter_map(|path| path.file_stem()?.to_str());
            built.extend(names.map(|name| programs.c(name, libc)));
        }
        self.absent
            .extend(built.into_iter().filter_map(Result::err).map(|absent| absent.to_string()));
        let folder = target.join("programs");
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            self.add(&format!("/programs/{name}"), entry.path());
        }
        Ok(())
    }
}

/// Writes the file system.
pub(super) fn pack(
    to: &Path,
    found: &Found,
    files: &Files,
    programs: &[Program],
    script: &Script,
) -> Result<(), String> {
    let modules = modules::with_needs("kvm-amd", &found.kernel.modules)?;
    let names: Vec<&str> = modules.iter().map(|(name, _)| name.as_str()).collect();
    let init = init(&names, programs, script);
    let write = || -> io::Result<()> {
        let mut archive = Archive::new(BufWriter::new(File::create(to)?));
        for folder in ["/proc", "/sys", "/dev", "/tmp", "/root", "/run"] {
            archive.folder(folder)?;
        }
        archive.program("/init", init.as_bytes())?;
        archive.program("/bin/busybox", &fs::read(&found.busybox)?)?;
        archive.link("/bin/sh", "busybox")?;
        archive.data("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")?;
        archive.data("/etc/group", b"root:x:0:\n")?;
        archive.data("/etc/hostname", b"svm\n")?;
        for (name, bytes) in &modules {
            archive.data(&format!("/modules/{name}.ko"), bytes)?;
        }
        for program in programs {
            archive.program(&place(program), &fs::read(&program.path)?)?;
        }
        for (path, from) in &files.files {
            archive.program(path, &fs::read(from)?)?;
        }
        archive.finish().map(|_| ())
    };
    write().map_err(|error| format!("{}: {error}", to.display()))
}

fn place(program: &Program) -> String {
    format!("/tests/{}", program.name)
}

/// The script that the kernel starts.
fn init(modules: &[&str], programs: &[Program], script: &Script) -> String {
    let mut text = String::from(
        "#!/bin/sh\n\
         /bin/busybox --install -s /bin\n\
         export PATH=/bin HOME=/root TERM=dumb RUST_BACKTRACE=1\n\
         mount -t proc proc /proc\n\
         mount -t sysfs sysfs /sys\n\
         mount -t devtmpfs devices /dev\n\
         mkdir -p /dev/shm /dev/pts\n\
         mount -t devpts terminals /dev/pts\n\
         mount -t tmpfs shared /dev/shm\n\
         mount -t tmpfs temporary /tmp\n\
         mount -t cgroup2 cgroups /sys/fs/cgroup\n\
         echo +memory >/sys/fs/cgroup/cgroup.subtree_control\n\
         ifconfig lo 127.0.0.1 up\n\
         hostname svm\n\
         ulimit -n 20000\n",
    );
    let mut line = |line: String| _ = writeln!(text, "{line}");
    // In the kernel's log, whatever its console leaves out otherwise.
    line(format!("echo '<2>{MARK}{BOOTED}' >/dev/kmsg"));
    modules.iter().for_each(|module| line(format!("insmod /modules/{module}.ko")));
    line("exec </dev/null >/dev/ttyS1 2>&1".into());
    line(format!(
        "[ -c /dev/kvm ] || {{ echo '{MARK}broken there is no /dev/kvm'; poweroff -f; }}"
    ));
    let always = [("GLOWBOX_TEST_GUESTS", "/guests"), (PREBUILT, "/programs")];
    let always = always.into_iter().map(|(name, value)| (name.to_string(), value.to_string()));
    for (name, value) in always.chain(script.environment.iter().cloned()) {
        line(format!("export {}", quoted(&format!("{name}={value}"))));
    }
    let arguments: Vec<String> = script.arguments.iter().map(|text| quoted(text)).collect();
    let arguments = arguments.join(" ");
    for program in programs {
        let name = &program.name;
        line(format!("echo; echo '{MARK}start {name}'"));
        // In order, with nothing kept back, so that where it hangs can be seen.
        line(format!("{} --test-threads 1 --nocapture --color never {arguments}", place(program)));
        line(format!("status=$?; echo; echo \"{MARK}end {name} $status\""));
    }
    line(format!("echo '{MARK}done'"));
    line("poweroff -f".into());
    text
}

/// A word for the shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn program(name: &str) -> Program {
        Program { name: name.into(), path: PathBuf::new() }
    }

    #[test]
    fn the_script_runs_each_program_between_its_marks_with_what_was_asked_for() {
        let script = Script {
            environment: vec![("GLOWBOX_HOSTILE".into(), "50".into())],
            arguments: vec!["faults".into(), "it's".into()],
        };
        let text = init(&["kvm", "kvm_amd"], &[program("glowbox/suite")], &script);
        let at = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part} in\n{text}"));
        assert!(at("@@svm booted") < at("insmod /modules/kvm.ko"));
        assert!(at("insmod /modules/kvm.ko") < at("insmod /modules/kvm_amd.ko"));
        assert!(at("export 'GLOWBOX_HOSTILE=50'") < at("@@svm start glowbox/suite"));
        assert!(at("@@svm start glowbox/suite") < at("/tests/glowbox/suite --test-threads 1"));
        at(r"--color never 'faults' 'it'\''s'");
        assert!(at("@@svm end glowbox/suite $status") < at("poweroff -f\n"));
        // Of the program, and of nothing that is done after it.
        let mut lines = text.lines().skip_while(|line| !line.starts_with("/tests/glowbox/suite"));
        assert!(lines.nth(1).unwrap().starts_with("status=$?;"), "{text}");
    }

    #[test]
    fn the_script_is_one_that_a_shell_can_read() {
        let script = Script {
            environment: vec![("A".into(), "$(touch /nowhere) \"'".into())],
            arguments: vec!["a b".into(), "'".into()],
        };
        let text = init(&["kvm"], &[program("a/b")], &script);
        let status = Command::new("sh").args(["-n", "-c", &text]).status().unwrap();
        assert!(status.success(), "{text}");
    }

    #[test]
    fn a_quoted_word_is_itself_again() {
        for word in ["plain", "two words", "it's", "$HOME `id` \\ \"", ""] {
            let output = Command::new("printf").arg("%s").arg(word).output().unwrap();
            let shell = format!("printf %s {}", quoted(word));
            let shell = Command::new("sh").args(["-c", &shell]).output().unwrap();
            assert_eq!(output.stdout, shell.stdout);
        }
    }
}
