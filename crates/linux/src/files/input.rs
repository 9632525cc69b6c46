//! Standard input: where the bytes come from that a guest reads from descriptor 0.

use std::fmt;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::Errno;

/// What a guest reads from its standard input.
///
/// How far a guest has read in [`Input::bytes`] is part of its state: a snapshot has it, a reset puts it
/// back, and guests that are given the same bytes each read all of them. A reader and the process's own
/// input are the host's: what one guest has read, no other sees, nor the same one after a reset.
#[derive(Clone, Default)]
pub struct Input(Source);

#[derive(Clone, Default)]
enum Source {
    #[default]
    Empty,
    Bytes(Arc<[u8]>),
    Reader(Arc<Mutex<dyn Read + Send>>),
    Stdin,
}

/// Held between finding that the host's standard input has bytes, and reading them.
static STDIN: Mutex<()> = Mutex::new(());

impl Input {
    /// Nothing: the end of the file, at once.
    pub fn empty() -> Input {
        Input(Source::Empty)
    }

    /// These bytes, and then the end of the file: for each guest that is given them, and again after a
    /// reset to where it had not read them.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Input {
        Input(Source::Bytes(bytes.into().into()))
    }

    /// What a reader gives, once: all guests that are given it share it. A guest that reads blocks the host's thread for as long as the reader
    /// does: neither a deadline nor an interrupt ends that.
    pub fn reader(reader: impl Read + Send + 'static) -> Input {
        Input(Source::Reader(Arc::new(Mutex::new(reader))))
    }

    /// The host process's standard input. A guest that waits for it can be interrupted. It is read
    /// past the buffer of [`std::io::stdin`], so nobody else should read it.
    pub fn stdin() -> Input {
        Input(Source::Stdin)
    }

    /// Reads; `None` if that would have to wait. Of bytes, those at a position, which goes on.
    pub(super) fn read(&self, at: &mut u64, into: &mut [u8]) -> Result<Option<usize>, Errno> {
        match &self.0 {
            Source::Empty => Ok(Some(0)),
            Source::Bytes(bytes) => {
                let rest = rest(bytes, *at);
                let read = rest.len().min(into.len());
                into[..read].copy_from_slice(&rest[..read]);
                *at = at.saturating_add(read as u64);
                Ok(Some(read))
            }
            Source::Reader(reader) => {
                // A reader that panicked is asked again: what then comes of it is its own affair.
                let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
                loop {
                    match reader.read(into) {
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        // A wrong count must not lead anybody past the end of the buffer.
                        Ok(read) => return Ok(Some(read.min(into.len()))),
                        Err(error) => return Err(Errno::of_io(&error)),
                    }
                }
            }
            Source::Stdin => {
                let _reading = STDIN.lock().unwrap_or_else(PoisonError::into_inner);
                if !is_ready(io::stdin(), PollFlags::IN) {
                    return Ok(None);
                }
                match rustix::io::read(io::stdin(), into) {
                    Ok(read) => Ok(Some(read)),
                    Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => Ok(None),
                    Err(error) => Err(Errno::of_io(&error.into())),
                }
            }
        }
    }

    /// Whether it is the host process's standard input, which may have to be waited for.
    pub(super) fn is_stdin(&self) -> bool {
        matches!(self.0, Source::Stdin)
    }

    /// Bytes that can be read at once, at a position, as far as that is known.
    pub(super) fn available(&self, at: u64) -> u64 {
        match &self.0 {
            Source::Bytes(bytes) => rest(bytes, at).len() as u64,
            Source::Stdin => rustix::io::ioctl_fionread(io::stdin()).unwrap_or(0),
            Source::Empty | Source::Reader(_) => 0,
        }
    }
}

/// What there is at a position and behind it.
fn rest(bytes: &[u8], at: u64) -> &[u8] {
    usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default()
}

/// Whether something can be read or written without waiting, or never will be.
pub(super) fn is_ready(descriptor: impl AsFd, how: PollFlags) -> bool {
    let mut descriptors = [PollFd::new(&descriptor, how)];
    poll(&mut descriptors, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Source::Empty => "Input::empty()",
            Source::Bytes(_) => "Input::bytes(..)",
            Source::Reader(_) => "Input::reader(..)",
            Source::Stdin => "Input::stdin()",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &Input, most: usize) -> Vec<u8> {
        let mut into = vec![0; most];
        let read = input.read(&mut 0, &mut into).unwrap().unwrap();
        into.truncate(read);
        into
    }

    #[test]
    fn bytes_are_read_at_a_position() {
        let input = Input::bytes("abcd");
        let mut into = [0; 3];
        for (mut at, read, then) in [(0, &b"abc"[..], 3), (3, b"d", 4), (4, b"", 4), (9, b"", 9)] {
            assert_eq!(input.available(at), 4_u64.saturating_sub(at));
            assert_eq!(input.read(&mut at, &mut into), Ok(Some(read.len())));
            assert_eq!((&into[..read.len()], at), (read, then));
        }
        assert_eq!(input.read(&mut u64::MAX.clone(), &mut into), Ok(Some(0)));
    }

    #[test]
    fn copies_of_a_reader_share_it() {
        let input = Input::reader(io::Cursor::new("abcd"));
        let copy = input.clone();
        assert_eq!(read(&input, 3), b"abc");
        assert_eq!(read(&copy, 3), b"d");
        assert_eq!(read(&input, 3), b"");
        assert_eq!(read(&Input::empty(), 3), b"");
    }

    #[test]
    fn a_reader_that_lies_about_its_count_does_no_harm() {
        struct Liar;
        impl Read for Liar {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Ok(usize::MAX)
            }
        }
        assert_eq!(read(&Input::reader(Liar), 3), [0; 3]);
    }

    #[test]
    fn a_reader_that_panicked_can_be_read_again() {
        struct Panics(bool);
        impl Read for Panics {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                assert!(std::mem::replace(&mut self.0, true), "once");
                Ok(1)
            }
        }
        let input = Input::reader(Panics(false));
        let copy = input.clone();
        std::thread::spawn(move || copy.read(&mut 0, &mut [0])).join().unwrap_err();
        assert_eq!(read(&input, 1), [0]);
    }
}
