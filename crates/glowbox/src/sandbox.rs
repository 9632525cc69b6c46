//! A guest in its virtual machine.

use std::fmt;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::instance::Instance;
use crate::{
    Arguments, Builder, CallOptions, Error, Function, Guest, InterruptHandle, Mapping, Snapshot,
};

/// A guest program in a micro-VM of its own, whose functions can be called.
///
/// Made by [`Sandbox::builder`] or [`Snapshot::spawn`]. It is `Send`: calls may come from different
/// threads, one at a time. Dropping it gives its VM back to the engine's pool, where nothing of
/// what it wrote is left, or destroys it if the pool is full.
///
/// ```no_run
/// use glowbox::Sandbox;
///
/// # fn main() -> Result<(), glowbox::Error> {
/// let mut sandbox = Sandbox::builder().build("calculator.elf")?;
/// let sum: u32 = sandbox.call("add", (2u32, 3u32))?;
/// assert_eq!(sum, 5);
/// # Ok(())
/// # }
/// ```
pub struct Sandbox {
    instance: Box<Instance>,
}

/// What a sandbox has done so far.
///
/// ```no_run
/// # fn example(sandbox: &mut glowbox::Sandbox) -> Result<(), glowbox::Error> {
/// let before = sandbox.stats();
/// sandbox.call::<_, u32>("add", (1u32, 2u32))?;
/// assert_eq!(sandbox.stats().entries - before.entries, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Times the hypervisor was asked to run the guest: once a call (or for many of them, see
    /// [`Function::call_many`]), once more for each host call and log record.
    pub entries: u64,
    /// Calls into the guest, nested ones included.
    pub calls: u64,
    /// Calls of host functions that ran.
    pub host_calls: u64,
    /// Pages of 4 KiB that resets have found written, by the guest or on its behalf: those that differed
    /// from what they go back to, and those that were too many to be looked at
    /// ([`EngineBuilder::kept_memory`](crate::EngineBuilder::kept_memory)).
    pub pages_written: u64,
    /// Of these, pages that were copied back, or zeroed, in place. The others were dropped, and are
    /// shared with the snapshot again.
    pub pages_copied_back: u64,
    /// Time in which the guest ran, with what the hypervisor takes to enter and leave it.
    pub guest_time: Duration,
}

