//! What a sandbox may do.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use glowbox_core::elf::{Function as Import, Personality};
use glowbox_core::layout::Limits;
use glowbox_core::signature::Signature;
use glowbox_linux::Clock;
use glowbox_linux::files::{Input, Output};

use crate::capabilities::Requested;
use crate::host_function::{self, Given, HostFunction, Registered};
use crate::instance::{Instance, Options};
use crate::log::{self, Log, LogLevel, LogLimits, LogRecord};
use crate::randomness::Randomness;
use crate::setup::SetupOptions;
use crate::{Engine, Error, ErrorKind, Guest, IntoGuest, Process, Sandbox};

/// Default deadline of a call.
pub(crate) const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);
/// Longest text of a log record that can be asked for.
const MAX_LOG_TEXT: usize = 1 << 20;

/// Chooses what a sandbox may do, and builds it.
///
/// Everything has a default: no host functions, 64 MiB of heap, 1 MiB of stack, messages up to
/// 16 MiB each way, ten seconds a call, the guest's log to `tracing`. Memory is committed when it
/// is first used, so generous limits cost nothing.
///
/// ```no_run
/// use std::time::Duration;
/// use glowbox::Sandbox;
///
/// # fn main() -> Result<(), glowbox::Error> {
/// let mut sandbox = Sandbox::builder()
///     .host_function("weekday", || "Monday".to_string())
///     .memory_limit(256 << 20)
///     .deadline(Duration::from_millis(200))
///     .build("greeter.elf")?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a builder does nothing until `build` is called"]
pub struct Builder {
    engine: Option<Engine>,
    host_functions: HostFunctions,
    limits: Limits,
    deadline: Option<Duration>,
    log_sink: Box<dyn log::Sink>,
    log_level: Option<LogLevel>,
    log_limits: LogLimits,
    randomness: Randomness,
    stack: Option<u64>,
    requested: Requested,
}

/// The types of a host function, as `std::any::type_name` gives them.
type Types = (Vec<&'static str>, &'static str);

/// Host functions by name, as they are registered.
#[derive(Default)]
pub(crate) struct HostFunctions {
    functions: BTreeMap<String, (Types, Box<dyn Registered>)>,
    registered_twice: Option<String>,
}

