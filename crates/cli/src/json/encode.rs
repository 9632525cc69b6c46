//! JSON to postcard.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Integer, Type};

/// Reads one JSON value of a type and appends its encoding to `out`.
///
/// # Errors
///
/// What is wrong and where, by line and column of the text.
pub(crate) fn encode(text: &str, of: &Type, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    Encode { of, out }.deserialize(&mut deserializer)?;
    deserializer.end()
}

/// Appends a number in seven bits a byte, the lowest first.
fn varint(out: &mut Vec<u8>, mut number: u128) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            return out.push(low & 0x7f);
        }
        out.push(low | 0x80);
    }
}

/// Appends a number whose sign stands in its lowest bit.
fn signed(out: &mut Vec<u8>, number: i128) {
    varint(out, (number << 1 ^ number >> 127).cast_unsigned());
}

/// Appends a length and that many elements, which `elements` writes and counts.
fn counted<E>(
    out: &mut Vec<u8>,
    elements: impl FnOnce(&mut Vec<u8>) -> Result<usize, E>,
) -> Result<(), E> {
    let mut inner = Vec::new();
    let count = elements(&mut inner)?;
    varint(out, count as u128);
    out.append(&mut inner);
    Ok(())
}

struct Encode<'a> {
    of: &'a Type,
    out: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Encode<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        let Encode { of, out } = self;
        match of {
            Type::Bool => out.push(bool::deserialize(from)?.into()),
            Type::Integer(integer) => integer.encode(from, out)?,
            Type::NonZero(integer) => {
                let start = out.len();
                integer.encode(from, out)?;
                if out[start..] == [0] {
                    return Err(D::Error::custom("invalid value: 0, expected another number"));
                }
            }
            Type::Float32 => {
                let number = Float::<f32>::read(from, |number| number.is_infinite())?;
                out.extend(number.to_le_bytes());
            }
            Type::Float64 => {
                let number = Float::<f64>::read(from, |number| number.is_infinite())?;
                out.extend(number.to_le_bytes());
            }
            Type::Char => {
                let mut bytes = [0; 4];
                let text = char::deserialize(from)?.encode_utf8(&mut bytes);
                varint(out, text.len() as u128);
                out.extend(text.bytes());
            }
            Type::Text => {
                let text = String::deserialize(from)?;
                varint(out, text.len() as u128);
                out.extend(text.bytes());
            }
            Type::Duration => {
                let time = Duration::deserialize(from)?;
                varint(out, time.as_secs().into());
                varint(out, time.subsec_nanos().into());
            }
            Type::Option(of) => from.deserialize_option(Optional { of, out })?,
            Type::Sequence(of) => from.deserialize_seq(Sequence { of, out })?,
            Type::Map(key, value) if key.is_key() => {
                from.deserialize_map(Map { key, value, out })?
            }
            Type::Map(key, value) => from.deserialize_seq(Pairs { key, value, out })?,
            Type::Result(value, error) => from.deserialize_map(Outcome { value, error, out })?,
            Type::Tuple(members) if members.is_empty() => <()>::deserialize(from)?,
            Type::Tuple(members) => {
                let members = members.iter();
                from.deserialize_seq(Members { members, out })?;
            }
            Type::Array(of, length) => {
                let members = std::iter::repeat_n(&**of, *length);
                from.deserialize_seq(Members { members, out })?;
            }
        }
        Ok(())
    }
}

impl Integer {
    fn encode<'de, D: Deserializer<'de>>(self, from: D, out: &mut Vec<u8>) -> Result<(), D::Error> {
        match self {
            Integer::U8 => out.push(u8::deserialize(from)?),
            Integer::U16 => varint(out, u16::deserialize(from)?.into()),
            Integer::U32 => varint(out, u32::deserialize(from)?.into()),
            Integer::U64 => varint(out, u64::deserialize(from)?.into()),
            Integer::U128 => varint(out, u128::deserialize(from)?),
            Integer::I8 => out.push(i8::deserialize(from)?.cast_unsigned()),
            Integer::I16 => signed(out, i16::deserialize(from)?.into()),
            Integer::I32 => signed(out, i32::deserialize(from)?.into()),
            Integer::I64 => signed(out, i64::deserialize(from)?.into()),
            Integer::I128 => signed(out, i128::deserialize(from)?),
        }
        Ok(())
    }
}

/// A float, from the text that stands there: reading it as an `f64` first would round an `f32`
/// twice.
struct Float<T>(PhantomData<T>);

