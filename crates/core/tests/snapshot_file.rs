//! Snapshot files: what is saved is loaded, what is documented is so, and no damage gets through.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use glowbox_core::layout::Limits;
use glowbox_core::snapshot_file::{Contents, FormatError, Header, ImageHasher, Metadata, Run};
use support::{
    BORDERS, IMAGE_PAGES, Parts, contents, file, image, load, metadata, range, refused_or_exact,
    seal,
};

#[test]
fn what_is_saved_is_what_is_loaded() {
    let file = file();
    let (header, contents) = load(&file).unwrap();
    assert_eq!(contents, support::contents());
    assert_eq!(header.contents().start, 4096);
    assert_eq!(header.contents().end, header.image().start);
    assert_eq!(header.image().start % 4096, 0);
    assert_eq!(file[range(header.image())], image());
    assert_eq!(Parts::proper().assemble(), file);
}

#[test]
fn extremes_of_every_part_can_be_saved_and_loaded() {
    let feature = metadata().features[0];
    let metadata = Metadata {
        creator: "x".repeat(64),
        features: vec![feature; 64],
        extended_state: vec![1; 4096],
        name: "n".repeat(4096),
        seed: None,
        window_size: 128 << 30,
        ..metadata()
    };
    let runs = support::covering((0..1024).map(|n| n * 2..n * 2 + 1));
    let program = vec![7; 4096 * 3 + 1];
    let contents = Contents { metadata, runs, program: &program, process: &program[1..] };
    let mut hasher = ImageHasher::new();
    hasher.update(&[0; 1024 * 4096]);
    let mut file = contents.encode(hasher.finish()).unwrap();
    file.resize(file.len() + 1024 * 4096, 0);
    assert_eq!(load(&file).unwrap().1, contents);
}

/// A table of `docs/snapshot-format.md`: offset, size, field.
fn documented(section: &str) -> Vec<(usize, usize, &'static str)> {
    let document = include_str!("../../../docs/snapshot-format.md");
    let start = document.find(&format!("\n## {section}\n")).unwrap() + 1;
    let body = &document[start + 3..];
    let body = &body[..body.find("\n## ").unwrap()];
    let rows = body.lines().filter_map(|line| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let (offset, size) = (cells.next()?.parse().ok()?, cells.next()?.parse().ok()?);
        Some((offset, size, cells.next()?))
    });
    rows.collect()
}

#[test]
fn documented_fields_leave_no_gaps() {
    for (section, size) in [("Header", 4096), ("Metadata", 264), ("Runs table", 24)] {
        let fields = documented(section);
        let end = fields.iter().fold(0, |at, (offset, size, field)| {
            assert_eq!(at, *offset, "{section}: {field}");
            at + size
        });
        assert_eq!(end, size, "{section}");
    }
}

/// All ones is an impossible value for most fields; the error must name the one that is documented
/// at that place.
#[test]
fn an_impossible_value_is_named_by_the_field_documented_there() {
    // A checksum that does not match is told of what it is the checksum of.
    let named = |text: &str, field: &str| {
        let field = field.strip_suffix(" checksum").unwrap_or(field);
        text.contains(&format!("`{field}`")) || text.contains(&format!(": {field}`"))
    };
    for (offset, size, field) in documented("Header") {
        let mut file = file();
        file[offset..offset + size].fill(0xff);
        if (16..4080).contains(&offset) {
            seal(&mut file);
        }
        let text = refused_or_exact(&file).unwrap();
        let field = if field == "file length" { "file" } else { field };
        assert!(named(&text, field), "{field}: {text}");
    }
    let any_value = [
        "seed", "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", "r8", "r9", "r10", "r11",
        "r12", "r13", "r14", "r15", "XCR0", "FS base", "GS base",
    ];
    for (offset, size, field) in documented("Metadata") {
        let mut parts = Parts::proper();
        parts.metadata[offset..offset + size].fill(0xff);
        match refused_or_exact(&parts.assemble()) {
            Some(text) => assert!(named(&text, field), "{field}: {text}"),
            None => assert!(any_value.contains(&field), "{field}"),
        }
    }
    for (offset, size, field) in documented("Runs table") {
        let mut parts = Parts::proper();
        parts.runs[offset..offset + size].fill(0xff);
        let text = refused_or_exact(&parts.assemble()).unwrap();
        assert!(named(&text, field) && text.contains("run 0"), "{field}: {text}");
    }
}

