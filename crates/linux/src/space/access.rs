//! The process's memory as the host reads and writes it.

use std::ops::Range;

use glowbox_core::address::PAGE_SIZE;

use super::{Rights, Space, broken};
use crate::call::Stop;
use crate::{Broken, Errno, Hardware};

/// Most pieces that [`Space::pieces`] gives.
const MOST_PIECES: usize = 1024;
/// Most bytes in them: so that a large length does not populate as much.
const MOST_BYTES: u64 = 16 << 20;

/// As what the host touches the process's memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    /// To put there what the process only sees afterwards, whatever its rights.
    Load,
}

impl Access {
    fn is_allowed(self, rights: Rights) -> bool {
        match self {
            Access::Read => rights.read,
            Access::Write => rights.write,
            Access::Load => true,
        }
    }
}

fn bytes_at<'a>(
    hardware: &'a mut dyn Hardware,
    range: &Range<usize>,
) -> Result<&'a mut [u8], Broken> {
    let outside = || broken(format!("frames at {range:#x?} lie outside of guest memory"));
    hardware.memory_mut().get_mut(range.clone()).ok_or_else(outside)
}

impl Space {
    /// Fills a buffer from memory that the process may read.
    ///
    /// # Errors
    ///
    /// `EFAULT`, or out of memory.
    pub fn read(
        &mut self,
        hardware: &mut dyn Hardware,
        mut address: u64,
        into: &mut [u8],
    ) -> Result<(), Stop> {
        let mut rest = into;
        while !rest.is_empty() {
            let range = self.stretch(hardware, address, rest.len() as u64, Access::Read)?;
            let from = bytes_at(hardware, &range)?;
            let (part, others) = rest.split_at_mut(from.len());
            part.copy_from_slice(from);
            address += part.len() as u64;
            rest = others;
        }
        Ok(())
    }

    /// Writes to memory that the process may write to.
    ///
    /// # Errors
    ///
    /// `EFAULT`, or out of memory; some may have been written then.
    pub fn write(
        &mut self,
        hardware: &mut dyn Hardware,
        address: u64,
        bytes: &[u8],
    ) -> Result<(), Stop> {
        self.put(hardware, address, bytes, Access::Write)
    }

    /// Writes to memory whatever the process may do with it.
    pub(super) fn load(
        &mut self,
        hardware: &mut dyn Hardware,
        address: u64,
        bytes: &[u8],
    ) -> Result<(), Stop> {
        self.put(hardware, address, bytes, Access::Load)
    }

    fn put(
        &mut self,
        hardware: &mut dyn Hardware,
        mut address: u64,
        bytes: &[u8],
        access: Access,
    ) -> Result<(), Stop> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let range = self.stretch(hardware, address, rest.len() as u64, access)?;
            let to = bytes_at(hardware, &range)?;
            let (part, others) = rest.split_at(to.len());
            to.copy_from_slice(part);
            address += part.len() as u64;
            rest = others;
        }
        Ok(())
    }

    /// Reads up to a zero byte; `ENAMETOOLONG` if there is none among `most` bytes.
    ///
    /// # Errors
    ///
    /// That, `EFAULT`, or out of memory.
    pub fn read_string(
        &mut self,
        hardware: &mut dyn Hardware,
        mut address: u64,
        most: usize,
    ) -> Result<Vec<u8>, Stop> {
        let mut string = Vec::new();
        while string.len() < most {
            let left = (most - string.len()) as u64;
            // Not into a page that the string may not reach.
            let left = left.min(PAGE_SIZE - address % PAGE_SIZE);
            let range = self.stretch(hardware, address, left, Access::Read)?;
            let part = bytes_at(hardware, &range)?;
            if let Some(end) = part.iter().position(|&byte| byte == 0) {
                string.extend_from_slice(&part[..end]);
                return Ok(string);
            }
            string.extend_from_slice(part);
            address += part.len() as u64;
        }
        Err(Errno::ENAMETOOLONG.into())
    }

    /// Where in guest memory (as indices into [`Hardware::memory`]) the bytes at an address lie that
    /// the process may read, or write to: in order, as few pieces as can be, populated. Fewer bytes
    /// than asked for if the rest is not mapped, if there is no memory for it, or if it would be more
    /// than 16 MiB or 1024 pieces; `EFAULT` if none is (and `length` is not 0).
    ///
    /// # Errors
    ///
    /// That, or out of memory.
    pub fn pieces(
        &mut self,
        hardware: &mut dyn Hardware,
        mut address: u64,
        length: u64,
        write: bool,
    ) -> Result<Vec<Range<usize>>, Stop> {
        let access = if write { Access::Write } else { Access::Read };
        let mut pieces: Vec<Range<usize>> = Vec::new();
        let mut left = length.min(MOST_BYTES);
        while left > 0 {
            let next = match self.stretch(hardware, address, left, access) {
                Ok(next) => next,
                Err(Stop::Error(_) | Stop::OutOfMemory(_)) if !pieces.is_empty() => break,
                Err(stop) => return Err(stop),
            };
            address += next.len() as u64;
            left -= next.len() as u64;
            let full = pieces.len() == MOST_PIECES;
            match pieces.last_mut() {
                Some(last) if last.end == next.start => last.end = next.end,
                _ if full => break,
                _ => pieces.push(next),
            }
        }
        Ok(pieces)
    }

    /// Where the bytes from an address on lie in guest memory, populated: as many as lie in one
    /// piece, but not more than `most`, which is not 0.
    fn stretch(
        &mut self,
        hardware: &mut dyn Hardware,
        address: u64,
        most: u64,
        access: Access,
    ) -> Result<Range<usize>, Stop> {
        let (_, area) = self.areas.at(address).ok_or(Errno::EFAULT)?;
        let end = area.end;
        if area.kind == super::Kind::Reserved || !access.is_allowed(area.rights) {
            return Err(Errno::EFAULT.into());
        }
        let wanted = most.min(end - address);
        if self.runs.at(address).is_none() && !self.touch(hardware, address, wanted)? {
            return Err(Stop::OutOfMemory(PAGE_SIZE));
        }
        let run = self.runs.at(address).ok_or(Stop::OutOfMemory(PAGE_SIZE))?;
        let part = run.within(&(address..address + wanted)).frames();
        let range = usize::try_from(part.start).ok().zip(usize::try_from(part.end).ok());
        match range {
            Some((start, end)) if end <= hardware.memory().len() => Ok(start..end),
            _ => Err(broken(format!("frames at {part:#x?} lie outside of guest memory")).into()),
        }
    }
}
