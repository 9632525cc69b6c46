//! What the tests share: cases, and how one is compared.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use glowbox::{Builder, Clock, Input, Output, OutputBuffer, Sandbox};
use glowbox_testprograms::{Absent, Libc, Outcome, Program, Programs, Run};
use tempfile::TempDir;

/// Where a program finds the folder that it may read.
pub(crate) const DATA: &str = "/data";
/// Where it finds the one that it may write to.
pub(crate) const SCRATCH: &str = "/scratch";

const MIB: u64 = 1 << 20;

static PROGRAMS: LazyLock<Programs> =
    LazyLock::new(|| Programs::new(concat!(env!("CARGO_TARGET_TMPDIR"), "/..")));

/// Says that a test can't run here, and counts it.
pub(crate) fn leave_out(reason: &Absent) {
    crate::topics::leave_out(&reason.to_string());
}

/// A program to be built.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Which {
    Rust(&'static str, Libc),
    C(&'static str, Libc),
    Go,
    Busybox,
}

impl Which {
    pub(crate) fn program(self) -> Result<Program, Absent> {
        match self {
            Which::Rust(name, libc) => PROGRAMS.rust(name, libc),
            Which::C(name, libc) => PROGRAMS.c(name, libc),
            Which::Go => PROGRAMS.go(),
            Which::Busybox => PROGRAMS.busybox(),
        }
    }

    fn topic(self) -> String {
        match self {
            Which::Rust(_, libc) => format!("crates::{}", libc.name()),
            Which::C(name, libc) => format!("c::{}::{name}", libc.name()),
            Which::Go => "go".into(),
            Which::Busybox => "busybox".into(),
        }
    }
}

/// A run of a program that is the same in a sandbox.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    program: Which,
    name: &'static str,
    arguments: Vec<&'static str>,
    input: Vec<u8>,
    memory: u64,
    clock: Clock,
    errors: bool,
    in_order: bool,
    jit: bool,
}

impl Case {
    /// A program run without arguments, with 512 MiB and a clock of its own.
    pub(crate) fn new(program: Which, name: &'static str) -> Case {
        Case {
            program,
            name,
            arguments: Vec::new(),
            input: Vec::new(),
            memory: 512 * MIB,
            clock: Clock::Virtual,
            errors: false,
            in_order: true,
            jit: false,
        }
    }

