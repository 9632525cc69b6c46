//! Page tables for 4-level x86-64 paging, built on the host into a byte slice.
//!
//! Every entry is written with its accessed bit, and every writable leaf with its dirty bit, set:
//! the CPU then never writes to a table, so tables stay shared between copies of a memory image.
//! Large pages are used where both addresses allow; a heap of gigabytes costs a handful of tables.

use crate::address::{Gpa, Gva, LARGE_PAGE_SIZE, PAGE_SIZE, Protection};
use entry::{ACCESSED, ADDRESS, DIRTY, LARGE, NO_EXECUTE, PRESENT, TABLE, USER, WRITABLE};

mod walk;

pub use walk::{Leaf, walk};

pub mod entry {
    //! What entries of page tables are made of.

    /// Leads somewhere.
    pub const PRESENT: u64 = 1 << 0;
    /// Can be written to.
    pub const WRITABLE: u64 = 1 << 1;
    /// Is for ring 3 too.
    pub const USER: u64 = 1 << 2;
    /// Has been used.
    pub const ACCESSED: u64 = 1 << 5;
    /// Has been written to.
    pub const DIRTY: u64 = 1 << 6;
    /// Leads to a large page, above the lowest level.
    pub const LARGE: u64 = 1 << 7;
    /// Can't be executed.
    pub const NO_EXECUTE: u64 = 1 << 63;
    /// The bits that hold an address.
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    /// What an entry that leads to another table holds besides its address: rights are the leaf's.
    pub const TABLE: u64 = PRESENT | WRITABLE | USER | ACCESSED;
}

/// Bytes in a page, as an index type.
const PAGE: usize = 4096;
/// Levels of tables, and the address bits that each resolves.
const LEVELS: u32 = 4;
const LEVEL_BITS: u32 = 9;
const PAGE_BITS: u32 = 12;

/// Bits of an address below those that are all the same, and what those can be.
const HALF_BITS: u32 = 47;
const HALVES: [u64; 2] = [0, u64::MAX >> HALF_BITS];

/// The bits of an address that choose entries and bytes.
const TRANSLATED: u64 = (1 << 48) - 1;

/// Who may use a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Privilege {
    /// Ring 3 and ring 0.
    User,
    /// Ring 0 only.
    Supervisor,
}

/// One stretch of guest-virtual addresses and the guest-physical memory behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// Where it starts for guest code; page-aligned.
    pub gva: Gva,
    /// Where it starts in guest memory; page-aligned.
    pub gpa: Gpa,
    /// Bytes; a multiple of the page size.
    pub length: u64,
    /// What may be done with it.
    pub protection: Protection,
    /// Who may do it.
    pub privilege: Privilege,
    /// Whether it may be made of large pages, where its addresses allow that.
    pub large: bool,
}

/// Why page tables could not be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PagingError {
    /// A mapping's address or length is not a multiple of the page size, or wraps.
    #[error("the mapping of {length:#x} bytes at {gva} to {gpa} is not made of whole pages")]
    Misaligned {
        /// Guest-virtual start.
        gva: Gva,
        /// Guest-physical start.
        gpa: Gpa,
        /// Bytes.
        length: u64,
    },
    /// A mapping reaches addresses that there are none of: bits 63 to 47 of an address are the same.
    #[error("the mapping of {length:#x} bytes at {gva} reaches addresses that are not canonical")]
    NotCanonical {
        /// Guest-virtual start.
        gva: Gva,
        /// Bytes.
        length: u64,
    },
    /// Two mappings want the same page.
    #[error("{gva} is mapped twice")]
    Overlap {
        /// The page.
        gva: Gva,
    },
    /// The slice is too small for the tables.
    #[error("page tables need more than {pages} pages")]
    Full {
        /// Pages in the slice.
        pages: usize,
    },
}

