//! How many sandboxes can live at once in one process, and what sets the limit.
//!
//! Sandboxes are spawned from one snapshot, each is called when it is new, and none is dropped until
//! there are as many as were asked for or one is refused. Then all are called again: each must have
//! kept its own state.

use std::fs;
use std::time::{Duration, Instant};

use glowbox::{Engine, Error, Sandbox, Snapshot};
use glowbox_bench::subject::{self, Result};

use crate::experiments::allow_files;
use crate::machine::meminfo;
use crate::soak::levels::Levels;

/// For a call. With thousands of VMs in a process the kernel tells all of them of each page that is mapped
/// anew, so a first call takes long; none takes as long.
const DEADLINE: Duration = Duration::from_secs(300);
/// A line is printed for every so many.
const TOLD_EVERY: usize = 1000;

/// Grows to `count` sandboxes, or to the limit. Says whether that many could live.
pub(crate) fn run(count: usize) -> Result<bool> {
    allow_files()?;
    // Nothing is kept for later: all there is belongs to a sandbox that lives.
    let engine = Engine::builder().pool_size(0).build()?;
    let guest = subject::guest(&subject::elf())?;
    let mut first = subject::builder().engine(&engine).deadline(DEADLINE).build(guest)?;
    first.call::<_, ()>("fill", (1u32,))?;
    let snapshot = first.snapshot()?;
    let start = Levels::now();
    println!("at the start: {}", start.text());
    limits().iter().for_each(|limit| println!("limit: {limit}"));
    let (mut sandboxes, begun) = (Vec::new(), Instant::now());
    let mut refused = None;
    while sandboxes.len() < count && refused.is_none() {
        match spawn(&snapshot, sandboxes.len()) {
            Ok(sandbox) => sandboxes.push(sandbox),
            Err(error) => refused = Some(error),
        }
        if sandboxes.len().is_multiple_of(TOLD_EVERY) && refused.is_none() {
            tell(&start, sandboxes.len(), begun);
        }
    }
    tell(&start, sandboxes.len(), begun);
    if let Some(error) = &refused {
        println!("the next is refused: {error:?}; {}", memory_left());
    }
    let begun = Instant::now();
    for (number, sandbox) in sandboxes.iter_mut().enumerate() {
        let found: Option<u8> = sandbox.call("peek", (0u32,))?;
        if found != Some(mark(number)) {
            return Err(format!("sandbox {number} answers {found:?}: not its own state").into());
        }
    }
    println!("all {} answered once more in {:.1?}", sandboxes.len(), begun.elapsed());
    let alive = sandboxes.len();
    drop(sandboxes);
    println!("when they are dropped: {}", Levels::now().text());
    Ok(alive == count)
}

/// What may set the limit, and what it stands at.
fn limits() -> Vec<String> {
    let read = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_string()).ok();
    let settings =
        ["vm/max_map_count", "kernel/threads-max", "kernel/pid_max", "vm/overcommit_memory"];
    let settings = settings.iter().filter_map(|name| {
        read(&format!("/proc/sys/{name}"))
            .map(|value| format!("{} {value}", name.replace('/', ".")))
    });
    let own = read("/proc/self/limits").unwrap_or_default();
    let own = own.lines().filter(|line| {
        ["Max open files", "Max processes", "Max address space", "Max locked memory"]
            .iter()
            .any(|name| line.starts_with(name))
    });
    let own: Vec<String> =
        own.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    settings.chain(own).chain([memory_left()]).collect()
}

fn memory_left() -> String {
    let available = meminfo().get("MemAvailable").copied().unwrap_or(0);
    format!("{} MiB of memory available", available >> 20)
}

/// A sandbox that has written a page of its own.
fn spawn(snapshot: &Snapshot, number: usize) -> std::result::Result<Sandbox, Error> {
    let mut sandbox = snapshot.spawn()?;
    sandbox.call::<_, usize>("write", (1u32, mark(number)))?;
    Ok(sandbox)
}

fn mark(number: usize) -> u8 {
    number.to_le_bytes()[0]
}

fn tell(start: &Levels, alive: usize, begun: Instant) {
    let now = Levels::now();
    let each = |now: u64, start: u64| now.saturating_sub(start) / (alive.max(1) as u64);
    println!(
        "{alive} alive after {:.1?}: {}; each {} KiB resident, {} descriptors, {} mappings",
        begun.elapsed(),
        now.text(),
        each(now.resident, start.resident),
        each(now.descriptors, start.descriptors),
        each(now.mappings, start.mappings)
    );
}
