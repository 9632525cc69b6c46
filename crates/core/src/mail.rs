//! Messages from the guest, checked.
//!
//! Everything the guest writes is a claim. [`Untrusted`] marks such a number until a check has
//! turned it into something usable, and [`GuestMail::check`] is the only way from the header's bytes to
//! a message: after it, kind is known, and offset and length lie inside the outgoing buffer.

use std::ops::Range;

use glowbox_abi::mailbox::{FromGuest, FromGuestKind, MESSAGE_ALIGN, ReturnStatus};

/// A number that the guest wrote and nobody has checked.
#[derive(Clone, Copy)]
pub struct Untrusted(u64);

impl Untrusted {
    /// Marks a number as the guest's.
    pub fn new(value: u64) -> Self {
        Untrusted(value)
    }

    /// The number as it is, to be shown.
    pub fn claim(self) -> u64 {
        self.0
    }

    /// The number, if it is at most `limit` and fits a `usize`.
    pub fn at_most(self, limit: u64) -> Option<usize> {
        if self.0 <= limit { usize::try_from(self.0).ok() } else { None }
    }
}

/// Sizes against which a message is checked, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct MailboxSizes {
    /// Size of the incoming buffer.
    pub incoming: u64,
    /// Size of the outgoing buffer.
    pub outgoing: u64,
}

/// A message that has been checked. Ranges lie inside the outgoing buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestMail {
    /// Start-up is done.
    Ready,
    /// A function ended.
    Return(Return),
    /// The guest asks for a host function.
    HostCall {
        /// The number the guest gives for it; any value.
        function: u32,
        /// The arguments.
        arguments: Range<usize>,
        /// Where the reply may start in the incoming buffer.
        reply_offset: usize,
    },
    /// A log record.
    Log {
        /// 1 (error) to 5 (trace).
        level: u32,
        /// Where its target stands.
        target: Range<usize>,
        /// Where its text stands.
        text: Range<usize>,
    },
    /// The guest panicked.
    Panic {
        /// Where its message stands.
        text: Range<usize>,
        /// Where the place in the source stands; may be empty.
        location: Range<usize>,
    },
    /// The guest's heap is exhausted.
    OutOfMemory {
        /// Bytes that were asked for.
        requested: u64,
    },
    /// The guest's start-up function returned an error.
    StartError {
        /// Where its text stands.
        text: Range<usize>,
    },
    /// Results of a batch have to make room.
    BatchFlush,
    /// All calls of a batch are done.
    BatchEnd,
}

/// How a guest function ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Return {
    /// With a value.
    Value(Range<usize>),
    /// With an error of its own.
    Error {
        /// Where the error's text stands.
        text: Range<usize>,
        /// Where its encoding stands; empty if it has none.
        payload: Range<usize>,
    },
    /// The arguments did not decode.
    BadArguments,
    /// The result did not fit.
    TooLarge {
        /// Bytes it needs.
        needed: u64,
    },
}

/// The guest wrote something that no message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the guest's message has `{field}` = {value:#x}, but {rule}")]
pub struct ProtocolViolation {
    /// The header's field.
    pub field: &'static str,
    /// What the guest wrote.
    pub value: u64,
    /// What it must be.
    pub rule: &'static str,
}

impl GuestMail {
    /// Checks a header as it stands in guest memory.
    ///
    /// # Errors
    ///
    /// [`ProtocolViolation`] naming the first field that can't be.
    pub fn check(
        bytes: &[u8; FromGuest::SIZE],
        sizes: MailboxSizes,
    ) -> Result<GuestMail, ProtocolViolation> {
        let header = FromGuest::from_bytes(bytes);
        let violation =
            |field, value, rule| ProtocolViolation { field, value: u64::from(value), rule };
        let Some(kind) = FromGuestKind::from_number(header.kind) else {
            return Err(violation("kind", header.kind, "no message has that kind"));
        };
        Ok(match kind {
            FromGuestKind::Ready => GuestMail::Ready,
            FromGuestKind::Return => GuestMail::Return(check_return(&header, sizes)?),
            FromGuestKind::HostCall => GuestMail::HostCall {
                function: header.function,
                arguments: message(&header, sizes)?,
                reply_offset: reply_offset(&header, sizes)?,
            },
            FromGuestKind::Log => {
                if !(1..=5).contains(&header.status) {
                    return Err(violation("status", header.status, "log levels are 1 to 5"));
                }
                let (target, text) = split(&header, sizes)?;
                GuestMail::Log { level: header.status, target, text }
            }
            FromGuestKind::Panic => {
                let (text, location) = split(&header, sizes)?;
                GuestMail::Panic { text, location }
            }
            FromGuestKind::OutOfMemory => GuestMail::OutOfMemory { requested: header.amount },
            FromGuestKind::StartError => GuestMail::StartError { text: message(&header, sizes)? },
            FromGuestKind::BatchFlush => GuestMail::BatchFlush,
            FromGuestKind::BatchEnd => GuestMail::BatchEnd,
        })
    }
}

fn check_return(header: &FromGuest, sizes: MailboxSizes) -> Result<Return, ProtocolViolation> {
    match ReturnStatus::from_number(header.status) {
        Some(ReturnStatus::Value) => Ok(Return::Value(message(header, sizes)?)),
        Some(ReturnStatus::Error) => {
            let (text, payload) = split(header, sizes)?;
            Ok(Return::Error { text, payload })
        }
        Some(ReturnStatus::BadArguments) => Ok(Return::BadArguments),
        Some(ReturnStatus::TooLarge) => Ok(Return::TooLarge { needed: header.amount }),
        None => Err(ProtocolViolation {
            field: "status",
            value: u64::from(header.status),
            rule: "no return has that status",
        }),
    }
}