    /// With these arguments. [`DATA`] and [`SCRATCH`] in them are folders of the host, when it runs
    /// there.
    pub(crate) fn args<const N: usize>(self, arguments: [&'static str; N]) -> Case {
        Case { arguments: arguments.to_vec(), ..self }
    }

    /// With this on standard input.
    pub(crate) fn input(self, input: impl Into<Vec<u8>>) -> Case {
        Case { input: input.into(), ..self }
    }

    /// With so much memory.
    pub(crate) fn mib(self, mib: u64) -> Case {
        Case { memory: mib * MIB, ..self }
    }

    /// With the host's clock.
    pub(crate) fn real_time(self) -> Case {
        Case { clock: Clock::Real, ..self }
    }

    /// Standard error is the same, too.
    pub(crate) fn errors(self) -> Case {
        Case { errors: true, ..self }
    }

    /// The lines of standard output may come in another order.
    pub(crate) fn in_any_order(self) -> Case {
        Case { in_order: false, ..self }
    }

    /// It makes code.
    pub(crate) fn jit(self) -> Case {
        Case { jit: true, ..self }
    }

    pub(crate) fn name(&self) -> String {
        let clock = if self.clock == Clock::Real { "_in_real_time" } else { "" };
        format!("{}::{}{clock}", self.program.topic(), self.name)
    }

    /// Runs it on Linux and in a sandbox, and says what is not the same.
    pub(crate) fn compare(&self) -> Result<(), String> {
        let program = match self.program.program() {
            Ok(program) => program,
            Err(absent) => {
                leave_out(&absent);
                return Ok(());
            }
        };
        let mut expected = self.natively(&program);
        let mut found = self.in_a_sandbox(&program)?;
        if !self.in_order {
            for outcome in [&mut expected, &mut found] {
                outcome.output = sorted(&outcome.output);
            }
        }
        let mut text = String::new();
        if (expected.code, expected.signal) != (found.code, found.signal) {
            let ended = |outcome: &Outcome| format!("{:?}/{:?}", outcome.code, outcome.signal);
            let (expected, found) = (ended(&expected), ended(&found));
            let _ = writeln!(text, "ended with {found}, not with {expected} (status/signal)");
        }
        differ(&mut text, "standard output", &expected.output, &found.output);
        if self.errors {
            differ(&mut text, "standard error", &expected.errors, &found.errors);
        }
        if text.is_empty() {
            return Ok(());
        }
        let errors = String::from_utf8_lossy(&found.errors);
        let first: String = errors.chars().take(2000).collect();
        let _ = writeln!(text, "standard error in the sandbox:\n{first}");
        Err(text)
    }

    fn natively(&self, program: &Program) -> Outcome {
        let folders = Folders::new();
        let [data, scratch] = [folders.data(), folders.scratch()].map(|path| text_of(&path));
        let there = |argument: &&str| argument.replace(DATA, &data).replace(SCRATCH, &scratch);
        let run = Run {
            arguments: self.arguments.iter().map(there).collect(),
            environment: vec![("GREETING".into(), "hello there".into())],
            input: self.input.clone(),
        };
        let mut outcome = program.run(&run);
        for text in [&mut outcome.output, &mut outcome.errors] {
            *text = replace(text, data.as_bytes(), DATA.as_bytes());
            *text = replace(text, scratch.as_bytes(), SCRATCH.as_bytes());
        }
        outcome
    }

    fn in_a_sandbox(&self, program: &Program) -> Result<Outcome, String> {
        let folders = Folders::new();
        let (builder, output, errors) = builder(&folders);
        let mut builder = builder
            .args(self.arguments.iter().copied())
            .env("GREETING", "hello there")
            .stdin(Input::bytes(self.input.clone()))
            .memory_limit(self.memory)
            .clock(self.clock);
        if self.jit {
            builder = builder.allow_jit();
        }
        let mut process =
            builder.load(program.path()).map_err(|error| format!("it is not loaded: {error}"))?;
        match process.run() {
            Ok(status) => Ok(Outcome {
                output: output.take(),
                errors: errors.take(),
                code: status.code(),
                signal: status.signal(),
            }),
            Err(error) => Err(format!(
                "it does not run to its end: {error}\nstandard output:\n{}\nstandard error:\n{}",
                String::from_utf8_lossy(&output.take()),
                String::from_utf8_lossy(&errors.take()),
            )),
        }
    }
}

/// A builder with both folders, and where the streams go.
pub(crate) fn builder(folders: &Folders) -> (Builder, OutputBuffer, OutputBuffer) {
    let (stdout, output) = Output::buffer(64 << 20);
    let (stderr, errors) = Output::buffer(1 << 20);
    let builder = Sandbox::builder()
        .stdout(stdout)
        .stderr(stderr)
        .directory(DATA, folders.data())
        .scratch(SCRATCH, 64 * MIB)
        .memory_limit(512 * MIB)
        .deadline(Duration::from_secs(180));
    (builder, output, errors)
}

/// Two folders on the host: one to be read, that is always the same, and an empty one.
pub(crate) struct Folders {
    root: TempDir,
}

impl Folders {
    pub(crate) fn new() -> Folders {
        let folders = Folders { root: tempfile::tempdir().expect("a temporary folder") };
        let data = folders.data();
        let put = |name: &str, bytes: &[u8]| std::fs::write(data.join(name), bytes).unwrap();
        std::fs::create_dir_all(data.join("sub")).unwrap();
        std::fs::create_dir(folders.scratch()).unwrap();
        put("a.txt", b"alpha\nbeta\ngamma\n");
        put("b.txt", b"");
        put("c.bin", &(0..=255).collect::<Vec<u8>>().repeat(100));
        put("sub/inner.txt", b"inner\n");
        std::os::unix::fs::symlink("a.txt", data.join("link")).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", data.join("outside")).unwrap();
        folders
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    fn scratch(&self) -> PathBuf {
        self.root.path().join("scratch")
    }
}

fn text_of(path: &Path) -> String {
    path.to_str().expect("temporary folders have plain names").into()
}

fn replace(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut result = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.first() {
        if let Some(after) = rest.strip_prefix(from) {
            result.extend(to);
            rest = after;
        } else {
            result.push(*first);
            rest = &rest[1..];
        }
    }
    result
}

fn sorted(text: &[u8]) -> Vec<u8> {
    let mut lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    lines.sort_unstable();
    lines.concat()
}

/// Says where two texts begin to differ.
fn differ(text: &mut String, what: &str, expected: &[u8], found: &[u8]) {
    if expected == found {
        return;
    }
    let lines = |bytes: &[u8]| -> Vec<String> {
        bytes.split(|byte| *byte == b'\n').map(|line| line.escape_ascii().to_string()).collect()
    };
    let (expected, found) = (lines(expected), lines(found));
    let _ = writeln!(text, "{what} differs ({} lines, not {}):", found.len(), expected.len());
    let longest = expected.len().max(found.len());
    let differing = (0..longest).filter(|line| expected.get(*line) != found.get(*line));
    for line in differing.take(20) {
        let show = |lines: &[String]| {
            let line = lines.get(line).map_or("(none)", String::as_str);
            line.chars().take(200).collect::<String>()
        };
        let _ = writeln!(text, "  {}: Linux   {}", line + 1, show(&expected));
        let _ = writeln!(text, "  {}: sandbox {}", line + 1, show(&found));
    }
}
