//! What a thousand sandboxes take that do nothing.
//!
//! On the user's side, pages that only this process has (`Private_Dirty` and `Private_Clean` in
//! `/proc/self/smaps_rollup`): guests' memory, and what the library keeps for each sandbox. Image
//! pages that sandboxes share are not among them. On the kernel's side, what `/proc/meminfo` says
//! has been taken meanwhile, which other processes disturb.
//!
//! A process of its own does it: in one that has measured other rows, new sandboxes would live in
//! memory that old ones have left, and seem to take none.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use glowbox::Engine;
use glowbox_bench::subject::{self, PAGE, Result};
use serde::{Deserialize, Serialize};

use super::{Experiment, Plan, ready};
use crate::machine::meminfo;
use crate::rows::{Row, System, Yardstick};
use crate::samples::{MemoryPoint, Samples};

/// How many sandboxes live at once, and when they are counted on the way there.
const ALIVE: u32 = 1000;
const POINTS: [u32; 12] = [1, 10, 50, 100, 200, 300, 400, 500, 600, 700, 850, ALIVE];
/// What a sandbox may take besides the pages that it writes.
const BOUND: f64 = 65536.0;
/// What tells the program to be that process.
const OPTION: &str = "--count-memory";
/// In which the kernel ends what others have begun.
const PAUSE: Duration = Duration::from_millis(500);
const WRITTEN: &str = "memory-written";
/// What of `/proc/meminfo` the kernel names as its own.
const NAMED: [&str; 6] =
    ["Slab", "VmallocUsed", "PageTables", "SecPageTables", "KernelStack", "Percpu"];
/// What is free or can be at once. What is not, and not this process's either, is the kernel's.
const FREE: [&str; 4] = ["MemFree", "Buffers", "Cached", "SReclaimable"];

pub(crate) fn plan() -> Plan {
    let bound = Yardstick::constant(BOUND, "64 KiB");
    let and_written = bound.clone().plus(1.0, WRITTEN).called("64 KiB + written");
    let bytes = |id, what| Row::new(System::Glowbox, id, what).bytes();
    let rows = vec![
        bytes("memory-idle", "private memory of a spawned sandbox, of 1000")
            .against(bound)
            .at_most(1.0),
        bytes("memory-called", "private memory of one that has had a call, of 1000")
            .against(and_written)
            .at_most(1.0),
        bytes(WRITTEN, "pages that such a call writes, as a reset counts them"),
        bytes("memory-kernel", "what the kernel takes for a sandbox, all in all"),
        bytes("memory-kernel-named", "of that: slab, vmalloc, page tables, stacks, per-CPU"),
    ];
    Plan::new(rows, |_| ready(Memory)).last()
}

struct Memory;

impl Experiment for Memory {
    fn sample(&mut self, samples: &mut Samples) -> Result<()> {
        let output = Command::new(std::env::current_exe()?).arg(OPTION).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("the process that counts memory: {}: {said}", output.status).into());
        }
        let count: Count = serde_json::from_slice(&output.stdout)?;
        for (id, bytes) in count.rows {
            samples.add(&id, bytes);
        }
        samples.memory = count.points;
        Ok(())
    }
}

/// What the other process prints.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Count {
    rows: BTreeMap<String, f64>,
    points: Vec<MemoryPoint>,
}

