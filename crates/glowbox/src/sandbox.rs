//! A guest in its virtual machine.

use std::fmt;

use serde::de::DeserializeOwned;

use crate::instance::Instance;
use crate::{Arguments, Builder, CallOptions, Error, Function, Guest, InterruptHandle};

/// A guest program in a micro-VM of its own, whose functions can be called.
///
/// Made by [`Sandbox::builder`]. It is `Send`: calls may come from different threads, one at a
/// time. Dropping it destroys the VM and frees its memory.
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
        let target = self.instance.resolve::<A, R>(name)?;
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
        let target = self.instance.find::<A, R>(name)?;
        Ok(Function::new(self.instance.guest().clone(), target))
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
