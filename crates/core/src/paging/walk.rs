//! Walking page tables as the CPU does, for a backend whose guests run without such tables.

use super::entry::{ADDRESS, LARGE, NO_EXECUTE, PRESENT, USER, WRITABLE};
use super::{LEVEL_BITS, LEVELS, PAGE_BITS, index_at};
use crate::address::{Gpa, Gva};

/// The memory behind an address, as far as one entry leads to it, and what may be done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf {
    /// The first address that the entry is for.
    pub gva: Gva,
    /// The memory behind that.
    pub gpa: Gpa,
    /// Bytes that the entry is for.
    pub length: u64,
    /// Whether ring 3 may use it.
    pub user: bool,
    /// Whether it can be written to.
    pub writable: bool,
    /// Whether it can be executed.
    pub executable: bool,
}

impl Leaf {
    /// Whether both are for the same uses.
    pub fn has_rights_of(&self, other: &Leaf) -> bool {
        let rights = |leaf: &Leaf| (leaf.user, leaf.writable, leaf.executable);
        rights(self) == rights(other)
    }

    /// Whether `next` continues this one, in both kinds of addresses and with the same rights.
    pub fn is_followed_by(&self, next: &Leaf) -> bool {
        let end = |address: u64| address.checked_add(self.length);
        end(self.gva.0) == Some(next.gva.0)
            && end(self.gpa.0) == Some(next.gpa.0)
            && self.has_rights_of(next)
    }
}

/// Looks an address up in the tables in guest memory that start at `root`. `None` if nothing is there, or a
/// table lies outside of memory.
pub fn walk(memory: &[u8], root: Gpa, gva: Gva) -> Option<Leaf> {
    // Bits 63 to 47 of an address are the same.
    let upper = gva.0.cast_signed() >> (PAGE_BITS + LEVEL_BITS * LEVELS - 1);
    if upper != 0 && upper != -1 {
        return None;
    }
    let mut table = root.0;
    let (mut user, mut writable, mut executable) = (true, true, true);
    for level in (0..LEVELS).rev() {
        let slot = usize::try_from(table).ok()?.checked_add(index_at(gva, level) * 8)?;
        let entry = u64::from_le_bytes(*memory.get(slot..)?.first_chunk()?);
        if entry & PRESENT == 0 {
            return None;
        }
        user &= entry & USER != 0;
        writable &= entry & WRITABLE != 0;
        executable &= entry & NO_EXECUTE == 0;
        if level == 0 || entry & LARGE != 0 {
            let length = 1 << (PAGE_BITS + LEVEL_BITS * level);
            let gva = Gva(gva.0 & !(length - 1));
            let gpa = Gpa(entry & ADDRESS & !(length - 1));
            return Some(Leaf { gva, gpa, length, user, writable, executable });
        }
        table = entry & ADDRESS;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Protection;
    use crate::paging::{Mapping, Privilege, build, table_pages};

    #[test]
    fn every_page_has_the_memory_and_rights_of_its_mapping() {
        let mapping = |gva, gpa, length, protection, privilege| Mapping {
            gva: Gva(gva),
            gpa: Gpa(gpa),
            length,
            protection,
            privilege,
            large: true,
        };
        let mappings = [
            mapping(0x5000, 0x10_0000, 0x3000, Protection::ReadExecute, Privilege::User),
            mapping(0x40_001f_f000, 0x3f_f000, 0x60_2000, Protection::ReadWrite, Privilege::User),
            mapping(0x7f_c000_0000, 0, 0x2000, Protection::Read, Privilege::Supervisor),
            mapping(0xffff_8000_0000_0000, 0, 0x1000, Protection::Read, Privilege::User),
        ];
        let root = Gpa(0x3000);
        let mut memory = vec![0; 0x3000 + table_pages(&mappings).unwrap() * 4096];
        build(&mappings, &mut memory[0x3000..], root).unwrap();
        for mapping in &mappings {
            for at in (0..mapping.length).step_by(4096) {
                let gva = Gva(mapping.gva.0 + at);
                let leaf = walk(&memory, root, gva).unwrap();
                assert_eq!(gva.0 - leaf.gva.0 + leaf.gpa.0, mapping.gpa.0 + at);
                let rights = (leaf.user, leaf.writable, leaf.executable);
                let (writable, executable) = match mapping.protection {
                    Protection::Read => (false, false),
                    Protection::ReadWrite => (true, false),
                    Protection::ReadExecute => (false, true),
                };
                assert_eq!(rights, (mapping.privilege == Privilege::User, writable, executable));
            }
            assert_eq!(walk(&memory, root, Gva(mapping.gva.0 + mapping.length)), None);
        }
        let large = walk(&memory, root, Gva(0x40_0020_0000)).unwrap();
        let before = walk(&memory, root, Gva(0x40_001f_f000)).unwrap();
        assert_eq!((before.length, large.length), (4096, 2 << 20));
        assert!(before.is_followed_by(&large) && !large.is_followed_by(&before));
    }

    #[test]
    fn odd_addresses_and_tables_lead_nowhere() {
        let mut memory = vec![0; 0x2000];
        for gva in [0, 1 << 47, 0xffff_7fff_ffff_ffff, u64::MAX] {
            assert_eq!(walk(&memory, Gpa(0), Gva(gva)), None);
        }
        for table in [0x2000, 0x1_0000_0000, ADDRESS] {
            memory[..8].copy_from_slice(&(table | PRESENT).to_le_bytes());
            assert_eq!(walk(&memory, Gpa(0), Gva(0)), None);
        }
        assert_eq!(walk(&memory, Gpa(!7), Gva(0)), None);
    }
}
