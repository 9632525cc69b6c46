//! The library's error.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use glowbox_abi::wire;
use glowbox_core::fault::{Fault, FaultKind};
use glowbox_linux::Broken;
use glowbox_machine::MachineError;
use serde::de::DeserializeOwned;

use crate::process::ExitStatus;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// What went wrong.
///
/// [`Error::kind`] says which kind it is, the text says what happened, to what, and what to do
/// about it, and [`std::error::Error::source`] leads to the cause.
///
/// Cloning is cheap.
///
/// ```no_run
/// # fn example(sandbox: &mut glowbox::Sandbox) {
/// use glowbox::ErrorKind;
///
/// match sandbox.call::<_, u32>("parse", ("12x",)) {
///     Ok(number) => println!("{number}"),
///     Err(error) if error.kind() == ErrorKind::Guest => println!("not a number: {error}"),
///     Err(error) => println!("the guest is done for: {error}"),
/// }
/// # }
/// ```
#[derive(Clone)]
pub struct Error {
    inner: Arc<Inner>,
}

struct Inner {
    kind: ErrorKind,
    text: String,
    source: Option<Source>,
    detail: Detail,
}

enum Detail {
    None,
    Fault(Box<Fault>),
    Panic(GuestPanic),
    Guest(Vec<u8>),
    Exit(ExitStatus),
}

/// The kinds of [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// This machine offers no hypervisor.
    HypervisorMissing,
    /// There is a hypervisor, but this user may not use it.
    HypervisorDenied,
    /// The hypervisor refused a request, or lacks something.
    Hypervisor,
    /// A file could not be read.
    Io,
    /// A filter of system calls could not be put in force.
    Filter,
    /// The guest's file is not a guest that can be run.
    InvalidGuest,
    /// The file is no snapshot that can be loaded here; the text names the field at fault.
    InvalidSnapshot,
    /// An option has a value it can't have.
    InvalidOption,
    /// The guest asks for a host function that is not registered.
    HostFunctionMissing,
    /// Host and guest disagree about a function's types.
    SignatureMismatch,
    /// The guest has no function of that name.
    UnknownFunction,
    /// The function handle belongs to another guest program.
    WrongGuest,
    /// Arguments or a result are larger than the messages may be.
    MessageTooLarge,
    /// Arguments can't be encoded, or the guest could not decode them.
    BadArguments,
    /// The guest's start-up function returned an error.
    Start,
    /// The guest function returned an error. The sandbox goes on.
    Guest,
    /// The guest panicked. The sandbox is spent.
    Panic,
    /// The guest did what it must not: see [`Error::fault`]. The sandbox is spent.
    Fault,
    /// The guest overflowed its stack. The sandbox is spent.
    StackOverflow,
    /// The guest exhausted its heap. The sandbox is spent.
    OutOfMemory,
    /// The call's deadline passed. The sandbox is spent.
    Deadline,
    /// The call was interrupted. The sandbox is spent.
    Interrupted,
    /// The guest has ended, by itself or by a signal, when it was to be called or to become ready: see
    /// [`Error::exit_status`]. The sandbox is spent.
    Exited,
    /// Every thread of the guest waits for another one, for ever. The sandbox is spent.
    Deadlock,
    /// A file that the guest's memory lies in, or that was lent to it, has been cut short. The
    /// sandbox is spent.
    MemoryLost,
    /// The guest broke the rules of the mailbox. The sandbox is spent.
    Protocol,
    /// A host function panicked. The sandbox is spent.
    HostPanic,
    /// A host function's result can't be encoded. The sandbox is spent.
    HostResult,
    /// Calls from host functions into the guest nest too deeply.
    NestingTooDeep,
    /// The sandbox was spent by an earlier call.
    Spent,
}

/// A guest's panic, as [`Error::panic`] gives it.
///
/// ```no_run
/// # fn example(error: glowbox::Error) {
/// if let Some(panic) = error.panic() {
///     eprintln!("{}: {}", panic.location, panic.message);
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GuestPanic {
    /// The panic's message.
    pub message: String,
    /// Where in the guest's source, as `file:line:column`; empty if unknown.
    pub location: String,
}

impl Error {
    /// Longest text of a guest's panic or error that is kept, in bytes.
    #[doc(hidden)]
    pub const MAX_GUEST_TEXT: usize = 16 << 10;

    pub(crate) fn new(kind: ErrorKind, text: impl Into<String>) -> Error {
        Error::build(kind, text.into(), None, Detail::None)
    }

