//! What happens to frames and entries: pages get frames, lose them, change rights or places.
//!
//! Each of these changes entries first, then tells the vCPU, then frees frames; [`super::areas`] are
//! the caller's to change, after what takes something away and before what gives something.

use std::ops::Range;

use super::areas::Streak;
use super::runs::Mapped;
use super::tables::{Tables, most_tables, next_table};
use super::{Rights, Space, broken, length, merged, page_of, shared};
use crate::{Broken, Hardware};
use glowbox_core::address::PAGE_SIZE;

/// What is populated at a time, and what is populated as soon as it is mapped.
pub(super) const CHUNK: u64 = 256 << 10;
/// What is populated at a time when faults go on and on in one direction.
const LARGEST_CHUNK: u64 = 2 << 20;

/// Most stretches of frames that the vCPU is made to forget one by one, which takes the host some
/// microseconds each.
pub(super) const MOST_FORGOTTEN: usize = 512;
/// Bytes that are populated between two looks whether the guest is to stop.
const POPULATED_AT_ONCE: u64 = 16 << 20;

/// Makes the vCPU forget frames: if they are scattered, with all that lies between them, which it has
/// to look up again then.
pub(super) fn forget(hardware: &mut dyn Hardware, frames: Vec<Range<u64>>) -> Result<(), Broken> {
    let frames = merged(frames);
    match (frames.first(), frames.last()) {
        (Some(first), Some(last)) if frames.len() > MOST_FORGOTTEN => {
            hardware.forget(first.start..last.end)
        }
        _ => frames.into_iter().try_for_each(|frames| hardware.forget(frames)),
    }
}

/// Notes that the vCPU may know frames.
pub(super) fn reveal(hardware: &mut dyn Hardware, frames: Vec<Range<u64>>) {
    merged(frames).into_iter().for_each(|frames| hardware.reveal(frames));
}

/// Clears frames. A page that was never written to is only read, so that the host needs no memory for it.
pub(super) fn clear(hardware: &mut dyn Hardware, frames: &Range<u64>) -> Result<(), Broken> {
    let range = usize::try_from(frames.start).ok().zip(usize::try_from(frames.end).ok());
    let bytes = range.and_then(|(start, end)| hardware.memory_mut().get_mut(start..end));
    let outside = || broken(format!("frames at {frames:#x?} lie outside of guest memory"));
    for page in bytes.ok_or_else(outside)?.chunks_mut(ZEROS.len()) {
        if *page != ZEROS[..page.len()] {
            page.fill(0);
        }
    }
    Ok(())
}

/// A page that is clear.
static ZEROS: [u8; 4096] = [0; 4096];

