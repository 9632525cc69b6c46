//! A sandbox from a file: of a guest, or of a snapshot in a guest's place.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use glowbox::{Guest, Sandbox, Snapshot};
use glowbox_core::snapshot_file::Header;

use crate::failure::{Failure, Status};
use crate::options::{self, Limits};

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
    File::open(path)
        .and_then(|file| file.take(64).read_to_end(&mut beginning))
        .map_err(failed)?;
    Ok(Header::is_snapshot(&beginning))
}

/// Makes a sandbox of a guest or a snapshot.
pub(crate) fn sandbox(path: &Path, limits: &Limits) -> Result<Sandbox, Failure> {
    if is_snapshot(path)? { from_snapshot(path, limits) } else { from_guest(path, limits) }
}

fn from_guest(path: &Path, limits: &Limits) -> Result<Sandbox, Failure> {
    let guest = Guest::from_file(path)?;
    check_imports(&guest)?;
    let level = limits.log.library();
    let mut builder = Sandbox::builder().log_level(level).log_sink(options::show);
    if let Some(bytes) = limits.memory {
        builder = builder.memory_limit(bytes);
    }
    if let Some(bytes) = limits.stack {
        builder = builder.stack_size(bytes);
    }
    if let Some(bytes) = limits.message_size {
        builder = builder.message_size(bytes);
    }
    if let Some(seed) = limits.seed {
        builder = builder.deterministic(seed);
    }
    builder = match limits.timeout.0 {
        Some(time) => builder.deadline(time),
        None => builder.no_deadline(),
    };
    Ok(builder.build(&guest)?)
}

fn from_snapshot(path: &Path, limits: &Limits) -> Result<Sandbox, Failure> {
    if limits.seed.is_some() {
        return Err(Failure::usage(format!(
            "`{}` is a snapshot, in which the seed is fixed already; give --seed to \
             `glowbox snapshot`",
            path.display()
        )));
    }
    let most = limits.log.library();
    let mut loader = Snapshot::loader().log_sink(move |record| {
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
    if let Some(bytes) = limits.message_size {
        loader = loader.message_size(bytes);
    }
    loader = match limits.timeout.0 {
        Some(time) => loader.deadline(time),
        None => loader.no_deadline(),
    };
    let snapshot = loader.load(path)?;
    check_imports(snapshot.guest())?;
    Ok(snapshot.spawn()?)
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
