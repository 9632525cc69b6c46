//! Runs the tests and examples on each backend, and prints the counts side by side.
//!
//! All are to pass on each. A test may leave itself out on a backend for a reason that it has on KVM too, or
//! because of a field of the backend's `Caps`; anything else is a fault. Where KVM is not among the backends, what
//! the machine lacks takes the place of the reasons on KVM. What runs under `mshv` is the stand-in for its device
//! (`docs/backends.md`).

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Args;

use crate::programs::{self, EXAMPLE, Program};
use crate::report::{Outcome, Report};
use crate::svm::MARK;

/// The backend that the others are held against.
const FIRST: &str = "kvm";
/// The backend whose device a preloaded library stands in for.
const STOOD_IN: &str = "mshv";
/// That library's file.
const STAND_IN: &str = "libglowbox_mshv_stand_in.so";
/// The tests that are run.
const TESTS: [&str; 5] = [
    "conformance/contract",
    "glowbox/suite",
    "glowbox/linux",
    "glowbox/hostile",
    "glowbox/injected",
];
/// How the reasons begin for which a test may be left out on one backend and not on KVM.
const BY_NATURE: &str = "Caps of the backend ";
/// What is in the reasons that are about the machine, whatever the backend. They count where nothing has run on
/// KVM that could tell; that a processor does not raise something is no such reason, since a backend can lose it.
const OF_THE_MACHINE: [&str; 16] = [
    "no swap file: ",
    "the system does not swap out what it is asked to",
    "this kernel has no PAGEMAP_SCAN",
    "this CPU has no ",
    "this process may not mount a file system",
    "hiding /dev/kvm takes root",
    "looking into a process that can't be dumped takes root",
    "there is no /dev/kvm here",
    "everybody may use /dev/kvm here",
    "no processes for guests: ",
    "a thousand sandboxes need 4000 descriptors (ulimit -n)",
    "there is no cargo to build a guest with",
    "guests for musl: ",
    "the Rust compiler has no libraries for ",
    " is not installed (Debian: ",
    " has no static libc",
];
/// The same of a machine whose KVM is kvm-pvm, by which the stand-in answers. Processes have fields of `Caps` for it.
const OF_THE_STAND_IN: [&str; 2] = [
    "segments are the host's here, and 32-bit code in one may bring its kernel down",
    "ring 3 sees the host's CPU here, whatever the backend sets",
];
/// Why faults are not injected where there is no device but what stands in for it.
const FAULTS_OF_THE_STAND_IN: &str = "the faults would be those of what stands in for the device";

/// Runs tests and examples on each backend.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The backends. May be given more than once.
    #[arg(long, value_name = "NAME", default_values_t = [FIRST, "process", STOOD_IN].map(String::from))]
    backend: Vec<String>,
    /// Runs this program only: `suite`, `example/hello`. May be given more than once.
    #[arg(long, value_name = "NAME")]
    program: Vec<String>,
    /// How many minutes one program may take.
    #[arg(long, value_name = "MINUTES", default_value_t = 15)]
    timeout: u64,
    /// Where the logs go [default: target/backends]
    #[arg(long, value_name = "FOLDER")]
    logs: Option<PathBuf>,
    /// For each test program: names of tests, `--skip`, `--exact`.
    #[arg(last = true, value_name = "ARGUMENT")]
    arguments: Vec<String>,
}

/// Does it all. Fails if anything failed, or was left out without one of the reasons that there may be.
pub(super) fn run(options: &Options) -> Result<ExitCode, String> {
    let root = crate::root()?;
    let logs = options.logs.clone().unwrap_or_else(|| root.join("target/backends"));
    std::fs::create_dir_all(&logs).map_err(|error| format!("{}: {error}", logs.display()))?;
    let programs = programs::named(build(&root)?, &options.program)?;
    let stand_in = stand_in(&root, options)?;
    let mut reports = Vec::new();
    for backend in &options.backend {
        let mut report = Report::default();
        for program in &programs {
            let run = Run { root: &root, backend, program, stand_in: stand_in.as_deref(), options };
            let log = logs.join(format!("{backend}-{}.log", program.name.replace('/', "-")));
            run.run(&log, &mut report)?;
            let outcome = report.programs.last().expect("it has been run");
            println!("{backend} {}", line(outcome));
        }
        report.done = true;
        reports.push((backend.as_str(), report));
    }
    print!("\n{}", table(&reports));
    let faults = faults(&reports);
    faults.iter().for_each(|fault| println!("FAULT: {fault}"));
    println!("logs in {}", logs.display());
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The tests' programs, and the examples, built as `cargo test` builds them.
fn build(root: &Path) -> Result<Vec<Program>, String> {
    let mut cargo = programs::cargo(root);
    cargo.args(["test", "--locked", "--no-run", "--tests", "--examples"]);
    let mut programs = programs::built(cargo)?;
    let place = |program: &Program| TESTS.iter().position(|test| *test == program.name);
    programs.retain(|program| place(program).is_some() || is_example(&program.name));
    programs.sort_by_key(|program| place(program).unwrap_or(TESTS.len()));
    Ok(programs)
}

fn is_example(name: &str) -> bool {
    name.split_once('/').is_some_and(|(package, _)| package == EXAMPLE)
}

/// Builds the library that stands in for a device, if it is needed.
fn stand_in(root: &Path, options: &Options) -> Result<Option<PathBuf>, String> {
    if !options.backend.iter().any(|backend| backend == STOOD_IN) {
        return Ok(None);
    }
    let status = programs::cargo(root).args(["build", "--locked"]).status();
    match status.map_err(|error| format!("cargo: {error}"))?.success() {
        true => Ok(Some(root.join("target/debug").join(STAND_IN))),
        false => Err("what stands in for a device does not build".into()),
    }
}

struct Run<'a> {
    root: &'a Path,
    backend: &'a str,
    program: &'a Program,
    stand_in: Option<&'a Path>,
    options: &'a Options,
}

