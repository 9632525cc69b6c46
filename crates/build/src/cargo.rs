//! Runs the inner cargo and reads what it says.
//!
//! Cargo's machine-readable messages on standard output name the executables, so nothing here
//! guesses at paths within a target directory. Its standard error is for people; it is kept for the
//! error text, and searched only to give a frequent failure its own advice.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::environment;
use crate::target_dir::Places;
use crate::{Error, Guest, GuestBinary, Library, Profile};

/// The compiler's flags for a guest without the standard library.
///
/// They can't reach the guest's build scripts and procedural macros, since cargo is always given
/// `--target`, even though that is this machine's own.
const FLAGS: &[&str] = &[
    // A panic has nowhere to unwind to, and no unwinder is linked.
    "-Cpanic=abort",
    // A static PIE: it can be loaded anywhere, relocates itself, and needs no interpreter.
    "-Ctarget-feature=+crt-static",
    "-Crelocation-model=pie",
    "-Clink-arg=-static-pie",
    // No C start-up code and no C library: `_start` and `memcpy` are glowbox-guest's.
    "-Clink-arg=-nostartfiles",
    "-Clink-arg=-nostdlib",
    // Code on pages of its own, relocated data read-only afterwards, sections that are only found
    // by their `__start_` symbols kept (the signatures), nothing that only a Linux loader reads.
    concat!(
        "-Clink-arg=-Wl,-z,separate-code,-z,nostart-stop-gc,-z,relro,-z,now,",
        "--build-id=none,--no-eh-frame-hdr"
    ),
    // The `getrandom` crate asks glowbox-guest, which has random numbers, and not Linux.
    "--cfg=getrandom_backend=\"custom\"",
    // glowbox-guest's generator runs on what every x86-64 CPU has. It would ask once which CPU this
    // is, and the answer would travel with a snapshot to a machine that has another one.
    "--cfg=chacha20_backend=\"sse2\"",
];

/// The compiler's flags for a guest with the standard library. Whether its panics unwind is for its
/// profile to say.
const STD_FLAGS: &[&str] = &[
    // A static PIE: libc is in it, and relocates it.
    "-Ctarget-feature=+crt-static",
    // As above: the signatures, and the generator that a snapshot takes to another machine.
    "-Clink-arg=-Wl,-z,nostart-stop-gc",
    "--cfg=chacha20_backend=\"sse2\"",
];

fn flags(library: Library) -> &'static [&'static str] {
    match library {
        Library::None => FLAGS,
        Library::Std(_) => STD_FLAGS,
    }
}

/// What a cargo call built.
pub(crate) struct Built {
    /// The guest's folder, absolute.
    pub(crate) dir: PathBuf,
    /// The folder of the guest's workspace: `dir` itself for a package that is in none.
    pub(crate) root: PathBuf,
    /// Where all guests are built: nothing below it is a source.
    pub(crate) base: PathBuf,
    /// The executables, sorted by name. There is at least one.
    pub(crate) binaries: Vec<GuestBinary>,
    /// The manifests of all local packages that took part.
    pub(crate) manifests: BTreeSet<PathBuf>,
    /// The compiler's warnings, as text.
    pub(crate) warnings: String,
}

pub(crate) fn build(guest: &Guest) -> Result<Built, Error> {
    let dir = resolve(&guest.dir)?;
    check_host(&dir, std::env::consts::OS, std::env::consts::ARCH)?;
    let root = workspace_root(&dir)?;
    let places = Places::choose(guest, &dir, &root);

    let output = run(&dir, build_command(guest, &places))?;
    if !output.status.success() {
        return Err(diagnose(dir, guest.library, &output));
    }
    let (binaries, manifests) = read_messages(&String::from_utf8_lossy(&output.stdout));
    if binaries.is_empty() {
        return Err(Error::NoBinary { guest: dir });
    }
    check_names(&dir, &binaries)?;
    let warnings = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok(Built { dir, root, base: places.base, binaries, manifests, warnings })
}

/// The guest's folder as an absolute path, if it is one that can hold a guest.
fn resolve(dir: &Path) -> Result<PathBuf, Error> {
    let resolved = match dir.canonicalize() {
        Ok(resolved) if resolved.is_dir() => resolved,
        _ => {
            let current_dir = std::env::current_dir().unwrap_or_default();
            return Err(Error::NotADirectory { guest: dir.to_path_buf(), current_dir });
        }
    };
    // Cargo would look in the folders above, and build something else.
    if !resolved.join("Cargo.toml").is_file() {
        return Err(Error::NoManifest { guest: resolved });
    }
    Ok(resolved)
}