impl Count {
    /// Makes a thousand sandboxes, in a process that has done nothing else.
    pub(crate) fn take() -> Result<Count> {
        allow_files()?;
        let engine = Engine::builder().pool_size(0).build()?;
        let mut count = Count::default();
        let mut booted =
            subject::builder().engine(&engine).build(subject::guest(&subject::elf())?)?;
        let add = booted.function::<(u32, u32), u32>("add")?;
        let snapshot = booted.snapshot()?;
        // What one takes that is shared by all (code that is paged in, tables), others do not.
        add.call(&mut snapshot.spawn()?, (2, 3))?;

        let mut alive = Vec::with_capacity(ALIVE as usize);
        thread::sleep(PAUSE);
        let start = Taken::now()?;
        count.points.push(MemoryPoint { sandboxes: 0, private: 0.0, kernel: 0.0 });
        for sandboxes in POINTS {
            while alive.len() < sandboxes as usize {
                alive.push(snapshot.spawn()?);
            }
            let Taken { private, kernel, .. } = Taken::now()?.since(start);
            count.points.push(MemoryPoint { sandboxes, private, kernel });
        }
        let each = f64::from(ALIVE);
        let idle = Taken::now()?.since(start);
        count.set("memory-idle", idle.private / each);
        count.set("memory-kernel", idle.kernel / each);
        count.set("memory-kernel-named", idle.named / each);
        for sandbox in &mut alive {
            add.call(sandbox, (2, 3))?;
        }
        count.set("memory-called", Taken::now()?.since(start).private / each);
        if let Some(sandbox) = alive.last_mut() {
            sandbox.reset()?;
            let written = u32::try_from(sandbox.stats().pages_written)?;
            count.set(WRITTEN, f64::from(written) * PAGE as f64);
        }
        Ok(count)
    }

    fn set(&mut self, id: &str, bytes: f64) {
        self.rows.insert(id.into(), bytes);
    }
}

/// Memory that is taken, in bytes.
#[derive(Debug, Clone, Copy)]
struct Taken {
    /// By this process alone.
    private: f64,
    /// By the kernel: what is neither free nor this process's.
    kernel: f64,
    /// By the kernel, as far as it names it.
    named: f64,
}

impl Taken {
    fn now() -> Result<Taken> {
        let smaps = fs::read_to_string("/proc/self/smaps_rollup")?;
        let private: u64 = smaps.lines().filter_map(private_kibibytes).sum();
        let meminfo = meminfo();
        let sum = |fields: &[&str]| -> f64 {
            let values = fields.iter().filter_map(|field| meminfo.get(*field));
            values.map(|bytes| *bytes as f64).sum()
        };
        let private = private as f64 * 1024.0;
        let used = sum(&["MemTotal"]) - sum(&FREE);
        Ok(Taken { private, kernel: used - private, named: sum(&NAMED) })
    }

    fn since(self, start: Taken) -> Taken {
        Taken {
            private: self.private - start.private,
            kernel: self.kernel - start.kernel,
            named: self.named - start.named,
        }
    }
}

fn private_kibibytes(line: &str) -> Option<u64> {
    let (name, value) = line.split_once(':')?;
    let private = matches!(name, "Private_Dirty" | "Private_Clean");
    value.split_whitespace().next().filter(|_| private)?.parse().ok()
}

/// Bytes that malloc has given out and not got back, in all its arenas.
pub(crate) fn heap_in_use() -> u64 {
    // SAFETY: it only counts, under the arenas' locks.
    let info = unsafe { libc::mallinfo2() };
    (info.uordblks + info.hblkhd) as u64
}

/// Has malloc map large blocks one by one, so that each is given back when it is freed.
///
/// Otherwise it learns from the first that is freed to take such blocks, of up to 32 MiB, from its arenas;
/// those grow to what threads had at a time, and are never given back as a whole.
pub(crate) fn map_large_blocks() {
    // SAFETY: an option of the allocator that may change at any time.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10) };
}

/// Has malloc give back what it keeps for later.
pub(crate) fn trim_heap() {
    // SAFETY: it gives pages back that hold nothing.
    unsafe { libc::malloc_trim(0) };
}

/// Raises the limit of open files as far as it may be: a VM takes a few.
pub(crate) fn allow_files() -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one `rlimit`.
    let got = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the kernel reads one `rlimit`.
    if got != 0 || unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_pages_are_found_in_smaps() {
        assert_eq!(private_kibibytes("Private_Dirty:      12 kB"), Some(12));
        assert_eq!(private_kibibytes("Shared_Dirty:       12 kB"), None);
        assert_eq!(private_kibibytes("7f0000-7f1000 ---p 00000000"), None);
    }
}
