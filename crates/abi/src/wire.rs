//! How arguments and results become bytes: [postcard](https://postcard.jamesmunns.com), with a
//! straight copy for byte buffers.
//!
//! Serde hands a `Vec<u8>` or `&[u8]` to a format element by element; at 1 MiB that costs more than
//! everything else in a call together. So a value that is as a whole a sequence of bytes is
//! recognised on both sides and copied in one piece. The encoding is the same either way (postcard
//! writes bytes as length and bytes), so the two sides need not agree on who takes the short cut.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::Cell;
use core::fmt;
use serde::ser::{Impossible, Serialize, Serializer};
use serde::{Deserialize, ser};

use crate::limited::{Budget, Limited};

/// Why a value could not be written or read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WireError {
    /// The value's encoding is larger than the space for it.
    TooLarge {
        /// Bytes the encoding takes.
        needed: usize,
        /// Bytes there were.
        space: usize,
    },
    /// The value can't be encoded: its `Serialize` failed or uses what the format lacks.
    Unsupported {
        /// What serde or postcard said.
        reason: String,
    },
    /// The bytes are not an encoding of the type.
    Malformed {
        /// What postcard said.
        reason: String,
    },
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::TooLarge { needed, space } => {
                write!(f, "the encoding takes {needed} bytes, but there are {space}")
            }
            WireError::Unsupported { reason } => write!(f, "can't be encoded: {reason}"),
            WireError::Malformed { reason } => write!(f, "can't be decoded: {reason}"),
        }
    }
}

impl core::error::Error for WireError {}

/// Writes a value to the start of `space` and says how many bytes it took.
///
/// # Errors
///
/// [`WireError::TooLarge`] with the size it would take, or [`WireError::Unsupported`].
pub fn encode<T: Serialize + ?Sized>(value: &T, space: &mut [u8]) -> Result<usize, WireError> {
    let available = space.len();
    if let Ok(length) = value.serialize(ByteCopier { space: &mut *space }) {
        return Ok(length);
    }
    match postcard::to_slice(value, space) {
        Ok(used) => Ok(used.len()),
        Err(postcard::Error::SerializeBufferFull) => {
            Err(WireError::TooLarge { needed: encoded_size(value)?, space: available })
        }
        Err(error) => Err(unsupported(error)),
    }
}

/// Bytes that a value's encoding takes.
///
/// # Errors
///
/// [`WireError::Unsupported`].
pub fn encoded_size<T: Serialize + ?Sized>(value: &T) -> Result<usize, WireError> {
    postcard::serialize_with_flavor(value, postcard::ser_flavors::Size::default())
        .map_err(unsupported)
}

fn unsupported(error: postcard::Error) -> WireError {
    WireError::Unsupported { reason: error.to_string() }
}

/// Reads a value from the start of `bytes`; what follows it comes back too.
///
/// Any bytes may come: the work, the stack and the number of elements are bounded by their length.
/// A value may take more memory than its encoding (a `None` of a large type takes a byte to write),
/// so the bound on a message bounds a decoded value only together with its type.
///
/// # Errors
///
/// [`WireError::Malformed`]: not an encoding of the type, nested more than 128 levels deep, or with
/// more elements than bytes.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<(T, &'a [u8]), WireError> {
    // Shared, since the cast copies the reference bit by bit, which Miri allows of no unique one.
    let value: Cell<Option<T>> = Cell::new(None);
    if let Ok(slot) = castaway::cast!(&value, &Cell<Option<Vec<u8>>>) {
        let (borrowed, rest) = postcard::take_from_bytes::<&[u8]>(bytes).map_err(malformed)?;
        slot.set(Some(borrowed.to_vec()));
        if let Some(value) = value.take() {
            return Ok((value, rest));
        }
    }
    decode_limited(bytes, &Budget::of(bytes.len()))
}

/// As [`decode_all`], of a value whose lists and maps may have elements of no more than `room` bytes in all:
/// each counts for as much as its type takes, and for 128 bytes at least, but for single bytes. What a few
/// bytes become is then bounded by that, and not by the type.
///
/// # Errors
///
/// As [`decode_all`], and for elements that take more.
pub fn decode_all_within<'a, T: Deserialize<'a>>(
    bytes: &'a [u8],
    room: usize,
) -> Result<T, WireError> {
    let (value, rest) = decode_limited(bytes, &Budget::within(bytes.len(), room))?;
    end(rest)?;
    Ok(value)
}