/// The message's range in the outgoing buffer.
fn message(header: &FromGuest, sizes: MailboxSizes) -> Result<Range<usize>, ProtocolViolation> {
    let start = Untrusted::new(header.offset).at_most(sizes.outgoing).ok_or(ProtocolViolation {
        field: "offset",
        value: header.offset,
        rule: "it lies outside the outgoing buffer",
    })?;
    let space = sizes.outgoing - header.offset;
    let length = Untrusted::new(header.length).at_most(space).ok_or(ProtocolViolation {
        field: "length",
        value: header.length,
        rule: "the message reaches beyond the outgoing buffer",
    })?;
    Ok(start..start + length)
}

/// The message's range, split after `text_length` bytes.
fn split(
    header: &FromGuest,
    sizes: MailboxSizes,
) -> Result<(Range<usize>, Range<usize>), ProtocolViolation> {
    let whole = message(header, sizes)?;
    let length = u64::from(header.text_length);
    let first = Untrusted::new(length).at_most(header.length).ok_or(ProtocolViolation {
        field: "text_length",
        value: length,
        rule: "it is more than the message's length",
    })?;
    let middle = whole.start + first;
    Ok((whole.start..middle, middle..whole.end))
}

fn reply_offset(header: &FromGuest, sizes: MailboxSizes) -> Result<usize, ProtocolViolation> {
    let value = header.reply_offset;
    let violation = |rule| ProtocolViolation { field: "reply_offset", value, rule };
    if !value.is_multiple_of(MESSAGE_ALIGN) {
        return Err(violation("it is not a multiple of 16"));
    }
    Untrusted::new(value)
        .at_most(sizes.incoming)
        .ok_or(violation("it lies outside the incoming buffer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: MailboxSizes = MailboxSizes { incoming: 0x2000, outgoing: 0x1000 };

    fn check(change: impl FnOnce(&mut FromGuest)) -> Result<GuestMail, ProtocolViolation> {
        let mut header = FromGuest {
            kind: FromGuestKind::HostCall as u32,
            offset: 0x10,
            length: 0x20,
            ..FromGuest::default()
        };
        change(&mut header);
        GuestMail::check(&header.to_bytes(), SIZES)
    }

    #[test]
    fn a_proper_message_gives_ranges_inside_the_buffer() {
        let mail = check(|h| h.reply_offset = 0x2000).unwrap();
        let expected =
            GuestMail::HostCall { function: 0, arguments: 0x10..0x30, reply_offset: 0x2000 };
        assert_eq!(mail, expected);
    }

    #[test]
    fn each_impossible_field_is_named() {
        let field = |change: fn(&mut FromGuest)| check(change).unwrap_err().field;
        assert_eq!(field(|h| h.kind = 0), "kind");
        assert_eq!(field(|h| h.offset = 0x1001), "offset");
        assert_eq!(field(|h| h.offset = u64::MAX), "offset");
        assert_eq!(field(|h| h.length = 0xff1), "length");
        assert_eq!(field(|h| h.length = u64::MAX), "length");
        assert_eq!(field(|h| h.reply_offset = 8), "reply_offset");
        assert_eq!(field(|h| h.reply_offset = 0x2010), "reply_offset");
        let log = FromGuestKind::Log as u32;
        assert_eq!(check(|h| (h.kind, h.status) = (log, 0)).unwrap_err().field, "status");
        assert_eq!(
            check(|h| (h.kind, h.status, h.text_length) = (log, 1, 0x21)).unwrap_err().field,
            "text_length"
        );
        let ret = FromGuestKind::Return as u32;
        assert_eq!(check(|h| (h.kind, h.status) = (ret, 9)).unwrap_err().field, "status");
    }

    /// Every boundary value in every field: an error or ranges inside the buffer, never a panic.
    #[test]
    fn boundary_values_never_lead_outside_the_buffer() {
        // Miri takes minutes for all of them.
        const WIDE: &[u64] = match cfg!(miri) {
            true => &[0x1000, u64::MAX],
            false => &[0, 1, 15, 16, 0xfff, 0x1000, 0x1001, i64::MAX as u64, u64::MAX],
        };
        for kind in 0..11 {
            for status in [0, 1, 2, 3, 4, 5, 6, u32::MAX] {
                for (offset, length) in WIDE.iter().flat_map(|a| WIDE.iter().map(move |b| (*a, *b)))
                {
                    for text_length in [0, 1, 0x1000, u32::MAX] {
                        let header = FromGuest {
                            kind,
                            status,
                            function: u32::MAX,
                            text_length,
                            offset,
                            length,
                            reply_offset: length,
                            amount: u64::MAX,
                        };
                        let ranges = match GuestMail::check(&header.to_bytes(), SIZES) {
                            Ok(GuestMail::HostCall { arguments, .. }) => vec![arguments],
                            Ok(GuestMail::Log { target, text, .. }) => vec![target, text],
                            Ok(GuestMail::Return(Return::Error { text, payload })) => {
                                vec![text, payload]
                            }
                            Ok(GuestMail::Return(Return::Value(range))) => vec![range],
                            Ok(GuestMail::Panic { text, location }) => vec![text, location],
                            Ok(GuestMail::StartError { text }) => vec![text],
                            _ => vec![],
                        };
                        for range in ranges {
                            assert!(range.start <= range.end && range.end <= 0x1000);
                        }
                    }
                }
            }
        }
    }
}