/// How many pages the tables for these mappings take.
///
/// # Errors
///
/// As [`build`].
pub fn table_pages(mappings: &[Mapping]) -> Result<usize, PagingError> {
    // A table with entries on level n covers one aligned stretch of 2^(12 + 9(n + 1)) bytes, so
    // the tables are the distinct stretches that mappings lie in.
    let mut stretches = Vec::new();
    for mapping in mappings {
        for piece in pieces(mapping)? {
            let first = piece.gva.0 & TRANSLATED;
            let last = first + (piece.length - 1);
            for level in piece.level..LEVELS {
                let shift = PAGE_BITS + LEVEL_BITS * (level + 1);
                stretches.extend((first >> shift..=last >> shift).map(|index| (level, index)));
            }
        }
    }
    stretches.sort_unstable();
    stretches.dedup();
    // The root exists even when nothing is mapped.
    Ok(stretches.len().max(1))
}

/// Builds page tables for `mappings` into `tables`, the guest memory from `base` on. The root is
/// the first page, so `base` is what belongs in CR3.
///
/// # Errors
///
/// [`PagingError`]; `tables` is then half-written.
pub fn build(mappings: &[Mapping], tables: &mut [u8], base: Gpa) -> Result<(), PagingError> {
    let mut builder = Builder { tables, base, used: 1 };
    if builder.tables.len() < PAGE {
        return Err(PagingError::Full { pages: 0 });
    }
    builder.tables[..PAGE].fill(0);
    for mapping in mappings {
        for piece in pieces(mapping)? {
            builder.map(mapping, piece)?;
        }
    }
    Ok(())
}

/// Hangs page directories that lie elsewhere in guest memory into tables that [`build`] made: one
/// for each GiB from `first` on, page after page from `directories` on.
///
/// # Errors
///
/// [`PagingError::Overlap`] if something is mapped in one of these GiB, [`PagingError::Full`] if the
/// tables have no level above for them.
pub fn link_directories(
    tables: &mut [u8],
    base: Gpa,
    first: Gva,
    directories: std::ops::Range<u64>,
) -> Result<(), PagingError> {
    let pages = tables.len() / PAGE;
    let mut builder = Builder { tables, base, used: pages };
    let mut gva = first;
    let mut gpa = directories.start;
    while gpa < directories.end {
        let table = builder.table_for(gva, LEVELS - 2)?;
        let slot = table + index_at(gva, LEVELS - 2) * 8;
        if builder.entry(slot) != 0 {
            return Err(PagingError::Overlap { gva });
        }
        builder.set(slot, gpa | TABLE);
        gva = gva.offset(LARGE_PAGE_SIZE << LEVEL_BITS);
        gpa += PAGE_SIZE;
    }
    Ok(())
}

/// Writes the entry of one large page, for reading only, into page directories that lie one after
/// the other: the `index`th of all their entries.
///
/// # Panics
///
/// If the directories have no such entry.
pub fn map_large_read_only(directories: &mut [u8], index: usize, gpa: Gpa) {
    let entry = gpa.0 | PRESENT | USER | ACCESSED | LARGE | NO_EXECUTE;
    directories[index * 8..index * 8 + 8].copy_from_slice(&entry.to_le_bytes());
}

/// A part of a mapping whose leaves all stand on one level.
struct Piece {
    gva: Gva,
    gpa: Gpa,
    length: u64,
    level: u32,
}