#[test]
fn fields_that_take_any_value_stand_where_documented() {
    let parts = Parts::proper();
    let at = |name: &str| {
        let (offset, size, _) =
            documented("Metadata").into_iter().find(|(.., field)| *field == name).unwrap();
        assert_eq!(size, 8);
        u64::from_le_bytes(parts.metadata[offset..offset + 8].try_into().unwrap())
    };
    let metadata = metadata();
    let registers = [
        "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", "r8", "r9", "r10", "r11", "r12",
        "r13", "r14", "r15",
    ];
    assert_eq!(registers.map(at).to_vec(), (0xa0..0xb0).collect::<Vec<u64>>());
    assert_eq!(Some(at("seed")), metadata.seed);
    assert_eq!(at("XCR0"), metadata.xcr0);
    assert_eq!((at("FS base"), at("GS base")), (metadata.fs_base, metadata.gs_base));
}

#[test]
fn a_file_cut_off_anywhere_is_refused_as_truncated() {
    let file = file();
    for length in 0..file.len() {
        let error = load(&file[..length]).unwrap_err();
        let FormatError::Truncated { field, needed, found } = error else {
            panic!("{length}: {error}")
        };
        let expected = if length < 4096 { ("header", 4096) } else { ("file", file.len() as u64) };
        assert_eq!((field, needed), expected);
        assert_eq!(found, length as u64);
    }
}

/// Who reads fewer bytes than the header says (the file became shorter meanwhile) is told which part
/// is not there.
#[test]
fn contents_cut_off_anywhere_are_refused_as_truncated() {
    let file = file();
    let (header, _) = load(&file).unwrap();
    let contents = &file[range(header.contents())];
    let mut fields = Vec::new();
    for length in 0..contents.len() {
        match Contents::parse(&header, &contents[..length]).unwrap_err() {
            FormatError::Truncated { field, needed, found } => {
                assert!(found < needed);
                fields.push(field);
            }
            other => panic!("{length}: {other}"),
        }
    }
    fields.dedup();
    assert_eq!(fields, ["metadata", "runs table", "program", "process", "padding"]);
}

#[test]
fn every_flipped_bit_is_found() {
    let mut file = file();
    let image_start = file.len() - image().len();
    for at in 0..file.len() {
        // Every bit before the image; in the image, where a check takes longer, one of a byte.
        let bits = if at < image_start { 0..8 } else { at % 8..at % 8 + 1 };
        // Not every byte of the image either: it is one checksum over all of them.
        if at >= image_start && at % 61 != 0 {
            continue;
        }
        for bit in bits {
            file[at] ^= 1 << bit;
            assert!(refused_or_exact(&file).is_some(), "byte {at}, bit {bit}");
            file[at] ^= 1 << bit;
        }
    }
    load(&file).unwrap();
}

#[test]
fn damage_to_each_part_is_named() {
    let file = file();
    let text = |at: usize| {
        let mut file = file.clone();
        file[at] ^= 0x10;
        load(&file).unwrap_err()
    };
    let number = |at: usize| {
        usize::try_from(u64::from_le_bytes(file[at..at + 8].try_into().unwrap())).unwrap()
    };
    let checksum = |field| FormatError::Checksum { field };
    assert!(matches!(text(0), FormatError::NotASnapshot { .. }));
    assert!(matches!(text(8), FormatError::Version { found: 18, supported: 2 }));
    assert!(matches!(text(12), FormatError::Architecture { found: 46, expected: 62 }));
    assert_eq!(text(2000), checksum("header"));
    assert_eq!(text(number(24)), checksum("metadata"));
    assert_eq!(text(number(56)), checksum("runs table"));
    assert_eq!(text(number(88)), checksum("program"));
    assert_eq!(text(number(120)), checksum("process"));
    assert!(text(number(152) - 1).to_string().starts_with("`padding` is 0x10"));
    assert_eq!(text(number(152)), checksum("memory image"));
}

