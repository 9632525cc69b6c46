//! Values as JSON on one side and as the bytes of a message on the other.
//!
//! The bytes describe nothing: what they mean is the types' business, and the types are what a
//! guest's signature names. So a [`Type`] is made of a name first, which fails for names that don't
//! tell a structure, and then directs both ways: [`encode`] reads JSON and writes postcard, [`decode`]
//! reads postcard, which is a stranger's claim, and writes JSON.
//!
//! JSON here is what `serde_json` makes of the same Rust types, with three additions, because a
//! value must survive the way there and back: floats that JSON has no number for are the texts
//! `"NaN"`, `"Infinity"` and `"-Infinity"`; a map whose keys are no text, number or flag is an array of pairs;
//! and characters that could mislead a terminal are written as escapes.
//!
//! A value nests as deep as its type, and a type as deep as a signature may (32 levels), so both
//! ways are plain recursion.

use std::fmt;

use glowbox_core::escape::misleads;
use glowbox_core::signature::TypeName;

mod decode;
mod encode;
#[cfg(test)]
mod tests;

pub(crate) use decode::decode;
pub(crate) use encode::encode;

/// The structure of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Type {
    Bool,
    Integer(Integer),
    /// An integer that is not 0.
    NonZero(Integer),
    Float32,
    Float64,
    Char,
    Text,
    Duration,
    Option(Box<Type>),
    /// A sequence of any length: vectors, sets.
    Sequence(Box<Type>),
    Map(Box<Type>, Box<Type>),
    /// Value and error.
    Result(Box<Type>, Box<Type>),
    Tuple(Vec<Type>),
    Array(Box<Type>, usize),
}

/// The integer types. `usize` and `isize` travel as 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Integer {
    U8,
    U16,
    U32,
    U64,
    U128,
    I8,
    I16,
    I32,
    I64,
    I128,
}

/// A name that does not say what a value of it consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unknown {
    /// The name.
    pub(crate) name: String,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a guest's file tells a type's name, and for `{}` nothing of what it consists of; call \
             the function from a program that has the type, with glowbox::Sandbox::call",
            self.name
        )
    }
}

impl Type {
    /// The structure behind a name.
    pub(crate) fn of(name: &TypeName) -> Result<Type, Unknown> {
        let unknown = || Unknown { name: name.to_string() };
        let boxed = |of: &TypeName| Type::of(of).map(Box::new);
        match name {
            TypeName::Tuple(members) => {
                Ok(Type::Tuple(members.iter().map(Type::of).collect::<Result<_, _>>()?))
            }
            TypeName::Array(of, length) => {
                let length = length.parse().map_err(|_| unknown())?;
                Ok(Type::Array(boxed(of)?, length))
            }
            TypeName::Path(path, parameters) => match (path.as_str(), &parameters[..]) {
                ("Option", [of]) => Ok(Type::Option(boxed(of)?)),
                ("Vec" | "Set", [of]) => Ok(Type::Sequence(boxed(of)?)),
                ("Map", [key, value]) => Ok(Type::Map(boxed(key)?, boxed(value)?)),
                ("Result", [value, error]) => Ok(Type::Result(boxed(value)?, boxed(error)?)),
                ("NonZero", [of]) => match Type::of(of)? {
                    Type::Integer(integer) => Ok(Type::NonZero(integer)),
                    _ => Err(unknown()),
                },
                (name, []) => Type::simple(name).ok_or_else(unknown),
                _ => Err(unknown()),
            },
        }
    }

    fn simple(name: &str) -> Option<Type> {
        Some(match name {
            "bool" => Type::Bool,
            "char" => Type::Char,
            "String" => Type::Text,
            "f32" => Type::Float32,
            "f64" => Type::Float64,
            "Duration" => Type::Duration,
            "u8" => Type::Integer(Integer::U8),
            "u16" => Type::Integer(Integer::U16),
            "u32" => Type::Integer(Integer::U32),
            "u64" | "usize" => Type::Integer(Integer::U64),
            "u128" => Type::Integer(Integer::U128),
            "i8" => Type::Integer(Integer::I8),
            "i16" => Type::Integer(Integer::I16),
            "i32" => Type::Integer(Integer::I32),
            "i64" | "isize" => Type::Integer(Integer::I64),
            "i128" => Type::Integer(Integer::I128),
            _ => return None,
        })
    }

    /// Whether a map with such keys is a JSON object.
    fn is_key(&self) -> bool {
        matches!(self, Type::Bool | Type::Char | Type::Text | Type::Integer(_) | Type::NonZero(_))
    }
}

/// JSON with every character that could mislead a terminal as an escape. Between the strings of
/// JSON that `serde_json` has written there is none but line ends, which stay.
pub(crate) fn for_terminals(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for character in json.chars() {
        if misleads(character) && character != '\n' {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                shown.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            shown.push(character);
        }
    }
    shown
}
