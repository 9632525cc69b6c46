//! The test programs: built by cargo, which says where they are.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

/// The target that is linked statically. Named to cargo, so that build scripts and macros aren't.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What stands for the package in examples' names.
pub(crate) const EXAMPLE: &str = "example";

/// A test program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    /// The package without `glowbox-`, and the test; `lib` for tests within the library.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

impl Program {
    /// Whether it is meant by a name: its own, or what follows the package.
    pub(crate) fn is_named(&self, name: &str) -> bool {
        self.name == name || self.name.split_once('/').is_some_and(|(_, test)| test == name)
    }
}

/// Builds the test programs of packages, linked statically, in a target folder of their own.
pub(crate) fn build_static(
    root: &Path,
    target: &Path,
    packages: &[String],
) -> Result<Vec<Program>, String> {
    let mut cargo = cargo(root);
    cargo.args(["test", "--locked", "--no-run", "--lib", "--tests", "--target", TARGET]);
    cargo.arg("--target-dir").arg(target);
    packages.iter().for_each(|package| _ = cargo.args(["--package", package]));
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
    // All of it is copied into the machine's memory.
    cargo.env("CARGO_PROFILE_DEV_DEBUG", "line-tables-only");
    built(cargo)
}

/// Cargo, for work on this repository.
pub(crate) fn cargo(root: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root).stderr(Stdio::inherit());
    cargo
}

/// What a cargo command builds.
pub(crate) fn built(mut cargo: Command) -> Result<Vec<Program>, String> {
    cargo.args(["--message-format", "json-render-diagnostics"]);
    let output = cargo.output().map_err(|error| format!("cargo: {error}"))?;
    if !output.status.success() {
        return Err("the test programs do not build".into());
    }
    programs(&String::from_utf8_lossy(&output.stdout))
}

/// The programs that are named; all, if none is.
pub(crate) fn named(programs: Vec<Program>, names: &[String]) -> Result<Vec<Program>, String> {
    let unknown = names.iter().find(|name| !programs.iter().any(|program| program.is_named(name)));
    if let Some(name) = unknown {
        let there: Vec<_> = programs.iter().map(|program| program.name.as_str()).collect();
        return Err(format!("there is no program `{name}`; there are {}", there.join(", ")));
    }
    let is_named = |program: &Program| names.iter().any(|name| program.is_named(name));
    Ok(programs.into_iter().filter(|program| names.is_empty() || is_named(program)).collect())
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// The test programs in what cargo reports, a line of JSON each.
fn programs(messages: &str) -> Result<Vec<Program>, String> {
    let mut programs = Vec::new();
    for line in messages.lines() {
        let message: Message =
            serde_json::from_str(line).map_err(|error| format!("cargo said {line:?}: {error}"))?;
        let Message { manifest_path: Some(manifest), target: Some(target), .. } = message else {
            continue;
        };
        let Some(path) = message.executable.filter(|_| message.reason == "compiler-artifact")
        else {
            continue;
        };
        // The folder is the package's name without `glowbox-`, here.
        let package = manifest.parent().and_then(Path::file_name).unwrap_or_default();
        let is = |what: &str| target.kind.iter().any(|kind| kind == what);
        let test = match is("test") || is("example") {
            true => target.name.as_str(),
            false if is("bin") => continue,
            false => "lib",
        };
        let package = package.to_string_lossy();
        let package = if is("example") { EXAMPLE } else { &package };
        programs.push(Program { name: format!("{package}/{test}"), path });
    }
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact(folder: &str, kind: &str, name: &str, executable: &str) -> String {
        format!(
            r#"{{"reason":"compiler-artifact","manifest_path":"/w/crates/{folder}/Cargo.toml","target":{{"kind":["{kind}"],"name":"{name}"}},"executable":{executable}}}"#
        )
    }

    #[test]
    fn programs_are_found_in_what_cargo_says_by_package_and_test() {
        let messages = [
            artifact("glowbox", "test", "suite", r#""/t/suite-12""#),
            artifact("mem", "lib", "glowbox_mem", "null"),
            artifact("mem", "lib", "glowbox_mem", r#""/t/glowbox_mem-34""#),
            artifact("cli", "bin", "glowbox", r#""/t/glowbox""#),
            r#"{"reason":"build-finished","success":true}"#.into(),
        ];
        let found = programs(&messages.join("\n")).unwrap();
        let found: Vec<_> =
            found.iter().map(|found| (found.name.as_str(), found.path.to_str().unwrap())).collect();
        assert_eq!(found, [("glowbox/suite", "/t/suite-12"), ("mem/lib", "/t/glowbox_mem-34")]);
        assert!(programs("no JSON").is_err());
    }

    #[test]
    fn a_program_is_meant_by_its_whole_name_or_the_tests() {
        let program = Program { name: "glowbox/suite".into(), path: PathBuf::new() };
        assert!(program.is_named("glowbox/suite") && program.is_named("suite"));
        assert!(!program.is_named("glowbox") && !program.is_named("glow/suite"));
    }
}
