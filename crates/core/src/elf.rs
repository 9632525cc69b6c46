//! A guest's file, checked once and for all.
//!
//! [`Program::parse`] takes any bytes and gives either a program that can be laid out, relocated
//! and started without a further check, or an error that names the field at fault. It allocates in
//! proportion to the number of program headers and functions, never to a size that the file claims.
//!
//! A guest is a static or static-PIE x86-64 executable. Its relocations are applied by the host
//! before the guest starts, and only the kind that a static PIE has (base plus addend) is
//! accepted; so the pages that relocation writes and the guest must not (RELRO) are read-only from
//! the first instruction on, and no right ever has to be taken away.

use std::ops::Range;
use std::sync::Arc;

use object::LittleEndian as LE;
use object::elf::{self, FileHeader64, ProgramHeader64};
use object::read::elf::{Dyn, FileHeader, ProgramHeader, SectionHeader};

use glowbox_abi::record::{EXPORTS, IMPORTS, Kind, RecordError, RecordView, Records};

use crate::address::{PAGE_SIZE, Protection};
use crate::signature::{Signature, SignatureError};

/// Most bytes from a program's lowest to its highest address.
pub const MAX_IMAGE_SIZE: u64 = 256 << 20;
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

/// A checked guest program.
#[derive(Debug, Clone)]
pub struct Program {
    bytes: Arc<[u8]>,
    entry: u64,
    relocatable: bool,
    segments: Vec<Segment>,
    relro: Option<Range<u64>>,
    relocations: Range<usize>,
    exports: Vec<Function>,
    imports: Vec<Function>,
    headers: Option<(u64, u16)>,
}

