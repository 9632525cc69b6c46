//! Standard input: where the bytes come from that a guest reads from descriptor 0.

use std::fmt;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::Errno;

/// What a guest reads from its standard input. Copies read from the same source: what one has read,
/// another does not see.
#[derive(Clone, Default)]
pub struct Input(Source);

#[derive(Clone, Default)]
enum Source {
    #[default]
    Empty,
    Bytes(Arc<Mutex<io::Cursor<Vec<u8>>>>),
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

    /// These bytes, and then the end of the file.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Input {
        Input(Source::Bytes(Arc::new(Mutex::new(io::Cursor::new(bytes.into())))))
    }

    /// What a reader gives. A guest that reads blocks the host's thread for as long as the reader
    /// does: neither a deadline nor an interrupt ends that.
    pub fn reader(reader: impl Read + Send + 'static) -> Input {
        Input(Source::Reader(Arc::new(Mutex::new(reader))))
    }

    /// The host process's standard input. A guest that waits for it can be interrupted. It is read
    /// past the buffer of [`std::io::stdin`], so nobody else should read it.
    pub fn stdin() -> Input {
        Input(Source::Stdin)
    }

    /// Reads; `None` if that would have to wait.
    pub(crate) fn read(&self, into: &mut [u8]) -> Result<Option<usize>, Errno> {
        match &self.0 {
            Source::Empty => Ok(Some(0)),
            Source::Bytes(bytes) => {
                let mut bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner);
                bytes.read(into).map(Some).map_err(|error| Errno::of_io(&error))
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

    /// Bytes that can be read at once, as far as that is known.
    pub(crate) fn available(&self) -> u64 {
        match &self.0 {
            Source::Bytes(bytes) => {
                let bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner);
                (bytes.get_ref().len() as u64).saturating_sub(bytes.position())
            }
            Source::Stdin => rustix::io::ioctl_fionread(io::stdin()).unwrap_or(0),
            Source::Empty | Source::Reader(_) => 0,
        }
    }
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
        let read = input.read(&mut into).unwrap().unwrap();
        into.truncate(read);
        into
    }

    #[test]
    fn copies_share_one_source() {
        let input = Input::bytes("abcd");
        let copy = input.clone();
        assert_eq!(input.available(), 4);
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
        std::thread::spawn(move || copy.read(&mut [0])).join().unwrap_err();
        assert_eq!(read(&input, 1), [0]);
    }
}
