//! The programs of `programs/`, for tests: builds them, and runs them on Linux itself to have what a
//! run in a sandbox is compared with.
//!
//! They are written in Rust, Go and C, so building them takes toolchains that may not be there. Then
//! a program is an [`Absent`] that says which one, and a test that needs it leaves itself out. A
//! program that its toolchain refuses is a broken test, and panics.
//!
//! ```no_run
//! use glowbox_testprograms::{Libc, Programs, Run};
//!
//! let programs = Programs::new("target");
//! match programs.c("signals", Libc::Musl) {
//!     Ok(program) => assert_eq!(program.run(&Run::default()).code, Some(0)),
//!     Err(absent) => eprintln!("left out: {absent}"),
//! }
//! ```

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use glowbox_build::{Guest, GuestBinary, Target};

/// A folder of programs that have been built, for machines without toolchains: what [`Programs`] has
/// made in `programs/` below its target folder.
pub const PREBUILT: &str = "GLOWBOX_TEST_PROGRAMS";

/// The C library that a program is linked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Libc {
    /// glibc.
    Gnu,
    /// musl.
    Musl,
}

impl Libc {
    /// Both.
    pub const ALL: [Libc; 2] = [Libc::Gnu, Libc::Musl];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Libc::Gnu => "gnu",
            Libc::Musl => "musl",
        }
    }

    /// The compiler for it, and the package that has that.
    fn compiler(self) -> (&'static str, &'static str) {
        match self {
            Libc::Gnu => ("gcc", "gcc"),
            Libc::Musl => ("musl-gcc", "musl-tools"),
        }
    }

    fn target(self) -> Target {
        match self {
            Libc::Gnu => Target::Gnu,
            Libc::Musl => Target::Musl,
        }
    }
}

/// A program that can't be built here, and why.
#[derive(Debug, Clone)]
pub struct Absent(String);

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A statically linked executable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    name: String,
    path: PathBuf,
}

/// Where the programs are and go. Each is built once.
#[derive(Debug)]
pub struct Programs {
    sources: PathBuf,
    target: PathBuf,
    output: PathBuf,
    prebuilt: Option<PathBuf>,
    rust: [OnceLock<Result<HashMap<String, PathBuf>, Absent>>; 2],
    others: Mutex<HashMap<String, Result<PathBuf, Absent>>>,
}

impl Programs {
    /// Builds below a target folder: `concat!(env!("CARGO_TARGET_TMPDIR"), "/..")` in a test.
    pub fn new(target: impl Into<PathBuf>) -> Programs {
        let target = target.into();
        Programs {
            sources: Path::new(env!("CARGO_MANIFEST_DIR")).join("../../programs"),
            output: target.join("programs"),
            target,
            prebuilt: std::env::var_os(PREBUILT).map(PathBuf::from),
            rust: [const { OnceLock::new() }; 2],
            others: Mutex::default(),
        }
    }

    /// A Rust program of the workspace `programs/`.
    ///
    /// # Errors
    ///
    /// If the target of that C library isn't installed.
    pub fn rust(&self, name: &str, libc: Libc) -> Result<Program, Absent> {
        let full_name = format!("{name}.{}", libc.name());
        if let Some(found) = self.prebuilt(&full_name) {
            return found;
        }
        let built = self.rust[libc as usize].get_or_init(|| self.build_rust(libc));
        let path = built.as_ref().map_err(Absent::clone)?.get(name);
        let path = path.unwrap_or_else(|| panic!("there is no Rust program `{name}`"));
        Ok(Program { name: full_name, path: path.clone() })
    }

    /// A C program of `programs/c`.
    ///
    /// # Errors
    ///
    /// If the compiler for that C library isn't installed.
    pub fn c(&self, name: &str, libc: Libc) -> Result<Program, Absent> {
        self.other(format!("{name}.{}", libc.name()), |path| self.build_c(name, libc, path))
    }

    /// The Go program of `programs/go`.
    ///
    /// # Errors
    ///
    /// If Go isn't installed.
    pub fn go(&self) -> Result<Program, Absent> {
        self.other("go-demo".into(), |path| self.build_go(path))
    }

    /// This machine's busybox, if it is statically linked.
    ///
    /// # Errors
    ///
    /// If it isn't there.
    pub fn busybox(&self) -> Result<Program, Absent> {
        self.other("busybox".into(), |path| {
            let places = ["/usr/bin/busybox", "/bin/busybox", "/usr/local/bin/busybox"];
            let found = places.iter().map(Path::new);
            let mut found =
                found.filter(|place| fs::read(place).is_ok_and(|file| is_static(&file)));
            let text =
                "busybox is not installed, or not statically linked (Debian: busybox-static)";
            copy(found.next().ok_or_else(|| Absent(text.into()))?, path)
        })
    }

    fn prebuilt(&self, name: &str) -> Option<Result<Program, Absent>> {
        let path = self.prebuilt.as_ref()?.join(name);
        let program = Program { name: name.into(), path };
        let text = || format!("`{name}` is not in the folder that {PREBUILT} names");
        Some(program.path.is_file().then_some(program).ok_or_else(|| Absent(text())))
    }

    fn other(
        &self,
        name: String,
        build: impl FnOnce(&Path) -> Result<(), Absent>,
    ) -> Result<Program, Absent> {
        if let Some(found) = self.prebuilt(&name) {
            return found;
        }
        // Held while one is built: that is one build at a time.
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let built = others.entry(name.clone()).or_insert_with(|| {
            fs::create_dir_all(&self.output).expect("a folder for programs");
            let path = self.output.join(&name);
            build(&path).map(|()| path)
        });
        built.clone().map(|path| Program { name, path })
    }

