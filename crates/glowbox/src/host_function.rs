//! Functions of the host that a guest may call.

use std::any::type_name;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use glowbox_abi::wire::{self, WireError};
use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};

use crate::instance::Instance;
use crate::{Arguments, Error, Function};

/// An error of a host function, for the guest to handle.
///
/// It is made from any `std::error::Error`, so that `?` works in host functions; the guest gets
/// its text, causes included. A guest declares such a function with
/// `Result<T, glowbox_guest::HostError>`. A host function may return any other error that
/// implements `Serialize` too; the guest then gets its value.
///
/// ```no_run
/// use glowbox::{HostError, Sandbox};
///
/// # fn main() -> Result<(), glowbox::Error> {
/// let sandbox = Sandbox::builder()
///     .host_function("read_setting", |name: String| -> Result<String, HostError> {
///         if name.contains('/') {
///             return Err(HostError::new("a setting's name has no slashes"));
///         }
///         Ok(std::fs::read_to_string(format!("/etc/myapp/{name}"))?)
///     })
///     .build("plugin.elf")?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostError {
    message: String,
}

impl HostError {
    /// An error with this message.
    pub fn new(message: impl Into<String>) -> HostError {
        HostError { message: message.into() }
    }
}

impl<E: std::error::Error> From<E> for HostError {
    fn from(error: E) -> HostError {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        HostError { message }
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Serialize for HostError {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.message)
    }
}

/// The sandbox that called a host function, through which the host function can call back.
///
/// A host function gets one if its first parameter is `&mut Caller<'_>`.
///
/// ```no_run
/// use glowbox::{Caller, HostError, Sandbox};
///
/// # fn main() -> Result<(), glowbox::Error> {
/// let sandbox = Sandbox::builder()
///     .host_function("visit", |caller: &mut Caller<'_>, count: u32| -> Result<(), HostError> {
///         for number in 0..count {
///             caller.call::<_, ()>("on_item", (number,))?;
///         }
///         Ok(())
///     })
///     .build("plugin.elf")?;
/// # Ok(())
/// # }
/// ```
pub struct Caller<'a> {
    instance: &'a mut Instance,
}

impl fmt::Debug for Caller<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").finish_non_exhaustive()
    }
}

impl Caller<'_> {
    /// Calls a function of the guest, as [`Sandbox::call`](crate::Sandbox::call) does, while the
    /// guest waits for this host function. The outer call's deadline holds.
    ///
    /// # Errors
    ///
    /// As [`Sandbox::call`](crate::Sandbox::call), and
    /// [`NestingTooDeep`](crate::ErrorKind::NestingTooDeep) if calls nest more than 16 deep. If the
    /// call spends the sandbox, the outer call ends with the same error, whatever this host
    /// function returns.
    pub fn call<A: Arguments, R: DeserializeOwned>(
        &mut self,
        name: &str,
        arguments: A,
    ) -> Result<R, Error> {
        let target = self.instance.setup().resolve::<A, R>(name)?;
        self.instance.call_nested(&target, &arguments)
    }

    /// Calls a function of the guest through a handle.
    ///
    /// # Errors
    ///
    /// As [`Caller::call`].
    pub fn call_function<A: Arguments, R: DeserializeOwned>(
        &mut self,
        function: &Function<A, R>,
        arguments: A,
    ) -> Result<R, Error> {
        let target = function.target(self.instance)?;
        self.instance.call_nested(target, &arguments)
    }
}

