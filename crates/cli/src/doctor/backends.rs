//! What can run guests here, what does unless told otherwise, and whether a guest runs on that.

use std::io;
use std::time::{Duration, Instant};

use glowbox::{Backend, Engine, Error, Guest, Sandbox};
use glowbox_machine::{MachineError, VARIABLE, chosen};

use super::{Finding, read};

/// The guest that is run.
const GUEST: &[u8] = include_bytes!(env!("GLOWBOX_GUEST_PROBE"));

/// An exit from a guest in a virtual machine and back that takes longer than this has something in its way.
const SLOW_CALL: Duration = Duration::from_micros(20);
/// Calls of which the fastest counts.
const CALLS: u32 = 50;

/// How a guest was run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ran {
    pub(super) backend: Backend,
    /// Whether that is what programs run guests on that ask for nothing.
    pub(super) is_default: bool,
}

/// What was found, and on what a guest ran, if it did.
pub(super) fn findings() -> (Vec<Finding>, Option<Ran>) {
    let opened: Vec<_> =
        Backend::ALL.iter().map(|backend| (*backend, backend.open().err())).collect();
    let works = |(backend, error): &(Backend, Option<MachineError>)| match error {
        None => Some(*backend),
        Some(_) => None,
    };
    let any = opened.iter().any(|of| works(of).is_some());
    let hardware = opened.iter().filter_map(works).find(|backend| backend.is_hardware());
    let mut findings: Vec<_> = opened
        .iter()
        .map(|(backend, error)| match error {
            None => usable(*backend),
            Some(error) => unusable(*backend, error, hardware.is_some(), any),
        })
        .collect();
    findings.push(default(hardware, &chosen(None)));
    let mut is_default = true;
    let engine = Engine::builder().build_with_fallback(|_| is_default = false);
    let backend = engine.as_ref().map(Engine::backend).ok();
    match engine.and_then(|engine| guest(&engine)) {
        Ok(guest) => findings.extend(guest),
        Err(error) => {
            let finding = Finding::fail("a guest", format!("can't be run: {error}"));
            findings.push(match backend {
                Some(_) => finding.advise("The kernel's log (dmesg) may say more"),
                // The lines above have it.
                None => finding,
            });
            return (findings, None);
        }
    }
    (findings, backend.map(|backend| Ran { backend, is_default }))
}

fn subject(backend: Backend) -> String {
    format!("backend {backend}")
}

fn usable(backend: Backend) -> Finding {
    let found = match backend.is_hardware() {
        true => "can be used",
        false => {
            "can be used; it isolates guests less than a virtual machine does (see SECURITY.md)"
        }
    };
    Finding::ok(subject(backend), found)
}

/// A backend that can't be opened: one hypervisor is enough, and any backend is better than none.
fn unusable(backend: Backend, error: &MachineError, has_hardware: bool, has_any: bool) -> Finding {
    let source = std::error::Error::source(error).map(|source| format!(" ({source})"));
    let text = format!("{error}{}", source.unwrap_or_default());
    let advice = match (backend, error) {
        (Backend::Process, MachineError::Request { request, source }) => {
            Some(format!("{text}. {}", process_advice(request, source)))
        }
        (Backend::Kvm, _) => Some("The lines about KVM say why, and what to do".into()),
        _ => Some(text),
    };
    let finding = match (has_hardware, has_any) {
        (true, _) if backend.is_hardware() && matches!(error, MachineError::Missing { .. }) => {
            return Finding::ok(subject(backend), "not there, and not needed");
        }
        (_, true) => Finding::warn(subject(backend), "can't be used"),
        (_, false) => Finding::fail(subject(backend), "can't be used"),
    };
    Finding { advice, ..finding }
}

/// What keeps processes from being used, by the request that failed.
fn process_advice(request: &str, source: &io::Error) -> String {
    let denied = source.kind() == io::ErrorKind::PermissionDenied;
    match request {
        _ if request.starts_with("PTRACE_") && denied => {
            let scope = read("/proc/sys/kernel/yama/ptrace_scope");
            let scope = scope.map_or(String::new(), |scope| format!(" (it is {scope} here)"));
            format!(
                "A process may not be traced by its parent: kernel.yama.ptrace_scope has to be 0 or \
                 1{scope}, and a container's seccomp profile has to allow ptrace (`docker run \
                 --cap-add SYS_PTRACE`)"
            )
        }
        "close_range" => "It takes Linux 5.9 or newer".into(),
        "pidfd_open" => "It takes Linux 5.9 or newer, and a seccomp profile that allows it".into(),
        "starting a process" if source.kind() == io::ErrorKind::NotFound => {
            "A process is started from /proc/self/fd: mount /proc".into()
        }
        "memfd_create" | "starting a process" if denied => {
            "A process is started from memory: vm.memfd_noexec has to be 0 or 1, and /proc mounted \
             without noexec"
                .into()
        }
        _ => "It takes Linux 5.9 or newer, and a system that lets a process trace its children"
            .into(),
    }
}

