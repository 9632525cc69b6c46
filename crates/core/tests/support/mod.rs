//! A small snapshot file, and the means to damage it so that its checksums still match.

use glowbox_core::layout::Limits;
use glowbox_core::registers::Registers;
use glowbox_core::snapshot_file::{
    Contents, CpuidRegister, FeatureWord, FormatError, Header, ImageHasher, Metadata, Run,
};
use xxhash_rust::xxh3::xxh3_128;

pub(crate) const PROGRAM: &[u8] = b"\x7fELF and whatever else a program has";

/// Stands for a process.
pub(crate) const PROCESS: &[u8] = b"a process";
pub(crate) const IMAGE_PAGES: u64 = 5;

pub(crate) fn metadata() -> Metadata {
    let word = |leaf, subleaf, register, mask| FeatureWord { leaf, subleaf, register, mask };
    let registers = Registers {
        rax: 0xa0,
        rbx: 0xa1,
        rcx: 0xa2,
        rdx: 0xa3,
        rsi: 0xa4,
        rdi: 0xa5,
        rsp: 0xa6,
        rbp: 0xa7,
        r8: 0xa8,
        r9: 0xa9,
        r10: 0xaa,
        r11: 0xab,
        r12: 0xac,
        r13: 0xad,
        r14: 0xae,
        r15: 0xaf,
        rip: 0x7fff_ffff_fff0,
        rflags: 0x246,
    };
    Metadata {
        creator: "0.1.0-test".to_string(),
        features: vec![
            word(1, 0, CpuidRegister::Ecx, 1 << 28),
            word(0xd, 1, CpuidRegister::Eax, 7),
            word(0x8000_0001, 0, CpuidRegister::Edx, 1 << 29),
        ],
        xcr0: 0b111,
        limits: Limits { heap: 1 << 20, stack: 64 << 10, incoming: 8 << 10, outgoing: 4 << 10 },
        load_base: 0x1_2345_6000,
        window_size: 2 << 20,
        registers,
        fs_base: 0xffff_8000_0000_0000,
        gs_base: 0x7fff_ffff_ffff,
        extended_state: (0..840u32).map(|n| n.to_le_bytes()[0]).collect(),
        name: "größer.elf".to_string(),
        seed: Some(0x5eed),
        log_level: 3,
        log_text_limit: 8192,
    }
}

pub(crate) fn runs() -> Vec<Run> {
    covering([0..3, 7..8, 511..512])
}

/// The file's metadata, runs table, program and process, as bytes that can be replaced one by one.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) metadata: Vec<u8>,
    pub(crate) runs: Vec<u8>,
    pub(crate) program: Vec<u8>,
    pub(crate) process: Vec<u8>,
    pub(crate) image: Vec<u8>,
}

impl Parts {
    pub(crate) fn proper() -> Parts {
        Parts::of(&file())
    }

    /// The parts of a proper file.
    pub(crate) fn of(file: &[u8]) -> Parts {
        let header = Header::parse(&file[..Header::SIZE], file.len() as u64).unwrap();
        let part = |at: usize| {
            let number = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
            let (offset, length) = (number(at), number(at + 8));
            range(offset..offset + length)
        };
        Parts {
            metadata: file[part(24)].to_vec(),
            runs: file[part(56)].to_vec(),
            program: file[part(88)].to_vec(),
            process: file[part(120)].to_vec(),
            image: file[range(header.image())].to_vec(),
        }
    }

    /// A file of these parts whose header fits them, whatever they hold.
    pub(crate) fn assemble(&self) -> Vec<u8> {
        let mut file = vec![0; Header::SIZE];
        let mut header = b"\x89GLOWBX\n\x02\0\0\0\x3e\0\0\0\0\0\0\0\0\0\0\0".to_vec();
        let parts = [&self.metadata, &self.runs, &self.program, &self.process];
        for (part, align) in parts.into_iter().map(|part| (part, 1)).chain([(&self.image, 4096)]) {
            file.resize(file.len().next_multiple_of(align), 0);
            header.extend_from_slice(&(file.len() as u64).to_le_bytes());
            header.extend_from_slice(&(part.len() as u64).to_le_bytes());
            header.extend_from_slice(&xxh3_128(part).to_le_bytes());
            file.extend_from_slice(part);
        }
        let length = file.len() as u64;
        header[16..24].copy_from_slice(&length.to_le_bytes());
        file[..header.len()].copy_from_slice(&header);
        seal(&mut file);
        file
    }
}

