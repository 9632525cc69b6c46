//! Handles to guest functions.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use glowbox_core::elf::Function as Export;
use glowbox_core::signature::{ResultMatch, Signature};
use serde::de::DeserializeOwned;

use crate::instance::Instance;
use crate::{Arguments, Error, ErrorKind, Guest, Sandbox};

/// What a name and a pair of types were resolved to.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) name: Arc<str>,
    pub(crate) number: u32,
    pub(crate) result: ResultMatch,
}

impl Target {
    /// Looks a function up by name.
    pub(crate) fn export<'a>(guest: &'a Guest, name: &str) -> Result<&'a Export, Error> {
        let exports = guest.program().exports();
        exports.iter().find(|of| of.name == name).ok_or_else(|| {
            let mut names: Vec<_> = exports.iter().map(|of| of.name.as_str()).collect();
            names.sort_unstable();
            let text = format!(
                "guest `{}` has no function `{name}`; it has: {}",
                guest.name(),
                if names.is_empty() { "none".to_string() } else { names.join(", ") }
            );
            Error::new(ErrorKind::UnknownFunction, text)
        })
    }

    /// Looks a function up by name and checks its types.
    pub(crate) fn find(
        guest: &Guest,
        name: &str,
        arguments: &[&str],
        result: &str,
    ) -> Result<Target, Error> {
        let Export { signature, number, .. } = Target::export(guest, name)?;
        let asked = Signature::of_types(arguments, result).map_err(|error| {
            let text =
                format!("function `{name}` is called with a type that can't be named: {error}");
            Error::with_source(ErrorKind::SignatureMismatch, text, error)
        })?;
        let matched = asked
            .same_parameters(signature)
            .then(|| asked.result.accepts(&signature.result))
            .flatten();
        let Some(result) = matched else {
            let text = format!(
                "guest `{}` has `{name}{signature}`, but it is called as `{name}{asked}`",
                guest.name()
            );
            return Err(Error::new(ErrorKind::SignatureMismatch, text));
        };
        Ok(Target { name: name.into(), number: *number, result })
    }
}

/// A guest function whose name and types have been checked.
///
/// Taken from [`Sandbox::function`], and good for every sandbox of the same guest. Arguments that
/// are references may be of any lifetime.
///
/// ```no_run
/// # fn example(sandbox: &mut glowbox::Sandbox) -> Result<(), glowbox::Error> {
/// let add = sandbox.function::<(u32, u32), u32>("add")?;
/// for number in 0..1000 {
///     let sum = add.call(sandbox, (number, 1))?;
/// }
/// # Ok(())
/// # }
/// ```
pub struct Function<A, R> {
    guest: Guest,
    target: Target,
    _types: PhantomData<fn() -> (A, R)>,
}

impl<A, R> Clone for Function<A, R> {
    fn clone(&self) -> Self {
        Function { guest: self.guest.clone(), target: self.target.clone(), _types: PhantomData }
    }
}

impl<A, R> fmt::Debug for Function<A, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function")
            .field("name", &self.target.name)
            .field("guest", &self.guest.name())
            .finish_non_exhaustive()
    }
}

/// Options of one call.
///
/// ```no_run
/// use std::time::Duration;
/// use glowbox::CallOptions;
///
/// # fn example(sandbox: &mut glowbox::Sandbox) -> Result<(), glowbox::Error> {
/// let options = CallOptions::new().deadline(Duration::from_millis(50));
/// let answer: u64 = sandbox.call_with(&options, "search", ("needle",))?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct CallOptions {
    /// `None`: the sandbox's; `Some(None)`: none.
    deadline: Option<Option<Duration>>,
}

impl CallOptions {
    /// The sandbox's own options.
    pub fn new() -> CallOptions {
        CallOptions::default()
    }

    /// Ends the call after this time, whatever the sandbox's own deadline is.
    #[must_use]
    pub fn deadline(mut self, time: Duration) -> CallOptions {
        self.deadline = Some(Some(time));
        self
    }

    /// Lets the call take as long as it takes. It can still be interrupted.
    #[must_use]
    pub fn no_deadline(mut self) -> CallOptions {
        self.deadline = Some(None);
        self
    }

