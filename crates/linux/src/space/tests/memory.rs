//! When memory gets frames and loses them, and what the host sees of it.

use std::time::Instant;

use super::*;

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
    let mut file = Fixed { parts: vec![], reads: 0 };
    let result = guest.space.map_copy(&mut guest.machine, request, &mut file);
    assert_eq!(errno(result), Err(Errno::EBADF));
    assert!(guest.access(DATA.start, Access::Write).is_ok());
}

#[test]
fn holes_of_a_mapped_file_get_memory_when_they_are_touched() {
    let mut guest = guest();
    let parts: Vec<(u64, &[u8])> = vec![(0, b""), (PAGE + 1, b"one"), (1 << 40, b"two")];
    let mut file = Fixed { parts, reads: 0 };
    let before = guest.space.pages();
    let at = guest.copy_file(&mut file, 1 << 46, READ, raw::MAP_PRIVATE).unwrap();
    let tables = guest.space.tables_added() as u64;
    assert_eq!((guest.space.pages() - before - tables, file.reads), (2, 3));
    let mut bytes = [9; 6];
    for (offset, expected) in [(PAGE, b"\0one\0\0"), (1 << 40, b"two\0\0\0")] {
        guest.space.read(&mut guest.machine, at + offset, &mut bytes).unwrap();
        assert_eq!(&bytes, expected);
    }
    guest.space.read(&mut guest.machine, at + (1 << 45), &mut bytes).unwrap();
    assert_eq!(bytes, [0; 6]);
    guest.unmap(at, 1 << 46).unwrap();
    // What is too much is noticed before it is read.
    let large = vec![1; 990 * 4096];
    let mut file = Fixed { parts: vec![(0, &large), (1 << 40, &large)], reads: 0 };
    let pages = |guest: &Guest| guest.space.pages() - guest.space.tables_added() as u64;
    let before = pages(&guest);
    assert_eq!(guest.copy_file(&mut file, 1 << 46, READ, raw::MAP_PRIVATE), Err(Errno::ENOMEM));
    assert_eq!((pages(&guest), file.reads), (before, 1));
    // And a guest that is to stop does not wait until all is there.
    file.reads = 0;
    guest.machine.patience.set(10);
    assert_eq!(guest.copy_file(&mut file, 990 * PAGE, READ, raw::MAP_PRIVATE), Err(Errno::EINTR));
    assert!(file.reads < 10 && pages(&guest) == before);
}

#[test]
fn scattered_frames_are_forgotten_at_once() {
    let mut guest = guest_with(4000, |options| options.mmap_base = super::super::MMAP_BASE);
    let at = guest.map(0, 2000 * PAGE, WRITE, ANONYMOUS | raw::MAP_POPULATE).unwrap();
    // Every other page goes: no frames that are left are neighbours.
    for page in (0..1400).step_by(2) {
        guest.advise(at + page * PAGE, PAGE, raw::MADV_DONTNEED).unwrap();
    }
    let before = guest.machine.forgotten;
    guest.protect(at, 1000 * PAGE, R).unwrap();
    assert_eq!(guest.machine.forgotten, before + 500, "few are forgotten one by one");
    guest.protect(at, 1400 * PAGE, RW).unwrap();
    let before = guest.machine.forgotten;
    guest.protect(at, 1400 * PAGE, R).unwrap();
    assert_eq!(guest.machine.forgotten, before + 1);
    for page in 0..1400 {
        assert!(guest.access(at + page * PAGE, Access::Write).is_err());
    }
}

