//! What each call answers, above all to what makes no sense.

use super::super::ADDRESSES_END;
use super::*;

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
fn nothing_is_mapped_where_a_backend_has_what_is_its_own() {
    let mut guest = guest_with(1000, |options| options.mmap_base = ADDRESSES_END);
    let last = ADDRESSES_END - PAGE;
    for high in [ADDRESSES_END, ADDRESSES_END + 0x1_0000, 0x7fff_fffd_0000, 0x7fff_ffff_e000] {
        assert_eq!(guest.map(high, PAGE, READ, FIXED), Err(Errno::ENOMEM), "{high:#x}");
        // A hint is but that.
        assert!(guest.map(high, PAGE, READ, ANONYMOUS).unwrap() <= last);
    }
    assert_eq!(guest.map(last, 2 * PAGE, READ, FIXED), Err(Errno::ENOMEM));
    assert_eq!(guest.map(last, PAGE, READ, FIXED), Ok(last));
    assert_eq!(guest.unmap(last, 2 * PAGE), Err(Errno::EINVAL));
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
fn areas_end_at_their_limit_also_by_splitting() {
    let mut guest = guest_with(1000, |options| options.areas = 9);
    let at = guest.map(HERE, 9 * PAGE, WRITE, FIXED).unwrap();
    assert_eq!(guest.space.areas.len(), 8);
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
