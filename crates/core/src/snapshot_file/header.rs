//! The first page: whether this is a snapshot for here, and where everything in it stands.

use std::ops::{Range, RangeInclusive};

use super::runs::RUN_SIZE;
use super::{
    Checksum, FORMAT_VERSION, FormatError, MAX_METADATA, MAX_PROCESS, MAX_PROGRAM, MAX_RUNS,
    Reader, metadata,
};
use crate::address::PAGE_SIZE;

/// What a snapshot file starts with. The first byte is no text, and the last is a line end, which
/// transfers that take files for text alter.
const MAGIC: [u8; 8] = *b"\x89GLOWBX\n";
/// x86-64, by the number that ELF's `e_machine` has for it.
const ARCHITECTURE: u32 = 62;
/// Where the header's own checksum stands.
const CHECKSUM_AT: usize = Header::SIZE - Checksum::SIZE;

/// A stretch of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) checksum: Checksum,
}

impl Section {
    /// The first byte after it, which [`Section::check`] has shown not to wrap.
    pub(super) fn end(&self) -> u64 {
        self.offset + self.length
    }

    /// Checks that it begins at `start` and how long it is. Returns where it ends.
    fn check(
        &self,
        name: &str,
        start: u64,
        lengths: RangeInclusive<u64>,
        unit: u64,
    ) -> Result<u64, FormatError> {
        let error = |what, found, problem| {
            Err(FormatError::invalid(format!("{name} {what}"), found, problem))
        };
        if self.offset != start {
            return error("offset", self.offset, "that is not where the part before it ends");
        }
        if self.length < *lengths.start() {
            return error("length", self.length, "no snapshot has so little");
        }
        if self.length > *lengths.end() {
            return error("length", self.length, "that is more than a snapshot may have");
        }
        if !self.length.is_multiple_of(unit) {
            return error("length", self.length, "that is no whole number of its entries");
        }
        match start.checked_add(self.length) {
            Some(end) => Ok(end),
            None => error("length", self.length, "it reaches beyond the file"),
        }
    }

    fn read(
        reader: &mut Reader<'_>,
        [offset, length, checksum]: [&'static str; 3],
    ) -> Result<Section, FormatError> {
        Ok(Section {
            offset: reader.u64(offset)?,
            length: reader.u64(length)?,
            checksum: reader.checksum(checksum)?,
        })
    }
}

/// A checked header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub(super) metadata: Section,
    pub(super) runs: Section,
    pub(super) program: Section,
    pub(super) process: Section,
    pub(super) image: Section,
}

impl Header {
    /// Bytes of a header: one page.
    pub const SIZE: usize = 4096;

    /// Whether a file that begins so is meant to be a snapshot, damaged or not.
    pub fn is_snapshot(beginning: &[u8]) -> bool {
        beginning.starts_with(&MAGIC)
    }

    /// Checks the beginning of a file (its first [`Header::SIZE`] bytes, or fewer where it has
    /// fewer; more are ignored) against the length that the file has.
    ///
    /// # Errors
    ///
    /// [`FormatError`], naming the field.
    pub fn parse(beginning: &[u8], file_length: u64) -> Result<Header, FormatError> {
        let first = &beginning[..beginning.len().min(MAGIC.len())];
        if !MAGIC.starts_with(first) {
            return Err(FormatError::NotASnapshot { found: first.to_vec() });
        }
        let page: &[u8] = Reader::new(beginning).bytes("header", Header::SIZE as u64)?;
        let (page, own_checksum) = page.split_at(CHECKSUM_AT);
        let mut reader = Reader::new(&page[MAGIC.len()..]);
        // These two come first: another version may keep its checksum elsewhere.
        let version = reader.u32("format version")?;
        if version != FORMAT_VERSION {
            return Err(FormatError::Version { found: version, supported: FORMAT_VERSION });
        }
        let architecture = reader.u32("architecture")?;
        if architecture != ARCHITECTURE {
            let (found, expected) = (architecture, ARCHITECTURE);
            return Err(FormatError::Architecture { found, expected });
        }
        let own_checksum = Reader::new(own_checksum).checksum("header checksum")?;
        own_checksum.check(Checksum::of(page), "header")?;
        let length = reader.u64("file length")?;
        if file_length < length {
            let (needed, found) = (length, file_length);
            return Err(FormatError::Truncated { field: "file", needed, found });
        }
        let header = Header::read_sections(&mut reader)?;
        if let Some(byte) = reader.rest().iter().find(|byte| **byte != 0) {
            return Err(FormatError::invalid("reserved", u64::from(*byte), "it must be zero"));
        }
        let end = header.check()?;
        if end != length || length != file_length {
            let problem = "the memory image or the file ends elsewhere";
            return Err(FormatError::invalid("file length", length, problem));
        }
        Ok(header)
    }

