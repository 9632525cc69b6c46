//! Unsafe code is where it is listed, and nowhere else.
//!
//! Memory safety of the host rests on what the compiler does not check. So the files that may hold `unsafe`
//! are listed here with a reason each, for whoever reviews them; a file that is not listed fails the test,
//! and so does one that is listed and holds none any more. That each block says why it is sound is
//! clippy's to check: every package denies `undocumented_unsafe_blocks`, which is looked up here.
//!
//! Files are read as tokens, so comments and texts don't count; what macros are given does. A file that can't be
//! read so fails, unless it is listed as a template.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "sources/mod.rs"]
mod sources;

use std::collections::BTreeSet;
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};
use sources::{files, repository, tokens};

/// Files, and folders with a `/` at their end, and why they hold unsafe code. Folders are for what no user of the
/// library runs: tests, benchmarks, the stand-in, and guests that do what they must not.
const ALLOWED: &[(&str, &str)] = &[
    ("crates/mem/src/dumps.rs", "madvise"),
    ("crates/mem/src/faults.rs", "getrusage"),
    ("crates/mem/src/image.rs", "maps images of guest memory"),
    ("crates/mem/src/lent.rs", "maps what guests are lent"),
    ("crates/mem/src/memfd.rs", "memfd_create and its seals"),
    ("crates/mem/src/restore.rs", "a test of it locks memory"),
    ("crates/mem/src/shared.rs", "fallocate and lseek"),
    ("crates/mem/src/window.rs", "maps guest memory"),
    ("crates/mem/src/written.rs", "looks into the system's page tables"),
    ("crates/machine/src/interrupt.rs", "a signal's handler"),
    ("crates/machine/src/cpuid.rs", "asks the CPU what it is"),
    ("crates/machine/src/kvm/machine.rs", "gives memory to KVM; the run page"),
    ("crates/machine/src/mshv/machine.rs", "opens lent memory for writing; reads registers"),
    ("crates/machine/src/process/frames.rs", "pages that are shared with a guest's process"),
    ("crates/machine/src/process/mod.rs", "a descriptor above the standard streams"),
    ("crates/machine/src/process/stub.rs", "the stub's code, which is assembly; memfd_create"),
    ("crates/machine/src/process/tracer.rs", "ptrace"),
    ("crates/machine/src/supervisor/mod.rs", "the supervisor's code, which is assembly"),
    ("crates/machine/src/supervisor/resume.rs", "the code of the resume page, which is assembly"),
    ("crates/guest/src/arch/freestanding.rs", "the guest's entry and its exits"),
    ("crates/guest/src/arch/freestanding/getrandom.rs", "a function that another crate declares"),
    ("crates/guest/src/arch/maps.rs", "what the guest is lent, at addresses that the host names"),
    ("crates/guest/src/arch/mod.rs", "memory at fixed addresses"),
    ("crates/guest/src/arch/with_std.rs", "a section of records between two symbols"),
    ("crates/guest/src/arch/x86_64.rs", "the instruction that leaves the guest"),
    ("crates/guest/src/freestanding/heap.rs", "the guest's allocator"),
    ("crates/macros/src/function.rs", "records in a section of their own, in code that it writes"),
    ("crates/bench/src/floor.rs", "the least that KVM can do, measured without the library"),
    ("crates/bench/src/peers/", "functions of a shared library; forked processes"),
    ("crates/bench/src/experiments/memory.rs", "asks the system about memory"),
    ("crates/conformance/stand-in/", "answers calls of the C library for another program, by KVM"),
    ("crates/glowbox/tests/", "system calls that only tests make: fork, ptrace, limits"),
    ("fuzz/fuzz_targets/guest.rs", "counters in a section that libFuzzer looks at"),
    ("guests/bench/module/", "exports for WebAssembly"),
    ("guests/compute/module/", "exports for WebAssembly"),
    ("guests/command/", "a guest that does what it must not"),
    ("guests/faults/", "a guest that does what it must not"),
    ("guests/hostile/", "a guest that does what it must not"),
    ("guests/leaks/", "a guest that looks for what others left"),
    ("guests/soak/", "a guest that does what it must not"),
    ("guests/testing/src/", "a guest that does what it must not, or has state"),
    ("guests/untrusted/", "a guest that does what it must not"),
    ("guests-std/programs/shelled/", "system calls of its own"),
    ("guests-std/testing-std/", "a guest that does what it must not"),
];

/// What users of the library run, where each file is listed by its name.
const LIBRARY: &[&str] = &[
    "crates/abi/",
    "crates/core/",
    "crates/glowbox/src/",
    "crates/guest/",
    "crates/linux/",
    "crates/machine/",
    "crates/macros/",
    "crates/mem/",
];

/// What is looked through.
const SOURCES: &[&str] = &["crates", "examples", "fuzz", "guests", "guests-std", "programs"];

/// The workspaces, whose lints packages inherit.
const WORKSPACES: &[&str] = &["", "guests", "guests-std", "programs"];

/// What writes attributes into the crates that use it which count as unsafe, so that those can't forbid it.
const WRITERS: &[&str] = &["glowbox-guest", "libfuzzer-sys"];

fn has_unsafe(tokens: TokenStream) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(name) => name == "unsafe",
        TokenTree::Group(group) => has_unsafe(group.stream()),
        _ => false,
    })
}

