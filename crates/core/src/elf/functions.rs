//! The functions a guest offers and asks for, and with them what kind of guest it is.

use std::collections::HashMap;

use object::LittleEndian as LE;
use object::elf::{FileHeader64, SectionHeader64};

use glowbox_abi::record::{EXPORTS, IMPORTS, Kind, RecordView, Records};

use super::{ElfError, Function, Personality, field, part};
use crate::signature::Signature;

/// What the two sections say of a program.
pub(super) struct Functions {
    pub(super) exports: Vec<Function>,
    pub(super) imports: Vec<Function>,
    pub(super) personality: Personality,
    /// Whether there are such sections at all.
    pub(super) library: bool,
}

/// Reads both sections. A program that has neither knows nothing of Glowbox.
pub(super) fn functions(header: &FileHeader64<LE>, file: &[u8]) -> Result<Functions, ElfError> {
    let (sections, names) = sections(header, file)?;
    let find = |section| sections.iter().find(|header| has_name(names, header, section));
    let read = |section: &'static str| {
        let found = find(section).ok_or(ElfError::NotAGuest { section })?;
        let (offset, size) = (found.sh_offset.get(LE), found.sh_size.get(LE));
        read_records(section, part(file, offset, size, &format!("section `{section}`"))?)
    };
    if find(EXPORTS).is_none() && find(IMPORTS).is_none() {
        let (exports, imports) = (Vec::new(), Vec::new());
        let personality = Personality::Linux;
        return Ok(Functions { exports, imports, personality, library: false });
    }
    let (exports, personality) = read(EXPORTS)?;
    let (imports, other) = read(IMPORTS)?;
    if personality != other {
        return Err(ElfError::TwoLibraries { section: IMPORTS });
    }
    Ok(Functions { exports, imports, personality, library: true })
}

/// The section headers, and the bytes that their names lie in.
fn sections<'a>(
    header: &FileHeader64<LE>,
    file: &'a [u8],
) -> Result<(&'a [SectionHeader64<LE>], &'a [u8]), ElfError> {
    let (size, count) = (header.e_shentsize.get(LE), header.e_shnum.get(LE));
    if count > 0 && usize::from(size) != size_of::<SectionHeader64<LE>>() {
        return Err(field("e_shentsize", size.into(), "a section header has 64 bytes"));
    }
    let length = u64::from(count) * u64::from(size);
    let bytes = part(file, header.e_shoff.get(LE), length, "section headers (e_shoff, e_shnum)")?;
    let headers: &[SectionHeader64<LE>] = object::pod::slice_from_all_bytes(bytes)
        .map_err(|()| field("e_shnum", count.into(), "the section headers can't be read"))?;
    let number = header.e_shstrndx.get(LE).0;
    if headers.is_empty() {
        return Ok((headers, &[]));
    }
    let names = headers.get(usize::from(number)).ok_or(field(
        "e_shstrndx",
        number.into(),
        "there is no such section",
    ))?;
    let names =
        part(file, names.sh_offset.get(LE), names.sh_size.get(LE), "section names (e_shstrndx)")?;
    Ok((headers, names))
}

/// Whether a section has this name. Looks at no more bytes than the name has, however long the
/// names in the file are.
fn has_name(names: &[u8], section: &SectionHeader64<LE>, name: &str) -> bool {
    let start = usize::try_from(section.sh_name.get(LE)).unwrap_or(usize::MAX);
    let found = names.get(start..).unwrap_or_default();
    found.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
}

fn read_records(
    section: &'static str,
    data: &[u8],
) -> Result<(Vec<Function>, Personality), ElfError> {
    let mut functions: Vec<Function> = Vec::new();
    // By name, so that a file of many functions does not take time in the square of their number.
    let mut known: HashMap<&str, usize> = HashMap::new();
    let mut abi = None;
    for record in Records::new(data) {
        let record = record.map_err(|source| ElfError::Record { section, source })?;
        match record.kind {
            Kind::Abi | Kind::AbiStd => {
                let personality = match record.kind {
                    Kind::AbiStd => Personality::Linux,
                    _ => Personality::Glowbox,
                };
                match abi.replace((record.value, personality)) {
                    Some((_, earlier)) if earlier != personality => {
                        return Err(ElfError::TwoLibraries { section });
                    }
                    _ => {}
                }
            }
            Kind::Main => {}
            Kind::Function | Kind::Import => {
                let earlier = known.get(record.name).map(|index| &functions[*index]);
                let function = function(section, &record, earlier)?;
                known.entry(record.name).or_insert(functions.len());
                functions.push(function);
            }
        }
    }
    let expected = glowbox_abi::ABI_VERSION;
    match abi {
        None => Err(ElfError::NotAGuest { section }),
        Some((found, _)) if found != expected => {
            Err(ElfError::AbiVersion { section, found, expected })
        }
        Some((_, personality)) => Ok((functions, personality)),
    }
}

/// The function of a record, unless it contradicts an earlier one of the same name.
fn function(
    section: &'static str,
    record: &RecordView<'_>,
    earlier: Option<&Function>,
) -> Result<Function, ElfError> {
    let name = record.name.to_string();
    let signature = match Signature::parse(record.signature) {
        Ok(signature) => signature,
        Err(source) => return Err(ElfError::Signature { section, function: name, source }),
    };
    let detail = match (record.kind, earlier) {
        (_, None) => None,
        // The same host function may be asked for in several places.
        (Kind::Import, Some(earlier)) if earlier.signature.same_types(&signature) => None,
        (Kind::Import, Some(_)) => Some(", with different signatures"),
        _ => Some(": two #[guest_function]s have this name"),
    };
    match detail {
        Some(detail) => Err(ElfError::Duplicate { section, function: name, detail }),
        None => Ok(Function { name, signature, number: record.offset }),
    }
}
