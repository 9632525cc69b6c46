//! What a run came to: a table, a file for programs, and a page for people.

mod axis;
mod html;
mod plot;
pub(crate) mod table;

use std::fs;
use std::path::{Path, PathBuf};

use glowbox_bench::subject::Result;
use serde::Serialize;

use crate::machine::Machine;
use crate::rounds::Outcome;
use crate::rows::{Quantile, Row, System, Unit};
use crate::samples::{MemoryPoint, Samples};

/// A run's rows with their figures.
#[derive(Serialize)]
pub(crate) struct Board {
    #[serde(flatten)]
    pub(crate) machine: Machine,
    /// Whether this was a short run, whose figures are rough.
    pub(crate) quick: bool,
    pub(crate) rounds: u32,
    pub(crate) rows: Vec<Line>,
    /// Memory against number of sandboxes, in bytes.
    pub(crate) memory: Vec<MemoryPoint>,
    pub(crate) left_out: Vec<LeftOut>,
    #[serde(skip)]
    pub(crate) samples: Samples,
}

/// A row with its figures.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Line {
    pub(crate) id: String,
    pub(crate) what: String,
    pub(crate) system: System,
    pub(crate) unit: Unit,
    pub(crate) samples: usize,
    #[serde(flatten)]
    pub(crate) figures: Option<Figures>,
    /// What it is divided by, and by which of its quantiles.
    pub(crate) yardstick: Option<String>,
    pub(crate) by: Quantile,
    pub(crate) ratio: Option<f64>,
    /// What the ratio may be at most.
    pub(crate) bound: Option<f64>,
    pub(crate) met: Option<bool>,
    #[serde(skip)]
    pub(crate) samples_of: String,
    #[serde(skip)]
    asked: bool,
}

/// A row's quantiles, named by their unit.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(untagged)]
pub(crate) enum Figures {
    Time { min_ns: f64, median_ns: f64, p99_ns: f64 },
    Size { min_bytes: f64, median_bytes: f64, p99_bytes: f64 },
}

impl Figures {
    /// Least, median and 99th percentile.
    pub(crate) fn values(self) -> [f64; 3] {
        match self {
            Figures::Time { min_ns, median_ns, p99_ns } => [min_ns, median_ns, p99_ns],
            Figures::Size { min_bytes, median_bytes, p99_bytes } => {
                [min_bytes, median_bytes, p99_bytes]
            }
        }
    }
}

/// A row that could not be measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct LeftOut {
    pub(crate) id: String,
    pub(crate) why: String,
}

impl Board {
    pub(crate) fn new(machine: Machine, outcome: Outcome, quick: bool) -> Board {
        let Outcome { rows, samples, asked, left_out, rounds } = outcome;
        let rows = rows.iter().map(|row| line(row, &samples, asked.contains(&row.id))).collect();
        let left_out = left_out.into_iter().map(|(id, why)| LeftOut { id, why }).collect();
        Board { machine, quick, rounds, rows, memory: samples.memory.clone(), left_out, samples }
    }

    /// The rows that miss their bounds. One that was asked for and has a bound, but no figure, is
    /// among them unless it is known to be impossible here.
    pub(crate) fn missed(&self) -> Vec<&str> {
        let is_missed = |line: &&Line| {
            let left_out = self.left_out.iter().any(|of| of.id == line.id);
            line.asked && line.bound.is_some() && line.met != Some(true) && !left_out
        };
        self.rows.iter().filter(is_missed).map(|line| line.id.as_str()).collect()
    }
}

fn line(row: &Row, samples: &Samples, asked: bool) -> Line {
    let sorted = samples.sorted(&row.samples);
    let ratio = samples.ratio(row);
    let figures = sorted.as_ref().map(|sorted| {
        let [min, median, p99] = [0.0, 0.5, 0.99].map(|part| sorted.quantile(part));
        match row.unit {
            Unit::Nanoseconds => Figures::Time { min_ns: min, median_ns: median, p99_ns: p99 },
            Unit::Bytes => Figures::Size { min_bytes: min, median_bytes: median, p99_bytes: p99 },
        }
    });
    Line {
        id: row.id.clone(),
        what: row.what.clone(),
        system: row.system,
        unit: row.unit,
        samples: sorted.map_or(0, |sorted| sorted.values().len()),
        figures,
        yardstick: row.yardstick.as_ref().map(|yardstick| yardstick.text.clone()),
        by: row.quantile,
        ratio,
        bound: row.bound,
        met: row.bound.and_then(|bound| Some(ratio? <= bound)),
        samples_of: row.samples.clone(),
        asked,
    }
}

/// Writes the files, and says which.
pub(crate) fn write(board: &Board, folder: &Path) -> Result<[PathBuf; 2]> {
    fs::create_dir_all(folder)?;
    let (json, page) = (folder.join("scoreboard.json"), folder.join("index.html"));
    fs::write(&json, serde_json::to_string_pretty(board)? + "\n")?;
    fs::write(&page, html::page(board))?;
    Ok([json, page])
}

/// A time in the unit that suits it.
pub(crate) fn time(nanoseconds: f64) -> String {
    let (value, unit) = match nanoseconds {
        ns if ns < 1e3 => (ns, "ns"),
        ns if ns < 1e6 => (ns / 1e3, "µs"),
        ns if ns < 1e9 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    format!("{} {unit}", short(value))
}

/// A size in the unit that suits it.
pub(crate) fn size(bytes: f64) -> String {
    let (value, unit) = match bytes.abs() {
        size if size < 1024.0 => (bytes, "B"),
        size if size < 1024.0 * 1024.0 => (bytes / 1024.0, "KiB"),
        _ => (bytes / 1024.0 / 1024.0, "MiB"),
    };
    format!("{} {unit}", short(value))
}

pub(crate) fn amount(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Nanoseconds => time(value),
        Unit::Bytes => size(value),
    }
}

/// Three digits that matter.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 99.95 => format!("{value:.0}"),
        middle if middle >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_units_that_suit_them() {
        assert_eq!(
            [31.3, 31_300.0, 4e6, 2.5e9].map(time),
            ["31.3 ns", "31.3 µs", "4.00 ms", "2.50 s"]
        );
        assert_eq!([100.0, 65_536.0, 3e6].map(size), ["100 B", "64.0 KiB", "2.86 MiB"]);
    }
}
