//! A guest at one moment, to make sandboxes of.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use glowbox_core::load;
use glowbox_core::registers::CpuState;
use glowbox_linux::Process;
use glowbox_linux::files::{Input, Output};
use glowbox_machine::Machine;
use glowbox_mem::Image;

use crate::builder::HostFunctions;
use crate::capabilities::{Capabilities, Replacements};
use crate::host_function::{HostFunction, Prototypes};
use crate::instance::{Instance, Own};
use crate::log::{Log, LogRecord};
use crate::setup::Setup;
use crate::{Error, ErrorKind, Guest, Sandbox};

mod file;

pub use file::Loader;

/// A guest's memory and registers at one moment between two calls, from which any number of sandboxes
/// can be spawned, in microseconds each, on any thread.
///
/// Taken by [`Sandbox::snapshot`]. It never changes. Cloning is cheap, and so is holding one: the image
/// takes as much memory as the guest had pages that were not zero, once, however many sandboxes
/// share it. The image is let go of when the last clone and the last sandbox spawned from it are gone.
///
/// ```no_run
/// use glowbox::Sandbox;
///
/// # fn main() -> Result<(), glowbox::Error> {
/// let mut sandbox = Sandbox::builder().build("plugin.elf")?;
/// sandbox.call::<_, ()>("warm_up", ())?;
/// let snapshot = sandbox.snapshot()?;
/// for request in ["one", "two", "three"] {
///     // A guest that has warmed up, and has seen no other request.
///     let mut fresh = snapshot.spawn()?;
///     let answer: String = fresh.call("serve", (request,))?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Snapshot {
    captured: Arc<Captured>,
}

/// What a snapshot consists of.
pub(crate) struct Captured {
    pub(crate) setup: Arc<Setup>,
    pub(crate) image: Arc<Image>,
    pub(crate) state: Arc<CpuState>,
    /// The generation of random numbers that the memory is of.
    pub(crate) generation: u64,
    pub(crate) prototypes: Arc<Prototypes>,
    pub(crate) log: Mutex<Log>,
    pub(crate) deadline: Option<Duration>,
    /// A Linux guest's process, and what of the host it can reach.
    pub(crate) linux: Option<(Arc<Process>, Capabilities)>,
}

impl Drop for Captured {
    fn drop(&mut self) {
        // No sandbox of it is left; idle shells need not keep its pages.
        self.setup.engine.pool().forget(&self.image);
    }
}

impl Captured {
    /// Puts its memory into a machine.
    pub(crate) fn fill(&self, machine: &mut dyn Machine) -> Result<(), Error> {
        let own = &self.setup.places.hosts_own;
        machine.window().fill(&self.image, own).map_err(|error| {
            if error.source.kind() == std::io::ErrorKind::UnexpectedEof {
                let text = "the snapshot's file has been cut short; save the snapshot again";
                return Error::with_source(ErrorKind::MemoryLost, text, error);
            }
            let text =
                "the snapshot's image can't be mapped (each sandbox takes up to 129 mappings)";
            Error::of_system(ErrorKind::Hypervisor, text, error.source)
        })?;
        if self.image.may_shrink() {
            // Nothing that runs in ring 0 or maps memory comes from a file.
            load::page_tables(&self.setup.layout, machine.memory_mut());
            machine.install(&self.state);
        }
        Ok(())
    }

    /// The log that a sandbox of it gets.
    fn log(&self) -> Log {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).another()
    }
}

impl Snapshot {
    pub(crate) fn new(captured: Arc<Captured>) -> Snapshot {
        Snapshot { captured }
    }

    pub(crate) fn captured(&self) -> &Arc<Captured> {
        &self.captured
    }

