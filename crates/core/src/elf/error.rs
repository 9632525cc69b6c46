//! Why a file is no guest.

use glowbox_abi::record::RecordError;

use super::{MAX_ADDRESS, MIN_ADDRESS};
use crate::signature::SignatureError;

/// Why a file is not a guest that can be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields are what the message says of them")]
pub enum ElfError {
    /// The file does not start as an ELF file does.
    #[error("it is not an ELF file (its first bytes are {found:02x?})")]
    NotElf { found: Vec<u8> },
    /// The file is empty.
    #[error("it is empty")]
    Empty,
    /// The file has fewer bytes than tell what a file is.
    #[error("it has only {size} bytes, too few for a guest or a snapshot: it is truncated")]
    TooShort { size: usize },
    /// A header or table reaches beyond the file.
    #[error("`{field}` reaches to byte {end}, but the file has {size} bytes: it is truncated")]
    Truncated { field: String, end: u64, size: usize },
    /// The file is for other machines.
    #[error("`{field}` is {found}, but Glowbox runs 64-bit little-endian x86-64 guests")]
    Architecture { field: &'static str, found: u16 },
    /// The file is no executable.
    #[error(
        "`e_type` is {found}, but a guest is an executable (2) or position-independent executable \
         (3): build it with glowbox-build"
    )]
    FileType { found: u16 },
    /// A field has a value that makes no sense.
    #[error("`{field}` is {found:#x}: {problem}")]
    Field { field: String, found: u64, problem: &'static str },
    /// The program wants a dynamic loader.
    #[error(
        "it wants the dynamic loader `{loader}`, but a guest is linked statically. Rust: build it \
         with glowbox-build, or with RUSTFLAGS=-Ctarget-feature=+crt-static for the target \
         x86_64-unknown-linux-gnu, or for x86_64-unknown-linux-musl. C: link it with -static-pie \
         or -static. Go: build it with CGO_ENABLED=0"
    )]
    Dynamic { loader: String },
    /// Nothing in the file is to be loaded.
    #[error("it has no PT_LOAD segment")]
    NoSegments,
    /// A segment's addresses wrap or are larger than a guest may be.
    #[error(
        "segment {index}: `{field}` is {found:#x}, but a program occupies at most {limit:#x} bytes \
         of addresses"
    )]
    Huge { index: usize, field: &'static str, found: u64, limit: u64 },
    /// Addresses outside what a guest may use.
    #[error(
        "segment {index}: `p_vaddr` is {found:#x}, but a program at a fixed address lies between {MIN_ADDRESS:#x} and {MAX_ADDRESS:#x}"
    )]
    Address { index: usize, found: u64 },
    /// Two segments want the same page.
    #[error("segments {first} and {second} overlap in the page at {page:#x}")]
    Overlap { first: usize, second: usize, page: u64 },
    /// A segment may be written and executed.
    #[error("segment {index} is writable and executable, which no guest memory is")]
    WritableCode { index: usize },
    /// The program uses thread-local storage.
    #[error(
        "it has thread-local storage (PT_TLS), which no_std guests do not have: remove what brings \
         it, or make it a guest with the standard library (feature `std` of glowbox-guest)"
    )]
    ThreadLocal,
    /// The entry point is not in code.
    #[error("`e_entry` is {found:#x}, which is not in an executable segment")]
    Entry { found: u64 },
    /// A relocation of a kind that static executables do not have.
    #[error("relocation {index} is of type {kind}, but a static PIE has only type 8 (relative)")]
    RelocationKind { index: usize, kind: u32 },
    /// A relocation writes where nothing may be written.
    #[error("relocation {index}: `r_offset` is {offset:#x}, which is not in a writable segment")]
    RelocationTarget { index: usize, offset: u64 },
    /// Of the two sections that a guest has, one is missing or empty.
    #[error(
        "it has no section `{section}` with an ABI record: it was not built against the \
         glowbox-guest library, or its linker dropped the records (link it with -z \
         nostart-stop-gc)"
    )]
    NotAGuest { section: &'static str },
    /// The guest library is in it twice, with the standard library and without.
    #[error(
        "section `{section}`: it holds two builds of glowbox-guest, one with the feature `std` and \
         one without: let all crates of the guest use the same version of it"
    )]
    TwoLibraries { section: &'static str },
    /// A section of function records is damaged.
    #[error("section `{section}`: {source}")]
    Record {
        section: &'static str,
        #[source]
        source: RecordError,
    },
    /// A function's signature is not one.
    #[error("section `{section}`, function `{function}`: {source}")]
    Signature {
        section: &'static str,
        function: String,
        #[source]
        source: SignatureError,
    },
    /// The guest was built against another version of glowbox-guest.
    #[error(
        "section `{section}`: the guest has ABI version {found}, this host has {expected}: build \
         the guest against the glowbox-guest of the same version"
    )]
    AbiVersion { section: &'static str, found: u32, expected: u32 },
    /// Two records of one name.
    #[error("section `{section}`: function `{function}` is there twice{detail}")]
    Duplicate { section: &'static str, function: String, detail: &'static str },
}
