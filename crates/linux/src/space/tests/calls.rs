//! What each call answers, above all to what makes no sense.

use std::time::Instant;

use linux_raw_sys::general as raw;

use super::super::map::Request;
use super::super::{ADDRESSES_END, Faulted};
use super::*;
use crate::Errno;
use crate::call::{Answer, Stop};

struct Guest {
    machine: Machine,
    space: Space,
}

/// A guest with so many pages to give out.
fn guest_with(pages: u64, change: fn(&mut Options)) -> Guest {
    let mut options = options(pages);
    change(&mut options);
    Guest { machine: Machine::new(&options), space: Space::new(options) }
}

fn guest() -> Guest {
    guest_with(1000, |_| {})
}

const ANONYMOUS: u32 = raw::MAP_PRIVATE | raw::MAP_ANONYMOUS;
const FIXED: u32 = ANONYMOUS | raw::MAP_FIXED;
const PAGE: u64 = PAGE_SIZE;
const MIB: u64 = 1 << 20;
/// Somewhere that is free.
const HERE: u64 = ARENA.start;
const NONE: u32 = 0;
const READ: u32 = raw::PROT_READ;
const WRITE: u32 = raw::PROT_READ | raw::PROT_WRITE;
const EXECUTE: u32 = raw::PROT_READ | raw::PROT_EXEC;

impl Guest {
    fn request(
        &self,
        address: u64,
        length: u64,
        protection: u32,
        flags: u32,
    ) -> Result<Request, Errno> {
        self.space.request([address, length, u64::from(protection), u64::from(flags)])
    }

    fn map(
        &mut self,
        address: u64,
        length: u64,
        protection: u32,
        flags: u32,
    ) -> Result<u64, Errno> {
        let request = self.request(address, length, protection, flags)?;
        errno(self.space.map(&mut self.machine, request))
    }

