//! Builds Glowbox guest programs.
//!
//! A *guest crate* is a `#![no_std]`, `#![no_main]` binary that depends on `glowbox-guest`. It has
//! to become a static, position-independent ELF without an interpreter. This crate makes it one
//! with the stable cargo that is there and the target `x86_64-unknown-linux-gnu`: no nightly, no
//! custom target, no linker script, and nothing to configure in the guest. A guest with the standard
//! library ([`Guest::std`]) is linked with its C library into such a file.
//!
//! # From a build script
//!
//! ```text
//! my-app/
//!   host/   Cargo.toml  build.rs  src/main.rs
//!   guest/  Cargo.toml  src/main.rs
//! ```
//!
//! In `host/Cargo.toml`, put `glowbox-build` among the `[build-dependencies]`; then `host/build.rs`
//! is one line:
//!
//! ```no_run
//! fn main() {
//!     glowbox_build::build_script("../guest");
//! }
//! ```
//!
//! and the host finds the ELF of the binary `my-guest` through an environment variable of the
//! compiler, `GLOWBOX_GUEST_` and the binary's name in capitals with `_` for `-`:
//!
//! ```ignore
//! const GUEST: &str = env!("GLOWBOX_GUEST_MY_GUEST");                     // its path
//! static BYTES: &[u8] = include_bytes!(env!("GLOWBOX_GUEST_MY_GUEST"));   // or its bytes
//! ```
//!
//! The script runs again when a source or manifest of the guest, or of a crate that the guest
//! uses by path, changes. See [`build_script`].
//!
//! # From a test, a tool, or anything else
//!
//! ```no_run
//! # fn main() -> Result<(), glowbox_build::Error> {
//! let elf = glowbox_build::Guest::new("../guest").build()?;
//! println!("{} is at {}", elf.name(), elf.path().display());
//! # Ok(())
//! # }
//! ```
//!
//! Nothing is compiled again unless it changed. Many guests build fastest as one workspace and one
//! call: [`Guest::build_all`].
//!
//! # The guest and the workspace around it
//!
//! A guest has no `main` and no standard library, so a plain `cargo build` of it fails to link, and
//! it should not be a member of the host's workspace. If it lies in the folder of one, either name
//! it there (`[workspace] exclude = ["guest"]`) or give its own `Cargo.toml` an empty
//! `[workspace]` table.
//!
//! # What the guest is built with, and what it isn't
//!
//! * The flags are handed to cargo in `CARGO_ENCODED_RUSTFLAGS`, which **replaces** every other
//!   source of compiler flags: `RUSTFLAGS`, and `rustflags` in any `config.toml`. This is on purpose:
//!   a `-C target-cpu=native` or a `-C link-arg=-fuse-ld=mold` meant for your host programs would
//!   otherwise end up in the guest. The rest of a `config.toml` (registries, mirrors, `linker`)
//!   counts as usual.
//! * Of the environment, what belongs to the build around this one is taken away: compiler
//!   wrappers of Clippy, Miri, coverage tools and rust-analyzer, `CARGO_BUILD_*`,
//!   `CARGO_PROFILE_*`, `CARGO_PKG_*` and their like. So the guest comes out the same from `cargo
//!   build`, `cargo clippy` and `cargo llvm-cov`. A compiler cache stays (`RUSTC_WRAPPER` that is
//!   `sccache`, `ccache` or `cachepot`), and so do `PATH`, `HOME`, `CARGO_HOME` and `RUSTUP_*`.
//! * Optimisation, debug information and the like come from the profile in the guest's own manifest.
//!   Symbols are kept, unless that profile says `strip = true`: the reports of a guest's faults name
//!   functions by them, so better don't.
//!
//! # Where it is built
//!
//! In `<base>/glowbox-guests`, where `<base>` is the first of these that there is:
//!
//! 1. what was given to [`Guest::target_dir`] (then without the `glowbox-guests`);
//! 2. in a build script, the target directory of the build that runs it, found from `OUT_DIR`;
//! 3. `CARGO_TARGET_DIR`, if it is absolute;
//! 4. `target` in the guest's workspace, or in its own folder if it is in none.
//!
//! It is never the outer build's own directory, which is locked while a build script runs. In it,
//! each guest folder and choice of features has a folder for its ELFs, so two guests with one name
//! never overwrite each other. Dependencies are compiled once per guest workspace (with cargo before
//! 1.91: once per guest folder and choice of features). They are not shared between
//! workspaces, because cargo can mistake two packages of the same name and version in different
//! workspaces for one another when they share a directory, and then hands out the wrong ELF.
//!
//! # What it needs
//!
//! Linux on x86-64, Rust 1.91 or newer, and `cc` to link with. For guests with the standard library also
//! the static C library: see [`Target`].

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]
#![allow(clippy::needless_doctest_main, reason = "the examples that have a main are a build.rs")]

