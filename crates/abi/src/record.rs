//! Function records: how a guest's functions stand in its ELF file.
//!
//! Every `#[guest_function]` puts one [`Record`] into the section [`EXPORTS`], every
//! `#[host_function]` one into [`IMPORTS`]; the guest library adds one [`Kind::Abi`] (or
//! [`Kind::AbiStd`]) record to each. A record carries its own text, so a host reads names and signatures from the file without
//! running or relocating anything. A function is known by the offset of its record in the section:
//! the host resolves a name to an offset once, and the guest finds the handler there without a
//! table or a search.
//!
//! Both section names are C identifiers because linkers define `__start_` and `__stop_` symbols
//! for such sections, which is how the guest finds its own.

use core::fmt;

/// Section of the functions the guest offers.
pub const EXPORTS: &str = "glowbox_exports";
/// Section of the host functions the guest asks for.
pub const IMPORTS: &str = "glowbox_imports";

/// First bytes of every record after its handler.
pub const MAGIC: u32 = 0x5842_4c47;
/// Bytes before a record's text.
const HEADER_SIZE: usize = 32;
/// Records start at multiples of this.
const ALIGN: usize = 8;

/// What a record describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// The ABI version the guest was built against, in the record's `value`.
    Abi = 1,
    /// A function that the host may call.
    Function = 2,
    /// The function that runs once at start-up.
    Main = 3,
    /// A host function that the guest calls.
    Import = 4,
    /// As [`Kind::Abi`], in a guest that brings the standard library: a Linux program, which starts
    /// and relocates itself and makes system calls.
    AbiStd = 5,
}

impl Kind {
    fn from_number(number: u32) -> Option<Kind> {
        [Kind::Abi, Kind::Function, Kind::Main, Kind::Import, Kind::AbiStd]
            .into_iter()
            .find(|kind| *kind as u32 == number)
    }
}

/// One record, as the guest's macros build it. `H` is the handler's pointer type, `N` the bytes
/// of text.
#[repr(C, align(8))]
pub struct Record<H, const N: usize> {
    /// What the guest runs; the host never looks at it.
    pub handler: H,
    magic: u32,
    size: u32,
    kind: u32,
    value: u32,
    name_length: u32,
    text_length: u32,
    text: [u8; N],
}

impl<H: Copy, const N: usize> Record<H, N> {
    /// Builds a record whose text is a name followed by a signature.
    ///
    /// # Panics
    ///
    /// While compiling, if the handler is not one pointer in size or the text is over 4 GiB.
    #[allow(clippy::cast_possible_truncation, reason = "checked by the asserts")]
    pub const fn new(
        kind: Kind,
        handler: H,
        value: u32,
        name_length: usize,
        text: [u8; N],
    ) -> Self {
        assert!(size_of::<H>() == 8, "a handler is one pointer");
        assert!(size_of::<Self>() <= u32::MAX as usize, "a record's text is too long");
        assert!(name_length <= N, "a name is part of the text");
        Record {
            handler,
            magic: MAGIC,
            size: size_of::<Self>() as u32,
            kind: kind as u32,
            value,
            name_length: name_length as u32,
            text_length: N as u32,
            text,
        }
    }
}

impl<H, const N: usize> Record<H, N> {
    /// Bytes from this record to the next.
    pub const fn size(&self) -> usize {
        self.size as usize
    }

    /// The number of its [`Kind`].
    pub const fn kind(&self) -> u32 {
        self.kind
    }
}

/// A record as a host finds it in a file: checked, and borrowed from the section's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// Where the record starts in its section: the function's number.
    pub offset: u32,
    /// What it describes.
    pub kind: Kind,
    /// The ABI version in a [`Kind::Abi`] or [`Kind::AbiStd`] record, otherwise 0.
    pub value: u32,
    /// The function's name.
    pub name: &'a str,
    /// The function's signature, such as `(name: String) -> String`.
    pub signature: &'a str,
}

/// Why a section's bytes are not records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordError {
    /// The bytes end within a record.
    Truncated {
        /// Offset of the record.
        offset: usize,
    },
    /// A field holds a value it can't hold.
    Field {
        /// Offset of the record.
        offset: usize,
        /// The field's name.
        field: &'static str,
        /// What stands there.
        value: u32,
    },
    /// A name or signature is not UTF-8, or a name is empty or has control characters.
    Text {
        /// Offset of the record.
        offset: usize,
    },
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordError::Truncated { offset } => {
                write!(f, "the record at offset {offset:#x} is cut off")
            }
            RecordError::Field { offset, field, value } => {
                write!(f, "the record at offset {offset:#x} has `{field}` = {value:#x}")
            }
            RecordError::Text { offset } => {
                write!(
                    f,
                    "the record at offset {offset:#x} has a name or signature that is no text"
                )
            }
        }
    }
}