impl Space {
    pub(super) fn tables<'a>(&self, hardware: &'a mut dyn Hardware) -> Tables<'a> {
        Tables::new(hardware.memory_mut(), self.options.root)
    }

    /// Sees to it that there are tables for a range; false if there are no frames for them.
    pub(super) fn make_tables(
        &mut self,
        hardware: &mut dyn Hardware,
        range: &Range<u64>,
    ) -> Result<bool, Broken> {
        let mut tables = Tables::new(hardware.memory_mut(), self.options.root);
        tables.make(&mut self.frames, range)
    }

    /// What of a range has frames, with the rights of the area it is in.
    pub(super) fn mapped(&self, range: &Range<u64>) -> Vec<(Mapped, Rights)> {
        let areas = self.areas.overlapping(range);
        areas
            .flat_map(|(part, area)| {
                self.runs.overlapping(&part).map(|run| (run, area.rights)).collect::<Vec<_>>()
            })
            .collect()
    }

    /// Populates memory around an address that lies in an area, since it is touched and the next
    /// `wanted` bytes are likely to be. Says whether the address has a frame then.
    pub(super) fn touch(
        &mut self,
        hardware: &mut dyn Hardware,
        address: u64,
        wanted: u64,
    ) -> Result<bool, Broken> {
        let Some((start, area)) = self.areas.at(address) else { return Ok(false) };
        let area_range = start..area.end;
        let Streak { start, end, chunk } = area.streak;
        let base = address & !(CHUNK - 1);
        let doubled = (chunk * 2).clamp(CHUNK, LARGEST_CHUNK);
        let (chunk, window) = match base {
            base if base == end => (doubled, base..base + doubled),
            base if base + CHUNK == start => {
                (doubled, (base + CHUNK).saturating_sub(doubled)..base + CHUNK)
            }
            base => (CHUNK, base..base + CHUNK),
        };
        let wanted_end = (address + wanted.min(LARGEST_CHUNK)).next_multiple_of(CHUNK);
        let window = shared(&(window.start..window.end.max(wanted_end)), &area_range);
        if let Some(area) = self.areas.at_mut(address) {
            area.streak = Streak { start: window.start, end: window.end, chunk };
        }
        self.populate(hardware, &window, page_of(address))?;
        Ok(self.runs.at(address).is_some())
    }

    /// Gives the pages of a range, which lies in one area, frames. If there are not enough of them,
    /// only from `first` on, as far as they go.
    pub(super) fn populate(
        &mut self,
        hardware: &mut dyn Hardware,
        range: &Range<u64>,
        first: u64,
    ) -> Result<(), Broken> {
        let Some((_, area)) = self.areas.at(first) else { return Ok(()) };
        let rights = area.rights;
        let mut range = range.clone();
        let missing = length(&range) - self.runs.populated(&range);
        if missing == 0 {
            return Ok(());
        }
        let available = self.frames.available();
        if missing + most_tables(&range) * PAGE_SIZE > available {
            // By one table, so that none is made for what gets no frame.
            range = first..range.end.min(first + available).min(next_table(first));
        }
        if !self.make_tables(hardware, &range)? {
            return Ok(());
        }
        let mut revealed = Vec::new();
        'gaps: for gap in self.runs.gaps(&range) {
            let mut next = gap.start;
            while next < gap.end {
                let Some(taken) = self.frames.take(gap.end - next) else { break 'gaps };
                if taken.used {
                    clear(hardware, &taken.frames)?;
                }
                let end = next + length(&taken.frames);
                self.runs.insert(next, taken.frames.start, end - next);
                self.tables(hardware).fill(&(next..end), taken.frames.start, rights)?;
                revealed.push(taken.frames);
                next = end;
            }
        }
        if rights.any() {
            reveal(hardware, revealed);
        }
        Ok(())
    }

    /// As `populate`, for what may be large: it is given up if the guest is to stop. Whether all of it
    /// has frames then.
    pub(super) fn populate_large(
        &mut self,
        hardware: &mut dyn Hardware,
        range: &Range<u64>,
    ) -> Result<bool, Broken> {
        let mut next = range.start;
        while next < range.end {
            let part = next..range.end.min(next.saturating_add(POPULATED_AT_ONCE));
            self.populate(hardware, &part, part.start)?;
            if hardware.is_to_stop() || self.runs.populated(&part) < length(&part) {
                return Ok(false);
            }
            next = part.end;
        }
        Ok(true)
    }

    /// Removes the entries of a range, and makes the vCPU forget what they led to.
    fn hide(&mut self, hardware: &mut dyn Hardware, range: &Range<u64>) -> Result<(), Broken> {
        let mut gone = Vec::new();
        let mut tables = self.tables(hardware);
        for (run, rights) in self.mapped(range) {
            if rights.any() {
                tables.fill(&run.addresses, run.memory, Rights::NONE)?;
                gone.push(run.frames());
            }
        }
        forget(hardware, gone)
    }

    /// Takes the frames of a range away. Its areas are still there.
    pub(super) fn release(
        &mut self,
        hardware: &mut dyn Hardware,
        range: &Range<u64>,
    ) -> Result<(), Broken> {
        self.hide(hardware, range)?;
        for run in self.runs.remove(range) {
            self.frames.release(run.frames());
        }
        Ok(())
    }

    /// Gives a range other rights, its areas too.
    pub(super) fn change_rights(
        &mut self,
        hardware: &mut dyn Hardware,
        range: &Range<u64>,
        rights: Rights,
    ) -> Result<(), Broken> {
        let (mut less, mut more) = (Vec::new(), Vec::new());
        let mut tables = self.tables(hardware);
        for (run, before) in self.mapped(range) {
            if before == rights {
                continue;
            }
            tables.fill(&run.addresses, run.memory, rights)?;
            if before.exceed(rights) {
                less.push(run.frames());
            }
            if rights.exceed(before) {
                more.push(run.frames());
            }
        }
        self.areas.protect(range, rights);
        forget(hardware, less)?;
        reveal(hardware, more);
        Ok(())
    }

    /// Moves the frames of a range to other addresses, which have none, but tables. The area at the
    /// old addresses is still there, and has these rights.
    pub(super) fn relocate(
        &mut self,
        hardware: &mut dyn Hardware,
        range: &Range<u64>,
        to: u64,
        rights: Rights,
    ) -> Result<(), Broken> {
        self.hide(hardware, range)?;
        let mut moved = Vec::new();
        for run in self.runs.remove(range) {
            let start = to + (run.addresses.start - range.start);
            let addresses = start..start + run.length();
            self.runs.insert(start, run.memory, run.length());
            self.tables(hardware).fill(&addresses, run.memory, rights)?;
            moved.push(run.frames());
        }
        if rights.any() {
            reveal(hardware, moved);
        }
        Ok(())
    }

    /// Whether there is memory for so many bytes.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        bytes <= self.frames.available()
    }
}
