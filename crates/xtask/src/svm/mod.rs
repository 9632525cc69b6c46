//! Runs the tests on a second KVM: `kvm-amd` in a machine whose AMD processor QEMU emulates.
//!
//! So that nothing depends on the quirks of one KVM (`docs/kvm.md`). The machine is slow and its times
//! mean nothing; what holds there holds by what the processor's manual says. Everything that is needed
//! is looked for first, and what is missing is said together with the command that gets it.

mod cpio;
mod machine;
mod modules;
mod needs;
mod packed;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Args;
use glowbox_testprograms::Programs;

use machine::Machine;
use packed::{Files, Script};

use crate::programs::{self, Program};
use crate::report;

pub(crate) use packed::{BOOTED, MARK};

/// Programs that read this repository or run cargo, and never KVM: they would find neither there.
const WITHOUT_KVM: [&str; 4] =
    ["core/std_guests", "glowbox/promises", "glowbox/unsafe_code", "linux/documented"];

/// Names the folder of kernels, where no option does.
const LINUX: &str = "GLOWBOX_SVM_LINUX";

/// Runs the tests under Linux's KVM for AMD's SVM, on a processor that QEMU emulates.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Runs this test program only: `suite`, `machine/lib`. May be given more than once.
    #[arg(long, value_name = "NAME")]
    program: Vec<String>,
    /// The packages whose tests are run.
    #[arg(long, value_name = "NAME", default_values_t = packages())]
    package: Vec<String>,
    /// The kernel's version, or how it begins [default: the newest there is]
    #[arg(long, value_name = "VERSION")]
    kernel: Option<String>,
    /// Where kernels' packages are unpacked [default: $GLOWBOX_SVM_LINUX, or target/svm/linux]
    #[arg(long, value_name = "FOLDER")]
    linux: Option<PathBuf>,
    /// The emulator.
    #[arg(long, value_name = "PROGRAM", default_value = "qemu-system-x86_64")]
    qemu: String,
    /// The emulated processors.
    #[arg(long, value_name = "COUNT", default_value_t = 2)]
    smp: u32,
    /// The machine's memory, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 6144)]
    memory: u32,
    /// A variable for the test programs, as in `GLOWBOX_HOSTILE=50`. May be given more than once.
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// How many minutes all of it may take.
    #[arg(long, value_name = "MINUTES", default_value_t = 180)]
    timeout: u64,
    /// How many minutes may pass without a word from a test.
    #[arg(long, value_name = "MINUTES", default_value_t = 20)]
    silence: u64,
    /// Where the logs go [default: target/svm/logs]
    #[arg(long, value_name = "FOLDER")]
    logs: Option<PathBuf>,
    /// Builds everything and lists the tests instead of running them.
    #[arg(long)]
    list: bool,
    /// For each test program: names of tests, `--skip`, `--exact`.
    #[arg(last = true, value_name = "ARGUMENT")]
    arguments: Vec<String>,
}

fn packages() -> Vec<String> {
    ["glowbox", "glowbox-abi", "glowbox-core", "glowbox-linux", "glowbox-machine", "glowbox-mem"]
        .map(String::from)
        .to_vec()
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("that is no NAME=VALUE")?;
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    match !name.is_empty() && name.chars().all(is_part) {
        true => Ok((name.into(), value.into())),
        false => Err(format!("{name:?} is no name of a variable")),
    }
}

/// Does it all. Fails if a test failed, or the kernel complained of itself.
pub(super) fn run(options: &Options) -> Result<ExitCode, String> {
    let root = crate::root()?;
    let target = root.join("target");
    let work = target.join("svm");
    let logs = options.logs.clone().unwrap_or_else(|| work.join("logs"));
    for folder in [&work, &logs] {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    let linux = options.linux.clone().or_else(|| std::env::var_os(LINUX).map(PathBuf::from));
    let linux = linux.unwrap_or_else(|| work.join("linux"));
    let compiled = Programs::new(&target);
    let found = needs::find(&options.qemu, &compiled, &linux, options.kernel.as_deref());
    let found = found.map_err(|missing| needs::text(&missing))?;
    let programs = programs::build_static(&root, &work.join("build"), &options.package)?;
    let needs_kvm = |program: &Program| !WITHOUT_KVM.contains(&program.name.as_str());
    let mut programs = programs::named(programs, &options.program)?;
    programs.retain(|program| !options.program.is_empty() || needs_kvm(program));
    if options.list {
        return list(&programs, &options.arguments);
    }
    let files = Files::build(&root, &target, &compiled, &programs)?;
    files.absent.iter().for_each(|absent| eprintln!("not there: {absent}"));
    let script = Script { environment: options.env.clone(), arguments: options.arguments.clone() };
    let archive = work.join(format!("files-{}.cpio", std::process::id()));
    let packed = packed::pack(&archive, &found, &files, &programs, &script);
    let machine = Machine {
        found: &found,
        processors: options.smp,
        mib: options.memory,
        timeout: Duration::from_secs(options.timeout * 60),
        silence: Duration::from_secs(options.silence * 60),
    };
    let result = packed.and_then(|()| {
        machine.run(&archive, &logs).map_err(|error| format!("{}: {error}", options.qemu))
    });
    // As large as all programs together, and made anew each time.
    let _ = fs::remove_file(&archive);
    let (report, ended) = result?;
    let kernel = machine::kernel_log(&logs);
    let complaints = report::complaints(&kernel);
    let mut faults = report.faults();
    faults.extend(ended.map(|why| format!("it was ended: {why}")));
    faults.extend(machine::emulators_errors(&logs).map(|line| format!("QEMU: {line}")));
    faults.extend(complaints.iter().map(|line| format!("the kernel complained: {line}")));
    println!("\nLinux {} under QEMU's SVM, logs in {}", found.kernel.version, logs.display());
    println!("{report}");
    faults.iter().for_each(|fault| println!("FAULT: {fault}"));
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Lists the tests. The programs run here as well as there.
fn list(programs: &[Program], arguments: &[String]) -> Result<ExitCode, String> {
    for program in programs {
        let output = Command::new(&program.path).arg("--list").args(arguments).output();
        let output = output.map_err(|error| format!("{}: {error}", program.path.display()))?;
        println!("{}:", program.name);
        let text = String::from_utf8_lossy(&output.stdout);
        let tests = text.lines().filter_map(|line| line.strip_suffix(": test"));
        tests.for_each(|test| println!("    {test}"));
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_a_name_and_a_value() {
        assert_eq!(variable("A_1=b=c").unwrap(), ("A_1".into(), "b=c".into()));
        for wrong in ["A", "=b", "A B=c", "$(x)=y"] {
            assert!(variable(wrong).is_err(), "{wrong}");
        }
    }
}
