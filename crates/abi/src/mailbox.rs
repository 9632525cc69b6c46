//! The mailbox: one control page and two message buffers in guest memory.
//!
//! The control page holds three fixed structures: [`ToGuest`] (written by the host before it
//! enters the guest), [`FromGuest`] (written by the guest before it leaves by [`crate::CALL_PORT`])
//! and [`BootInfo`] (written once, before the guest starts). The bytes of a message lie in a
//! buffer, *incoming* (host to guest) or *outgoing* (guest to host), at the offset and length that
//! the header names.
//!
//! Why headers in memory and not in registers: reading and writing them costs no system call and
//! no register synchronisation on any hypervisor, so a warm call is exactly one entry.
//!
//! Why offsets, when each buffer carries one message at a time: calls nest. While a guest function
//! still borrows its arguments from the incoming buffer it may call the host; the reply must not
//! overwrite them. So the guest says in [`FromGuest::reply_offset`] where the free part of the
//! incoming buffer starts, and both buffers are used as stacks.

/// Bytes in the control page.
pub const CONTROL_SIZE: usize = 4096;
/// Offset of [`ToGuest`] in the control page.
pub const TO_GUEST_OFFSET: usize = 0;
/// Offset of [`FromGuest`] in the control page; on a cache line of its own.
pub const FROM_GUEST_OFFSET: usize = 64;
/// Offset of [`BootInfo`] in the control page.
pub const BOOT_INFO_OFFSET: usize = 128;
/// Message offsets in both buffers are multiples of this.
pub const MESSAGE_ALIGN: u64 = 16;

/// Declares a `repr(C)` header of little-endian integers, with its conversion from and to bytes.
macro_rules! header {
    ($(#[$meta:meta])* $name:ident, $size:literal { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }

        impl $name {
            /// Size in bytes.
            pub const SIZE: usize = $size;

            /// The bytes of this header, as they stand in guest memory.
            pub fn to_bytes(&self) -> [u8; $size] {
                let mut bytes = [0; $size];
                let mut rest = &mut bytes[..];
                $(
                    let (field, tail) = rest.split_at_mut(size_of::<$type>());
                    field.copy_from_slice(&self.$field.to_le_bytes());
                    rest = tail;
                )*
                debug_assert!(rest.is_empty());
                bytes
            }

            /// Reads a header. Any bytes are a header; what its fields say is still to be checked.
            pub fn from_bytes(bytes: &[u8; $size]) -> Self {
                let mut at = 0;
                $(
                    let mut $field = [0; size_of::<$type>()];
                    $field.copy_from_slice(&bytes[at..at + size_of::<$type>()]);
                    at += size_of::<$type>();
                )*
                debug_assert_eq!(at, $size);
                $name { $($field: <$type>::from_le_bytes($field),)* }
            }
        }

        const _: () = assert!(size_of::<$name>() == $size);
    };
}

header! {
    /// What the host tells the guest when it enters it.
    ToGuest, 32 {
        /// A [`ToGuestKind`].
        kind: u32,
        /// For a reply: a [`ReplyStatus`].
        status: u32,
        /// For a call: offset of the function's record in the guest's export section.
        function: u32,
        /// Zero.
        reserved: u32,
        /// Where the message starts in the incoming buffer.
        offset: u64,
        /// Bytes in the message.
        length: u64,
    }
}

header! {
    /// What the guest tells the host when it leaves.
    FromGuest, 48 {
        /// A [`FromGuestKind`].
        kind: u32,
        /// For a return: a [`ReturnStatus`]. For a log record: its level, 1 (error) to 5 (trace).
        status: u32,
        /// For a host call: offset of the function's record in the guest's import section.
        function: u32,
        /// Bytes at the message's start that are its text, where a message has a text and a
        /// payload: the target of a log record, the text of an error.
        text_length: u32,
        /// Where the message starts in the outgoing buffer.
        offset: u64,
        /// Bytes in the message.
        length: u64,
        /// First free offset in the incoming buffer, a multiple of [`MESSAGE_ALIGN`].
        reply_offset: u64,
        /// For an exhausted heap: the bytes that were asked for. For a result that did not fit:
        /// the bytes it needs.
        amount: u64,
    }
}

header! {
    /// What a guest has to know to start.
    BootInfo, 72 {
        /// [`crate::ABI_VERSION`] of the host.
        abi_version: u32,
        /// Most verbose level the host wants: 0 (nothing) to 5 (trace).
        log_level: u32,
        /// Address of the incoming buffer.
        incoming_address: u64,
        /// Bytes in the incoming buffer.
        incoming_size: u64,
        /// Address of the outgoing buffer.
        outgoing_address: u64,
        /// Bytes in the outgoing buffer.
        outgoing_size: u64,
        /// Address of the heap, page-aligned; its pages read as zero.
        heap_address: u64,
        /// Most bytes the heap may grow to.
        heap_size: u64,
        /// Bytes of text the host accepts in one log record.
        log_text_limit: u64,
        /// Zero.
        reserved: u64,
    }
}

const _: () = assert!(TO_GUEST_OFFSET + ToGuest::SIZE <= FROM_GUEST_OFFSET);
const _: () = assert!(FROM_GUEST_OFFSET + FromGuest::SIZE <= BOOT_INFO_OFFSET);
const _: () = assert!(BOOT_INFO_OFFSET + BootInfo::SIZE <= CONTROL_SIZE);

/// Declares an enum with fixed numbers and its checked conversion from a number.
macro_rules! numbered {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $number:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u32)]
        pub enum $name { $($(#[$variant_meta])* $variant = $number,)* }

        impl $name {
            /// The value with this number, if there is one.
            pub fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some($name::$variant),)* _ => None }
            }
        }
    };
}

