//! Throw-away guests. They bring their own `_start` and panic handler, so they need no other crate
//! and say nothing about glowbox-guest.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs;
use std::path::{Path, PathBuf};

use glowbox_build::Guest;
use tempfile::TempDir;

/// A folder that is deleted at the end of a test.
pub(crate) struct Scratch(TempDir);

impl Scratch {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file, and the folders to it, and gives its path.
    pub(crate) fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// Writes a package with one binary of the same name, into the folder `dir`.
    pub(crate) fn package(&self, dir: &str, name: &str, marker: &str) -> PathBuf {
        self.write(&format!("{dir}/Cargo.toml"), &manifest(name));
        self.write(&format!("{dir}/src/main.rs"), &program(marker));
        self.path().join(dir)
    }

    /// A guest that is built within this folder, whatever the test's own environment says.
    pub(crate) fn guest(&self, dir: &str) -> Guest {
        Guest::new(self.path().join(dir)).target_dir(self.path().join("out")).offline(true)
    }
}

pub(crate) fn manifest(name: &str) -> String {
    format!(
        "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\
         [features]\nextra = []\n"
    )
}

/// The source of a guest that has `marker` among its data, followed by `+extra` with that feature.
pub(crate) fn program(marker: &str) -> String {
    format!(
        r#"#![no_std]
#![no_main]

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {{
    loop {{}}
}}

#[used]
static MARKER: &str = if cfg!(feature = "extra") {{ "{marker}+extra" }} else {{ "{marker}." }};

#[unsafe(no_mangle)]
pub extern "C" fn _start() -> ! {{
    loop {{}}
}}
"#
    )
}

pub(crate) fn contains(elf: &[u8], marker: &str) -> bool {
    elf.windows(marker.len()).any(|window| window == marker.as_bytes())
}

/// Whether the ELF has no interpreter and can be loaded at any address.
pub(crate) fn is_static_pie(elf: &[u8]) -> bool {
    const ET_DYN: u16 = 3;
    const PT_INTERP: u32 = 3;
    let u16_at = |at: usize| u16::from_le_bytes(elf[at..at + 2].try_into().unwrap());
    let u32_at = |at: usize| u32::from_le_bytes(elf[at..at + 4].try_into().unwrap());
    let headers = usize::try_from(u64::from_le_bytes(elf[32..40].try_into().unwrap())).unwrap();
    let (size, count) = (usize::from(u16_at(54)), usize::from(u16_at(56)));
    assert!(elf.starts_with(b"\x7fELF") && count > 0);
    let types: Vec<u32> = (0..count).map(|index| u32_at(headers + index * size)).collect();
    u16_at(16) == ET_DYN && !types.contains(&PT_INTERP)
}
