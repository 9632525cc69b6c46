//! The functions a guest offers and asks for.

use std::collections::HashMap;

use object::LittleEndian as LE;
use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader, SectionHeader};

use glowbox_abi::record::{EXPORTS, IMPORTS, Kind, RecordView, Records};

use super::{ElfError, Function, field, part, truncated};
use crate::signature::Signature;

/// Reads both sections: exports, then imports.
pub(super) fn functions(
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