mod cargo;
mod environment;
mod error;
mod script;
mod target_dir;

use std::path::{Path, PathBuf};

pub use error::Error;

/// Builds the guest or guests in `dir`, from a `build.rs`.
///
/// `dir` is the folder of a guest package or of a workspace of them, relative to the package that
/// the build script belongs to. Every binary that `cargo build` would build there is built, in the
/// release profile, by one cargo call. On success the function has printed, for cargo:
///
/// * for each binary, `GLOWBOX_GUEST_<NAME>`, to be read with `env!`: the absolute path of its ELF.
///   `<NAME>` is the binary's name in capitals, with `_` for `-`;
/// * the files on which the guests depend: their sources, manifests, `Cargo.lock`;
/// * the compiler's warnings about the guests, as warnings of the host package.
///
/// For other options, use [`Guest::build_script`].
///
/// # Errors
///
/// If the guest can't be built, the reason goes to standard error, with all that cargo said, and
/// the process ends with code 1, so that cargo shows it.
///
/// # Examples
///
/// ```no_run
/// // build.rs
/// fn main() {
///     glowbox_build::build_script("../guest");
/// }
/// ```
pub fn build_script(dir: impl Into<PathBuf>) {
    Guest::new(dir).build_script();
}

/// A guest package, or a workspace of them, and how to build it.
///
/// # Examples
///
/// ```no_run
/// use glowbox_build::{Guest, Profile};
///
/// # fn main() -> Result<(), glowbox_build::Error> {
/// let elf = Guest::new("guests/parser")
///     .bin("parser-fuzz")
///     .profile(Profile::Dev)
///     .features(["checks"])
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a `Guest` only describes a build; call `build`, `build_all` or `build_script`"]
pub struct Guest {
    dir: PathBuf,
    library: Library,
    bins: Vec<String>,
    profile: Profile,
    features: Vec<String>,
    target_dir: Option<PathBuf>,
    locked: bool,
    offline: bool,
}

/// The cargo profile that a guest is built with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// Optimised: cargo's `release`.
    #[default]
    Release,
    /// Unoptimised, with overflow checks and debug information: cargo's `dev`.
    Dev,
}

/// The C library that a guest with the standard library is linked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Target {
    /// glibc: `x86_64-unknown-linux-gnu`. It needs the static glibc, which the packages that a C
    /// compiler comes with have (on Fedora: `glibc-static`).
    #[default]
    Gnu,
    /// musl: `x86_64-unknown-linux-musl`. Smaller, and Rust brings it: `rustup target add
    /// x86_64-unknown-linux-musl`.
    Musl,
}

/// What a guest is linked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Library {
    None,
    Std(Target),
}

impl Library {
    /// The target triple that the guest is compiled for.
    pub(crate) fn triple(self) -> &'static str {
        match self {
            Library::None | Library::Std(Target::Gnu) => "x86_64-unknown-linux-gnu",
            Library::Std(Target::Musl) => "x86_64-unknown-linux-musl",
        }
    }
}