/// A closure that can be registered as a host function: up to twelve parameters of serde types
/// (owned ones), preceded by `&mut Caller<'_>` if it wants to call back, and a result that
/// implements `Serialize`, `Result` included.
///
/// It is cloned: each sandbox that is spawned from a snapshot gets the closure as it was when it was
/// registered, so what a closure keeps in its own variables is each sandbox's own. What is to be
/// shared goes into an `Arc`; so does what can't be cloned.
///
/// `M` is an artefact of type inference; leave it to the compiler.
///
/// ```no_run
/// # fn main() -> Result<(), glowbox::Error> {
/// let mut calls = 0;
/// let builder = glowbox::Sandbox::builder()
///     .host_function("next", move || {
///         calls += 1;
///         calls
///     })
///     .host_function("join", |words: Vec<String>, separator: String| words.join(&separator));
/// # Ok(())
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be registered as a host function",
    note = "a host function is a closure that is `FnMut + Clone + Send + 'static`, with up to twelve \
            parameters of owned types that implement `Deserialize` (`String`, not `&str`), before \
            them `&mut Caller<'_>` if it calls back, and a result that implements `Serialize`"
)]
pub trait HostFunction<M>: Clone + Send + 'static {
    /// The parameters' types and the result's, as `std::any::type_name` gives them.
    #[doc(hidden)]
    fn types() -> (Vec<&'static str>, &'static str);

    /// Decodes, calls, encodes.
    #[doc(hidden)]
    fn invoke(&mut self, invocation: Invocation<'_>) -> Outcome;
}

/// One call of a host function, as it stands in the mailbox.
#[doc(hidden)]
pub struct Invocation<'a> {
    pub(crate) instance: &'a mut Instance,
    pub(crate) arguments: Range<usize>,
    pub(crate) reply_offset: usize,
}

/// How a call of a host function went.
#[doc(hidden)]
#[derive(Debug)]
pub enum Outcome {
    /// The result has been written; its length.
    Replied(usize),
    /// The result does not fit.
    TooLarge,
    /// The result can't be encoded.
    Unsupported(String),
    /// The guest's arguments did not decode.
    BadArguments(String),
}

impl Invocation<'_> {
    fn reply<R: Serialize>(self, call: impl FnOnce(&mut Caller<'_>) -> R) -> Outcome {
        let result = call(&mut Caller { instance: self.instance });
        let space = &mut self.instance.incoming_mut()[self.reply_offset..];
        match wire::encode(&result, space) {
            Ok(length) => Outcome::Replied(length),
            Err(WireError::TooLarge { .. }) => Outcome::TooLarge,
            Err(error) => Outcome::Unsupported(error.to_string()),
        }
    }
}

/// Runs code of the embedding program; a panic in it becomes an error with its message, and goes no
/// further. What it left half-done is the caller's to keep from being used again.
pub(crate) fn contain<T>(code: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(code)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        let text = text
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "(a panic without a text)".into());
        // The payload may be anything, even something that panics when it is dropped.
        if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
            std::mem::forget(another);
        }
        text
    })
}

/// A host function whose types have been erased.
pub(crate) trait Registered: Send {
    /// Decodes, calls, encodes.
    fn invoke(&mut self, invocation: Invocation<'_>) -> Outcome;

    /// Another one, in the state that this one is in.
    fn another(&self) -> Box<dyn Registered>;
}

/// A closure with the type that says how to call it.
struct Typed<F, M> {
    function: F,
    _form: PhantomData<fn() -> M>,
}

impl<M: 'static, F: HostFunction<M>> Registered for Typed<F, M> {
    fn invoke(&mut self, invocation: Invocation<'_>) -> Outcome {
        self.function.invoke(invocation)
    }

    fn another(&self) -> Box<dyn Registered> {
        erased(self.function.clone())
    }
}

/// Erases a host function's types.
pub(crate) fn erased<M: 'static, F: HostFunction<M>>(function: F) -> Box<dyn Registered> {
    Box::new(Typed { function, _form: PhantomData })
}

impl Drop for Prototypes {
    fn drop(&mut self) {
        let functions = self.functions.get_mut().unwrap_or_else(PoisonError::into_inner);
        for function in functions.drain(..) {
            if contain(|| drop(function)).is_err() {
                tracing::warn!(target: "glowbox", "a host function panicked when it was dropped");
            }
        }
    }
}

/// Host functions by name, whose types have been checked.
pub(crate) type Given = BTreeMap<String, Box<dyn Registered>>;