#[test]
fn flipped_bits_under_matching_checksums_are_refused_or_exact() {
    let proper = file();
    for at in 0..4080 {
        for bit in 0..8 {
            let mut file = proper.clone();
            file[at] ^= 1 << bit;
            seal(&mut file);
            assert!(refused_or_exact(&file).is_some(), "header byte {at}, bit {bit}");
        }
    }
    let mut parts = Parts::proper();
    for at in 0..parts.metadata.len() {
        for bit in 0..8 {
            parts.metadata[at] ^= 1 << bit;
            refused_or_exact(&parts.assemble());
            parts.metadata[at] ^= 1 << bit;
        }
    }
    for at in 0..parts.runs.len() {
        for bit in 0..8 {
            parts.runs[at] ^= 1 << bit;
            refused_or_exact(&parts.assemble());
            parts.runs[at] ^= 1 << bit;
        }
    }
}

/// At every offset, aligned or not, as four bytes and as eight. In the metadata that is the fixed part
/// and the feature words; behind them stand bytes that mean nothing here.
#[test]
fn boundary_values_under_matching_checksums_are_refused_or_exact() {
    let proper = file();
    let parts = Parts::proper();
    for value in BORDERS.map(u64::to_le_bytes) {
        for width in [4, 8] {
            for at in 8..=152 - width {
                let mut file = proper.clone();
                file[at..at + width].copy_from_slice(&value[..width]);
                seal(&mut file);
                refused_or_exact(&file);
            }
            for at in 0..=264 + 3 * 16 - width {
                let mut parts = parts.clone();
                parts.metadata[at..at + width].copy_from_slice(&value[..width]);
                refused_or_exact(&parts.assemble());
            }
            for at in 0..=parts.runs.len() - width {
                let mut parts = parts.clone();
                parts.runs[at..at + width].copy_from_slice(&value[..width]);
                refused_or_exact(&parts.assemble());
            }
        }
    }
}

/// Under a header that fits, so that it is the part's own check that has to find it.
#[test]
fn parts_of_every_length_are_refused_or_exact() {
    let proper = Parts::proper();
    for length in 0..proper.metadata.len() {
        let mut parts = proper.clone();
        parts.metadata.truncate(length);
        assert!(refused_or_exact(&parts.assemble()).is_some(), "{length}");
    }
    for extra in [1, 100, 64 << 10] {
        let mut parts = proper.clone();
        parts.metadata.resize(parts.metadata.len() + extra, 0);
        assert!(refused_or_exact(&parts.assemble()).unwrap().contains("`metadata length`"));
    }
    for length in (0..200).chain([24 * 1023, 24 * 1024, 24 * 1025]) {
        let mut parts = proper.clone();
        parts.runs.resize(length, 0);
        assert_eq!(refused_or_exact(&parts.assemble()).is_none(), length == proper.runs.len());
    }
    for pages in 0..10 {
        let mut parts = proper.clone();
        parts.image.resize(pages * 4096, 0);
        let refused = refused_or_exact(&parts.assemble());
        assert_eq!(refused.is_none(), pages as u64 == IMAGE_PAGES);
        assert!(refused.is_none_or(|text| text.contains("`memory image length`")));
    }
    for length in [1, 4095, 4097, 5 * 4096 - 1] {
        let mut parts = proper.clone();
        parts.image.truncate(length);
        let text = refused_or_exact(&parts.assemble()).unwrap();
        assert!(text.contains("`memory image length`"), "{text}");
    }
    for length in [0, 1, 5000] {
        let mut parts = proper.clone();
        parts.program.resize(length, 9);
        assert_eq!(refused_or_exact(&parts.assemble()), None);
    }
}

#[test]
fn a_file_with_something_behind_it_is_refused() {
    let mut file = file();
    file.push(0);
    let text = load(&file).unwrap_err().to_string();
    assert!(text.starts_with("`file length`"), "{text}");
}

#[test]
fn what_is_no_snapshot_is_said_to_be_none() {
    for bytes in [&b"\x7fELF\x02\x01\x01\0"[..], b"#!/bin/sh", b"x", &[0; 5000]] {
        let error = load(bytes).unwrap_err();
        assert!(matches!(error, FormatError::NotASnapshot { .. }), "{error}");
    }
}