fn check_host(dir: &Path, os: &str, arch: &str) -> Result<(), Error> {
    if (os, arch) == ("linux", "x86_64") {
        return Ok(());
    }
    Err(Error::UnsupportedHost { guest: dir.to_path_buf(), os: os.into(), arch: arch.into() })
}

fn workspace_root(dir: &Path) -> Result<PathBuf, Error> {
    let mut command = cargo();
    command.args(["locate-project", "--workspace", "--message-format", "plain"]);
    let output = run(dir, command)?;
    // If cargo can't tell, the manifest is broken. The build will say it better.
    let manifest = String::from_utf8_lossy(&output.stdout);
    let root = Path::new(manifest.trim_end()).parent().filter(|root| root.is_dir());
    Ok(root.unwrap_or(dir).to_path_buf())
}

fn build_command(guest: &Guest, places: &Places) -> Command {
    let mut command = cargo();
    // Quiet: then a success leaves nothing but warnings on standard error.
    command.args(["build", "--quiet", "--color=never", "--target", guest.library.triple()]);
    command.arg("--message-format=json-render-diagnostics");
    command.arg("--target-dir").arg(&places.target);
    if let Some(build) = &places.build {
        command.env("CARGO_BUILD_BUILD_DIR", build);
    }
    match guest.profile {
        Profile::Release => command.args(["--profile", "release"]),
        Profile::Dev => command.args(["--profile", "dev"]),
    };
    if guest.bins.is_empty() {
        command.arg("--bins");
    }
    for bin in &guest.bins {
        command.args(["--bin", bin]);
    }
    if !guest.features.is_empty() {
        command.arg("--features").arg(guest.features.join(","));
    }
    if guest.locked {
        command.arg("--locked");
    }
    if guest.offline {
        command.arg("--offline");
    }
    command.env("CARGO_ENCODED_RUSTFLAGS", flags(guest.library).join("\x1f"));
    command
}

/// Cargo, in an environment without the outer build.
fn cargo() -> Command {
    let mut command = Command::new(program("CARGO", "cargo"));
    environment::clean(&mut command);
    command
}

/// The program named by a variable. Cargo sets `CARGO` and `RUSTC` for whatever it runs.
fn program(variable: &str, default: &str) -> OsString {
    std::env::var_os(variable).filter(|value| !value.is_empty()).unwrap_or_else(|| default.into())
}

fn run(dir: &Path, mut command: Command) -> Result<Output, Error> {
    // In the guest's folder, so that its config.toml and rust-toolchain.toml count.
    command.current_dir(dir).stdin(Stdio::null());
    command.output().map_err(|source| {
        let (guest, cargo) = (dir.to_path_buf(), PathBuf::from(command.get_program()));
        match source.kind() {
            io::ErrorKind::NotFound => Error::CargoMissing { guest, cargo },
            _ => Error::CargoNotRun { guest, cargo, source },
        }
    })
}

/// Finds the executables and the manifests of local packages in cargo's messages.
fn read_messages(stdout: &str) -> (Vec<GuestBinary>, BTreeSet<PathBuf>) {
    let mut binaries = Vec::new();
    let mut manifests = BTreeSet::new();
    // A line that isn't JSON is not cargo's: a procedural macro may print.
    for message in stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        // Every crate that took part has such a message, built just now or not.
        if message["package_id"].as_str().is_some_and(|id| id.contains("path+file://"))
            && let Some(manifest) = message["manifest_path"].as_str()
        {
            manifests.insert(PathBuf::from(manifest));
        }
        if message["reason"] == "compiler-artifact"
            && let Some(path) = message["executable"].as_str()
            && let Some(name) = message["target"]["name"].as_str()
        {
            binaries.push(GuestBinary { name: name.into(), path: PathBuf::from(path) });
        }
    }
    binaries.sort_by(|a, b| a.name.cmp(&b.name));
    (binaries, manifests)
}

