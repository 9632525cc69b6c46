//! Every way in which a file is no guest has an error of its own, and no file leads to a panic.

use glowbox_testguest::{CODE, DATA, GuestFile, R, Record, Segment, W, X};

use super::*;

/// Code for a guest that does nothing of use.
pub(crate) const SMALL: [u8; 2] = [0xeb, 0xfe];

/// A program of a code page and a data page.
pub(crate) fn program(code: &[u8]) -> Program {
    Program::parse(GuestFile::of_code(code).to_bytes().into()).expect("a proper guest")
}

fn parse(change: impl FnOnce(&mut GuestFile)) -> Result<Program, ElfError> {
    let mut file = GuestFile::of_code(&SMALL);
    change(&mut file);
    Program::parse(file.to_bytes().into())
}

fn parse_bytes(change: impl FnOnce(&mut Vec<u8>)) -> Result<Program, ElfError> {
    let mut bytes = GuestFile::of_code(&SMALL).to_bytes();
    change(&mut bytes);
    Program::parse(bytes.into())
}

#[test]
fn a_proper_guest_parses() {
    let program = parse(|file| {
        let exports = file.exports.as_mut().unwrap();
        exports.push(Record::function("greet", "(name: String) -> String"));
        file.imports.as_mut().unwrap().push(Record::import("weekday", "() -> String"));
        file.relocations.push((8, DATA + 8, 0x1234));
        file.extra_headers.push((0x6474_e552, DATA, 0, 4096));
    })
    .unwrap();
    assert_eq!(program.exports()[0].name, "greet");
    assert_eq!(program.exports()[0].number, 32);
    assert_eq!(program.imports()[0].signature.to_string(), "() -> String");
    assert_eq!(program.relocations().collect::<Vec<_>>(), [(DATA + 8, 0x1234)]);
    assert_eq!(program.relro(), Some(DATA..DATA + 4096));
    assert_eq!(program.segments()[0].protection, Protection::ReadExecute);
    assert!(program.is_relocatable());
    assert_eq!(program.personality(), Personality::Glowbox);
}

#[test]
fn a_guest_with_std_is_a_linux_program_with_functions() {
    let program = parse(|file| {
        *file = GuestFile::of_code(&SMALL).with_std();
        file.exports.as_mut().unwrap().push(Record::function("f", "()"));
        file.imports.as_mut().unwrap().push(Record::import("g", "()"));
    })
    .unwrap();
    assert_eq!(program.personality(), Personality::Linux);
    assert_eq!((program.exports().len(), program.imports().len()), (1, 1));
}

#[test]
fn a_program_that_knows_nothing_of_glowbox_is_a_linux_program() {
    let program = parse(|file| (file.exports, file.imports) = (None, None)).unwrap();
    assert_eq!(program.personality(), Personality::Linux);
    assert!(program.exports().is_empty() && program.imports().is_empty());
}

#[test]
fn what_a_linux_program_does_to_itself_is_its_own_business() {
    let program = parse(|file| {
        *file = GuestFile::of_code(&SMALL).with_std();
        // Thread-local storage, relocations of all kinds anywhere, RELRO anywhere.
        file.extra_headers.push((7, DATA, 0, 8));
        file.relocations.extend([(37, DATA, 0), (8, CODE, 0), (8, DATA, 0)]);
        file.extra_headers.push((0x6474_e552, 0x9000, 0, 4096));
    })
    .unwrap();
    assert_eq!(program.relocations().count(), 0);
    assert_eq!(program.relro(), None);
}

#[test]
fn what_no_guest_may_have_a_linux_program_may_not_have_either() {
    let linux = |change: fn(&mut GuestFile)| {
        let mut file = GuestFile::of_code(&SMALL).with_std();
        change(&mut file);
        Program::parse(file.to_bytes().into()).unwrap_err()
    };
    let writable = linux(|file| file.segments[0].flags = R | W | X);
    assert_eq!(writable, ElfError::WritableCode { index: 0 });
    let dynamic = linux(|file| file.extra_headers.push((3, DATA, 64 + 56 * 3, 1)));
    let text = dynamic.to_string();
    for advice in ["+crt-static", "-linux-musl", "-static-pie", "CGO_ENABLED=0"] {
        assert!(text.contains(advice), "{text}");
    }
}

#[test]
fn a_guest_is_built_with_one_build_of_the_library() {
    let both = |exports: bool| {
        parse(|file| {
            let section = if exports { &mut file.exports } else { &mut file.imports };
            section.as_mut().unwrap().push(Record::abi_std(glowbox_abi::ABI_VERSION));
        })
    };
    assert_eq!(both(true).unwrap_err(), ElfError::TwoLibraries { section: "glowbox_exports" });
    assert_eq!(both(false).unwrap_err(), ElfError::TwoLibraries { section: "glowbox_imports" });
    let apart = parse(|file| {
        file.imports = GuestFile::of_code(&SMALL).with_std().imports;
    });
    assert_eq!(apart.unwrap_err(), ElfError::TwoLibraries { section: "glowbox_imports" });
}

