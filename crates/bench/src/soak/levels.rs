//! What the process holds, and whether that rises.
//!
//! The operations are drawn at random but their mix does not change, so after the warm-up each level
//! moves about some middle. A leak shows as a middle that rises: the median of the last third of the
//! run is compared with that of the first. What is slower than the bound shows at the end, when all
//! has been dropped and everything must be back where it began.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;

use serde::Serialize;

use super::worker::SLOTS;
use super::world::{EXCHANGED, SNAPSHOTS};
use crate::experiments::{heap_in_use, trim_heap};

/// What is watched: name, unit, what it may rise by in absolute terms, and in hundredths.
const WATCHED: [(&str, u64, u64); 6] = [
    ("resident KiB", 32 << 10, 10),
    ("heap in use KiB", 16 << 10, 10),
    ("memfd KiB", 32 << 10, 25),
    ("descriptors", 64, 10),
    ("mappings", 128, 10),
    ("threads", 8, 0),
];

/// Most VMs that stand idle, by default.
const IDLE: usize = 16;
/// Samples that are enough to tell a rise from chance: ten minutes.
const LONG: usize = 600;

/// One look at the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(crate) struct Levels {
    /// Resident memory, with that of the guests, in KiB.
    pub(crate) resident: u64,
    /// What malloc has given out, in KiB: no matter what it keeps besides.
    pub(crate) heap: u64,
    /// Pages of memory files (images of snapshots), mapped or not, in KiB.
    pub(crate) memory_files: u64,
    pub(crate) descriptors: u64,
    pub(crate) mappings: u64,
    pub(crate) threads: u64,
}

impl Levels {
    pub(crate) fn now() -> Levels {
        let (descriptors, memory_files) = descriptors();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
        Levels {
            resident: field(&status, "VmRSS:"),
            heap: heap_in_use() >> 10,
            memory_files,
            descriptors,
            mappings: maps.lines().count() as u64,
            threads: field(&status, "Threads:"),
        }
    }

    /// The levels after malloc has given back what it keeps for later. How much that is depends on
    /// which thread freed what last, and says nothing of leaks.
    pub(crate) fn trimmed() -> Levels {
        trim_heap();
        Levels::now()
    }

    fn all(&self) -> [u64; 6] {
        let Levels { resident, heap, memory_files, descriptors, mappings, threads } = *self;
        [resident, heap, memory_files, descriptors, mappings, threads]
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        format!(
            "resident {} MiB, heap {} KiB, memfd {} MiB, {} descriptors, {} mappings, {} threads",
            self.resident >> 10,
            self.heap,
            self.memory_files >> 10,
            self.descriptors,
            self.mappings,
            self.threads
        )
    }
}

fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Open descriptors, and KiB of the memory files among them.
fn descriptors() -> (u64, u64) {
    let mut seen = BTreeSet::new();
    let (mut count, mut blocks) = (0, 0);
    for entry in fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        count += 1;
        let target = fs::read_link(entry.path()).unwrap_or_default();
        if !target.to_string_lossy().starts_with("/memfd:") {
            continue;
        }
        // It may be closed meanwhile.
        if let Ok(file) = fs::metadata(entry.path())
            && seen.insert(file.ino())
        {
            blocks += file.blocks();
        }
    }
    (count, blocks / 2)
}

/// The levels of a run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Course {
    /// Before the first thread was started.
    pub(crate) start: Levels,
    /// After the warm-up, one a second.
    #[serde(skip)]
    samples: Vec<Levels>,
    /// When everything was dropped.
    pub(crate) end: Levels,
    #[serde(skip)]
    ceiling: Option<Ceiling>,
}

/// What can't be exceeded at any moment, since no more can live at once than there are places for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ceiling {
    /// Descriptors and threads beyond those at the start.
    descriptors: u64,
    threads: u64,
}

impl Ceiling {
    /// Of a run with so many threads.
    pub(crate) fn of(threads: usize) -> Ceiling {
        // A thread has its sandboxes, one more while it replaces one, and the process that it runs.
        let slots = SLOTS.iter().sum::<usize>() + 2;
        let sandboxes = threads * slots + 2 * EXCHANGED + IDLE;
        // Those that are shared, and one that a thread saves, loads or spawns from.
        let snapshots = 2 * SNAPSHOTS + 1 + threads;
        let count = |number: usize| number as u64;
        Ceiling {
            // VM, vCPU, and the memory file of an image that none of the others has. Files that a
            // thread saves to, loads from and lends; a few of the engine's.
            descriptors: count(3 * sandboxes + snapshots + 3 * threads + 8),
            // Each VM has one of the kernel's. There are those of the soak, and a few of the engine's.
            threads: count(sandboxes + threads + 2 + 8),
        }
    }
}

/// A row of the summary.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Level {
    pub(crate) name: &'static str,
    pub(crate) start: u64,
    pub(crate) min: u64,
    pub(crate) first_third: u64,
    pub(crate) last_third: u64,
    pub(crate) max: u64,
    pub(crate) end: u64,
    /// The last third may be this much.
    pub(crate) bound: u64,
}

