//! What of guest memory is mapped in a guest's process: a cache of the guest's page tables, as a TLB is.
//!
//! A page fault looks the address up in the tables; what they allow is mapped, as far as it goes on in the
//! same way, and what they do not is the guest's fault. What the tables say less of than before is unmapped
//! when the host says so, before the guest runs again.

use std::ops::Range;

use glowbox_core::address::{Gpa, Gva, PAGE_SIZE};
use glowbox_core::paging::{Leaf, walk};

use super::stub::{self, Call};

/// Most entries of page tables that one mapping is made of, in each direction.
const REACH: usize = 2048;

/// Mappings that are taken away one by one; of more, all are.
const MOST_AT_ONCE: usize = 32;
/// Most mappings.
const MOST: usize = 16_384;

/// What is mapped.
#[derive(Debug, Default)]
pub(super) struct Translations {
    /// In no order; none overlap.
    mapped: Vec<Leaf>,
}

/// Where memory behind an address lies: a descriptor of the process's, or none for zeros, and an offset.
pub(super) type Source = (Option<u64>, u64);

impl Translations {
    /// The entry for an address, and whatever goes on before and behind it in the same way, as far as that
    /// can be mapped. `None` if ring 3 may not use the address.
    pub(super) fn extent(memory: &[u8], root: Gpa, address: u64) -> Option<Leaf> {
        let usable = |address: u64| {
            let leaf = walk(memory, root, Gva(address))?;
            let end = leaf.gva.0.checked_add(leaf.length)?;
            let is_stubs = leaf.gva.0 < stub::AREA.end && end > stub::AREA.start;
            (leaf.user && end <= stub::END && !is_stubs).then_some(leaf)
        };
        let mut extent = usable(address)?;
        for _ in 0..REACH {
            let next = usable(extent.gva.0 + extent.length);
            let Some(next) = next.filter(|next| extent.is_followed_by(next)) else { break };
            extent.length += next.length;
        }
        for _ in 0..REACH {
            let before = extent.gva.0.checked_sub(PAGE_SIZE).and_then(usable);
            let Some(before) = before.filter(|before| before.is_followed_by(&extent)) else {
                break;
            };
            (extent.gva, extent.gpa) = (before.gva, before.gpa);
            extent.length += before.length;
        }
        Some(extent)
    }

    /// Whether an address is mapped as this entry, or what it is a part of, says.
    pub(super) fn has(&self, address: u64, leaf: &Leaf) -> bool {
        let gpa = address.wrapping_sub(leaf.gva.0).wrapping_add(leaf.gpa.0);
        self.mapped.iter().any(|extent| {
            let into = address.wrapping_sub(extent.gva.0);
            into < extent.length && extent.gpa.0 + into == gpa && extent.has_rights_of(leaf)
        })
    }

    /// Maps what a part of an extent leads to; returns the call that does it.
    pub(super) fn map(&mut self, extent: Leaf, (file, offset): Source) -> Call {
        self.cut(extent.gva.0..extent.gva.0 + extent.length);
        self.mapped.push(extent);
        let mut rights = libc::PROT_READ;
        if extent.writable {
            rights |= libc::PROT_WRITE;
        }
        if extent.executable {
            rights |= libc::PROT_EXEC;
        }
        let kind = match file {
            Some(stub::MEMORY) => libc::MAP_SHARED,
            Some(_) => libc::MAP_PRIVATE,
            None => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        };
        let flags = kind | libc::MAP_FIXED | libc::MAP_NORESERVE;
        let (rights, flags) = (stub::word(rights), stub::word(flags));
        let file = file.unwrap_or(u64::MAX);
        (libc::SYS_mmap, [extent.gva.0, extent.length, rights, flags, file, offset])
    }