#[test]
fn what_is_populated_for_long_ends_with_the_guest() {
    let mut guest = guest_with(20_000, |options| options.mmap_base = super::super::MMAP_BASE);
    let at = guest.map(0, 64 * MIB, WRITE, ANONYMOUS).unwrap();
    guest.machine.patience.set(2);
    let result = guest.advise(at, 64 * MIB, raw::MADV_POPULATE_WRITE);
    assert_eq!(result, Err(Errno::ENOMEM));
    assert!(guest.is_there(at) && !guest.is_there(at + 32 * MIB));
    guest.machine.patience.set(100);
    assert_eq!(guest.advise(at, 64 * MIB, raw::MADV_POPULATE_WRITE), Ok(0));
    assert!(guest.is_there(at + 64 * MIB - 1));
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
    assert_eq!(pieces, std::slice::from_ref(&(0x2_3005..0x2_8000)));
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
fn what_gets_rights_is_told_and_what_only_loses_them_is_not() {
    let mut guest = guest();
    let at = guest.map(0, 8 * PAGE, WRITE, ANONYMOUS).unwrap();
    let mut told = |rights| {
        guest.machine.told = 0;
        guest.protect(at, 8 * PAGE, rights).unwrap();
        guest.machine.told
    };
    assert_eq!((told(R), told(RW), told(Rights::NONE), told(R)), (0, 1, 0, 1));
    // Also if the vCPU never could have known it: a file that was copied to where nobody may look.
    let at = guest.copy(&[7; 5000], 5000, NONE, raw::MAP_PRIVATE).unwrap();
    assert_eq!(guest.access(at, Access::Read), Err(Faulted::Denied));
    guest.protect(at, 5000, R).unwrap();
    let frame = guest.access(at, Access::Read).unwrap();
    assert_eq!(guest.machine.page(frame), [7; 4096]);
}

#[test]
fn the_last_frames_go_to_where_they_are_needed() {
    let mut guest = guest_with(100, |_| {});
    guest.map(HERE, MIB, WRITE, FIXED | raw::MAP_NORESERVE).unwrap();
    guest.access(HERE, Access::Write).unwrap();
    let left = guest.space.frames.available() / PAGE;
    assert!((20..40).contains(&left), "{left}");
    // Chunks begin before these pages.
    guest.access(HERE + MIB - PAGE, Access::Write).unwrap();
    assert_eq!(guest.space.frames.available() / PAGE, left - 1);
    guest.access(HERE + MIB / 2 + 50 * PAGE, Access::Write).unwrap();
    guest.access(HERE + MIB / 4 + 50 * PAGE, Access::Write).unwrap();
}

#[test]
fn the_last_frame_is_not_spent_on_a_table_for_what_comes_after() {
    for pages in 4..10 {
        let mut guest = guest_with(pages, |_| {});
        // The next page would need three other tables.
        let at = (2 << 39) - PAGE;
        let flags = FIXED | raw::MAP_NORESERVE | raw::MAP_POPULATE;
        guest.map(at, MIB, WRITE, flags).unwrap();
        assert!(guest.access(at, Access::Write).is_ok(), "of {pages} pages");
        // Nor on what comes before.
        let mut guest = guest_with(pages, |_| {});
        guest.map(HERE, MIB, WRITE, FIXED | raw::MAP_NORESERVE).unwrap();
        guest.access(HERE + (pages - 4) * PAGE, Access::Write).unwrap();
    }
    // Enough for a chunk, but not for its tables.
    let mut guest = guest_with(65, |_| {});
    guest.map(2 << 39, MIB, WRITE, FIXED | raw::MAP_NORESERVE).unwrap();
    guest.access((2 << 39) + 63 * PAGE, Access::Write).unwrap();
}

#[test]
fn tables_in_frames_that_were_used_before_are_given_back_too() {
    let mut guest = guest_with(100, |_| {});
    let at = guest.map(0, MIB, WRITE, ANONYMOUS | raw::MAP_NORESERVE).unwrap();
    pages(&(at..at + MIB)).find(|&page| guest.access(page, Access::Write).is_err()).unwrap();
    guest.unmap(at, 8 * PAGE).unwrap();
    guest.map(0x10_0000_0000, PAGE, WRITE, FIXED).unwrap();
    assert!(guest.space.frames.tables().last() < Some(&guest.space.frames.untouched().end));
    guest.machine.load(&guest.space.options);
    guest.space.rebuild(&mut guest.machine).unwrap();
    assert!(guest.space.is_sound(guest.machine.memory.len() as u64));
    assert!(guest.is_there(0x10_0000_0000));
}

#[test]
fn what_is_mapped_over_makes_room() {
    let mut guest = guest_with(100, |_| {});
    guest.map(HERE, 60 * PAGE, WRITE, FIXED).unwrap();
    assert_eq!(guest.map(HERE + MIB / 2, 60 * PAGE, WRITE, FIXED), Err(Errno::ENOMEM));
    assert_eq!(guest.map(HERE, 60 * PAGE, WRITE, FIXED), Ok(HERE));
}

#[test]
fn tables_that_are_no_longer_needed_become_memory_that_is_zero() {
    let mut guest = guest_with(100, |_| {});
    for far in [0x10_0000_0000, 0x20_0000_0000, 0x30_0000_0000] {
        guest.map(far, PAGE, WRITE, FIXED).unwrap();
        guest.unmap(far, PAGE).unwrap();
    }
    let before = guest.space.pages();
    guest.machine.load(&guest.space.options);
    guest.space.rebuild(&mut guest.machine).unwrap();
    assert!(guest.space.pages() < before);
    guest.map(HERE, MIB, WRITE, FIXED | raw::MAP_NORESERVE).unwrap();
    for page in pages(&(HERE..HERE + MIB)) {
        let Ok(frame) = guest.access(page, Access::Write) else { break };
        assert_eq!(guest.machine.page(frame), [0; 4096]);
    }
    assert_eq!(guest.space.frames.available(), 0);
}

#[test]
fn a_table_outside_of_memory_is_an_error() {
    for entry in [!(1u64 << 7), 0x000f_ffff_ffff_f000 | 0x27, 0x27 | 1 << 40, 0xa7] {
        let mut guest = guest();
        guest.map(HERE, MIB, WRITE, FIXED).unwrap();
        guest.machine.page_mut(ROOT)[..8].copy_from_slice(&entry.to_le_bytes());
        assert!(guest.space.fault(&mut guest.machine, HERE, 6).is_err(), "{entry:#x}");
    }
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
