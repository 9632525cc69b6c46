//! Mapping, unmapping and protecting: what the system calls come down to.

use std::ops::Range;

use glowbox_core::address::PAGE_SIZE;

use super::areas::{Area, Kind};
use super::change::CHUNK;
use super::{ADDRESSES_END, ADDRESSES_START, Rights, Space, length};
use crate::call::Stop;
use crate::{Errno, Hardware};

/// Where something is to be mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placing {
    /// At the address if that is free, otherwise below another.
    Hint {
        /// The other.
        below: u64,
    },
    /// At the address, in place of what is there.
    Fixed,
    /// At the address, if that is free.
    NoReplace,
}

/// What is to be mapped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub(super) address: u64,
    /// As the process gave it.
    pub(super) length: u64,
    pub(super) rights: Rights,
    pub(super) kind: Kind,
    pub(super) placing: Placing,
    /// Whether there has to be memory for it.
    pub(super) reserve: bool,
    /// Whether to populate it at once, whatever its size.
    pub(super) populate: bool,
}

/// A length in whole pages.
pub(super) fn whole_pages(length: u64) -> Option<u64> {
    length.checked_next_multiple_of(PAGE_SIZE)
}

/// The addresses of so many whole pages, if the process may have them.
pub(super) fn usable(address: u64, length: u64) -> Option<Range<u64>> {
    let end = address.checked_add(length)?;
    (end <= ADDRESSES_END).then_some(address..end)
}

impl Space {
    /// Maps something, and returns its address.
    pub(super) fn map(
        &mut self,
        hardware: &mut dyn Hardware,
        request: Request,
    ) -> Result<u64, Stop> {
        let Request { rights, kind, .. } = request;
        if request.length == 0 {
            return Err(Errno::EINVAL.into());
        }
        if rights.execute && !self.options.allow_jit {
            return Err(Errno::EACCES.into());
        }
        let length = whole_pages(request.length).ok_or(Errno::ENOMEM)?;
        let range = self.place(&request, length)?;
        self.check_areas(self.areas.len_without(&[&range]) + 1)?;
        if rights.write && request.reserve && !self.has_room(length - self.runs.populated(&range)) {
            return Err(Errno::ENOMEM.into());
        }
        if !self.areas.is_free(&range) {
            self.release(hardware, &range)?;
            self.areas.cut(&range);
        }
        self.areas.insert(range.clone(), Area::new(rights, kind));
        let small = kind == Kind::Anonymous && length <= CHUNK;
        if rights.any() && (request.populate || small) {
            self.populate_large(hardware, &range)?;
        }
        Ok(range.start)
    }