impl Guest {
    /// The guest in `dir`, which does without the standard library: the folder with its `Cargo.toml`,
    /// or with that of a workspace of guests.
    ///
    /// A relative path counts from the current directory. In a build script and in a test, that is
    /// the folder of the package that they belong to.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self::linked_with(Library::None, dir.into())
    }

    /// The guest in `dir`, which uses the standard library: a program that depends on
    /// `glowbox-guest` with the feature `std` and calls `glowbox_guest::serve()` in its `main`, or any
    /// Rust program. Otherwise as [`new`](Self::new).
    ///
    /// Whether its panics unwind is for its profile to say.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use glowbox_build::{Guest, Target};
    ///
    /// # fn main() -> Result<(), glowbox_build::Error> {
    /// let elf = Guest::std("../guest").build()?;
    /// let smaller = Guest::std("../guest").target(Target::Musl).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn std(dir: impl Into<PathBuf>) -> Self {
        Self::linked_with(Library::Std(Target::default()), dir.into())
    }

    /// Chooses the C library of a guest with the standard library. The default is [`Target::Gnu`]. For
    /// a guest without the standard library it means nothing.
    pub fn target(mut self, target: Target) -> Self {
        if let Library::Std(chosen) = &mut self.library {
            *chosen = target;
        }
        self
    }

    fn linked_with(library: Library, dir: PathBuf) -> Self {
        Self {
            dir,
            library,
            bins: Vec::new(),
            profile: Profile::default(),
            features: Vec::new(),
            target_dir: None,
            locked: false,
            offline: false,
        }
    }

    /// Builds only the binary called `name`. Call it again to add another.
    pub fn bin(mut self, name: impl Into<String>) -> Self {
        self.bins.push(name.into());
        self
    }

    /// Chooses the profile. The default is [`Profile::Release`].
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
        self
    }

    /// Turns on these features of the guest, besides its default ones.
    pub fn features<S: Into<String>>(mut self, features: impl IntoIterator<Item = S>) -> Self {
        self.features.extend(features.into_iter().map(Into::into));
        self
    }

    /// Builds under `dir`, which is made if it isn't there.
    ///
    /// Without it, [the crate's page](crate#where-it-is-built) says where. An integration test may
    /// want `env!("CARGO_TARGET_TMPDIR")`.
    pub fn target_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.target_dir = Some(dir.into());
        self
    }

    /// Whether the guest's `Cargo.lock` must be there and up to date (`cargo --locked`).
    pub fn locked(mut self, locked: bool) -> Self {
        self.locked = locked;
        self
    }

    /// Whether cargo must do without the network (`cargo --offline`).
    pub fn offline(mut self, offline: bool) -> Self {
        self.offline = offline;
        self
    }

    /// Builds the guest, which must have one binary, or one chosen with [`bin`](Self::bin).
    ///
    /// # Errors
    ///
    /// [`Error::NoBinary`] or [`Error::SeveralBinaries`] if there isn't exactly one binary, and
    /// otherwise any [`Error`] that says why the build failed.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn main() -> Result<(), glowbox_build::Error> {
    /// let elf = glowbox_build::Guest::new("../guest").build()?;
    /// let bytes = elf.bytes()?;
    /// assert!(bytes.starts_with(b"\x7fELF"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn build(&self) -> Result<GuestBinary, Error> {
        let cargo::Built { dir, binaries, .. } = cargo::build(self)?;
        match <[GuestBinary; 1]>::try_from(binaries) {
            Ok([binary]) => Ok(binary),
            Err(several) => Err(Error::SeveralBinaries {
                guest: dir,
                names: several.into_iter().map(|binary| binary.name).collect(),
            }),
        }
    }

    /// Builds every binary of the package or workspace, or each one chosen with
    /// [`bin`](Self::bin), in one cargo call. They come sorted by name, and there is at least one.
    ///
    /// In a workspace this means the packages that a plain `cargo build` in the folder would build:
    /// `default-members` if it has them; in a virtual workspace, otherwise, all.
    ///
    /// # Errors
    ///
    /// [`Error::NoBinary`] if there is none, [`Error::NamesClash`] if two binaries have one name,
    /// and otherwise any [`Error`] that says why the build failed.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn main() -> Result<(), glowbox_build::Error> {
    /// for elf in glowbox_build::Guest::new("guests").build_all()? {
    ///     println!("{}: {}", elf.name(), elf.path().display());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn build_all(&self) -> Result<Vec<GuestBinary>, Error> {
        cargo::build(self).map(|built| built.binaries)
    }

    /// Builds as [`build_all`](Self::build_all) does and reports to cargo as
    /// [`build_script`](fn@build_script) does: for a `build.rs` that sets options.
    ///
    /// # Errors
    ///
    /// Ends the process with code 1, with the reason on standard error.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// // build.rs
    /// use glowbox_build::Guest;
    ///
    /// fn main() {
    ///     Guest::new("../guests").bin("parser").bin("renderer").build_script();
    /// }
    /// ```
    pub fn build_script(&self) {
        script::run(self);
    }
}

/// A guest program that has been built: an ELF file on disk.
///
/// It can be given wherever a path can (`AsRef<Path>`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestBinary {
    name: String,
    path: PathBuf,
}

impl GuestBinary {
    /// The name of the binary, as in its manifest.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The absolute path of the ELF file. A later build of the same guest replaces the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the ELF file.
    ///
    /// # Errors
    ///
    /// [`Error::ReadBinary`] if the file can't be read, for example because it has been deleted.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn main() -> Result<(), glowbox_build::Error> {
    /// let bytes: Vec<u8> = glowbox_build::Guest::new("../guest").build()?.bytes()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn bytes(&self) -> Result<Vec<u8>, Error> {
        std::fs::read(&self.path)
            .map_err(|source| Error::ReadBinary { path: self.path.clone(), source })
    }

    /// The variable under which a build script hands the path on.
    pub(crate) fn variable(&self) -> String {
        format!("GLOWBOX_GUEST_{}", self.name.to_uppercase().replace('-', "_"))
    }
}

impl AsRef<Path> for GuestBinary {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}
