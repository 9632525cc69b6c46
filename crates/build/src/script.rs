//! What a build script tells cargo.
//!
//! Promised: the script runs again when anything changes that went into a guest and is the user's
//! own, and doesn't when nothing changed. The sources come from the compiler, through cargo's
//! dep-info files. Files of the registry never change, and generated ones would be newer than the
//! script's own start, which cargo takes for a change; so those under the build's own directory
//! are left out.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use crate::cargo::{self, Built};
use crate::{Error, Guest};

pub(crate) fn run(guest: &Guest) {
    match cargo::build(guest) {
        Ok(built) => print!("{}", directives(&built)),
        Err(error) => {
            eprintln!("{}", report(&error));
            std::process::exit(1);
        }
    }
}

/// An error and its causes, one a line.
fn report(error: &Error) -> String {
    let mut text = format!("error: {error}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let _ = write!(text, "\n  caused by: {cause}");
        source = cause.source();
    }
    text
}

fn directives(built: &Built) -> String {
    let mut text = String::new();
    for file in inputs(built) {
        let _ = writeln!(text, "cargo:rerun-if-changed={}", file.display());
    }
    for binary in &built.binaries {
        let _ = writeln!(text, "cargo:rustc-env={}={}", binary.variable(), binary.path.display());
    }
    for line in built.warnings.lines() {
        let _ = writeln!(text, "cargo:warning={line}");
    }
    text
}

/// The user's files and folders on which the guests depend.
fn inputs(built: &Built) -> BTreeSet<PathBuf> {
    let mut inputs = built.manifests.clone();
    // Only those that exist: cargo takes a missing one for changed, every time.
    let settings = [
        built.root.join("Cargo.toml"),
        built.root.join("Cargo.lock"),
        built.root.join(".cargo/config.toml"),
        built.dir.join(".cargo/config.toml"),
    ];
    inputs.extend(settings.into_iter().filter(|file| file.exists()));
    for manifest in &built.manifests {
        // A binary that is added here is part of the build without being named anywhere.
        inputs.extend(Some(manifest.with_file_name("src").join("bin")).filter(|dir| dir.exists()));
    }
    for binary in &built.binaries {
        match std::fs::read_to_string(binary.path.with_extension("d")) {
            Ok(dep_info) => {
                let sources = dep_info.lines().flat_map(dependencies);
                inputs.extend(sources.map(|source| built.root.join(source)));
            }
            // Without the list, every file counts.
            Err(_) => drop(inputs.insert(built.dir.clone())),
        }
    }
    inputs.retain(|input| !input.starts_with(&built.base));
    inputs
}

/// The prerequisites in one line of a dep-info file: `target: a b\ c`, with spaces escaped.
fn dependencies(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match (character, characters.peek()) {
            ('\\', Some(' ')) => {
                characters.next();
                words.last_mut().into_iter().for_each(|word| word.push(' '));
            }
            (' ', _) => words.push(String::new()),
            _ => words.last_mut().into_iter().for_each(|word| word.push(character)),
        }
    }
    // The first word is the target, with its colon.
    words.into_iter().skip(1).filter(|word| !word.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dep_info_is_read_with_its_escaped_spaces() {
        assert_eq!(dependencies("/t/g: /a/main.rs /b\\ c/lib.rs"), ["/a/main.rs", "/b c/lib.rs"]);
        assert_eq!(dependencies("/t\\ t/g: /a:b"), ["/a:b"]);
        assert!(dependencies("").is_empty());
        assert!(dependencies("/t/g:").is_empty());
    }

    #[test]
    fn a_report_ends_with_the_causes() {
        let source = std::io::Error::other("too tired");
        let (guest, cargo) = (PathBuf::from("/g"), PathBuf::from("/bin/cargo"));
        let text = report(&Error::CargoNotRun { guest, cargo, source });
        assert!(text.starts_with("error: the guest in `/g`"), "{text}");
        assert!(text.ends_with("caused by: too tired"), "{text}");
    }

    #[test]
    fn directives_name_manifest_source_variable_and_warnings() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("target");
        std::fs::create_dir(&base).unwrap();
        let path = base.join("a-guest");
        let sources = format!("{}: /g/src/main.rs {}/gen.rs", path.display(), base.display());
        std::fs::write(path.with_extension("d"), sources).unwrap();
        let built = Built {
            dir: "/g".into(),
            root: "/g".into(),
            base,
            binaries: vec![crate::GuestBinary { name: "a-guest".into(), path: path.clone() }],
            manifests: [PathBuf::from("/g/Cargo.toml")].into(),
            warnings: "warning: x\n".into(),
        };
        let expected = format!(
            "cargo:rerun-if-changed=/g/Cargo.toml\n\
             cargo:rerun-if-changed=/g/src/main.rs\n\
             cargo:rustc-env=GLOWBOX_GUEST_A_GUEST={}\n\
             cargo:warning=warning: x\n",
            path.display()
        );
        assert_eq!(directives(&built), expected);
    }
}