#[test]
fn another_versions_file_says_so_whatever_else_it_holds() {
    let mut file = file();
    file[8..4096].fill(0xee);
    file[8..12].copy_from_slice(&3u32.to_le_bytes());
    let error = load(&file).unwrap_err();
    assert_eq!(error, FormatError::Version { found: 3, supported: 2 });
    assert!(error.to_string().contains("save the snapshot again"));

    let mut parts = Parts::proper();
    parts.metadata[0] ^= 0x80;
    let text = load(&parts.assemble()).unwrap_err().to_string();
    assert!(text.starts_with("`ABI version`") && text.contains("Glowbox 0.1.0-test"), "{text}");
}

#[test]
fn a_cpu_without_what_the_guest_was_shown_is_refused() {
    let metadata = metadata();
    metadata.check_cpu(&metadata.features, 0b1111).unwrap();
    let text = metadata.check_cpu(&metadata.features[1..], 0b111).unwrap_err().to_string();
    assert!(text.starts_with("`CPU features` has AVX, which"), "{text}");
    let text = metadata.check_cpu(&metadata.features, 0b11).unwrap_err().to_string();
    assert!(text.contains("AVX state (XCR0 bit 2)"), "{text}");
}

#[test]
fn what_could_not_be_loaded_is_not_saved() {
    let save = |change: fn(&mut Contents<'_>)| {
        let mut contents = contents();
        change(&mut contents);
        match contents.encode(ImageHasher::new().finish()) {
            Err(FormatError::Unsavable { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(save(|c| c.metadata.name = "n".repeat(4097)), "name length");
    assert_eq!(save(|c| c.metadata.creator.clear()), "creator length");
    assert_eq!(save(|c| c.metadata.creator.push('\n')), "creator");
    assert_eq!(save(|c| c.metadata.extended_state.clear()), "extended state length");
    assert_eq!(save(|c| c.metadata.registers.rip = 1 << 47), "rip");
    assert_eq!(save(|c| c.metadata.registers.rflags = 1 << 17), "rflags");
    assert_eq!(save(|c| c.metadata.fs_base = 1 << 47), "FS base");
    assert_eq!(save(|c| c.metadata.limits.heap = 0), "heap limit");
    assert_eq!(save(|c| c.metadata.limits.heap = Limits::MAX.heap + 4096), "heap limit");
    assert_eq!(save(|c| c.metadata.limits.stack = Limits::MIN.stack - 4096), "stack limit");
    assert_eq!(
        save(|c| c.metadata.limits.incoming = Limits::MAX.incoming + 4096),
        "incoming limit"
    );
    assert_eq!(
        save(|c| c.metadata.limits.outgoing = Limits::MAX.outgoing + 4096),
        "outgoing limit"
    );
    assert_eq!(save(|c| c.metadata.window_size = 0), "window size");
    assert_eq!(save(|c| c.metadata.window_size = (128 << 30) + 4096), "window size");
    assert_eq!(save(|c| c.metadata.window_size += 8), "window size");
    assert_eq!(save(|c| c.metadata.log_text_limit = 0), "log text limit");
    assert_eq!(save(|c| c.metadata.log_level = 6), "log level");
    assert_eq!(save(|c| c.runs.clear()), "runs table length");
    assert_eq!(save(|c| c.runs[1].image_page = 0), "run 1: image page");
    let too_many = |c: &mut Contents<'_>| {
        c.metadata.window_size = 1 << 30;
        c.runs = (0..65_537).map(|n| Run { first_page: n, pages: 1, image_page: n }).collect();
    };
    assert_eq!(save(too_many), "runs table length");
}

#[test]
fn the_checksum_is_xxh3_of_the_bytes_however_they_are_cut() {
    let hash = |pieces: &[&[u8]]| {
        let mut hasher = ImageHasher::new();
        pieces.iter().for_each(|piece| hasher.update(piece));
        hasher.finish()
    };
    let image = image();
    let whole = hash(&[&image]);
    for cut in [0, 1, 255, 256, 4096, 5000] {
        assert_eq!(hash(&[&image[..cut], &image[cut..]]), whole);
    }
    // As published for XXH3-128 of nothing.
    assert_eq!(format!("{:?}", hash(&[])), "Checksum(99aa06d3014798d86001c324468d497f)");
    let file = file();
    let header = Header::parse(&file, file.len() as u64).unwrap();
    header.check_image(whole).unwrap();
    assert!(header.check_image(hash(&[&image[1..]])).is_err());
}
