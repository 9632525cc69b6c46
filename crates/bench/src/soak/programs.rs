//! Operations on ordinary Linux programs: each is run from its start to its end, and then gone.

use std::time::Duration;

use glowbox::{Builder, ErrorKind, ExitStatus, Output, Process, Sandbox, Snapshot, Spawner};

use super::state::Life;
use super::worker::{Check, Worker, cut, same_kind, unexpected};
use super::world::{DEADLINE, World, lock, log_options};

/// CoreMark's work: it computes, and checks itself.
pub(crate) const COREMARK: &[u8] = include_bytes!(env!("GLOWBOX_GUEST_COREMARK_RUN"));
/// Writes so many single bytes to its standard output.
pub(crate) const WRITES: &[u8] = include_bytes!(env!("GLOWBOX_GUEST_SYSCALLS"));
/// What CoreMark prints first, whatever the count of iterations.
const SEEDS: &str = "seeds  e9f5\n";
/// Iterations or writes that nobody waits for.
const ENDLESS: &str = "4000000000";
/// Most that a program may print.
const PRINTED: u16 = 1 << 10;

type Operation = fn(&mut Worker<'_>) -> Check;

/// With their weights.
pub(crate) const PROGRAMS: [(u32, &str, Operation); 8] = [
    (3, "run", writes),
    (3, "run of a snapshot", coremark),
    (2, "output is full", full),
    (2, "panic", panics),
    (2, "deadline", deadline),
    (2, "interrupt", interrupt),
    (1, "used as sandbox, refused", refused),
    (1, "snapshot, save and load", save_and_load),
];

/// What a program printed.
struct Printed {
    out: String,
    err: String,
}

/// What is common to both ways to make a process.
trait Makes: Sized {
    fn process(self, out: Output, err: Output, argument: &str) -> Result<Process, glowbox::Error>;
}

/// From a file's bytes.
struct FromFile<'a>(Builder, &'a glowbox::Guest);

impl Makes for FromFile<'_> {
    fn process(self, out: Output, err: Output, argument: &str) -> Result<Process, glowbox::Error> {
        self.0.args([argument]).stdout(out).stderr(err).load(self.1)
    }
}

impl Makes for Spawner<'_> {
    fn process(self, out: Output, err: Output, argument: &str) -> Result<Process, glowbox::Error> {
        self.args([argument]).stdout(out).stderr(err).load()
    }
}

fn from_file<'a>(world: &World, guest: &'a glowbox::Guest) -> FromFile<'a> {
    FromFile(log_options(Sandbox::builder().engine(&world.engine)), guest)
}

/// Makes a process and has it run. While it does, it may be interrupted if that is wanted.
fn run(
    worker: &Worker<'_>,
    how: impl Makes,
    argument: &str,
    interrupted: bool,
) -> Result<(Result<ExitStatus, glowbox::Error>, Printed), String> {
    let buffer = || Output::buffer(u64::from(PRINTED));
    let life = Life::begin(&worker.world.lives);
    let ((out, printed), (err, errors)) = (buffer(), buffer());
    let mut process =
        how.process(out, err, argument).map_err(|error| unexpected("load", &error))?;
    let wanted = &worker.world.wanted[worker.index];
    if interrupted {
        *lock(wanted) = Some(process.interrupt_handle());
    }
    let status = process.run();
    *lock(wanted) = None;
    same_kind("a second run", process.run(), ErrorKind::Spent)?;
    drop((process, life));
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((status, Printed { out: text(printed.take()), err: text(errors.take()) }))
}

/// What it returned is an exit with this code.
fn exits(status: &Result<ExitStatus, glowbox::Error>, code: i32, printed: &Printed) -> Check {
    match status {
        Ok(status) if status.code() == Some(code) => Ok(()),
        other => Err(format!("must exit with {code}: {} {}", cut(other), cut(&printed.err))),
    }
}

