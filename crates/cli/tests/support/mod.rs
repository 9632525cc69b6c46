//! What the tests share: the command run from a shell's point of view, and guests for it.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;

/// The command.
pub(crate) const GLOWBOX: &str = env!("CARGO_BIN_EXE_glowbox");

/// How a command ended.
pub(crate) struct Ended {
    /// Its exit status; `None` if a signal killed it.
    pub(crate) status: Option<i32>,
    /// What it wrote to standard output.
    pub(crate) out: String,
    /// What it wrote to standard error.
    pub(crate) err: String,
}

impl Ended {
    pub(crate) fn of(output: Output) -> Ended {
        let text = |bytes| String::from_utf8(bytes).expect("the command writes UTF-8");
        Ended { status: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Checks that it worked without a word on standard error, and gives its output.
    pub(crate) fn worked(self) -> String {
        assert_eq!((self.status, self.err.as_str()), (Some(0), ""), "{}", self.out);
        self.out
    }

    /// Checks that it failed with this status, without a word on standard output and with each of
    /// `words` on standard error.
    pub(crate) fn failed(self, status: i32, words: &[&str]) -> String {
        assert_eq!((self.status, self.out.as_str()), (Some(status), ""), "{}", self.err);
        for word in words {
            assert!(self.err.contains(word), "no `{word}` in: {}", self.err);
        }
        self.err
    }
}

/// What names the backend.
pub(crate) const VARIABLE: &str = "GLOWBOX_BACKEND";

/// What [`VARIABLE`] is for the tests: as it is for them, or where there is no hypervisor what the command uses
/// then, so that it does not warn.
static BACKEND: LazyLock<String> = LazyLock::new(|| {
    let given = std::env::var(VARIABLE).unwrap_or_default();
    let doctor: serde_json::Value = serde_json::from_str(&DOCTOR.out).expect("JSON");
    match (doctor["backend"].as_str(), doctor["is_default"].as_bool()) {
        (Some(backend), Some(false)) => backend.into(),
        _ => given,
    }
});

static DOCTOR: LazyLock<Ended> = LazyLock::new(|| {
    let output = Command::new(GLOWBOX).args(["doctor", "--json"]).stdin(Stdio::null()).output();
    Ended::of(output.expect("the command can be run"))
});

/// A program that runs guests where there is a hypervisor and where there is none, without a warning.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env(VARIABLE, &*BACKEND);
    command
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Ended {
    Ended::of(command.stdin(Stdio::null()).output().expect("the command can be run"))
}

/// Runs `glowbox` to its end.
pub(crate) fn glowbox<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Ended {
    run(command(GLOWBOX).args(arguments))
}

/// Starts `glowbox` with Ctrl-C as a shell's foreground program has it, whatever runs the tests.
pub(crate) fn start<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Child {
    let mut command = command("env");
    command.arg("--default-signal=INT").arg(GLOWBOX).args(arguments);
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    piped.spawn().expect("the command can be run")
}

/// Sends Ctrl-C's signal to a process.
pub(crate) fn interrupt(child: &Child) {
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(killed.unwrap().success());
}

static GUESTS: LazyLock<Vec<glowbox_build::GuestBinary>> = LazyLock::new(|| {
    let target = concat!(env!("CARGO_TARGET_TMPDIR"), "/../glowbox-guests");
    let guests = glowbox_build::Guest::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../guests"));
    let built = guests.bin("command").bin("hello").target_dir(target).build_all();
    built.unwrap_or_else(|error| panic!("{error}"))
});

/// The file of a guest in the folder `guests/`.
pub(crate) fn guest(name: &str) -> &'static str {
    let found = GUESTS.iter().find(|guest| guest.name() == name).expect("it is built above");
    found.path().to_str().expect("a path of this machine")
}

static PROGRAMS: LazyLock<Vec<glowbox_build::GuestBinary>> = LazyLock::new(|| {
    let target = concat!(env!("CARGO_TARGET_TMPDIR"), "/../glowbox-guests");
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../guests-std");
    let programs = glowbox_build::Guest::std(folder).bin("shelled").bin("hello-std");
    programs.target_dir(target).build_all().unwrap_or_else(|error| panic!("{error}"))
});

/// The file of a program in the folder `guests-std/`, which uses the standard library.
pub(crate) fn program(name: &str) -> &'static str {
    let found = PROGRAMS.iter().find(|program| program.name() == name).expect("it is built above");
    found.path().to_str().expect("a path of this machine")
}

/// A folder that is gone after the test.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("there is room for a folder")
}

/// Writes a file into a folder.
pub(crate) fn file(folder: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("the folder can be written to");
    path
}

/// The names in a folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Whether guests can run here; says so if not.
pub(crate) fn can_run() -> bool {
    let can = DOCTOR.status == Some(0);
    if !can {
        eprintln!("left out: guests can't run here: {}", DOCTOR.out);
    }
    can
}

/// Runs a script after `setup` in mounts of its own, which takes root; `None` if that is not possible.
pub(crate) fn with_mounts(setup: &str, script: &str) -> Option<Ended> {
    if !is_root() {
        return None;
    }
    let script = format!("{{ {setup}; }} || exit 99; {script}");
    let mut unshare = Command::new("unshare");
    let ended = run(unshare.args(["-m", "sh", "-c", &script]).env_remove(VARIABLE));
    let unshared = !ended.err.contains("unshare");
    if ended.status == Some(99) || ended.status == Some(1) && !unshared {
        eprintln!("left out: no mounts of its own: {}", ended.err);
        return None;
    }
    Some(ended)
}

/// Hides /dev/kvm, as a container without it does.
pub(crate) const HIDE_DEVICES: &str = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3";

/// Whether this is root, as tests that change users and mounts need; says so if not.
pub(crate) fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().unwrap();
    let root = output.stdout == b"0\n";
    if !root {
        eprintln!("left out: it takes root");
    }
    root
}

/// Copies of files that any user can read and run, in a folder that any user can enter.
pub(crate) fn for_everybody(files: &[&str]) -> (tempfile::TempDir, Vec<PathBuf>) {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder();
    let permit = |path: &Path| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    permit(folder.path());
    let copy = |from: &&str| {
        let to = folder.path().join(Path::new(from).file_name().unwrap());
        std::fs::copy(from, &to).unwrap();
        permit(&to);
        to
    };
    let copies = files.iter().map(copy).collect();
    (folder, copies)
}

/// A command that runs as a user who may do nothing.
pub(crate) fn as_nobody(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
    command.current_dir("/");
    command
}