numbered! {
    /// Kinds of message from host to guest.
    ToGuestKind {
        /// Run an exported function.
        Call = 1,
        /// The answer to the guest's last host call.
        Reply = 2,
    }
}

numbered! {
    /// How a host call ended.
    ReplyStatus {
        /// The message is the result.
        Value = 0,
        /// No such host function is registered. Nothing ran.
        NotRegistered = 1,
        /// The host function is already running further out on the stack. Nothing ran.
        Busy = 2,
        /// The function ran, but its result is larger than the incoming buffer's free part.
        TooLarge = 3,
    }
}

numbered! {
    /// Kinds of message from guest to host.
    FromGuestKind {
        /// Start-up is done; the guest waits for its first call.
        Ready = 1,
        /// A function has ended.
        Return = 2,
        /// Run a host function and come back with the answer.
        HostCall = 3,
        /// A log record: target, then text. The guest goes on.
        Log = 4,
        /// The guest panicked; the message is its text, then the place. It can't go on.
        Panic = 5,
        /// The heap is exhausted. It can't go on.
        OutOfMemory = 6,
        /// The guest's own start-up function returned an error; the message is its text.
        StartError = 7,
    }
}

numbered! {
    /// How a guest function ended.
    ReturnStatus {
        /// The message is the result.
        Value = 0,
        /// The function returned an error: its text, then its encoding (empty if it has none).
        Error = 1,
        /// The arguments did not decode as the function's types. Nothing ran.
        BadArguments = 2,
        /// The result is larger than the outgoing buffer.
        TooLarge = 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_the_way_to_bytes_and_back() {
        let header = FromGuest {
            kind: 3,
            status: 1,
            function: 0x1234_5678,
            text_length: 9,
            offset: u64::MAX,
            length: 1 << 40,
            reply_offset: 16,
            amount: 7,
        };
        assert_eq!(FromGuest::from_bytes(&header.to_bytes()), header);
        assert_eq!(&header.to_bytes()[8..12], &[0x78, 0x56, 0x34, 0x12]);
    }

    #[test]
    fn unknown_numbers_have_no_kind() {
        assert_eq!(FromGuestKind::from_number(3), Some(FromGuestKind::HostCall));
        assert_eq!(FromGuestKind::from_number(0), None);
        assert_eq!(FromGuestKind::from_number(u32::MAX), None);
    }
}