/// Cuts a mapping into small pages, large pages, small pages.
fn pieces(mapping: &Mapping) -> Result<Vec<Piece>, PagingError> {
    let Mapping { gva, gpa, length, large, .. } = *mapping;
    let wraps = gva.0.checked_add(length).is_none() || gpa.0.checked_add(length).is_none();
    let whole = gva.is_aligned(PAGE_SIZE) && gpa.is_aligned(PAGE_SIZE) && length % PAGE_SIZE == 0;
    if wraps || !whole {
        return Err(PagingError::Misaligned { gva, gpa, length });
    }
    let end = gva.0 + length;
    let last = end.saturating_sub(1).max(gva.0);
    if gva.0 >> HALF_BITS != last >> HALF_BITS || !HALVES.contains(&(last >> HALF_BITS)) {
        return Err(PagingError::NotCanonical { gva, length });
    }
    if (gpa.0 + length) & !(ADDRESS | (PAGE_SIZE - 1)) != 0 {
        return Err(PagingError::Misaligned { gva, gpa, length });
    }
    let same_phase = (gva.0 ^ gpa.0) & (LARGE_PAGE_SIZE - 1) == 0;
    // In the last large page of all addresses there is no next one.
    let first_large = gva.0.checked_next_multiple_of(LARGE_PAGE_SIZE).unwrap_or(u64::MAX);
    let last_large = end & !(LARGE_PAGE_SIZE - 1);
    let bounds = if large && same_phase && first_large < last_large {
        [(gva.0, first_large, 0), (first_large, last_large, 1), (last_large, end, 0)]
    } else {
        [(gva.0, end, 0), (end, end, 0), (end, end, 0)]
    };
    Ok(bounds
        .into_iter()
        .filter(|(from, to, _)| from < to)
        .map(|(from, to, level)| Piece {
            gva: Gva(from),
            gpa: gpa.offset(from - gva.0),
            length: to - from,
            level,
        })
        .collect())
}

struct Builder<'a> {
    tables: &'a mut [u8],
    base: Gpa,
    /// Pages in use.
    used: usize,
}

impl Builder<'_> {
    fn map(&mut self, mapping: &Mapping, piece: Piece) -> Result<(), PagingError> {
        let size = PAGE_SIZE << (LEVEL_BITS * piece.level);
        let mut leaf = PRESENT | ACCESSED;
        if mapping.privilege == Privilege::User {
            leaf |= USER;
        }
        match mapping.protection {
            Protection::Read => leaf |= NO_EXECUTE,
            Protection::ReadWrite => leaf |= NO_EXECUTE | WRITABLE | DIRTY,
            Protection::ReadExecute => {}
        }
        if piece.level > 0 {
            leaf |= LARGE;
        }
        let mut done = 0;
        while done < piece.length {
            let gva = piece.gva.offset(done);
            let table = self.table_for(gva, piece.level)?;
            // Fill this table as far as the piece goes: one walk a table, not one a page.
            let mut index = index_at(gva, piece.level);
            while index < 512 && done < piece.length {
                let slot = table + index * 8;
                if self.entry(slot) != 0 {
                    return Err(PagingError::Overlap { gva: piece.gva.offset(done) });
                }
                self.set(slot, piece.gpa.offset(done).0 | leaf);
                index += 1;
                done += size;
            }
        }
        Ok(())
    }

    /// Offset of the table whose entries stand on `level` and cover `gva`; made where missing.
    fn table_for(&mut self, gva: Gva, level: u32) -> Result<usize, PagingError> {
        let mut table = 0;
        for above in (level + 1..LEVELS).rev() {
            let slot = table + index_at(gva, above) * 8;
            let entry = self.entry(slot);
            if entry & LARGE != 0 {
                return Err(PagingError::Overlap { gva });
            }
            table = if entry == 0 { self.add_table(slot)? } else { self.offset_of(entry) };
        }
        Ok(table)
    }

    /// Adds an empty table and lets the entry at `slot` point to it. Rights are decided by the
    /// leaf alone: the tables above allow everything.
    fn add_table(&mut self, slot: usize) -> Result<usize, PagingError> {
        let table = self.used * PAGE;
        let full = PagingError::Full { pages: self.tables.len() / PAGE };
        self.tables.get_mut(table..table + PAGE).ok_or(full)?.fill(0);
        self.used += 1;
        let address = self.base.offset(table as u64).0;
        self.set(slot, address | TABLE);
        Ok(table)
    }

    fn offset_of(&self, entry: u64) -> usize {
        usize::try_from((entry & ADDRESS) - self.base.0).expect("tables lie in the slice")
    }

    fn entry(&self, slot: usize) -> u64 {
        let bytes = self.tables[slot..].first_chunk().expect("slots lie in a table");
        u64::from_le_bytes(*bytes)
    }

    fn set(&mut self, slot: usize, entry: u64) {
        self.tables[slot..slot + 8].copy_from_slice(&entry.to_le_bytes());
    }
}

