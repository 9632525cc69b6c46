//! Where guests are built.
//!
//! Promised: never in a directory that the outer build has locked, never two different guests in
//! one file, and never two workspaces in one cargo *build directory*.
//!
//! The last is a matter of correctness. Cargo identifies a package by its path relative to its
//! workspace's root, so `guest 0.1.0` at the root of one workspace is to it the same as `guest
//! 0.1.0` at the root of another. If both build into one directory and the sources of the second
//! are older than the first's build, cargo 1.95 calls the second "fresh" and hands out the first's
//! ELF. Hence `base/build/<hash of the workspace>` for what is compiled on the way, which packages
//! of one workspace may well share, and `base/<guest>-<hash of folder, features and library>` for the
//! ELFs.
//! Cargo before 1.91 doesn't know of build directories and keeps everything in the latter.

use std::ffi::{OsStr, OsString};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use crate::{Guest, Library};

/// The folder for guests within a target directory.
const FOLDER: &str = "glowbox-guests";

/// The directories of one guest's build.
#[derive(Debug)]
pub(crate) struct Places {
    /// What holds the other two.
    pub(crate) base: PathBuf,
    /// Cargo's target directory: receives the ELFs.
    pub(crate) target: PathBuf,
    /// Cargo's build directory, a template that cargo fills in.
    pub(crate) build: Option<OsString>,
}

impl Places {
    pub(crate) fn choose(guest: &Guest, dir: &Path, root: &Path) -> Self {
        let base = match &guest.target_dir {
            Some(asked) => asked.clone(),
            None => target_dir(|name| std::env::var_os(name), root).join(FOLDER),
        };
        // Cargo runs in the guest's folder, so a relative path would mean another place to it.
        let base = std::path::absolute(&base).unwrap_or(base);
        let target = base.join(folder(dir, &guest.features, guest.library));
        // In a template, braces of the path itself would be taken for variables.
        let plain = base.to_str().filter(|base| !base.contains(['{', '}']));
        let build = plain.map(|_| base.join("build/{workspace-path-hash}").into_os_string());
        Self { base, target, build }
    }
}

/// A name that no other guest folder, choice of features and library has, and that a person
/// recognises.
fn folder(dir: &Path, features: &[String], library: Library) -> String {
    // Not the same with every release of Rust. It needn't be: that only means one more build.
    let mut hasher = DefaultHasher::new();
    (dir, features, library).hash(&mut hasher);
    let name = dir.file_name().unwrap_or(OsStr::new("guest")).to_string_lossy();
    format!("{name}-{:016x}", hasher.finish())
}

/// The target directory under which to build, if none was asked for.
fn target_dir(variable: impl Fn(&str) -> Option<OsString>, root: &Path) -> PathBuf {
    if let Some(out_dir) = variable("OUT_DIR") {
        return outer_target_dir(Path::new(&out_dir), variable("TARGET").as_deref());
    }
    // A relative one counts from wherever the outer cargo was called, which can't be known here.
    let target_dir = variable("CARGO_TARGET_DIR").map(PathBuf::from);
    target_dir.filter(|dir| dir.is_absolute()).unwrap_or_else(|| root.join("target"))
}

/// The target directory of the build whose build script has this `OUT_DIR`, which is
/// `<target directory>/[<triple>/]<profile>/build/<package>/out`; if it looks otherwise, `out_dir`.
fn outer_target_dir(out_dir: &Path, triple: Option<&OsStr>) -> PathBuf {
    let build = out_dir.ancestors().find(|dir| dir.file_name() == Some(OsStr::new("build")));
    let target = build.and_then(Path::parent).and_then(Path::parent);
    match target {
        Some(target) if triple.is_some() && target.file_name() == triple => {
            target.parent().unwrap_or(target).to_path_buf()
        }
        Some(target) if target.parent().is_some() => target.to_path_buf(),
        _ => out_dir.to_path_buf(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Target;

    fn found(out_dir: &str) -> PathBuf {
        outer_target_dir(Path::new(out_dir), Some(OsStr::new("x86_64-unknown-linux-musl")))
    }

    #[test]
    fn the_outer_target_directory_is_found_from_out_dir() {
        let target = Path::new("/w/target");
        assert_eq!(found("/w/target/debug/build/host-0123/out"), target);
        assert_eq!(found("/w/target/x86_64-unknown-linux-musl/debug/build/host-0123/out"), target);
        // The layout that cargo is moving to.
        assert_eq!(found("/w/target/debug/build/host/0123/out"), target);
    }

    #[test]
    fn an_unknown_out_dir_serves_itself() {
        assert_eq!(found("/somewhere/else"), Path::new("/somewhere/else"));
        assert_eq!(found("/build/x"), Path::new("/build/x"));
        assert_eq!(found("/debug/build/x"), Path::new("/debug/build/x"));
    }

    #[test]
    fn a_relative_cargo_target_dir_does_not_count() {
        let variables = |value: &'static str| {
            move |name: &str| (name == "CARGO_TARGET_DIR").then(|| value.into())
        };
        assert_eq!(target_dir(variables("/t"), Path::new("/g")), Path::new("/t"));
        assert_eq!(target_dir(variables("t"), Path::new("/g")), Path::new("/g/target"));
    }

    #[test]
    fn guests_of_one_name_and_feature_sets_are_kept_apart() {
        let (a, b) = (Path::new("/a/guest"), Path::new("/b/guest"));
        let none = Library::None;
        assert_ne!(folder(a, &[], none), folder(b, &[], none));
        assert_ne!(folder(a, &[], none), folder(a, &["x".into()], none));
        let [gnu, musl] = [Target::Gnu, Target::Musl].map(Library::Std);
        assert_ne!(folder(a, &[], none), folder(a, &[], gnu));
        assert_ne!(folder(a, &[], gnu), folder(a, &[], musl));
        assert!(folder(a, &[], none).starts_with("guest-"));
    }
}