impl Course {
    pub(crate) fn new(start: Levels, ceiling: Option<Ceiling>) -> Course {
        Course { start, samples: Vec::new(), end: start, ceiling }
    }

    /// Whether it is of more than a round that warms up.
    pub(crate) fn is_watched(&self) -> bool {
        self.ceiling.is_some()
    }

    /// What is higher than what may live at once can explain.
    pub(crate) fn too_high(&self, levels: &Levels) -> Option<String> {
        let ceiling = self.ceiling?;
        let rows = [
            ("descriptors", levels.descriptors, self.start.descriptors + ceiling.descriptors),
            ("threads", levels.threads, self.start.threads + ceiling.threads),
        ];
        let (name, level, most) = rows.into_iter().find(|(_, level, most)| level > most)?;
        Some(format!("{level} {name}, more than the {most} of all that may live at once"))
    }

    /// What rises already, if the run has been long enough to say so before its end.
    pub(crate) fn rising_in_a_long_run(&self) -> Vec<String> {
        if self.samples.len() < LONG { Vec::new() } else { self.rising() }
    }

    pub(crate) fn add(&mut self, levels: Levels) {
        self.samples.push(levels);
    }

    pub(crate) fn rows(&self) -> Vec<Level> {
        let third = self.samples.len().div_ceil(3);
        // In a short run many sandboxes are of the start, and have not grown to what they will be.
        let unsteady = u64::from(self.samples.len() < LONG);
        let row = |(at, (name, slack, percent)): (usize, (&'static str, u64, u64))| {
            let values: Vec<u64> = self.samples.iter().map(|levels| levels.all()[at]).collect();
            let first_third = median(&values[..third.min(values.len())]);
            let last_third = median(&values[values.len().saturating_sub(third)..]);
            Level {
                name,
                start: self.start.all()[at],
                min: values.iter().copied().min().unwrap_or(0),
                first_third,
                last_third,
                max: values.iter().copied().max().unwrap_or(0),
                end: self.end.all()[at],
                bound: first_third + slack + first_third * percent / 100 + unsteady * first_third,
            }
        };
        WATCHED.into_iter().enumerate().map(row).collect()
    }

    fn rising(&self) -> Vec<String> {
        let rose = self.rows().into_iter().filter(|row| row.last_third > row.bound).map(|row| {
            format!(
                "{} rose: median {} in the first third of the run, {} in the last, with a bound \
                 of {}",
                row.name, row.first_third, row.last_third, row.bound
            )
        });
        rose.collect()
    }

    /// What rose during the run, or did not come back at its end.
    pub(crate) fn findings(&self) -> Vec<String> {
        let kept = [
            ("descriptors", self.start.descriptors, self.end.descriptors, 0),
            ("threads", self.start.threads, self.end.threads, 0),
            ("memfd KiB", self.start.memory_files, self.end.memory_files, 0),
            ("heap in use KiB", self.start.heap, self.end.heap, 1 << 10),
            // What malloc keeps of the threads that are gone is not ours.
            ("mappings", self.start.mappings, self.end.mappings, 16),
            ("resident KiB", self.start.resident, self.end.resident, 8 << 10),
        ];
        let kept = kept.into_iter().filter(|(_, start, end, slack)| *end > start + slack).map(
            |(name, start, end, slack)| {
                format!(
                    "{name}: {end} when all was dropped, {start} before, with a bound of +{slack}"
                )
            },
        );
        self.rising().into_iter().chain(kept).collect()
    }
}

fn median(values: &[u64]) -> u64 {
    let mut values = values.to_vec();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn course(descriptors: impl Fn(u64) -> u64) -> Course {
        let level = |descriptors| Levels { descriptors, ..Levels::default() };
        let mut course = Course::new(level(10), None);
        (0..900).for_each(|second| course.add(level(descriptors(second))));
        course
    }

    #[test]
    fn a_level_that_moves_about_a_middle_is_no_finding() {
        assert_eq!(course(|second| 400 + second * 7919 % 200).findings(), Vec::<String>::new());
    }

    #[test]
    fn a_level_that_rises_is_a_finding() {
        let findings = course(|second| 400 + second).findings();
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].starts_with("descriptors rose"), "{findings:?}");
    }

    #[test]
    fn what_is_left_at_the_end_is_a_finding() {
        let mut course = course(|_| 400);
        course.end.descriptors = 11;
        assert_eq!(
            course.findings(),
            ["descriptors: 11 when all was dropped, 10 before, with a bound of +0"]
        );
    }

    #[test]
    fn more_descriptors_than_can_be_are_a_finding_at_once() {
        let course = Course::new(Levels::default(), Some(Ceiling::of(8)));
        let level = |descriptors| Levels { descriptors, ..Levels::default() };
        let most = Ceiling::of(8).descriptors;
        assert_eq!(course.too_high(&level(most)), None);
        assert!(course.too_high(&level(most + 1)).is_some());
    }

    #[test]
    fn this_process_holds_something() {
        // It needs no memory file.
        let levels = Levels { memory_files: 1, ..Levels::now() };
        assert!(levels.all().into_iter().all(|level| level > 0), "{levels:?}");
    }
}
