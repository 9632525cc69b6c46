//! Calls in both directions, and what the macros' expansions are made of.
//!
//! The macros see types as text only. What has to be decided by what a type *is* (does the error
//! implement `Serialize`? `Display`?) is decided by method resolution in their expansions, where
//! types are concrete: each question is a pair of traits of which the better one is found first.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt::{Debug, Display};
use core::marker::PhantomData;

use glowbox_abi::mailbox::ToGuestKind;
use glowbox_abi::mailbox::{FromGuest, FromGuestKind, ReplyStatus, ReturnStatus, ToGuest};
use glowbox_abi::record::Record;
use glowbox_abi::typed::{Type, Typed};
use glowbox_abi::wire::{self, WireError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::arch::{self, Message};
use crate::{HostError, batch, runtime};

/// What runs when an exported function is called: decodes, calls, encodes.
pub type ExportHandler = fn(&Message) -> FromGuest;
/// An exported function's record.
pub type ExportRecord<const N: usize> = Record<ExportHandler, N>;
/// An imported function's record. It has no handler, and no relocation either.
pub type ImportRecord<const N: usize> = Record<u64, N>;

/// Serves one call and returns what to tell the host.
pub(crate) fn serve(incoming: &ToGuest) -> FromGuest {
    let message = Message::take(incoming);
    runtime::run(arch::export_handler(incoming.function), &message)
}

/// Runs a start-up function's record; `Some` if it failed.
pub(crate) fn start_main(handler: ExportHandler) -> Option<FromGuest> {
    let header = runtime::run(handler, &Message::empty());
    (header.kind == FromGuestKind::StartError as u32).then_some(header)
}

fn returned(status: ReturnStatus) -> FromGuest {
    FromGuest { kind: FromGuestKind::Return as u32, status: status as u32, ..FromGuest::default() }
}

/// The arguments did not decode.
pub fn bad_arguments() -> FromGuest {
    returned(ReturnStatus::BadArguments)
}

/// Encodes a message with the room that is left in the outgoing buffer; if that is too little and
/// results of a batch are in the way, once more without them. `None` if the buffer is lent.
fn encode_outgoing(
    encode: impl Fn(&mut [u8]) -> Result<usize, WireError>,
) -> Option<Result<usize, WireError>> {
    match arch::with_outgoing(&encode) {
        Some(Err(WireError::TooLarge { .. })) if batch::make_room() => arch::with_outgoing(&encode),
        encoded => encoded,
    }
}

/// Encodes a result after `tag`, the variant number that a `Result` starts with.
fn encode_result<T: Serialize + ?Sized>(value: &T, tag: &[u8]) -> FromGuest {
    let encoded = encode_outgoing(|space| {
        let free = space.len();
        let too_small = WireError::TooLarge { needed: tag.len(), space: free };
        let (first, rest) = space.split_at_mut_checked(tag.len()).ok_or(too_small)?;
        first.copy_from_slice(tag);
        wire::encode(value, rest).map(|length| tag.len() + length)
    });
    match encoded {
        Some(Ok(length)) => FromGuest { length: length as u64, ..returned(ReturnStatus::Value) },
        Some(Err(WireError::TooLarge { needed, .. })) => {
            let amount = (tag.len() + needed) as u64;
            FromGuest { amount, ..returned(ReturnStatus::TooLarge) }
        }
        Some(Err(error)) => panic!("the result {error}"),
        None => panic!("a result was returned in the middle of encoding another message"),
    }
}

/// Returns a plain value.
pub fn return_value<T: Serialize + ?Sized>(value: &T) -> FromGuest {
    encode_result(value, &[])
}

/// Returns the value of a `Result`.
pub fn return_ok<T: Serialize + ?Sized>(value: &T) -> FromGuest {
    encode_result(value, &[0])
}

/// Returns the error of a `Result`: its text, and its encoding as the `Err` of that `Result`.
pub fn return_error(
    text: &str,
    encode: impl Fn(&mut [u8]) -> Result<usize, WireError>,
) -> FromGuest {
    let write = |space: &mut [u8]| {
        // The text gives way where the two do not fit together.
        let most = text.len().min(space.len() / 2);
        let shown = &text.as_bytes()[..text.floor_char_boundary(most)];
        let (first, rest) = space.split_at_mut(shown.len());
        first.copy_from_slice(shown);
        let payload = match rest.split_first_mut() {
            Some((tag, rest)) => {
                *tag = 1;
                encode(rest)
            }
            None => Err(WireError::TooLarge { needed: 1, space: 0 }),
        };
        let whole = shown.len() == text.len();
        let whole = whole && !matches!(payload, Err(WireError::TooLarge { .. }));
        (shown.len(), payload.map_or(0, |length| 1 + length), whole)
    };
    let written = match arch::with_outgoing(write) {
        Some((.., false)) if batch::make_room() => arch::with_outgoing(write),
        written => written,
    };
    let (text, payload, _) = written.unwrap_or((0, 0, true));
    FromGuest {
        text_length: u32::try_from(text).unwrap_or(0),
        length: (text + payload) as u64,
        ..returned(ReturnStatus::Error)
    }
}

/// Calls a host function and decodes its answer.
///
/// # Errors
///
/// [`HostError`] if the host refuses the call, arguments or reply do not fit, or this is not the
/// thread that serves calls.
///
/// # Panics
///
/// If the reply is not what the signature promises, which the host has checked.
pub fn call_host<R: DeserializeOwned>(
    function: u32,
    encode: impl Fn(&mut [u8]) -> Result<usize, WireError>,
) -> Result<R, HostError> {
    if !arch::is_serving() {
        return Err(HostError::new(runtime::NOT_SERVING));
    }
    let length = match encode_outgoing(encode) {
        Some(Ok(length)) => length,
        Some(Err(error)) => return Err(HostError::new(format!("the arguments: {error}"))),
        None => return Err(HostError::new("called in the middle of encoding another message")),
    };
    let mut header = FromGuest {
        kind: FromGuestKind::HostCall as u32,
        function,
        length: length as u64,
        reply_offset: arch::incoming_top(),
        ..FromGuest::default()
    };
    loop {
        let incoming = arch::send(&header);
        if incoming.kind == ToGuestKind::Call as u32 {
            // The host function calls back into the guest before it answers.
            header = serve(&incoming);
            continue;
        }
        return match ReplyStatus::from_number(incoming.status) {
            Some(ReplyStatus::Value) => {
                let message = Message::take(&incoming);
                match wire::decode_all(message.bytes()) {
                    Ok(value) => Ok(value),
                    Err(error) => panic!("the reply of a host function {error}"),
                }
            }
            Some(ReplyStatus::NotRegistered) => {
                Err(HostError::new("no such host function is registered"))
            }
            Some(ReplyStatus::Busy) => {
                Err(HostError::new("the host function is running already and can't be re-entered"))
            }
            Some(ReplyStatus::TooLarge) | None => {
                Err(HostError::new("the host function's result is too large for the mailbox"))
            }
        };
    }
}

/// The types in a `Result`, for macros that see only its alias.
pub trait ResultTypes {
    /// The value's type.
    type Ok;
    /// The error's type.
    type Error;
}

impl<T, E> ResultTypes for Result<T, E> {
    type Ok = T;
    type Error = E;
}

/// Asks whether a type has a name of its own: `Probe::<T>::TYPE` is `Some` if it does, since an
/// inherent constant is found before a trait's.
pub struct Probe<T: ?Sized>(PhantomData<T>);

impl<T: Typed + ?Sized> Probe<T> {
    /// The type's name.
    pub const TYPE: Option<&'static Type> = Some(T::TYPE);
}

impl<T: Typed, E> Probe<Result<T, E>> {
    /// The name of a `Result` whose error has none.
    pub const RESULT: Option<&'static Type> =
        Some(&Type::Generic("Result", &[T::TYPE, &Type::Named("Error")]));
}

impl<T: Serialize> Probe<T> {
    /// The type can be encoded.
    pub const SERIALIZE: bool = true;
}

/// The answers of [`Probe`] for types that do not have what it asks for.
pub trait Untyped {
    /// No name is known.
    const TYPE: Option<&'static Type> = None;
    /// It is no `Result`, or its value has no name of its own either.
    const RESULT: Option<&'static Type> = None;
    /// The type can't be encoded.
    const SERIALIZE: bool = false;
}

impl<T: ?Sized> Untyped for Probe<T> {}

/// An error whose text is wanted. The macros call `text` on `&&&Text`, so that the traits below are
/// tried in their order.
pub struct Text<'a, E>(pub &'a E);

