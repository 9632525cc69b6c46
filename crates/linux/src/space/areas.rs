//! Areas: stretches of addresses that are alike, as Linux's VMAs.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{Rights, shared};

/// What an area holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    /// Memory that starts as zero.
    Anonymous,
    /// The process's own copy of a file's bytes; the program's segments and its stack.
    Copy,
    /// As it, but what the process knows as shared with the file. So it can't be written to.
    View,
    /// Glowbox's own: see [`super::Initial::fixed`].
    Fixed,
    /// Nothing: addresses that are not the process's.
    Reserved,
}

/// One area. It starts at its key in [`Areas`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Area {
    pub(super) end: u64,
    pub(super) rights: Rights,
    pub(super) kind: Kind,
    /// What faults have populated last, and by how much. Only a hint.
    #[serde(skip)]
    pub(super) streak: Streak,
}

/// The stretch that was populated last, to know when faults go on in one direction.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Streak {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) chunk: u64,
}

impl Area {
    /// An area that ends where it is inserted to end.
    pub(super) fn new(rights: Rights, kind: Kind) -> Area {
        Area { end: 0, rights, kind, streak: Streak::default() }
    }

    /// Whether the process may not change it.
    pub(super) fn is_locked(&self) -> bool {
        matches!(self.kind, Kind::Fixed | Kind::Reserved)
    }

    fn is_like(&self, other: &Area) -> bool {
        !self.is_locked() && self.kind == other.kind && self.rights == other.rights
    }
}

/// All areas, by where they start. They never overlap.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Areas(BTreeMap<u64, Area>);

impl Areas {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Every area and where it starts.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Area)> {
        self.0.iter().map(|(&start, area)| (start, area))
    }

    /// The area an address lies in.
    pub(super) fn at(&self, address: u64) -> Option<(u64, &Area)> {
        let (&start, area) = self.0.range(..=address).next_back()?;
        (address < area.end).then_some((start, area))
    }

    pub(super) fn at_mut(&mut self, address: u64) -> Option<&mut Area> {
        let (_, area) = self.0.range_mut(..=address).next_back()?;
        (address < area.end).then_some(area)
    }

    /// What of a range lies in areas.
    pub(super) fn overlapping(
        &self,
        range: &Range<u64>,
    ) -> impl Iterator<Item = (Range<u64>, &Area)> {
        let first = self.at(range.start).map_or(range.start, |(start, _)| start);
        let range = range.clone();
        // Of an empty range there is nothing, also in the midst of an area.
        let end = if range.is_empty() { first } else { range.end };
        let areas = self.0.range(first..end);
        areas.map(move |(&start, area)| (shared(&(start..area.end), &range), area))
    }

    pub(super) fn is_free(&self, range: &Range<u64>) -> bool {
        self.overlapping(range).next().is_none()
    }

    /// Whether the process may not change something in a range.
    pub(super) fn any_locked(&self, range: &Range<u64>) -> bool {
        self.overlapping(range).any(|(_, area)| area.is_locked())
    }

    /// Whether areas that are the process's cover all of a range.
    pub(super) fn cover(&self, range: &Range<u64>) -> bool {
        let mut next = range.start;
        for (part, area) in self.overlapping(range) {
            if part.start != next || area.kind == Kind::Reserved {
                return false;
            }
            next = part.end;
        }
        next >= range.end
    }

    /// How many more areas there are when a range begins and ends at area borders, and how many of
    /// them lie in it then.
    fn split_count(&self, range: &Range<u64>) -> (usize, usize) {
        let inside = |address| self.at(address).is_some_and(|(start, _)| start < address);
        let splits = usize::from(inside(range.start)) + usize::from(inside(range.end));
        (splits, self.overlapping(range).count())
    }

    /// How many areas there are at most when ranges are cut out.
    pub(super) fn len_without(&self, ranges: &[&Range<u64>]) -> usize {
        ranges.iter().fold(self.len(), |areas, range| {
            let (splits, removed) = self.split_count(range);
            (areas + splits).saturating_sub(removed)
        })
    }

    /// How many areas there are at most when a range gets other rights.
    pub(super) fn len_with(&self, range: &Range<u64>) -> usize {
        self.len() + self.split_count(range).0
    }

    fn split(&mut self, address: u64) {
        let Some((start, &area)) = self.at(address) else { return };
        if start < address {
            self.0.insert(start, Area { end: address, ..area });
            self.0.insert(address, area);
        }
    }

    /// Where the areas inside of a range start that begins and ends at area borders.
    fn starts(&self, range: &Range<u64>) -> Vec<u64> {
        self.0.range(range.clone()).map(|(&start, _)| start).collect()
    }

    /// Removes what lies in a range.
    pub(super) fn cut(&mut self, range: &Range<u64>) {
        self.split(range.start);
        self.split(range.end);
        for start in self.starts(range) {
            self.0.remove(&start);
        }
    }

    /// Adds an area where there is none.
    pub(super) fn insert(&mut self, range: Range<u64>, area: Area) {
        self.0.insert(range.start, Area { end: range.end, ..area });
        self.join(range.end);
        self.join(range.start);
    }

    /// Gives what lies in a range other rights.
    pub(super) fn protect(&mut self, range: &Range<u64>, rights: Rights) {
        self.split(range.start);
        self.split(range.end);
        let starts = self.starts(range);
        for start in &starts {
            if let Some(area) = self.0.get_mut(start) {
                area.rights = rights;
            }
        }
        self.join(range.end);
        for start in starts.into_iter().rev() {
            self.join(start);
        }
    }

    /// Makes one of two areas that meet at an address, if they are alike.
    fn join(&mut self, address: u64) {
        let Some(&upper) = self.0.get(&address) else { return };
        let Some((_, lower)) = self.0.range_mut(..address).next_back() else { return };
        if lower.end == address && lower.is_like(&upper) {
            lower.end = upper.end;
            self.0.remove(&address);
        }
    }

    /// The highest place for so many bytes inside of a range of addresses.
    pub(super) fn place(&self, length: u64, within: &Range<u64>) -> Option<u64> {
        let mut top = within.end;
        for (&start, area) in self.0.range(..within.end).rev() {
            if top.saturating_sub(area.end.max(within.start)) >= length {
                break;
            }
            top = top.min(start);
        }
        let place = top.checked_sub(length)?;
        (place >= within.start).then_some(place)
    }
}