    pub(crate) fn with_source(
        kind: ErrorKind,
        text: impl Into<String>,
        source: impl Into<Source>,
    ) -> Error {
        Error::build(kind, text.into(), Some(source.into()), Detail::None)
    }

    fn build(kind: ErrorKind, text: String, source: Option<Source>, detail: Detail) -> Error {
        Error { inner: Arc::new(Inner { kind, text, source, detail }) }
    }

    pub(crate) fn of_machine(error: MachineError) -> Error {
        let kind = match &error {
            MachineError::Missing { .. } => ErrorKind::HypervisorMissing,
            MachineError::Denied { .. } => ErrorKind::HypervisorDenied,
            MachineError::SignalTaken { .. }
            | MachineError::NotRealTime { .. }
            | MachineError::UnknownBackend { .. } => ErrorKind::InvalidOption,
            _ => ErrorKind::Hypervisor,
        };
        let text = error.to_string();
        match error {
            MachineError::Request { source, .. } => Error::of_system(kind, text, source),
            MachineError::Denied { source, .. } => Error::with_source(kind, text, source),
            _ => Error::new(kind, text),
        }
    }

    /// The error for a backend that can't be opened. One that lacks a hypervisor says what can be done
    /// without.
    pub(crate) fn of_opening(error: MachineError) -> Error {
        let lacks_hypervisor = error.lacks_hypervisor();
        let mut error = Error::of_machine(error);
        if lacks_hypervisor && let Some(inner) = Arc::get_mut(&mut error.inner) {
            if let Some(source) = &inner.source {
                inner.text.push_str(&format!(" ({source})"));
            }
            inner.text.push_str(WITHOUT_HYPERVISOR);
        }
        error
    }

    /// The error where there is neither a hypervisor nor, for another reason, what would do without.
    pub(crate) fn of_fallback(missing: &Error, error: MachineError) -> Error {
        let error = Error::of_machine(error);
        let text = format!("{missing}. But here they can't: {error}");
        Error::with_source(missing.kind(), text, error)
    }

    /// The error for what the system refused: see [`refused`].
    pub(crate) fn of_system(kind: ErrorKind, what: impl fmt::Display, source: io::Error) -> Error {
        Error::with_source(kind, refused(what, &source), source)
    }

    /// The error for a machine that a Linux process can't go on with, which `what` comes of.
    pub(crate) fn of_broken(what: &str, broken: Broken) -> Error {
        let text = format!("{what}: {}", broken.what);
        match broken.source {
            Some(source) => Error::of_system(ErrorKind::Hypervisor, text, source),
            None => Error::new(ErrorKind::Hypervisor, text),
        }
    }

    pub(crate) fn of_fault(fault: Fault) -> Error {
        let (kind, text) = match fault.kind {
            FaultKind::StackOverflow => (
                ErrorKind::StackOverflow,
                format!("the guest overflowed its stack: {fault}; see Builder::stack_size"),
            ),
            _ => (ErrorKind::Fault, format!("the guest faulted: {fault}")),
        };
        Error::build(kind, text, None, Detail::Fault(Box::new(fault)))
    }

    pub(crate) fn of_exit(status: ExitStatus) -> Error {
        let text = format!("the guest has ended, with {status}");
        Error::build(ErrorKind::Exited, text, None, Detail::Exit(status))
    }

    pub(crate) fn of_panic(panic: GuestPanic) -> Error {
        let text = match panic.location.as_str() {
            "" => format!("the guest panicked: {}", panic.message),
            place => format!("the guest panicked at {place}: {}", panic.message),
        };
        Error::build(ErrorKind::Panic, text, None, Detail::Panic(panic))
    }

    pub(crate) fn of_guest(function: &str, message: &str, payload: Vec<u8>) -> Error {
        let text = format!("guest function `{function}` returned an error: {message}");
        Error::build(ErrorKind::Guest, text, None, Detail::Guest(payload))
    }

    pub(crate) fn out_of_memory(requested: u64, limit: u64) -> Error {
        let text = format!(
            "the guest exhausted its heap: it asked for {requested} bytes more, with a limit of \
             {limit} bytes in all; see Builder::memory_limit"
        );
        Error::new(ErrorKind::OutOfMemory, text)
    }

    pub(crate) fn deadline(allowed: Option<Duration>) -> Error {
        let allowed = allowed.map_or(String::new(), |time| format!(" of {time:?}"));
        let text = format!(
            "the call's deadline{allowed} passed; see CallOptions::deadline and Builder::deadline"
        );
        Error::new(ErrorKind::Deadline, text)
    }