    /// Finds the place for something of so many bytes.
    fn place(&self, request: &Request, length: u64) -> Result<Range<u64>, Errno> {
        if length > ADDRESSES_END {
            return Err(Errno::ENOMEM);
        }
        let address = request.address;
        if let Placing::Hint { below } = request.placing {
            let hinted = whole_pages(address).filter(|&address| address >= ADDRESSES_START);
            let hinted = hinted.and_then(|address| usable(address, length));
            if let Some(range) = hinted.filter(|range| self.areas.is_free(range)) {
                return Ok(range);
            }
            return self.find(length, below).ok_or(Errno::ENOMEM);
        }
        if !address.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::EINVAL);
        }
        let range = usable(address, length).ok_or(Errno::ENOMEM)?;
        if address < ADDRESSES_START {
            return Err(Errno::EPERM);
        }
        if request.placing == Placing::NoReplace && !self.areas.is_free(&range) {
            return Err(Errno::EEXIST);
        }
        if self.areas.any_locked(&range) {
            return Err(Errno::ENOMEM);
        }
        Ok(range)
    }

    /// Free addresses below one, or anywhere if that is where `mmap` usually begins.
    pub(super) fn find(&self, length: u64, below: u64) -> Option<Range<u64>> {
        let found = self.areas.place(length, &(ADDRESSES_START..below)).or_else(|| {
            let anywhere = below == self.options.mmap_base;
            anywhere.then(|| self.areas.place(length, &(ADDRESSES_START..ADDRESSES_END)))?
        });
        found.and_then(|start| usable(start, length))
    }

    /// `ENOMEM` if there may not be so many areas.
    pub(super) fn check_areas(&self, areas: usize) -> Result<(), Errno> {
        match usize::try_from(self.options.areas).is_ok_and(|most| areas <= most) {
            true => Ok(()),
            false => Err(Errno::ENOMEM),
        }
    }

    /// The whole pages of addresses that the process gave.
    fn pages_of(address: u64, length: u64, error: Errno) -> Result<Range<u64>, Errno> {
        if !address.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::EINVAL);
        }
        whole_pages(length).and_then(|length| usable(address, length)).ok_or(error)
    }

    /// `munmap`.
    pub(super) fn unmap(
        &mut self,
        hardware: &mut dyn Hardware,
        address: u64,
        length: u64,
    ) -> Result<u64, Stop> {
        let range = Space::pages_of(address, length, Errno::EINVAL)?;
        if range.is_empty() || self.areas.any_locked(&range) {
            return Err(Errno::EINVAL.into());
        }
        if self.areas.is_free(&range) {
            return Ok(0);
        }
        self.check_areas(self.areas.len_without(&[&range]))?;
        self.release(hardware, &range)?;
        self.areas.cut(&range);
        Ok(0)
    }

    /// `mprotect`.
    pub(super) fn protect(
        &mut self,
        hardware: &mut dyn Hardware,
        address: u64,
        length: u64,
        rights: Rights,
    ) -> Result<u64, Stop> {
        let range = Space::pages_of(address, length, Errno::ENOMEM)?;
        if range.is_empty() {
            return Ok(0);
        }
        if !self.areas.cover(&range) || self.areas.any_locked(&range) {
            return Err(Errno::ENOMEM.into());
        }
        let jit = self.options.allow_jit;
        let allowed = self.areas.overlapping(&range).all(|(_, area)| {
            let execute = !rights.execute || jit || (area.rights.execute && !rights.write);
            execute && !(rights.write && area.kind == Kind::View)
        });
        if !allowed {
            return Err(Errno::EACCES.into());
        }
        self.check_areas(self.areas.len_with(&range))?;
        self.change_rights(hardware, &range, rights)?;
        if rights.any() && range.end - range.start <= CHUNK {
            self.populate(hardware, &range, range.start)?;
        }
        Ok(0)
    }

    /// `brk`: as far as it can be set, it is; the answer is where it is then.
    pub(super) fn set_break(&mut self, hardware: &mut dyn Hardware, to: u64) -> Result<u64, Stop> {
        let before = self.program_break;
        if to < self.options.program_break || to > self.options.break_limit {
            return Ok(before);
        }
        let pages = whole_pages(before).zip(whole_pages(to));
        let Some((old, new)) = pages else { return Ok(before) };
        if new < old {
            match self.unmap(hardware, new, old - new) {
                Err(Stop::Error(_)) => return Ok(before),
                unmapped => unmapped?,
            };
        } else if new > old {
            let range = old..new;
            let possible = self.areas.is_free(&range)
                && usable(old, new - old).is_some()
                && self.has_room(length(&range))
                && self.check_areas(self.areas.len() + 1).is_ok();
            if !possible {
                return Ok(before);
            }
            let area = Area::new(Rights::READ_WRITE, Kind::Anonymous);
            self.areas.insert(range.clone(), area);
            if length(&range) <= CHUNK {
                self.populate(hardware, &range, range.start)?;
            }
        }
        self.program_break = to;
        Ok(to)
    }

    /// `madvise` that memory is not needed: what is anonymous reads as zero when it is touched again.
    pub(super) fn discard(
        &mut self,
        hardware: &mut dyn Hardware,
        range: &Range<u64>,
    ) -> Result<u64, Stop> {
        let refused = self
            .areas
            .overlapping(range)
            .any(|(_, area)| area.is_locked() || area.rights.write && area.kind != Kind::Anonymous);
        if refused {
            return Err(Errno::EINVAL.into());
        }
        let parts = self.areas.overlapping(range);
        let parts: Vec<Range<u64>> =
            parts.filter(|(_, area)| area.kind == Kind::Anonymous).map(|(part, _)| part).collect();
        for part in parts {
            self.release(hardware, &part)?;
        }
        match self.areas.cover(range) {
            true => Ok(0),
            false => Err(Errno::ENOMEM.into()),
        }
    }

    /// `madvise` that memory is to be populated for reading, or for writing.
    pub(super) fn populate_all(
        &mut self,
        hardware: &mut dyn Hardware,
        range: &Range<u64>,
        write: bool,
    ) -> Result<u64, Stop> {
        if !self.areas.cover(range) {
            return Err(Errno::ENOMEM.into());
        }
        let allowed = |rights: Rights| if write { rights.write } else { rights.read };
        if !self.areas.overlapping(range).all(|(_, area)| allowed(area.rights)) {
            return Err(Errno::EINVAL.into());
        }
        let parts: Vec<Range<u64>> = self.areas.overlapping(range).map(|(part, _)| part).collect();
        for part in parts {
            if !self.populate_large(hardware, &part)? {
                return Err(Errno::ENOMEM.into());
            }
        }
        Ok(0)
    }
}
