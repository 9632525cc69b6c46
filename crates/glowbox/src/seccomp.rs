//! A filter of system calls for threads that run guests.
//!
//! A guest reaches nothing of the host but what the host registered. Should there be a way out of the
//! VM all the same, a filter bounds what whoever takes it can ask of the kernel from there: under
//! [`Filter::for_calls`] no file can be opened, no program or thread started, no connection made, and no
//! memory made executable. It is a second line of defence. Filters know what the backend KVM asks of the
//! kernel; with an engine of another backend they are an error.
//!
//! ```no_run
//! use glowbox::seccomp::Filter;
//! use glowbox::{Engine, Sandbox};
//!
//! # fn main() -> Result<(), glowbox::Error> {
//! // What is to be made is made before.
//! let engine = Engine::shared()?;
//! let snapshot = Sandbox::builder().build("plugin.elf")?.snapshot()?;
//! let worker = std::thread::spawn(move || -> Result<u32, glowbox::Error> {
//!     Filter::for_calls().apply_to_this_thread(&engine)?;
//!     let mut sandbox = snapshot.spawn()?;
//!     sandbox.call("serve", ("a request",))
//! });
//! # let _ = worker.join();
//! # Ok(())
//! # }
//! ```
//!
//! # Threads
//!
//! A filter holds for the thread that puts it in force, for its whole life, and for every thread and
//! process that it starts from then on, if it is allowed to start any. Threads that exist already are
//! left alone. That matters:
//!
//! - **The engine comes first.** Its watchdog thread, which enforces deadlines, is started with it and
//!   must not inherit a filter that it could not work under; so [`Filter::apply_to_this_thread`] asks for
//!   the engine. The same holds for [`Snapshot::keep_ready`](crate::Snapshot::keep_ready), whose thread
//!   makes VMs: call it before.
//! - **All threads of a process share its memory.** Whoever can execute code in one may try to make
//!   another one act for him. So put every thread that runs guests under a filter, and keep what
//!   must be kept apart in another process.
//!
//! # What is not allowed
//!
//! A system call that no part of this library makes ends the process, by `SIGSYS`:
//! something runs in the thread that should not. One that the library makes under another filter fails
//! with `EPERM`, so that, say, a spawn that finds no idle VM under [`Filter::for_calls`] returns an error.
//! [`Filter::refuse`] makes every other one fail likewise.
//!
//! Host functions run in the thread of the call, under its filter. What they need has to be
//! [allowed](Filter::allow), as must what the log's sink needs, and what the program itself does in that
//! thread. Of Rust's standard library, what works under every filter is: allocating, locks, channels,
//! [`thread::park`](std::thread::park) and [`sleep`](std::thread::sleep), clocks, random hashes, printing to
//! standard output and standard error, panics (without the names in a backtrace), and ending the thread or
//! the process.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use crate::{Engine, Error, ErrorKind};

mod table;

use table::{Entry, Only};

/// Which system calls a thread may make. See the [module](self).
///
/// ```no_run
/// # fn main() -> Result<(), glowbox::Error> {
/// # let engine = glowbox::Engine::shared()?;
/// use glowbox::seccomp::Filter;
///
/// // A worker that makes its own VMs, and whose host functions send and receive on open sockets.
/// Filter::for_calls()
///     .with_building()
///     .allow(libc::SYS_sendto)
///     .allow(libc::SYS_recvfrom)
///     .apply_to_this_thread(&engine)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a filter does nothing until it is put in force"]
pub struct Filter {
    entries: Vec<Entry>,
    allowed: Vec<i64>,
    refuses: bool,
}

/// A system call that a [`Filter`] allows, as [`Filter::system_calls`] tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SystemCall {
    /// Its number on this architecture.
    pub number: i64,
    /// The one request with which it is allowed, of an `ioctl`.
    pub request: Option<u32>,
    /// Where or when the library makes it, if not everywhere.
    pub when: Option<&'static str>,
    /// What for.
    pub why: &'static str,
}

impl Filter {
    /// What calling, resetting and dropping sandboxes takes, and spawning those for which there are idle VMs
    /// ([`EngineBuilder::pool_size`](crate::EngineBuilder::pool_size),
    /// [`Snapshot::keep_ready`](crate::Snapshot::keep_ready)); interrupting calls of other threads; and
    /// answering Linux programs without granted directories.
    pub fn for_calls() -> Filter {
        Filter { entries: table::CALLS.to_vec(), allowed: Vec::new(), refuses: false }
    }

    /// Allows making VMs, and snapshots in memory, beside that: building sandboxes of guests that have been
    /// read already, spawning without an idle VM, [`Sandbox::snapshot`](crate::Sandbox::snapshot), and lending
    /// bytes.
    pub fn with_building(mut self) -> Filter {
        self.entries.extend(table::BUILDING);
        self
    }

    /// Allows opening, making and renaming files beside that, wherever the process may: reading guests from
    /// files, saving and loading snapshots, lending files, and directories that are granted to Linux
    /// programs. It takes from the filter much of what it is good for: do these things in another thread,
    /// if that can be.
    pub fn with_files(mut self) -> Filter {
        self.entries.extend(table::FILES);
        self
    }

    /// Allows another system call, by its number (`libc::SYS_…`), with whatever arguments.
    pub fn allow(mut self, number: i64) -> Filter {
        self.allowed.push(number);
        self
    }

    /// Makes system calls that are not allowed fail with `EPERM`, all of them, instead of ending the process.
    pub fn refuse(mut self) -> Filter {
        self.refuses = true;
        self
    }