impl HostFunctions {
    pub(crate) fn add<M: 'static, F: HostFunction<M>>(&mut self, name: String, function: F) {
        let registered = (F::types(), host_function::erased(function));
        if self.functions.insert(name.clone(), registered).is_some() {
            self.registered_twice = Some(name);
        }
    }

    /// Checks that no name comes twice.
    fn check(&self) -> Result<(), Error> {
        match &self.registered_twice {
            Some(name) => {
                let text = format!("host function `{name}` is registered twice");
                Err(Error::new(ErrorKind::InvalidOption, text))
            }
            None => Ok(()),
        }
    }

    /// The functions, when it has been checked that each that the guest imports has the signature
    /// that it declares; and if `all`, that none is missing.
    pub(crate) fn checked(self, guest: &Guest, all: bool) -> Result<Given, Error> {
        self.check()?;
        check_imports(guest, &self.functions, all)?;
        Ok(self.functions.into_iter().map(|(name, (_, function))| (name, function)).collect())
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("host_functions", &self.host_functions.functions.keys())
            .field("limits", &self.limits)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

impl Builder {
    pub(crate) fn new() -> Builder {
        Builder {
            engine: None,
            host_functions: HostFunctions::default(),
            limits: Limits::DEFAULT,
            deadline: Some(DEFAULT_DEADLINE),
            log_sink: Box::new(log::to_tracing),
            log_level: Some(LogLevel::Info),
            log_limits: LogLimits::default(),
            randomness: Randomness::default(),
            stack: None,
            requested: Requested::default(),
        }
    }

    /// Uses this engine instead of the shared one.
    pub fn engine(mut self, engine: &Engine) -> Builder {
        self.engine = Some(engine.clone());
        self
    }

    /// Registers a function that the guest may call by this name.
    ///
    /// The guest's declaration must have the same types. What the function is given is the
    /// guest's choice: check it. A panic in it does not unwind into the library: the call ends with
    /// [`ErrorKind::HostPanic`]. Nothing stops a host function that takes long; the call's deadline
    /// is checked when it returns.
    pub fn host_function<M: 'static>(
        mut self,
        name: impl Into<String>,
        function: impl HostFunction<M>,
    ) -> Builder {
        self.host_functions.add(name.into(), function);
        self
    }

    /// Limits the guest's heap to this many bytes: a multiple of 4096 from 16 KiB to 64 GiB;
    /// 64 MiB by default. For a Linux program it limits all the memory that it asks for while it runs,
    /// which its own segments and its first stack are not part of.
    pub fn memory_limit(mut self, bytes: u64) -> Builder {
        self.limits.heap = bytes;
        self
    }

    /// Gives the guest a stack of this many bytes: a multiple of 4096 from 16 KiB to 256 MiB; 1 MiB
    /// by default, and 8 MiB for a Linux program.
    pub fn stack_size(mut self, bytes: u64) -> Builder {
        self.stack = Some(bytes);
        self
    }

    /// Limits messages to this many bytes each way: a multiple of 4096 up to 1 GiB; 16 MiB by
    /// default. A message holds all arguments or one result, encoded.
    ///
    /// This bounds what the guest can make the host decode in one go. A decoded value may be larger
    /// than its encoding by the size of its type: a `Vec<Option<[u64; 16]>>` takes a byte a `None`
    /// to write, and 136 bytes to hold. Decoding is bounded by the message's length, and no part of
    /// a call's deadline. Values may nest up to 128 levels, each of which takes stack of the calling
    /// thread; a megabyte, half of what Rust gives its threads, does for all but very large types.
    pub fn message_size(mut self, bytes: u64) -> Builder {
        self.limits.incoming = bytes;
        self.limits.outgoing = bytes;
        self
    }

    /// Ends every call (and the start-up) after this time, unless the call has a deadline of its
    /// own; ten seconds by default.
    pub fn deadline(mut self, time: Duration) -> Builder {
        self.deadline = Some(time);
        self
    }

    /// Lets calls take as long as they take. They can still be interrupted. The start-up, which
    /// nobody could interrupt, keeps ten seconds.
    pub fn no_deadline(mut self) -> Builder {
        self.deadline = None;
        self
    }

    /// Hands the guest's log records to `sink` instead of `tracing`.
    ///
    /// It runs on the calling thread while the guest is stopped. Sandboxes that are spawned from a
    /// snapshot get a copy of it. If it panics, the call ends with
    /// [`ErrorKind::HostPanic`].
    pub fn log_sink(
        mut self,
        sink: impl FnMut(&LogRecord<'_>) + Clone + Send + 'static,
    ) -> Builder {
        self.log_sink = Box::new(sink);
        self
    }

    /// Takes log records up to this level; `None` for none at all. [`LogLevel::Info`] by default.
    /// A guest does not even leave its VM for others.
    pub fn log_level(mut self, level: impl Into<Option<LogLevel>>) -> Builder {
        self.log_level = level.into();
        self
    }

    /// Limits how much the guest may write to the log.
    pub fn log_limits(mut self, limits: LogLimits) -> Builder {
        self.log_limits = limits;
        self
    }

    /// Makes everything that is random about the sandbox follow from `seed`: the guest's random
    /// numbers, the bytes of `AT_RANDOM`, and the address at which the program is loaded. Without
    /// this, the seeds are the operating system's, and no two sandboxes are alike.
    ///
    /// The same guest with the same options and the same calls then gives the same results; and the
    /// same snapshot with the same inputs the same outputs, in every sandbox made from it and after
    /// every reset. It is meant for tests, for replaying a run, and for guests that have to agree.
    /// Random numbers that anyone can compute are no good for keys. What follows from a seed may
    /// change with the version of this library.
    ///
    /// It can't cover what does not come from the library: host functions answer as they like, a
    /// guest that executes `rdtsc`, `rdrand`, `rdseed` or `cpuid` by itself sees the machine it is
    /// on, and a deadline or an interrupt ends a call wherever it happens to be.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), glowbox::Error> {
    /// let mut one = glowbox::Sandbox::builder().deterministic(7).build("dice.elf")?;
    /// let mut two = glowbox::Sandbox::builder().deterministic(7).build("dice.elf")?;
    /// assert_eq!(one.call::<_, u64>("roll", ())?, two.call::<_, u64>("roll", ())?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn deterministic(mut self, seed: u64) -> Builder {
        self.randomness = Randomness::Fixed(seed);
        self
    }

    /// The arguments of a Linux program, after its name; none by default.
    ///
    /// This and the other options down to [`Builder::allow_jit`] are for guests that are Linux
    /// programs: those with the standard library, and any static executable. Others have no use for
    /// them.
    pub fn args<A: Into<Vec<u8>>>(mut self, arguments: impl IntoIterator<Item = A>) -> Builder {
        self.requested.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Gives a Linux program an environment variable; it has none by default.
    pub fn env(mut self, name: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Builder {
        let name = name.into();
        self.requested.environment.retain(|(known, _)| *known != name);
        self.requested.environment.push((name, value.into()));
        self
    }

    /// What a Linux program reads from standard input; nothing by default. Of
    /// [`Input::bytes`](crate::Input::bytes), each sandbox that is spawned from a snapshot reads what the
    /// snapshot had not; a reader, and the process's own input, they share.
    pub fn stdin(mut self, input: Input) -> Builder {
        self.requested.files.stdin(input);
        self
    }

    /// Where a Linux program's standard output goes; by default each line is a record in the log, of
    /// level info and target `stdout`. Sandboxes that are spawned from a snapshot share it.
    pub fn stdout(mut self, output: Output) -> Builder {
        self.requested.stdout = Some(output);
        self
    }

    /// Where a Linux program's standard error goes; by default each line is a record in the log, of
    /// level info and target `stderr`. Sandboxes that are spawned from a snapshot share it.
    pub fn stderr(mut self, output: Output) -> Builder {
        self.requested.stderr = Some(output);
        self
    }

    /// Puts a read-only file into a Linux program's tree, at an absolute path. It lies in memory. In the
    /// scratch directory, it can be changed.
    pub fn file(mut self, path: impl AsRef<str>, bytes: impl Into<Vec<u8>>) -> Builder {
        self.requested.files.file(path, bytes);
        self
    }

    /// Lets a Linux program read a directory of the host, and all that is below it, at an absolute path
    /// of its own. It can't write there, nor get out by `..` or by a symbolic link; links that lead out
    /// can't be followed. Only regular files and directories can be opened.
    pub fn directory(mut self, path: impl AsRef<str>, host: impl AsRef<Path>) -> Builder {
        self.requested.files.directory(path, host);
        self
    }

    /// Gives a Linux program a directory to write to, at an absolute path, with room for so many bytes. It
    /// lies in the host's memory, is part of snapshots, and is gone when the sandbox is. Names and
    /// bookkeeping count too; gaps that a guest manages to leave in the host's heap do not, so have
    /// twice as much to spare.
    pub fn scratch(mut self, path: impl AsRef<str>, bytes: u64) -> Builder {
        self.requested.files.scratch(path, bytes);
        self
    }

    /// The directory that a Linux program starts in; `/` by default.
    pub fn current_directory(mut self, path: impl AsRef<str>) -> Builder {
        self.requested.files.current_directory(path);
        self
    }

    /// Where a Linux program's time comes from; [`Clock::Virtual`] by default, which says nothing
    /// about the host.
    pub fn clock(mut self, clock: Clock) -> Builder {
        self.requested.clock = clock;
        self
    }

    /// Lets a Linux program execute memory that it has written, as just-in-time compilers do. Without
    /// this, what is writable is never executable, and nothing becomes executable that was not in the
    /// program's file.
    pub fn allow_jit(mut self) -> Builder {
        self.requested.allow_jit = true;
        self
    }

    /// Makes the VM, loads the guest and runs its start-up.
    ///
    /// `guest` is a path, or a [`Guest`] that has been read already (which saves reading and
    /// checking the file for each sandbox).
    ///
    /// # Errors
    ///
    /// [`Io`](ErrorKind::Io) and [`InvalidGuest`](ErrorKind::InvalidGuest) for the file, or a directory
    /// of the host; [`InvalidOption`](ErrorKind::InvalidOption) for an option that can't be,
    /// [`HostFunctionMissing`](ErrorKind::HostFunctionMissing) and
    /// [`SignatureMismatch`](ErrorKind::SignatureMismatch) for what the guest imports,
    /// [`HypervisorMissing`](ErrorKind::HypervisorMissing),
    /// [`HypervisorDenied`](ErrorKind::HypervisorDenied) and [`Hypervisor`](ErrorKind::Hypervisor)
    /// for the VM, and [`Start`](ErrorKind::Start) or what else may end a call for the start-up.
    pub fn build(self, guest: impl IntoGuest) -> Result<Sandbox, Error> {
        self.check_limits()?;
        let guest = guest.into_guest()?;
        guest.check_has_functions("Builder::load")?;
        let (engine, options) = self.options(&guest)?;
        Instance::boot(&engine, guest, options).map(Sandbox::new)
    }

    /// Makes the VM and loads an ordinary Linux program into it, for [`Process::run`].
    ///
    /// `program` is a path or a [`Guest`], of a statically linked executable.
    ///
    /// # Errors
    ///
    /// As [`Builder::build`], but for what concerns functions and the start-up, which has not run yet;
    /// and [`InvalidGuest`](ErrorKind::InvalidGuest) for a guest that is no Linux program.
    pub fn load(self, program: impl IntoGuest) -> Result<Process, Error> {
        self.check_limits()?;
        let guest = program.into_guest()?;
        if guest.program().personality() == Personality::Glowbox {
            let text = format!(
                "`{}` is a guest whose functions are to be called, and no program that can be run; \
                 build a sandbox of it, with Builder::build",
                guest.name()
            );
            return Err(Error::new(ErrorKind::InvalidGuest, text));
        }
        let (engine, options) = self.options(&guest)?;
        Instance::load(&engine, guest, options).map(Process::new)
    }

    fn check_limits(&self) -> Result<(), Error> {
        let limits = Limits { stack: self.stack.unwrap_or(Limits::DEFAULT.stack), ..self.limits };
        limits.check().map_err(|error| {
            Error::with_source(ErrorKind::InvalidOption, error.to_string(), error)
        })?;
        self.check_options()
    }

    /// What an instance of a guest is made with.
    fn options(self, guest: &Guest) -> Result<(Engine, Options), Error> {
        let functions = self.host_functions.checked(guest, true)?;
        let capabilities = self.requested.open()?;
        let engine = self.engine.map_or_else(Engine::shared, Ok)?;
        let log = Log::new(self.log_sink, self.log_limits, self.log_level);
        let setup = SetupOptions {
            randomness: self.randomness,
            log_level: self.log_level.map_or(0, |level| level as u32),
            log_text_limit: self.log_limits.text as u64,
        };
        let mut limits = Limits {
            stack: self.stack.unwrap_or(Limits::default_for(guest.program()).stack),
            ..self.limits
        };
        if guest.is_program() {
            // Nobody sends it messages.
            (limits.incoming, limits.outgoing) = (Limits::MIN.incoming, Limits::MIN.outgoing);
        }
        let deadline = self.deadline;
        Ok((engine, Options { limits, functions, log, deadline, setup, capabilities }))
    }

    fn check_options(&self) -> Result<(), Error> {
        let invalid = |text: String| Err(Error::new(ErrorKind::InvalidOption, text));
        self.host_functions.check()?;
        check_deadline(self.deadline)?;
        if self.log_limits.records_per_second == 0 {
            let text = "no log records at all are allowed; to turn the log off, see log_level";
            return invalid(text.into());
        }
        if !(1..=MAX_LOG_TEXT).contains(&self.log_limits.text) {
            return invalid(format!(
                "the limit of a log record's text is {} bytes, but it must be from 1 to {MAX_LOG_TEXT}",
                self.log_limits.text
            ));
        }
        Ok(())
    }
}

pub(crate) fn check_deadline(deadline: Option<Duration>) -> Result<(), Error> {
    if deadline == Some(Duration::ZERO) {
        let text = "the deadline is zero, which no call could meet; see no_deadline";
        return Err(Error::new(ErrorKind::InvalidOption, text));
    }
    Ok(())
}

/// Checks that what the guest imports is registered with the same signature, and if `all`, that
/// none is missing.
fn check_imports(
    guest: &Guest,
    registered: &BTreeMap<String, (Types, Box<dyn Registered>)>,
    all: bool,
) -> Result<(), Error> {
    for Import { name, signature, .. } in guest.program().imports() {
        let Some(((parameters, result), _)) = registered.get(name) else {
            if !all {
                continue;
            }
            let text = format!(
                "guest `{}` asks for the host function `{name}{signature}`, which is not \
                 registered; add it with Builder::host_function",
                guest.name()
            );
            return Err(Error::new(ErrorKind::HostFunctionMissing, text));
        };
        let host = Signature::of_types(parameters, result).map_err(|error| {
            let text = format!("host function `{name}` has a type that can't be named: {error}");
            Error::with_source(ErrorKind::SignatureMismatch, text, error)
        })?;
        if !host.same_types(signature) {
            let text = format!(
                "guest `{}` asks for the host function `{name}{signature}`, but it is registered \
                 as `{name}{host}`",
                guest.name()
            );
            return Err(Error::new(ErrorKind::SignatureMismatch, text));
        }
    }
    Ok(())
}
