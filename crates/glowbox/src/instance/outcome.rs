//! What a call came to: the value or error in the bytes that the guest returned.

use std::any::type_name;

use glowbox_abi::wire::{self, WireError};
use glowbox_core::escape::misleads;
use glowbox_core::mail::{ProtocolViolation, Return};
use glowbox_core::signature::ResultMatch;
use serde::de::DeserializeOwned;

use crate::function::Target;
use crate::{Error, ErrorKind};

/// Makes a value, or an error, of how a function ended; the ranges lie in `outgoing`. An error of
/// kind `Protocol` is the caller's to spend the sandbox by.
pub(super) fn value<R: DeserializeOwned>(
    target: &Target,
    returned: Return,
    outgoing: &[u8],
) -> Result<R, Error> {
    if let (Return::Error { payload, .. }, ResultMatch::Whole) = (&returned, target.result)
        && let Ok(result) = wire::decode_all(&outgoing[payload.clone()])
    {
        // The caller asked for the whole `Result`.
        return Ok(result);
    }
    let bytes = encoded(target, returned, outgoing)?;
    wire::decode_all(bytes).map_err(|error| not_a(target, type_name::<R>(), error))
}

/// The encoding of a function's value, or an error, of how it ended. As [`value`], otherwise.
pub(super) fn encoded<'a>(
    target: &Target,
    returned: Return,
    outgoing: &'a [u8],
) -> Result<&'a [u8], Error> {
    let name = &target.name;
    match returned {
        Return::Value(range) => value_of(target, &outgoing[range]),
        Return::Error { text: shown, payload } => {
            let (shown, payload) = (text(&outgoing[shown]), outgoing[payload].to_vec());
            Err(Error::of_guest(name, &shown, payload))
        }
        Return::BadArguments => {
            let text = format!(
                "guest function `{name}` could not decode its arguments: a type of the same name \
                 has another structure there, or uses a serde attribute that needs a \
                 self-describing format (untagged, tag, flatten, skip_serializing_if)"
            );
            Err(Error::new(ErrorKind::BadArguments, text))
        }
        Return::TooLarge { needed } => {
            let text = format!(
                "the result of guest function `{name}` takes {needed} bytes, but a message has \
                 room for {}; see Builder::message_size",
                outgoing.len()
            );
            Err(Error::new(ErrorKind::MessageTooLarge, text))
        }
    }
}

/// What stands for the value in the bytes of a result.
fn value_of<'a>(target: &Target, bytes: &'a [u8]) -> Result<&'a [u8], Error> {
    match (target.result, bytes.split_first()) {
        (ResultMatch::Same | ResultMatch::Whole, _) => Ok(bytes),
        (ResultMatch::OkOf, Some((0, value))) => Ok(value),
        // An `Err` that came as a plain value, since the guest named its `Result` otherwise.
        (ResultMatch::OkOf, Some((1, _))) => {
            let text = "(an error without a text)";
            Err(Error::of_guest(&target.name, text, bytes.to_vec()))
        }
        (ResultMatch::OkOf, _) => {
            let error = WireError::Malformed { reason: "neither a value nor an error".into() };
            Err(not_a(target, "Result", error))
        }
    }
}

/// The error for a result that is no encoding of its type.
fn not_a(target: &Target, of: &str, error: WireError) -> Error {
    let text =
        format!("the result of guest function `{}` is not a `{of}`: it {error}", target.name);
    Error::with_source(ErrorKind::Protocol, text, error)
}

/// The error for arguments that can't be written.
pub(super) fn not_encoded(target: &Target, error: WireError) -> Error {
    match error {
        WireError::TooLarge { needed, space } => {
            let text = format!(
                "the arguments of `{}` take {needed} bytes, but a message has room for {space}; \
                 see Builder::message_size",
                target.name
            );
            Error::new(ErrorKind::MessageTooLarge, text)
        }
        error => {
            let text = format!("the arguments of `{}` {error}", target.name);
            Error::with_source(ErrorKind::BadArguments, text, error)
        }
    }
}

/// The error for what no message is.
pub(super) fn violation(violation: ProtocolViolation) -> Error {
    Error::with_source(ErrorKind::Protocol, violation.to_string(), violation)
}

/// Text that the guest wrote, cut to a sensible length.
pub(super) fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(Error::MAX_GUEST_TEXT)]);
    let shown = |c: char| if misleads(c) && c != '\n' { '\u{fffd}' } else { c };
    text.chars().map(shown).collect()
}
