//! What the tests of the address space run on: a machine whose vCPU walks the page tables as they
//! stand in its memory, and never looks again at what it has found until it is made to forget it.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use fastrand::Rng;
use glowbox_core::address::{Gpa, Gva, PAGE_SIZE, Protection};
use glowbox_core::paging::{self, Mapping, Privilege};
use glowbox_core::registers::ExtendedState;
use linux_raw_sys::general as raw;

use super::calls::Source;
use super::map::Request;
use super::{FAULT_FETCH, FAULT_WRITE, Faulted, Initial, Options, Rights, Space};
use crate::call::{Answer, Stop};
use crate::{Bases, Broken, Errno, Hardware};

mod calls;
mod memory;
mod model;
mod sound;

const ROOT: u64 = 0x4000;
/// Where the tables end that the loader makes.
const TABLES_END: u64 = 0x2_0000;
/// What is mapped at the start.
const TEXT: Range<u64> = 0x40_0000..0x40_3000;
const DATA: Range<u64> = 0x40_3000..0x40_8000;
/// By large pages.
const MAILBOX: Range<u64> = 0x4000_0000..0x4040_0000;
const FREE: u64 = 0x80_0000;
const BREAK: u64 = 0x50_0123;
const BREAK_LIMIT: u64 = 0x70_0000;
/// Around here the tests map.
const ARENA: Range<u64> = 0x7000_0000..0x7040_0000;
/// In it, a page that is Glowbox's, and some that are nobody's.
const CONTROL: Range<u64> = 0x7010_0000..0x7010_1000;
/// Another like it, right behind it.
const BESIDE: Range<u64> = 0x7010_1000..0x7010_2000;
const RESERVED: Range<u64> = 0x7020_0000..0x7020_4000;
const R: Rights = Rights { read: true, write: false, execute: false };
const RW: Rights = Rights::READ_WRITE;
const RX: Rights = Rights { read: true, write: false, execute: true };
const RWX: Rights = Rights { read: true, write: true, execute: true };

/// An address space with so many pages to give out.
fn options(pages: u64) -> Options {
    let initial = |addresses: &Range<u64>, memory, rights, fixed| Initial {
        addresses: addresses.clone(),
        memory,
        rights,
        fixed,
    };
    Options {
        root: ROOT,
        initial: vec![
            initial(&TEXT, 0x2_0000, RX, false),
            initial(&DATA, 0x2_3000, RW, false),
            initial(&CONTROL, 0x3_0000, RW, true),
            initial(&BESIDE, 0x3_1000, RW, true),
            initial(&MAILBOX, 0x40_0000, R, true),
        ],
        reserved: vec![RESERVED, 511 << 30..512 << 30],
        free: FREE..FREE + pages * PAGE_SIZE,
        program_break: BREAK,
        break_limit: BREAK_LIMIT,
        mmap_base: ARENA.end,
        areas: 64,
        allow_jit: false,
    }
}

/// What the vCPU does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    Execute,
}

impl Access {
    fn allowed(self, rights: Rights) -> bool {
        match self {
            Access::Read => rights.read,
            Access::Write => rights.write,
            Access::Execute => rights.execute,
        }
    }

    fn error_code(self) -> u64 {
        match self {
            Access::Read => 4,
            Access::Write => 4 | FAULT_WRITE,
            Access::Execute => 4 | FAULT_FETCH,
        }
    }
}

/// A machine.
struct Machine {
    memory: Vec<u8>,
    /// What the vCPU knows: page to frame and rights.
    known: BTreeMap<u64, (u64, Rights)>,
    /// Frames that the guest may use, as far as the machine was told.
    revealed: BTreeSet<u64>,
    /// How often it was made to forget something, and told that it may know something.
    forgotten: usize,
    told: usize,
    /// How often it can be asked before it says that the guest is to stop.
    patience: Cell<usize>,
}

impl Machine {
    fn new(options: &Options) -> Machine {
        let size = usize::try_from(options.free.end).unwrap();
        let mut machine = Machine {
            memory: vec![0; size],
            known: BTreeMap::new(),
            revealed: BTreeSet::new(),
            forgotten: 0,
            told: 0,
            patience: Cell::new(usize::MAX),
        };
        machine.load(options);
        machine
    }

    /// Makes the tables of what is mapped at the start, and nothing else.
    fn load(&mut self, options: &Options) {
        let protection = |rights| match rights {
            R => Protection::Read,
            RW => Protection::ReadWrite,
            _ => Protection::ReadExecute,
        };
        let mut mappings: Vec<Mapping> = Vec::new();
        for initial in &options.initial {
            let Range { start, end } = initial.addresses;
            let (gva, gpa, length) = (Gva(start), Gpa(initial.memory), end - start);
            let (protection, privilege) = (protection(initial.rights), Privilege::User);
            let large = false;
            mappings.push(Mapping { gva, gpa, length, protection, privilege, large });
            self.revealed.extend(pages(&(gpa.0..gpa.0 + length)));
        }
        mappings.push(Mapping {
            gva: Gva(511 << 30),
            gpa: Gpa(0),
            length: ROOT,
            protection: Protection::ReadWrite,
            privilege: Privilege::Supervisor,
            large: false,
        });
        let tables = usize::try_from(ROOT).unwrap()..usize::try_from(TABLES_END).unwrap();
        self.memory[tables.clone()].fill(0);
        paging::build(&mappings, &mut self.memory[tables], Gpa(ROOT)).unwrap();
    }