fn decode_limited<'a, T: Deserialize<'a>>(
    bytes: &'a [u8],
    budget: &Budget,
) -> Result<(T, &'a [u8]), WireError> {
    let mut deserializer = postcard::Deserializer::from_bytes(bytes);
    let value = T::deserialize(Limited::new(&mut deserializer, budget)).map_err(|error| {
        match budget.refusal() {
            Some(reason) => WireError::Malformed { reason: reason.to_string() },
            None => malformed(error),
        }
    })?;
    let rest = deserializer.finalize().map_err(malformed)?;
    Ok((value, rest))
}

/// Reads a value that takes up all of `bytes`.
///
/// # Errors
///
/// As [`decode`]; bytes that are left over are an error too.
pub fn decode_all<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, WireError> {
    let (value, rest) = decode(bytes)?;
    end(rest)?;
    Ok(value)
}

/// Checks that nothing is left after the last value.
///
/// # Errors
///
/// [`WireError::Malformed`] with the number of bytes that are.
pub fn end(rest: &[u8]) -> Result<(), WireError> {
    match rest.len() {
        0 => Ok(()),
        left => Err(WireError::Malformed { reason: alloc::format!("{left} bytes too many") }),
    }
}

fn malformed(error: postcard::Error) -> WireError {
    WireError::Malformed { reason: error.to_string() }
}

/// A serializer that takes a sequence of bytes and nothing else.
struct ByteCopier<'a> {
    space: &'a mut [u8],
}

/// The value is something other than bytes, or does not fit: take the general way.
#[derive(Debug)]
struct NotBytes;

impl fmt::Display for NotBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not bytes")
    }
}

impl core::error::Error for NotBytes {}

impl ser::Error for NotBytes {
    fn custom<T: fmt::Display>(_: T) -> Self {
        NotBytes
    }
}

impl ByteCopier<'_> {
    /// Writes the length and returns the space for that many bytes after it, with the total.
    fn reserve(&mut self, length: usize) -> Result<(&mut [u8], usize), NotBytes> {
        let prefix = postcard::to_slice(&length, self.space).map_err(|_| NotBytes)?.len();
        let total = prefix.checked_add(length).ok_or(NotBytes)?;
        let bytes = self.space.get_mut(prefix..total).ok_or(NotBytes)?;
        Ok((bytes, total))
    }
}