impl core::error::Error for RecordError {}

/// Iterates over the records in a section's bytes, which may be anything.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    section: &'a [u8],
    offset: usize,
}

impl<'a> Records<'a> {
    /// Starts at the section's first record.
    pub fn new(section: &'a [u8]) -> Self {
        Records { section, offset: 0 }
    }

    fn parse(&self) -> Result<(RecordView<'a>, usize), RecordError> {
        let offset = self.offset;
        let bytes = &self.section[offset..];
        let header: &[u8; HEADER_SIZE] =
            bytes.first_chunk().ok_or(RecordError::Truncated { offset })?;
        let word = |index: usize| {
            let at = 8 + index * 4;
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let field = |field, value| RecordError::Field { offset, field, value };
        let [magic, size, kind, value, name_length, text_length] =
            [word(0), word(1), word(2), word(3), word(4), word(5)];
        if magic != MAGIC {
            return Err(field("magic", magic));
        }
        let record_size = size as usize;
        if record_size < HEADER_SIZE || !record_size.is_multiple_of(ALIGN) {
            return Err(field("size", size));
        }
        let record = bytes.get(..record_size).ok_or(RecordError::Truncated { offset })?;
        let kind = Kind::from_number(kind).ok_or(field("kind", kind))?;
        let text = record[HEADER_SIZE..]
            .get(..text_length as usize)
            .ok_or(field("text_length", text_length))?;
        let (name, signature) =
            text.split_at_checked(name_length as usize).ok_or(field("name_length", name_length))?;
        let as_text = |bytes| core::str::from_utf8(bytes).map_err(|_| RecordError::Text { offset });
        let (name, signature) = (as_text(name)?, as_text(signature)?);
        let nameless = name.is_empty() && matches!(kind, Kind::Function | Kind::Import);
        if nameless || name.chars().chain(signature.chars()).any(char::is_control) {
            return Err(RecordError::Text { offset });
        }
        let number = u32::try_from(offset).map_err(|_| field("offset", u32::MAX))?;
        Ok((RecordView { offset: number, kind, value, name, signature }, record_size))
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RecordView<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.offset >= self.section.len() {
            return None;
        }
        let parsed = self.parse();
        self.offset = match &parsed {
            Ok((_, size)) => self.offset + size,
            Err(_) => self.section.len(),
        };
        Some(parsed.map(|(view, _)| view))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn section() -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, name, signature) in
            [(Kind::Abi, "", ""), (Kind::Function, "greet", "(name: String) -> String")]
        {
            let text = name.len() + signature.len();
            let size = (HEADER_SIZE + text).next_multiple_of(ALIGN);
            bytes.extend(0u64.to_le_bytes());
            for word in [MAGIC, u32::try_from(size).unwrap(), kind as u32, 1] {
                bytes.extend(word.to_le_bytes());
            }
            bytes.extend(u32::try_from(name.len()).unwrap().to_le_bytes());
            bytes.extend(u32::try_from(text).unwrap().to_le_bytes());
            bytes.extend(name.bytes().chain(signature.bytes()));
            bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
        }
        bytes
    }

    #[test]
    fn records_are_read_with_name_signature_and_offset() {
        let section = section();
        let records: Vec<_> = Records::new(&section).map(Result::unwrap).collect();
        assert_eq!(records.len(), 2);
        assert_eq!((records[0].kind, records[0].value), (Kind::Abi, 1));
        assert_eq!((records[1].name, records[1].offset), ("greet", 32));
        assert_eq!(records[1].signature, "(name: String) -> String");
    }

    #[test]
    fn every_truncation_is_an_error_or_fewer_records() {
        let section = section();
        for length in 0..section.len() {
            let parsed: Result<Vec<_>, _> = Records::new(&section[..length]).collect();
            assert_eq!(parsed.is_ok(), length == 0 || length == 32, "{length} bytes");
        }
    }

    #[test]
    fn every_altered_header_byte_is_survived() {
        let section = section();
        for at in 0..section.len() {
            for value in [0, 1, 7, 0x7f, 0x80, 0xff] {
                let mut altered = section.clone();
                altered[at] = value;
                let _ = Records::new(&altered).count();
            }
        }
    }
}