/// The text of an error that implements `Display`.
pub trait DisplayText {
    /// The text.
    fn text(&self) -> String;
}

/// The text of an error that implements only `Debug`.
pub trait DebugText {
    /// The text.
    fn text(&self) -> String;
}

/// The text of an error that implements neither.
pub trait NoText {
    /// The text.
    fn text(&self) -> String;
}

impl<E: Display> DisplayText for &&Text<'_, E> {
    fn text(&self) -> String {
        self.0.to_string()
    }
}

impl<E: Debug> DebugText for &Text<'_, E> {
    fn text(&self) -> String {
        format!("{:?}", self.0)
    }
}

impl<E> NoText for Text<'_, E> {
    fn text(&self) -> String {
        core::any::type_name::<E>().to_string()
    }
}

/// An error whose encoding is wanted. The macros call `encode` on `&&Payload`.
pub struct Payload<'a, E>(pub &'a E);

/// The encoding of an error that implements `Serialize`.
pub trait SerializePayload {
    /// Writes it and returns its length.
    ///
    /// # Errors
    ///
    /// If it does not fit or can't be encoded.
    fn encode(&self, text: &str, space: &mut [u8]) -> Result<usize, WireError>;
}

/// The encoding of an error that does not: its text.
pub trait TextPayload {
    /// Writes it and returns its length.
    ///
    /// # Errors
    ///
    /// If it does not fit.
    fn encode(&self, text: &str, space: &mut [u8]) -> Result<usize, WireError>;
}

impl<E: Serialize> SerializePayload for &Payload<'_, E> {
    fn encode(&self, _text: &str, space: &mut [u8]) -> Result<usize, WireError> {
        wire::encode(self.0, space)
    }
}

impl<E> TextPayload for Payload<'_, E> {
    fn encode(&self, text: &str, space: &mut [u8]) -> Result<usize, WireError> {
        wire::encode(text, space)
    }
}

/// What to do with a refused host call, by the function's result. The macros call `raise` on
/// `&&Raise`, so that the traits below are tried in their order.
pub struct Raise<R>(pub PhantomData<R>);

/// The result is a `Result` whose error can be made from a [`HostError`].
pub trait RaiseAsError<R> {
    /// The result that carries the error.
    fn raise(&self, error: HostError) -> R;
}

/// Anything else: there is no way to tell the caller, so the guest panics.
pub trait RaiseAsPanic<R> {
    /// Panics.
    fn raise(&self, error: HostError) -> R;
}

impl<T, E: From<HostError>> RaiseAsError<Result<T, E>> for &Raise<Result<T, E>> {
    fn raise(&self, error: HostError) -> Result<T, E> {
        Err(E::from(error))
    }
}

impl<R> RaiseAsPanic<R> for Raise<R> {
    #[track_caller]
    fn raise(&self, error: HostError) -> R {
        panic!("a host call failed: {error}")
    }
}
