//! Frames: pages of guest-physical memory, and which of them are free.
//!
//! Frames that were never used lie in one stretch, and read as zero. What the process gets comes from
//! its lower end, tables from its upper end: so a frame that the vCPU knows as a table from an earlier
//! use of the same virtual machine hardly ever becomes the guest's to write to. What was used before
//! is given out first, since the host has memory behind it, and then has to be cleared.

use std::collections::BTreeMap;
use std::ops::Range;

use glowbox_core::address::PAGE_SIZE;
use serde::{Deserialize, Serialize};

use super::length;

/// The free frames, and the tables.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Frames {
    /// Frames that were used before: start and end of stretches that do not touch.
    recycled: BTreeMap<u64, u64>,
    /// Bytes in them.
    recycled_bytes: u64,
    /// Frames that were never used.
    untouched: Range<u64>,
    /// Page tables. Those that lie above `untouched` are all that does.
    tables: Vec<u64>,
}

/// Frames that were given out.
pub(super) struct Taken {
    pub(super) frames: Range<u64>,
    /// Whether they were used before, and are to be cleared.
    pub(super) used: bool,
}

impl Frames {
    pub(super) fn new(free: Range<u64>) -> Frames {
        let recycled = BTreeMap::new();
        Frames { recycled, recycled_bytes: 0, untouched: free, tables: Vec::new() }
    }

    /// Bytes that are free.
    pub(super) fn available(&self) -> u64 {
        self.recycled_bytes.saturating_add(length(&self.untouched))
    }

    /// Takes a stretch of at most so many bytes, which is a multiple of the page size and not 0.
    pub(super) fn take(&mut self, most: u64) -> Option<Taken> {
        if let Some((start, end)) = self.recycled.pop_first() {
            let taken = start..end.min(start.saturating_add(most));
            if taken.end < end {
                self.recycled.insert(taken.end, end);
            }
            self.recycled_bytes = self.recycled_bytes.saturating_sub(length(&taken));
            return Some(Taken { frames: taken, used: true });
        }
        let taken = most.min(length(&self.untouched));
        let frames = self.untouched.start..self.untouched.start + taken;
        self.untouched.start = frames.end;
        (taken > 0).then_some(Taken { frames, used: false })
    }

    /// Takes a frame for a table.
    pub(super) fn take_table(&mut self) -> Option<Taken> {
        let taken = if self.untouched.is_empty() {
            self.take(PAGE_SIZE)?
        } else {
            self.untouched.end -= PAGE_SIZE;
            Taken { frames: self.untouched.end..self.untouched.end + PAGE_SIZE, used: false }
        };
        self.tables.push(taken.frames.start);
        Some(taken)
    }

    /// Takes frames back.
    pub(super) fn release(&mut self, frames: Range<u64>) {
        self.recycled_bytes += length(&frames);
        let Range { mut start, mut end } = frames;
        if let Some(after) = self.recycled.remove(&end) {
            end = after;
        }
        if let Some((&before, &until)) = self.recycled.range(..start).next_back()
            && until == start
        {
            start = before;
        }
        self.recycled.insert(start, end);
    }

    /// Takes all tables back, which the caller has cleared.
    pub(super) fn release_tables(&mut self, free: &Range<u64>) {
        let upper = self.untouched.end;
        self.untouched.end = free.end.max(upper);
        for table in std::mem::take(&mut self.tables) {
            if table < upper || table >= free.end {
                self.release(table..table.saturating_add(PAGE_SIZE));
            }
        }
    }

    pub(super) fn tables(&self) -> &[u64] {
        &self.tables
    }

    pub(super) fn untouched(&self) -> &Range<u64> {
        &self.untouched
    }

    pub(super) fn recycled(&self) -> impl Iterator<Item = Range<u64>> {
        self.recycled.iter().map(|(&start, &end)| start..end)
    }

    /// Whether what is counted is what there is.
    pub(super) fn is_counted(&self) -> bool {
        let sum = self.recycled().try_fold(0u64, |sum, range| sum.checked_add(length(&range)));
        sum == Some(self.recycled_bytes)
    }
}
