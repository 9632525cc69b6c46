//! Page tables in guest memory: how they are found, made and filled.
//!
//! Entries are written as `glowbox_core::paging` writes them: accessed and dirty bits are set in
//! advance, rights are the leaf's alone. What is read out of guest memory is only where the next table
//! is, and every access is checked.

use std::ops::Range;

use glowbox_core::address::PAGE_SIZE;
use glowbox_core::paging::entry::{
    ACCESSED, ADDRESS, DIRTY, LARGE, NO_EXECUTE, PRESENT, TABLE, USER, WRITABLE,
};

use super::frames::Frames;
use super::{Rights, broken};
use crate::Broken;

/// Address bits below those that the tables above the lowest resolve.
const LEVEL_SHIFTS: [u32; 3] = [39, 30, 21];
/// Addresses that one table of the lowest level maps.
const TABLE_SPAN: u64 = 2 << 20;

/// What an entry holds besides the address, or 0 for a page without rights.
fn leaf(rights: Rights) -> u64 {
    match rights {
        Rights { read: false, .. } => 0,
        Rights { write, execute, .. } => {
            let writable = if write { WRITABLE | DIRTY } else { 0 };
            let no_execute = if execute { 0 } else { NO_EXECUTE };
            PRESENT | USER | ACCESSED | writable | no_execute
        }
    }
}

/// The page tables.
pub(super) struct Tables<'a> {
    memory: &'a mut [u8],
    root: u64,
}

impl Tables<'_> {
    pub(super) fn new(memory: &mut [u8], root: u64) -> Tables<'_> {
        Tables { memory, root }
    }

    /// The bytes of entries in a table.
    fn entries(&mut self, table: u64, indices: Range<u64>) -> Result<&mut [u8], Broken> {
        let at = |index: u64| usize::try_from(table.checked_add(index * 8)?).ok();
        let range = at(indices.start).zip(at(indices.end)).map(|(start, end)| start..end);
        range.and_then(|range| self.memory.get_mut(range)).ok_or_else(|| {
            broken(format!("a page table at {table:#x} lies outside of guest memory"))
        })
    }

    fn entry(&mut self, table: u64, index: u64) -> Result<u64, Broken> {
        let bytes = self.entries(table, index..index + 1)?;
        Ok(bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)))
    }

    /// The table of the lowest level for an address, if there is one.
    fn find(&mut self, address: u64) -> Result<Option<u64>, Broken> {
        let mut table = self.root;
        for shift in LEVEL_SHIFTS {
            let entry = self.entry(table, address >> shift & 0x1ff)?;
            if entry & PRESENT == 0 {
                return Ok(None);
            }
            if entry & LARGE != 0 {
                return Err(broken(format!("a large page maps {address:#x}")));
            }
            table = entry & ADDRESS;
        }
        Ok(Some(table))
    }

    /// Sees to it that there are tables for a range; false if there are no frames for them.
    pub(super) fn make(&mut self, frames: &mut Frames, range: &Range<u64>) -> Result<bool, Broken> {
        let mut address = range.start;
        while address < range.end {
            if self.find(address)?.is_none() && !self.make_one(frames, address)? {
                return Ok(false);
            }
            address = next_table(address);
        }
        Ok(true)
    }

    fn make_one(&mut self, frames: &mut Frames, address: u64) -> Result<bool, Broken> {
        let mut table = self.root;
        for shift in LEVEL_SHIFTS {
            let index = address >> shift & 0x1ff;
            let mut entry = self.entry(table, index)?;
            if entry & PRESENT == 0 {
                let Some(taken) = frames.take_table() else { return Ok(false) };
                let new = taken.frames.start;
                self.entries(new, 0..512)?.fill(0);
                entry = new | TABLE;
                self.entries(table, index..index + 1)?.copy_from_slice(&entry.to_le_bytes());
            }
            table = entry & ADDRESS;
        }
        Ok(true)
    }

    /// Writes the entries of a range, behind which lie frames from `memory` on. Without rights, they
    /// are removed.
    pub(super) fn fill(
        &mut self,
        range: &Range<u64>,
        memory: u64,
        rights: Rights,
    ) -> Result<(), Broken> {
        let flags = leaf(rights);
        let mut address = range.start;
        let mut frame = memory;
        while address < range.end {
            let end = next_table(address).min(range.end);
            let pages = (end - address) / PAGE_SIZE;
            match self.find(address)? {
                Some(table) => {
                    let first = address / PAGE_SIZE % 512;
                    for slot in self.entries(table, first..first + pages)?.chunks_exact_mut(8) {
                        let entry = if flags == 0 { 0 } else { frame | flags };
                        slot.copy_from_slice(&entry.to_le_bytes());
                        frame += PAGE_SIZE;
                    }
                }
                None if flags == 0 => {}
                None => return Err(broken(format!("no page table for {address:#x}"))),
            }
            address = end;
        }
        Ok(())
    }
}

/// Where the addresses of the next table start.
pub(super) fn next_table(address: u64) -> u64 {
    (address & !(TABLE_SPAN - 1)) + TABLE_SPAN
}

/// How many tables it takes at most to map a range, which is not empty.
pub(super) fn most_tables(range: &Range<u64>) -> u64 {
    LEVEL_SHIFTS.iter().map(|shift| ((range.end - 1) >> shift) - (range.start >> shift) + 1).sum()
}
