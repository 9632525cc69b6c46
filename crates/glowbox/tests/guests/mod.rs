//! The guests of the folders `guests/` and `guests-std/`, built once for a test program.

use std::collections::HashMap;
use std::sync::LazyLock;

use glowbox::Guest;
use glowbox_build::{Guest as Build, Target};

use crate::topics::leave_out;

/// A folder of guests that have been built, for machines without cargo.
pub(crate) const PREBUILT: &str = "GLOWBOX_TEST_GUESTS";

static GUESTS: LazyLock<HashMap<String, Guest>> = LazyLock::new(|| {
    if let Some(folder) = std::env::var_os(PREBUILT) {
        let files = std::fs::read_dir(folder).expect("a folder of guests");
        let read = |file: std::io::Result<std::fs::DirEntry>| {
            let file = file.expect("a guest");
            let name = file.file_name().to_string_lossy().into_owned();
            Some((name, Guest::from_file(file.path()).ok()?))
        };
        return files.filter_map(read).collect();
    }
    let std = concat!(env!("CARGO_MANIFEST_DIR"), "/../../guests-std");
    let std = || Build::std(std).bin("testing-std").bin("interpreter-std");
    let builds = [
        (Build::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../guests")), ""),
        (std(), ""),
        (std().target(Target::Musl), "-musl"),
    ];
    // Where build scripts have them built too.
    let folder = concat!(env!("CARGO_TARGET_TMPDIR"), "/../glowbox-guests");
    let mut guests = HashMap::new();
    for (build, suffix) in builds {
        match build.target_dir(folder).build_all() {
            Ok(built) => guests.extend(built.iter().map(|guest| {
                let name = format!("{}{suffix}", guest.name());
                let file = Guest::from_file(guest.path());
                (name, file.expect("glowbox-build makes guests that can be run"))
            })),
            Err(error) if suffix == "-musl" => leave_out(&format!("guests for musl: {error}")),
            Err(error) => panic!("{error}"),
        }
    }
    guests
});

/// Builds and reads the guests, so that no test's time includes it.
pub(crate) fn build() {
    // Tests take large mappings without a name for guest memory, so no file that is kept may be one: the
    // allocator is to take room for them from its heap.
    // SAFETY: an option of the allocator that may change at any time.
    unsafe { libc::mallopt(libc::M_MMAP_MAX, 0) };
    LazyLock::force(&GUESTS);
    // SAFETY: as above; this is what it is from the start.
    unsafe { libc::mallopt(libc::M_MMAP_MAX, 65536) };
}

/// A guest by its name; those for musl end in `-musl`.
pub(crate) fn guest(name: &str) -> Guest {
    GUESTS.get(name).unwrap_or_else(|| panic!("there is no guest `{name}`")).clone()
}

/// The names of the guest `testing-std`, linked with each C library that there is.
#[allow(dead_code, reason = "not every program has tests with each of them")]
pub(crate) fn standard_guests() -> impl Iterator<Item = &'static str> {
    ["testing-std", "testing-std-musl"].into_iter().filter(|name| GUESTS.contains_key(*name))
}