    /// Looks up an address in the tables.
    fn walk(&self, address: u64) -> Option<(u64, Rights)> {
        let mut table = ROOT;
        let mut writable = true;
        for level in (0..4).rev() {
            let slot = table + (address >> (12 + 9 * level) & 0x1ff) * 8;
            let slot = usize::try_from(slot).unwrap();
            let entry = u64::from_le_bytes(*self.memory[slot..].first_chunk().unwrap());
            // Present, user, accessed.
            if entry & 1 == 0 || entry & 4 == 0 {
                return None;
            }
            assert!(entry & 0x20 != 0);
            writable &= entry & 2 != 0;
            let target = entry & 0x000f_ffff_ffff_f000;
            if level == 0 || entry & 0x80 != 0 {
                assert_eq!(entry & 0x40 != 0, writable, "the dirty bit of {address:#x}");
                let into = address & ((PAGE_SIZE << (9 * level)) - 1) & !(PAGE_SIZE - 1);
                let execute = entry >> 63 == 0;
                return Some((target + into, Rights { read: true, write: writable, execute }));
            }
            table = target;
        }
        None
    }

    /// Makes an access as the vCPU would: the frame, or a page fault.
    fn access(&mut self, address: u64, access: Access) -> Option<u64> {
        let page = address & !(PAGE_SIZE - 1);
        if let Some(&(frame, rights)) = self.known.get(&page)
            && access.allowed(rights)
        {
            return Some(frame);
        }
        let (frame, rights) = self.walk(address).filter(|&(_, rights)| access.allowed(rights))?;
        assert!(self.revealed.contains(&frame), "{frame:#x} was not revealed");
        self.known.insert(page, (frame, rights));
        Some(frame)
    }

    /// Makes an access, and lets the address space handle the faults that it raises.
    fn guest(&mut self, space: &mut Space, address: u64, access: Access) -> Result<u64, Faulted> {
        if let Some(frame) = self.access(address, access) {
            return Ok(frame);
        }
        match space.fault(self, address, access.error_code()).unwrap() {
            Faulted::Mapped => Ok(self.access(address, access).expect("what was mapped is there")),
            other => Err(other),
        }
    }

    fn page(&self, frame: u64) -> &[u8] {
        let frame = usize::try_from(frame).unwrap();
        &self.memory[frame..frame + 4096]
    }

    fn page_mut(&mut self, frame: u64) -> &mut [u8] {
        let frame = usize::try_from(frame).unwrap();
        &mut self.memory[frame..frame + 4096]
    }
}

/// Every page of a range.
fn pages(range: &Range<u64>) -> impl Iterator<Item = u64> + use<> {
    (range.start / PAGE_SIZE..range.end / PAGE_SIZE).map(|page| page * PAGE_SIZE)
}

impl Hardware for Machine {
    fn memory(&self) -> &[u8] {
        &self.memory
    }

    fn memory_mut(&mut self) -> &mut [u8] {
        &mut self.memory
    }

    fn reveal(&mut self, memory: Range<u64>) {
        assert!(!memory.is_empty());
        self.told += 1;
        self.revealed.extend(pages(&memory));
    }

    fn forget(&mut self, memory: Range<u64>) -> Result<(), Broken> {
        assert!(!memory.is_empty());
        self.forgotten += 1;
        self.known.retain(|_, (frame, _)| !memory.contains(frame));
        Ok(())
    }

    fn is_to_stop(&self) -> bool {
        self.patience.set(self.patience.get().saturating_sub(1));
        self.patience.get() == 0
    }

    fn bases(&mut self) -> Result<Bases, Broken> {
        Ok(Bases::default())
    }

    fn extended(&mut self) -> Result<ExtendedState, Broken> {
        Ok(ExtendedState::initial())
    }
}

/// A file of parts at places, and how often it was read. Without parts, it can't be.
struct Fixed<'a> {
    parts: Vec<(u64, &'a [u8])>,
    reads: usize,
}

impl Source for Fixed<'_> {
    fn data(&mut self, from: u64) -> Result<Option<Range<u64>>, Errno> {
        let parts = self.parts.iter().map(|(at, bytes)| (*at).max(from)..at + bytes.len() as u64);
        Ok(parts.into_iter().find(|part| !part.is_empty()))
    }

    fn read(&mut self, from: u64, into: &mut [u8]) -> Result<usize, Errno> {
        self.reads += 1;
        let parts = self.parts.iter().rev();
        let (at, bytes) = parts.into_iter().find(|(at, _)| *at <= from).ok_or(Errno::EBADF)?;
        let rest = usize::try_from(from - at).ok().and_then(|at| bytes.get(at..)).unwrap_or(&[]);
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}

/// A guest that makes calls.
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
        let mut file = Fixed { parts: vec![(0, bytes)], reads: 0 };
        self.copy_file(&mut file, length, protection, flags)
    }

    fn copy_file(
        &mut self,
        file: &mut Fixed<'_>,
        length: u64,
        protection: u32,
        flags: u32,
    ) -> Result<u64, Errno> {
        let request = self.request(0, length, protection, flags)?;
        errno(self.space.map_copy(&mut self.machine, request, file))
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
