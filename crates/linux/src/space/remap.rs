//! `mremap`: memory that grows, shrinks and moves, without being copied.

use std::ops::Range;

use glowbox_core::address::PAGE_SIZE;
use linux_raw_sys::general as raw;

use super::areas::{Area, Kind};
use super::change::CHUNK;
use super::map::{usable, whole_pages};
use super::{ADDRESSES_START, Space, length};
use crate::call::Stop;
use crate::{Errno, Hardware};

impl Space {
    /// `mremap`.
    pub(super) fn remap(
        &mut self,
        hardware: &mut dyn Hardware,
        [address, old, new, flags, to]: [u64; 5],
    ) -> Result<u64, Stop> {
        let (may_move, fixed) = (u64::from(raw::MREMAP_MAYMOVE), u64::from(raw::MREMAP_FIXED));
        let sound = flags & !(may_move | fixed) == 0
            && (flags & fixed == 0 || flags & may_move != 0)
            && address.is_multiple_of(PAGE_SIZE)
            && old != 0
            && new != 0;
        let lengths = whole_pages(old).zip(whole_pages(new)).filter(|_| sound);
        let (old, new) = lengths.ok_or(Errno::EINVAL)?;
        let range = usable(address, old).ok_or(Errno::EINVAL)?;
        let (_, area) = self.areas.at(address).ok_or(Errno::EFAULT)?;
        let area = *area;
        if self.areas.any_locked(&range) {
            return Err(Errno::EINVAL.into());
        }
        if range.end > area.end {
            return Err(Errno::EFAULT.into());
        }
        let more = new.saturating_sub(old);
        let growable = area.kind == Kind::Anonymous && (!area.rights.write || self.has_room(more));
        if more > 0 && !growable {
            return Err(Errno::ENOMEM.into());
        }
        if flags & fixed != 0 {
            let target = self.target(&range, to, new)?;
            return self.remap_to(hardware, &range, area, target);
        }
        if more == 0 {
            if new < old {
                self.unmap(hardware, address + new, old - new)?;
            }
            return Ok(address);
        }
        let beyond = usable(range.end, more);
        if let Some(beyond) = beyond.filter(|beyond| self.areas.is_free(beyond)) {
            self.check_areas(self.areas.len() + 1)?;
            self.areas.insert(beyond.clone(), area);
            self.populate_small(hardware, &beyond, area)?;
            return Ok(address);
        }
        if flags & may_move == 0 {
            return Err(Errno::ENOMEM.into());
        }
        let target = self.find(new, self.options.mmap_base).ok_or(Errno::ENOMEM)?;
        self.remap_to(hardware, &range, area, target)
    }

    /// Where a mapping is to go that is to go to a certain place.
    fn target(&self, range: &Range<u64>, to: u64, length: u64) -> Result<Range<u64>, Errno> {
        if !to.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::EINVAL);
        }
        let target = usable(to, length).ok_or(Errno::EINVAL)?;
        let overlaps = target.start < range.end && range.start < target.end;
        if overlaps || self.areas.any_locked(&target) {
            return Err(Errno::EINVAL);
        }
        if to < ADDRESSES_START {
            return Err(Errno::EPERM);
        }
        Ok(target)
    }

    /// Moves what is in a range to another, which may be longer or shorter.
    fn remap_to(
        &mut self,
        hardware: &mut dyn Hardware,
        range: &Range<u64>,
        area: Area,
        target: Range<u64>,
    ) -> Result<u64, Stop> {
        self.check_areas(self.areas.len_without(&[range, &target]) + 1)?;
        let moving = length(range).min(length(&target));
        let (kept, rest) = (range.start..range.start + moving, range.start + moving..range.end);
        for run in self.runs.overlapping(&kept).collect::<Vec<_>>() {
            let start = target.start + (run.addresses.start - kept.start);
            if !self.make_tables(hardware, &(start..start + run.length()))? {
                return Err(Errno::ENOMEM.into());
            }
        }
        self.release(hardware, &target)?;
        self.areas.cut(&target);
        self.release(hardware, &rest)?;
        self.relocate(hardware, &kept, target.start, area.rights)?;
        self.areas.cut(range);
        self.areas.insert(target.clone(), area);
        self.populate_small(hardware, &(target.start + moving..target.end), area)?;
        Ok(target.start)
    }

    /// Populates what a mapping has grown by, if it is not much.
    fn populate_small(
        &mut self,
        hardware: &mut dyn Hardware,
        range: &Range<u64>,
        area: Area,
    ) -> Result<(), Stop> {
        if area.rights.any() && !range.is_empty() && length(range) <= CHUNK {
            self.populate(hardware, range, range.start)?;
        }
        Ok(())
    }
}
