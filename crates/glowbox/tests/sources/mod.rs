//! The project's sources, for tests that read them.

use std::path::{Path, PathBuf};

use proc_macro2::TokenStream;

/// The repository, where there is one: the program may have been carried to another machine.
pub(crate) fn repository() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    if root.exists() {
        assert!(root.join("SPEC.md").exists(), "SPEC.md is missing");
        return Some(root);
    }
    eprintln!("left out: the sources are not on this machine");
    None
}

/// All files below these folders whose paths end so, relative to the repository, in order; what was built
/// there is no source.
pub(crate) fn files(root: &Path, folders: &[&str], ending: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                folders.push(path);
            } else if path.to_str().unwrap().ends_with(ending) {
                found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_string());
            }
        }
    }
    found.sort();
    found
}

/// Files that are no Rust before they are filled in. The command's end in `.rs.txt`, and are not looked at.
const TEMPLATES: &[&str] = &[];

/// The tokens of a file of the repository's; `None` for a template. Panics at any other that is no Rust.
pub(crate) fn tokens(root: &Path, file: &str) -> Option<TokenStream> {
    if TEMPLATES.contains(&file) {
        return None;
    }
    let text = std::fs::read_to_string(root.join(file)).unwrap();
    Some(text.parse().unwrap_or_else(|error| panic!("{file} is no Rust: {error}")))
}