    /// What it allows, but for what was added by [`Filter::allow`]: for programs that filter system
    /// calls in their own way.
    pub fn system_calls(&self) -> Vec<SystemCall> {
        let tell = |entry: &Entry| SystemCall {
            number: entry.number,
            request: match entry.only {
                Only::Request(request) => Some(request),
                _ => None,
            },
            when: entry.when,
            why: entry.why,
        };
        self.entries.iter().map(tell).collect()
    }

    /// Puts the filter in force for this thread, and for every thread and process that it starts later.
    /// Nothing takes it away again; others may be added, if [`Filter::allow`] was told of `SYS_seccomp` and
    /// `SYS_prctl`. The thread and what it starts gain no privileges by `execve` any more
    /// (`PR_SET_NO_NEW_PRIVS`).
    ///
    /// `engine` is the one whose sandboxes the thread uses, or one with the same
    /// [signal](crate::EngineBuilder::interrupt_signal).
    ///
    /// # Errors
    ///
    /// [`Filter`](ErrorKind::Filter) if the engine's backend is another than KVM, whose system calls are all
    /// that filters know; if the system refuses (it may be built without such filters), or the
    /// filter is too large; [`Hypervisor`](ErrorKind::Hypervisor) if the engine was opened by a process of
    /// which this one is a fork. The thread is as it was, then.
    pub fn apply_to_this_thread(&self, engine: &Engine) -> Result<(), Error> {
        engine.check_process()?;
        if !engine.caps().known_requests {
            let backend = engine.backend();
            let text = format!(
                "filters know the system calls of the backend kvm, and the engine's is {backend}; leave \
                 them out, or use EngineBuilder::backend(Backend::Kvm)"
            );
            return Err(Error::new(ErrorKind::Filter, text));
        }
        // Opens what is opened once a process, with the first sandbox.
        let _ = glowbox_mem::tracking();
        let signal = engine.pool().signal().number();
        for program in self.programs(signal).map_err(|error| failed("compiled", error))? {
            seccompiler::apply_filter(&program).map_err(|error| failed("put in force", error))?;
        }
        Ok(())
    }

    /// The filters to put in force, one after the other; the kernel does what the strictest says.
    fn programs(&self, signal: i32) -> Result<Vec<BpfProgram>, seccompiler::Error> {
        let own = Own { process: std::process::id(), signal: signal.unsigned_abs() };
        let mut allowed = Rules::default();
        self.entries.iter().try_for_each(|entry| allowed.add(entry, own))?;
        self.allowed.iter().for_each(|number| allowed.add_any(*number));
        let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
        if self.refuses {
            return Ok(vec![allowed.compile(refuse)?]);
        }
        let mut first = Rules::default();
        let all = [table::CALLS, table::BUILDING, table::FILES];
        all.into_iter().flatten().try_for_each(|entry| first.add(entry, own))?;
        // The last two put the second filter in force, which does not allow them.
        let others = table::DISPENSABLE.iter().chain(&self.allowed);
        others
            .chain(&[libc::SYS_seccomp, libc::SYS_prctl])
            .for_each(|number| first.add_any(*number));
        Ok(vec![first.compile(SeccompAction::KillProcess)?, allowed.compile(refuse)?])
    }
}

fn failed(what: &str, error: seccompiler::Error) -> Error {
    let text = format!("the filter of system calls can't be {what}: {error}");
    Error::with_source(ErrorKind::Filter, text, error)
}

/// What `OwnSignals` stands for.
#[derive(Clone, Copy)]
struct Own {
    process: u32,
    signal: u32,
}

/// By system call, the alternatives with which it is allowed; without any, it always is.
#[derive(Debug, Clone, Default)]
struct Rules(BTreeMap<i64, Vec<SeccompRule>>);

impl Rules {
    fn add_any(&mut self, number: i64) {
        self.0.insert(number, Vec::new());
    }

    fn add(&mut self, entry: &Entry, own: Own) -> Result<(), seccompiler::Error> {
        let is = |index, value| condition(index, SeccompCmpOp::Eq, value);
        let alternatives = match entry.only {
            Only::Any => {
                self.add_any(entry.number);
                return Ok(());
            }
            Only::Request(request) => vec![vec![is(1, request)?]],
            Only::Argument(index, value) => vec![vec![is(index, value)?]],
            Only::NotExecutable => {
                let executable = libc::PROT_EXEC.unsigned_abs();
                vec![vec![condition(2, SeccompCmpOp::MaskedEq(executable.into()), 0)?]]
            }
            Only::OwnSignals => [own.signal, libc::SIGABRT.unsigned_abs()]
                .into_iter()
                .map(|signal| Ok(vec![is(0, own.process)?, is(2, signal)?]))
                .collect::<Result<_, seccompiler::Error>>()?,
        };
        // One that is there without alternatives is allowed whatever its arguments are.
        let known = self.0.get(&entry.number).is_some_and(Vec::is_empty);
        if !known {
            let rules = self.0.entry(entry.number).or_default();
            for conditions in alternatives {
                rules.push(SeccompRule::new(conditions)?);
            }
        }
        Ok(())
    }

    fn compile(self, otherwise: SeccompAction) -> Result<BpfProgram, seccompiler::Error> {
        let architecture = std::env::consts::ARCH.try_into()?;
        let filter = SeccompFilter::new(self.0, otherwise, SeccompAction::Allow, architecture)?;
        Ok(filter.try_into()?)
    }
}

fn condition(
    index: u8,
    operator: SeccompCmpOp,
    value: u32,
) -> Result<SeccompCondition, seccompiler::Error> {
    // The kernel takes these arguments as 32 bits wide, whatever stands above.
    Ok(SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value.into())?)
}