/// Refuses binaries of which one would overwrite the other, as a file or as a variable.
fn check_names(dir: &Path, binaries: &[GuestBinary]) -> Result<(), Error> {
    for (index, first) in binaries.iter().enumerate() {
        let variable = first.variable();
        if let Some(second) = binaries[index + 1..].iter().find(|b| b.variable() == variable) {
            return Err(Error::NamesClash {
                guest: dir.to_path_buf(),
                first: first.name.clone(),
                second: second.name.clone(),
                variable,
            });
        }
    }
    Ok(())
}

/// What rustc says of a program without the standard library whose panics would unwind.
const NEEDS_ABORT: &str = "unwinding panics are not supported without std";

/// Why cargo failed, with advice where it is known.
fn diagnose(guest: PathBuf, library: Library, output: &Output) -> Error {
    let mut text = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    // 101 is cargo's usual failure. Anything else (a signal) is worth a line.
    if output.status.code() != Some(101) {
        text = format!("{text}\n({})", output.status);
    }
    if let Some(linker) = missing_linker(&text) {
        let linker = linker.to_owned();
        return Error::LinkerMissing { guest, linker, output: text };
    }
    if text.contains("believes it's in a workspace when it's not") {
        return Error::InForeignWorkspace { guest, output: text };
    }
    let target = library.triple();
    if let Some(libdir) = missing_libdir(&guest, target) {
        return Error::TargetMissing { guest, target, libdir };
    }
    let link_failed = text.contains("error: linking with `");
    let two_handlers = text.contains("duplicate lang item") && text.contains("`panic_impl`");
    match library {
        // The linker's arguments are among what cargo says.
        Library::None if two_handlers || (link_failed && text.contains("libstd-")) => {
            Error::UsesStd { guest, output: text }
        }
        Library::None if link_failed => Error::LinkFailed { guest, output: text },
        Library::Std(_) if two_handlers || text.contains(NEEDS_ABORT) || link_failed => {
            Error::StdFailed { guest, output: text }
        }
        _ => Error::CargoFailed { guest, output: text },
    }
}

/// The linker's name, from rustc's ``error: linker `cc` not found``.
fn missing_linker(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("error: linker `")?;
    let (linker, rest) = rest.split_once('`')?;
    rest.starts_with(" not found").then_some(linker)
}

/// The folder with the target's libraries, if the compiler can name it and it isn't there.
fn missing_libdir(dir: &Path, target: &str) -> Option<PathBuf> {
    let mut command = Command::new(program("RUSTC", "rustc"));
    environment::clean(&mut command);
    command.args(["--print", "target-libdir", "--target", target]).current_dir(dir);
    let output = command.output().ok().filter(|output| output.status.success())?;
    let libdir = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim_end());
    (!libdir.as_os_str().is_empty() && !libdir.is_dir()).then_some(libdir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_machine_is_refused_by_name() {
        let text = check_host(Path::new("/g"), "macos", "aarch64").unwrap_err().to_string();
        assert!(text.contains("macos aarch64") && text.contains("/g"), "{text}");
        assert!(check_host(Path::new("/g"), "linux", "x86_64").is_ok());
    }

    #[test]
    fn executables_are_found_among_other_messages() {
        let (binaries, manifests) = read_messages(concat!(
            "a macro prints\n",
            r#"{"reason":"compiler-artifact","package_id":"registry+x#serde@1.0.0","manifest_path":"/r/Cargo.toml","target":{"name":"serde"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","package_id":"path+file:///g#0.1.0","manifest_path":"/g/Cargo.toml","target":{"name":"a-b"},"executable":"/t/a-b"}"#,
            "\n{}\n[1]\n",
        ));
        assert_eq!(binaries, [GuestBinary { name: "a-b".into(), path: "/t/a-b".into() }]);
        assert_eq!(binaries[0].variable(), "GLOWBOX_GUEST_A_B");
        assert_eq!(manifests.into_iter().collect::<Vec<_>>(), [Path::new("/g/Cargo.toml")]);
    }

    #[test]
    fn names_that_would_share_a_variable_are_refused() {
        let binary = |name: &str| GuestBinary { name: name.into(), path: PathBuf::new() };
        let dir = Path::new("/g");
        let text = check_names(dir, &[binary("a-b"), binary("a_b")]).unwrap_err().to_string();
        assert!(text.contains("GLOWBOX_GUEST_A_B"), "{text}");
        assert!(check_names(dir, &[binary("a"), binary("b")]).is_ok());
    }
}
