//! Pipes and event counters.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::open::{Object, Open};
use super::{Around, Files, PIPE};
use crate::Errno;

/// Bytes that are written to a pipe wholly or not at all.
const ATOMIC: usize = 4096;

/// A pipe.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Pipe {
    pub(super) bytes: VecDeque<u8>,
    /// Whether an end is open. A process has one open file for each.
    pub(super) reader: bool,
    pub(super) writer: bool,
    /// Times that something was read, or written: for edge-triggered epoll.
    pub(super) reads: u64,
    pub(super) writes: u64,
}

impl Pipe {
    fn room(&self) -> usize {
        usize::try_from(PIPE).unwrap_or(usize::MAX).saturating_sub(self.bytes.len())
    }

    /// Reads; `None` if it has to wait.
    pub(super) fn read(&mut self, into: &mut [u8]) -> Option<usize> {
        if into.is_empty() || (self.bytes.is_empty() && !self.writer) {
            return Some(0);
        }
        if self.bytes.is_empty() {
            return None;
        }
        let length = into.len().min(self.bytes.len());
        for (to, byte) in into.iter_mut().zip(self.bytes.drain(..length)) {
            *to = byte;
        }
        self.reads = self.reads.wrapping_add(1);
        Some(length)
    }

    /// Writes as much as there is room for; `None` if it has to wait.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<Option<usize>, Errno> {
        if !self.reader {
            return Err(Errno::EPIPE);
        }
        if bytes.is_empty() {
            return Ok(Some(0));
        }
        let length = bytes.len().min(self.room());
        if length == 0 || (length < bytes.len() && bytes.len() <= ATOMIC) {
            return Ok(None);
        }
        self.bytes.extend(&bytes[..length]);
        self.writes = self.writes.wrapping_add(1);
        Ok(Some(length))
    }

    pub(super) fn is_writable(&self) -> bool {
        self.room() >= ATOMIC
    }

    pub(super) fn is_sound(&self) -> bool {
        self.bytes.len() as u64 <= PIPE && (self.reader || self.writer)
    }
}

/// An event counter.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Event {
    pub(super) count: u64,
    pub(super) semaphore: bool,
    /// Times that it was read or written.
    pub(super) uses: u64,
}

impl Event {
    /// Takes the count; `None` if it has to wait.
    pub(super) fn read(&mut self, into: &mut [u8]) -> Result<Option<usize>, Errno> {
        let into = into.first_chunk_mut::<8>().ok_or(Errno::EINVAL)?;
        if self.count == 0 {
            return Ok(None);
        }
        let taken = if self.semaphore { 1 } else { self.count };
        self.count -= taken;
        self.uses = self.uses.wrapping_add(1);
        *into = taken.to_le_bytes();
        Ok(Some(8))
    }

    /// Adds to the count; `None` if it has to wait.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<Option<usize>, Errno> {
        let more = u64::from_le_bytes(*bytes.first_chunk::<8>().ok_or(Errno::EINVAL)?);
        if more == u64::MAX {
            return Err(Errno::EINVAL);
        }
        match self.count.checked_add(more) {
            None | Some(u64::MAX) => Ok(None),
            Some(count) => {
                self.count = count;
                self.uses = self.uses.wrapping_add(1);
                Ok(Some(8))
            }
        }
    }
}

impl Files {
    /// Makes a pipe; its ends for reading and for writing.
    pub(super) fn make_pipe(
        &mut self,
        around: &Around<'_>,
        flags: u32,
        close_on_exec: bool,
    ) -> Result<[u32; 2], Errno> {
        use linux_raw_sys::general::{O_RDONLY, O_WRONLY};
        self.set_buffered(around.limits);
        if self.tree.anonymous.room() < PIPE {
            return Err(Errno::ENFILE);
        }
        let first = self.free_descriptor(0, around.limits)?;
        self.free_descriptor(first + 1, around.limits)?;
        let pipe = self.number();
        self.pipes.insert(pipe, Pipe { reader: true, writer: true, ..Pipe::default() });
        let mut end = |writes, mode| {
            let open = Open::new(Object::Pipe { pipe, writes }, flags | mode);
            self.install(open, close_on_exec, 0, around.limits)
        };
        Ok([end(false, O_RDONLY)?, end(true, O_WRONLY)?])
    }

    /// Notes that an end of a pipe is not open any more.
    pub(super) fn close_pipe(&mut self, number: u64, writes: bool) {
        let Some(pipe) = self.pipes.get_mut(&number) else { return };
        if writes {
            pipe.writer = false;
            pipe.writes = pipe.writes.wrapping_add(1);
        } else {
            pipe.reader = false;
            pipe.reads = pipe.reads.wrapping_add(1);
        }
        if !pipe.reader && !pipe.writer {
            self.pipes.remove(&number);
        }
    }

    pub(super) fn pipe(&self, number: u64) -> Result<&Pipe, Errno> {
        self.pipes.get(&number).ok_or(Errno::EIO)
    }

    pub(super) fn pipe_mut(&mut self, number: u64) -> Result<&mut Pipe, Errno> {
        self.pipes.get_mut(&number).ok_or(Errno::EIO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe() -> Pipe {
        Pipe { reader: true, writer: true, ..Pipe::default() }
    }

    #[test]
    fn small_writes_go_wholly_or_not_at_all() {
        let mut pipe = pipe();
        assert_eq!(pipe.write(&[1; 70_000]), Ok(Some(65_536)));
        assert_eq!(pipe.write(&[2]), Ok(None));
        assert_eq!(pipe.read(&mut [0; 4000]), Some(4000));
        assert_eq!(pipe.write(&[2; 4096]), Ok(None));
        assert_eq!(pipe.write(&[2; 4097]), Ok(Some(4000)));
    }

    #[test]
    fn an_end_that_is_closed_is_noticed_at_the_other() {
        let mut pipe = pipe();
        assert_eq!(pipe.read(&mut [0]), None);
        pipe.write(b"x").unwrap();
        pipe.writer = false;
        assert_eq!(pipe.read(&mut [0]), Some(1));
        assert_eq!(pipe.read(&mut [0]), Some(0));
        pipe.reader = false;
        assert_eq!(pipe.write(b"x"), Err(Errno::EPIPE));
    }

    #[test]
    fn an_event_counter_neither_wraps_nor_goes_below_zero() {
        let mut event = Event { count: 0, semaphore: false, uses: 0 };
        let mut into = [0; 8];
        assert_eq!(event.read(&mut into), Ok(None));
        assert_eq!(event.write(&(u64::MAX - 1).to_le_bytes()), Ok(Some(8)));
        assert_eq!(event.write(&1_u64.to_le_bytes()), Ok(None));
        assert_eq!(event.write(&u64::MAX.to_le_bytes()), Err(Errno::EINVAL));
        assert_eq!(event.write(&[0; 7]), Err(Errno::EINVAL));
        event.semaphore = true;
        assert_eq!(event.read(&mut into), Ok(Some(8)));
        assert_eq!((u64::from_le_bytes(into), event.count), (1, u64::MAX - 2));
        assert_eq!(event.read(&mut into[..7]), Err(Errno::EINVAL));
    }
}
