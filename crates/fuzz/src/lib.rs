//! What Glowbox's fuzzers do with their bytes.
//!
//! Each target is a function of bytes that panics where a promise is broken. libFuzzer calls it (see
//! `fuzz/`), and so does `cargo test` of this crate, with the corpus and with mutations of it, on any
//! compiler. `docs/fuzzing.md` says what each checks, and what it has been through.

#![forbid(unsafe_code)]

pub mod elf;
pub mod from_guest;
pub mod guest;
mod input;
pub mod paging;
pub mod sections;
pub mod snapshot_file;
pub mod syscalls;
pub mod to_guest;
mod values;
mod walker;

/// A target: its name, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// The target that needs a hypervisor.
pub const ON_KVM: Target = ("guest", guest::run);

/// Every target that needs none.
pub const PURE: [Target; 7] = [
    ("elf", elf::run),
    ("sections", sections::run),
    ("from_guest", from_guest::run),
    ("to_guest", to_guest::run),
    ("snapshot_file", snapshot_file::run),
    ("paging", paging::run),
    ("syscalls", syscalls::run),
];
