//! An ordinary Linux program in its virtual machine.

use std::fmt;

use glowbox_core::fault::Fault;

use crate::instance::Instance;
use crate::{Error, Guest, InterruptHandle, Snapshot, Stats};

/// An ordinary, statically linked Linux program in a micro-VM of its own, which runs once from start
/// to end.
///
/// Made by [`Builder::load`](crate::Builder::load). The program sees what the builder was told, and
/// nothing else of the host: by default no arguments, no environment, no files, a clock of its own,
/// and standard output goes to the log. `docs/linux-guests.md` has the list of the system calls that
/// are answered.
///
/// ```no_run
/// use glowbox::{Output, Sandbox};
///
/// # fn main() -> Result<(), glowbox::Error> {
/// let (output, text) = Output::buffer(1 << 20);
/// let mut process = Sandbox::builder()
///     .args(["sh", "-c", "echo $((6 * 7))"])
///     .stdout(output)
///     .load("/usr/bin/busybox")?;
/// let status = process.run()?;
/// assert!(status.success());
/// assert_eq!(text.take(), b"42\n");
/// # Ok(())
/// # }
/// ```
pub struct Process {
    instance: Box<Instance>,
}

/// How a program ended.
///
/// ```no_run
/// # fn example(process: &mut glowbox::Process) -> Result<(), glowbox::Error> {
/// let status = process.run()?;
/// match (status.code(), status.signal()) {
///     (Some(code), _) => println!("exit status {code}"),
///     (_, Some(signal)) => println!("killed by signal {signal}: {:?}", status.fault()),
///     _ => unreachable!("a program ends in one way or the other"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitStatus {
    code: Option<i32>,
    signal: Option<i32>,
    fault: Option<Box<Fault>>,
}

impl ExitStatus {
    pub(crate) fn of_code(code: i32) -> ExitStatus {
        ExitStatus { code: Some(code), signal: None, fault: None }
    }

    pub(crate) fn of_signal(signal: i32, fault: Option<Box<Fault>>) -> ExitStatus {
        ExitStatus { code: None, signal: Some(signal), fault }
    }

    /// Whether it ended with status 0.
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// The status that it ended with, 0 to 255; `None` if a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.code
    }

    /// The signal that ended it, by its Linux number.
    pub fn signal(&self) -> Option<i32> {
        self.signal
    }

    /// The fault that the signal stands for, if it does.
    pub fn fault(&self) -> Option<&Fault> {
        self.fault.as_deref()
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal, &self.fault) {
            (Some(code), ..) => write!(f, "status {code}"),
            (_, signal, Some(fault)) => write!(f, "signal {}: {fault}", signal.unwrap_or(0)),
            (_, signal, None) => write!(f, "signal {}", signal.unwrap_or(0)),
        }
    }
}

impl Process {
    pub(crate) fn new(instance: Instance) -> Process {
        Process { instance: Box::new(instance) }
    }

    /// Runs the program to its end, and says how it ended.
    ///
    /// The deadline is the builder's: ten seconds unless it was told otherwise.
    ///
    /// # Errors
    ///
    /// [`Deadline`](crate::ErrorKind::Deadline), [`Interrupted`](crate::ErrorKind::Interrupted),
    /// [`OutOfMemory`](crate::ErrorKind::OutOfMemory) if a page that the program may use can't be had
    /// under its memory limit, [`Deadlock`](crate::ErrorKind::Deadlock) if all its threads wait for each
    /// other, [`HostPanic`](crate::ErrorKind::HostPanic) if a stream's callback or the log's panics,
    /// [`InvalidGuest`](crate::ErrorKind::InvalidGuest) if it turns out to be a guest with functions,
    /// [`Spent`](crate::ErrorKind::Spent) if it has run already.
    pub fn run(&mut self) -> Result<ExitStatus, Error> {
        self.instance.run_to_end()
    }

    /// Takes a snapshot of the program before it has run: any number of processes can be made of it, by
    /// [`Spawner::load`](crate::Spawner::load). Arguments and environment are no part of its memory, nor
    /// of a file that it is saved to: processes of a snapshot that was loaded from a file have none but
    /// what the [`Spawner`](crate::Spawner) gives them.
    ///
    /// # Errors
    ///
    /// [`Spent`](crate::ErrorKind::Spent) if the program has run; otherwise as
    /// [`Sandbox::snapshot`](crate::Sandbox::snapshot).
    pub fn snapshot(&mut self) -> Result<Snapshot, Error> {
        self.instance.capture_program().map(Snapshot::new)
    }

    /// A handle by which other threads can stop the program.
    pub fn interrupt_handle(&self) -> InterruptHandle {
        InterruptHandle::new(self.instance.control())
    }

    /// The program.
    pub fn guest(&self) -> &Guest {
        self.instance.guest()
    }

    /// What it has done so far.
    pub fn stats(&self) -> Stats {
        self.instance.stats()
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("guest", &self.guest().name()).finish_non_exhaustive()
    }
}