/// Host functions as they were registered, for the sandboxes to come: each gets copies.
pub(crate) struct Prototypes {
    /// One for each slot; `None` where nothing is registered.
    functions: Mutex<Vec<Option<Box<dyn Registered>>>>,
}

impl Prototypes {
    pub(crate) fn new(functions: Vec<Option<Box<dyn Registered>>>) -> Prototypes {
        Prototypes { functions: Mutex::new(functions) }
    }

    /// Of the functions that were given, those for the slots with these names.
    pub(crate) fn for_slots(names: &[Arc<str>], mut given: Given) -> Prototypes {
        Prototypes::new(names.iter().map(|name| given.remove(&**name)).collect())
    }

    /// Puts a copy where there is none: of a function that panicked, and was dropped.
    pub(crate) fn replace(&self, functions: &mut [Option<Box<dyn Registered>>]) {
        let prototypes = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        for (function, prototype) in functions.iter_mut().zip(&*prototypes) {
            if function.is_none() {
                *function = prototype.as_ref().map(|of| of.another());
            }
        }
    }

    /// A copy of each.
    pub(crate) fn copies(&self) -> Vec<Option<Box<dyn Registered>>> {
        let functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        functions.iter().map(|function| function.as_ref().map(|of| of.another())).collect()
    }
}

/// Tells the two forms of closures apart.
#[doc(hidden)]
#[derive(Debug)]
pub struct WithCaller;
/// Tells the two forms of closures apart.
#[doc(hidden)]
#[derive(Debug)]
pub struct WithoutCaller;

macro_rules! closures {
    ($($($param:ident $argument:ident)*;)*) => {
        $(
            closure!(WithoutCaller, [], [], $($param $argument)*);
            closure!(WithCaller, [&mut Caller<'_>,], [caller,], $($param $argument)*);
        )*
    };
}

macro_rules! closure {
    ($form:ident, [$($first:ty,)?], [$($caller:ident,)?], $($param:ident $argument:ident)*) => {
        impl<Fun, Res, $($param),*> HostFunction<($form, ($($param,)*), Res)> for Fun
        where
            Fun: FnMut($($first,)? $($param),*) -> Res + Clone + Send + 'static,
            Res: Serialize,
            $($param: DeserializeOwned,)*
        {
            fn types() -> (Vec<&'static str>, &'static str) {
                (vec![$(type_name::<$param>()),*], type_name::<Res>())
            }

            fn invoke(&mut self, invocation: Invocation<'_>) -> Outcome {
                let bytes = &invocation.instance.outgoing()[invocation.arguments.clone()];
                $(
                    let ($argument, bytes) = match wire::decode::<$param>(bytes) {
                        Ok(decoded) => decoded,
                        Err(error) => return Outcome::BadArguments(error.to_string()),
                    };
                )*
                if let Err(error) = wire::end(bytes) {
                    return Outcome::BadArguments(error.to_string());
                }
                invocation.reply(|_caller| {
                    $(let $caller = _caller;)?
                    self($($caller,)? $($argument),*)
                })
            }
        }
    };
}

closures! {
    ;
    A a;
    A a B b;
    A a B b C c;
    A a B b C c D d;
    A a B b C c D d E e;
    A a B b C c D d E e F f1;
    A a B b C c D d E e F f1 G g;
    A a B b C c D d E e F f1 G g H h;
    A a B b C c D d E e F f1 G g H h I i;
    A a B b C c D d E e F f1 G g H h I i J j;
    A a B b C c D d E e F f1 G g H h I i J j K k;
    A a B b C c D d E e F f1 G g H h I i J j K k L l;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_error_tells_its_causes() {
        let error = crate::Error::with_source(
            crate::ErrorKind::Io,
            "the file can't be read",
            std::io::Error::from(std::io::ErrorKind::NotFound),
        );
        let text = HostError::from(error).to_string();
        assert!(text.starts_with("the file can't be read: "), "{text}");
        assert!(text.contains("not found"), "{text}");
    }
}
