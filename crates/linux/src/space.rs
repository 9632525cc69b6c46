//! The address space: what is mapped where, and with which rights.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::call::Stop;
use crate::table::{Entry, entries};
use crate::{Broken, Errno, Hardware};

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
    /// what is the supervisor's.
    pub root: u64,
    /// What is mapped already.
    pub initial: Vec<Initial>,
    /// Addresses that are never given out nor accepted, besides those in `initial`.
    pub reserved: Vec<Range<u64>>,
    /// Guest-physical memory that is free, and reads as zero; whole pages. Page tables come out of it
    /// too. This is the process's memory limit.
    pub free: Range<u64>,
    /// Where the program break starts.
    pub program_break: u64,
    /// How far the program break may go.
    pub break_limit: u64,
    /// Most areas.
    pub areas: u32,
    /// Whether writable memory may be made executable.
    pub allow_jit: bool,
}

/// End of the addresses that a process may use.
pub const ADDRESSES_END: u64 = 0x7fff_ffff_f000;

/// What came of a page fault.
#[derive(Debug)]
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

/// An address space.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Space {
    options: Options,
}

impl Space {
    /// An address space with what is mapped at the start.
    pub fn new(options: Options) -> Space {
        Space { options }
    }

    /// Whether it may be used over guest memory of that size as it stands: for one that comes from a
    /// file.
    pub fn is_sound(&self, _memory: u64) -> bool {
        todo!()
    }

    /// Writes the page tables anew, where [`Options::initial`] is mapped and nothing else.
    pub fn rebuild(&mut self, _hardware: &mut dyn Hardware) -> Result<(), Broken> {
        todo!()
    }

    /// Fills a buffer from memory that the process may read.
    pub fn read(
        &mut self,
        _hardware: &mut dyn Hardware,
        _address: u64,
        _into: &mut [u8],
    ) -> Result<(), Stop> {
        todo!()
    }

    /// Writes to memory that the process may write to.
    pub fn write(
        &mut self,
        _hardware: &mut dyn Hardware,
        _address: u64,
        _bytes: &[u8],
    ) -> Result<(), Stop> {
        todo!()
    }

    /// Reads up to a zero byte; `ENAMETOOLONG` if there is none among `most` bytes.
    pub fn read_string(
        &mut self,
        _hardware: &mut dyn Hardware,
        _address: u64,
        _most: usize,
    ) -> Result<Vec<u8>, Stop> {
        todo!()
    }

    /// Where in guest memory (as indices into [`Hardware::memory`]) the bytes at an address lie that
    /// the process may read, or write to: in order, as few pieces as can be, populated. Fewer bytes
    /// than asked for if the rest is not mapped; `EFAULT` if none is (and `length` is not 0).
    pub fn pieces(
        &mut self,
        _hardware: &mut dyn Hardware,
        _address: u64,
        _length: u64,
        _write: bool,
    ) -> Result<Vec<Range<usize>>, Stop> {
        todo!()
    }

    /// Handles a page fault of the process's code.
    pub fn fault(
        &mut self,
        _hardware: &mut dyn Hardware,
        _address: u64,
        _error_code: u64,
    ) -> Result<Faulted, Broken> {
        todo!()
    }

    /// Pages of guest memory that it has taken, page tables included.
    pub fn pages(&self) -> u64 {
        todo!()
    }
}

pub(crate) const CALLS: &[Entry] = entries! {};

#[allow(dead_code)]
fn unused() -> Errno {
    Errno::ENOSYS
}
