//! What came of a soak.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use glowbox_bench::subject::Result;
use serde::Serialize;

use super::Options;
use super::levels::Level;
use super::world::World;
use crate::machine::Machine;

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    seed: u64,
    threads: usize,
    seconds: f64,
    operations: BTreeMap<String, u64>,
    ends: BTreeMap<String, u64>,
    sandbox_hours: f64,
    pub(crate) levels: Vec<Level>,
    /// The wrong answer.
    pub(crate) failure: Option<String>,
    /// Levels that rose.
    pub(crate) findings: Vec<String>,
}

impl Report {
    /// What a world came to in which nothing lives any more.
    pub(crate) fn new(options: &Options, world: &World, time: Duration) -> Report {
        Report {
            machine: Machine::here(),
            seed: options.seed,
            threads: options.threads,
            seconds: time.as_secs_f64(),
            operations: world.counts("operations"),
            ends: world.counts("ends"),
            sandbox_hours: world.lives.hours(),
            levels: Vec::new(),
            failure: world.failure(),
            findings: Vec::new(),
        }
    }

    pub(crate) fn is_well(&self) -> bool {
        self.failure.is_none() && self.findings.is_empty()
    }

    pub(crate) fn print(&self) {
        let machine = &self.machine;
        println!(
            "\n{} on {}, {}, kernel {}, {}, commit {}",
            machine.date, machine.machine, machine.cpu, machine.kernel, machine.kvm, machine.commit
        );
        println!(
            "{:.0} s, {} threads, seed {}, {:.2} sandbox-hours\n",
            self.seconds, self.threads, self.seed, self.sandbox_hours
        );
        for (title, counts) in [("operations", &self.operations), ("ends", &self.ends)] {
            println!("{title:<54}{:>12}", counts.values().sum::<u64>());
            counts.iter().for_each(|(name, count)| println!("  {name:<52}{count:>12}"));
        }
        println!(
            "\n{:<14}{:>10}{:>10}{:>13}{:>12}{:>10}{:>10}{:>10}",
            "level", "start", "min", "first third", "last third", "bound", "max", "end"
        );
        for row in &self.levels {
            println!(
                "{:<14}{:>10}{:>10}{:>13}{:>12}{:>10}{:>10}{:>10}",
                row.name,
                row.start,
                row.min,
                row.first_third,
                row.last_third,
                row.bound,
                row.max,
                row.end
            );
        }
        if let Some(failure) = &self.failure {
            eprintln!("glowbox-bench: wrong: {failure}");
        }
        self.findings.iter().for_each(|finding| eprintln!("glowbox-bench: {finding}"));
        println!(
            "\n{}",
            if self.is_well() {
                "all answers were right, all levels stayed"
            } else {
                "the soak FAILED"
            }
        );
    }

    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        let path = folder.join("soak.json");
        std::fs::write(&path, serde_json::to_string_pretty(self)?)?;
        println!("wrote {}", path.display());
        Ok(())
    }
}
