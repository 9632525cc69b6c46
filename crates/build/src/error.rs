//! Why a guest was not built.
//!
//! Each text stands by itself: what happened, to which guest, and what to do. Most people meet it
//! as a few lines in the middle of their own build's output, so what cargo said comes along.

use std::io;
use std::path::PathBuf;

/// Why a guest was not built. The text says what to do about it.
///
/// Where it has an `output`, that is what cargo and the compiler wrote; the text ends with it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The guest's folder isn't there, or is not a folder.
    #[error(
        "there is no guest in `{}`: it is not a folder (looked from `{}`). \
         Give the path of the folder with the guest's Cargo.toml",
        guest.display(), current_dir.display()
    )]
    NotADirectory {
        /// The folder as it was given.
        guest: PathBuf,
        /// What a relative path was resolved against.
        current_dir: PathBuf,
    },

    /// The guest's folder has no `Cargo.toml`.
    #[error(
        "the folder `{}` has no Cargo.toml. Give the folder of a guest package, or of a workspace \
         of guests",
        guest.display()
    )]
    NoManifest {
        /// The guest's folder.
        guest: PathBuf,
    },

    /// This machine is not one on which guests are built.
    #[error(
        "the guest in `{}` can't be built here: guests are built on linux x86_64, and this is \
         {os} {arch}",
        guest.display()
    )]
    UnsupportedHost {
        /// The guest's folder.
        guest: PathBuf,
        /// The operating system, as `std::env::consts::OS` names it.
        os: String,
        /// The architecture, as `std::env::consts::ARCH` names it.
        arch: String,
    },

    /// There is no cargo.
    #[error(
        "the guest in `{}` can't be built: there is no program `{}`. Install Rust \
         (https://rustup.rs), put cargo in the PATH, or set the variable CARGO to its path",
        guest.display(), cargo.display()
    )]
    CargoMissing {
        /// The guest's folder.
        guest: PathBuf,
        /// The program that was looked for.
        cargo: PathBuf,
    },

    /// The operating system refused to run cargo.
    #[error("the guest in `{}` can't be built: `{}` can't be run", guest.display(), cargo.display())]
    CargoNotRun {
        /// The guest's folder.
        guest: PathBuf,
        /// The program that was to be run.
        cargo: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },

    /// The compiler has no libraries for the guests' target.
    #[error(
        "the guest in `{}` can't be built: the Rust compiler has no libraries for {target} (there \
         is no `{}`). Run `rustup target add {target}`, or install the package of your \
         distribution that has them",
        guest.display(), libdir.display()
    )]
    TargetMissing {
        /// The guest's folder.
        guest: PathBuf,
        /// The target triple.
        target: &'static str,
        /// Where the compiler would have looked for them.
        libdir: PathBuf,
    },

    /// The program to link with isn't installed.
    #[error(
        "the guest in `{}` can't be linked: there is no program `{linker}`. Install a C compiler \
         (`apt-get install gcc`, `dnf install gcc`, `apk add gcc`), or choose another linker with \
         the variable CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER. cargo said:\n{output}",
        guest.display()
    )]
    LinkerMissing {
        /// The guest's folder.
        guest: PathBuf,
        /// The linker that was looked for.
        linker: String,
        /// What cargo said.
        output: String,
    },

    /// The guest lies inside the folder of a workspace that doesn't mention it.
    #[error(
        "the guest in `{}` can't be built: it lies within a workspace that doesn't list it. Put it \
         on the `exclude` list of that workspace, or an empty `[workspace]` table in the guest's \
         Cargo.toml. (Don't make it a member: it can't be built with the host's flags.) cargo \
         said:\n{output}",
        guest.display()
    )]
    InForeignWorkspace {
        /// The guest's folder.
        guest: PathBuf,
        /// What cargo said.
        output: String,
    },

    /// The guest compiles, and doesn't link.
    #[error(
        "the guest in `{}` doesn't link. A guest must be `#![no_std]` and `#![no_main]`, use the \
         crate glowbox-guest, and have no dependency that needs the standard or a C library. (One \
         that is to have them is built with `Guest::std` of glowbox-build.) cargo said:\n{output}",
        guest.display()
    )]
    LinkFailed {
        /// The guest's folder.
        guest: PathBuf,
        /// What cargo said.
        output: String,
    },

    /// Something in a guest that is built without the standard library uses it.
    #[error(
        "the guest in `{}` uses the standard library, and was to be built without. If it is to \
         have it: give glowbox-guest the feature `std` in its Cargo.toml, and build it with \
         `Guest::std` of glowbox-build. If not: put `#![no_std]` into its main.rs, and \
         `default-features = false` on the dependency that brings `std` in (if cargo names it \
         below, then after `which`; it may need features such as `alloc` instead). cargo \
         said:\n{output}",
        guest.display()
    )]
    UsesStd {
        /// The guest's folder.
        guest: PathBuf,
        /// What cargo said.
        output: String,
    },

    /// The guest doesn't become a program with the standard library.
    #[error(
        "the guest in `{}` can't be built with the standard library. It must be a program with a \
         `fn main`, and without `#![no_std]` and `#![no_main]`; if it uses the crate glowbox-guest, \
         then with the feature `std`; and it can use only static C libraries. (A guest without the \
         standard library is built with `Guest::new` of glowbox-build.) cargo said:\n{output}",
        guest.display()
    )]
    StdFailed {
        /// The guest's folder.
        guest: PathBuf,
        /// What cargo said.
        output: String,
    },

    /// Cargo failed for a reason that its own output tells: a compile error, most of the time.
    #[error("the guest in `{}` can't be built. cargo said:\n{output}", guest.display())]
    CargoFailed {
        /// The guest's folder.
        guest: PathBuf,
        /// What cargo said.
        output: String,
    },

    /// There is no binary to build.
    #[error(
        "the guest in `{}` has no binary. A guest is a program: it needs a src/main.rs or a `[[bin]]` \
         (one with `required-features` counts only when they are on)",
        guest.display()
    )]
    NoBinary {
        /// The guest's folder.
        guest: PathBuf,
    },

    /// There is more than one binary, and one was asked for.
    #[error(
        "the guest in `{}` has several binaries: {}. Choose one with `Guest::bin`, or take them all \
         with `Guest::build_all`",
        guest.display(), names.join(", ")
    )]
    SeveralBinaries {
        /// The guest's folder.
        guest: PathBuf,
        /// The binaries' names, sorted.
        names: Vec<String>,
    },

    /// Two binaries have the same name, apart from case and `-` for `_`.
    #[error(
        "the guest in `{}` has two binaries whose names can't be told apart, `{first}` and \
         `{second}` (both are called {variable}). Rename one, or choose with `Guest::bin`",
        guest.display()
    )]
    NamesClash {
        /// The guest's folder.
        guest: PathBuf,
        /// One of the binaries.
        first: String,
        /// The other.
        second: String,
        /// The variable that both would set in a build script.
        variable: String,
    },

    /// A built ELF could not be read.
    #[error("the guest binary `{}` can't be read. Build it again", path.display())]
    ReadBinary {
        /// The ELF's path.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
}
