//! Ordinary Linux programs: the work of CoreMark, and system calls.
//!
//! The programs time themselves, in the sandbox by the host's clock, so that neither loading nor the
//! start of a process is in the figures.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use glowbox::{Clock, Engine, ExitStatus, Guest, Output, Sandbox};
use glowbox_bench::subject::Result;
use tempfile::TempPath;

use super::compute::NATIVE_BOUND;
use super::process::beside;
use super::{Experiment, Lab, Plan, ready};
use crate::rows::{Row, System, Yardstick};
use crate::samples::{Samples, shuffle};

const COREMARK: &[u8] = include_bytes!(env!("GLOWBOX_GUEST_COREMARK_RUN"));
const SYSCALLS: &[u8] = include_bytes!(env!("GLOWBOX_GUEST_SYSCALLS"));

/// Iterations of CoreMark in a sample: a few tenths of a second.
const ITERATIONS: u32 = 4000;
/// Writes in a sample, and in the one that is made when the rounds are over.
const WRITES: [u32; 2] = [1000, 100_000];

pub(crate) fn plans() -> Vec<Plan> {
    let what = "an iteration of CoreMark's work, in Rust";
    let coremark = vec![
        Row::new(System::Native, "coremark-native", what),
        Row::glowbox("coremark", what)
            .against(Yardstick::row("coremark-native", "native"))
            .at_most(NATIVE_BOUND),
    ];
    let writes = || {
        let rows = vec![
            Row::new(System::Native, "linux-write-native", "a write of 1 byte to a file"),
            Row::glowbox("linux-write", "a write of 1 byte to standard output"),
        ];
        let ids = &["linux-write-native", "linux-write"];
        vec![Plan::new(rows, move |lab| ready(Writes::open(lab, ids, 0)?))]
    };
    let many = Row::glowbox("linux-write-100000", "the same, of 100,000 at once");
    let mut plans = vec![Plan::new(coremark, |lab| ready(Coremark::open(lab)?)).every(8)];
    plans.extend(beside(writes));
    let open = |lab: &Lab| ready(Writes::open(lab, &["linux-write-100000"], 1)?);
    plans.push(Plan::new(vec![many], open).last());
    plans
}

/// A program, as a file for Linux and as a guest.
struct Program {
    engine: Engine,
    guest: Guest,
    file: TempPath,
}

impl Program {
    fn new(lab: &Lab, name: &str, elf: &'static [u8]) -> Result<Program> {
        use std::os::unix::fs::PermissionsExt;
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(elf)?;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o700))?;
        let (engine, guest) = (lab.shared.clone(), Guest::from_bytes(name, elf)?);
        Ok(Program { engine, guest, file: file.into_temp_path() })
    }

    /// What it says on standard error, as a process.
    fn natively(&self, argument: u32) -> Result<String> {
        let mut command = Command::new(&self.file);
        command.arg(argument.to_string()).stdout(std::fs::File::create("/dev/null")?);
        let output = command.stderr(Stdio::piped()).output()?;
        let said = String::from_utf8(output.stderr)?;
        if output.status.success() { Ok(said) } else { Err(said.into()) }
    }

    /// What it says on standard error, in a sandbox.
    fn in_a_sandbox(&self, argument: u32) -> Result<String> {
        let ((stdout, _), (stderr, errors)) = (Output::buffer(1 << 20), Output::buffer(1 << 10));
        let mut process = Sandbox::builder()
            .engine(&self.engine)
            .args([argument.to_string()])
            .stdout(stdout)
            .stderr(stderr)
            .clock(Clock::Real)
            .deadline(Duration::from_secs(600))
            .load(&self.guest)?;
        let status = process.run()?;
        let said = String::from_utf8(errors.take())?;
        if status.success() { Ok(said) } else { Err(failed(status, &said).into()) }
    }
}

fn failed(status: ExitStatus, said: &str) -> String {
    format!("the program ended with {status}: {said}")
}

/// The number before a word of a line.
fn number_before(line: &str, word: &str) -> Result<f64> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let pair = words.windows(2).find(|pair| pair[1] == word);
    let number = pair.and_then(|pair| pair[0].parse().ok());
    number.ok_or_else(|| format!("there is no number before `{word}` in `{line}`").into())
}

/// The same file as a process and in a sandbox, turn by turn.
struct Coremark {
    program: Program,
    state: usize,
}

impl Coremark {
    fn open(lab: &Lab) -> Result<Coremark> {
        Ok(Coremark { program: Program::new(lab, "coremark-run", COREMARK)?, state: 1 })
    }
}

impl Experiment for Coremark {
    fn sample(&mut self, samples: &mut Samples) -> Result<()> {
        let mut order = [0, 1];
        shuffle(&mut order, &mut self.state);
        for side in order {
            let (id, said) = match side {
                0 => ("coremark-native", self.program.natively(ITERATIONS)?),
                _ => ("coremark", self.program.in_a_sandbox(ITERATIONS)?),
            };
            samples.add(id, 1e9 / number_before(&said, "iterations/s")?);
        }
        Ok(())
    }
}

/// Writes of one byte each.
struct Writes {
    program: Program,
    ids: &'static [&'static str],
    count: u32,
}

impl Writes {
    fn open(lab: &Lab, ids: &'static [&'static str], count: usize) -> Result<Writes> {
        Ok(Writes { program: Program::new(lab, "syscalls", SYSCALLS)?, ids, count: WRITES[count] })
    }
}

impl Experiment for Writes {
    fn sample(&mut self, samples: &mut Samples) -> Result<()> {
        for id in self.ids {
            let said = match id.ends_with("native") {
                true => self.program.natively(self.count)?,
                false => self.program.in_a_sandbox(self.count)?,
            };
            samples.add(id, number_before(&said, "ns")?);
        }
        Ok(())
    }
}