    pub(crate) fn deadline_or(&self, default: Option<Duration>) -> Option<Duration> {
        self.deadline.unwrap_or(default)
    }
}

impl<A: Arguments, R: DeserializeOwned> Function<A, R> {
    pub(crate) fn new(guest: Guest, target: Target) -> Function<A, R> {
        Function { guest, target, _types: PhantomData }
    }

    /// The function's name.
    pub fn name(&self) -> &str {
        &self.target.name
    }

    pub(crate) fn target<'a>(&'a self, instance: &Instance) -> Result<&'a Target, Error> {
        if self.guest.is(instance.guest()) {
            return Ok(&self.target);
        }
        let text = format!(
            "the handle to function `{}` is of guest `{}`, and the sandbox runs `{}` as a Guest of \
             its own; read the file once (Guest::from_file) and build all sandboxes from that",
            self.target.name,
            self.guest.name(),
            instance.guest().name()
        );
        Err(Error::new(ErrorKind::WrongGuest, text))
    }

    /// Calls the function in `sandbox`.
    ///
    /// # Errors
    ///
    /// As [`Sandbox::call`], and [`WrongGuest`](ErrorKind::WrongGuest) if the sandbox runs another
    /// guest.
    pub fn call(&self, sandbox: &mut Sandbox, arguments: A) -> Result<R, Error> {
        self.call_with(&CallOptions::default(), sandbox, arguments)
    }

    /// Calls the function in `sandbox`, with options.
    ///
    /// # Errors
    ///
    /// As [`Function::call`].
    pub fn call_with(
        &self,
        options: &CallOptions,
        sandbox: &mut Sandbox,
        arguments: A,
    ) -> Result<R, Error> {
        let instance = sandbox.instance_mut();
        let target = self.target(instance)?;
        instance.call(target, &arguments, options)
    }

    /// Calls the function once for each of `inputs`, in order, and gives the results in that order.
    ///
    /// The calls share entries into the guest: one for all of them as long as arguments and results
    /// fit the messages, and as many as it takes when they do not. So the cost of an entry, which is
    /// most of what a short call costs, is paid once. Otherwise each is a call like any other: it may
    /// use host functions, return an error, or have arguments that do not fit, and the others go on.
    ///
    /// Up to half of what [`Builder::message_size`](crate::Builder::message_size) allows is filled
    /// with arguments at a time, so a host function's reply has the other half; what needs more goes
    /// as a single call. A deadline holds for each entry as a whole, and so for many calls together:
    /// choose it accordingly, with [`Function::call_many_with`].
    ///
    /// ```no_run
    /// # fn example(sandbox: &mut glowbox::Sandbox) -> Result<(), glowbox::Error> {
    /// let length = sandbox.function::<(&str,), u32>("length")?;
    /// let lines = ["one", "two", "three"];
    /// let results = length.call_many(sandbox, lines.map(|line| (line,)));
    /// let lengths: Vec<u32> = results.into_iter().collect::<Result<_, _>>()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Each result has its own, as [`Function::call`]. When a call spends the sandbox, its result
    /// says by what; the results before it stand, and those after it are
    /// [`Spent`](ErrorKind::Spent). A panic in the `Deserialize` of a result spends the sandbox too
    /// ([`HostPanic`](ErrorKind::HostPanic)), since there may be results after it.
    pub fn call_many(
        &self,
        sandbox: &mut Sandbox,
        inputs: impl IntoIterator<Item = A>,
    ) -> Vec<Result<R, Error>> {
        self.call_many_with(&CallOptions::default(), sandbox, inputs)
    }

    /// As [`Function::call_many`], with options, which hold for each entry.
    ///
    /// # Errors
    ///
    /// As [`Function::call_many`].
    pub fn call_many_with(
        &self,
        options: &CallOptions,
        sandbox: &mut Sandbox,
        inputs: impl IntoIterator<Item = A>,
    ) -> Vec<Result<R, Error>> {
        let inputs = inputs.into_iter();
        let instance = sandbox.instance_mut();
        match self.target(instance) {
            Ok(target) => instance.call_many(target, inputs, options),
            Err(error) => inputs.map(|_| Err(error.clone())).collect(),
        }
    }
}