#[test]
fn what_is_no_elf_file_is_told() {
    assert!(matches!(Program::parse(b"#!/bin/sh".to_vec().into()), Err(ElfError::NotElf { .. })));
    assert_eq!(Program::parse(Vec::new().into()).map(|_| ()), Err(ElfError::Empty));
    for size in [1, 4, 7] {
        let error = Program::parse(b"\x7fELF\x02\x01\x01"[..size].into()).map(|_| ());
        assert_eq!(error, Err(ElfError::TooShort { size }));
    }
}

#[test]
fn other_machines_are_told_by_field() {
    for (at, value, expected) in [(4, 1, "EI_CLASS"), (5, 2, "EI_DATA"), (18, 183, "e_machine")] {
        match parse_bytes(|bytes| bytes[at] = value) {
            Err(ElfError::Architecture { field, .. }) => assert_eq!(field, expected),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(parse(|file| file.file_type = 1), Err(ElfError::FileType { found: 1 })));
}

/// How many bytes further the next case is: Miri takes hours for all of them.
const STEP: usize = if cfg!(miri) { 307 } else { 1 };

#[test]
fn every_truncation_is_an_error() {
    let whole = GuestFile::of_code(&SMALL).to_bytes();
    for length in (0..whole.len()).step_by(STEP) {
        let parsed = Program::parse(whole[..length].to_vec().into());
        assert!(parsed.is_err(), "{length} of {} bytes", whole.len());
    }
    assert!(matches!(
        Program::parse(whole[..whole.len() - 1].to_vec().into()),
        Err(ElfError::Truncated { .. })
    ));
}

#[test]
fn segments_that_overlap_are_told() {
    let overlapping = parse(|file| file.segments[1].address = CODE + 0x800);
    assert_eq!(overlapping.unwrap_err(), ElfError::Overlap { first: 0, second: 1, page: CODE });
}

#[test]
fn huge_and_wrapping_segments_are_told() {
    let huge = parse(|file| file.segments[1].size = 1 << 40);
    assert!(matches!(huge, Err(ElfError::Huge { field: "p_memsz", .. })));
    let wrapping = parse(|file| file.segments[1].address = u64::MAX - 10);
    assert!(matches!(wrapping, Err(ElfError::Huge { field: "p_vaddr", .. })));
    let far_apart = parse(|file| file.segments[1].address = 0xff00_0000);
    assert!(matches!(far_apart, Err(ElfError::Huge { .. })));
    let high = parse(|file| file.segments[1].address = 1 << 45);
    assert!(matches!(high, Err(ElfError::Address { .. })));
    let low = parse(|file| file.file_type = 2);
    assert!(matches!(low, Err(ElfError::Address { index: 0, found: CODE })));
    let none = parse(|file| file.segments.clear());
    assert_eq!(none.unwrap_err(), ElfError::NoSegments);
}

#[test]
fn a_flood_of_segments_is_refused() {
    let flood = parse(|file| {
        let page = |n: u64| Segment { address: n * 4096, flags: R, bytes: vec![], size: 1 };
        file.segments.extend((3..100).map(page));
    });
    assert!(matches!(flood, Err(ElfError::Field { .. })));
}

#[test]
fn a_flood_of_functions_is_read_in_passing() {
    // Miri takes hours for so many.
    const COUNT: usize = if cfg!(miri) { 20 } else { 100_000 };
    let flood = parse(|file| {
        let exports = file.exports.as_mut().unwrap();
        exports.extend((0..COUNT).map(|n| Record::function(&format!("f{n}"), "()")));
    });
    assert_eq!(flood.unwrap().exports().len(), COUNT);
}

#[test]
fn file_offsets_beyond_the_file_are_told() {
    // p_filesz, p_offset of the first program header.
    let long = parse_bytes(|bytes| bytes[64 + 32..][..8].copy_from_slice(&0x900_u64.to_le_bytes()));
    assert!(matches!(long, Err(ElfError::Field { .. })), "{long:?}");
    let far =
        parse_bytes(|bytes| bytes[64 + 8..][..8].copy_from_slice(&(1u64 << 50).to_le_bytes()));
    assert!(matches!(far, Err(ElfError::Truncated { .. })), "{far:?}");
    let wrapping =
        parse_bytes(|bytes| bytes[64 + 8..][..8].copy_from_slice(&u64::MAX.to_le_bytes()));
    assert!(matches!(wrapping, Err(ElfError::Field { .. })), "{wrapping:?}");
}

#[test]
fn writable_code_is_refused() {
    let refused = parse(|file| file.segments[0].flags = R | W | X);
    assert_eq!(refused.unwrap_err(), ElfError::WritableCode { index: 0 });
}

#[test]
fn a_wish_for_a_dynamic_loader_is_told() {
    let dynamic = parse(|file| {
        file.segments[1].bytes[..6].copy_from_slice(b"/ld.so");
        let offset = 64 + 56 * 3 + 2;
        file.extra_headers.push((3, DATA, offset, 7));
    });
    assert_eq!(dynamic.unwrap_err(), ElfError::Dynamic { loader: "/ld.so".into() });
}

#[test]
fn thread_local_storage_is_refused() {
    let refused = parse(|file| file.extra_headers.push((7, DATA, 0, 8)));
    assert_eq!(refused.unwrap_err(), ElfError::ThreadLocal);
}

#[test]
fn an_entry_outside_code_is_refused() {
    assert_eq!(parse(|file| file.entry = DATA).unwrap_err(), ElfError::Entry { found: DATA });
    assert!(matches!(parse(|file| file.entry = u64::MAX), Err(ElfError::Entry { .. })));
}

#[test]
fn relocations_of_other_kinds_or_elsewhere_are_refused() {
    let kind = parse(|file| file.relocations.push((37, DATA, 0)));
    assert_eq!(kind.unwrap_err(), ElfError::RelocationKind { index: 0, kind: 37 });
    for offset in [CODE, DATA + 4090, u64::MAX - 3] {
        let target = parse(|file| file.relocations.push((8, offset, 0)));
        assert_eq!(target.unwrap_err(), ElfError::RelocationTarget { index: 0, offset });
    }
}

#[test]
fn relro_outside_a_writable_segment_is_refused() {
    let refused = parse(|file| file.extra_headers.push((0x6474_e552, 0x9000, 0, 4096)));
    assert!(matches!(refused, Err(ElfError::Field { .. })));
}

#[test]
fn missing_and_damaged_guest_sections_are_told() {
    let missing = parse(|file| file.exports = None).unwrap_err();
    assert_eq!(missing, ElfError::NotAGuest { section: "glowbox_exports" });
    let missing = parse(|file| file.imports = None).unwrap_err();
    assert_eq!(missing, ElfError::NotAGuest { section: "glowbox_imports" });
    let empty = parse(|file| file.exports = Some(vec![])).unwrap_err();
    assert_eq!(empty, ElfError::NotAGuest { section: "glowbox_exports" });
    let version = parse(|file| file.exports = Some(vec![Record::abi(99)])).unwrap_err();
    assert!(matches!(version, ElfError::AbiVersion { found: 99, .. }));
    let exports = |records: Vec<Record>| {
        parse(|file| file.exports.as_mut().unwrap().extend(records)).unwrap_err()
    };
    let kind = Record { kind: 9, ..Record::abi(1) };
    assert!(matches!(exports(vec![kind]), ElfError::Record { .. }));
    let text = Record::function("a", "no signature");
    assert!(matches!(exports(vec![text]), ElfError::Signature { .. }));
    let control = Record::function("a\n", "()");
    assert!(matches!(exports(vec![control]), ElfError::Record { .. }));
    let twice = vec![Record::function("a", "()"), Record::function("a", "()")];
    assert!(matches!(exports(twice), ElfError::Duplicate { .. }));
}

#[test]
fn a_host_function_may_be_asked_for_twice_but_not_differently() {
    let imports =
        |records: Vec<Record>| parse(|file| file.imports.as_mut().unwrap().extend(records));
    let import = |signature| Record::import("weekday", signature);
    assert_eq!(imports(vec![import("()"), import("()")]).unwrap().imports().len(), 2);
    assert!(matches!(imports(vec![import("()"), import("(u8)")]), Err(ElfError::Duplicate { .. })));
}

/// Flips every byte of a rich file through telling values: an error or a program, never a panic.
#[test]
fn every_altered_byte_is_survived() {
    let mut file = GuestFile::of_code(&SMALL);
    file.relocations.push((8, DATA, 0));
    file.extra_headers.push((0x6474_e552, DATA, 0, 4096));
    file.segments[1].bytes.truncate(16);
    file.segments.push(Segment { address: 0x4000, flags: R, bytes: vec![1], size: 8192 });
    file.exports.as_mut().unwrap().push(Record::function("f", "(u8) -> Vec<u8>"));
    let whole = file.to_bytes();
    for at in (0..whole.len()).step_by(STEP) {
        for value in [0, 1, 2, 3, 7, 8, 0x7f, 0x80, 0xfe, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            if let Ok(program) = Program::parse(bytes.into()) {
                let limits = crate::layout::Limits::MIN;
                let layout = crate::layout::Layout::new(&program, limits, 3).unwrap();
                let _ = layout.mappings();
                assert_eq!(program.relocations().count(), program.relocations.len() / 24);
            }
        }
    }
}
