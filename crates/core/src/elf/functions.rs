//! The functions a guest offers and asks for.

use std::collections::HashMap;

use object::LittleEndian as LE;
use object::elf::{FileHeader64, SectionHeader64};

use glowbox_abi::record::{EXPORTS, IMPORTS, Kind, RecordView, Records};

use super::{ElfError, Function, field, part};
use crate::signature::Signature;

/// Reads both sections: exports, then imports.
pub(super) fn functions(
    header: &FileHeader64<LE>,
    file: &[u8],
) -> Result<(Vec<Function>, Vec<Function>), ElfError> {
    let (sections, names) = sections(header, file)?;
    let read = |section: &'static str| {
        let named = |candidate: &&SectionHeader64<LE>| has_name(names, candidate, section);
        let found = sections.iter().find(named).ok_or(ElfError::NotAGuest { section })?;
        let (offset, size) = (found.sh_offset.get(LE), found.sh_size.get(LE));
        read_records(section, part(file, offset, size, &format!("section `{section}`"))?)
    };
    let exports = read(EXPORTS)?;
    let imports = read(IMPORTS)?;
    Ok((exports, imports))
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

fn read_records(section: &'static str, data: &[u8]) -> Result<Vec<Function>, ElfError> {
    let mut functions: Vec<Function> = Vec::new();
    // By name, so that a file of many functions does not take time in the square of their number.
    let mut known: HashMap<&str, usize> = HashMap::new();
    let mut version = None;
    for record in Records::new(data) {
        let record = record.map_err(|source| ElfError::Record { section, source })?;
        match record.kind {
            Kind::Abi => version = Some(record.value),
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
    match version {
        None => Err(ElfError::NotAGuest { section }),
        Some(found) if found != expected => Err(ElfError::AbiVersion { section, found, expected }),
        Some(_) => Ok(functions),
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
