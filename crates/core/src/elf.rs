//! A guest's file, checked once and for all.
//!
//! [`Program::parse`] takes any bytes and gives either a program that can be laid out, relocated
//! and started without a further check, or an error that names the field at fault. It allocates in
//! proportion to the number of program headers and functions, never to a size that the file claims.
//!
//! A guest is a static or static-PIE x86-64 executable, of one of two kinds ([`Personality`]).
//!
//! A `no_std` guest is relocated by the host before it starts, and only the kind of relocation that
//! a static PIE has (base plus addend) is accepted; so the pages that relocation writes and the
//! guest must not (RELRO) are read-only from the first instruction on, and no right ever has to be
//! taken away.
//!
//! A guest with the standard library, and any other static program, is a Linux program: its C
//! library relocates it, sets up thread-local storage and asks for RELRO by `mprotect`. The host
//! only loads its segments, so what else its headers say is its own business.

use std::ops::Range;
use std::sync::Arc;

use object::LittleEndian as LE;
use object::elf::{self, FileHeader64, ProgramHeader64};
use object::read::elf::ProgramHeader;

use crate::address::{PAGE_SIZE, Protection};
use crate::signature::Signature;

mod error;
mod functions;
mod relocation;
#[cfg(test)]
pub(crate) mod tests;

pub use error::ElfError;
use functions::{Functions, functions};
use relocation::{rela_entries, relocations, relro};

/// Most bytes from a program's lowest to its highest address.
pub const MAX_IMAGE_SIZE: u64 = 256 << 20;
/// Most segments of a program. Real ones have four to eight; the number bounds the work that a
/// hostile file can cause.
pub const MAX_SEGMENTS: usize = 64;
/// Lowest address a program may use; everything below faults as a null dereference.
pub const MIN_ADDRESS: u64 = 64 << 10;
/// End of the addresses that a program at a fixed place may use.
pub const MAX_ADDRESS: u64 = 4 << 30;

/// A part of the program that is loaded, with one protection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Address of the first byte, before the load base is added.
    pub address: u64,
    /// Bytes in memory; those beyond the file's are zero.
    pub size: u64,
    /// Where its bytes stand in the file.
    pub file: Range<usize>,
    /// What the guest may do with it.
    pub protection: Protection,
}

impl Segment {
    fn end(&self) -> u64 {
        self.address + self.size
    }

    /// The pages it touches, as addresses of the first and of the end of the last.
    pub fn pages(&self) -> Range<u64> {
        self.address & !(PAGE_SIZE - 1)..self.end().next_multiple_of(PAGE_SIZE)
    }
}

/// A function that the guest offers or asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Its parameters and result.
    pub signature: Signature,
    /// Its number: the offset of its record in its section.
    pub number: u32,
}

/// What a program takes for granted of whoever runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Personality {
    /// A `no_std` guest: the host relocates it, and it makes no system calls.
    Glowbox,
    /// A Linux program, with functions for the host (a guest with the standard library) or without
    /// (any static executable): it starts as the C library does, and makes Linux system calls.
    Linux,
}

/// A checked guest program.
#[derive(Debug, Clone)]
pub struct Program {
    bytes: Arc<[u8]>,
    personality: Personality,
    library: bool,
    entry: u64,
    relocatable: bool,
    segments: Vec<Segment>,
    relro: Option<Range<u64>>,
    relocations: Range<usize>,
    exports: Vec<Function>,
    imports: Vec<Function>,
    headers: Option<(u64, u16)>,
}

impl Program {
    /// Checks a file's bytes.
    ///
    /// # Errors
    ///
    /// [`ElfError`], naming the field.
    pub fn parse(bytes: Arc<[u8]>) -> Result<Program, ElfError> {
        let file = &bytes[..];
        let header = file_header(file)?;
        let relocatable = header.e_type.get(LE) == elf::ET_DYN;
        let headers = program_headers(header, file)?;
        let segments = segments(headers, file.len(), relocatable)?;
        let Functions { exports, imports, personality, library } = functions(header, file)?;
        refuse_unsupported(headers, file, personality)?;
        let entry = header.e_entry.get(LE);
        let in_code = |segment: &&Segment| {
            segment.protection == Protection::ReadExecute
                && (segment.address..segment.end()).contains(&entry)
        };
        segments.iter().find(in_code).ok_or(ElfError::Entry { found: entry })?;
        let relro = match personality {
            Personality::Glowbox => relro(headers, &segments)?,
            Personality::Linux => None,
        };
        let relocations = relocations(headers, file, &segments, personality)?;
        let headers = headers_address(header, &segments);
        Ok(Program {
            personality,
            library,
            entry,
            relocatable,
            segments,
            relro,
            relocations,
            exports,
            imports,
            headers,
            bytes,
        })
    }