impl Run<'_> {
    /// Runs the program, and adds what came of it to the report.
    fn run(&self, log: &Path, report: &mut Report) -> Result<(), String> {
        let name = &self.program.name;
        let failed = |error: std::io::Error| format!("{name}: {error}");
        let mut command = Command::new("timeout");
        command.arg(format!("{}m", self.options.timeout)).arg(&self.program.path);
        let is_example = is_example(name);
        if !is_example {
            command.args(["--color", "never"]).args(&self.options.arguments);
        }
        let package = match name.split_once('/') {
            Some((package, _)) if !is_example => self.root.join("crates").join(package),
            _ => self.root.join("examples"),
        };
        command.current_dir(package).env("GLOWBOX_BACKEND", self.backend);
        if self.backend == STOOD_IN
            && let Some(library) = self.stand_in
        {
            command.env("LD_PRELOAD", library);
        }
        let mut file = File::create(log).map_err(failed)?;
        let (reader, writer) = std::io::pipe().map_err(failed)?;
        let errors = writer.try_clone().map_err(failed)?;
        let start = Instant::now();
        let mut child =
            command.stdin(Stdio::null()).stdout(writer).stderr(errors).spawn().map_err(failed)?;
        // The writing ends that it holds would keep the pipe open.
        drop(command);
        report.line(&format!("{MARK}start {name}"), Duration::ZERO);
        for line in BufReader::new(reader).split(b'\n') {
            let line = line.map_err(failed)?;
            let line = String::from_utf8_lossy(&line);
            writeln!(file, "{line}").map_err(failed)?;
            report.line(&line, start.elapsed());
        }
        let status = child.wait().map_err(failed)?.code().unwrap_or(-1);
        report.line(&format!("{MARK}end {name} {status}"), start.elapsed());
        if let (true, 0, Some(outcome)) = (is_example, status, report.programs.last_mut()) {
            outcome.passed = 1;
        }
        Ok(())
    }
}

fn line(outcome: &Outcome) -> String {
    let left_out = outcome.left_out + outcome.ignored;
    let (name, passed, failed) = (&outcome.name, outcome.passed, outcome.failed);
    let seconds = outcome.took.as_secs_f64();
    format!("{name}: {passed} passed, {failed} failed, {left_out} left out, {seconds:.0} s")
}

/// The counts side by side: passed, of these left out, and failed.
fn table(reports: &[(&str, Report)]) -> String {
    let mut text = format!("{:32}", "passed (left out), failed");
    reports.iter().for_each(|(backend, _)| text += &format!("{backend:>20}"));
    let rows = reports.first().map_or(0, |(_, report)| report.programs.len());
    for row in 0..rows {
        text += &format!("\n{:32}", reports[0].1.programs[row].name);
        for (_, report) in reports {
            let of = &report.programs[row];
            let left_out = of.left_out + of.ignored;
            text += &format!("{:>20}", format!("{} ({left_out}), {}", of.passed, of.failed));
        }
    }
    text += "\n";
    for (backend, report) in reports {
        for program in &report.programs {
            for (reason, count) in &program.reasons {
                text += &format!("{backend} {}: left out: {reason} ({count})\n", program.name);
            }
            for failure in &program.failures {
                text += &format!("{backend} {}: failed: {failure}\n", program.name);
            }
        }
    }
    text
}

fn faults(reports: &[(&str, Report)]) -> Vec<String> {
    let mut faults = Vec::new();
    let reasons = |report: &Report| -> BTreeSet<String> {
        report.programs.iter().flat_map(|program| program.reasons.keys().cloned()).collect()
    };
    let first = reports.iter().find(|(backend, _)| *backend == FIRST);
    let known = first.map(|(_, report)| reasons(report)).unwrap_or_default();
    for (backend, report) in reports {
        faults.extend(report.faults().into_iter().map(|fault| format!("{backend}: {fault}")));
        for program in &report.programs {
            if program.passed == 0 {
                faults.push(format!("{backend}: nothing of {} passed", program.name));
            }
            if program.ignored > 0 {
                faults.push(format!("{backend}: {} could not be run", program.name));
            }
        }
        let others = reasons(report).into_iter().filter(|_| *backend != FIRST);
        let by_nature = |reason: &String| {
            reason.starts_with(BY_NATURE)
                || *backend == STOOD_IN && reason == FAULTS_OF_THE_STAND_IN
        };
        let others = others.filter(|reason| !by_nature(reason));
        let (others, but) = match first {
            Some(_) => (others.filter(|reason| !known.contains(reason)).collect(), "not on KVM"),
            None => (
                others.filter(|reason| !is_of_the_machine(backend, reason)).collect::<Vec<_>>(),
                "neither by Caps nor by what the machine lacks",
            ),
        };
        let fault = |reason| format!("{backend}: left out, but {but}: {reason}");
        faults.extend(others.into_iter().map(fault));
    }
    faults
}

