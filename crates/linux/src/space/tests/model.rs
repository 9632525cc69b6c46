//! Random sequences of calls, faults and accesses against a model that knows, for every page, its
//! rights and what it holds.

use super::super::areas::Kind;
use super::super::{ADDRESSES_END, ADDRESSES_START, merged};
use super::*;
/// The byte of a page that is written; all others stay zero.
const OFFSET: usize = 123;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Page {
    rights: Rights,
    byte: u8,
    kind: Kind,
}

struct World {
    machine: Machine,
    space: Space,
    pages: BTreeMap<u64, Page>,
    random: Rng,
    jit: bool,
    program_break: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Rng::with_seed(seed);
        let jit = random.u64(..3) == 0;
        let mut options = options(if random.u64(..3) == 0 { 100 } else { 1500 });
        options.allow_jit = jit;
        options.areas = if random.u64(..3) == 0 { 16 } else { 64 };
        let mut machine = Machine::new(&options);
        let mut pages = BTreeMap::new();
        for initial in &options.initial {
            let kind = if initial.fixed { Kind::Fixed } else { Kind::Copy };
            for address in super::pages(&initial.addresses) {
                let byte = (address >> 12).to_le_bytes()[0] | 1;
                let frame = initial.memory + (address - initial.addresses.start);
                machine.page_mut(frame)[OFFSET] = byte;
                pages.insert(address, Page { rights: initial.rights, byte, kind });
            }
        }
        let program_break = options.program_break;
        let space = Space::new(options);
        World { machine, space, pages, random, jit, program_break }
    }

    fn locked(&self, range: &Range<u64>) -> bool {
        let reserved = &self.space.options.reserved;
        reserved.iter().any(|reserved| reserved.start < range.end && range.start < reserved.end)
            || self.pages.range(range.clone()).any(|(_, page)| page.kind == Kind::Fixed)
    }

    fn mapped(&self, range: &Range<u64>) -> bool {
        self.pages.range(range.clone()).count() == super::pages(range).count()
    }

    /// Whether it may be for want of areas or memory that something was refused.
    fn scarce(&self, bytes: u64) -> bool {
        let areas = usize::try_from(self.space.options.areas).unwrap();
        self.space.areas.len() + 3 > areas || bytes + 4 * PAGE_SIZE > self.space.frames.available()
    }

    fn length(&mut self) -> u64 {
        let pages = match self.random.u64(..8) {
            0 => 60 + self.random.u64(..700),
            1 => 1 + self.random.u64(..64),
            _ => 1 + self.random.u64(..8),
        };
        pages * PAGE_SIZE
    }

    fn address(&mut self) -> u64 {
        match self.random.u64(..6) {
            0 => TEXT.start + self.random.u64(..8) * PAGE_SIZE,
            1 if !self.pages.is_empty() => {
                let skip = self.random.usize(..self.pages.len());
                *self.pages.keys().nth(skip).unwrap()
            }
            2 => RESERVED.start.wrapping_sub(4 * PAGE_SIZE) + self.random.u64(..8) * PAGE_SIZE,
            _ => ARENA.start + self.random.u64(..1024) * PAGE_SIZE,
        }
    }

    fn rights(&mut self) -> Rights {
        match self.random.u64(..8) {
            0 => Rights::NONE,
            1 => R,
            2 => RX,
            3 => RWX,
            _ => RW,
        }
    }

    fn fill(&mut self, range: &Range<u64>, rights: Rights) {
        for address in super::pages(range) {
            self.pages.insert(address, Page { rights, byte: 0, kind: Kind::Anonymous });
        }
    }

    fn protection(rights: Rights) -> u64 {
        u64::from(rights.read) | u64::from(rights.write) << 1 | u64::from(rights.execute) << 2
    }

    fn map(&mut self) {
        let (address, length, rights) = (self.address(), self.length(), self.rights());
        let mut flags = raw::MAP_ANONYMOUS | raw::MAP_PRIVATE;
        let placing = self.random.u64(..5);
        flags |= match placing {
            0 => raw::MAP_FIXED,
            1 => raw::MAP_FIXED_NOREPLACE,
            _ => 0,
        };
        for flag in [raw::MAP_NORESERVE, raw::MAP_POPULATE] {
            flags |= if self.random.u64(..6) == 0 { flag } else { 0 };
        }
        let hint = if self.random.bool() && placing > 1 { 0 } else { address };
        let range = address..address + length;
        let arguments = [hint, length, World::protection(rights), u64::from(flags)];
        let request = self.space.request(arguments).unwrap();
        match self.space.map(&mut self.machine, request) {
            Ok(at) => {
                assert!(self.jit || !rights.execute);
                let got = at..at + length;
                assert!(!self.locked(&got) && got.end <= ADDRESSES_END && at >= ADDRESSES_START);
                match placing {
                    0 => assert_eq!(got, range),
                    _ => assert!(self.pages.range(got.clone()).next().is_none()),
                }
                self.fill(&got, rights);
            }
            Err(Stop::Error(Errno::EACCES)) => assert!(rights.execute && !self.jit),
            Err(Stop::Error(Errno::EEXIST)) => {
                assert!(
                    placing == 1
                        && (self.pages.range(range.clone()).next().is_some()
                            || self.locked(&range))
                );
            }
            Err(Stop::Error(Errno::ENOMEM)) => {
                assert!(placing == 0 && self.locked(&range) || self.scarce(length));
            }
            Err(other) => panic!("{other:?}"),
        }
    }

    fn unmap(&mut self) {
        let (start, length) = (self.address(), self.length());
        let range = start..start + length;
        match self.space.unmap(&mut self.machine, start, length) {
            Ok(_) => {
                assert!(!self.locked(&range));
                self.pages.retain(|page, _| !range.contains(page));
            }
            Err(Stop::Error(Errno::EINVAL)) => assert!(self.locked(&range)),
            Err(Stop::Error(Errno::ENOMEM)) => assert!(self.scarce(0)),
            Err(other) => panic!("{other:?}"),
        }
    }

    fn protect(&mut self) {
        let (start, length, rights) = (self.address(), self.length(), self.rights());
        let range = start..start + length;
        let allowed = self.jit
            || !rights.execute
            || !rights.write
                && self.pages.range(range.clone()).all(|(_, page)| page.rights.execute);
        let there = self.mapped(&range) && !self.locked(&range);
        match self.space.protect(&mut self.machine, start, length, rights) {
            Ok(_) => {
                assert!(there && allowed);
                self.pages.range_mut(range).for_each(|(_, page)| page.rights = rights);
            }
            Err(Stop::Error(Errno::EACCES)) => assert!(!allowed),
            Err(Stop::Error(Errno::ENOMEM)) => assert!(!there || self.scarce(0)),
            Err(other) => panic!("{other:?}"),
        }
    }

    fn remap(&mut self) {
        let (start, old, new) = (self.address(), self.length(), self.length());
        let to = self.address();
        let flags = [0, raw::MREMAP_MAYMOVE, raw::MREMAP_MAYMOVE | raw::MREMAP_FIXED];
        let flags = flags[self.random.usize(..3)];
        let arguments = [start, old, new, u64::from(flags), to];
        let range = start..start + old;
        match self.space.remap(&mut self.machine, arguments) {
            Ok(at) => {
                assert!(self.mapped(&range) && !self.locked(&range));
                let first = self.pages[&start];
                let moved: Vec<Page> = self.pages.range(range.clone()).map(|(_, p)| *p).collect();
                assert!(moved.iter().all(|p| p.rights == first.rights && p.kind == first.kind));
                self.pages.retain(|page, _| !range.contains(page));
                let target = at..at + new;
                assert!(!self.locked(&target));
                if flags & raw::MREMAP_FIXED != 0 {
                    assert_eq!(at, to);
                } else {
                    assert!(self.pages.range(target.clone()).next().is_none());
                }
                self.fill(&target, first.rights);
                for (address, page) in super::pages(&target).zip(moved) {
                    self.pages.insert(address, page);
                }
            }
            Err(Stop::Error(Errno::EFAULT)) => {
                let mut kinds = self.pages.range(range.clone()).map(|(_, p)| (p.rights, p.kind));
                let first = kinds.next();
                assert!(!self.mapped(&range) || kinds.any(|kind| Some(kind) != first));
            }
            Err(Stop::Error(Errno::EINVAL)) => {
                let target = to..to + new;
                let overlap = target.start < range.end && start < target.end;
                assert!(self.locked(&range) || overlap || self.locked(&target));
            }
            Err(Stop::Error(Errno::ENOMEM)) => {}
            Err(other) => panic!("{other:?}"),
        }
    }

    fn discard(&mut self) {
        let (start, length) = (self.address(), self.length());
        let range = start..start + length;
        let inside = self.pages.range(range.clone());
        let refused = self.locked(&range)
            || inside.clone().any(|(_, p)| p.kind != Kind::Anonymous && p.rights.write);
        let advice =
            u64::from(if self.random.bool() { raw::MADV_DONTNEED } else { raw::MADV_FREE });
        match self.space.advise(&mut self.machine, [start, length, advice]) {
            Err(Stop::Error(Errno::EINVAL)) => return assert!(refused),
            Err(Stop::Error(Errno::ENOMEM)) => assert!(!refused && !self.mapped(&range)),
            Ok(_) => assert!(!refused && self.mapped(&range)),
            Err(other) => panic!("{other:?}"),
        }
        for (_, page) in self.pages.range_mut(range) {
            page.byte = if page.kind == Kind::Anonymous { 0 } else { page.byte };
        }
    }

    fn set_break(&mut self) {
        let to = match self.random.u64(..4) {
            0 => self.random.u64(..) >> 8,
            _ => BREAK - 0x100 + self.random.u64(..BREAK_LIMIT - BREAK + 0x200),
        };
        let before = self.program_break.next_multiple_of(PAGE_SIZE);
        let now = self.space.set_break(&mut self.machine, to).unwrap();
        assert!(now == to || now == self.program_break);
        let after = now.next_multiple_of(PAGE_SIZE);
        if now == to && after > before {
            assert!(self.pages.range(before..after).next().is_none());
            self.fill(&(before..after), RW);
        } else if now == to {
            self.pages.retain(|page, _| !(after..before).contains(page));
        } else {
            let range = before..to.next_multiple_of(PAGE_SIZE).max(before);
            let taken = self.pages.range(range.clone()).next().is_some();
            let outside = !(BREAK..=BREAK_LIMIT).contains(&to);
            assert!(outside || taken || self.scarce(range.end - before));
        }
        self.program_break = now;
    }

    fn check_page(&self, frame: u64, page: Page) {
        let mut expected = [0; 4096];
        expected[OFFSET] = page.byte;
        assert!(self.machine.page(frame) == expected, "{:x?}", page);
    }

    /// Lets the guest read, write or execute, by what its vCPU knows.
    fn access(&mut self) {
        let address = self.address();
        let access = [Access::Read, Access::Write, Access::Execute][self.random.usize(..3)];
        let page = self.pages.get(&address).copied();
        let allowed = page.filter(|page| access.allowed(page.rights));
        match self.machine.guest(&mut self.space, address, access) {
            Ok(frame) => {
                let page = allowed.expect("an access succeeded that should not have");
                self.check_page(frame, page);
                if access == Access::Write {
                    let byte = self.random.u8(..);
                    self.machine.page_mut(frame)[OFFSET] = byte;
                    self.pages.insert(address, Page { byte, ..page });
                }
            }
            Err(Faulted::Absent) => assert_eq!(page, None),
            Err(Faulted::Denied) => assert!(page.is_some() && allowed.is_none()),
            Err(_) => assert!(allowed.is_some() && self.scarce(0)),
        }
    }

    /// Lets the host read or write.
    fn host(&mut self) {
        let write = self.random.bool();
        let count = 1 + self.random.u64(..5);
        let first = self.address();
        let range = first..first + count * PAGE_SIZE;
        let allowed = |page: &Page| if write { page.rights.write } else { page.rights.read };
        let pages: Vec<Option<Page>> = super::pages(&range)
            .map(|page| self.pages.get(&page).copied().filter(allowed))
            .collect();
        let good = pages.iter().take_while(|page| page.is_some()).count();
        let mut bytes = vec![0; pages.len() * 4096];
        let (machine, length) = (&mut self.machine, count * PAGE_SIZE);
        let result = if write {
            let byte = self.random.u8(..);
            bytes.chunks_mut(4096).for_each(|page| page[OFFSET] = byte);
            for (address, page) in super::pages(&range).zip(&pages[..good]) {
                self.pages.insert(address, Page { byte, ..page.unwrap() });
            }
            self.space.write(machine, first, &bytes)
        } else {
            self.space.read(machine, first, &mut bytes)
        };
        match result {
            Ok(()) => assert_eq!(good, pages.len()),
            Err(Stop::Error(Errno::EFAULT)) => assert!(good < pages.len()),
            Err(Stop::OutOfMemory(_)) => {
                // What was written before is not known.
                assert!(self.space.frames.available() < 4 * PAGE_SIZE);
                return self.reread(&range);
            }
            Err(other) => panic!("{other:?}"),
        }
        if !write {
            for (bytes, page) in bytes.chunks(4096).zip(&pages[..good]) {
                assert_eq!(bytes[OFFSET], page.unwrap().byte);
                assert!(bytes.iter().enumerate().all(|(at, &byte)| at == OFFSET || byte == 0));
            }
        }
        self.pieces(first, length, write, good);
    }

    fn pieces(&mut self, first: u64, length: u64, write: bool, good: usize) {
        match self.space.pieces(&mut self.machine, first, length, write) {
            Ok(pieces) => {
                assert_eq!(pieces.iter().map(|piece| piece.len()).sum::<usize>(), good * 4096);
                assert!(pieces.windows(2).all(|pair| pair[0].end != pair[1].start));
                let frames = pieces.iter().flat_map(|p| p.clone().step_by(4096));
                for (at, address) in frames.zip((0..).map(|index| first + index * PAGE_SIZE)) {
                    self.check_page(at as u64, self.pages[&address]);
                }
            }
            Err(Stop::Error(Errno::EFAULT)) => assert_eq!(good, 0),
            Err(other) => panic!("{other:?}"),
        }
    }

    /// Takes over what a half-done write has left.
    fn reread(&mut self, range: &Range<u64>) {
        for (&address, page) in self.pages.range_mut(range.clone()) {
            let run = self.space.runs.at(address);
            page.byte = run.map_or(0, |run| {
                self.machine.page(run.memory + (address - run.addresses.start))[OFFSET]
            });
        }
    }

    /// Everything that must hold at any time.
    fn check(&self) {
        let World { machine, space, pages, .. } = self;
        assert!(space.is_sound(machine.memory.len() as u64));
        assert!(space.areas.len() <= usize::try_from(space.options.areas).unwrap());
        // What the vCPU knows is not more than the tables say, and the tables are what the model is.
        for (&address, &(frame, rights)) in &machine.known {
            let (now, allowed) = machine.walk(address).expect("a stale entry");
            assert!(now == frame && !rights.exceed(allowed), "a stale entry for {address:#x}");
        }
        let mut present = 0;
        for (&address, page) in pages {
            let run = space.runs.at(address);
            let frame = run.map(|run| run.memory + (address - run.addresses.start));
            let expected = frame.filter(|_| page.rights.any()).map(|frame| (frame, page.rights));
            assert_eq!(machine.walk(address), expected, "{address:#x}");
            present += u64::from(frame.is_some());
        }
        for address in super::pages(&ARENA).filter(|address| !pages.contains_key(address)) {
            assert_eq!(machine.walk(address), None, "{address:#x}");
        }
        let runs: u64 = space.runs.iter().map(|run| run.length()).sum();
        assert_eq!(runs, present * PAGE_SIZE, "frames behind what is not mapped");
        let fixed = (MAILBOX.end - MAILBOX.start) / PAGE_SIZE + 2;
        let tables = space.frames.tables().len() as u64;
        assert_eq!(space.pages(), present - fixed + tables);
        let areas = space.areas.iter().map(|(start, area)| start..area.end).collect();
        let model = pages.keys().map(|&page| page..page + PAGE_SIZE);
        let model = model.chain(space.options.reserved.iter().cloned()).collect();
        assert_eq!(merged(areas), merged(model));
    }

    /// Writes the address space to a file and reads it again, with new tables.
    fn revive(&mut self) {
        let bytes = postcard::to_allocvec(&self.space).unwrap();
        let mut space: Space = postcard::from_bytes(&bytes).unwrap();
        assert!(space.is_sound(self.machine.memory.len() as u64));
        assert_eq!(space.pages(), self.space.pages());
        self.machine.load(&space.options);
        self.machine.known.clear();
        space.rebuild(&mut self.machine).unwrap();
        self.space = space;
    }

    fn step(&mut self) {
        match self.random.u64(..40) {
            0..4 => self.map(),
            4 => self.unmap(),
            5..8 => self.protect(),
            8..10 => self.remap(),
            10 => self.discard(),
            11 => self.set_break(),
            12..18 => self.host(),
            _ => self.access(),
        }
    }
}

#[test]
fn the_guest_sees_what_the_model_says_and_nothing_stale() {
    for seed in 0..25 {
        let mut world = World::new(seed);
        world.check();
        for step in 0..500 {
            world.step();
            if step % 20 == 0 {
                world.check();
            }
            if world.random.u64(..150) == 0 {
                world.revive();
                world.check();
            }
        }
        world.check();
    }
}
