//! Runs: pages one after the other whose frames lie one after the other.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::shared;

/// What lies behind the pages from a run's key in [`Runs`] on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Run {
    end: u64,
    /// Guest-physical address of the first frame.
    memory: u64,
}

/// Pages and their frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mapped {
    pub(super) addresses: Range<u64>,
    /// Guest-physical address of the first frame.
    pub(super) memory: u64,
}

impl Mapped {
    pub(super) fn length(&self) -> u64 {
        self.addresses.end - self.addresses.start
    }

    pub(super) fn frames(&self) -> Range<u64> {
        self.memory..self.memory + self.length()
    }

    /// The part of it that lies in a range, which it overlaps.
    pub(super) fn within(&self, range: &Range<u64>) -> Mapped {
        let addresses = shared(&self.addresses, range);
        let memory = self.memory + (addresses.start - self.addresses.start);
        Mapped { addresses, memory }
    }
}

/// All runs, by where they start. They never overlap.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Runs(BTreeMap<u64, Run>);

impl Runs {
    /// Every run.
    pub(super) fn iter(&self) -> impl Iterator<Item = Mapped> {
        self.0.iter().map(|(&start, run)| Mapped { addresses: start..run.end, memory: run.memory })
    }

    /// The run an address lies in.
    pub(super) fn at(&self, address: u64) -> Option<Mapped> {
        let (&start, run) = self.0.range(..=address).next_back()?;
        let mapped = Mapped { addresses: start..run.end, memory: run.memory };
        (address < run.end).then_some(mapped)
    }

    /// What of a range has frames.
    pub(super) fn overlapping(&self, range: &Range<u64>) -> impl Iterator<Item = Mapped> {
        let first = self.at(range.start).map_or(range.start, |run| run.addresses.start);
        let range = range.clone();
        // Of an empty range there is nothing, also in the midst of a run.
        let end = if range.is_empty() { first } else { range.end };
        let runs = self.0.range(first..end);
        runs.map(move |(&start, run)| {
            Mapped { addresses: start..run.end, memory: run.memory }.within(&range)
        })
    }

    /// What of a range has none.
    pub(super) fn gaps(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut next = range.start;
        for run in self.overlapping(range) {
            if next < run.addresses.start {
                gaps.push(next..run.addresses.start);
            }
            next = run.addresses.end;
        }
        if next < range.end {
            gaps.push(next..range.end);
        }
        gaps
    }

    /// Bytes of a range that have frames.
    pub(super) fn populated(&self, range: &Range<u64>) -> u64 {
        self.overlapping(range).map(|run| run.length()).sum()
    }

    /// Adds frames where there are none.
    pub(super) fn insert(&mut self, address: u64, memory: u64, length: u64) {
        let mut run = Run { end: address + length, memory };
        if let Some(&next) = self.0.get(&run.end)
            && next.memory == memory + length
        {
            self.0.remove(&run.end);
            run.end = next.end;
        }
        if let Some((start, before)) = self.0.range_mut(..address).next_back()
            && before.end == address
            && before.memory + (before.end - start) == memory
        {
            before.end = run.end;
            return;
        }
        self.0.insert(address, run);
    }

    /// Removes what lies in a range.
    pub(super) fn remove(&mut self, range: &Range<u64>) -> Vec<Mapped> {
        let removed: Vec<Mapped> = self.overlapping(range).collect();
        for part in &removed {
            let Some(whole) = self.at(part.addresses.start) else { continue };
            let Range { start, end } = whole.addresses;
            self.0.remove(&start);
            if start < part.addresses.start {
                self.0.insert(start, Run { end: part.addresses.start, memory: whole.memory });
            }
            if part.addresses.end < end {
                let memory = part.memory + part.length();
                self.0.insert(part.addresses.end, Run { end, memory });
            }
        }
        removed
    }
}
