//! Which environment variables the inner cargo gets.
//!
//! A build script runs in the environment of another build: its package, its flags, its wrappers.
//! Each of these would change the guest or break it, so they go. What describes the machine or the
//! user's toolchain (`PATH`, `HOME`, `CARGO_HOME`, `RUSTUP_*`, `CARGO_NET_*`, `LD_LIBRARY_PATH`,
//! linkers) stays, and so does the job server in `CARGO_MAKEFLAGS`, which keeps both builds
//! together within one limit of jobs.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// Variables that go, by their full name.
const NAMES: &[&str] = &[
    // Compiler flags. CARGO_ENCODED_RUSTFLAGS is set anew.
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "RUSTDOCFLAGS",
    "CARGO_ENCODED_RUSTDOCFLAGS",
    // Set by Clippy and by coverage and auditing tools.
    "RUSTC_WORKSPACE_WRAPPER",
    // The outer build's place, and a lock on it.
    "CARGO_TARGET_DIR",
    "CARGO_TARGET_TMPDIR",
    // What cargo tells a build script about the outer build.
    "OUT_DIR",
    "TARGET",
    "HOST",
    "PROFILE",
    "DEBUG",
    "OPT_LEVEL",
    "NUM_JOBS",
    "RUSTC_LINKER",
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
    "CARGO_MANIFEST_LINKS",
    "CARGO_PRIMARY_PACKAGE",
    "CARGO_CRATE_NAME",
    "CARGO_BIN_NAME",
];

/// Variables that go, by how their name begins.
const PREFIXES: &[&str] = &[
    "CARGO_PKG_",
    "CARGO_CFG_",
    "CARGO_FEATURE_",
    "CARGO_BIN_EXE_",
    "DEP_",
    "__CARGO",
    // Settings of the outer build in the place of its config.toml.
    "CARGO_BUILD_",
    "CARGO_PROFILE_",
    "CARGO_UNSTABLE_",
    "MIRI_",
];

/// Exceptions from the prefixes: they say how to build, not what.
const KEPT: &[&str] = &["CARGO_BUILD_JOBS", "CARGO_BUILD_RUSTC", "CARGO_BUILD_RUSTC_WRAPPER"];

/// The wrappers that may stay: caches, which run the compiler as it was called.
///
/// A list of what may stay and not of what must go: losing an unknown cache costs seconds, keeping
/// an unknown instrumentation tool breaks the guest. rust-analyzer's wrapper even skips it.
const CACHES: &[&str] = &["sccache", "ccache", "cachepot"];

/// Compilers that aren't one: Miri and Clippy can stand in `RUSTC`.
const NOT_COMPILERS: &[&str] = &["miri", "cargo-miri", "clippy-driver"];

/// Takes from `command`'s environment what belongs to the build around this one.
pub(crate) fn clean(command: &mut Command) {
    for (name, value) in std::env::vars_os() {
        if is_foreign(&name, &value) {
            command.env_remove(name);
        }
    }
}

fn is_foreign(name: &OsStr, value: &OsStr) -> bool {
    // All the names in question are ASCII; one that isn't UTF-8 is nothing of cargo's.
    let Some(name) = name.to_str() else { return false };
    match name {
        "RUSTC_WRAPPER" | "CARGO_BUILD_RUSTC_WRAPPER" => {
            // The empty one is kept: it says that no wrapper named in a config.toml counts.
            !value.is_empty() && !names_one_of(value, CACHES)
        }
        "RUSTC" | "CARGO_BUILD_RUSTC" => names_one_of(value, NOT_COMPILERS),
        _ if KEPT.contains(&name) => false,
        _ => NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix)),
    }
}

fn names_one_of(program: &OsStr, names: &[&str]) -> bool {
    let stem = Path::new(program).file_stem().and_then(OsStr::to_str);
    stem.is_some_and(|stem| names.contains(&stem))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goes(name: &str, value: &str) -> bool {
        is_foreign(OsStr::new(name), OsStr::new(value))
    }

    #[test]
    fn the_outer_builds_variables_go() {
        for name in [
            "RUSTFLAGS",
            "CARGO_BUILD_RUSTFLAGS",
            "CARGO_BUILD_TARGET",
            "CARGO_BUILD_BUILD_DIR",
            "CARGO_PROFILE_RELEASE_STRIP",
            "CARGO_PKG_NAME",
            "CARGO_FEATURE_STD",
            "CARGO_CFG_TARGET_OS",
            "DEP_Z_ROOT",
            "OUT_DIR",
            "__CARGO_LLVM_COV_RUSTC_WRAPPER",
        ] {
            assert!(goes(name, "x"), "{name}");
        }
    }

    #[test]
    fn the_machines_and_users_variables_stay() {
        for name in [
            "PATH",
            "HOME",
            "CARGO",
            "CARGO_HOME",
            "CARGO_NET_OFFLINE",
            "CARGO_MAKEFLAGS",
            "CARGO_BUILD_JOBS",
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER",
            "RUSTUP_TOOLCHAIN",
            "LD_LIBRARY_PATH",
            "MIRITER",
        ] {
            assert!(!goes(name, "x"), "{name}");
        }
    }

    #[test]
    fn of_the_compiler_wrappers_only_caches_stay() {
        for wrapper in ["/opt/bin/clippy-driver", "cargo-llvm-cov", "cargo-miri", "rust-analyzer"] {
            assert!(goes("RUSTC_WRAPPER", wrapper), "{wrapper}");
        }
        assert!(!goes("RUSTC_WRAPPER", "/usr/bin/sccache"));
        assert!(!goes("RUSTC_WRAPPER", ""));
        assert!(!goes("RUSTC", "/usr/bin/rustc"));
        assert!(goes("RUSTC", "/root/.rustup/toolchains/nightly/bin/miri"));
    }
}
