//! Relocations, and what is read-only after them.

use std::ops::Range;

use object::LittleEndian as LE;
use object::elf::{self, ProgramHeader64};
use object::read::elf::{Dyn, ProgramHeader};

use super::{ElfError, Personality, Segment, field, part};
use crate::address::{PAGE_SIZE, Protection};

/// The whole pages of PT_GNU_RELRO, as a dynamic loader protects them. For guests that the host
/// relocates.
pub(super) fn relro(
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

pub(super) fn rela_entries(bytes: &[u8]) -> impl Iterator<Item = &elf::Rela64<LE>> {
    let (entries, _) = bytes.as_chunks::<{ size_of::<elf::Rela64<LE>>() }>();
    entries.iter().filter_map(|entry| object::pod::from_bytes(entry).ok().map(|(rela, _)| rela))
}

/// Where the table of the relocations that the host applies stands in the file; every entry in it
/// is checked. A Linux program applies its own, and needs no library to do it.
pub(super) fn relocations(
    headers: &[ProgramHeader64<LE>],
    file: &[u8],
    segments: &[Segment],
    personality: Personality,
) -> Result<Range<usize>, ElfError> {
    let by_host = personality == Personality::Glowbox;
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
            elf::DT_RELR | elf::DT_REL | elf::DT_JMPREL if by_host && value != 0 => {
                let name = format!("PT_DYNAMIC: tag {}", entry.d_tag(LE).0);
                return Err(field(name, value, "only DT_RELA relocations are supported"));
            }
            _ => {}
        }
    }
    if size == 0 || !by_host {
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
