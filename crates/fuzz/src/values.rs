//! Values of many types out of any bytes: decoded or refused, and what is decoded has one encoding.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use glowbox_abi::wire::{self, WireError};
use serde::{Deserialize, Serialize};
use testing_types::{Everything, MathError, Shape};

#[derive(Debug, Serialize, Deserialize)]
struct Tree {
    children: Vec<Tree>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Chain {
    End,
    Link(Box<Chain>),
}

/// Decodes the bytes as a type that `choice` chooses, as a host and a guest decode messages.
///
/// # Panics
///
/// If what is decoded has not one encoding that means the same.
pub(crate) fn decode(choice: u32, bytes: &[u8]) {
    match choice % 20 {
        0 => whole::<()>(bytes),
        1 => whole::<u64>(bytes),
        2 => whole::<(bool, char, i128, f32)>(bytes),
        3 => whole::<String>(bytes),
        4 => whole::<&str>(bytes),
        5 => whole::<&[u8]>(bytes),
        6 => whole::<Vec<u8>>(bytes),
        7 => whole::<Vec<String>>(bytes),
        8 => whole::<Vec<()>>(bytes),
        9 => whole::<BTreeMap<String, Option<Vec<u8>>>>(bytes),
        10 => whole::<BTreeSet<i64>>(bytes),
        11 => whole::<Everything>(bytes),
        12 => whole::<Vec<Shape>>(bytes),
        13 => whole::<Result<Vec<Shape>, MathError>>(bytes),
        14 => whole::<Tree>(bytes),
        15 => whole::<Chain>(bytes),
        16 => whole::<Vec<Vec<Vec<()>>>>(bytes),
        17 => whole::<(u8, &str, Vec<u8>, [u16; 4])>(bytes),
        18 => whole::<Option<Box<Everything>>>(bytes),
        _ => in_order(bytes),
    }
}

fn whole<'a, T: Serialize + Deserialize<'a>>(bytes: &'a [u8]) {
    match wire::decode_all::<T>(bytes) {
        Ok(value) => one_encoding(&value),
        Err(error) => refused(&error),
    }
}

/// Arguments one after the other, as those of a host function are decoded.
fn in_order(bytes: &[u8]) {
    let decoded = (|| {
        let (first, bytes) = wire::decode::<String>(bytes)?;
        let (second, bytes) = wire::decode::<Vec<u8>>(bytes)?;
        let (third, bytes) = wire::decode::<Option<Shape>>(bytes)?;
        wire::end(bytes)?;
        Ok((first, second, third))
    })();
    match decoded {
        Ok((first, second, third)) => {
            one_encoding(&first);
            one_encoding(&second);
            one_encoding(&third);
        }
        Err(error) => refused(&error),
    }
}

fn refused(error: &WireError) {
    assert!(matches!(error, WireError::Malformed { .. }), "{error}");
    assert!(error.to_string().len() < 500);
}

/// A value's encoding takes what it is said to take, no less, and is that of a value like it.
fn one_encoding<T: Serialize>(value: &T) {
    let size = wire::encoded_size(value).expect("what was decoded can be encoded");
    let mut space = vec![0; size];
    assert_eq!(wire::encode(value, &mut space), Ok(size));
    assert_eq!(postcard::to_allocvec(value).as_deref(), Ok(&space[..]), "it is postcard's");
    if let Some(less) = size.checked_sub(1) {
        let error = wire::encode(value, &mut space[..less]);
        assert_eq!(error, Err(WireError::TooLarge { needed: size, space: less }));
    }
}

/// A value survives the way to bytes and back.
pub(crate) fn survives<T>(value: &T)
where
    T: Serialize + serde::de::DeserializeOwned + PartialEq + Debug,
{
    let mut space = vec![0; wire::encoded_size(value).expect("it can be encoded")];
    wire::encode(value, &mut space).expect("it fits");
    assert_eq!(wire::decode_all::<T>(&space).as_ref(), Ok(value));
}