    /// Makes a sandbox in the state of the snapshot, with the host functions, the log and the deadline
    /// that the sandbox had of which the snapshot was taken. Host functions start as they were
    /// registered: what a closure has counted or collected since is not in the copy.
    ///
    /// It draws other random numbers than any other sandbox, unless it was built to be
    /// [deterministic](crate::Builder::deterministic).
    ///
    /// # Errors
    ///
    /// [`Hypervisor`](ErrorKind::Hypervisor) if a VM is to be made and can't be;
    /// [`HostFunctionMissing`](ErrorKind::HostFunctionMissing) if the snapshot was loaded from a file and
    /// the guest imports host functions: see [`Snapshot::spawner`];
    /// [`InvalidGuest`](ErrorKind::InvalidGuest) if it is of an ordinary program: see [`Spawner::load`];
    /// [`MemoryLost`](ErrorKind::MemoryLost) if the snapshot's file has been cut short.
    pub fn spawn(&self) -> Result<Sandbox, Error> {
        let captured = &self.captured;
        captured.setup.guest.check_has_functions("Spawner::load")?;
        let own = Own::new(Arc::clone(&captured.prototypes), captured.log(), captured.deadline);
        self.check_imports(&own)?;
        Instance::spawn(captured, own, None).map(Sandbox::new)
    }

    /// Chooses what a spawned sandbox may do, where that differs from the snapshot's own.
    pub fn spawner(&self) -> Spawner<'_> {
        let deadline = self.captured.deadline;
        let functions = HostFunctions::default();
        let log = self.captured.log();
        let replacements = Replacements::default();
        Spawner { snapshot: self, functions, log, deadline, replacements }
    }

    /// Keeps up to so many VMs ready for this snapshot from now on, in the background, so that spawning
    /// many sandboxes at once does not wait for VMs to be made. They wait in the engine's pool, and
    /// count among those that it may hold ([`EngineBuilder::pool_size`](crate::EngineBuilder::pool_size)).
    /// With 0, no more are made.
    ///
    /// # Errors
    ///
    /// [`Hypervisor`](ErrorKind::Hypervisor) if the thread that makes them can't be started.
    pub fn keep_ready(&self, count: usize) -> Result<(), Error> {
        let engine = &self.captured.setup.engine;
        engine.check_process()?;
        engine.pool().keep_ready(&self.captured, count).map_err(|error| {
            let text = "the thread that makes VMs ready can't be started";
            Error::of_system(ErrorKind::Hypervisor, text, error)
        })
    }

    /// The guest it is of.
    pub fn guest(&self) -> &Guest {
        &self.captured.setup.guest
    }

    /// Bytes that its image takes.
    pub fn image_size(&self) -> u64 {
        (self.captured.image.pages() * glowbox_mem::PAGE) as u64
    }

    /// Checks that every import is there.
    fn check_imports(&self, own: &Own) -> Result<(), Error> {
        let setup = &self.captured.setup;
        let Some(missing) = own.missing() else {
            return Ok(());
        };
        let text = format!(
            "guest `{}` asks for the host function `{}`, which is not registered: it is not part \
             of a snapshot's file; add it with Snapshot::spawner and Spawner::host_function",
            setup.guest.name(),
            setup.names[missing]
        );
        Err(Error::new(ErrorKind::HostFunctionMissing, text))
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("guest", &self.guest().name())
            .field("image_size", &self.image_size())
            .finish_non_exhaustive()
    }
}

/// Chooses what a spawned sandbox may do; made by [`Snapshot::spawner`].
///
/// ```no_run
/// # fn example(snapshot: &glowbox::Snapshot, customer: u64) -> Result<(), glowbox::Error> {
/// let sandbox = snapshot.spawner().host_function("customer", move || customer).spawn()?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a spawner does nothing until `spawn` is called"]
pub struct Spawner<'a> {
    snapshot: &'a Snapshot,
    functions: HostFunctions,
    log: Log,
    deadline: Option<Duration>,
    replacements: Replacements,
}

impl fmt::Debug for Spawner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spawner").field("snapshot", self.snapshot).finish_non_exhaustive()
    }
}

