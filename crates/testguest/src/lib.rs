//! Guests made by hand, for tests: ELF files from segments, function records and machine code.
//!
//! Compilers make proper guests. Tests also need improper ones: overlapping segments, relocations
//! that point nowhere, instructions that no compiler emits. [`GuestFile`] writes what it is told,
//! right or wrong.
//!
//! ```
//! use glowbox_testguest::GuestFile;
//!
//! // A guest that executes `hlt` as soon as it starts.
//! let bytes = GuestFile::of_code(&[0xf4]).to_bytes();
//! assert!(bytes.starts_with(b"\x7fELF"));
//! ```

#![forbid(unsafe_code)]

use glowbox_abi::ABI_VERSION;
use glowbox_abi::record::{EXPORTS, IMPORTS, MAGIC};

/// Segment flag: executable.
pub const X: u32 = 1;
/// Segment flag: writable.
pub const W: u32 = 2;
/// Segment flag: readable.
pub const R: u32 = 4;

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const SECTION_HEADER: usize = 64;

/// A loaded segment.
#[derive(Debug, Clone)]
pub struct Segment {
    /// `p_vaddr`.
    pub address: u64,
    /// `p_flags`.
    pub flags: u32,
    /// Its bytes in the file.
    pub bytes: Vec<u8>,
    /// `p_memsz`.
    pub size: u64,
}

impl Segment {
    /// A segment all of whose bytes are in the file.
    pub fn of(address: u64, flags: u32, bytes: Vec<u8>) -> Segment {
        Segment { address, flags, size: bytes.len() as u64, bytes }
    }
}

/// A function record in the file.
#[derive(Debug, Clone)]
pub struct Record {
    /// The record's kind: 1 ABI version, 2 function, 3 main, 4 import, 5 ABI version of a std guest.
    pub kind: u32,
    /// The record's value: the ABI version.
    pub value: u32,
    /// Name.
    pub name: String,
    /// Signature.
    pub signature: String,
}

/// A file in the making.
#[derive(Debug, Clone)]
pub struct GuestFile {
    /// `e_type`: 2 (fixed address) or 3 (position-independent).
    pub file_type: u16,
    /// `e_entry`.
    pub entry: u64,
    /// Loaded segments.
    pub segments: Vec<Segment>,
    /// Further program headers: type, `p_vaddr`, `p_offset`, size.
    pub extra_headers: Vec<(u32, u64, u64, u64)>,
    /// Relocations: type, `r_offset`, addend. They are put into a segment of their own.
    pub relocations: Vec<(u32, u64, i64)>,
    /// Records of the export section; `None` leaves the section out.
    pub exports: Option<Vec<Record>>,
    /// Records of the import section; `None` leaves the section out.
    pub imports: Option<Vec<Record>>,
}

/// Where [`GuestFile::of_code`] puts its code.
pub const CODE: u64 = 0x1000;
/// Where [`GuestFile::of_code`] puts 4 KiB of data.
pub const DATA: u64 = 0x2000;
/// Where relocation tables are put.
pub const RELOCATIONS: u64 = 0x8000;

impl Record {
    /// The record that says which ABI version a guest was built against.
    pub fn abi(version: u32) -> Record {
        Record { kind: 1, value: version, name: String::new(), signature: String::new() }
    }

    /// The same of a guest that brings the standard library.
    pub fn abi_std(version: u32) -> Record {
        Record { kind: 5, ..Record::abi(version) }
    }

    /// A function that the guest offers.
    pub fn function(name: &str, signature: &str) -> Record {
        Record { kind: 2, value: 0, name: name.into(), signature: signature.into() }
    }

    /// A host function that the guest asks for.
    pub fn import(name: &str, signature: &str) -> Record {
        Record { kind: 4, ..Record::function(name, signature) }
    }

    /// The record's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let text = self.name.len() + self.signature.len();
        let size = (32 + text).next_multiple_of(8);
        let mut bytes = vec![0; 8];
        for word in [MAGIC, word(size), self.kind, self.value] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(word(self.name.len()).to_le_bytes());
        bytes.extend(word(text).to_le_bytes());
        bytes.extend(self.name.bytes().chain(self.signature.bytes()));
        bytes.resize(size, 0);
        bytes
    }
}

impl GuestFile {
    /// A position-independent guest of one code and one data page, with the ABI records and no
    /// functions, that starts at the first byte of `code`.
    pub fn of_code(code: &[u8]) -> GuestFile {
        let segment = |address, flags, bytes: &[u8]| Segment {
            address,
            flags,
            bytes: bytes.to_vec(),
            size: bytes.len().max(1) as u64,
        };
        GuestFile {
            file_type: 3,
            entry: CODE,
            segments: vec![segment(CODE, R | X, code), segment(DATA, R | W, &[0; 4096])],
            extra_headers: Vec::new(),
            relocations: Vec::new(),
            exports: Some(vec![Record::abi(ABI_VERSION)]),
            imports: Some(vec![Record::abi(ABI_VERSION)]),
        }
    }

    /// An ordinary Linux program of one code page and one data page, that starts at the first byte of
    /// `code`.
    pub fn program(code: &[u8]) -> GuestFile {
        GuestFile { exports: None, imports: None, ..GuestFile::of_code(code) }
    }