    fn copy(
        &mut self,
        bytes: &[u8],
        length: u64,
        protection: u32,
        flags: u32,
    ) -> Result<u64, Errno> {
        let request = self.request(0, length, protection, flags)?;
        errno(self.space.map_copy(&mut self.machine, request, &mut |at, into| {
            let rest = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or(&[]);
            let count = rest.len().min(into.len());
            into[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        }))
    }

    fn unmap(&mut self, address: u64, length: u64) -> Result<u64, Errno> {
        errno(self.space.unmap(&mut self.machine, address, length))
    }

    fn protect(&mut self, address: u64, length: u64, rights: Rights) -> Result<u64, Errno> {
        errno(self.space.protect(&mut self.machine, address, length, rights))
    }

    fn remap(
        &mut self,
        address: u64,
        old: u64,
        new: u64,
        flags: u32,
        to: u64,
    ) -> Result<u64, Errno> {
        errno(self.space.remap(&mut self.machine, [address, old, new, u64::from(flags), to]))
    }

    fn advise(&mut self, address: u64, length: u64, advice: u32) -> Result<u64, Errno> {
        errno(self.space.advise(&mut self.machine, [address, length, u64::from(advice)]))
    }

    fn set_break(&mut self, to: u64) -> u64 {
        self.space.set_break(&mut self.machine, to).unwrap()
    }

    fn access(&mut self, address: u64, access: Access) -> Result<u64, Faulted> {
        self.machine.guest(&mut self.space, address, access)
    }

    /// Whether the vCPU finds it without a fault.
    fn is_there(&self, address: u64) -> bool {
        self.machine.walk(address).is_some()
    }
}

fn errno(answer: Answer) -> Result<u64, Errno> {
    answer.map_err(|stop| match stop {
        Stop::Error(error) => error,
        other => panic!("{other:?}"),
    })
}

/// Lengths that are out of the question.
const TOO_LONG: [u64; 4] = [u64::MAX, u64::MAX - PAGE + 1, ADDRESSES_END, 1 << 63];

#[test]
fn mmap_refuses_what_makes_no_sense() {
    let mut guest = guest();
    for (address, length, protection, flags, error) in [
        (0, 0, READ, ANONYMOUS, Errno::EINVAL),
        (0, PAGE, READ, raw::MAP_ANONYMOUS, Errno::EINVAL),
        (0, PAGE, READ, raw::MAP_ANONYMOUS | raw::MAP_SHARED_VALIDATE, Errno::EINVAL),
        (0, PAGE, READ, 0, Errno::EINVAL),
        (HERE + 1, PAGE, READ, FIXED, Errno::EINVAL),
        (ADDRESSES_END, PAGE, READ, FIXED, Errno::ENOMEM),
        (u64::MAX - PAGE + 1, PAGE, READ, FIXED, Errno::ENOMEM),
        (0, PAGE, READ, FIXED, Errno::EPERM),
        (0xf000, 2 * PAGE, READ, FIXED, Errno::EPERM),
        (0, PAGE, READ, ANONYMOUS | raw::MAP_HUGETLB, Errno::ENOMEM),
        (0, PAGE, EXECUTE, ANONYMOUS, Errno::EACCES),
        (0, PAGE, EXECUTE | WRITE, ANONYMOUS, Errno::EACCES),
        (0, PAGE, EXECUTE, raw::MAP_PRIVATE, Errno::EACCES),
        (0, PAGE, WRITE, raw::MAP_SHARED, Errno::ENODEV),
        (0, 1001 * PAGE, WRITE, ANONYMOUS, Errno::ENOMEM),
    ] {
        assert_eq!(
            guest.map(address, length, protection, flags),
            Err(error),
            "{address:#x} {flags:#x}"
        );
    }
    for length in TOO_LONG {
        assert_eq!(guest.map(0, length, NONE, ANONYMOUS), Err(Errno::ENOMEM));
        assert_eq!(guest.map(HERE, length, NONE, FIXED), Err(Errno::ENOMEM));
    }
    assert_eq!(guest.space.pages(), 8);
}

#[test]
fn what_is_glowboxs_own_stays_as_it_is() {
    let mut guest = guest();
    for range in [&CONTROL, &RESERVED, &(511 << 30..(511 << 30) + PAGE)] {
        let (start, length) = (range.start, range.end - range.start);
        // With and without what lies around it.
        for (start, length) in [(start, length), (start - PAGE, length + 2 * PAGE)] {
            let no_replace = ANONYMOUS | raw::MAP_FIXED_NOREPLACE;
            assert_eq!(guest.map(start, length, READ, FIXED), Err(Errno::ENOMEM));
            assert_eq!(guest.map(start, length, READ, no_replace), Err(Errno::EEXIST));
            assert_eq!(guest.unmap(start, length), Err(Errno::EINVAL));
            assert_eq!(guest.protect(start, length, RW), Err(Errno::ENOMEM));
            assert_eq!(guest.advise(start, length, raw::MADV_DONTNEED), Err(Errno::EINVAL));
            let at = guest.map(0, PAGE, WRITE, ANONYMOUS).unwrap();
            let flags = raw::MREMAP_MAYMOVE | raw::MREMAP_FIXED;
            assert_eq!(guest.remap(at, PAGE, length, flags, start), Err(Errno::EINVAL));
        }
        assert!(guest.remap(start, length, 2 * length, raw::MREMAP_MAYMOVE, 0).is_err());
        assert_ne!(guest.map(start, PAGE, READ, ANONYMOUS), Ok(start));
    }
    assert!(guest.access(CONTROL.start, Access::Write).is_ok());
    assert_eq!(guest.access(RESERVED.start, Access::Read), Err(Faulted::Absent));
}

#[test]
fn hints_are_taken_if_they_are_free() {
    let mut guest = guest();
    let high = 0xc0_0000_0000;
    assert_eq!(guest.map(high, 64 * MIB, NONE, ANONYMOUS), Ok(high));
    assert_eq!(guest.map(high + 64 * MIB - 5, PAGE, NONE, ANONYMOUS), Ok(high + 64 * MIB));
    assert_eq!(guest.map(high, PAGE, NONE, ANONYMOUS), Ok(ARENA.end - PAGE));
    assert_eq!(guest.map(u64::MAX, PAGE, NONE, ANONYMOUS), Ok(ARENA.end - 2 * PAGE));
    assert_eq!(guest.map(1, PAGE, NONE, ANONYMOUS), Ok(ARENA.end - 3 * PAGE));
    // Larger than what is free below the base.
    let large = guest.map(0, 1 << 46, NONE, ANONYMOUS).unwrap();
    assert!(large >= high && large + (1 << 46) <= ADDRESSES_END);
    let low = guest.map(0, PAGE, NONE, ANONYMOUS | raw::MAP_32BIT).unwrap();
    assert!(low < 1 << 31);
    let taken = guest.map(high, PAGE, NONE, ANONYMOUS | raw::MAP_FIXED_NOREPLACE);
    assert_eq!(taken, Err(Errno::EEXIST));
}

#[test]
fn reservations_take_no_memory() {
    let mut guest = guest();
    let before = guest.space.pages();
    let reserved = guest.map(0, 1 << 40, NONE, ANONYMOUS).unwrap();
    guest.map(0, 1 << 40, WRITE, ANONYMOUS | raw::MAP_NORESERVE).unwrap();
    guest.map(0, 3 * MIB, WRITE, ANONYMOUS).unwrap();
    assert_eq!(guest.space.pages(), before);
    assert_eq!(guest.access(reserved, Access::Read), Err(Faulted::Denied));
    // What is made usable is, as Go does it and as glibc does.
    guest.map(reserved, 8 * PAGE, WRITE, FIXED).unwrap();
    guest.protect(reserved + 8 * PAGE, 8 * PAGE, RW).unwrap();
    assert!(guest.is_there(reserved) && guest.is_there(reserved + 15 * PAGE));
    assert!(!guest.is_there(reserved + 16 * PAGE));
}

#[test]
fn small_memory_is_there_at_once_and_large_by_chunks_that_grow() {
    let mut guest = guest_with(4000, |_| {});
    let small = guest.map(0, 256 << 10, WRITE, ANONYMOUS).unwrap();
    assert!(guest.is_there(small) && guest.is_there(small + (255 << 10)));
    let base = 0x9000_0000;
    guest.map(base, 12 * MIB, WRITE, ANONYMOUS).unwrap();
    let (mut faults, mut next) = (Vec::new(), base);
    while next < base + 12 * MIB {
        if !guest.is_there(next) {
            faults.push((next - base) >> 10);
        }
        guest.access(next, Access::Write).unwrap();
        next += PAGE;
    }
    // In KiB: by 256, 512, 1024, 2048, 2048 and so on.
    assert_eq!(faults, [0, 256, 768, 1792, 3840, 5888, 7936, 9984, 12032]);
    let populated = guest.map(0, 2 * MIB, READ, ANONYMOUS | raw::MAP_POPULATE).unwrap();
    assert!(guest.is_there(populated) && guest.is_there(populated + 2 * MIB - PAGE));
}

#[test]
fn a_stack_that_grows_downwards_is_populated_by_chunks_that_grow() {
    let mut guest = guest_with(4000, |_| {});
    let base = 0x9000_0000;
    guest.map(base, 8 * MIB, WRITE, ANONYMOUS).unwrap();
    let touched = pages(&(base..base + 8 * MIB)).collect::<Vec<_>>().into_iter().rev();
    let faults = touched.filter(|&page| {
        let fault = !guest.is_there(page);
        guest.access(page, Access::Write).unwrap();
        fault
    });
    assert_eq!(faults.count(), 7);
}

#[test]
fn memory_ends_at_its_limit_to_the_last_page() {
    let mut guest = guest_with(70, |_| {});
    let at = guest.map(0, 100 * PAGE, WRITE, ANONYMOUS | raw::MAP_NORESERVE).unwrap();
    let touched = pages(&(at..at + 100 * PAGE));
    let got = touched.take_while(|&page| guest.access(page, Access::Write).is_ok()).count();
    let tables = guest.space.frames.tables().len();
    assert_eq!((got + tables, guest.space.frames.available()), (70, 0));
    let next = at + got as u64 * PAGE;
    assert_eq!(guest.access(next, Access::Write), Err(Faulted::OutOfMemory));
    let result = guest.space.write(&mut guest.machine, next, &[1]);
    assert!(matches!(result, Err(Stop::OutOfMemory(_))));
    let pieces = guest.space.pieces(&mut guest.machine, next - PAGE, 2 * PAGE, true).unwrap();
    assert_eq!(pieces.iter().map(|piece| piece.len()).sum::<usize>(), 4096);
    // What is given back can be had again, and is zero.
    guest.space.write(&mut guest.machine, at, &[7]).unwrap();
    assert_eq!(guest.advise(at, PAGE, raw::MADV_DONTNEED), Ok(0));
    let frame = guest.access(next, Access::Read).unwrap();
    assert_eq!(guest.machine.page(frame), [0; 4096]);
    assert_eq!(guest.access(at, Access::Read), Err(Faulted::OutOfMemory));
}

#[test]
fn areas_end_at_their_limit_also_by_splitting() {
    let mut guest = guest_with(1000, |options| options.areas = 8);
    let at = guest.map(HERE, 9 * PAGE, WRITE, FIXED).unwrap();
    assert_eq!(guest.space.areas.len(), 7);
    assert_eq!(guest.unmap(at + PAGE, PAGE), Ok(0));
    assert_eq!(guest.unmap(at + 3 * PAGE, PAGE), Err(Errno::ENOMEM));
    assert_eq!(guest.protect(at + 3 * PAGE, PAGE, R), Err(Errno::ENOMEM));
    assert_eq!(guest.map(0, PAGE, WRITE, ANONYMOUS), Err(Errno::ENOMEM));
    assert_eq!(guest.set_break(BREAK + PAGE), BREAK);
    assert_eq!(guest.remap(at, PAGE, 2 * PAGE, raw::MREMAP_MAYMOVE, 0), Err(Errno::ENOMEM));
    assert_eq!(guest.unmap(at, PAGE), Ok(0));
    assert_eq!(guest.protect(at + 2 * PAGE, PAGE, R), Ok(0));
}

#[test]
fn munmap_and_mprotect_refuse_what_makes_no_sense() {
    let mut guest = guest();
    guest.map(HERE, 4 * PAGE, WRITE, FIXED).unwrap();
    assert_eq!(guest.unmap(HERE + 1, PAGE), Err(Errno::EINVAL));
    assert_eq!(guest.unmap(HERE, 0), Err(Errno::EINVAL));
    assert_eq!(guest.unmap(ADDRESSES_END, PAGE), Err(Errno::EINVAL));
    assert_eq!(guest.unmap(HERE + 16 * PAGE, PAGE), Ok(0));
    assert_eq!(guest.protect(HERE + 1, PAGE, R), Err(Errno::EINVAL));
    assert_eq!(guest.protect(HERE, 0, R), Ok(0));
    assert_eq!(guest.protect(HERE, 5 * PAGE, R), Err(Errno::ENOMEM));
    assert_eq!(guest.protect(0, PAGE, R), Err(Errno::ENOMEM));
    for length in TOO_LONG {
        assert_eq!(guest.unmap(HERE, length), Err(Errno::EINVAL));
        assert_eq!(guest.protect(HERE, length, R), Err(Errno::ENOMEM));
    }
    // A length is rounded up.
    assert_eq!(guest.unmap(HERE, 1), Ok(0));
    assert_eq!(guest.access(HERE, Access::Read), Err(Faulted::Absent));
    assert!(guest.access(HERE + PAGE, Access::Write).is_ok());
}

#[test]
fn nothing_becomes_executable_without_jit() {
    let mut guest = guest();
    let at = guest.map(HERE, PAGE, WRITE, FIXED).unwrap();
    assert_eq!(guest.protect(at, PAGE, RX), Err(Errno::EACCES));
    assert_eq!(guest.protect(at, PAGE, RWX), Err(Errno::EACCES));
    assert_eq!(guest.protect(TEXT.start, PAGE, RWX), Err(Errno::EACCES));
    assert_eq!(guest.protect(TEXT.start, DATA.end - TEXT.start, RX), Err(Errno::EACCES));
    assert_eq!(guest.protect(TEXT.start, PAGE, RX), Ok(0));
    assert!(guest.access(TEXT.start, Access::Execute).is_ok());
    assert_eq!(guest.protect(TEXT.start, PAGE, RW), Ok(0));
    assert_eq!(guest.access(TEXT.start, Access::Execute), Err(Faulted::Denied));
    assert_eq!(guest.protect(TEXT.start, PAGE, RX), Err(Errno::EACCES));
    // Nor does memory grow that is.
    let (old, new) = (PAGE, 2 * PAGE);
    let text = TEXT.start + 2 * PAGE;
    assert_eq!(guest.remap(text, old, new, raw::MREMAP_MAYMOVE, 0), Err(Errno::ENOMEM));
}

#[test]
fn with_jit_all_rights_can_be_had() {
    let mut guest = guest_with(1000, |options| options.allow_jit = true);
    let at = guest.map(0, PAGE, EXECUTE | WRITE, ANONYMOUS).unwrap();
    assert!(guest.access(at, Access::Write).is_ok() && guest.access(at, Access::Execute).is_ok());
    assert_eq!(guest.protect(at, PAGE, RX), Ok(0));
    assert_eq!(guest.access(at, Access::Write), Err(Faulted::Denied));
    assert_eq!(guest.protect(DATA.start, PAGE, RX), Ok(0));
    assert!(guest.access(DATA.start, Access::Execute).is_ok());
}

#[test]
fn mremap_refuses_what_makes_no_sense() {
    let (may_move, fixed) = (raw::MREMAP_MAYMOVE, raw::MREMAP_MAYMOVE | raw::MREMAP_FIXED);
    let mut guest = guest();
    let at = guest.map(HERE, 4 * PAGE, WRITE, FIXED).unwrap();
    guest.map(at + 4 * PAGE, PAGE, READ, FIXED).unwrap();
    for (address, old, new, flags, to, error) in [
        (at + 1, PAGE, PAGE, may_move, 0, Errno::EINVAL),
        (at, 0, PAGE, may_move, 0, Errno::EINVAL),
        (at, PAGE, 0, may_move, 0, Errno::EINVAL),
        (at, PAGE, PAGE, raw::MREMAP_FIXED, at + MIB, Errno::EINVAL),
        (at, PAGE, PAGE, may_move | raw::MREMAP_DONTUNMAP, 0, Errno::EINVAL),
        (at, PAGE, PAGE, 8, 0, Errno::EINVAL),
        (at, PAGE, PAGE, fixed, at + 1, Errno::EINVAL),
        (at, 2 * PAGE, PAGE, fixed, at + PAGE, Errno::EINVAL),
        (at, PAGE, PAGE, fixed, ADDRESSES_END, Errno::EINVAL),
        (at, PAGE, PAGE, fixed, u64::MAX - PAGE + 1, Errno::EINVAL),
        (at, PAGE, PAGE, fixed, 0, Errno::EPERM),
        (at, 5 * PAGE, 6 * PAGE, may_move, 0, Errno::EFAULT),
        (at + MIB / 2, PAGE, PAGE, may_move, 0, Errno::EFAULT),
        (at, 4 * PAGE, 5 * PAGE, 0, 0, Errno::ENOMEM),
        (at, 4 * PAGE, 2000 * PAGE, may_move, 0, Errno::ENOMEM),
    ] {
        assert_eq!(
            guest.remap(address, old, new, flags, to),
            Err(error),
            "{old:#x} {new:#x} {flags}"
        );
    }
    for length in TOO_LONG {
        assert!(guest.remap(at, length, PAGE, may_move, 0).is_err());
        assert!(guest.remap(at, PAGE, length, may_move, 0).is_err());
        assert!(guest.remap(at, PAGE, length, fixed, at + MIB / 2).is_err());
    }
}

#[test]
fn mremap_moves_frames_and_copies_nothing() {
    let mut guest = guest();
    let at = guest.map(HERE, 4 * PAGE, WRITE, FIXED).unwrap();
    guest.map(at + 4 * PAGE, PAGE, READ, FIXED).unwrap();
    guest.space.write(&mut guest.machine, at, b"moved").unwrap();
    let frame = guest.access(at, Access::Write).unwrap();
    let moved = guest.remap(at, 4 * PAGE, 8 * PAGE, raw::MREMAP_MAYMOVE, 0).unwrap();
    assert_ne!(moved, at);
    assert_eq!(guest.access(at, Access::Read), Err(Faulted::Absent));
    assert_eq!(guest.access(moved, Access::Write), Ok(frame));
    assert!(guest.is_there(moved + 7 * PAGE));
    // It shrinks and grows in place, and what has grown is zero.
    guest.space.write(&mut guest.machine, moved + 7 * PAGE, b"gone").unwrap();
    assert_eq!(guest.remap(moved, 8 * PAGE, 2 * PAGE, 0, 0), Ok(moved));
    assert_eq!(guest.access(moved + 2 * PAGE, Access::Read), Err(Faulted::Absent));
    assert_eq!(guest.remap(moved, 2 * PAGE, 8 * PAGE, 0, 0), Ok(moved));
    let grown = guest.access(moved + 7 * PAGE, Access::Read).unwrap();
    assert_eq!(guest.machine.page(grown), [0; 4096]);
    // To a certain place, in place of what is there.
    let flags = raw::MREMAP_MAYMOVE | raw::MREMAP_FIXED;
    assert_eq!(guest.remap(moved, 8 * PAGE, 5 * PAGE, flags, at), Ok(at));
    assert_eq!(guest.access(at, Access::Write), Ok(frame));
    assert!(guest.access(at + 4 * PAGE, Access::Write).is_ok());
    assert_eq!(guest.access(moved + 7 * PAGE, Access::Read), Err(Faulted::Absent));
}

#[test]
fn madvise_and_mincore_refuse_what_makes_no_sense() {
    let mut guest = guest();
    let at = guest.map(HERE, 4 * PAGE, WRITE, FIXED).unwrap();
    assert_eq!(guest.advise(at + 1, PAGE, raw::MADV_DONTNEED), Err(Errno::EINVAL));
    assert_eq!(guest.advise(at, u64::MAX, raw::MADV_DONTNEED), Err(Errno::EINVAL));
    assert_eq!(guest.advise(at, 1 << 62, raw::MADV_DONTNEED), Err(Errno::ENOMEM));
    assert_eq!(guest.advise(at, 5 * PAGE, raw::MADV_DONTNEED), Err(Errno::ENOMEM));
    assert_eq!(guest.advise(at, 0, raw::MADV_DONTNEED), Ok(0));
    for advice in [5, 6, 7, raw::MADV_REMOVE, raw::MADV_HWPOISON, 1000, u32::MAX] {
        assert_eq!(guest.advise(at, PAGE, advice), Err(Errno::EINVAL), "{advice}");
    }
    for advice in [raw::MADV_HUGEPAGE, raw::MADV_NOHUGEPAGE, raw::MADV_WILLNEED, raw::MADV_COLD] {
        assert_eq!(guest.advise(at, PAGE, advice), Ok(0));
    }
    // The program's own data does not read as zero afterwards, so it is not said to.
    assert_eq!(guest.advise(DATA.start, PAGE, raw::MADV_DONTNEED), Err(Errno::EINVAL));
    assert_eq!(guest.space.in_core(at + 1, PAGE), Err(Errno::EINVAL));
    assert_eq!(guest.space.in_core(at, 5 * PAGE), Err(Errno::ENOMEM));
    assert_eq!(guest.space.in_core(at, u64::MAX), Err(Errno::ENOMEM));
    assert_eq!(guest.advise(at, 4 * PAGE, raw::MADV_POPULATE_READ), Ok(0));
    assert_eq!(guest.advise(at + PAGE, PAGE, raw::MADV_FREE), Ok(0));
    assert_eq!(guest.space.in_core(at, 4 * PAGE), Ok(vec![1, 0, 1, 1]));
    assert_eq!(guest.advise(at, 4 * PAGE, raw::MADV_POPULATE_WRITE), Ok(0));
    assert_eq!(guest.space.in_core(at, 4 * PAGE), Ok(vec![1; 4]));
    assert_eq!(errno(guest.space.check_mapped(at + 5, 4 * PAGE)), Err(Errno::ENOMEM));
    assert_eq!(errno(guest.space.check_mapped(at + 5, u64::MAX)), Err(Errno::ENOMEM));
    assert_eq!(errno(guest.space.check_mapped(at + 5, 3 * PAGE)), Ok(0));
}

#[test]
fn the_program_break_goes_as_far_as_it_can() {
    let mut guest = guest();
    assert_eq!(guest.set_break(0), BREAK);
    assert_eq!(guest.set_break(u64::MAX), BREAK);
    assert_eq!(guest.set_break(BREAK_LIMIT + 1), BREAK);
    assert_eq!(guest.set_break(BREAK - 1), BREAK);
    assert_eq!(guest.set_break(BREAK + 1), BREAK + 1);
    assert_eq!(guest.access(BREAK, Access::Write), Err(Faulted::Absent), "no page was added");
    assert_eq!(guest.set_break(BREAK + 3 * PAGE), BREAK + 3 * PAGE);
    let frame = guest.access(BREAK + 3 * PAGE, Access::Write).unwrap();
    guest.machine.page_mut(frame).fill(1);
    assert_eq!(guest.set_break(BREAK), BREAK);
    assert_eq!(guest.access(BREAK + 3 * PAGE, Access::Write), Err(Faulted::Absent));
    assert_eq!(guest.set_break(BREAK + 3 * PAGE), BREAK + 3 * PAGE);
    let frame = guest.access(BREAK + 3 * PAGE, Access::Read).unwrap();
    assert_eq!(guest.machine.page(frame), [0; 4096]);
    // Something is in the way.
    let above = (BREAK + 8 * PAGE) & !(PAGE - 1);
    guest.map(above, PAGE, READ, FIXED).unwrap();
    assert_eq!(guest.set_break(BREAK_LIMIT), BREAK + 3 * PAGE);
    // More than there is.
    let mut guest = guest_with(100, |_| {});
    assert_eq!(guest.set_break(BREAK_LIMIT), BREAK);
}

#[test]
fn a_mapped_file_is_copied_and_ends_in_zeros() {
    let mut guest = guest();
    let file: Vec<u8> = (0..70_000u32).map(|at| at.to_le_bytes()[0] | 1).collect();
    for (protection, flags) in
        [(READ, raw::MAP_PRIVATE), (WRITE, raw::MAP_PRIVATE), (READ, raw::MAP_SHARED)]
    {
        let at = guest.copy(&file, 80_000, protection, flags).unwrap();
        let mut bytes = vec![1; 20 * 4096];
        guest.space.read(&mut guest.machine, at, &mut bytes).unwrap();
        assert!(bytes[..70_000] == file && bytes[70_000..].iter().all(|&byte| byte == 0));
        let writable = guest.protect(at, PAGE, RW);
        assert_eq!(writable.is_ok(), flags == raw::MAP_PRIVATE);
        guest.unmap(at, 80_000).unwrap();
    }
    assert_eq!(guest.copy(&file, 0, READ, raw::MAP_PRIVATE), Err(Errno::EINVAL));
    let before = guest.space.areas.len();
    let mut small = guest_with(16, |_| {});
    assert_eq!(small.copy(&file, 70_000, READ, raw::MAP_PRIVATE), Err(Errno::ENOMEM));
    assert_eq!(small.space.areas.len(), before, "what was mapped is gone again");
    // A file that can't be read leaves what is there as it is.
    let request = guest.request(DATA.start, PAGE, READ, raw::MAP_PRIVATE | raw::MAP_FIXED).unwrap();
    let result = guest.space.map_copy(&mut guest.machine, request, &mut |_, _| Err(Errno::EBADF));
    assert_eq!(errno(result), Err(Errno::EBADF));
    assert!(guest.access(DATA.start, Access::Write).is_ok());
}

#[test]
fn the_host_touches_only_what_the_guest_may() {
    let mut guest = guest();
    let Guest { machine, space } = &mut guest;
    let mut byte = [0];
    for address in [0, 0xfff, ARENA.start, RESERVED.start, 511 << 30, 1 << 47, u64::MAX] {
        let fault = |result: Result<(), Stop>| matches!(result, Err(Stop::Error(Errno::EFAULT)));
        assert!(fault(space.read(machine, address, &mut byte)), "{address:#x}");
        assert!(fault(space.write(machine, address, &byte)), "{address:#x}");
        assert!(fault(space.read_string(machine, address, 10).map(drop)), "{address:#x}");
        for length in [1, u64::MAX] {
            assert!(fault(space.pieces(machine, address, length, false).map(drop)));
        }
        assert_eq!(space.pieces(machine, address, 0, false).unwrap(), []);
        space.read(machine, address, &mut []).unwrap();
    }
    assert!(space.write(machine, TEXT.start, &byte).is_err(), "code is not written to");
    space.read(machine, TEXT.start, &mut byte).unwrap();
    // As much as is there.
    let pieces = space.pieces(machine, DATA.start + 5, u64::MAX, true).unwrap();
    assert_eq!(pieces, [0x2_3005..0x2_8000]);
    space.write(machine, DATA.end - 3, b"abc").unwrap();
    assert!(space.write(machine, DATA.end - 3, b"abcd").is_err());
    assert!(matches!(
        space.read_string(machine, DATA.end - 3, 3),
        Err(Stop::Error(Errno::ENAMETOOLONG))
    ));
    assert!(matches!(space.read_string(machine, DATA.end - 3, 4), Err(Stop::Error(Errno::EFAULT))));
    assert_eq!(space.read_string(machine, DATA.end - PAGE, 4096).unwrap(), b"");
    space.write(machine, DATA.end - PAGE - 2, b"name\0").unwrap();
    assert_eq!(space.read_string(machine, DATA.end - PAGE - 2, 10).unwrap(), b"name");
}

#[test]
fn forgetting_is_done_once_for_frames_that_lie_together() {
    let mut guest = guest();
    let at = guest.map(0, 64 * PAGE, WRITE, ANONYMOUS).unwrap();
    // Split into many areas, of one stretch of frames.
    for page in pages(&(at..at + 64 * PAGE)).step_by(4) {
        guest.protect(page, PAGE, R).unwrap();
    }
    guest.machine.forgotten = 0;
    guest.unmap(at, 64 * PAGE).unwrap();
    assert_eq!(guest.machine.forgotten, 1);
    // What was never accessible is not known to the vCPU.
    guest.map(HERE, MIB, NONE, FIXED).unwrap();
    guest.unmap(HERE, MIB).unwrap();
    assert_eq!(guest.machine.forgotten, 1);
}

#[test]
fn a_table_outside_of_memory_is_an_error() {
    for entry in [u64::MAX & !(1 << 7), 0x000f_ffff_ffff_f000 | 0x27, 0x27 | 1 << 40, 0xa7] {
        let mut guest = guest();
        guest.map(HERE, MIB, WRITE, FIXED).unwrap();
        guest.machine.page_mut(ROOT)[..8].copy_from_slice(&entry.to_le_bytes());
        assert!(guest.space.fault(&mut guest.machine, HERE, 6).is_err(), "{entry:#x}");
    }
}

/// Not a promise, but good to see: `cargo test --release -- --nocapture populating`.
#[test]
fn populating_many_pages_takes_few_steps() {
    let mut guest = guest_with(20_000, |_| {});
    let start = Instant::now();
    let at = guest.map(0, 64 * MIB, WRITE, ANONYMOUS | raw::MAP_POPULATE).unwrap();
    println!("populating 64 MiB: {:?}", start.elapsed());
    let start = Instant::now();
    guest.protect(at, 64 * MIB, R).unwrap();
    guest.unmap(at, 64 * MIB).unwrap();
    println!("protecting and unmapping them: {:?}", start.elapsed());
    let start = Instant::now();
    let copy = guest.space.clone();
    println!("copying the address space: {:?}", start.elapsed());
    assert_eq!(copy.runs.iter().count(), 3);
}