    /// Forgets what leads to this memory; returns the calls that unmap it.
    pub(super) fn forget(&mut self, memory: Range<u64>) -> Vec<Call> {
        let mut calls = Vec::new();
        let hit = |extent: &Leaf| {
            let end = extent.gpa.0 + extent.length;
            let (start, end) = (memory.start.max(extent.gpa.0), memory.end.min(end));
            let gva = |gpa: u64| gpa - extent.gpa.0 + extent.gva.0;
            (start < end).then(|| gva(start)..gva(end))
        };
        let found: Vec<Range<u64>> = self.mapped.iter().filter_map(hit).collect();
        if found.len() > MOST_AT_ONCE {
            return self.forget_all();
        }
        for range in found {
            // Whole pages, whatever was asked for.
            let start = range.start & !(PAGE_SIZE - 1);
            let end = range.end.next_multiple_of(PAGE_SIZE);
            self.cut(start..end);
            calls.push((libc::SYS_munmap, [start, end - start, 0, 0, 0, 0]));
        }
        calls
    }

    /// Forgets everything; returns the calls that unmap it.
    pub(super) fn forget_all(&mut self) -> Vec<Call> {
        if self.mapped.is_empty() {
            return Vec::new();
        }
        self.mapped.clear();
        let unmap = |range: Range<u64>| {
            (libc::SYS_munmap, [range.start, range.end - range.start, 0, 0, 0, 0])
        };
        [0..stub::AREA.start, stub::AREA.end..stub::END].map(unmap).to_vec()
    }

    /// Whether so much is mapped that it is better to begin anew: a process has but 65,530 mappings, and a
    /// guest may have as many as it likes.
    pub(super) fn are_too_many(&self) -> bool {
        self.mapped.len() >= MOST
    }

    /// Takes addresses out of what is known as mapped.
    fn cut(&mut self, range: Range<u64>) {
        let mut rest = Vec::new();
        self.mapped.retain(|extent| {
            let all = extent.gva.0..extent.gva.0 + extent.length;
            if all.end <= range.start || range.end <= all.start {
                return true;
            }
            for part in [all.start..range.start, range.end..all.end] {
                if part.start < part.end {
                    let gpa = Gpa(part.start - all.start + extent.gpa.0);
                    let length = part.end - part.start;
                    rest.push(Leaf { gva: Gva(part.start), gpa, length, ..*extent });
                }
            }
            false
        });
        self.mapped.extend(rest);
    }
}

#[cfg(test)]
mod tests {
    use glowbox_core::address::Protection;
    use glowbox_core::paging::{Mapping, Privilege, build, table_pages};

    use super::*;

    const ROOT: Gpa = Gpa(0);

    fn memory(mappings: &[(u64, u64, u64, Protection, Privilege)]) -> Vec<u8> {
        let mappings: Vec<Mapping> = mappings
            .iter()
            .map(|(gva, gpa, length, protection, privilege)| Mapping {
                gva: Gva(*gva),
                gpa: Gpa(*gpa),
                length: *length,
                protection: *protection,
                privilege: *privilege,
                large: true,
            })
            .collect();
        let mut memory = vec![0; table_pages(&mappings).unwrap() * 4096];
        build(&mappings, &mut memory, ROOT).unwrap();
        memory
    }

    #[test]
    fn an_extent_is_all_that_goes_on_in_the_same_way() {
        let (user, read_write) = (Privilege::User, Protection::ReadWrite);
        let memory = memory(&[
            (0x1f_f000, 0x1f_f000, 0x40_2000, read_write, user),
            (0x60_1000, 0x60_1000, 0x1000, Protection::Read, user),
            (0x60_2000, 0x70_0000, 0x1000, Protection::Read, user),
            (0x70_0000, 0x70_0000, 0x1000, read_write, Privilege::Supervisor),
        ]);
        for address in [0x1f_f000, 0x20_0000, 0x5f_ffff, 0x60_0fff] {
            let extent = Translations::extent(&memory, ROOT, address).unwrap();
            assert_eq!((extent.gva, extent.gpa), (Gva(0x1f_f000), Gpa(0x1f_f000)));
            assert_eq!(extent.length, 0x40_2000);
        }
        for (address, gpa) in [(0x60_1000, 0x60_1000), (0x60_2fff, 0x70_0000)] {
            let extent = Translations::extent(&memory, ROOT, address).unwrap();
            assert_eq!((extent.gpa, extent.length), (Gpa(gpa), 0x1000));
        }
        for address in [0, 0x60_3000, 0x70_0000, u64::MAX, 1 << 47] {
            assert_eq!(Translations::extent(&memory, ROOT, address), None);
        }
    }

