//! How a type is written in a signature.
//!
//! A guest's signatures are computed while it is compiled, so that they stand in its file as plain
//! text. [`Typed`] gives the standard library's types their name as a constant; that sees through
//! aliases (`type Id = u32` is written `u32`). Other types are written as their source text is, by
//! the macros. A host compares only the last segment of a path, so `crate::Order` and
//! `shop::Order` are the same; see `glowbox-core`'s `signature` for the rules.

use alloc::borrow::{Cow, ToOwned};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;

/// A type's name, as a tree that can be built in a constant.
#[derive(Debug, Clone, Copy)]
pub enum Type {
    /// A name without parameters.
    Named(&'static str),
    /// A name with parameters.
    Generic(&'static str, &'static [&'static Type]),
    /// A tuple; `()` is the empty one.
    Tuple(&'static [&'static Type]),
    /// An array of fixed length.
    Array(&'static Type, usize),
}

/// A type whose name in signatures is known from the type itself.
pub trait Typed {
    /// The type's name.
    const TYPE: &'static Type;
}

macro_rules! named {
    ($($type:ty => $name:literal),* $(,)?) => {
        $(impl Typed for $type { const TYPE: &'static Type = &Type::Named($name); })*
    };
}

named! {
    u8 => "u8", u16 => "u16", u32 => "u32", u64 => "u64", u128 => "u128", usize => "usize",
    i8 => "i8", i16 => "i16", i32 => "i32", i64 => "i64", i128 => "i128", isize => "isize",
    f32 => "f32", f64 => "f64", bool => "bool", char => "char", str => "String", String => "String",
}

macro_rules! transparent {
    ($($type:ty),*) => {
        $(impl<T: Typed + ?Sized> Typed for $type { const TYPE: &'static Type = T::TYPE; })*
    };
}

transparent!(&T, &mut T, Box<T>);

macro_rules! non_zero {
    ($($type:ty),*) => {
        $(impl Typed for core::num::NonZero<$type> {
            const TYPE: &'static Type = &Type::Generic("NonZero", &[<$type>::TYPE]);
        })*
    };
}

non_zero!(u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize);

impl<T: Typed + ToOwned + ?Sized> Typed for Cow<'_, T> {
    const TYPE: &'static Type = T::TYPE;
}

macro_rules! generic {
    ($($type:ty => $name:literal [$($param:ident),*]),* $(,)?) => {
        $(impl<$($param: Typed),*> Typed for $type {
            const TYPE: &'static Type = &Type::Generic($name, &[$($param::TYPE),*]);
        })*
    };
}

generic! {
    Option<T> => "Option" [T],
    Result<T, E> => "Result" [T, E],
    Vec<T> => "Vec" [T],
    [T] => "Vec" [T],
    VecDeque<T> => "Vec" [T],
    BTreeMap<K, V> => "Map" [K, V],
    BTreeSet<T> => "Set" [T],
}

#[cfg(feature = "std")]
mod with_std {
    use std::collections::{HashMap, HashSet};

    use super::{Type, Typed};

    impl<K: Typed, V: Typed, S> Typed for HashMap<K, V, S> {
        const TYPE: &'static Type = &Type::Generic("Map", &[K::TYPE, V::TYPE]);
    }

    impl<T: Typed, S> Typed for HashSet<T, S> {
        const TYPE: &'static Type = &Type::Generic("Set", &[T::TYPE]);
    }
}

impl<T: Typed, const N: usize> Typed for [T; N] {
    const TYPE: &'static Type = &Type::Array(T::TYPE, N);
}

macro_rules! tuples {
    ($($($param:ident)*;)*) => {
        $(impl<$($param: Typed),*> Typed for ($($param,)*) {
            const TYPE: &'static Type = &Type::Tuple(&[$($param::TYPE),*]);
        })*
    };
}

tuples! {
    ;
    A; A B; A B C; A B C D; A B C D E; A B C D E F; A B C D E F G; A B C D E F G H;
    A B C D E F G H I; A B C D E F G H I J; A B C D E F G H I J K; A B C D E F G H I J K L;
}

/// A part of a signature's text.
#[derive(Debug, Clone, Copy)]
pub enum Piece {
    /// Text as it stands.
    Text(&'static str),
    /// A type's name.
    Type(&'static Type),
}

/// Bytes that [`render`] needs for these pieces.
pub const fn measure(pieces: &[Piece]) -> usize {
    let mut sink = Sink::<0> { bytes: [], length: 0 };
    sink.pieces(pieces);
    sink.length
}

/// The text of these pieces; `N` is what [`measure`] says.
pub const fn render<const N: usize>(pieces: &[Piece]) -> [u8; N] {
    let mut sink = Sink::<N> { bytes: [0; N], length: 0 };
    sink.pieces(pieces);
    assert!(sink.length == N, "render needs the length that measure gives");
    sink.bytes
}

/// Takes text byte by byte and keeps what fits, so that one walk both measures and renders.
struct Sink<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Sink<N> {
    const fn pieces(&mut self, pieces: &[Piece]) {
        let mut at = 0;
        while at < pieces.len() {
            match pieces[at] {
                Piece::Text(text) => self.text(text),
                Piece::Type(of) => self.r#type(of),
            }
            at += 1;
        }
    }

    const fn text(&mut self, text: &str) {
        let bytes = text.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            self.byte(bytes[at]);
            at += 1;
        }
    }

    const fn byte(&mut self, byte: u8) {
        if self.length < N {
            self.bytes[self.length] = byte;
        }
        self.length += 1;
    }

    const fn r#type(&mut self, of: &Type) {
        match of {
            Type::Named(name) => self.text(name),
            Type::Generic(name, parameters) => {
                self.text(name);
                self.list("<", parameters, ">");
            }
            Type::Tuple(members) => self.list("(", members, ")"),
            Type::Array(of, length) => {
                self.text("[");
                self.r#type(of);
                self.text("; ");
                self.number(*length);
                self.text("]");
            }
        }
    }

    const fn list(&mut self, open: &str, types: &[&Type], close: &str) {
        self.text(open);
        let mut at = 0;
        while at < types.len() {
            if at > 0 {
                self.text(", ");
            }
            self.r#type(types[at]);
            at += 1;
        }
        self.text(close);
    }

    const fn number(&mut self, number: usize) {
        if number >= 10 {
            self.number(number / 10);
        }
        self.byte(b"0123456789"[number % 10]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text<T: Typed + ?Sized, const N: usize>() -> [u8; N] {
        render(&[Piece::Type(T::TYPE)])
    }

    #[test]
    fn names_see_through_aliases_references_and_boxes() {
        type Id = u32;
        assert_eq!(&text::<Vec<Option<Id>>, 16>(), b"Vec<Option<u32>>");
        assert_eq!(&text::<&str, 6>(), b"String");
        assert_eq!(&text::<Box<[u8]>, 7>(), b"Vec<u8>");
        assert_eq!(&text::<(u8, [i64; 120], ()), 20>(), b"(u8, [i64; 120], ())");
    }

    #[test]
    fn a_rendered_signature_has_the_measured_length() {
        const PIECES: &[Piece] =
            &[Piece::Text("(name: "), Piece::Type(<&str>::TYPE), Piece::Text(") -> ()")];
        assert_eq!(&render::<{ measure(PIECES) }>(PIECES), b"(name: String) -> ()");
    }
}