fn index_at(gva: Gva, level: u32) -> usize {
    let index = gva.0 >> (PAGE_BITS + LEVEL_BITS * level) & 0x1ff;
    usize::try_from(index).expect("nine bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks the tables as the CPU would: physical address and rights, or nothing.
    fn walk(tables: &[u8], base: Gpa, gva: u64) -> Option<(u64, Protection, Privilege)> {
        let mut table = 0;
        for level in (0..4).rev() {
            let slot = table + index_at(Gva(gva), level) * 8;
            let entry = u64::from_le_bytes(*tables[slot..].first_chunk().unwrap());
            if entry & PRESENT == 0 {
                return None;
            }
            assert!(entry & ACCESSED != 0);
            if level == 0 || entry & LARGE != 0 {
                let within = gva & ((PAGE_SIZE << (9 * level)) - 1);
                let protection = match (entry & WRITABLE != 0, entry & NO_EXECUTE != 0) {
                    (false, true) => Protection::Read,
                    (true, true) => Protection::ReadWrite,
                    (false, false) => Protection::ReadExecute,
                    (true, false) => panic!("writable and executable"),
                };
                assert_eq!(entry & DIRTY != 0, entry & WRITABLE != 0);
                let user = entry & USER != 0;
                let privilege = if user { Privilege::User } else { Privilege::Supervisor };
                return Some(((entry & ADDRESS) + within, protection, privilege));
            }
            table = usize::try_from((entry & ADDRESS) - base.0).unwrap();
        }
        unreachable!()
    }

    fn mapping(gva: u64, gpa: u64, length: u64, protection: Protection) -> Mapping {
        let privilege = if gva < 0x7f_0000_0000 { Privilege::User } else { Privilege::Supervisor };
        Mapping { gva: Gva(gva), gpa: Gpa(gpa), length, protection, privilege, large: true }
    }

    fn built(mappings: &[Mapping], base: Gpa) -> Vec<u8> {
        let mut tables = vec![0xaa; table_pages(mappings).unwrap() * PAGE];
        build(mappings, &mut tables, base).unwrap();
        tables
    }

    #[test]
    fn every_page_translates_to_its_frame_with_its_rights() {
        let mappings = [
            mapping(0x5000, 0x10_0000, 0x3000, Protection::ReadExecute),
            mapping(0x9000, 0x20_0000, 0x1000, Protection::Read),
            // Small pages, then large ones, then small ones again.
            mapping(0x40_001f_f000, 0x3f_f000, 0x60_2000, Protection::ReadWrite),
            // Out of phase: never large.
            mapping(0x41_0000_0000, 0x100_1000, 0x40_0000, Protection::ReadWrite),
            mapping(0x7f_c000_0000, 0, 0x2000, Protection::Read),
        ];
        let base = Gpa(0x3000);
        let tables = built(&mappings, base);
        for mapping in &mappings {
            for at in (0..mapping.length).step_by(4096) {
                let found = walk(&tables, base, mapping.gva.0 + at);
                let expected = (mapping.gpa.0 + at, mapping.protection, mapping.privilege);
                assert_eq!(found, Some(expected), "{:#x}", mapping.gva.0 + at);
            }
            assert_eq!(walk(&tables, base, mapping.gva.0 + mapping.length), None);
        }
        assert_eq!(walk(&tables, base, 0), None);
    }

    #[test]
    fn table_pages_is_exact() {
        let mappings = [mapping(0x40_001f_f000, 0x3f_f000, 0x60_2000, Protection::ReadWrite)];
        let pages = table_pages(&mappings).unwrap();
        let mut tables = vec![0; (pages - 1) * PAGE];
        assert_eq!(
            build(&mappings, &mut tables, Gpa(0)),
            Err(PagingError::Full { pages: pages - 1 })
        );
        // Root, directory pointers, directory, and a table for each end: no table for the middle.
        assert_eq!(pages, 5);
    }

    #[test]
    fn a_gigabyte_costs_few_tables() {
        let heap = mapping(0x40_0000_0000, 0x4000_0000, 1 << 30, Protection::ReadWrite);
        assert_eq!(table_pages(&[heap]), Ok(3));
    }

    #[test]
    fn both_halves_of_the_addresses_have_one_root() {
        let mappings =
            [0x1000, 0xffff_8000_0000_0000].map(|gva| mapping(gva, 0, 0x1000, Protection::Read));
        assert_eq!(table_pages(&mappings), Ok(7));
        build(&mappings, &mut [0; 7 * PAGE], Gpa(0)).unwrap();
    }

    #[test]
    fn the_last_pages_of_all_addresses_can_be_mapped() {
        let gva = 0xffff_ffff_ffff_d000;
        let tables = built(&[mapping(gva, 0x1000, 0x2000, Protection::Read)], Gpa(0));
        for at in [0, 0x1000] {
            let found = walk(&tables, Gpa(0), gva + at).map(|(gpa, ..)| gpa);
            assert_eq!(found, Some(0x1000 + at));
        }
        assert_eq!(walk(&tables, Gpa(0), gva + 0x2000), None);
        assert_eq!(walk(&tables, Gpa(0), 0), None);
    }

    #[test]
    fn addresses_that_are_not_canonical_are_errors() {
        // They would stand in for other addresses: only 48 bits are looked at.
        for (gva, length) in [
            (1 << 48, 0x1000),
            (0x7fff_ffff_f000, 0x2000),
            (0x8000_0000_0000, 0),
            (0xffff_7fff_ffff_f000, 0x1000),
            (0x7fff_ffff_f000, 0xffff_8000_0000_0000),
        ] {
            let one = [mapping(gva, 0x1000, length, Protection::Read)];
            let error = PagingError::NotCanonical { gva: Gva(gva), length };
            assert_eq!(table_pages(&one), Err(error));
            assert_eq!(build(&one, &mut [0; 8 * PAGE], Gpa(0)), Err(error));
        }
        for gva in [0x7fff_ffff_f000, 0xffff_8000_0000_0000] {
            assert_eq!(table_pages(&[mapping(gva, 0, 0x1000, Protection::Read)]), Ok(4));
        }
    }

    #[test]
    fn overlaps_and_odd_addresses_are_errors() {
        let one = mapping(0x5000, 0x10_0000, 0x3000, Protection::Read);
        let mut tables = vec![0; 64 * PAGE];
        let twice = [one, mapping(0x7000, 0x20_0000, 0x1000, Protection::Read)];
        assert_eq!(
            build(&twice, &mut tables, Gpa(0)),
            Err(PagingError::Overlap { gva: Gva(0x7000) })
        );
        let large = [
            mapping(0x20_0000, 0x20_0000, 0x20_0000, Protection::Read),
            mapping(0x20_1000, 0x1000, 0x1000, Protection::Read),
        ];
        assert!(matches!(build(&large, &mut tables, Gpa(0)), Err(PagingError::Overlap { .. })));
        for odd in [
            mapping(0x5001, 0, 0x1000, Protection::Read),
            mapping(0x5000, 1, 0x1000, Protection::Read),
            mapping(0x5000, 0, 0x1001, Protection::Read),
            mapping(0x5000, u64::MAX - 0xfff, 0x2000, Protection::Read),
            mapping(0x5000, 1 << 52, 0x2000, Protection::Read),
        ] {
            assert!(matches!(table_pages(&[odd]), Err(PagingError::Misaligned { .. })));
        }
    }
}