    fn read_sections(reader: &mut Reader<'_>) -> Result<Header, FormatError> {
        let metadata = ["metadata offset", "metadata length", "metadata checksum"];
        let runs = ["runs table offset", "runs table length", "runs table checksum"];
        let program = ["program offset", "program length", "program checksum"];
        let process = ["process offset", "process length", "process checksum"];
        let image = ["memory image offset", "memory image length", "memory image checksum"];
        Ok(Header {
            metadata: Section::read(reader, metadata)?,
            runs: Section::read(reader, runs)?,
            program: Section::read(reader, program)?,
            process: Section::read(reader, process)?,
            image: Section::read(reader, image)?,
        })
    }

    /// Checks where everything stands. Returns where the file ends.
    fn check(&self) -> Result<u64, FormatError> {
        let lengths = metadata::FIXED_SIZE as u64..=MAX_METADATA;
        let end = self.metadata.check("metadata", Header::SIZE as u64, lengths, 1)?;
        let run = RUN_SIZE as u64;
        let end = self.runs.check("runs table", end, run..=run * MAX_RUNS as u64, run)?;
        let end = self.program.check("program", end, 0..=MAX_PROGRAM, 1)?;
        let end = self.process.check("process", end, 0..=MAX_PROCESS, 1)?;
        let start = end.next_multiple_of(PAGE_SIZE);
        self.image.check("memory image", start, PAGE_SIZE..=u64::MAX, PAGE_SIZE)
    }

    /// The header of a file with these sections: metadata, runs table, program, process.
    pub(super) fn new(
        parts: [&[u8]; 4],
        image_length: u64,
        image: Checksum,
    ) -> Result<Header, FormatError> {
        let mut offset = Header::SIZE as u64;
        let [metadata, runs, program, process] = parts.map(|bytes| {
            let length = bytes.len() as u64;
            let section = Section { offset, length, checksum: Checksum::of(bytes) };
            offset += length;
            section
        });
        let offset = offset.next_multiple_of(PAGE_SIZE);
        let image = Section { offset, length: image_length, checksum: image };
        let header = Header { metadata, runs, program, process, image };
        header.check()?;
        Ok(header)
    }

    pub(super) fn encode(&self) -> [u8; Header::SIZE] {
        let mut bytes = Vec::with_capacity(Header::SIZE);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&ARCHITECTURE.to_le_bytes());
        bytes.extend_from_slice(&self.image.end().to_le_bytes());
        let sections = [&self.metadata, &self.runs, &self.program, &self.process, &self.image];
        for section in sections {
            bytes.extend_from_slice(&section.offset.to_le_bytes());
            bytes.extend_from_slice(&section.length.to_le_bytes());
            bytes.extend_from_slice(&section.checksum.to_bytes());
        }
        let mut page = [0; Header::SIZE];
        page[..bytes.len()].copy_from_slice(&bytes);
        let checksum = Checksum::of(&page[..CHECKSUM_AT]);
        page[CHECKSUM_AT..].copy_from_slice(&checksum.to_bytes());
        page
    }

    /// The bytes of the file that [`super::Contents::parse`] wants: all between header and image. At
    /// most [`MAX_PROGRAM`], [`MAX_PROCESS`] and a few pages, and never more than the file has.
    pub fn contents(&self) -> Range<u64> {
        self.metadata.offset..self.image.offset
    }

    /// What the file consists of after its header, by name, in the file's order.
    pub fn sections(&self) -> [(&'static str, Range<u64>); 4] {
        let range = |section: &Section| section.offset..section.end();
        [
            ("metadata", range(&self.metadata)),
            ("runs table", range(&self.runs)),
            ("program", range(&self.program)),
            ("memory image", range(&self.image)),
        ]
    }

    /// Bytes of a Linux guest's process, which are among [`Header::contents`]. Who has not asked for as
    /// much need not read them.
    pub fn process_length(&self) -> u64 {
        self.process.length
    }

    /// The bytes of the file that are the memory image: whole pages, at least one.
    pub fn image(&self) -> Range<u64> {
        self.image.offset..self.image.end()
    }

    /// Compares the checksum of the memory image with what the file says.
    ///
    /// # Errors
    ///
    /// [`FormatError::Checksum`].
    pub fn check_image(&self, found: Checksum) -> Result<(), FormatError> {
        self.image.checksum.check(found, "memory image")
    }
}
