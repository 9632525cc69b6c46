//! Sandboxes and processes from files: of a guest or program, or of a snapshot in its place.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use glowbox::{Builder, Guest, Process, Sandbox, Snapshot};
use glowbox_core::snapshot_file::Header;

use crate::backend;
use crate::failure::{Failure, Status};
use crate::grants::Grants;
use crate::options::{self, Limits, Timeout};

/// Whether a file is meant to be a snapshot.
pub(crate) fn is_snapshot(path: &Path) -> Result<bool, Failure> {
    let failed = |error| Failure::unreadable(path, &error);
    // Before it is opened: a pipe would block.
    let metadata = fs::metadata(path).map_err(failed)?;
    if metadata.is_dir() {
        return Err(failed(std::io::ErrorKind::IsADirectory.into()));
    }
    if !metadata.is_file() {
        let text = format!("`{}` is no regular file", path.display());
        return Err(Failure::new(Status::NotRunnable, text));
    }
    let mut beginning = Vec::new();
    File::open(path).and_then(|file| file.take(64).read_to_end(&mut beginning)).map_err(failed)?;
    Ok(Header::is_snapshot(&beginning))
}

/// What a file turned out to be.
pub(crate) enum Opened {
    /// A guest whose functions can be called.
    Functions(Sandbox),
    /// A program that can be run.
    Program(Process),
}

/// A guest whose functions are to be called.
pub(crate) fn sandbox(
    path: &Path,
    limits: &Limits,
    grants: &Grants,
    message_size: Option<u64>,
) -> Result<Sandbox, Failure> {
    if is_snapshot(path)? {
        return spawned(path, &load(path, limits, grants, message_size)?, grants);
    }
    let guest = Guest::from_file(path)?;
    check_imports(&guest)?;
    builder(limits, grants, message_size)?.build(&guest).map_err(|error| grants.failure(error))
}

/// Whatever the file is.
pub(crate) fn open(
    path: &Path,
    limits: &Limits,
    grants: &Grants,
    message_size: Option<u64>,
) -> Result<Opened, Failure> {
    if is_snapshot(path)? {
        let snapshot = load(path, limits, grants, message_size)?;
        if snapshot.guest().is_program() {
            return Ok(Opened::Program(grants.spawner(snapshot.spawner()).load()?));
        }
        return Ok(Opened::Functions(spawned(path, &snapshot, grants)?));
    }
    let guest = Guest::from_file(path)?;
    check_imports(&guest)?;
    let builder = builder(limits, grants, message_size)?;
    let opened = match guest.is_program() {
        true => builder.load(&guest).map(Opened::Program),
        false => builder.build(&guest).map(Opened::Functions),
    };
    opened.map_err(|error| grants.failure(error))
}

fn spawned(path: &Path, snapshot: &Snapshot, grants: &Grants) -> Result<Sandbox, Failure> {
    if let Some(option) = grants.fixed_in_snapshots(true) {
        return Err(fixed(path, option));
    }
    check_imports(snapshot.guest())?;
    Ok(snapshot.spawner().spawn()?)
}

/// The failure for an option that comes too late.
fn fixed(path: &Path, option: &str) -> Failure {
    Failure::usage(format!(
        "`{}` is a snapshot, in which that is fixed already; give {option} to `glowbox snapshot`",
        path.display()
    ))
}

/// What a guest or a program is made with.
pub(crate) fn builder(
    limits: &Limits,
    grants: &Grants,
    message_size: Option<u64>,
) -> Result<Builder, Failure> {
    let level = limits.log.library();
    let engine = backend::engine(limits.backend)?;
    let mut builder = Sandbox::builder().engine(&engine).log_level(level).log_sink(options::show);
    if let Some(bytes) = limits.memory {
        builder = builder.memory_limit(bytes);
    }
    if let Some(bytes) = limits.stack {
        builder = builder.stack_size(bytes);
    }
    if let Some(bytes) = message_size {
        builder = builder.message_size(bytes);
    }
    if let Some(seed) = limits.seed {
        builder = builder.deterministic(seed);
    }
    builder = match limits.timeout {
        Some(Timeout(Some(time))) => builder.deadline(time),
        Some(Timeout(None)) => builder.no_deadline(),
        None => builder,
    };
    Ok(grants.builder(builder))
}

/// Loads a snapshot.
pub(crate) fn load(
    path: &Path,
    limits: &Limits,
    grants: &Grants,
    message_size: Option<u64>,
) -> Result<Snapshot, Failure> {
    if limits.seed.is_some() {
        return Err(fixed(path, "--seed"));
    }
    if let Some(option) = grants.fixed_in_snapshots(false) {
        return Err(fixed(path, option));
    }
    let most = limits.log.library();
    let engine = backend::engine(limits.backend)?;
    let mut loader = Snapshot::loader().engine(&engine).log_sink(move |record| {
        if most.is_some_and(|most| record.level <= most) {
            options::show(record);
        }
    });
    if let Some(bytes) = limits.memory {
        loader = loader.memory_limit(bytes);
    }
    if let Some(bytes) = limits.stack {
        loader = loader.stack_size(bytes);
    }
    if let Some(bytes) = message_size {
        loader = loader.message_size(bytes);
    }
    loader = match limits.timeout {
        Some(Timeout(Some(time))) => loader.deadline(time),
        Some(Timeout(None)) => loader.no_deadline(),
        None => loader,
    };
    Ok(grants.loader(loader).load(path)?)
}

/// Refuses a guest that needs what a command can't have.
fn check_imports(guest: &Guest) -> Result<(), Failure> {
    let mut imports: Vec<String> =
        guest.imports().map(|(name, signature)| format!("`{name}{signature}`")).collect();
    imports.dedup();
    if imports.is_empty() {
        return Ok(());
    }
    let text = format!(
        "guest `{}` asks for functions of its host, {}, which the command has not: they are Rust \
         functions of the program that embeds the guest. Call it from such a program (see `glowbox new`)",
        guest.name(),
        imports.join(", ")
    );
    Err(Failure::new(Status::NotRunnable, text))
}