/// What guests of programs run on that ask for nothing.
fn default(hardware: Option<Backend>, chosen: &Result<Option<Backend>, MachineError>) -> Finding {
    let subject = "the default";
    match (chosen, hardware) {
        (Err(error), _) => Finding::fail(subject, format!("none: {VARIABLE} is wrong"))
            .advise(error.to_string()),
        (Ok(Some(backend)), _) => {
            Finding::ok(subject, format!("{backend}, since {VARIABLE} says so"))
        }
        (Ok(None), Some(backend)) => {
            Finding::ok(subject, format!("{backend}; {VARIABLE} can name another one"))
        }
        (Ok(None), None) => Finding::warn(subject, "none, since there is no hypervisor").advise(format!(
            "Glowbox isolates by hardware unless told otherwise. {VARIABLE}=process runs guests in processes, as does \
             EngineBuilder::backend(Backend::Process) in a program, and --backend process here. \
             This command and the examples use processes without being asked, with a warning"
        )),
    }
}

/// Makes a sandbox, calls a function in it, and takes a snapshot.
fn guest(engine: &Engine) -> Result<Vec<Finding>, Error> {
    let guest = Guest::from_bytes("probe", GUEST)?;
    let start = Instant::now();
    let mut sandbox = Sandbox::builder().engine(engine).build(&guest)?;
    let made = start.elapsed();
    let add = sandbox.function::<(u32, u32), u32>("add")?;
    let mut fastest = Duration::MAX;
    for number in 0..CALLS {
        let start = Instant::now();
        let sum = add.call(&mut sandbox, (number, 1))?;
        fastest = fastest.min(start.elapsed());
        debug_assert_eq!(sum, number + 1);
    }
    let backend = engine.backend();
    let found =
        format!("runs on {backend}; made and started in {made:.1?}, called in {fastest:.1?}");
    let call = match backend.is_hardware() && fastest > SLOW_CALL {
        true => Finding::warn("a guest", found).advise(
            "On bare metal, a few microseconds are usual. A virtual machine inside a virtual machine \
             takes longer, and so does an unoptimised build of this command",
        ),
        false => Finding::ok("a guest", found),
    };
    let start = Instant::now();
    drop(sandbox.snapshot()?.spawn()?);
    let spawned = format!("taken, and a sandbox spawned from it, in {:.1?}", start.elapsed());
    Ok(vec![call, Finding::ok("a snapshot", spawned)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Mark;

    fn request(request: &'static str, number: i32) -> MachineError {
        MachineError::Request { request, source: io::Error::from_raw_os_error(number) }
    }

    #[test]
    fn what_keeps_processes_from_being_used_is_told_with_what_to_do() {
        for (error, words) in [
            (request("PTRACE_SEIZE", 1), "ptrace_scope"),
            (request("close_range", 38), "Linux 5.9"),
            (request("starting a process", 2), "mount /proc"),
            (request("starting a process", 13), "memfd_noexec"),
            (request("seccomp", 22), "Linux 5.9"),
        ] {
            let finding = unusable(Backend::Process, &error, true, true);
            let advice = finding.advice.unwrap();
            assert!(advice.contains(words) && advice.contains("failed"), "{advice}");
        }
    }

    #[test]
    fn a_backend_fails_where_there_is_no_other_and_a_second_hypervisor_is_not_missed() {
        let missing = MachineError::Missing { path: "/dev/kvm", advice: "load it" };
        let mark = |backend, hardware, any| unusable(backend, &missing, hardware, any).mark;
        assert_eq!(mark(Backend::Kvm, false, false), Mark::Fail);
        assert_eq!(mark(Backend::Kvm, false, true), Mark::Warn);
        assert_eq!(mark(Backend::Kvm, true, true), Mark::Ok);
        assert_eq!(mark(Backend::Process, true, true), Mark::Warn);
    }

    #[test]
    fn the_default_is_what_the_variable_names_or_a_hypervisor() {
        let found = |hardware, chosen: Option<&str>| {
            let chosen = chosen.map(str::parse::<Backend>).transpose();
            let finding = default(hardware, &chosen);
            (finding.mark, finding.found)
        };
        let (mark, text) = found(Some(Backend::Kvm), None);
        assert!(mark == Mark::Ok && text.starts_with("kvm;"), "{text}");
        let (mark, text) = found(Some(Backend::Kvm), Some("process"));
        assert!(mark == Mark::Ok && text.starts_with("process,"), "{text}");
        assert_eq!(found(None, None).0, Mark::Warn);
        assert_eq!(found(Some(Backend::Kvm), Some("xen")).0, Mark::Fail);
    }
}
