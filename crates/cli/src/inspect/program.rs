//! The program in a file: of a guest, as the library has checked it, or of any ELF file.
//!
//! What the library refuses can still be looked at. The second way takes headers for what they claim
//! and promises nothing but to end.

use glowbox_core::elf::Program;
use object::LittleEndian as LE;
use object::elf::{
    EM_X86_64, ET_DYN, ET_EXEC, FileHeader64, PF_R, PF_W, PF_X, PT_INTERP, PT_LOAD, PT_TLS,
};
use object::read::elf::{FileHeader, ProgramHeader};
use serde::Serialize;

use glowbox_core::address::Protection;

/// Most segments that are shown.
const MAX_SEGMENTS: usize = 1000;

#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) entry: u64,
    pub(super) position_independent: bool,
    /// The dynamic loader that it wants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) loader: Option<String>,
    /// Whether each of its threads has variables of its own.
    pub(super) thread_local_storage: bool,
    pub(super) segments: Vec<Segment>,
    /// Whether it has the sections of a guest.
    #[serde(skip)]
    pub(super) is_guest: bool,
}

/// A part that is loaded. Addresses are those in the file.
#[derive(Debug, Serialize)]
pub(super) struct Segment {
    pub(super) address: u64,
    pub(super) size: u64,
    pub(super) file_size: u64,
    pub(super) protection: String,
    /// Bytes, from the start of it, that only relocation may write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) read_only_after_relocation: Option<u64>,
}

impl Report {
    /// Of a program that the library has checked.
    pub(super) fn of(program: &Program) -> Report {
        let relro = program.relro();
        let segments = program.segments().iter().map(|segment| {
            let pages = segment.pages();
            let relro = relro.clone().filter(|relro| {
                segment.protection == Protection::ReadWrite && pages.contains(&relro.start)
            });
            Segment {
                address: segment.address,
                size: segment.size,
                file_size: segment.file.len() as u64,
                protection: segment.protection.to_string(),
                read_only_after_relocation: relro.map(|relro| relro.end - relro.start),
            }
        });
        Report {
            entry: program.entry(),
            position_independent: program.is_relocatable(),
            loader: None,
            thread_local_storage: Report::read(program.bytes())
                .is_some_and(|report| report.thread_local_storage),
            segments: segments.collect(),
            is_guest: program.is_library(),
        }
    }

    /// Of any x86-64 program; `None` if it is none.
    pub(super) fn read(file: &[u8]) -> Option<Report> {
        let header = FileHeader64::<LE>::parse(file).ok()?;
        let file_type = header.e_type(LE);
        if header.e_machine(LE) != EM_X86_64 || ![ET_EXEC, ET_DYN].contains(&file_type) {
            return None;
        }
        let headers = header.program_headers(LE, file).ok()?;
        let loads = headers.iter().filter(|header| header.p_type(LE) == PT_LOAD);
        let flag = |set: bool, letter| if set { letter } else { '-' };
        let segments = loads.take(MAX_SEGMENTS).map(|header| {
            let flags = header.p_flags(LE).0;
            let letters = [(PF_R.0, 'r'), (PF_W.0, 'w'), (PF_X.0, 'x')];
            Segment {
                address: header.p_vaddr(LE),
                size: header.p_memsz(LE),
                file_size: header.p_filesz(LE),
                protection: letters
                    .map(|(bit, letter)| flag(flags & bit != 0, letter))
                    .iter()
                    .collect(),
                read_only_after_relocation: None,
            }
        });
        let loader = headers.iter().find(|header| header.p_type(LE) == PT_INTERP).map(|header| {
            let name = header.interpreter(LE, file).ok().flatten().unwrap_or_default();
            String::from_utf8_lossy(&name[..name.len().min(256)]).into_owned()
        });
        let has_tls = |header: &object::elf::ProgramHeader64<LE>| {
            header.p_type(LE) == PT_TLS && header.p_memsz(LE) > 0
        };
        Some(Report {
            entry: header.e_entry(LE),
            position_independent: file_type == ET_DYN,
            loader,
            thread_local_storage: headers.iter().any(has_tls),
            segments: segments.collect(),
            is_guest: has_guest_sections(header, file).unwrap_or(false),
        })
    }
}

fn has_guest_sections(header: &FileHeader64<LE>, file: &[u8]) -> Option<bool> {
    let sections = header.sections(LE, file).ok()?;
    let is_ours = |section: &object::elf::SectionHeader64<LE>| {
        sections.section_name(LE, section).is_ok_and(|name| name == b"glowbox_exports")
    };
    Some(sections.iter().any(is_ours))
}
