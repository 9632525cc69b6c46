//! Pages that a guest's process shares with its tracer: to them the kernel writes what a fault was.
//!
//! A signal's frame says vector, error code and address of a fault as the CPU gave them, which `ptrace` does
//! not. So a fault that is none of translation is delivered: the kernel writes a frame to these pages and
//! would run a handler, which can't be executed; the process stops once more, and goes on, if at all, with
//! the registers that it had. The guest can write to these pages too, but does not run between the frame's
//! being written and being read. They are wiped after each use and before each start.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::ptr::{self, NonNull};

use super::stub::{FRAMES, FRAMES_SIZE};

/// Offsets in the kernel's `struct ucontext` of what the frame says: general registers start behind flags,
/// link and stack.
const GENERAL: usize = 40;

/// What a fault was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) vector: u64,
    pub(super) error_code: u64,
    /// The address of the last page fault.
    pub(super) address: u64,
}

/// The pages.
#[derive(Debug)]
pub(super) struct Frames {
    file: File,
    base: NonNull<u8>,
}

// SAFETY: the mapping is owned by this value alone and belongs to no thread.
unsafe impl Send for Frames {}

/// Bytes, as a length of this process's.
const SIZE: usize = 0x1_0000;
const _: () = assert!(SIZE as u64 == FRAMES_SIZE);

impl Frames {
    pub(super) fn new() -> io::Result<Frames> {
        let file = glowbox_mem::memfd(c"glowbox-frames", false)?;
        file.set_len(FRAMES_SIZE)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe {
            let (rights, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
            libc::mmap(ptr::null_mut(), SIZE, rights, flags, file.as_raw_fd(), 0)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Frames { file, base })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Its bytes. The process does not run while they are borrowed.
    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping made in `new`, which lives as long as `self`; the process that maps it too
        // is stopped whenever the tracer, which owns this, does anything but wait for it.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), SIZE) }
    }

    pub(super) fn wipe(&mut self) {
        self.bytes().fill(0);
    }

    fn word(&mut self, at: usize) -> Option<u64> {
        let bytes = self.bytes().get(at..)?.first_chunk()?;
        Some(u64::from_le_bytes(*bytes))
    }

    /// Reads the frame of a handler that would start with this instruction pointer and this address of a
    /// context.
    pub(super) fn read(&mut self, handler: u64, context: u64) -> Option<Frame> {
        if handler != FRAMES {
            return None;
        }
        let at = usize::try_from(context.checked_sub(FRAMES)?).ok()?;
        let mut register = |index: libc::c_int| {
            let offset = GENERAL + usize::try_from(index).ok()? * 8;
            self.word(at.checked_add(offset)?)
        };
        Some(Frame {
            vector: register(libc::REG_TRAPNO)?,
            error_code: register(libc::REG_ERR)?,
            address: register(libc::REG_CR2)?,
        })
    }

    /// Writes a word to where a stack would start; returns its address in the process.
    pub(super) fn push(&mut self, word: u64) -> u64 {
        self.bytes()[SIZE - 8..].copy_from_slice(&word.to_le_bytes());
        FRAMES + FRAMES_SIZE - 8
    }

    /// Writes what `recvmsg` takes, and returns its address in the process.
    pub(super) fn prepare_message(&mut self) -> u64 {
        let at = |offset: usize| FRAMES + offset as u64;
        // struct msghdr: no name, one piece of one byte, room for a descriptor.
        let header = [0, 0, at(PIECE), 1, at(CONTROL), CONTROL_SIZE, 0];
        let piece = [at(BYTE), 1];
        let bytes = self.bytes();
        for (place, words) in [(0, &header[..]), (PIECE, &piece[..])] {
            for (slot, word) in bytes[place..].chunks_exact_mut(8).zip(words) {
                slot.copy_from_slice(&word.to_le_bytes());
            }
        }
        FRAMES
    }

    /// The descriptor that has come with a message.
    pub(super) fn received(&mut self) -> Option<u64> {
        // struct cmsghdr: length, level, type; and behind it the descriptor.
        let header = (self.word(CONTROL)?, self.word(CONTROL + 8)?);
        let kind = u64::from(libc::SOL_SOCKET.cast_unsigned())
            | u64::from(libc::SCM_RIGHTS.cast_unsigned()) << 32;
        let descriptor = self.word(CONTROL + 16)? & 0xffff_ffff;
        (header == (20, kind)).then_some(descriptor)
    }
}

/// Offsets of what `recvmsg` takes.
const PIECE: usize = 64;
const BYTE: usize = 96;
const CONTROL: usize = 128;
const CONTROL_SIZE: u64 = 24;

impl Drop for Frames {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made in `new`, and no borrow of it outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), SIZE) };
    }
}

/// Sends a file over a socket, with one byte.
pub(super) fn send(socket: &UnixStream, file: &File) -> io::Result<()> {
    let mut byte = [0_u8];
    let mut piece = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut control = [0_u64; 3];
    let descriptor = u64::from(file.as_raw_fd().cast_unsigned());
    control[0] = 20;
    control[1] = u64::from(libc::SOL_SOCKET.cast_unsigned())
        | u64::from(libc::SCM_RIGHTS.cast_unsigned()) << 32;
    control[2] = descriptor;
    // SAFETY: an all-zero `msghdr` is a valid value; all that it then points to lives on this stack.
    let sent = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut piece;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
    };
    match sent {
        1 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_where_the_context_is_and_nowhere_else() {
        let mut frames = Frames::new().unwrap();
        let at = SIZE - 1024;
        let place = at + GENERAL + usize::try_from(libc::REG_ERR).unwrap() * 8;
        frames.bytes()[place..place + 8].copy_from_slice(&6_u64.to_le_bytes());
        let context = FRAMES + at as u64;
        assert_eq!(frames.read(FRAMES, context).map(|frame| frame.error_code), Some(6));
        assert_eq!(frames.read(FRAMES + 8, context), None);
        for wrong in [0, FRAMES - 8, FRAMES + FRAMES_SIZE - 8, u64::MAX] {
            assert_eq!(frames.read(FRAMES, wrong), None);
        }
        frames.wipe();
        assert!(frames.bytes().iter().all(|byte| *byte == 0));
    }
}
