//! The mailbox: one control page and two message buffers in guest memory.
//!
//! The control page holds fixed structures: [`ToGuest`] (written by the host before it enters the
//! guest), [`FromGuest`] (written by the guest before it leaves by [`crate::CALL_PORT`]),
//! [`BootInfo`] (written once, before the guest starts) and [`Entropy`] (written before the guest
//! starts, and whenever its memory is put back or copied). The bytes of a message lie in a buffer,
//! *incoming* (host to guest) or *outgoing* (guest to host), at the offset and length that the
//! header names.
//!
//! Why headers in memory and not in registers: reading and writing them costs no system call and
//! no register synchronisation on any hypervisor, so a warm call is exactly one entry.
//!
//! Why offsets, when each buffer carries one message at a time: calls nest. While a guest function
//! still borrows its arguments from the incoming buffer it may call the host; the reply must not
//! overwrite them. So the guest says in [`FromGuest::reply_offset`] where the free part of the
//! incoming buffer starts, and both buffers are used as stacks.
//!
//! Many calls can go in one message, and their results come in one: see [`crate::batch`].

/// Bytes in the control page.
pub const CONTROL_SIZE: usize = 4096;
/// Offset of [`ToGuest`] in the control page.
pub const TO_GUEST_OFFSET: usize = 0;
/// Offset of [`FromGuest`] in the control page; on a cache line of its own.
pub const FROM_GUEST_OFFSET: usize = 64;
/// Offset of a `u64` in the control page: how many results of a batch are done.
pub const BATCH_PROGRESS_OFFSET: usize = 112;
/// Offset of [`BootInfo`] in the control page.
pub const BOOT_INFO_OFFSET: usize = 128;
/// Offset of [`Entropy`] in the control page.
pub const ENTROPY_OFFSET: usize = 256;
/// Message offsets in both buffers are multiples of this.
pub const MESSAGE_ALIGN: u64 = 16;

/// What a header is made of.
pub(crate) trait Field: Sized {
    /// Writes it to the start of `space` and returns the rest.
    fn put(self, space: &mut [u8]) -> &mut [u8];
    /// Takes it from the start of `bytes`, which are enough.
    fn take(bytes: &mut &[u8]) -> Self;
}

macro_rules! integers {
    ($($type:ty)*) => {$(
        impl Field for $type {
            fn put(self, space: &mut [u8]) -> &mut [u8] {
                self.to_le_bytes().put(space)
            }

            fn take(bytes: &mut &[u8]) -> Self {
                <$type>::from_le_bytes(Field::take(bytes))
            }
        }
    )*};
}

integers!(u32 u64);

impl<const N: usize> Field for [u8; N] {
    fn put(self, space: &mut [u8]) -> &mut [u8] {
        let (field, rest) = space.split_at_mut(N);
        field.copy_from_slice(&self);
        rest
    }

    fn take(bytes: &mut &[u8]) -> Self {
        let (field, rest) = bytes.split_at(N);
        *bytes = rest;
        let mut taken = [0; N];
        taken.copy_from_slice(field);
        taken
    }
}

/// Declares a `repr(C)` header of little-endian integers and arrays of bytes, with its conversion
/// from and to bytes.
macro_rules! header {
    ($(#[$meta:meta])* $name:ident, $size:literal { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }

        impl $name {
            /// Size in bytes.
            pub const SIZE: usize = $size;

            /// The bytes of this header, as they stand in guest memory.
            pub fn to_bytes(&self) -> [u8; $size] {
                let mut bytes = [0; $size];
                let rest = &mut bytes[..];
                $(let rest = $crate::mailbox::Field::put(self.$field, rest);)*
                debug_assert!(rest.is_empty());
                bytes
            }

            /// Reads a header. Any bytes are a header; what its fields say is still to be checked.
            pub fn from_bytes(bytes: &[u8; $size]) -> Self {
                let mut rest = &bytes[..];
                let header = $name { $($field: $crate::mailbox::Field::take(&mut rest),)* };
                debug_assert!(rest.is_empty());
                header
            }
        }

        /// All zeros.
        impl Default for $name {
            fn default() -> Self {
                $name::from_bytes(&[0; $size])
            }
        }

        const _: () = assert!(size_of::<$name>() == $size);
    };
}
pub(crate) use header;

header! {
    /// What the host tells the guest when it enters it.
    ToGuest, 32 {
        /// A [`ToGuestKind`].
        kind: u32,
        /// For a reply: a [`ReplyStatus`].
        status: u32,
        /// For a call: offset of the function's record in the guest's export section.
        function: u32,
        /// For a batch: how many calls it is.
        count: u32,
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
        /// Address of the table of what the host lends (see [`crate::maps`]); zero if there is none.
        map_table_address: u64,
    }
}

header! {
    /// What a guest's random numbers are made of.
    ///
    /// A guest that has drawn numbers carries its generator's state in its memory, and with that in
    /// every snapshot. So a generator belongs to one generation: a guest that finds another one
    /// here seeds a new generator before it draws the next number.
    Entropy, 48 {
        /// Grows with every copy of the guest: from boot to snapshot to sandbox, at every reset.
        generation: u64,
        /// Whether the seed is a fixed one: 0 or 1.
        deterministic: u32,
        /// Zero.
        reserved: u32,
        /// The seed.
        seed: [u8; 32],
    }
}

const _: () = assert!(TO_GUEST_OFFSET + ToGuest::SIZE <= FROM_GUEST_OFFSET);
const _: () = assert!(FROM_GUEST_OFFSET + FromGuest::SIZE <= BATCH_PROGRESS_OFFSET);
const _: () = assert!(BATCH_PROGRESS_OFFSET + size_of::<u64>() <= BOOT_INFO_OFFSET);
const _: () = assert!(BOOT_INFO_OFFSET + BootInfo::SIZE <= ENTROPY_OFFSET);
const _: () = assert!(ENTROPY_OFFSET + Entropy::SIZE <= CONTROL_SIZE);

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
        /// Run an exported function many times: see [`crate::batch`].
        CallMany = 3,
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
        /// The results of a batch that are done have to make room. The guest goes on.
        BatchFlush = 8,
        /// All calls of a batch are done.
        BatchEnd = 9,
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
    fn entropy_survives_the_way_to_bytes_and_back() {
        let seed = core::array::from_fn(|at| at.to_le_bytes()[0]);
        let entropy = Entropy { generation: 7, deterministic: 1, reserved: 0, seed };
        assert_eq!(Entropy::from_bytes(&entropy.to_bytes()), entropy);
        assert_eq!(entropy.to_bytes()[16..], seed);
    }

    #[test]
    fn unknown_numbers_have_no_kind() {
        assert_eq!(FromGuestKind::from_number(3), Some(FromGuestKind::HostCall));
        assert_eq!(FromGuestKind::from_number(0), None);
        assert_eq!(FromGuestKind::from_number(u32::MAX), None);
    }
}
