//! Errors of host functions, as a guest sees them.

use alloc::string::String;
use core::fmt;

use glowbox_abi::typed::{Type, Typed};
use serde::{Deserialize, Serialize};

/// A host function failed, or could not be called.
///
/// A host function that returns `Result<T, glowbox::HostError>` arrives in a guest as
/// `Result<T, HostError>`. It is also what a guest gets when the host refuses a call, for instance
/// because the function is running already or the reply is too large. A guest's own error type can
/// take it in by implementing `From<HostError>`.
///
/// ```ignore
/// #[host_function]
/// fn lookup(key: &str) -> Result<String, HostError>;
///
/// #[guest_function]
/// fn name_of(key: &str) -> String {
///     lookup(key).unwrap_or_else(|error| format!("unknown ({error})"))
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HostError {
    message: String,
}

impl HostError {
    /// An error with this message.
    pub fn new(message: impl Into<String>) -> HostError {
        HostError { message: message.into() }
    }

    /// What the host said.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl core::error::Error for HostError {}

impl Typed for HostError {
    const TYPE: &'static Type = &Type::Named("HostError");
}
