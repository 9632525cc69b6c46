//! The address space: what is mapped where, and with which rights.
//!
//! It consists of three things, each of which follows from what the process asked for:
//!
//! - *areas* (`areas`): stretches of addresses with rights, as Linux's VMAs;
//! - *runs* (`runs`): which frame, that is page of guest-physical memory, lies behind a page. An
//!   area has frames only where it was touched; pages that are protected from all access keep
//!   theirs;
//! - *frames* (`frames`): which of them are free.
//!
//! The page tables, which lie in guest memory, follow from the first two: a page has an entry exactly
//! if it has a frame and its area allows anything. They are never read to find something out, so
//! nothing depends on what stands in guest memory, but where tables are. Tables, once made, stay
//! until the process ends: below a hypervisor that shadows page tables the vCPU can be made to
//! forget a page, but not a table.
//!
//! What is taken away is taken away in three steps: entries change, the vCPU forgets the frames
//! ([`Hardware::forget`]), and only then they are free.
//!
//! Memory is populated when it is mapped if it is small, otherwise when it is touched, by chunks: a
//! page fault is an exit, which takes longer than writing a thousand entries. A frame that nobody
//! touches costs the host nothing, but it counts towards the memory limit.
//!
//! The host memory that this takes is bounded: about 100 bytes an area, of which
//! [`Options::areas`] limits the number, and at most 80 bytes a page of guest memory if no two
//! neighbouring pages have neighbouring frames (2 %); usually there is one run an area.

use std::ops::Range;
use std::sync::Arc;

use glowbox_core::address::{GUESTS_END, PAGE_SIZE};
use serde::{Deserialize, Serialize};

use crate::{Broken, Hardware};

mod access;
mod areas;
mod calls;
mod change;
mod frames;
mod map;
mod remap;
mod runs;
mod sound;
mod tables;
#[cfg(test)]
mod tests;

use areas::{Area, Areas, Kind};
pub(crate) use calls::CALLS;
use frames::Frames;
use runs::Runs;

/// What a process may do with a stretch of its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rights {
    /// Read.
    pub read: bool,
    /// Write; never without reading.
    pub write: bool,
    /// Execute; never without reading, and together with writing only where that is allowed.
    pub execute: bool,
}

impl Rights {
    const NONE: Rights = Rights { read: false, write: false, execute: false };
    const READ_WRITE: Rights = Rights { read: true, write: true, execute: false };

    /// Whether they allow something that others do not.
    fn exceed(self, others: Rights) -> bool {
        self.read && !others.read || self.write && !others.write || self.execute && !others.execute
    }

    fn any(self) -> bool {
        self != Rights::NONE
    }

    /// Whether there can be such rights.
    fn are_sound(self, allow_jit: bool) -> bool {
        (self.read || self == Rights::NONE) && (allow_jit || !(self.write && self.execute))
    }
}

/// A stretch of addresses that is mapped when the process starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Initial {
    /// Its addresses; whole pages.
    pub addresses: Range<u64>,
    /// Where it lies in guest-physical memory.
    pub memory: u64,
    /// What the process may do with it.
    pub rights: Rights,
    /// Whether it is Glowbox's own (the mailbox and the like): the process may use it, but not
    /// unmap, move, protect or map over it.
    pub fixed: bool,
}

/// What an address space is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Guest-physical address of the root page table. It and the tables below map `initial`, and
    /// what is the supervisor's. What is not fixed has to be mapped by small pages, and nothing else
    /// by large ones than what lies at least 2 MiB away from what the process may map.
    pub root: u64,
    /// What is mapped already.
    pub initial: Vec<Initial>,
    /// Addresses that are never given out nor accepted, besides those in `initial`, none of which
    /// they overlap; whole pages.
    pub reserved: Vec<Range<u64>>,
    /// Guest-physical memory that is free, and reads as zero; whole pages. Page tables come out of it
    /// too. This is the process's memory limit.
    pub free: Range<u64>,
    /// Where the program break starts.
    pub program_break: u64,
    /// How far the program break may go.
    pub break_limit: u64,
    /// Below which address `mmap` finds places, downwards; a whole page.
    pub mmap_base: u64,
    /// Most areas, those in `initial` and `reserved` included.
    pub areas: u32,
    /// Whether writable memory may be made executable.
    pub allow_jit: bool,
}

