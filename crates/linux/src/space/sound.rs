//! Address spaces that come from files: whether they can be used, and how they become page tables
//! again.

use std::ops::Range;

use glowbox_core::address::PAGE_SIZE;

use super::areas::Kind;
use super::change::{clear, forget, reveal};
use super::map::whole_pages;
use super::{ADDRESSES_END, Initial, Options, Rights, Space, broken, length, merged};
use crate::{Broken, Hardware};

/// Whether a range is one of whole pages, of which there are some, up to an end.
fn is_whole(range: &Range<u64>, end: u64) -> bool {
    range.start < range.end
        && range.end <= end
        && range.start.is_multiple_of(PAGE_SIZE)
        && range.end.is_multiple_of(PAGE_SIZE)
}

/// Sorts ranges; whether no two overlap then.
fn are_disjoint(ranges: &mut [Range<u64>]) -> bool {
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.windows(2).all(|pair| pair[0].end <= pair[1].start)
}

impl Initial {
    /// Where it lies in guest-physical memory.
    fn frames(&self) -> Option<Range<u64>> {
        let length = self.addresses.end.checked_sub(self.addresses.start)?;
        Some(self.memory..self.memory.checked_add(length)?)
    }
}

impl Options {
    /// Whether an address space can be made of it over guest memory of that size.
    pub fn are_sound(&self, memory: u64) -> bool {
        let Options { root, initial, reserved, free, .. } = self;
        let frames: Option<Vec<Range<u64>>> = initial.iter().map(Initial::frames).collect();
        let Some(mut frames) = frames else { return false };
        let addresses = initial.iter().map(|initial| &initial.addresses).chain(reserved);
        let mut addresses: Vec<Range<u64>> = addresses.cloned().collect();
        if !free.is_empty() {
            frames.push(free.clone());
        }
        if root.checked_add(PAGE_SIZE).is_none() {
            return false;
        }
        frames.push(*root..*root + PAGE_SIZE);
        frames.iter().all(|range| is_whole(range, memory))
            && free.start <= free.end
            && are_disjoint(&mut frames)
            && addresses.iter().all(|range| is_whole(range, u64::MAX))
            && are_disjoint(&mut addresses)
            && initial.iter().all(|initial| {
                initial.addresses.end <= ADDRESSES_END && initial.rights.are_sound(self.allow_jit)
            })
            && self.program_break <= self.break_limit
            && self.break_limit <= ADDRESSES_END
            && self.mmap_base <= ADDRESSES_END
            && self.mmap_base.is_multiple_of(PAGE_SIZE)
    }
}

impl Space {
    /// Whether it may be used over guest memory of that size as it stands: for one that comes from a
    /// file. Whether its [`Options`] are those that they ought to be is for the caller to compare:
    /// see [`Space::options`].
    pub fn is_sound(&self, memory: u64) -> bool {
        self.options.are_sound(memory)
            && self.areas_are_sound()
            && self.frames_are_sound()
            && self.runs_are_sound()
            && self.break_is_sound()
    }

    fn break_is_sound(&self) -> bool {
        let Options { program_break, break_limit, .. } = *self.options;
        (program_break..=break_limit).contains(&self.program_break)
            && whole_pages(self.program_break).is_some()
    }

    fn areas_are_sound(&self) -> bool {
        let options = &*self.options;
        let initial = options.initial.len() + options.reserved.len();
        let most = usize::try_from(options.areas).unwrap_or(usize::MAX).max(initial);
        let mut ranges: Vec<_> = self.areas.iter().map(|(start, area)| start..area.end).collect();
        let mut locked = 0;
        let each = self.areas.iter().all(|(start, area)| {
            let range = start..area.end;
            locked += usize::from(area.is_locked());
            let known = match area.kind {
                Kind::Reserved => {
                    return area.rights == Rights::NONE && options.reserved.contains(&range);
                }
                Kind::Fixed => options.initial.iter().any(|initial| {
                    initial.fixed && initial.addresses == range && initial.rights == area.rights
                }),
                Kind::Anonymous => options.allow_jit || !area.rights.execute,
                Kind::Copy => true,
                Kind::View => !area.rights.write,
            };
            known && is_whole(&range, ADDRESSES_END) && area.rights.are_sound(options.allow_jit)
        });
        let fixed = options.initial.iter().filter(|initial| initial.fixed).count();
        each && are_disjoint(&mut ranges)
            && self.areas.len() <= most
            && locked == fixed + options.reserved.len()
    }