    /// The same file as a guest that brings the standard library.
    #[must_use]
    pub fn with_std(mut self) -> GuestFile {
        for record in self.exports.iter_mut().chain(&mut self.imports).flatten() {
            if record.kind == 1 {
                record.kind = 5;
            }
        }
        self
    }

    /// The file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut segments = self.segments.clone();
        let mut extra = self.extra_headers.clone();
        let table = self.relocation_table();
        if !table.is_empty() {
            let dynamic = dynamic_section(table.len());
            let mut bytes = table.clone();
            bytes.extend(&dynamic);
            let size = bytes.len() as u64;
            segments.push(Segment { address: RELOCATIONS, flags: R, bytes, size });
        }
        let dynamic_header = usize::from(!table.is_empty());
        let header_count = segments.len() + extra.len() + dynamic_header;
        let mut at = HEADER + header_count * PROGRAM_HEADER;
        let mut headers = Vec::new();
        let mut body = Vec::new();
        for segment in &segments {
            let size = segment.bytes.len() as u64;
            headers.extend(program_header(1, segment.flags, at as u64, segment, size));
            if segment.address == RELOCATIONS && !table.is_empty() {
                let offset = (at + table.len()) as u64;
                let length = size - table.len() as u64;
                extra.push((2, RELOCATIONS + table.len() as u64, offset, length));
            }
            body.extend(&segment.bytes);
            at += segment.bytes.len();
        }
        for (kind, address, offset, size) in extra {
            let segment = Segment { address, flags: R, bytes: Vec::new(), size };
            headers.extend(program_header(kind, R, offset, &segment, size));
        }
        let (sections, names) = self.sections(&mut body, at);
        let section_offset = HEADER + headers.len() + body.len();
        let mut file = self.file_header(header_count, section_offset, sections.len(), names);
        file.extend(headers);
        file.extend(body);
        file.extend(sections.concat());
        file
    }

    fn relocation_table(&self) -> Vec<u8> {
        let entries = self.relocations.iter();
        entries
            .flat_map(|(kind, offset, addend)| {
                [offset.to_le_bytes(), u64::from(*kind).to_le_bytes(), addend.to_le_bytes()]
            })
            .flatten()
            .collect()
    }

    /// Appends the sections' contents to `body`; returns their headers and the number of the one
    /// that holds their names.
    fn sections(&self, body: &mut Vec<u8>, mut at: usize) -> (Vec<Vec<u8>>, usize) {
        let mut names = vec![0];
        let mut headers = vec![vec![0; SECTION_HEADER]];
        let mut add = |name: &str, kind: u32, bytes: &[u8], names: &mut Vec<u8>| {
            let name_offset = names.len();
            names.extend(name.bytes().chain([0]));
            let bytes = if name == ".shstrtab" { names.clone() } else { bytes.to_vec() };
            headers.push(section_header(name_offset, kind, at, bytes.len()));
            at += bytes.len();
            body.extend(bytes);
        };
        for (name, records) in [(EXPORTS, &self.exports), (IMPORTS, &self.imports)] {
            if let Some(records) = records {
                let bytes: Vec<u8> = records.iter().flat_map(Record::to_bytes).collect();
                add(name, 1, &bytes, &mut names);
            }
        }
        add(".shstrtab", 3, &[], &mut names);
        let last = headers.len() - 1;
        (headers, last)
    }

    fn file_header(
        &self,
        headers: usize,
        sections_at: usize,
        count: usize,
        names: usize,
    ) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        for half in [self.file_type, 62] {
            file.extend(half.to_le_bytes());
        }
        file.extend(1u32.to_le_bytes());
        for long in [self.entry, HEADER as u64, sections_at as u64] {
            file.extend(long.to_le_bytes());
        }
        file.extend(0u32.to_le_bytes());
        for half in [HEADER, PROGRAM_HEADER, headers, SECTION_HEADER, count, names] {
            file.extend(u16::try_from(half).expect("test files are small").to_le_bytes());
        }
        file
    }
}

fn word(value: usize) -> u32 {
    u32::try_from(value).expect("test files are small")
}

fn program_header(kind: u32, flags: u32, offset: u64, segment: &Segment, size: u64) -> Vec<u8> {
    let mut bytes = [kind.to_le_bytes(), flags.to_le_bytes()].concat();
    for long in [offset, segment.address, segment.address, size, segment.size, 4096] {
        bytes.extend(long.to_le_bytes());
    }
    bytes
}

fn section_header(name: usize, kind: u32, offset: usize, size: usize) -> Vec<u8> {
    let mut bytes = [word(name).to_le_bytes(), kind.to_le_bytes()].concat();
    for long in [0, 0, offset as u64, size as u64] {
        bytes.extend(long.to_le_bytes());
    }
    bytes.resize(SECTION_HEADER, 0);
    bytes
}

/// DT_RELA, DT_RELASZ, DT_RELAENT, DT_NULL.
fn dynamic_section(table: usize) -> Vec<u8> {
    let entries = [(7, RELOCATIONS), (8, table as u64), (9, 24), (0, 0)];
    entries
        .iter()
        .flat_map(|(tag, value): &(u64, u64)| [tag.to_le_bytes(), value.to_le_bytes()].concat())
        .collect()
}