/// End of the addresses that a process may use, on every backend: a snapshot goes from one to another.
pub const ADDRESSES_END: u64 = GUESTS_END;
/// Start of the addresses that a process may map, as `vm.mmap_min_addr`.
pub const ADDRESSES_START: u64 = 0x1_0000;
/// A good [`Options::mmap_base`].
pub const MMAP_BASE: u64 = 0x7f00_0000_0000;

/// What came of a page fault.
#[derive(Debug, PartialEq, Eq)]
pub enum Faulted {
    /// The page is there now.
    Mapped,
    /// Nothing is mapped at the address (`SEGV_MAPERR`).
    Absent,
    /// What is mapped there does not allow it (`SEGV_ACCERR`).
    Denied,
    /// The memory limit does not allow it.
    OutOfMemory,
}

/// Bits of a page fault's error code.
const FAULT_WRITE: u64 = 1 << 1;
const FAULT_FETCH: u64 = 1 << 4;

/// An address space.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Space {
    options: Arc<Options>,
    areas: Areas,
    runs: Runs,
    frames: Frames,
    /// The program break.
    program_break: u64,
}

impl Space {
    /// An address space with what is mapped at the start.
    pub fn new(options: Options) -> Space {
        let mut areas = Areas::default();
        let mut runs = Runs::default();
        for initial in &options.initial {
            let Initial { addresses, memory, rights, fixed } = initial;
            let kind = if *fixed { Kind::Fixed } else { Kind::Copy };
            areas.insert(addresses.clone(), Area::new(*rights, kind));
            runs.insert(addresses.start, *memory, addresses.end - addresses.start);
        }
        for range in &options.reserved {
            areas.insert(range.clone(), Area::new(Rights::NONE, Kind::Reserved));
        }
        let frames = Frames::new(options.free.clone());
        let program_break = options.program_break;
        Space { options: Arc::new(options), areas, runs, frames, program_break }
    }

    /// What it was made of.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// What is mapped, by ascending address, with what the process may do with it: for
    /// `/proc/self/maps`.
    pub fn maps(&self) -> impl Iterator<Item = (Range<u64>, Rights)> {
        let areas = self.areas.iter().filter(|(_, area)| area.kind != Kind::Reserved);
        areas.map(|(start, area)| (start..area.end, area.rights))
    }

    /// Handles a page fault of the process's code.
    ///
    /// # Errors
    ///
    /// If page tables are broken.
    pub fn fault(
        &mut self,
        hardware: &mut dyn Hardware,
        address: u64,
        error_code: u64,
    ) -> Result<Faulted, Broken> {
        let area = match self.areas.at(address) {
            Some((_, area)) if area.kind != Kind::Reserved => *area,
            _ => return Ok(Faulted::Absent),
        };
        let allowed = match error_code {
            code if code & FAULT_FETCH != 0 => area.rights.execute,
            code if code & FAULT_WRITE != 0 => area.rights.write,
            _ => area.rights.read,
        };
        if !allowed {
            return Ok(Faulted::Denied);
        }
        // What is mapped as it has to be was not yet noticed by the vCPU, and is now.
        match self.runs.at(address).is_some() || self.touch(hardware, address, 0)? {
            true => Ok(Faulted::Mapped),
            false => Ok(Faulted::OutOfMemory),
        }
    }

    /// How many page tables it has that it was not made with.
    pub fn tables_added(&self) -> usize {
        self.frames.tables().len()
    }

    /// Pages of guest memory that it has taken, page tables included, and of what was mapped at the
    /// start all that is not fixed.
    pub fn pages(&self) -> u64 {
        let initial = self.options.initial.iter().filter(|initial| !initial.fixed);
        let initial: u64 = initial.map(|initial| length(&initial.addresses)).sum();
        (initial + length(&self.options.free)).saturating_sub(self.frames.available()) / PAGE_SIZE
    }
}

/// Bytes in a range.
fn length(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

/// What two ranges share; may be empty.
fn shared(one: &Range<u64>, other: &Range<u64>) -> Range<u64> {
    one.start.max(other.start)..one.end.min(other.end)
}

/// The page that an address lies in.
fn page_of(address: u64) -> u64 {
    address & !(PAGE_SIZE - 1)
}

/// Sorts ranges and makes one of those that touch.
fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, range| {
        let touches = next.start == range.end;
        if touches {
            range.end = next.end;
        }
        touches
    });
    ranges
}

fn broken(what: String) -> Broken {
    Broken { what, source: None }
}