/// The rest of a `Serializer` that returns `$ok` and refuses what it does not define itself.
macro_rules! refuse_the_rest {
    ($ok:ty) => {
        type Ok = $ok;
        type Error = NotBytes;
        type SerializeSeq = Impossible<$ok, NotBytes>;
        type SerializeTuple = Impossible<$ok, NotBytes>;
        type SerializeTupleStruct = Impossible<$ok, NotBytes>;
        type SerializeTupleVariant = Impossible<$ok, NotBytes>;
        type SerializeMap = Impossible<$ok, NotBytes>;
        type SerializeStruct = Impossible<$ok, NotBytes>;
        type SerializeStructVariant = Impossible<$ok, NotBytes>;

        /// As the format's own serializer says.
        fn is_human_readable(&self) -> bool {
            false
        }

        refuse! { $ok:
            serialize_bool(bool); serialize_i8(i8); serialize_i16(i16); serialize_i32(i32);
            serialize_i64(i64); serialize_u16(u16); serialize_u32(u32); serialize_u64(u64);
            serialize_f32(f32); serialize_f64(f64); serialize_char(char); serialize_str(&str);
            serialize_none(); serialize_unit(); serialize_unit_struct(&'static str);
            serialize_unit_variant(&'static str, u32, &'static str);
        }
        refuse! { Self::SerializeSeq: serialize_seq(Option<usize>); }
        refuse! { Self::SerializeMap: serialize_map(Option<usize>); }
        refuse! { Impossible<$ok, NotBytes>:
            serialize_tuple(usize);
            serialize_tuple_struct(&'static str, usize);
            serialize_tuple_variant(&'static str, u32, &'static str, usize);
            serialize_struct(&'static str, usize);
            serialize_struct_variant(&'static str, u32, &'static str, usize);
        }

        fn collect_str<T: fmt::Display + ?Sized>(self, _: &T) -> Result<$ok, NotBytes> {
            Err(NotBytes)
        }

        fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<$ok, NotBytes> {
            Err(NotBytes)
        }

        fn serialize_newtype_struct<T: Serialize + ?Sized>(
            self,
            _: &'static str,
            _: &T,
        ) -> Result<$ok, NotBytes> {
            Err(NotBytes)
        }

        fn serialize_newtype_variant<T: Serialize + ?Sized>(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: &T,
        ) -> Result<$ok, NotBytes> {
            Err(NotBytes)
        }
    };
}

macro_rules! refuse {
    ($ok:ty: $($method:ident($($argument:ty),*);)*) => {
        $(fn $method(self, $(_: $argument),*) -> Result<$ok, NotBytes> { Err(NotBytes) })*
    };
}

impl Serializer for ByteCopier<'_> {
    refuse_the_rest!(usize);
    refuse! { usize: serialize_u8(u8); }

    fn serialize_bytes(mut self, value: &[u8]) -> Result<usize, NotBytes> {
        let (bytes, total) = self.reserve(value.len())?;
        bytes.copy_from_slice(value);
        Ok(total)
    }

    /// What slices and vectors call. The name of the item's type is only a hint to try: an item
    /// that turns out to be no byte ends the attempt.
    fn collect_seq<I>(mut self, items: I) -> Result<usize, NotBytes>
    where
        I: IntoIterator<Item: Serialize>,
    {
        if core::any::type_name::<I::Item>() != "&u8" {
            return Err(NotBytes);
        }
        let items = items.into_iter();
        let (length, most) = items.size_hint();
        if most != Some(length) {
            return Err(NotBytes);
        }
        let (bytes, total) = self.reserve(length)?;
        for (slot, item) in bytes.iter_mut().zip(items) {
            *slot = item.serialize(OneByte)?;
        }
        Ok(total)
    }
}

/// A serializer that takes one byte.
struct OneByte;

impl Serializer for OneByte {
    refuse_the_rest!(u8);
    refuse! { u8: serialize_bytes(&[u8]); }

    fn serialize_u8(self, value: u8) -> Result<u8, NotBytes> {
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use serde::{Deserialize, Serialize};

    fn bytes_of<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
        let mut space = [0; 256];
        let length = encode(value, &mut space).unwrap();
        space[..length].to_vec()
    }

    #[test]
    fn byte_buffers_take_the_short_cut_and_encode_as_postcard_does() {
        let data: Vec<u8> = (0..200).collect();
        let expected = postcard::to_allocvec(&data).unwrap();
        assert_eq!(bytes_of(&data), expected);
        assert_eq!(bytes_of(&&data[..]), expected);
        let mut space = [0; 256];
        assert!(data.serialize(ByteCopier { space: &mut space }).is_ok());
        assert!(["a"].serialize(ByteCopier { space: &mut space }).is_err());
        assert!(vec![1u16].serialize(ByteCopier { space: &mut space }).is_err());
    }

    #[test]
    fn byte_buffers_decode_to_vectors_and_slices() {
        let encoded = bytes_of(&[7u8; 130][..]);
        assert_eq!(decode_all::<Vec<u8>>(&encoded).unwrap(), vec![7; 130]);
        assert_eq!(decode_all::<&[u8]>(&encoded).unwrap(), &[7; 130]);
        assert_eq!(decode_all::<(Vec<u8>,)>(&encoded).unwrap().0.len(), 130);
    }

    #[test]
    fn a_value_that_does_not_fit_says_what_it_needs() {
        let mut space = [0; 8];
        assert_eq!(
            encode("twelve bytes", &mut space),
            Err(WireError::TooLarge { needed: 13, space: 8 })
        );
        assert_eq!(
            encode(&[0u8; 300][..], &mut space),
            Err(WireError::TooLarge { needed: 302, space: 8 })
        );
    }

    #[derive(Debug, Serialize, Deserialize)]
    struct Tree {
        children: Vec<Tree>,
    }

    #[derive(Debug, Serialize, Deserialize)]
    enum Chain {
        End,
        Link(alloc::boxed::Box<Chain>),
    }

    #[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
    struct Unit;

    #[test]
    fn deep_values_are_refused_before_they_take_the_stack() {
        // Every byte is one child, or one link.
        let deep = vec![1u8; 1 << 20];
        for text in [
            decode_all::<Tree>(&deep).unwrap_err().to_string(),
            decode_all::<Chain>(&deep).unwrap_err().to_string(),
            decode_all::<Option<alloc::boxed::Box<Chain>>>(&deep).unwrap_err().to_string(),
        ] {
            assert!(text.contains("128 levels"), "{text}");
        }
        // A level of the tree is a struct and a sequence.
        let proper = |levels| [vec![1u8; levels], vec![0]].concat();
        assert!(decode_all::<Tree>(&proper(60)).is_ok());
        assert!(decode_all::<Chain>(&proper(120)).is_ok());
    }

    #[test]
    fn more_elements_than_bytes_are_refused() {
        let huge = bytes_of(&(1u64 << 60));
        let text = decode_all::<Vec<()>>(&huge).unwrap_err().to_string();
        assert!(text.contains("more elements"), "{text}");
        assert!(decode_all::<alloc::collections::BTreeSet<Unit>>(&huge).is_err());
        assert!(decode_all::<alloc::collections::BTreeMap<Unit, ()>>(&huge).is_err());
        let nested = [bytes_of(&2u8), huge.clone(), huge.clone()].concat();
        assert!(decode_all::<Vec<Vec<()>>>(&nested).is_err());
        assert_eq!(decode_all::<Vec<()>>(&[100]).unwrap().len(), 100);
        let texts = vec![String::new(); if cfg!(miri) { 200 } else { 5000 }];
        let mut space = vec![0; 6000];
        let length = encode(&texts, &mut space).unwrap();
        assert_eq!(decode_all::<Vec<String>>(&space[..length]).unwrap(), texts);
    }

    #[test]
    fn elements_that_take_more_than_they_may_are_refused() {
        let bytes_within = |count: usize, room| {
            let mut space = vec![0; count + 10];
            let length = encode(&vec![String::new(); count], &mut space).unwrap();
            decode_all_within::<Vec<String>>(&space[..length], room).map(|texts| texts.len())
        };
        assert_eq!(bytes_within(100, 12_800), Ok(100));
        let text = bytes_within(100, 12_799).unwrap_err().to_string();
        assert!(text.contains("more memory"), "{text}");
        // Bytes are no more than there are; keys and values of a map count.
        let mut space = [0; 1100];
        let length = encode(&vec![vec![7u8; 1000]], &mut space).unwrap();
        assert!(decode_all_within::<Vec<Vec<u8>>>(&space[..length], 128).is_ok());
        let map: alloc::collections::BTreeMap<u8, u64> = [(1, 2), (2, 3)].into();
        let length = encode(&map, &mut space).unwrap();
        type Map = alloc::collections::BTreeMap<u8, u64>;
        assert!(decode_all_within::<Map>(&space[..length], 255).is_err());
        assert_eq!(decode_all_within::<Map>(&space[..length], 256), Ok(map));
        assert!(decode_all_within::<(u64, [u64; 4])>(&[1; 5], 0).is_ok());
        assert!(decode_all_within::<(u64, u8)>(&[1; 3], 0).is_err());
    }

    fn survives<T>(value: &T)
    where
        T: Serialize + serde::de::DeserializeOwned + PartialEq + core::fmt::Debug,
    {
        let mut space = vec![0; encoded_size(value).unwrap()];
        let length = encode(value, &mut space).unwrap();
        assert_eq!(decode_all::<T>(&space[..length]).unwrap(), *value);
    }

    #[test]
    fn many_small_elements_are_no_more_than_they_have_bytes() {
        /// Miri takes minutes for as many as there should be.
        const COUNT: u32 = if cfg!(miri) { 100 } else { 20_000 };
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        struct Small {
            a: u8,
            b: bool,
            c: Option<u8>,
            d: [u8; 2],
        }
        survives(&vec![Small { a: 1, b: true, c: None, d: [1, 2] }; COUNT as usize]);
        survives(&vec![(1u8, 2u8); COUNT as usize]);
        survives(&vec![[1u8; 3]; COUNT as usize]);
        survives(&vec![Vec::<u8>::new(); COUNT as usize]);
        survives(&vec![vec![vec![1u8]]; COUNT as usize]);
        survives(&vec![Some(Some(1u8)); COUNT as usize]);
        survives(&vec![alloc::collections::BTreeMap::from([(1u8, 2u8)]); COUNT as usize]);
        survives(&(0..COUNT).map(|n| (n, n)).collect::<alloc::collections::BTreeMap<_, _>>());
    }

    #[test]
    fn types_that_ask_whether_the_format_is_for_people_are_told_the_same_on_both_ways() {
        struct Asks;
        impl Serialize for Asks {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let text = serializer.is_human_readable();
                if text { serializer.serialize_str("x") } else { serializer.serialize_bytes(b"yz") }
            }
        }
        assert_eq!(decode_all::<&[u8]>(&bytes_of(&Asks)).unwrap(), b"yz");
    }

    #[test]
    fn malformed_bytes_are_an_error() {
        assert!(decode_all::<String>(&[5, b'a']).is_err());
        assert!(decode_all::<Vec<u8>>(&[0xff; 10]).is_err());
        assert!(decode_all::<Vec<u64>>(&[0xff, 0xff, 0xff, 0xff, 0x0f, 1]).is_err());
        assert!(decode_all::<bool>(&[2]).is_err());
        assert!(decode_all::<u8>(&[1, 2]).is_err());
    }
}