/// Why a file is not a guest that can be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields are what the message says of them")]
pub enum ElfError {
    /// The file does not start as an ELF file does.
    #[error("it is not an ELF file (its first bytes are {found:02x?})")]
    NotElf { found: Vec<u8> },
    /// A header or table reaches beyond the file.
    #[error("`{field}` reaches to byte {end}, but the file has {size} bytes: it is truncated")]
    Truncated { field: String, end: u64, size: usize },
    /// The file is for other machines.
    #[error("`{field}` is {found}, but Glowbox runs 64-bit little-endian x86-64 guests")]
    Architecture { field: &'static str, found: u16 },
    /// The file is no executable.
    #[error(
        "`e_type` is {found}, but a guest is an executable (2) or position-independent executable \
         (3): build it with glowbox-build"
    )]
    FileType { found: u16 },
    /// A field has a value that makes no sense.
    #[error("`{field}` is {found:#x}: {problem}")]
    Field { field: String, found: u64, problem: &'static str },
    /// The program wants a dynamic loader.
    #[error(
        "it wants the dynamic loader `{loader}`, but a guest is linked statically: build it with \
         glowbox-build, or link it with -static-pie"
    )]
    Dynamic { loader: String },
    /// Nothing in the file is to be loaded.
    #[error("it has no PT_LOAD segment")]
    NoSegments,
    /// A segment's addresses wrap or are larger than a guest may be.
    #[error(
        "segment {index}: `{field}` is {found:#x}, but a program occupies at most {limit:#x} bytes \
         of addresses"
    )]
    Huge { index: usize, field: &'static str, found: u64, limit: u64 },
    /// Addresses outside what a guest may use.
    #[error(
        "segment {index}: `p_vaddr` is {found:#x}, but a program at a fixed address lies between {MIN_ADDRESS:#x} and {MAX_ADDRESS:#x}"
    )]
    Address { index: usize, found: u64 },
    /// Two segments want the same page.
    #[error("segments {first} and {second} overlap in the page at {page:#x}")]
    Overlap { first: usize, second: usize, page: u64 },
    /// A segment may be written and executed.
    #[error("segment {index} is writable and executable, which no guest memory is")]
    WritableCode { index: usize },
    /// The program uses thread-local storage.
    #[error("it has thread-local storage (PT_TLS), which no_std guests do not have")]
    ThreadLocal,
    /// The entry point is not in code.
    #[error("`e_entry` is {found:#x}, which is not in an executable segment")]
    Entry { found: u64 },
    /// A relocation of a kind that static executables do not have.
    #[error("relocation {index} is of type {kind}, but a static PIE has only type 8 (relative)")]
    RelocationKind { index: usize, kind: u32 },
    /// A relocation writes where nothing may be written.
    #[error("relocation {index}: `r_offset` is {offset:#x}, which is not in a writable segment")]
    RelocationTarget { index: usize, offset: u64 },
    /// A section that every guest has is missing.
    #[error("it has no section `{section}`: it was not built against the glowbox-guest library")]
    NotAGuest { section: &'static str },
    /// A section of function records is damaged.
    #[error("section `{section}`: {source}")]
    Record {
        section: &'static str,
        #[source]
        source: RecordError,
    },
    /// A function's signature is not one.
    #[error("section `{section}`, function `{function}`: {source}")]
    Signature {
        section: &'static str,
        function: String,
        #[source]
        source: SignatureError,
    },
    /// The guest was built against another version of glowbox-guest.
    #[error(
        "section `{section}`: the guest has ABI version {found}, this host has {expected}: build \
         the guest against the glowbox-guest of the same version"
    )]
    AbiVersion { section: &'static str, found: u32, expected: u32 },
    /// Two records of one name.
    #[error("section `{section}`: function `{function}` is there twice{detail}")]
    Duplicate { section: &'static str, function: String, detail: &'static str },
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
        refuse_unsupported(headers, file)?;
        let entry = header.e_entry.get(LE);
        let in_code = |segment: &&Segment| {
            segment.protection == Protection::ReadExecute
                && (segment.address..segment.end()).contains(&entry)
        };
        segments.iter().find(in_code).ok_or(ElfError::Entry { found: entry })?;
        let relro = relro(headers, &segments)?;
        let relocations = relocations(headers, file, &segments)?;
        let (exports, imports) = functions(header, file)?;
        let headers = headers_address(header, &segments);
        Ok(Program {
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

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
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

    /// Pages that are read-only for the guest though their segment is writable.
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

    /// Relocations: where an eight-byte value is to be written (before the base is added), and the
    /// addend.
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

fn file_header(file: &[u8]) -> Result<&FileHeader64<LE>, ElfError> {
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

fn refuse_unsupported(headers: &[ProgramHeader64<LE>], file: &[u8]) -> Result<(), ElfError> {
    for header in headers {
        let kind = header.p_type(LE);
        if kind == elf::PT_INTERP {
            let bytes = part(file, header.p_offset(LE), header.p_filesz(LE), "PT_INTERP")?;
            let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
            let name = String::from_utf8_lossy(&name[..name.len().min(256)]);
            return Err(ElfError::Dynamic { loader: name.escape_debug().to_string() });
        }
        if kind == elf::PT_TLS && header.p_memsz(LE) > 0 {
            return Err(ElfError::ThreadLocal);
        }
    }
    Ok(())
}

/// The whole pages of PT_GNU_RELRO, as a dynamic loader protects them.
fn relro(
    headers: &[ProgramHeader64<LE>],
    segments: &[Segment],
) -> Result<Option<Range<u64>>, ElfError> {
    let Some(header) = headers.iter().find(|header| header.p_type(LE) == elf::PT_GNU_RELRO) else {
        return Ok(None);
    };
    let (start, size) = (header.p_vaddr(LE), header.p_memsz(LE));
    let end = start.checked_add(size).ok_or(field(
        "PT_GNU_RELRO: p_memsz",
        size,
        "p_vaddr + p_memsz wraps",
    ))?;
    let pages = start & !(PAGE_SIZE - 1)..end & !(PAGE_SIZE - 1);
    let covered = segments.iter().any(|segment| {
        segment.protection == Protection::ReadWrite
            && segment.pages().start <= pages.start
            && pages.end <= segment.pages().end
    });
    match pages.is_empty() {
        true => Ok(None),
        false if covered => Ok(Some(pages)),
        false => Err(field("PT_GNU_RELRO: p_vaddr", start, "it lies outside a writable segment")),
    }
}

fn rela_entries(bytes: &[u8]) -> impl Iterator<Item = &elf::Rela64<LE>> {
    let (entries, _) = bytes.as_chunks::<{ size_of::<elf::Rela64<LE>>() }>();
    entries.iter().filter_map(|entry| object::pod::from_bytes(entry).ok().map(|(rela, _)| rela))
}

/// Where the relocation table stands in the file; every entry in it is checked.
fn relocations(
    headers: &[ProgramHeader64<LE>],
    file: &[u8],
    segments: &[Segment],
) -> Result<Range<usize>, ElfError> {
    let Some(dynamic) = headers.iter().find(|header| header.p_type(LE) == elf::PT_DYNAMIC) else {
        return Ok(0..0);
    };
    let bytes = part(file, dynamic.p_offset(LE), dynamic.p_filesz(LE), "PT_DYNAMIC")?;
    let (entries, _) = bytes.as_chunks::<{ size_of::<elf::Dyn64<LE>>() }>();
    let (mut address, mut size) = (0, 0);
    for entry in entries {
        let Ok((entry, _)) = object::pod::from_bytes::<elf::Dyn64<LE>>(entry) else { continue };
        let value = entry.d_val(LE);
        match entry.d_tag(LE) {
            elf::DT_NULL => break,
            elf::DT_RELA => address = value,
            elf::DT_RELASZ => size = value,
            elf::DT_NEEDED => {
                return Err(ElfError::Dynamic { loader: "(of a DT_NEEDED library)".into() });
            }
            elf::DT_RELR | elf::DT_REL | elf::DT_JMPREL if value != 0 => {
                let name = format!("PT_DYNAMIC: tag {}", entry.d_tag(LE).0);
                return Err(field(name, value, "only DT_RELA relocations are supported"));
            }
            _ => {}
        }
    }
    if size == 0 {
        return Ok(0..0);
    }
    let outside = || field("DT_RELA", address, "the table lies outside the segments' file bytes");
    let end = address.checked_add(size).ok_or_else(outside)?;
    let holder = segments
        .iter()
        .find(|s| s.address <= address && end <= s.address + s.file.len() as u64)
        .ok_or_else(outside)?;
    let start = usize::try_from(address - holder.address).map_err(|_| outside())?;
    let length = usize::try_from(size).map_err(|_| outside())?;
    let range = holder.file.start + start..holder.file.start + start + length;
    check_relocations(&file[range.clone()], segments)?;
    Ok(range)
}

fn check_relocations(table: &[u8], segments: &[Segment]) -> Result<(), ElfError> {
    for (index, rela) in rela_entries(table).enumerate() {
        let kind = rela.r_type(LE, false).0;
        if kind != elf::R_X86_64_RELATIVE.0 {
            return Err(ElfError::RelocationKind { index, kind });
        }
        let offset = rela.r_offset.get(LE);
        let writable = segments.iter().any(|segment| {
            segment.protection == Protection::ReadWrite
                && segment.address <= offset
                && offset.checked_add(8).is_some_and(|end| end <= segment.end())
        });
        if !writable {
            return Err(ElfError::RelocationTarget { index, offset });
        }
    }
    Ok(())
}

fn functions(
    header: &FileHeader64<LE>,
    file: &[u8],
) -> Result<(Vec<Function>, Vec<Function>), ElfError> {
    let size = header.e_shentsize.get(LE);
    let count = header.e_shnum.get(LE);
    if count > 0 && usize::from(size) != size_of::<elf::SectionHeader64<LE>>() {
        return Err(field("e_shentsize", size.into(), "a section header has 64 bytes"));
    }
    let length = u64::from(count) * u64::from(size);
    part(file, header.e_shoff.get(LE), length, "section headers (e_shoff, e_shnum)")?;
    let sections = header.sections(LE, file).map_err(|_| {
        field("e_shstrndx", header.e_shstrndx.get(LE).0.into(), "bad section names")
    })?;
    let read = |section: &'static str| {
        let (_, header) = sections
            .section_by_name(LE, section.as_bytes())
            .ok_or(ElfError::NotAGuest { section })?;
        let data = header.data(LE, file).map_err(|_| {
            let end = header.sh_offset(LE).saturating_add(header.sh_size(LE));
            truncated(format!("section `{section}`"), end, file)
        })?;
        read_records(section, data)
    };
    let exports = read(EXPORTS)?;
    let imports = read(IMPORTS)?;
    Ok((exports, imports))
}

fn read_records(section: &'static str, data: &[u8]) -> Result<Vec<Function>, ElfError> {
    let mut functions: Vec<Function> = Vec::new();
    let mut version = None;
    for record in Records::new(data) {
        let record = record.map_err(|source| ElfError::Record { section, source })?;
        match record.kind {
            Kind::Abi => version = Some(record.value),
            Kind::Main => {}
            Kind::Function | Kind::Import => add_function(section, &mut functions, &record)?,
        }
    }
    let expected = glowbox_abi::ABI_VERSION;
    match version {
        None => Err(ElfError::NotAGuest { section }),
        Some(found) if found != expected => Err(ElfError::AbiVersion { section, found, expected }),
        Some(_) => Ok(functions),
    }
}

fn add_function(
    section: &'static str,
    functions: &mut Vec<Function>,
    record: &RecordView<'_>,
) -> Result<(), ElfError> {
    let name = record.name.to_string();
    let signature = Signature::parse(record.signature).map_err(|source| ElfError::Signature {
        section,
        function: name.clone(),
        source,
    })?;
    if let Some(earlier) = functions.iter().find(|function| function.name == name) {
        let detail = match record.kind {
            // The same host function may be asked for in several places.
            Kind::Import if earlier.signature.same_types(&signature) => "",
            Kind::Import => ", with different signatures",
            _ => ": two #[guest_function]s have this name",
        };
        if record.kind != Kind::Import || !detail.is_empty() {
            return Err(ElfError::Duplicate { section, function: name, detail });
        }
    }
    functions.push(Function { name, signature, number: record.offset });
    Ok(())
}

fn headers_address(header: &FileHeader64<LE>, segments: &[Segment]) -> Option<(u64, u16)> {
    let offset = usize::try_from(header.e_phoff.get(LE)).ok()?;
    let count = header.e_phnum.get(LE);
    let end = offset + usize::from(count) * size_of::<ProgramHeader64<LE>>();
    let holder = segments.iter().find(|s| s.file.start <= offset && end <= s.file.end)?;
    Some((holder.address + (offset - holder.file.start) as u64, count))
}

#[cfg(test)]
pub(crate) mod tests;