fn is_of_the_machine(backend: &str, reason: &str) -> bool {
    let stand_in = OF_THE_STAND_IN.iter().filter(|_| backend == STOOD_IN);
    OF_THE_MACHINE.iter().chain(stand_in).any(|words| reason.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lines: &[&str]) -> Report {
        let mut report = Report::default();
        report.line(&format!("{MARK}start glowbox/suite"), Duration::ZERO);
        lines.iter().for_each(|line| report.line(line, Duration::ZERO));
        report.line(&format!("{MARK}end glowbox/suite 0"), Duration::from_secs(3));
        report.done = true;
        report
    }

    const PASSED: &str =
        "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";

    #[test]
    fn what_is_left_out_by_nature_or_on_kvm_too_is_no_fault_and_all_else_is() {
        let kvm = || ("kvm", report(&["left out: no swap", PASSED]));
        let by_nature = "left out: Caps of the backend process: no `device`";
        let process = report(&[by_nature, "left out: no swap", PASSED]);
        assert_eq!(faults(&[kvm(), ("process", process)]), [""; 0]);
        let process = report(&["left out: too slow", PASSED]);
        let found = faults(&[kvm(), ("process", process)]);
        assert!(found.len() == 1 && found[0].contains("too slow"), "{found:?}");
    }

    #[test]
    fn without_kvm_only_caps_and_what_the_machine_lacks_are_no_fault() {
        let by_nature = "left out: Caps of the backend process: no `device`";
        let swap = "left out: no swap file: swapon: Operation not permitted";
        let compiler = "left out: musl-gcc is not installed (Debian: musl-tools)";
        let lines = [by_nature, swap, compiler, "left out: this CPU has no umip", PASSED];
        assert_eq!(faults(&[("process", report(&lines))]), [""; 0]);
        // What one backend lacks by its nature is no reason by being said of another thing, or in other words.
        for reason in ["too slow", "the Caps of the backend process: no `device`", "no swap", ""] {
            let report = report(&[by_nature, &format!("left out: {reason}"), PASSED]);
            let found = faults(&[("process", report)]);
            assert!(found.len() == 1 && found[0].ends_with(&format!(": {reason}")), "{found:?}");
        }
        let reports =
            ["process", "mshv"].map(|backend| (backend, report(&["left out: too slow", PASSED])));
        assert_eq!(faults(&reports).len(), 2);
        let cpu = format!("left out: {}", OF_THE_STAND_IN[1]);
        let reports = ["process", "mshv"].map(|backend| (backend, report(&[&cpu, PASSED])));
        let found = faults(&reports);
        assert!(found.len() == 1 && found[0].starts_with("process: "), "{found:?}");
    }

    #[test]
    fn where_kvm_ran_what_the_machine_lacks_has_to_be_lacking_there_too() {
        let swap = "left out: no swap file: swapon: Operation not permitted";
        let reports = [("kvm", report(&[PASSED])), ("process", report(&[swap, PASSED]))];
        assert_eq!(faults(&reports).len(), 1);
    }

    /// A reason that nobody gives any more would let another in.
    #[test]
    fn each_of_the_reasons_that_are_of_the_machine_is_given_by_some_source() {
        let crates = crate::root().unwrap().join("crates");
        let mut folders = vec![crates];
        let mut sources = String::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let here = path.ends_with("xtask/src/backends.rs");
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|it| it == "rs") && !here {
                    sources += &std::fs::read_to_string(path).unwrap();
                }
            }
        }
        let all = OF_THE_MACHINE.iter().chain(&OF_THE_STAND_IN).chain([&FAULTS_OF_THE_STAND_IN]);
        let unknown: Vec<_> = all.filter(|words| !sources.contains(**words)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }

    #[test]
    fn failures_and_programs_of_which_nothing_ran_are_faults() {
        let failed =
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(faults(&[("kvm", report(&[failed]))]).len(), 1);
        assert!(!faults(&[("kvm", report(&[]))]).is_empty());
        let none = "test result: ok. 0 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out";
        assert!(!faults(&[("kvm", report(&[none]))]).is_empty());
    }

    #[test]
    fn the_counts_stand_side_by_side() {
        let text = table(&[("kvm", report(&[PASSED])), ("process", report(&[PASSED]))]);
        let row = text.lines().find(|line| line.starts_with("glowbox/suite")).unwrap();
        assert_eq!(row.matches("3 (0), 0").count(), 2, "{text}");
    }
}