impl Spawner<'_> {
    /// Registers a host function for this sandbox, in place of the snapshot's of that name if it has
    /// one. See [`Builder::host_function`](crate::Builder::host_function).
    pub fn host_function<M: 'static>(
        mut self,
        name: impl Into<String>,
        function: impl HostFunction<M>,
    ) -> Self {
        self.functions.add(name.into(), function);
        self
    }

    /// Ends every call after this time, unless the call has a deadline of its own.
    pub fn deadline(mut self, time: Duration) -> Self {
        self.deadline = Some(time);
        self
    }

    /// Lets calls take as long as they take. They can still be interrupted.
    pub fn no_deadline(mut self) -> Self {
        self.deadline = None;
        self
    }

    /// Hands the guest's log records to `sink`. See [`Builder::log_sink`](crate::Builder::log_sink).
    pub fn log_sink(mut self, sink: impl FnMut(&LogRecord<'_>) + Clone + Send + 'static) -> Self {
        self.log = self.log.with_sink(Box::new(sink));
        self
    }

    /// What a Linux program reads from standard input, from its start, instead of the snapshot's.
    pub fn stdin(mut self, input: Input) -> Self {
        self.replacements.stdin = Some(input);
        self
    }

    /// Where a Linux program's standard output goes, instead of the snapshot's.
    pub fn stdout(mut self, output: Output) -> Self {
        self.replacements.stdout = Some(output);
        self
    }

    /// Where a Linux program's standard error goes, instead of the snapshot's.
    pub fn stderr(mut self, output: Output) -> Self {
        self.replacements.stderr = Some(output);
        self
    }

    /// The arguments of a program that has not run yet, for [`Spawner::load`], instead of the snapshot's.
    pub fn args<A: Into<Vec<u8>>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        let arguments = arguments.into_iter().map(Into::into);
        self.replacements.arguments.get_or_insert_default().extend(arguments);
        self
    }

    /// A variable in the environment of a program that has not run yet, for [`Spawner::load`]; the first
    /// one replaces all of the snapshot's.
    pub fn env(mut self, name: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        let environment = self.replacements.environment.get_or_insert_default();
        environment.push((name.into(), value.into()));
        self
    }

    /// Makes the sandbox.
    ///
    /// # Errors
    ///
    /// As [`Snapshot::spawn`], and [`InvalidOption`](ErrorKind::InvalidOption) for a deadline of zero or
    /// a host function that is registered twice,
    /// [`SignatureMismatch`](ErrorKind::SignatureMismatch) for one with other types than the guest
    /// declares; [`InvalidGuest`](ErrorKind::InvalidGuest) for the snapshot of an ordinary program.
    pub fn spawn(self) -> Result<Sandbox, Error> {
        self.snapshot.guest().check_has_functions("Spawner::load")?;
        self.instance().map(Sandbox::new)
    }

    /// Makes a process of an ordinary program's snapshot, which has been taken by
    /// [`Process::snapshot`](crate::Process::snapshot): it can be run from its start.
    ///
    /// # Errors
    ///
    /// As [`Spawner::spawn`], but [`InvalidGuest`](ErrorKind::InvalidGuest) for the snapshot of a
    /// guest with functions; and [`InvalidOption`](ErrorKind::InvalidOption) for arguments that can't be.
    pub fn load(self) -> Result<crate::Process, Error> {
        if !self.snapshot.guest().is_program() {
            let text = format!(
                "the snapshot is of `{}`, a guest whose functions are to be called; make a sandbox \
                 of it, with Spawner::spawn",
                self.snapshot.guest().name()
            );
            return Err(Error::new(ErrorKind::InvalidGuest, text));
        }
        let mut instance = self.instance()?;
        instance.start_with_arguments()?;
        Ok(crate::Process::new(instance))
    }

    fn instance(self) -> Result<Instance, Error> {
        crate::builder::check_deadline(self.deadline)?;
        let captured = &self.snapshot.captured;
        let setup = &captured.setup;
        let mut given = self.functions.checked(&setup.guest, false)?;
        let mut prototypes = captured.prototypes.copies();
        for (name, prototype) in setup.names.iter().zip(&mut prototypes) {
            if let Some(function) = given.remove(&**name) {
                *prototype = Some(function);
            }
        }
        let own = Own::new(Arc::new(Prototypes::new(prototypes)), self.log, self.deadline);
        self.snapshot.check_imports(&own)?;
        let capabilities = match &captured.linux {
            Some((process, capabilities)) => {
                Some(capabilities.replaced_by(self.replacements, process.input_position())?)
            }
            None => None,
        };
        Instance::spawn(captured, own, capabilities)
    }
}
