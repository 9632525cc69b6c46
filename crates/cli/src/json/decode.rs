//! Postcard to JSON.
//!
//! The bytes are a guest's. A length in them is believed one element at a time, so it allocates
//! nothing; and since elements of no bytes would let a short message claim a long text, those have
//! a budget.

use std::fmt::{self, Write};

use super::{Integer, Type, for_terminals};

/// Values without bytes that any message may have, beyond one for each of its bytes.
const SPARE_EMPTY: usize = 1024;

/// Bytes that are no encoding of their type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Malformed {
    problem: &'static str,
    at: usize,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.problem, self.at)
    }
}

/// The JSON of a value that takes up all of `bytes`.
///
/// # Errors
///
/// [`Malformed`].
pub(crate) fn decode(bytes: &[u8], of: &Type) -> Result<String, Malformed> {
    let empty = bytes.len().saturating_add(SPARE_EMPTY);
    let mut reader = Reader { bytes, at: 0, empty, json: String::new() };
    reader.value(of)?;
    match reader.at == bytes.len() {
        true => Ok(reader.json),
        false => reader.fail("there are bytes after the value"),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// How many values without bytes may still come.
    empty: usize,
    json: String,
}

impl Reader<'_> {
    fn fail<T>(&self, problem: &'static str) -> Result<T, Malformed> {
        Err(Malformed { problem, at: self.at })
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        let Some(byte) = self.bytes.get(self.at) else { return self.fail("the bytes end early") };
        self.at += 1;
        Ok(*byte)
    }

    fn take(&mut self, length: usize) -> Result<&[u8], Malformed> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let Some(end) = end else { return self.fail("the bytes end early") };
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn varint(&mut self, bits: u32) -> Result<u128, Malformed> {
        let mut number = 0;
        let mut shift = 0;
        loop {
            let byte = self.byte()?;
            let part = u128::from(byte & 0x7f);
            if shift >= bits || part >> (bits - shift).min(7) != 0 {
                return self.fail("a number is too large for its type");
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
            shift += 7;
        }
    }

    fn signed(&mut self, bits: u32) -> Result<i128, Malformed> {
        let number = self.varint(bits)?;
        Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }

    fn length(&mut self) -> Result<usize, Malformed> {
        let length = self.varint(64)?;
        usize::try_from(length).or_else(|_| self.fail("a length is too large"))
    }

    fn text(&mut self) -> Result<String, Malformed> {
        let length = self.length()?;
        match str::from_utf8(self.take(length)?) {
            Ok(text) => Ok(text.to_string()),
            Err(_) => self.fail("a text is not UTF-8"),
        }
    }

    /// A text of one character.
    fn character(&mut self) -> Result<String, Malformed> {
        let text = self.text()?;
        if text.chars().count() == 1 { Ok(text) } else { self.fail("a char is not one character") }
    }

    fn flag(&mut self) -> Result<bool, Malformed> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => self.fail("a flag is neither 0 nor 1"),
        }
    }

    fn integer(&mut self, integer: Integer) -> Result<String, Malformed> {
        Ok(match integer {
            Integer::U8 => self.byte()?.to_string(),
            Integer::I8 => self.byte()?.cast_signed().to_string(),
            Integer::U16 => self.varint(16)?.to_string(),
            Integer::U32 => self.varint(32)?.to_string(),
            Integer::U64 => self.varint(64)?.to_string(),
            Integer::U128 => self.varint(128)?.to_string(),
            Integer::I16 => self.signed(16)?.to_string(),
            Integer::I32 => self.signed(32)?.to_string(),
            Integer::I64 => self.signed(64)?.to_string(),
            Integer::I128 => self.signed(128)?.to_string(),
        })
    }

    fn string(&mut self, text: &str) {
        let quoted = serde_json::Value::from(text).to_string();
        self.json.push_str(&for_terminals(&quoted));
    }

    fn empty_value(&mut self) -> Result<(), Malformed> {
        match self.empty.checked_sub(1) {
            Some(left) => self.empty = left,
            None => return self.fail("there are more values than bytes"),
        }
        Ok(())
    }

    fn value(&mut self, of: &Type) -> Result<(), Malformed> {
        match of {
            Type::Bool => {
                let flag = self.flag()?;
                self.json.push_str(if flag { "true" } else { "false" });
            }
            Type::Integer(integer) => {
                let number = self.integer(*integer)?;
                self.json.push_str(&number);
            }
            Type::NonZero(integer) => match self.integer(*integer)? {
                zero if zero == "0" => return self.fail("a number that is not 0 is 0"),
                number => self.json.push_str(&number),
            },
            Type::Float32 => {
                let bytes = self.take(4)?.first_chunk().copied().unwrap_or_default();
                let number = f32::from_le_bytes(bytes);
                self.float(number.is_nan(), number.is_infinite(), number > 0.0, &number);
            }
            Type::Float64 => {
                let bytes = self.take(8)?.first_chunk().copied().unwrap_or_default();
                let number = f64::from_le_bytes(bytes);
                self.float(number.is_nan(), number.is_infinite(), number > 0.0, &number);
            }
            Type::Char => {
                let text = self.character()?;
                self.string(&text);
            }
            Type::Text => {
                let text = self.text()?;
                self.string(&text);
            }
            Type::Duration => {
                let seconds = self.varint(64)?;
                let nanos = self.varint(32)?;
                let _ = write!(self.json, r#"{{"secs":{seconds},"nanos":{nanos}}}"#);
            }
            Type::Option(of) => match self.flag()? {
                true => self.value(of)?,
                false => self.json.push_str("null"),
            },
            Type::Sequence(of) => {
                let length = self.length()?;
                self.list(std::iter::repeat_n(&**of, length))?;
            }
            Type::Map(key, value) => self.map(key, value)?,
            Type::Result(value, error) => self.outcome(value, error)?,
            Type::Tuple(members) if members.is_empty() => {
                self.empty_value()?;
                self.json.push_str("null");
            }
            Type::Tuple(members) => self.list(members.iter())?,
            Type::Array(of, length) => {
                if *length == 0 {
                    self.empty_value()?;
                }
                self.list(std::iter::repeat_n(&**of, *length))?;
            }
        }
        Ok(())
    }

    fn float(
        &mut self,
        is_nan: bool,
        is_infinite: bool,
        is_positive: bool,
        number: &dyn fmt::Debug,
    ) {
        match (is_nan, is_infinite, is_positive) {
            (true, ..) => self.json.push_str(r#""NaN""#),
            (_, true, true) => self.json.push_str(r#""Infinity""#),
            (_, true, false) => self.json.push_str(r#""-Infinity""#),
            // The shortest text that reads as the same number, which is JSON too.
            _ => _ = write!(self.json, "{number:?}"),
        }
    }

    fn list<'t>(&mut self, members: impl Iterator<Item = &'t Type>) -> Result<(), Malformed> {
        self.json.push('[');
        for (index, of) in members.enumerate() {
            if index > 0 {
                self.json.push(',');
            }
            self.value(of)?;
        }
        self.json.push(']');
        Ok(())
    }

    fn map(&mut self, key: &Type, value: &Type) -> Result<(), Malformed> {
        let (open, close) = if key.is_key() { ('{', '}') } else { ('[', ']') };
        let length = self.length()?;
        self.json.push(open);
        for index in 0..length {
            if index > 0 {
                self.json.push(',');
            }
            match key {
                Type::Char | Type::Text => {
                    self.value(key)?;
                    self.json.push(':');
                }
                key if key.is_key() => {
                    self.json.push('"');
                    self.value(key)?;
                    self.json.push_str("\":");
                }
                key => {
                    self.list([key, value].into_iter())?;
                    continue;
                }
            }
            self.value(value)?;
        }
        self.json.push(close);
        Ok(())
    }

    fn outcome(&mut self, value: &Type, error: &Type) -> Result<(), Malformed> {
        let (name, of) = match self.varint(32)? {
            0 => ("Ok", value),
            1 => ("Err", error),
            _ => return self.fail("a result is neither a value nor an error"),
        };
        let _ = write!(self.json, r#"{{"{name}":"#);
        self.value(of)?;
        self.json.push('}');
        Ok(())
    }
}