    #[test]
    fn what_the_stub_has_is_never_the_guests() {
        let user = Privilege::User;
        let start = stub::AREA.start - 0x1000;
        let memory = memory(&[
            (start, 0x10_0000, 0x3000, Protection::ReadWrite, user),
            (0x7fff_ffff_e000, 0x20_0000, 0x2000, Protection::Read, user),
            (0xffff_8000_0000_0000, 0x30_0000, 0x1000, Protection::Read, user),
        ]);
        let extent = Translations::extent(&memory, ROOT, start).unwrap();
        assert_eq!(extent.length, 0x1000);
        assert_eq!(Translations::extent(&memory, ROOT, start + 0x1000), None);
        assert_eq!(Translations::extent(&memory, ROOT, 0x7fff_ffff_f000), None);
        assert_eq!(Translations::extent(&memory, ROOT, 0xffff_8000_0000_0000), None);
        assert!(Translations::extent(&memory, ROOT, 0x7fff_ffff_e000).is_some());
    }

    #[test]
    fn what_is_forgotten_is_unmapped_and_the_rest_stays() {
        let extent = |gva, gpa, length| Leaf {
            gva: Gva(gva),
            gpa: Gpa(gpa),
            length,
            user: true,
            writable: true,
            executable: false,
        };
        let mut translations = Translations::default();
        let whole = extent(0x10_0000, 0x5000, 0x4000);
        let (number, arguments) = translations.map(whole, (Some(stub::MEMORY), 0x5000));
        assert_eq!((number, arguments[0], arguments[5]), (libc::SYS_mmap, 0x10_0000, 0x5000));
        assert!(translations.has(0x10_3fff, &whole));
        assert!(!translations.has(0x10_4000, &whole));
        assert!(!translations.has(0x10_3fff, &Leaf { writable: false, ..whole }));
        assert!(!translations.has(0x10_3fff, &extent(0x10_0000, 0x6000, 0x4000)));
        assert!(translations.forget(0..0x5000).is_empty());
        let calls = translations.forget(0x6010..0x6020);
        assert_eq!(calls, [(libc::SYS_munmap, [0x10_1000, 0x1000, 0, 0, 0, 0])]);
        let there: Vec<bool> =
            (0..4).map(|page| translations.has(0x10_0000 + page * 0x1000, &whole)).collect();
        assert_eq!(there, [true, false, true, true]);
        // What is mapped over something takes its place.
        translations.map(extent(0x10_2000, 0x9000, 0x1000), (Some(stub::MEMORY), 0x9000));
        assert!(!translations.has(0x10_2000, &whole));
        assert_eq!(translations.forget(0..u64::MAX).len(), 3);
        assert!(translations.mapped.is_empty() && translations.forget_all().is_empty());
        // Of very many all are taken away, by two calls around the stub.
        for page in 0..100 {
            let at = 0x10_0000 + page * 0x2000;
            translations.map(extent(at, at, 0x1000), (Some(stub::MEMORY), at));
        }
        let calls = translations.forget(0x11_0000..u64::MAX);
        let [(_, [0, low, ..]), (_, [above, ..])] = calls[..] else { panic!("{calls:x?}") };
        assert_eq!((low, above), (stub::AREA.start, stub::AREA.end));
        assert!(!translations.has(0x10_0000, &extent(0x10_0000, 0x10_0000, 0x1000)));
    }
}
