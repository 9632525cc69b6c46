//! A snapshot as a file, and a file as a snapshot.
//!
//! ```text
//!           0 ┌──────────────┐
//!             │ header       │ one page: what, for what, and where the rest stands
//!        4096 ├──────────────┤
//!             │ metadata     │ what the sandbox was made with, the vCPU's state
//!             ├──────────────┤
//!             │ runs table   │ which pages of guest memory the image holds
//!             ├──────────────┤
//!             │ program      │ the guest's ELF file
//!             ├──────────────┤
//!             │ process      │ a Linux guest's process; empty for others
//!             ├──────────────┤
//!             │ zero padding │
//!   multiple  ├──────────────┤
//!    of 4096  │ memory image │ the pages, one after the other: mapped, not read
//!             └──────────────┘
//! ```
//!
//! `docs/snapshot-format.md` has every byte. What this module promises of any bytes at all: no
//! panic, no allocation that their own length does not justify, and an error that names the field.
//! Two decisions carry that. The sections stand in one order without gaps, so an offset has exactly
//! one value that is right, and nothing can overlap. And every byte before the image has exactly one
//! meaning, reserved bytes are zero: what decodes, encodes to the same bytes again.
//!
//! Everything but the image is checked against its checksum at every load. The image is checked only
//! by who asks for it ([`ImageHasher`], [`Header::check_image`]), because that costs time in
//! proportion to its size. Checksums find damage; they do not make a file trustworthy, since who
//! writes a file can write its checksums. What is decoded is therefore checked as if there were none.
//!
//! To save: hash the image's pages in order, write [`Contents::encode`] and then the pages. To load:
//! read a page, [`Header::parse`] it, read [`Header::contents`], [`Contents::parse`] them,
//! [`Metadata::check_cpu`], map [`Header::image`].

mod checksum;
mod error;
mod features;
mod header;
mod metadata;
mod reader;
mod runs;

pub use checksum::{Checksum, ImageHasher};
pub use error::FormatError;
pub use features::{CpuidRegister, FeatureWord, check_features, check_xcr0};
pub use header::Header;
pub use metadata::Metadata;
pub use runs::Run;

use header::Section;
use reader::Reader;

/// Version of the format that is written, and the only one that is read.
pub const FORMAT_VERSION: u32 = 2;
/// Most bytes of metadata.
pub const MAX_METADATA: u64 = 64 << 10;
/// Most bytes of a guest's ELF file.
pub const MAX_PROGRAM: u64 = 512 << 20;
/// Most bytes of a Linux guest's process, which its files are part of.
pub const MAX_PROCESS: u64 = 1 << 30;
/// Most runs of pages.
pub const MAX_RUNS: usize = 65_536;
/// Most bytes of guest memory.
pub const MAX_WINDOW: u64 = 128 << 30;
/// Most bytes of a guest's name.
pub const MAX_NAME: usize = 4096;
/// Most bytes of the text that says which version of Glowbox saved the file.
pub const MAX_CREATOR: usize = 64;
/// Most bytes of a log record's text.
pub const MAX_LOG_TEXT: u64 = 1 << 20;
/// Most words of CPU features.
pub const MAX_FEATURES: usize = 64;
/// Fewest bytes of extended state: what every CPU has of it, and the header that XSAVE adds.
pub const MIN_EXTENDED_STATE: usize = 576;
/// Most bytes of extended state.
pub const MAX_EXTENDED_STATE: usize = 4096;

/// What stands before the memory image, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents<'a> {
    /// What the sandbox was made with, and its vCPU's state.
    pub metadata: Metadata,
    /// Which pages of guest memory the image holds. All others are zero.
    pub runs: Vec<Run>,
    /// The guest's ELF file. Its bytes are not looked at here.
    pub program: &'a [u8],
    /// A Linux guest's process; empty for others. Its bytes are not looked at here.
    pub process: &'a [u8],
}

impl<'a> Contents<'a> {
    /// Checks and decodes the bytes of [`Header::contents`]; what follows them is ignored.
    ///
    /// # Errors
    ///
    /// [`FormatError`], naming the field.
    pub fn parse(header: &Header, bytes: &'a [u8]) -> Result<Contents<'a>, FormatError> {
        let mut reader = Reader::new(bytes);
        let metadata = section(&mut reader, "metadata", &header.metadata)?;
        let runs = section(&mut reader, "runs table", &header.runs)?;
        let program = section(&mut reader, "program", &header.program)?;
        let process = section(&mut reader, "process", &header.process)?;
        let padding = header.image.offset - header.process.end();
        if let Some(byte) = reader.bytes("padding", padding)?.iter().find(|byte| **byte != 0) {
            return Err(FormatError::invalid("padding", u64::from(*byte), "it must be zero"));
        }
        let metadata = Metadata::decode(metadata)?;
        let runs = runs::decode(runs)?;
        let image = runs::check(&runs, metadata.window_size)?;
        if image != header.image.length {
            let problem = "the runs table has another number of pages";
            return Err(FormatError::invalid("memory image length", header.image.length, problem));
        }
        Ok(Contents { metadata, runs, program, process })
    }

    /// Everything that stands before the memory image, from the file's first byte on. `image` is the
    /// checksum of the pages that will follow: all pages of all runs, in order.
    ///
    /// # Errors
    ///
    /// [`FormatError::Unsavable`] if [`Contents::parse`] would refuse it.
    pub fn encode(&self, image: Checksum) -> Result<Vec<u8>, FormatError> {
        self.encode_checked(image).map_err(FormatError::when_saving)
    }

    fn encode_checked(&self, image: Checksum) -> Result<Vec<u8>, FormatError> {
        let metadata = self.metadata.encode()?;
        let image_length = runs::check(&self.runs, self.metadata.window_size)?;
        let runs = runs::encode(&self.runs);
        let parts = [&metadata[..], &runs, self.program, self.process];
        let header = Header::new(parts, image_length, image)?;
        let size = Header::SIZE + parts.iter().map(|part| part.len()).sum::<usize>();
        let size = size.next_multiple_of(Header::SIZE);
        let mut bytes = Vec::with_capacity(size);
        bytes.extend_from_slice(&header.encode());
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        bytes.resize(size, 0);
        Ok(bytes)
    }
}

fn section<'a>(
    reader: &mut Reader<'a>,
    name: &'static str,
    section: &Section,
) -> Result<&'a [u8], FormatError> {
    let bytes = reader.bytes(name, section.length)?;
    section.checksum.check(Checksum::of(bytes), name)?;
    Ok(bytes)
}