fn writes(worker: &mut Worker<'_>) -> Check {
    let count = worker.index_below(300);
    let how = from_file(worker.world, &worker.world.writes);
    let (status, printed) = run(worker, how, &count.to_string(), false)?;
    exits(&status, 0, &printed)?;
    let said = printed.err.starts_with(&format!("{count} writes, "));
    if printed.out == ".".repeat(count) && said {
        return Ok(());
    }
    Err(format!("{count} writes: {} {}", cut(&printed.out), cut(&printed.err)))
}

fn coremark(worker: &mut Worker<'_>) -> Check {
    let snapshot = worker.world.coremark_snapshot();
    let iterations = 1 + worker.below(8);
    let (status, printed) = run(worker, snapshot.spawner(), &iterations.to_string(), false)?;
    exits(&status, 0, &printed)?;
    let lines = printed.out.lines().count();
    if printed.out.starts_with(SEEDS) && lines == 5 && printed.err.ends_with(" iterations/s\n") {
        return Ok(());
    }
    Err(format!("{iterations} iterations: {} {}", cut(&printed.out), cut(&printed.err)))
}

/// A write beyond the limit fails, and the program says so.
fn full(worker: &mut Worker<'_>) -> Check {
    let count = u64::from(PRINTED) + 1 + worker.below(1_000);
    let how = from_file(worker.world, &worker.world.writes);
    let (status, printed) = run(worker, how, &count.to_string(), false)?;
    exits(&status, 1, &printed)?;
    if printed.out == ".".repeat(PRINTED.into()) && printed.err.contains("code: 28") {
        return Ok(());
    }
    Err(format!("{count} writes: {} bytes, {}", printed.out.len(), cut(&printed.err)))
}

fn panics(worker: &mut Worker<'_>) -> Check {
    let text = format!("no number {}", worker.number());
    let snapshot = worker.world.coremark_snapshot();
    let (status, printed) = run(worker, snapshot.spawner(), &text, false)?;
    exits(&status, 101, &printed)?;
    let said = printed.err.contains("a count: ParseIntError");
    if said && printed.out.is_empty() { Ok(()) } else { Err(cut(&printed.err)) }
}

fn deadline(worker: &mut Worker<'_>) -> Check {
    let time = Duration::from_micros(1_000 + worker.below(10_000));
    let snapshot = worker.world.coremark_snapshot();
    let how = snapshot.spawner().deadline(time);
    let (status, printed) = run(worker, how, ENDLESS, false)?;
    same_kind("a program of years", status, ErrorKind::Deadline)?;
    if printed.out.is_empty() { Ok(()) } else { Err(cut(&printed.out)) }
}

fn interrupt(worker: &mut Worker<'_>) -> Check {
    let how = from_file(worker.world, &worker.world.coremark);
    let (status, printed) = run(worker, how, ENDLESS, true)?;
    same_kind("a program of years", status, ErrorKind::Interrupted)?;
    if printed.out.is_empty() { Ok(()) } else { Err(cut(&printed.out)) }
}

/// A program has no functions to call.
fn refused(worker: &mut Worker<'_>) -> Check {
    let spawned = worker.world.coremark_snapshot().spawn().map(drop);
    same_kind("spawn of a program", spawned, ErrorKind::InvalidGuest)?;
    let built = log_options(Sandbox::builder().engine(&worker.world.engine));
    let built = built.build(&worker.world.writes).map(drop);
    same_kind("build of a program", built, ErrorKind::InvalidGuest)
}

/// A new snapshot takes the place of the one that processes are made of.
fn save_and_load(worker: &mut Worker<'_>) -> Check {
    let world = worker.world;
    let path = world.folder.join(format!("program-{}", worker.index));
    let saved = snapshot(world).and_then(|snapshot| snapshot.save(&path));
    saved.map_err(|error| unexpected("save", &error))?;
    let loader = Snapshot::loader().engine(&world.engine).deadline(DEADLINE);
    let loaded = loader.load(&path).map_err(|error| unexpected("load", &error))?;
    let before = world.publish_coremark(loaded);
    drop(before);
    coremark(worker)
}

/// A snapshot of CoreMark before it has run.
pub(crate) fn snapshot(world: &World) -> Result<Snapshot, glowbox::Error> {
    log_options(Sandbox::builder().engine(&world.engine)).load(&world.coremark)?.snapshot()
}