    /// Whether it was built with the guest library, and says when it is ready to be called.
    pub fn is_library(&self) -> bool {
        self.library
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What it takes for granted.
    pub fn personality(&self) -> Personality {
        self.personality
    }

    /// Entry point, before the load base is added.
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// Whether it can be loaded anywhere.
    pub fn is_relocatable(&self) -> bool {
        self.relocatable
    }

    /// What is loaded, by ascending address; no two share a page.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Pages that are read-only for the guest from the start, though their segment is writable. A
    /// Linux program has none: it asks for that itself, once it has written to them.
    pub fn relro(&self) -> Option<Range<u64>> {
        self.relro.clone()
    }

    /// Functions the guest offers.
    pub fn exports(&self) -> &[Function] {
        &self.exports
    }

    /// Host functions the guest asks for. One that is declared in several places stands here as
    /// often, under as many numbers.
    pub fn imports(&self) -> &[Function] {
        &self.imports
    }

    /// Address (before the base is added) and number of the program headers, if they are loaded.
    pub fn headers(&self) -> Option<(u64, u16)> {
        self.headers
    }

    /// The pages from its lowest to its highest address.
    pub fn extent(&self) -> Range<u64> {
        let first = self.segments.first().map_or(0, |segment| segment.pages().start);
        let last = self.segments.last().map_or(0, |segment| segment.pages().end);
        first..last
    }

    /// The relocations that the host applies: where an eight-byte value is to be written (before
    /// the base is added), and the addend. A Linux program's are its own affair, and not among them.
    pub fn relocations(&self) -> impl Iterator<Item = (u64, i64)> + '_ {
        rela_entries(&self.bytes[self.relocations.clone()])
            .map(|rela| (rela.r_offset.get(LE), rela.r_addend.get(LE)))
    }
}

fn truncated(field: impl Into<String>, end: u64, file: &[u8]) -> ElfError {
    ElfError::Truncated { field: field.into(), end, size: file.len() }
}

fn field(field: impl Into<String>, found: u64, problem: &'static str) -> ElfError {
    ElfError::Field { field: field.into(), found, problem }
}

/// The bytes `offset..offset + length` of the file.
fn part<'a>(file: &'a [u8], offset: u64, length: u64, name: &str) -> Result<&'a [u8], ElfError> {
    let end = offset.checked_add(length).ok_or(field(name, offset, "it wraps"))?;
    let range = usize::try_from(offset).ok().zip(usize::try_from(end).ok());
    range.and_then(|(start, end)| file.get(start..end)).ok_or_else(|| truncated(name, end, file))
}

/// Bytes at the start of a file that tell what it is: those of a snapshot's.
const SHORTEST: usize = 8;

fn file_header(file: &[u8]) -> Result<&FileHeader64<LE>, ElfError> {
    if file.is_empty() {
        return Err(ElfError::Empty);
    }
    if file.len() < SHORTEST {
        return Err(ElfError::TooShort { size: file.len() });
    }
    if !file.starts_with(&elf::ELFMAG) {
        let found = file[..file.len().min(4)].to_vec();
        return Err(ElfError::NotElf { found });
    }
    let size = size_of::<FileHeader64<LE>>();
    let bytes = part(file, 0, size as u64, "file header")?;
    for (index, name, expected) in [(4, "EI_CLASS", 2), (5, "EI_DATA", 1)] {
        if bytes[index] != expected {
            return Err(ElfError::Architecture { field: name, found: bytes[index].into() });
        }
    }
    if bytes[6] != 1 {
        return Err(field("EI_VERSION", bytes[6].into(), "ELF has only version 1"));
    }
    let header = object::pod::from_bytes::<FileHeader64<LE>>(bytes)
        .map_err(|()| truncated("file header", size as u64, file))?
        .0;
    let machine = header.e_machine.get(LE);
    if machine != elf::EM_X86_64 {
        return Err(ElfError::Architecture { field: "e_machine", found: machine.0 });
    }
    let file_type = header.e_type.get(LE);
    if ![elf::ET_EXEC, elf::ET_DYN].contains(&file_type) {
        return Err(ElfError::FileType { found: file_type.0 });
    }
    Ok(header)
}

fn program_headers<'a>(
    header: &FileHeader64<LE>,
    file: &'a [u8],
) -> Result<&'a [ProgramHeader64<LE>], ElfError> {
    let size = header.e_phentsize.get(LE);
    if usize::from(size) != size_of::<ProgramHeader64<LE>>() {
        return Err(field("e_phentsize", size.into(), "a program header has 56 bytes"));
    }
    let count = header.e_phnum.get(LE);
    let length = u64::from(count) * u64::from(size);
    let bytes = part(file, header.e_phoff.get(LE), length, "program headers (e_phoff, e_phnum)")?;
    object::pod::slice_from_all_bytes(bytes)
        .map_err(|()| field("e_phnum", count.into(), "the program headers can't be read"))
}

