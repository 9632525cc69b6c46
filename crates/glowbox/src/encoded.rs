//! Calls whose types are known only when the program runs.
//!
//! [`Sandbox::call`] has its types from the host program, when that is compiled. A tool that takes a
//! function's name and its arguments from somebody else (a command line, another language) has the
//! guest's [`Signature`](crate::Signature) instead, and makes the bytes itself.

use glowbox_abi::wire::WireError;
use glowbox_core::signature::{ResultMatch, TypeName};

use crate::arguments::{Arguments, sealed};
use crate::function::Target;
use crate::{CallOptions, Error, Sandbox};

/// Arguments that have been encoded already: one after the other, as they stand in a message.
pub(crate) struct Encoded<'a>(&'a [u8]);

impl sealed::Sealed for Encoded<'_> {}

impl Arguments for Encoded<'_> {
    /// Nobody asks: the caller has checked them against the signature.
    fn types() -> Vec<&'static str> {
        Vec::new()
    }

    fn encode(&self, space: &mut [u8]) -> Result<usize, WireError> {
        let (needed, available) = (self.0.len(), space.len());
        let Some(part) = space.get_mut(..needed) else {
            return Err(WireError::TooLarge { needed, space: available });
        };
        part.copy_from_slice(self.0);
        Ok(needed)
    }

    fn encoded_size(&self) -> Result<usize, WireError> {
        Ok(self.0.len())
    }
}

impl Sandbox {
    /// Calls a function of the guest by name with arguments that have been encoded already, and gives
    /// the encoding of its result. It is for callers that learn the types when they run, from
    /// [`Guest::functions`](crate::Guest::functions).
    ///
    /// The encoding is [postcard](https://postcard.jamesmunns.com)'s: of the arguments one after the
    /// other, and of the result. For a function that returns `Result<T, E>` it is that of the `T`; an
    /// `Err` is an [`Error`] of kind [`Guest`](crate::ErrorKind::Guest).
    ///
    /// Nothing is checked against the signature here. Bytes that are an encoding of other types are
    /// refused by the guest if it can't decode them, and are taken for other values if it can. What
    /// comes back is the guest's claim: decode it as any message of a stranger.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), glowbox::Error> {
    /// let mut sandbox = glowbox::Sandbox::builder().build("calculator.elf")?;
    /// // `add(a: u32, b: u32) -> u32`, with 2 and 300.
    /// let sum = sandbox.call_encoded(&Default::default(), "add", &[2, 0xac, 0x02])?;
    /// assert_eq!(sum, [0xae, 0x02]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Sandbox::call`], but never [`SignatureMismatch`](crate::ErrorKind::SignatureMismatch).
    pub fn call_encoded(
        &mut self,
        options: &CallOptions,
        name: &str,
        arguments: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let export = Target::export(self.guest(), name)?;
        let result = match &export.signature.result {
            TypeName::Path(name, _) if name == "Result" => ResultMatch::OkOf,
            _ => ResultMatch::Same,
        };
        let target = Target { name: name.into(), number: export.number, result };
        self.instance_mut().call_encoded(&target, &Encoded(arguments), options)
    }
}