    fn build_rust(&self, libc: Libc) -> Result<HashMap<String, PathBuf>, Absent> {
        // SQLite is written in C.
        let (compiler, package) = libc.compiler();
        let works = Command::new(compiler).arg("--version").output();
        works.map_err(|error| missing(compiler, package, &error))?;
        let guest = Guest::std(&self.sources).target(libc.target()).target_dir(&self.target);
        let binaries = match guest.build_all() {
            Ok(binaries) => binaries,
            Err(error @ glowbox_build::Error::TargetMissing { .. }) => {
                return Err(Absent(error.to_string()));
            }
            Err(error) => panic!("{error}"),
        };
        fs::create_dir_all(&self.output).expect("a folder for programs");
        let place = |binary: &GuestBinary| {
            let path = self.output.join(format!("{}.{}", binary.name(), libc.name()));
            copy(binary.path(), &path)?;
            Ok((binary.name().to_string(), path))
        };
        binaries.iter().map(place).collect()
    }

    fn build_c(&self, name: &str, libc: Libc, path: &Path) -> Result<(), Absent> {
        let folder = self.sources.join("c");
        let source = folder.join(format!("{name}.c"));
        let built = modified(path);
        let sources = [&source, &folder.join("checks.h")];
        if built.is_some() && sources.iter().all(|source| modified(source) < built) {
            return Ok(());
        }
        let (compiler, package) = libc.compiler();
        put(path, |new| {
            let mut command = Command::new(compiler);
            command.args(["-std=gnu11", "-O2", "-static", "-pthread", "-Wall", "-Wextra", "-o"]);
            command.arg(new).arg(source).arg("-lm");
            compile(command, package)
        })
    }

    fn build_go(&self, path: &Path) -> Result<(), Absent> {
        // Go's own cache tells what has to be done.
        put(path, |new| {
            let mut command = Command::new("go");
            command.args(["build", "-trimpath", "-o"]).arg(new).arg(".");
            command.current_dir(self.sources.join("go"));
            command.envs([("CGO_ENABLED", "0"), ("GOOS", "linux"), ("GOARCH", "amd64")]);
            command.envs([("GOFLAGS", ""), ("GOPROXY", "off"), ("GOTOOLCHAIN", "local")]);
            compile(command, "golang-go")
        })
    }
}

/// Makes an executable under another name and then moves it: another process that tests may run it.
fn put(path: &Path, make: impl FnOnce(&Path) -> Result<(), Absent>) -> Result<(), Absent> {
    let folder = path.parent().expect("a folder");
    let temporary = tempfile::tempdir_in(folder).expect("a temporary folder");
    let new = temporary.path().join("program");
    make(&new)?;
    fs::set_permissions(&new, Permissions::from_mode(0o755)).expect("a program's rights");
    fs::rename(&new, path).expect("a program in its place");
    Ok(())
}

/// Puts an executable down that exists already.
fn copy(from: &Path, to: &Path) -> Result<(), Absent> {
    put(to, |new| {
        fs::copy(from, new).expect("a program is copied");
        Ok(())
    })
}

/// Whether an ELF file needs no dynamic linker: none of its program headers is of the kind
/// `PT_INTERP`.
fn is_static(file: &[u8]) -> bool {
    let number = |at: usize, length: usize| {
        let bytes = file.get(at..at + length).unwrap_or_default();
        bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
    };
    let (table, count) = (number(32, 8), number(56, 2));
    let Some(room) = file.len().checked_sub(count * 56) else { return false };
    file.starts_with(b"\x7fELF\x02\x01")
        && table <= room
        && (0..count).all(|header| number(table + header * 56, 4) != 3)
}

fn modified(path: &Path) -> Option<std::time::SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

fn compile(mut command: Command, package: &str) -> Result<(), Absent> {
    let compiler = command.get_program().to_string_lossy().into_owned();
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            // Where glibc's static library is a package of its own.
            if text.contains("cannot find -lc") {
                return Err(Absent(format!("{compiler} has no static libc")));
            }
            panic!("{compiler} refuses a program:\n{text}")
        }
        Err(error) => Err(missing(&compiler, package, &error)),
    }
}

fn missing(compiler: &str, package: &str, error: &io::Error) -> Absent {
    match error.kind() {
        ErrorKind::NotFound => Absent(format!("{compiler} is not installed (Debian: {package})")),
        _ => panic!("{compiler}: {error}"),
    }
}

/// What a program is run with. Its environment holds nothing else.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// The arguments after its name.
    pub arguments: Vec<String>,
    /// Its environment.
    pub environment: Vec<(String, String)>,
    /// What it reads from standard input.
    pub input: Vec<u8>,
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Standard output.
    pub output: Vec<u8>,
    /// Standard error.
    pub errors: Vec<u8>,
    /// The status that it ended with.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

impl Program {
    /// Its name, with its C library's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The executable.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs it on Linux itself.
    pub fn run(&self, run: &Run) -> Outcome {
        let mut command = Command::new(&self.path);
        command.args(&run.arguments).env_clear();
        command.envs(run.environment.iter().map(|(name, value)| (name, value)));
        command.current_dir("/");
        // A pipe each, as a sandbox's streams are no terminal either.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let mut input = child.stdin.take().expect("a pipe");
        let bytes = run.input.clone();
        // It may end without reading all.
        let writer = std::thread::spawn(move || input.write_all(&bytes).ok());
        let result = child.wait_with_output().expect("a program that ends");
        writer.join().expect("writing does not panic");
        Outcome {
            output: result.stdout,
            errors: result.stderr,
            code: result.status.code(),
            signal: result.status.signal(),
        }
    }
}
