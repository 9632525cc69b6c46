//! What came of a soak.

use std::path::Path;
use std::time::Duration;

use glowbox_bench::subject::Result;
use serde::Serialize;

use super::Options;
use super::counts::{Class, Count, Kind, Steadiness};
use super::levels::Level;
use super::world::World;
use crate::machine::Machine;

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    seed: u64,
    threads: usize,
    seconds: f64,
    /// Operations on each guest, and what came of them.
    operations: Vec<Row>,
    outcomes: Vec<Row>,
    /// Length of a stretch in which every kind must come, and how often it must.
    stretch_seconds: f64,
    floor: u64,
    /// Sandboxes and processes that were made.
    sandboxes: u64,
    /// Hours they have lived, together.
    sandbox_hours: f64,
    pub(crate) levels: Vec<Level>,
    /// The wrong answer.
    pub(crate) failure: Option<String>,
    /// Levels that rose, and kinds that came too seldom.
    pub(crate) findings: Vec<String>,
}

/// How often a kind came.
#[derive(Debug, Serialize)]
struct Row {
    guest: &'static str,
    name: &'static str,
    times: u64,
    /// In the stretch in which it came least often.
    least: u64,
    /// Of an operation with its checks.
    slowest_ms: f64,
}

impl Report {
    /// What a world came to in which nothing lives any more.
    pub(crate) fn new(
        (options, machine): (&Options, Machine),
        world: &World,
        steadiness: &Steadiness,
        time: Duration,
    ) -> Report {
        let rows = |class| {
            let counts = world.counts.all().into_iter().filter(|(kind, _)| kind.class == class);
            let row = |(kind, count): (Kind, Count)| Row {
                guest: kind.guest,
                name: kind.name,
                times: count.times,
                least: steadiness.least(&kind),
                slowest_ms: count.slowest.as_secs_f64() * 1e3,
            };
            counts.map(row).collect()
        };
        Report {
            machine,
            seed: options.seed,
            threads: options.threads,
            seconds: time.as_secs_f64(),
            operations: rows(Class::Operation),
            outcomes: rows(Class::Outcome),
            stretch_seconds: steadiness.stretch().as_secs_f64(),
            floor: steadiness.floor(),
            sandboxes: world.lives.begun(),
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
            "{:.0} s, {} threads, seed {}: {} sandboxes and processes, {:.2} sandbox-hours\n",
            self.seconds, self.threads, self.seed, self.sandboxes, self.sandbox_hours
        );
        for (title, rows) in [("operations", &self.operations), ("outcomes", &self.outcomes)] {
            let least = format!("least in {:.0} s", self.stretch_seconds);
            println!("{title:<44}{:>10}{least:>16}{:>12}", "times", "slowest ms");
            for row in rows {
                let Row { guest, name, times, least, slowest_ms } = row;
                print!("  {guest:<8}{name:<34}{times:>10}{least:>16}");
                match *slowest_ms > 0.0 {
                    true => println!("{slowest_ms:>12.1}"),
                    false => println!(),
                }
            }
            println!("  {:<42}{:>10}\n", "all", rows.iter().map(|row| row.times).sum::<u64>());
        }
        println!(
            "{:<16}{:>10}{:>10}{:>13}{:>12}{:>10}{:>10}{:>10}",
            "level", "start", "min", "first third", "last third", "bound", "max", "end"
        );
        for row in &self.levels {
            println!(
                "{:<16}{:>10}{:>10}{:>13}{:>12}{:>10}{:>10}{:>10}",
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
                "all answers were right, every kind came all the time, all levels stayed"
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