impl Sandbox {
    /// Chooses what a sandbox may do, and builds it.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn new(instance: Instance) -> Sandbox {
        Sandbox { instance: Box::new(instance) }
    }

    pub(crate) fn instance_mut(&mut self) -> &mut Instance {
        &mut self.instance
    }

    /// Calls a function of the guest by name.
    ///
    /// The types of arguments and result are checked against the guest's when a name is first
    /// called with them. A guest function that returns `Result<T, E>` may be called for its `T`
    /// (an error is then an [`Error`] of kind [`Guest`](crate::ErrorKind::Guest)) or for the whole
    /// `Result`.
    ///
    /// # Errors
    ///
    /// Before the guest runs: [`UnknownFunction`](crate::ErrorKind::UnknownFunction),
    /// [`SignatureMismatch`](crate::ErrorKind::SignatureMismatch),
    /// [`MessageTooLarge`](crate::ErrorKind::MessageTooLarge),
    /// [`BadArguments`](crate::ErrorKind::BadArguments), [`Spent`](crate::ErrorKind::Spent).
    /// After it ran, with the sandbox still usable: [`Guest`](crate::ErrorKind::Guest),
    /// `MessageTooLarge` for the result, `BadArguments` if the guest's type of the same name is
    /// another one. Otherwise the sandbox is spent, and the kind says why.
    pub fn call<A: Arguments, R: DeserializeOwned>(
        &mut self,
        name: &str,
        arguments: A,
    ) -> Result<R, Error> {
        self.call_with(&CallOptions::default(), name, arguments)
    }

    /// Calls a function of the guest by name, with options.
    ///
    /// # Errors
    ///
    /// As [`Sandbox::call`].
    pub fn call_with<A: Arguments, R: DeserializeOwned>(
        &mut self,
        options: &CallOptions,
        name: &str,
        arguments: A,
    ) -> Result<R, Error> {
        let target = self.instance.setup().resolve::<A, R>(name)?;
        self.instance.call(&target, &arguments, options)
    }

    /// Checks a function's name and types, and gives a handle to call it by.
    ///
    /// # Errors
    ///
    /// [`UnknownFunction`](crate::ErrorKind::UnknownFunction), which names the functions there
    /// are; [`SignatureMismatch`](crate::ErrorKind::SignatureMismatch), with both signatures.
    pub fn function<A: Arguments, R: DeserializeOwned>(
        &self,
        name: &str,
    ) -> Result<Function<A, R>, Error> {
        let target = self.instance.setup().find::<A, R>(name)?;
        Ok(Function::new(self.instance.guest().clone(), target))
    }

    /// Takes a snapshot: the guest as it is now, between two calls. Sandboxes that are spawned from
    /// it go on from here.
    ///
    /// It takes time in proportion to the pages that the guest has used and that are not zero,
    /// whatever its limits are. This sandbox goes on too; it goes back to the snapshot when it is
    /// [reset](Sandbox::reset).
    ///
    /// # Errors
    ///
    /// [`Spent`](crate::ErrorKind::Spent); [`Hypervisor`](crate::ErrorKind::Hypervisor) if the system has
    /// no room for the image, or a request fails.
    pub fn snapshot(&mut self) -> Result<Snapshot, Error> {
        self.instance.capture().map(Snapshot::new)
    }

    /// Puts the guest back: to the snapshot that the sandbox was spawned from, was restored to, or of
    /// which one was taken, whichever came last; without one, to where it was when it had been built.
    ///
    /// Memory and registers are as they were then, and nothing of what happened since can be read by
    /// the guest. Works on a spent sandbox, whatever spent it, and makes it usable again. It takes
    /// time in proportion to the pages that the guest has written. What is left alone is the host's: the
    /// state of host functions, handles, statistics, and what was read from streams or written to them. Of
    /// [`Input::bytes`](crate::Input::bytes) the guest reads again what it had not read then.
    ///
    /// The guest draws other random numbers than before, unless the sandbox was built to be
    /// [deterministic](Builder::deterministic).
    ///
    /// ```no_run
    /// # fn example(sandbox: &mut glowbox::Sandbox) -> Result<(), glowbox::Error> {
    /// for request in ["one", "two", "three"] {
    ///     // Nothing of one request is there for the next, even after a crash.
    ///     match sandbox.call::<_, String>("serve", (request,)) {
    ///         Ok(answer) => println!("{answer}"),
    ///         Err(error) => eprintln!("{request}: {error}"),
    ///     }
    ///     sandbox.reset()?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Hypervisor`](crate::ErrorKind::Hypervisor) if a request fails;
    /// [`MemoryLost`](crate::ErrorKind::MemoryLost) if the snapshot's file has been cut short. The
    /// sandbox is spent then.
    pub fn reset(&mut self) -> Result<(), Error> {
        self.instance.reset()
    }

    /// Puts the guest into the state of another snapshot of the same [`Guest`], as
    /// [`Sandbox::reset`] does for its own. It keeps its host functions, its log and its deadline.
    ///
    /// # Errors
    ///
    /// As [`Sandbox::reset`], and [`WrongGuest`](crate::ErrorKind::WrongGuest).
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        self.instance.restore(snapshot.captured())
    }

    /// Lends the guest a file or bytes of the host under a name, read-only and without copying, until
    /// the sandbox is reset, restored or dropped, or [`Sandbox::unmap_all`] takes everything back. In the
    /// guest, `glowbox_guest::mapped(name)` gives the bytes as a slice.
    ///
    /// ```no_run
    /// # fn example(sandbox: &mut glowbox::Sandbox) -> Result<(), glowbox::Error> {
    /// sandbox.map("input", &glowbox::Mapping::file("upload.pdf")?)?;
    /// let pages: u32 = sandbox.call("count_pages", ())?;
    /// sandbox.unmap_all()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidOption`](crate::ErrorKind::InvalidOption) for a name that is taken, empty, or longer than
    /// 40 bytes, for a 64th mapping, and for more than 127 GiB in all;
    /// [`Spent`](crate::ErrorKind::Spent); [`Hypervisor`](crate::ErrorKind::Hypervisor) if a request
    /// fails.
    pub fn map(&mut self, name: &str, mapping: &Mapping) -> Result<(), Error> {
        self.instance.lend(name, mapping)
    }

    /// Takes back everything that was lent by [`Sandbox::map`]. A guest that goes on using it faults.
    ///
    /// # Errors
    ///
    /// [`Hypervisor`](crate::ErrorKind::Hypervisor) if a request fails; the sandbox is spent then.
    pub fn unmap_all(&mut self) -> Result<(), Error> {
        self.instance.take_back()
    }

    /// A handle by which other threads can stop this sandbox's running call.
    pub fn interrupt_handle(&self) -> InterruptHandle {
        InterruptHandle::new(self.instance.control())
    }

    /// The guest it runs.
    pub fn guest(&self) -> &Guest {
        self.instance.guest()
    }

    /// Whether an earlier call has spent it, so that every further one fails.
    pub fn is_spent(&self) -> bool {
        self.instance.spent().is_some()
    }

    /// What it has done so far.
    pub fn stats(&self) -> Stats {
        self.instance.stats()
    }
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox")
            .field("guest", &self.guest().name())
            .field("spent", &self.is_spent())
            .finish_non_exhaustive()
    }
}