/// Whether a crate's root says `#![forbid(unsafe_code)]`.
fn forbids(tokens: TokenStream) -> bool {
    let attributes = tokens.into_iter().filter_map(|token| match token {
        TokenTree::Group(group) => Some(group.stream().to_string().replace(' ', "")),
        _ => None,
    });
    attributes.into_iter().any(|attribute| attribute == "forbid(unsafe_code)")
}

/// The files with unsafe code.
fn found(root: &Path) -> BTreeSet<String> {
    let files = files(root, SOURCES, ".rs").into_iter();
    files.filter(|file| tokens(root, file).is_some_and(has_unsafe)).collect()
}

fn covers(entry: &str, file: &str) -> bool {
    if entry.ends_with('/') { file.starts_with(entry) } else { file == entry }
}

#[test]
fn unsafe_code_is_in_the_listed_files_and_in_each_of_them() {
    let Some(root) = repository() else { return };
    let found = found(&root);
    let listed = |file: &&String| ALLOWED.iter().any(|(entry, _)| covers(entry, file));
    let others: Vec<_> = found.iter().filter(|file| !listed(file)).collect();
    assert!(others.is_empty(), "unsafe code where none may be: {others:#?}");
    let holds = |entry: &str| found.iter().any(|file| covers(entry, file));
    let idle: Vec<_> = ALLOWED.iter().filter(|(entry, _)| !holds(entry)).collect();
    assert!(idle.is_empty(), "listed, but without unsafe code: {idle:#?}");
    let overlaps = |entry: &str| {
        LIBRARY.iter().any(|library| covers(entry, library) || entry.starts_with(library))
    };
    let folders = ALLOWED.iter().filter(|(entry, _)| entry.ends_with('/') && overlaps(entry));
    assert_eq!(folders.count(), 0, "a folder of the library is listed");
}

#[test]
fn crates_without_unsafe_code_forbid_it() {
    let Some(root) = repository() else { return };
    let found = found(&root);
    let mut roots = 0;
    for manifest in files(&root, SOURCES, "Cargo.toml") {
        let package = manifest.strip_suffix("Cargo.toml").unwrap();
        let text = std::fs::read_to_string(root.join(&manifest)).unwrap();
        let cannot = WRITERS.iter().any(|name| text.contains(name));
        let sources = format!("{package}src/");
        if cannot || found.iter().any(|file| file.starts_with(&sources)) {
            continue;
        }
        for name in ["lib.rs", "main.rs"] {
            let file = format!("{sources}{name}");
            if root.join(&file).exists() {
                let tokens = tokens(&root, &file).expect("no template is a crate");
                assert!(forbids(tokens), "{file} does not forbid unsafe code");
                roots += 1;
            }
        }
    }
    assert!(roots > 10, "only {roots} crates were found");
}

/// Whether a manifest's table of clippy's lints denies unsafe blocks that don't say why they are sound.
fn denies_undocumented(manifest: &str, table: &str) -> bool {
    let Some((_, rest)) = manifest.split_once(&format!("[{table}.clippy]\n")) else { return false };
    let own = rest.split("\n[").next().unwrap_or_default();
    own.lines().any(|line| line == "undocumented_unsafe_blocks = \"deny\"")
}

#[test]
fn every_package_denies_unsafe_code_that_is_not_documented() {
    let Some(root) = repository() else { return };
    let read = |path: &Path| std::fs::read_to_string(root.join(path)).unwrap();
    for workspace in WORKSPACES {
        let manifest = Path::new(workspace).join("Cargo.toml");
        assert!(denies_undocumented(&read(&manifest), "workspace.lints"), "{manifest:?}");
    }
    for manifest in files(&root, SOURCES, "Cargo.toml") {
        let text = read(Path::new(&manifest));
        let inherits = text.contains("[lints]\nworkspace = true\n");
        let is_package = text.contains("[package]");
        assert!(!is_package || inherits || denies_undocumented(&text, "lints"), "{manifest}");
    }
}

#[test]
fn what_counts_is_code_and_neither_comments_nor_texts() {
    let has = |text: &str| has_unsafe(text.parse().unwrap());
    assert!(!has(
        "// unsafe {}\n/* unsafe */ /// unsafe\n fn f() { \"unsafe {}\"; r#\"unsafe\"#; 'u'; }"
    ));
    assert!(!has("#![forbid(unsafe_code)] #[allow(unsafe_code)] fn unsafe_() {}"));
    for text in [
        "fn f() { unsafe { g() } }",
        "unsafe fn f() {}",
        "unsafe impl Send for T {}",
        "unsafe extern \"C\" { fn f(); }",
        "#[unsafe(no_mangle)] fn f() {}",
        "tests! { fn f() { unsafe {} } }",
    ] {
        assert!(has(text), "{text}");
    }
    let forbids = |text: &str| forbids(text.parse().unwrap());
    assert!(forbids("//! Text.\n#![forbid(unsafe_code)]\n"));
    assert!(!forbids("#![deny(unsafe_code)] // #![forbid(unsafe_code)]\n"));
    assert!(!forbids("//! #![forbid(unsafe_code)]\nconst TEXT: &str = \"forbid(unsafe_code)\";"));
}