    /// Whether every frame is in one place.
    fn frames_are_sound(&self) -> bool {
        let free = &self.options.free;
        let untouched = self.frames.untouched();
        let within_free = free.start <= untouched.start
            && untouched.start <= untouched.end
            && untouched.end <= free.end
            && untouched.start.is_multiple_of(PAGE_SIZE)
            && untouched.end.is_multiple_of(PAGE_SIZE);
        let tables = self.frames.tables().iter();
        let upper = tables.clone().filter(|&&table| table >= untouched.end && table < free.end);
        let upper = (upper.count() as u64).checked_mul(PAGE_SIZE);
        let tables = tables.map(|&table| table..table.saturating_add(PAGE_SIZE));
        let runs = self.runs.iter().map(|run| {
            let length = run.addresses.end.saturating_sub(run.addresses.start);
            run.memory..run.memory.saturating_add(length)
        });
        let mut used: Vec<Range<u64>> = tables.chain(runs).chain(self.frames.recycled()).collect();
        if !used.iter().all(|range| is_whole(range, u64::MAX)) || !within_free {
            return false;
        }
        if !untouched.is_empty() {
            used.push(untouched.clone());
        }
        let mut known: Vec<Range<u64>> =
            self.options.initial.iter().filter_map(Initial::frames).collect();
        if !free.is_empty() {
            known.push(free.clone());
        }
        // None comes twice, none is missing, and there is no other.
        are_disjoint(&mut used)
            && merged(used) == merged(known)
            && upper == Some(length(&(untouched.end..free.end)))
            && self.frames.is_counted()
    }

    /// Whether every run lies in areas, and fixed areas have the frames that they started with. To be
    /// asked when areas and frames are sound.
    fn runs_are_sound(&self) -> bool {
        let mut addresses: Vec<Range<u64>> =
            self.runs.iter().map(|run| run.addresses.clone()).collect();
        let whole = addresses.iter().all(|range| is_whole(range, ADDRESSES_END));
        let fixed = self.options.initial.iter().filter(|initial| initial.fixed);
        let fixed: Vec<&Initial> = fixed.collect();
        whole
            && are_disjoint(&mut addresses)
            && addresses.iter().all(|range| self.areas.cover(range))
            && fixed.into_iter().all(|initial| {
                let mut next = initial.addresses.start;
                let straight = self.runs.overlapping(&initial.addresses).all(|run| {
                    let into = run.addresses.start - initial.addresses.start;
                    let here = run.addresses.start == next && run.memory == initial.memory + into;
                    next = run.addresses.end;
                    here
                });
                straight && next == initial.addresses.end
            })
    }

    /// Writes the page tables anew, where [`Options::initial`] is mapped and nothing else: by tables
    /// of the caller's, which are not taken from [`Options::free`].
    ///
    /// # Errors
    ///
    /// If there is no memory for tables, or those that are there are broken.
    pub fn rebuild(&mut self, hardware: &mut dyn Hardware) -> Result<(), Broken> {
        for &table in self.frames.tables() {
            clear(hardware, &(table..table.saturating_add(PAGE_SIZE)))?;
        }
        self.frames.release_tables(&self.options.free);
        let options = self.options.clone();
        let movable = options.initial.iter().filter(|initial| !initial.fixed);
        let mut gone = Vec::new();
        for initial in movable {
            self.tables(hardware).fill(&initial.addresses, initial.memory, Rights::NONE)?;
            gone.extend(initial.frames());
        }
        forget(hardware, gone)?;
        let areas = self.areas.iter().filter(|(_, area)| !area.is_locked());
        let areas: Vec<Range<u64>> = areas.map(|(start, area)| start..area.end).collect();
        let mut revealed = Vec::new();
        for (run, rights) in areas.iter().flat_map(|area| self.mapped(area)).collect::<Vec<_>>() {
            if !self.make_tables(hardware, &run.addresses)? {
                return Err(broken("no memory is left for page tables".into()));
            }
            self.tables(hardware).fill(&run.addresses, run.memory, rights)?;
            if rights.any() {
                revealed.push(run.frames());
            }
        }
        reveal(hardware, revealed);
        Ok(())
    }
}