    pub(crate) fn spent(by: &Error) -> Error {
        let text = format!(
            "the sandbox is spent and can't be called any more: {by}. Reset it, or build another"
        );
        Error::build(ErrorKind::Spent, text, Some(Box::new(by.clone())), Detail::None)
    }

    /// Which kind of error it is.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// What is known of the fault, for [`ErrorKind::Fault`] and [`ErrorKind::StackOverflow`].
    pub fn fault(&self) -> Option<&Fault> {
        match &self.inner.detail {
            Detail::Fault(fault) => Some(fault),
            _ => None,
        }
    }

    /// How the guest ended, for [`ErrorKind::Exited`].
    pub fn exit_status(&self) -> Option<&ExitStatus> {
        match &self.inner.detail {
            Detail::Exit(status) => Some(status),
            _ => None,
        }
    }

    /// What is known of the panic, for [`ErrorKind::Panic`].
    pub fn panic(&self) -> Option<&GuestPanic> {
        match &self.inner.detail {
            Detail::Panic(panic) => Some(panic),
            _ => None,
        }
    }

    /// The error value that the guest function returned, for [`ErrorKind::Guest`]; if the guest's
    /// error type can be encoded, and `E` is it. An error type that can't be encoded arrives as its
    /// text (`E = String`).
    ///
    /// ```no_run
    /// # #[derive(serde::Deserialize)]
    /// # enum ParseError { Empty, TooLong(u32) }
    /// # fn example(error: glowbox::Error) {
    /// if let Some(ParseError::TooLong(length)) = error.guest_error() {
    ///     println!("{length} is too long");
    /// }
    /// # }
    /// ```
    pub fn guest_error<E: DeserializeOwned>(&self) -> Option<E> {
        match &self.inner.detail {
            // The payload is the encoding of the `Err` variant: its number, then the value.
            Detail::Guest(payload) => wire::decode_all(payload.get(1..)?).ok(),
            _ => None,
        }
    }
}

/// What to do without a hypervisor.
const WITHOUT_HYPERVISOR: &str = ". Guests can run in locked-down processes instead, which isolate them less \
    (see SECURITY.md): ask for that by EngineBuilder::backend(Backend::Process) or GLOWBOX_BACKEND=process";

/// The text for what the system refused: `what` happened, with the reason, and what to do about it where
/// that can be said.
pub(crate) fn refused(what: impl fmt::Display, source: &io::Error) -> String {
    match advice(source) {
        Some(advice) => format!("{what}: {source}; {advice}"),
        None => format!("{what}: {source}"),
    }
}

/// The system's own number of an error, which others may have wrapped to say more.
fn system_error(error: &io::Error) -> Option<i32> {
    if let Some(number) = error.raw_os_error() {
        return Some(number);
    }
    let mut cause = error.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static));
    while let Some(error) = cause {
        if let Some(number) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(number);
        }
        cause = error.source();
    }
    None
}

/// What to do about a refusal of the system's.
fn advice(source: &io::Error) -> Option<&'static str> {
    Some(match system_error(source)? {
        libc::EMFILE => {
            "this process has no file descriptors left: let it have more (`ulimit -n`), or keep fewer \
             sandboxes and VMs (EngineBuilder::pool_size)"
        }
        libc::ENFILE => {
            "this machine has no file descriptors left: let it have more (fs.file-max), or keep fewer \
             sandboxes"
        }
        libc::ENOMEM => {
            "this process may have no more memory or mappings: let it have more (`ulimit -v`, its control \
             group, vm.max_map_count), keep fewer sandboxes, or lower their limits"
        }
        libc::EAGAIN => {
            "this process may have no more threads or locked memory for now: let it have more (`ulimit \
             -u`, `ulimit -l`), or try again later"
        }
        libc::ENOSPC => "the disk has no space left: make some, or write elsewhere",
        libc::EDQUOT => {
            "this user's quota of disk space is used up: make some space, or write elsewhere"
        }
        libc::EFBIG => "no file may be as large: raise the limit (`ulimit -f`), or write elsewhere",
        _ => return None,
    })
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.text)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.inner.kind, self.inner.text)?;
        match &self.inner.source {
            // Many texts tell their cause already.
            Some(source) if !self.inner.text.contains(&source.to_string()) => {
                write!(f, " (caused by: {source})")
            }
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner.source.as_ref().map(|source| &**source as &(dyn std::error::Error + 'static))
    }
}