impl<T: std::str::FromStr> Float<T> {
    fn read<'de, D: Deserializer<'de>>(
        from: D,
        is_infinite: impl Fn(&T) -> bool,
    ) -> Result<T, D::Error> {
        // An owned one: the text of a map's value may not be borrowed.
        let text = Box::<RawValue>::deserialize(from)?;
        let text = text.get();
        let special = ["\"NaN\"", "\"Infinity\"", "\"-Infinity\""].contains(&text);
        let is_number = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
        let wrong = |what| {
            D::Error::custom(format_args!(
                "invalid {what}, expected a float: a number, \"NaN\", \"Infinity\" or \"-Infinity\""
            ))
        };
        if !special && !is_number {
            return Err(wrong("type"));
        }
        let number: T = text.trim_matches('"').parse().map_err(|_| wrong("number"))?;
        if is_infinite(&number) && !special {
            let name = std::any::type_name::<T>();
            return Err(D::Error::custom(format_args!("the number is too large for an {name}")));
        }
        Ok(number)
    }
}

/// The rest of a visitor that says what it expects.
macro_rules! expects {
    ($text:literal) => {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str($text)
        }
    };
}

struct Optional<'a> {
    of: &'a Type,
    out: &'a mut Vec<u8>,
}

impl<'de> Visitor<'de> for Optional<'_> {
    expects!("null or a value");

    fn visit_none<E: Error>(self) -> Result<(), E> {
        self.out.push(0);
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        self.out.push(1);
        Encode { of: self.of, out: self.out }.deserialize(from)
    }
}

struct Sequence<'a> {
    of: &'a Type,
    out: &'a mut Vec<u8>,
}

impl<'de> Visitor<'de> for Sequence<'_> {
    expects!("an array");

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<(), A::Error> {
        counted(self.out, |out| {
            let mut count = 0;
            while from.next_element_seed(Encode { of: self.of, out })?.is_some() {
                count += 1;
            }
            Ok(count)
        })
    }
}

struct Map<'a> {
    key: &'a Type,
    value: &'a Type,
    out: &'a mut Vec<u8>,
}

impl<'de> Visitor<'de> for Map<'_> {
    expects!("an object");

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<(), A::Error> {
        counted(self.out, |out| {
            let mut count = 0;
            while from.next_key_seed(Encode { of: self.key, out })?.is_some() {
                from.next_value_seed(Encode { of: self.value, out })?;
                count += 1;
            }
            Ok(count)
        })
    }
}

/// A map whose keys JSON's objects can't have.
struct Pairs<'a> {
    key: &'a Type,
    value: &'a Type,
    out: &'a mut Vec<u8>,
}

impl<'de> Visitor<'de> for Pairs<'_> {
    expects!("an array of pairs");

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<(), A::Error> {
        counted(self.out, |out| {
            let mut count = 0;
            while from.next_element_seed(Pair { key: self.key, value: self.value, out })?.is_some()
            {
                count += 1;
            }
            Ok(count)
        })
    }
}

struct Pair<'a> {
    key: &'a Type,
    value: &'a Type,
    out: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Pair<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        let members = [self.key, self.value].into_iter();
        from.deserialize_seq(Members { members, out: self.out })
    }
}

/// As many values as there are types.
struct Members<'a, I> {
    members: I,
    out: &'a mut Vec<u8>,
}

impl<'de, 'a, I: ExactSizeIterator<Item = &'a Type>> Visitor<'de> for Members<'a, I> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array of {}", self.members.len())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<(), A::Error> {
        let all = self.members.len();
        for (count, of) in self.members.enumerate() {
            if from.next_element_seed(Encode { of, out: self.out })?.is_none() {
                let expected = format!("an array of {all}");
                return Err(A::Error::invalid_length(count, &expected.as_str()));
            }
        }
        Ok(())
    }
}

struct Outcome<'a> {
    value: &'a Type,
    error: &'a Type,
    out: &'a mut Vec<u8>,
}

impl<'de> Visitor<'de> for Outcome<'_> {
    expects!(r#"{"Ok": value} or {"Err": error}"#);

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<(), A::Error> {
        let (variant, of) = match from.next_key::<String>()?.as_deref() {
            Some("Ok") => (0, self.value),
            Some("Err") => (1, self.error),
            Some(other) => return Err(A::Error::unknown_variant(other, &["Ok", "Err"])),
            None => return Err(A::Error::invalid_length(0, &self)),
        };
        self.out.push(variant);
        from.next_value_seed(Encode { of, out: self.out })?;
        match from.next_key::<String>()? {
            None => Ok(()),
            Some(_) => Err(A::Error::custom(r#"expected one of "Ok" and "Err", found more"#)),
        }
    }
}