fn segments(
    headers: &[ProgramHeader64<LE>],
    file_size: usize,
    relocatable: bool,
) -> Result<Vec<Segment>, ElfError> {
    let mut found: Vec<(usize, Segment)> = Vec::new();
    for (index, header) in headers.iter().enumerate() {
        if header.p_type(LE) == elf::PT_LOAD && header.p_memsz(LE) > 0 {
            if found.len() == MAX_SEGMENTS {
                let count = headers.len() as u64;
                return Err(field("e_phnum", count, "more than 64 of the segments are PT_LOAD"));
            }
            found.push((index, segment(index, header, file_size, relocatable)?));
        }
    }
    found.sort_by_key(|(_, segment)| segment.address);
    for pair in found.windows(2) {
        let [(first, low), (second, high)] = pair else { continue };
        if low.pages().end > high.pages().start {
            let page = high.pages().start;
            return Err(ElfError::Overlap { first: *first, second: *second, page });
        }
    }
    let (Some((_, low)), Some((index, high))) = (found.first(), found.last()) else {
        return Err(ElfError::NoSegments);
    };
    if high.pages().end - low.pages().start > MAX_IMAGE_SIZE {
        return Err(ElfError::Huge {
            index: *index,
            field: "p_vaddr + p_memsz",
            found: high.end(),
            limit: MAX_IMAGE_SIZE,
        });
    }
    Ok(found.into_iter().map(|(_, segment)| segment).collect())
}

fn segment(
    index: usize,
    header: &ProgramHeader64<LE>,
    file_size: usize,
    relocatable: bool,
) -> Result<Segment, ElfError> {
    let (address, size) = (header.p_vaddr(LE), header.p_memsz(LE));
    let (offset, in_file) = (header.p_offset(LE), header.p_filesz(LE));
    let huge = |field, found| ElfError::Huge { index, field, found, limit: MAX_IMAGE_SIZE };
    if size > MAX_IMAGE_SIZE {
        return Err(huge("p_memsz", size));
    }
    let end = address.checked_add(size).ok_or(huge("p_vaddr", address))?;
    // The order of these checks keeps the later sums from wrapping.
    if end > MAX_ADDRESS + MAX_IMAGE_SIZE {
        return Err(ElfError::Address { index, found: address });
    }
    if !relocatable && (address < MIN_ADDRESS || end > MAX_ADDRESS) {
        return Err(ElfError::Address { index, found: address });
    }
    if in_file > size {
        let name = format!("segment {index}: p_filesz");
        return Err(field(name, in_file, "it is more than p_memsz"));
    }
    let file_end = offset.checked_add(in_file).ok_or_else(|| {
        field(format!("segment {index}: p_offset"), offset, "p_offset + p_filesz wraps")
    })?;
    let (Ok(start), Ok(stop)) = (usize::try_from(offset), usize::try_from(file_end)) else {
        return Err(huge("p_offset", offset));
    };
    if stop > file_size {
        let field = format!("segment {index} (p_offset + p_filesz)");
        return Err(ElfError::Truncated { field, end: file_end, size: file_size });
    }
    let flags = header.p_flags(LE).0;
    let (write, execute) = (flags & elf::PF_W.0 != 0, flags & elf::PF_X.0 != 0);
    let protection = match (write, execute) {
        (true, true) => return Err(ElfError::WritableCode { index }),
        (true, false) => Protection::ReadWrite,
        (false, true) => Protection::ReadExecute,
        (false, false) => Protection::Read,
    };
    Ok(Segment { address, size, file: start..stop, protection })
}

fn refuse_unsupported(
    headers: &[ProgramHeader64<LE>],
    file: &[u8],
    personality: Personality,
) -> Result<(), ElfError> {
    for header in headers {
        let kind = header.p_type(LE);
        if kind == elf::PT_INTERP {
            let bytes = part(file, header.p_offset(LE), header.p_filesz(LE), "PT_INTERP")?;
            let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
            let name = String::from_utf8_lossy(&name[..name.len().min(256)]);
            return Err(ElfError::Dynamic { loader: name.escape_debug().to_string() });
        }
        let host_starts_it = personality == Personality::Glowbox;
        if host_starts_it && kind == elf::PT_TLS && header.p_memsz(LE) > 0 {
            return Err(ElfError::ThreadLocal);
        }
    }
    Ok(())
}

fn headers_address(header: &FileHeader64<LE>, segments: &[Segment]) -> Option<(u64, u16)> {
    let offset = usize::try_from(header.e_phoff.get(LE)).ok()?;
    let count = header.e_phnum.get(LE);
    let end = offset + usize::from(count) * size_of::<ProgramHeader64<LE>>();
    let holder = segments.iter().find(|s| s.file.start <= offset && end <= s.file.end)?;
    Some((holder.address + (offset - holder.file.start) as u64, count))
}