/// Makes the header's checksum match again.
pub(crate) fn seal(file: &mut [u8]) {
    let checksum = xxh3_128(&file[..4080]);
    file[4080..4096].copy_from_slice(&checksum.to_le_bytes());
}

pub(crate) fn image() -> Vec<u8> {
    (0..IMAGE_PAGES * 4096).map(|n| (n % 251).to_le_bytes()[0]).collect()
}

/// What a proper file holds.
pub(crate) fn contents() -> Contents<'static> {
    Contents { metadata: metadata(), runs: runs(), program: PROGRAM, process: PROCESS }
}

/// A proper file.
pub(crate) fn file() -> Vec<u8> {
    let image = image();
    let mut hasher = ImageHasher::new();
    hasher.update(&image);
    let contents = contents();
    let mut file = contents.encode(hasher.finish()).unwrap();
    file.extend_from_slice(&image);
    file
}

pub(crate) fn range(range: std::ops::Range<u64>) -> std::ops::Range<usize> {
    usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()
}

/// Loads a file with its image verified, as a library does that reads no more than it is told.
pub(crate) fn load(file: &[u8]) -> Result<(Header, Contents<'_>), FormatError> {
    let header = Header::parse(&file[..file.len().min(Header::SIZE)], file.len() as u64)?;
    // Whoever has a header may map what it names: a page beyond the file's end would be fatal.
    assert_eq!(header.contents().end, header.image().start);
    assert_eq!(header.image().end, file.len() as u64);
    assert!([header.image().start, header.image().end].iter().all(|at| at % 4096 == 0));
    let contents = Contents::parse(&header, &file[range(header.contents())])?;
    let mut hasher = ImageHasher::new();
    hasher.update(&file[range(header.image())]);
    header.check_image(hasher.finish())?;
    Ok((header, contents))
}

/// Loads a damaged file. Either it is refused, or it means what it says: saved again it is the same.
/// Returns the error's text.
pub(crate) fn refused_or_exact(file: &[u8]) -> Option<String> {
    match load(file) {
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains('`'), "it names no field: {text}");
            Some(text)
        }
        Ok((header, contents)) => {
            let image = &file[range(header.image())];
            let mut hasher = ImageHasher::new();
            hasher.update(image);
            let again = contents.encode(hasher.finish()).unwrap();
            assert!(again == file[..again.len()] && again.len() + image.len() == file.len());
            None
        }
    }
}

/// Every value at the borders of what a number can be, and of what this file's numbers are.
pub(crate) const BORDERS: [u64; 26] = [
    0,
    1,
    3,
    4,
    5,
    24,
    64,
    65,
    264,
    575,
    576,
    4095,
    4096,
    4097,
    24 * 1024,
    (64 << 10) + 1,
    (512 << 20) + 1,
    (1 << 31) - 1,
    u32::MAX as u64,
    1 << 32,
    128 << 30,
    1 << 47,
    i64::MAX as u64,
    u64::MAX - 4095,
    u64::MAX - 1,
    u64::MAX,
];

/// Runs of these ranges of pages, which ascend.
pub(crate) fn covering(ranges: impl IntoIterator<Item = std::ops::Range<u64>>) -> Vec<Run> {
    let mut image_page = 0;
    let run = |range: std::ops::Range<u64>| {
        let run = Run { first_page: range.start, pages: range.end - range.start, image_page };
        image_page += run.pages;
        run
    };
    ranges.into_iter().map(run).collect()
}
